"""Convolution and its gradients: the reference against torch, variants against it, and what kernels promise."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_testing import (
    GUARD_PAGE,
    assert_close,
    floats,
    guarded,
    laid_out,
    layouts,
    normal,
    same_bits,
    seeds,
    sizes,
    sum_bound,
    unmodified,
)

import minidl_kernels as mk
from minidl_kernels.conv import cpu, plan, reference
from minidl_kernels.cpu import machine, threads

FAST = [v for v in mk.variants("conv2d", "cpu") if v != "reference"]


@st.composite
def settings(draw, most=40):
    """x_shape, w_shape, stride, padding, dilation, groups of a convolution that exists."""
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))
    r, s = draw(pair(1, 4))
    stride, dilation, padding = draw(pair(1, 3)), draw(pair(1, 3)), draw(pair(0, 4))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    # Around the tile's rows (8, or 6) and columns (32, or 16) per group; one filter per group is the depthwise kernel.
    c, k = draw(sizes(8, 10)), draw(sizes(8, 18) | st.sampled_from([31, 32, 33]))
    extent = []
    for axis, window in enumerate((r, s)):
        least = max(0, dilation[axis] * (window - 1) + 1 - 2 * padding[axis])
        extent.append(draw(st.integers(least, max(least, 14) if axis == 0 else max(least, most))))
    n = draw(sizes(2, 3))
    return (n, c * groups, *extent), (k * groups, c, r, s), stride, padding, dilation, groups


DIGITS = ((2, 3, 8, 8), (16, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1)
DEPTHWISE = ((2, 5, 9, 11), (5, 1, 3, 3), (2, 2), (1, 1), (1, 1), 5)
STEM = ((1, 3, 30, 30), (10, 3, 7, 7), (2, 2), (3, 3), (1, 1), 1)
GAPS = (
    (1, 2, 7, 7),
    (3, 2, 1, 1),
    (3, 2),
    (1, 2),
    (1, 1),
    1,
)  # a stride wider than the window: rows of x that nothing reads


def operands(setting, seed, dtype):
    """x, w, b, dy"""
    x_shape, w_shape, *rest = setting
    y_shape = reference.geometry(x_shape, w_shape, *rest).y_shape
    shapes = (x_shape, w_shape, w_shape[:1], y_shape)
    return [normal(seed + i, *shape, dtype=dtype) for i, shape in enumerate(shapes)]


def cases(setting, x, w, b, dy):
    """For each op: arguments, the length of its sums, and the arguments that give sum |a| |b| in float64."""
    x_shape, w_shape, *rest = setting
    p = [np.abs(a).astype(np.float64) for a in (x, w, b, dy)]
    window = w_shape[2] * w_shape[3]
    depth = w_shape[1] * window, w_shape[0] // rest[-1] * window, dy.shape[0] * dy.shape[2] * dy.shape[3]
    return {
        "conv2d": ((x, w, b, *rest), depth[0], (p[0], p[1], p[2], *rest)),
        "conv2d_dx": ((dy, w, x_shape, *rest), depth[1], (p[3], p[1], x_shape, *rest)),
        "conv2d_dw": ((dy, x, w_shape, *rest), depth[2], (p[3], p[0], w_shape, *rest)),
    }


def exact(op, args):
    """The reference in float64."""
    return getattr(reference, op)(*(a.astype(np.float64) if isinstance(a, np.ndarray) else a for a in args))


# --- the reference against torch ---


@given(settings(), seeds)
@example(DIGITS, 0)
@example(DEPTHWISE, 0)
@example(GAPS, 0)
def test_reference_is_torchs_convolution(setting, seed):
    x_shape, w_shape, stride, padding, dilation, groups = setting
    x, w, b, dy = operands(setting, seed, "float64")
    if 0 in (*x.shape, *w.shape):
        return  # torch refuses most of them; what they must give is tested below
    tx, tw, tb = (torch.tensor(a, requires_grad=True) for a in (x, w, b))
    ty = torch.nn.functional.conv2d(tx, tw, tb, stride, padding, dilation, groups)
    ty.backward(torch.tensor(dy))
    expected = {"conv2d": ty.detach(), "conv2d_dx": tx.grad, "conv2d_dw": tw.grad}
    for op, (args, depth, magnitude) in cases(setting, x, w, b, dy).items():
        bound = 2 * sum_bound(depth, getattr(reference, op)(*magnitude), "float64")  # torch rounds too
        assert_close(getattr(reference, op)(*args), expected[op].numpy(), bound=bound, what=op)


# --- variants against the reference ---


@pytest.mark.parametrize("variant", FAST)
@given(setting=settings(), seed=seeds, dtype=floats, layout=layouts)
@example(setting=DIGITS, seed=1, dtype="float32", layout="plain")
@example(setting=DEPTHWISE, seed=1, dtype="float32", layout="unaligned")
@example(setting=STEM, seed=1, dtype="float32", layout="plain")
@example(setting=GAPS, seed=1, dtype="float64", layout="sliced")
def test_variant_is_the_reference(variant, setting, seed, dtype, layout):
    x, w, b, dy = (laid_out(a, layout) for a in operands(setting, seed, dtype))
    for op, (args, depth, magnitude) in cases(setting, x, w, b, dy).items():
        # One rounding more: the expected value is rounded to the dtype too.
        bound = sum_bound(depth + 1, getattr(reference, op)(*magnitude), dtype)
        if dtype == "float64":
            bound = 2 * bound  # the reference rounds as coarsely
        with mk.use(**{op: variant}), unmodified(x, w, b, dy):
            assert mk.which(op, *args) == variant
            y = getattr(mk, op)(*args)
        assert_close(y, exact(op, args).astype(dtype), bound=bound, what=op)


@given(setting=settings(), seed=seeds)
def test_without_bias_is_with_a_bias_of_zero(setting, seed):
    x, w, b, _ = operands(setting, seed, "float32")
    assert same_bits(mk.conv2d(x, w, None, *setting[2:]) + 0, mk.conv2d(x, w, 0 * b, *setting[2:]) + 0)


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("setting", [DIGITS, DEPTHWISE, STEM, GAPS], ids=["digits", "depthwise", "stem", "gaps"])
def test_every_tier_is_the_reference(tier, setting):
    x, w, b, dy = operands(setting, 3, "float32")
    with machine.use_tier(tier):
        for op, (args, depth, magnitude) in cases(setting, x, w, b, dy).items():
            bound = sum_bound(depth + 1, getattr(reference, op)(*magnitude), "float32")
            with mk.use(**{op: "tiled"}):
                assert_close(getattr(mk, op)(*args), exact(op, args).astype("float32"), bound=bound, what=op)


def test_a_large_image_is_cut_into_strips_and_chunks_without_a_seam(monkeypatch):
    setting = ((5, 9, 61, 47), (11, 9, 3, 3), (1, 2), (1, 1), (1, 1), 1)
    x, w, b, dy = operands(setting, 0, "float32")
    whole = {op: getattr(cpu, op)(*args) for op, (args, *_) in cases(setting, x, w, b, dy).items()}
    monkeypatch.setattr(plan, "STRIP_BYTES", 4096)
    monkeypatch.setattr(cpu, "CHUNK_BYTES", 1)
    for cached in (plan.forward, plan.backward, cpu._gradient_plan):
        cached.cache_clear()
    forward = plan.forward(reference.geometry(*setting), 4, (8, 32))
    assert forward.numbers[plan.STRIPS] > 10
    for op, (args, *_) in cases(setting, x, w, b, dy).items():
        assert same_bits(getattr(cpu, op)(*args), whole[op]), op
    for cached in (plan.forward, plan.backward, cpu._gradient_plan):
        cached.cache_clear()


# --- promises ---


@pytest.mark.parametrize("variant", FAST)
@pytest.mark.parametrize("setting", [DIGITS, DEPTHWISE, ((3, 17, 20, 20), (40, 17, 3, 3), (1, 1), (1, 1), (1, 1), 1)])
def test_results_do_not_depend_on_the_number_of_threads(variant, setting):
    x, w, b, dy = operands(setting, 0, "float32")
    for op, (args, *_) in cases(setting, x, w, b, dy).items():
        with mk.use(**{op: variant}):
            found = []
            for n in (1, 2, 3, 3):
                with threads.threads(n):
                    found.append(getattr(mk, op)(*args))
        assert all(same_bits(found[0], y) for y in found[1:]), op


def test_many_python_threads_at_once():
    setting = ((8, 9, 20, 20), (24, 9, 3, 3), (1, 1), (1, 1), (1, 1), 1)
    x, w, b, dy = operands(setting, 0, "float32")
    for op, (args, *_) in cases(setting, x, w, b, dy).items():
        alone = getattr(cpu, op)(*args)
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: getattr(cpu, op)(*args), range(16)))
        assert all(same_bits(alone, y) for y in found), op


@given(setting=settings(), seed=seeds, dtype=floats)
@example(setting=DIGITS, seed=0, dtype="float32")
@example(setting=DEPTHWISE, seed=0, dtype="float32")
@example(setting=STEM, seed=0, dtype="float64")
def test_nothing_is_written_outside_and_everything_inside(setting, seed, dtype):
    x, w, b, dy = operands(setting, seed, dtype)
    with pytest.MonkeyPatch.context() as patch, threads.threads(2):
        for op, (args, *_) in cases(setting, x, w, b, dy).items():
            plain = getattr(cpu, op)(*args)
            with guarded(patch, cpu):
                assert same_bits(getattr(cpu, op)(*args), plain), op
            assert np.isfinite(plain).all()


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_nothing_is_read_outside():
    """Inputs end where the process may not read: one byte further ends it."""
    code = (
        GUARD_PAGE
        + """
from minidl_kernels.conv import cpu, reference
for setting in (
    ((2, 3, 8, 8), (16, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((2, 5, 9, 11), (5, 1, 3, 3), (2, 2), (1, 1), (1, 1), 5),
    ((1, 3, 30, 30), (10, 3, 7, 7), (2, 2), (3, 3), (1, 1), 1),
    ((3, 4, 7, 7), (33, 4, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((1, 2, 7, 7), (3, 2, 1, 1), (3, 2), (1, 2), (1, 1), 1),
):
    x_shape, w_shape, *rest = setting
    y_shape = reference.geometry(*setting).y_shape
    x, w, b, dy = (at_end_of_page(np.ones(s, np.float32)) for s in (x_shape, w_shape, w_shape[:1], y_shape))
    cpu.conv2d(x, w, b, *rest)
    cpu.conv2d_dx(dy, w, x_shape, *rest)
    cpu.conv2d_dw(dy, x, w_shape, *rest)
print("alive")
"""
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "alive"), done.stderr


@pytest.mark.parametrize("variant", FAST)
@given(setting=settings(most=12), seed=seeds, value=st.sampled_from([np.nan, np.inf, -np.inf]), which=st.integers(0, 2))
@example(setting=DIGITS, seed=0, value=np.inf, which=0)
@example(setting=DIGITS, seed=0, value=np.inf, which=1)
@example(setting=DIGITS, seed=0, value=np.inf, which=2)
@example(setting=DEPTHWISE, seed=0, value=np.inf, which=0)
def test_nan_and_inf_are_where_the_reference_has_them(variant, setting, seed, value, which):
    x, w, b, dy = operands(setting, seed, "float64")
    target = (x, w, dy)[which]
    if target.size:
        target.ravel()[seed % target.size] = value
    with np.errstate(invalid="ignore"):
        for op, (args, *_) in cases(setting, x, w, b, dy).items():
            expected = getattr(reference, op)(*args)
            with mk.use(**{op: variant}):
                y = getattr(mk, op)(*args)
            # The bound is a loose one: here only the places of NaN and Inf matter.
            assert_close(y, expected, rtol=1e-9, atol=1e-9, what=op)


@pytest.mark.parametrize("variant", ["reference", *FAST])
def test_empty_batches_and_no_channels(variant):
    with mk.use(conv2d=variant, conv2d_dx=variant, conv2d_dw=variant):
        x, w = np.zeros((0, 3, 5, 5), np.float32), np.ones((4, 3, 3, 3), np.float32)
        dy = np.zeros((0, 4, 3, 3), np.float32)
        assert mk.conv2d(x, w).shape == (0, 4, 3, 3)
        assert mk.conv2d_dx(dy, w, x.shape).shape == x.shape
        assert_close(mk.conv2d_dw(dy, x, w.shape), np.zeros(w.shape, np.float32))
        x, w, b = np.zeros((2, 0, 5, 5), np.float32), np.zeros((4, 0, 3, 3), np.float32), np.arange(4, dtype=np.float32)
        assert_close(mk.conv2d(x, w, b), np.broadcast_to(b[:, None, None], (2, 4, 3, 3)))
        dy = np.ones((2, 4, 3, 3), np.float32)
        assert mk.conv2d_dx(dy, w, x.shape).shape == x.shape
        assert mk.conv2d_dw(dy, x, w.shape).shape == w.shape
        x, w = np.ones((2, 3, 5, 5), np.float32), np.zeros((0, 3, 3, 3), np.float32)
        dy = np.zeros((2, 0, 3, 3), np.float32)
        assert mk.conv2d(x, w).shape == dy.shape
        assert_close(mk.conv2d_dx(dy, w, x.shape), np.zeros(x.shape, np.float32))
        assert mk.conv2d_dw(dy, x, w.shape).shape == w.shape


def test_default_choice():
    x, w = normal(0, 4, 32, 8, 8), normal(1, 32, 32, 3, 3)
    y = mk.conv2d(x, w, padding=1)
    assert mk.which("conv2d", x, w, padding=1) == "tiled"
    assert mk.which("conv2d_dx", y, w, x.shape, padding=1) == "tiled"
    assert mk.which("conv2d_dw", y, x, w.shape, padding=1) == "tiled"
    # One output per image: there is no run of pixels to walk along. Windows of 1 are a product as they stand.
    assert mk.which("conv2d", x, normal(1, 32, 32, 8, 8)) == "im2col"
    assert mk.which("conv2d", x, normal(1, 32, 32, 1, 1)) == "im2col"
    assert mk.which("conv2d", x, normal(1, 32, 1, 3, 3), groups=32) == "tiled"


def test_a_planted_fault_is_caught(monkeypatch):
    """One tap displaced by one pixel."""
    setting = DIGITS
    x, w, b, dy = operands(setting, 0, "float32")
    args, depth, magnitude = cases(setting, x, w, b, dy)["conv2d"]
    bound = sum_bound(depth + 1, reference.conv2d(*magnitude), "float32")
    expected = exact("conv2d", args).astype("float32")
    assert_close(cpu.conv2d(*args), expected, bound=bound)
    right = plan.forward

    def wrong(*args):
        p = right(*args)
        cols = p.cols.copy()
        cols[4] += 1
        return p._replace(cols=cols)

    monkeypatch.setattr(plan, "forward", wrong)
    with pytest.raises(AssertionError, match="off; first at"):
        assert_close(cpu.conv2d(*args), expected, bound=bound)
