"""Attention and its gradients: the reference against torch, variants against it, and what kernels promise."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_testing import (
    GUARD_PAGE,
    assert_as_good,
    assert_close,
    floats,
    guarded,
    laid_out,
    layouts,
    normal,
    same_bits,
    seeds,
    sizes,
    unmodified,
)

import minidl_kernels as mk
from minidl_kernels.attn import blocks, cpu, few, softmax, tiles
from minidl_kernels.cpu import gather, machine, threads
from minidl_kernels.cpu.jit import jit

FAST = [v for v in mk.variants("attention", "cpu") if v != "reference"]
MASKS = ("none", "bool", "float", "padding", "row", "all but one")


@st.composite
def settings(draw):
    """b, h, hk, t, s, d, e, mask, causal"""
    hk = draw(st.integers(1, 2))
    # Around a block of queries (32, 16, ...), a block of keys (64) and the tile's rows (8, 6).
    return (
        draw(sizes(2, 2)),
        hk * draw(st.integers(1, 3)),
        hk,
        draw(sizes(32, 70)),
        draw(sizes(64, 140)),
        draw(sizes(8, 40)),
        draw(sizes(8, 40)),
        draw(st.sampled_from(MASKS)),
        draw(st.booleans()),
    )


GPT = (2, 4, 4, 65, 65, 16, 16, "none", True)
GROUPED = (1, 4, 2, 40, 130, 8, 33, "bool", False)
NOBODY = (1, 2, 1, 9, 70, 5, 5, "row", True)


def operands(setting, seed, dtype="float32", layout="plain"):
    """q, k, v, mask, causal, dout"""
    b, h, hk, t, s, d, e, mask, causal = setting
    shapes = (b, h, t, d), (b, hk, s, d), (b, hk, s, e), (b, h, t, e)
    q, k, v, dout = (laid_out(normal(seed + i, *shape, dtype=dtype), layout) for i, shape in enumerate(shapes))
    random = np.random.default_rng(seed)
    masks = {
        "none": None,
        "bool": random.random((b, 1, t, s)) < 0.7,
        "float": normal(seed, t, s, dtype=dtype),
        "padding": random.random((b, 1, 1, s)) < 0.8,
        "row": np.arange(t)[:, None] % 3 != np.zeros(s, int),  # every third query may attend to nothing
        "all but one": np.where(np.arange(s) == s // 2, 0, -np.inf).astype(dtype),
    }
    m = masks[mask]
    return q, k, v, None if m is None else laid_out(m, layout), causal, dout


def wide(*arrays):
    """The arrays in float64, other things as they are."""
    return [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arrays]


def both(variant, q, k, v, mask, causal, dout, scale=None):
    """out, lse, dq, dk, dv of one variant."""
    with mk.use(attention=variant, attention_backward=variant):
        out, lse = mk.attention(q, k, v, mask, causal, scale)
        return out, lse, *mk.attention_backward(dout, q, k, v, out, lse, mask, causal, scale)


NAMES = ("out", "lse", "dq", "dk", "dv")


# --- the reference against torch ---


@given(settings(), seeds, st.sampled_from([None, 0.3]))
@example(GPT, 0, None)
@example(GROUPED, 0, None)
def test_reference_is_torchs_attention(setting, seed, scale):
    b, h, hk, t, s, d, e, mask, causal = setting
    if 0 in (b, t, s, d, e) or mask == "row" or (mask != "none" and causal):
        return  # what torch refuses, or gives NaN for; tested below
    q, k, v, m, causal, dout = operands(setting, seed, "float64")
    if mask in ("bool", "padding"):
        m[..., 0] = True  # torch gives NaN for a query without keys
    tq, tk, tv = (torch.tensor(a, requires_grad=True) for a in (q, k, v))
    tm = None if m is None else torch.tensor(m)
    to = torch.nn.functional.scaled_dot_product_attention(
        tq, tk, tv, tm, is_causal=causal, scale=scale, enable_gqa=h != hk
    )
    to.backward(torch.tensor(dout))
    found = both("reference", q, k, v, m, causal, dout, scale)
    for name, y, expected in zip(("out", "dq", "dk", "dv"), (found[0], *found[2:]), (to, tq.grad, tk.grad, tv.grad)):
        expected = expected.detach().numpy()
        # float64 on both sides; sums of at most 140 terms of size up to about 100, and exponentials: 1e-16 * 1e4.
        assert_close(y, expected, rtol=1e-12, atol=1e-12 * max(1.0, np.abs(expected).max()), what=name)


def test_lse_is_the_logarithm_of_the_sum():
    q, k, v, *_ = operands((1, 2, 2, 5, 7, 4, 4, "none", False), 0, "float64")
    scores = torch.tensor(q) @ torch.tensor(k).mT / 2
    assert_close(mk.attention(q, k, v)[1], torch.logsumexp(scores, -1).numpy(), rtol=1e-14, atol=1e-14)


# --- variants against the reference ---


@pytest.mark.parametrize("variant", FAST)
@given(setting=settings(), seed=seeds, dtype=floats, layout=layouts, scale=st.sampled_from([None, 0.0, -1.5]))
@example(setting=GPT, seed=1, dtype="float32", layout="plain", scale=None)
@example(setting=GROUPED, seed=1, dtype="float32", layout="sliced", scale=None)
@example(setting=NOBODY, seed=1, dtype="float64", layout="plain", scale=None)
def test_variant_is_as_good_as_the_reference(variant, setting, seed, dtype, layout, scale):
    q, k, v, mask, causal, dout = arguments = operands(setting, seed, dtype, layout)
    with unmodified(q, k, v, mask, dout):
        found = both(variant, *arguments, scale)
    plain, exact = both("reference", *arguments, scale), both("reference", *wide(*arguments), scale)
    for name, y, p, e in zip(NAMES, found, plain, exact):
        assert_as_good(y, p, e, what=name)


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("setting", [GPT, GROUPED, NOBODY], ids=["gpt", "grouped", "nobody"])
def test_every_tier_is_as_good_as_the_reference(tier, setting):
    arguments = operands(setting, 5)
    with machine.use_tier(tier):
        found = both("streaming", *arguments)
    plain, exact = both("reference", *arguments), both("reference", *wide(*arguments))
    for name, y, p, e in zip(NAMES, found, plain, exact):
        assert_as_good(y, p, e, what=name)


def test_large_scores_neither_overflow_nor_vanish():
    """exp(1000) is Inf: only differences from the maximum may be exponentiated, also when it comes in a later block."""
    q = np.full((1, 1, 40, 1), 1000.0, np.float32)
    k = np.linspace(-1, 1, 200, dtype=np.float32).reshape(1, 1, 200, 1)
    v = np.arange(200, dtype=np.float32).reshape(1, 1, 200, 1)
    for order in (slice(None), slice(None, None, -1)):
        arguments = q, k[:, :, order], v[:, :, order], None, False, np.ones((1, 1, 40, 1), np.float32)
        found, plain = both("streaming", *arguments), both("reference", *arguments)
        exact = both("reference", *wide(*arguments))
        for name, y, p, e in zip(NAMES, found, plain, exact):
            assert_as_good(y, p, e, what=name)


@pytest.mark.parametrize(("dtype", "exact"), [("float32", np.float64), ("float64", np.longdouble)])
def test_exponential_is_within_one_unit_in_the_last_place(dtype, exact):
    if exact is np.longdouble and np.finfo(exact).eps > 1e-18:
        exact, units = np.float64, 2.0  # no wider type here: two roundings
    else:
        units = 1.0
    lanes = gather.lanes(dtype, machine.tier())
    exponentials = softmax.exponentials(dtype, lanes)

    @jit(tag=f"test {dtype} {lanes}")
    def run(n, x):
        exponentials(n, x)

    def exp(x):
        y = np.array(x, dtype)
        run(len(y) // lanes, y.__array_interface__["data"][0])
        return y

    smallest = np.log(3.0 * float(np.finfo(dtype).smallest_normal))
    x = np.linspace(smallest, math.log(float(np.finfo(dtype).max)) * (1 - 1e-6), 160_000).astype(dtype)
    true = np.exp(x.astype(exact))
    error = np.abs(exp(x).astype(exact) - true) / np.spacing(true.astype(dtype)).astype(exact)
    assert error.max() < units
    special = np.zeros(16, dtype)
    special[:8] = [0, -0.0, np.nan, np.inf, -np.inf, -1e4, 1e4, 1]
    expected = np.ones(16, dtype)
    expected[:8] = [1, 1, np.nan, np.inf, 0, 0, np.inf, np.e]
    assert_close(exp(special), expected, rtol=float(np.finfo(dtype).eps))


# --- a few queries ---

DECODE = (2, 6, 2, 1, 1100, 64, 33, "bool", False)  # three stretches of keys
WORDS = (1, 2, 2, 7, 600, 5, 70, "float", False)
FIRST = (1, 3, 1, 2, 70, 16, 16, "padding", True)


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("setting", [DECODE, WORDS, FIRST, (1, 2, 1, 3, 9, 5, 5, "row", True)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_few_queries_are_as_good_as_the_reference(monkeypatch, tier, setting, dtype):
    arguments = operands(setting, 4, dtype)[:5]
    served, kernel = [], few.forward
    monkeypatch.setattr(few, "forward", lambda *args: served.append(kernel(*args)) or served[-1])
    with machine.use_tier(tier):
        found = mk.attention(*arguments)
    assert served == [True]
    with mk.use(attention="reference"):
        plain, exact = mk.attention(*arguments), mk.attention(*wide(*arguments))
    for name, y, p, e in zip(NAMES, found, plain, exact):
        assert_as_good(y, p, e, what=name)


@pytest.mark.parametrize("setting", [DECODE, WORDS, FIRST])
def test_a_few_queries_do_not_depend_on_threads_or_scratch_memory(setting):
    arguments = operands(setting, 4)[:5]
    plain = mk.attention(*arguments)
    for n in (1, 2, 3):
        with pytest.MonkeyPatch.context() as patch, threads.threads(n), guarded(patch, blocks, cpu):
            assert same_bits(mk.attention(*arguments), plain)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", range(3))
def test_a_few_queries_have_nan_where_the_reference_has(which, value):
    arguments = operands(DECODE, 0, "float64")
    arguments[which].ravel()[-100:] = value
    with mk.use(attention="reference"):
        plain = mk.attention(*arguments[:5])
    for y, p in zip(mk.attention(*arguments[:5]), plain):
        assert_close(y, p, rtol=1e-9, atol=1e-9)


# --- the tile unit ---

with_tiles = pytest.mark.skipif(
    not machine.multiplies_bfloat16(), reason="this CPU has no tile unit for bfloat16, and never takes this way"
)
LONG = (1, 4, 2, 130, 1100, 40, 70, "bool", False)  # three stretches of keys, panels of features that are not full
LATER = (1, 1, 1, 600, 600, 32, 32, "float", True)


@pytest.fixture
def small_tiles(monkeypatch):
    """The tile unit serves small arrays, too; what it said of them."""
    monkeypatch.setattr(tiles, "AREA", 0)
    monkeypatch.setattr(tiles, "WIDTH", 1)
    said = []
    for name in ("forward", "backward"):
        kernel = getattr(tiles, name)
        monkeypatch.setattr(tiles, name, lambda *args, kernel=kernel: said.append(kernel(*args)) or said[-1])
    return said


@with_tiles
@pytest.mark.parametrize("setting", [GPT, GROUPED, NOBODY, LONG, LATER])
@pytest.mark.parametrize("layout", ["plain", "sliced"])
@pytest.mark.parametrize("scale", [None, -1.5])
def test_tile_unit_is_as_good_as_the_reference(small_tiles, setting, layout, scale):
    arguments = operands(setting, 2, layout=layout)
    found = both("streaming", *arguments, scale)
    plain, exact = both("reference", *arguments, scale), both("reference", *wide(*arguments), scale)
    for name, y, p, e in zip(NAMES, found, plain, exact):
        assert_as_good(y, p, e, what=name)
    assert small_tiles == [0, 0]


@with_tiles
@given(setting=settings(), seed=seeds)
def test_tile_unit_on_any_sizes(setting, seed):
    arguments = operands(setting, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "AREA", 0)
        patch.setattr(tiles, "WIDTH", 1)
        found = both("streaming", *arguments)
        with threads.threads(2), guarded(patch, blocks, cpu):
            assert same_bits(both("streaming", *arguments), found)
    plain, exact = both("reference", *arguments), both("reference", *wide(*arguments))
    for name, y, p, e in zip(NAMES, found, plain, exact):
        if name in ("dq", "dk") and np.abs(e).max(initial=0) < 1e-6:  # one key: terms of size 1 that cancel
            assert np.abs(y).max(initial=0) < 1e-4
        else:
            assert_as_good(y, p, e, what=name)


@with_tiles
@pytest.mark.parametrize("setting", [LONG, LATER, (2, 2, 2, 256, 256, 64, 64, "none", False)])
def test_tile_unit_errs_less_than_vectors(small_tiles, setting):
    arguments = operands(setting, 3)
    unit, exact = both("streaming", *arguments), both("reference", *wide(*arguments))
    assert small_tiles == [0, 0]
    with machine.use_tier("avx512"):
        vectors = both("streaming", *arguments)
    for name, y, other, e in zip(NAMES, unit, vectors, exact):
        assert np.square(y - e).mean() <= np.square(other - e).mean(), name


@with_tiles
@pytest.mark.parametrize("which", [0, 1, 2, 5], ids=["q", "k", "v", "dout"])
@pytest.mark.parametrize("value", [1e-38, 3e38, np.inf, np.nan])
def test_tile_unit_leaves_what_it_cannot_do_to_vectors(small_tiles, which, value):
    arguments = operands(GPT, 0)
    arguments[which][1, 1, 50, 3] = value
    with np.errstate(over="ignore", invalid="ignore"):
        found = both("streaming", *arguments, 1.0)
        assert small_tiles == [0 if which == 5 else tiles.DISTRUST, tiles.DISTRUST]
        with machine.use_tier("avx512"):
            vectors = both("streaming", *arguments, 1.0)
    start = 2 if which == 5 else 0  # where dout alone is odd, the forward is the unit's
    for name, y, other in zip(NAMES[start:], found[start:], vectors[start:]):
        assert_close(y, other, rtol=1e-4, atol=1e-4, what=name)


@with_tiles
@pytest.mark.parametrize("setting", [LONG, LATER, (1, 1, 1, 1100, 1100, 32, 32, "none", True)])
def test_tile_unit_does_not_depend_on_the_number_of_threads(setting):
    arguments = operands(setting, 0)
    found = []
    for n in (1, 2, 3):
        with threads.threads(n):
            found.append(both("streaming", *arguments))
    assert all(same_bits(found[0], y) for y in found[1:])


# --- promises ---


@pytest.mark.parametrize("variant", FAST)
@pytest.mark.parametrize("setting", [GPT, GROUPED, (1, 1, 1, 200, 300, 24, 24, "float", True)])
def test_results_do_not_depend_on_the_number_of_threads(variant, setting):
    arguments = operands(setting, 0)
    found = []
    for n in (1, 2, 3, 3):
        with threads.threads(n):
            found.append(both(variant, *arguments))
    assert all(same_bits(found[0], y) for y in found[1:])


@given(setting=settings(), seed=seeds, dtype=floats)
@example(setting=GPT, seed=0, dtype="float32")
@example(setting=GROUPED, seed=0, dtype="float32")
def test_nothing_is_written_outside_and_everything_inside(setting, seed, dtype):
    arguments = operands(setting, seed, dtype)
    plain = both("streaming", *arguments)
    with pytest.MonkeyPatch.context() as patch, threads.threads(2), guarded(patch, blocks, cpu):
        assert same_bits(both("streaming", *arguments), plain)


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
@pytest.mark.parametrize("least", ["1", "999"], ids=["tile unit", "vectors"])
def test_nothing_is_read_outside(least):
    """Inputs end where the process may not read: one byte further ends it."""
    code = (
        GUARD_PAGE
        + """
import sys
from minidl_kernels.attn import cpu, tiles
tiles.AREA = tiles.WIDTH = int(sys.argv[1])
sizes = (
    (1, 2, 1, 9, 70, 5, 7), (1, 2, 1, 1, 70, 5, 77), (2, 2, 2, 33, 65, 8, 33), (1, 1, 1, 1, 1, 1, 1),
    (1, 1, 1, 32, 64, 64, 64),
)
for b, h, hk, t, s, d, e in sizes:
    shapes = (b, h, t, d), (b, hk, s, d), (b, hk, s, e), (b, h, t, e)
    q, k, v, dout = (at_end_of_page(np.ones(shape, np.float32)) for shape in shapes)
    for mask in (None, at_end_of_page(np.ones((t, s), bool)), at_end_of_page(np.ones((b, 1, 1, s), np.float32))):
        for causal in (False, True):
            out, lse = cpu.attention(q, k, v, mask, causal, None)
            out, lse = at_end_of_page(out), at_end_of_page(lse)
            cpu.attention_backward(dout, q, k, v, out, lse, mask, causal, None)
print("alive")
"""
    )
    done = subprocess.run([sys.executable, "-c", code, least], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


@pytest.mark.parametrize("variant", ["reference", *FAST])
def test_a_query_without_keys_gives_zeros(variant):
    q, k, v, mask, causal, dout = operands(NOBODY, 0)
    out, lse, dq, dk, dv = both(variant, q, k, v, mask, causal, dout)
    lost = ~mask[:, 0]
    assert 0 < lost.sum() < lost.size
    assert (out[:, :, lost] == 0).all()
    assert (dq[:, :, lost] == 0).all()
    assert (lse[:, :, lost] == -np.inf).all()
    assert np.isfinite(lse[:, :, ~lost]).all()
    assert all(np.isfinite(a).all() for a in (out, dq, dk, dv))
    everything = both(variant, q, k, v, np.zeros((1, 1), bool), causal, dout)
    assert all((a == (-np.inf if name == "lse" else 0)).all() for name, a in zip(NAMES, everything))


@pytest.mark.parametrize("variant", ["reference", *FAST])
@pytest.mark.parametrize("empty", ["b", "h", "t", "s", "d", "e"])
def test_empty_axes_are_legal(variant, empty):
    sizes = dict(b=2, h=2, hk=2, t=3, s=4, d=5, e=6) | {empty: 0}
    if empty == "h":
        sizes["hk"] = 0
    b, h, hk, t, s, d, e = sizes.values()
    q, k, v, mask, causal, dout = operands((b, h, hk, t, s, d, e, "none", False), 0)
    out, lse, dq, dk, dv = both(variant, q, k, v, mask, causal, dout)
    assert (out.shape, lse.shape) == ((b, h, t, e), (b, h, t))
    assert (dq.shape, dk.shape, dv.shape) == (q.shape, k.shape, v.shape)
    if empty == "s":
        assert (out == 0).all()
        assert (lse == -np.inf).all()
        assert (dq == 0).all()
    if empty == "d" and out.size:  # no features: every key counts the same
        assert_close(out, np.broadcast_to(v.mean(axis=2, keepdims=True), out.shape), rtol=1e-5, atol=1e-6)
    if empty == "t":
        assert (dk == 0).all()
        assert (dv == 0).all()


@pytest.mark.parametrize("variant", FAST)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "setting", [(1, 2, 1, 9, 70, 5, 7, "none", True), GROUPED, NOBODY], ids=["causal", "grouped", "nobody"]
)
def test_nan_and_inf_are_where_the_reference_has_them(variant, setting, value):
    for which, place in itertools.product(range(3), (0, 0.5, 0.99)):
        arguments = operands(setting, 0, "float64")
        target = arguments[which]
        target.ravel()[int(place * target.size)] = value
        found, plain = both(variant, *arguments), both("reference", *arguments)
        for name, y, p in zip(NAMES, found, plain):
            assert_close(y, p, rtol=1e-9, atol=1e-9, what=name)


def test_a_causal_query_never_sees_what_comes_later():
    """Not even a NaN."""
    q, k, v, _, _, dout = operands(GPT, 0)
    clean, _ = mk.attention(q, k, v, causal=True)
    k[:, :, 40:], v[:, :, 40:] = np.nan, np.inf
    dirty, _ = mk.attention(q, k, v, causal=True)
    assert_close(dirty[:, :, :40], clean[:, :, :40], rtol=1e-5, atol=1e-6)
    assert np.isnan(dirty[:, :, 40:]).all()


def test_default_choice():
    q, k = normal(0, 1, 2, 64, 16), normal(1, 1, 2, 64, 16)
    out, lse = mk.attention(q, k, k, causal=True)
    assert mk.which("attention", q, k, k, causal=True) == "streaming"
    assert mk.which("attention_backward", out, q, k, k, out, lse, causal=True) == "streaming"
    out, lse = mk.attention(q[:, :, :1], k, k)
    assert mk.which("attention_backward", out, q[:, :, :1], k, k, out, lse) == "blas"  # one query: no block to fill


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(("v_rows", 8), id="one key late"),
        pytest.param(("d", 8), id="one feature late"),
    ],
)
def test_a_planted_fault_is_caught(monkeypatch, fault):
    """A table of the kernel begins one entry late."""
    arguments = operands((1, 2, 2, 20, 70, 16, 16, "none", True), 0)
    exact, plain = both("reference", *wide(*arguments)), both("reference", *arguments)

    def check():
        for name, y, p, e in zip(NAMES, both("streaming", *arguments), plain, exact):
            assert_as_good(y, p, e, what=name)

    check()
    right, (table, shift) = cpu._tables, fault

    def wrong(*args):
        tables, held = right(*args)
        return tables._replace(**{table: getattr(tables, table) + shift}), held

    monkeypatch.setattr(cpu, "_tables", wrong)
    with pytest.raises(AssertionError, match="off; first at"):
        check()


@pytest.mark.parametrize("causal", [False, True])
def test_results_lie_in_memory_as_the_heads_do(causal):
    """Heads cut from rows of all heads give results that are joined again without a copy; numbers are the same."""
    rng = np.random.default_rng(0)
    b, h, t, d = 2, 3, 37, 8
    q, k, v, dout = (rng.standard_normal((b, t, h, d), np.float32).transpose(0, 2, 1, 3) for _ in range(4))
    plain = [np.ascontiguousarray(a) for a in (q, k, v)]
    with mk.use(attention="streaming", attention_backward="streaming"):
        out, lse = mk.attention(q, k, v, None, causal)
        grads = mk.attention_backward(dout, q, k, v, out, lse, None, causal)
        want, want_lse = mk.attention(*plain, None, causal)
        wants = mk.attention_backward(np.ascontiguousarray(dout), *plain, want, want_lse, None, causal)
    assert want.flags.c_contiguous
    for got, other in zip((out, *grads), (want, *wants), strict=True):
        assert got.transpose(0, 2, 1, 3).flags.c_contiguous
        np.testing.assert_array_equal(got, other)
    np.testing.assert_array_equal(lse, want_lse)
    shared = np.broadcast_to(q[:1], q.shape)
    with mk.use(attention="streaming"):
        assert mk.attention(shared, k, v, None, causal)[0].flags.c_contiguous
    turned = np.ascontiguousarray(q.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)  # the last axis is not in one piece
    with mk.use(attention="streaming", attention_backward="streaming"):
        np.testing.assert_array_equal(mk.attention(turned, k, v, None, causal)[0], out)
