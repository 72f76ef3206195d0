"""Softmax, log-softmax and cross-entropy: the reference against torch, vectors against it, what kernels promise."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kernel_testing import (
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
from minidl_kernels.cpu import machine, threads
from minidl_kernels.prob import cpu, reference

PAIRS = ("softmax", "log_softmax")
shapes = st.lists(sizes(3, 5), min_size=0, max_size=2).flatmap(lambda s: sizes(16, 200).map(lambda c: (*s, c)))


def both(variant, name, x, dy):
    with mk.use(**{name: variant, f"{name}_backward": variant}):
        y = getattr(mk, name)(x)
        return y, getattr(mk, f"{name}_backward")(dy, y)


@given(st.sampled_from(PAIRS), shapes, seeds)
def test_reference_is_torchs(name, shape, seed):
    x, dy = normal(seed, *shape, dtype="float64") * 4, normal(seed + 1, *shape, dtype="float64")
    t = torch.tensor(x, requires_grad=True)
    want = getattr(torch, name)(t, -1)
    want.backward(torch.tensor(dy))
    y, dx = both("reference", name, x, dy)
    # Sums of at most 200 terms in float64, on both sides.
    assert_close(y, want.detach().numpy(), rtol=1e-12, atol=1e-13)
    assert_close(dx, t.grad.numpy(), rtol=1e-12, atol=1e-12)


@given(st.sampled_from(PAIRS), shapes, seeds, floats, layouts)
def test_vectors_compute_the_reference(name, shape, seed, dtype, layout):
    x = laid_out(normal(seed, *shape, dtype=dtype) * np.asarray(4, dtype), layout)
    dy = laid_out(normal(seed + 1, *shape, dtype=dtype), layout)
    with mk.use(**{name: "vectors", f"{name}_backward": "vectors"}), unmodified(x, dy):
        y = getattr(mk, name)(x)
        dx = getattr(mk, f"{name}_backward")(dy, y)
    if not x.size:
        assert y.shape == dx.shape == x.shape
        return
    # Longer numbers of the same values. Roundings, in units: one for each term of a sum of C, a few for an exponential
    # and what it is multiplied by, and for the exponents as much as these are long.
    lx, ldy, ly = (a.astype(np.longdouble) for a in (x, dy, y))
    eps, terms = np.finfo(dtype).eps, x.shape[-1] + 8
    exact, slope = getattr(reference, name)(lx), getattr(reference, f"{name}_backward")(ldy, ly)
    depth = lx.max(-1, keepdims=True) - lx
    p = np.exp(ly) if name == "log_softmax" else ly
    size = np.abs(ldy).sum(-1, keepdims=True) if name == "log_softmax" else (np.abs(ldy) * p).sum(-1, keepdims=True)
    near = exact if name == "softmax" else 1
    assert_close(y.astype(np.longdouble), exact, bound=eps * (terms + depth) * near, what=name)
    other = p * size + np.abs(ldy) * (p if name == "softmax" else 1)
    assert_close(dx.astype(np.longdouble), slope, bound=eps * (terms + depth) * other, what=f"d {name}")


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_and_infinities_are_torchs(name, dtype):
    x = np.zeros((6, 20), dtype)
    x[0, 3], x[1, 19], x[2, 18], x[3, :], x[4, 5], x[5, 0] = np.nan, np.inf, -np.inf, -np.inf, 3e38, -3e38
    want = getattr(torch, name)(torch.tensor(x), -1).numpy()
    for variant in ("reference", "vectors"):
        with mk.use(**{name: variant}):
            # 20 terms: sums of one, and 19, and exponentials that are 0 or 1.
            assert_close(getattr(mk, name)(x), want, rtol=1e-6 if dtype == "float32" else 1e-14, what=variant)


@st.composite
def classified(draw):
    """x (N, C), t, w, ignore_index, smoothing, dy"""
    n, c, dtype, seed = draw(sizes(4, 9)), draw(sizes(16, 130, least=1)), draw(floats), draw(seeds)
    rng = np.random.default_rng(seed)
    ignore = draw(st.sampled_from([-100, 0]))
    t = rng.integers(0, c, n)
    t[rng.random(n) < 0.2] = ignore
    w = rng.random(c).astype(dtype) if draw(st.booleans()) else None
    x = laid_out(normal(seed, n, c, dtype=dtype) * np.asarray(4, dtype), draw(layouts))
    return x, t, w, ignore, draw(st.sampled_from([0.0, 0.1, 1.0])), normal(seed + 1, n, dtype=dtype)


def entropy(variant, x, t, w, ignore, smoothing, dy):
    """loss, lse, dx"""
    with mk.use(cross_entropy=variant, cross_entropy_backward=variant):
        loss, lse = mk.cross_entropy(x, t, w, ignore, smoothing)
        return loss, lse, mk.cross_entropy_backward(dy, x, t, lse, w, ignore, smoothing)


def wide(arguments):
    return [a.astype(np.float64) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arguments]


@given(classified())
def test_reference_cross_entropy_is_torchs(arguments):
    x, t, w, ignore, smoothing, dy = arguments = wide(arguments)
    tx = torch.tensor(x, requires_grad=True)
    tw = None if w is None else torch.tensor(w)
    want = torch.nn.functional.cross_entropy(
        tx, torch.tensor(t), tw, ignore_index=ignore, reduction="none", label_smoothing=smoothing
    )
    want.backward(torch.tensor(dy))
    loss, lse, dx = entropy("reference", *arguments)
    # Sums of at most 130 terms below 100 in float64, on both sides.
    assert_close(loss, want.detach().numpy(), rtol=1e-12, atol=1e-11)
    assert_close(lse, torch.logsumexp(tx, 1).detach().numpy(), rtol=1e-13, atol=1e-13)
    assert_close(dx, tx.grad.numpy(), rtol=1e-12, atol=1e-11)


@given(classified())
def test_vectors_of_cross_entropy_compute_the_reference(arguments):
    x, t, w, ignore, smoothing, dy = arguments
    with unmodified(*[a for a in arguments if isinstance(a, np.ndarray)]):
        loss, lse, dx = entropy("vectors", *arguments)
    lx, ldy, lw = (None if a is None else a.astype(np.longdouble) for a in (x, dy, w))
    known = t, lw, ignore, smoothing
    exact, total = reference.cross_entropy(lx, *known)
    if not len(t):
        assert loss.shape == lse.shape == (0,)
        assert dx.shape == x.shape
        return
    # As above: sums of C terms, and weights of at most 1 each. lse is at most as large as x and ln C.
    eps, terms = np.finfo(x.dtype).eps, x.shape[1] + 16
    size = np.abs(lx).max(1) + np.log(x.shape[1])
    assert_close(lse.astype(np.longdouble), total, bound=eps * terms * (1 + size), what="lse")
    assert_close(loss.astype(np.longdouble), exact, bound=eps * terms * 2 * (1 + size), what="loss")
    slope = reference.cross_entropy_backward(ldy, lx, t, lse.astype(np.longdouble), *known[1:])
    bound = eps * (terms + 2 * size[:, None]) * 2 * np.abs(ldy)[:, None]
    assert_close(dx.astype(np.longdouble), slope, bound=np.broadcast_to(bound, dx.shape), what="dx")


@pytest.mark.parametrize("variant", ["reference", "vectors"])
def test_ignored_rows_stay_out_of_it(variant):
    """Even where they hold NaN."""
    x = np.zeros((2, 3), np.float32)
    x[0] = np.nan
    loss, lse, dx = entropy(variant, x, np.array([-100, 1]), None, -100, 0.0, np.ones(2, np.float32))
    assert loss[0] == 0
    assert not dx[0].any()
    assert np.isnan(lse[0])


@pytest.mark.parametrize("variant", ["reference", "vectors"])
@pytest.mark.parametrize("bad", [-1, 3, 2**40, -(2**40)])
@pytest.mark.parametrize("width", ["int64", "uint8"])
def test_a_class_out_of_range_raises(variant, bad, width):
    x, t = np.zeros((2, 3)), np.array([0, bad]).astype(width)
    if not 0 <= t[1] < 3:
        with mk.use(cross_entropy=variant, cross_entropy_backward=variant):
            with pytest.raises(IndexError, match="out of bounds: there are 3 classes"):
                mk.cross_entropy(x, t)
            with pytest.raises(IndexError, match="out of bounds: there are 3 classes"):
                mk.cross_entropy_backward(np.ones(2), x, t, np.ones(2))


def everything(x, t):
    y, z = mk.softmax(x), mk.log_softmax(x)
    loss, lse = mk.cross_entropy(x, t, None, -100, 0.1)
    backward = mk.cross_entropy_backward(loss, x, t, lse, None, -100, 0.1)
    return y, z, mk.softmax_backward(x, y), mk.log_softmax_backward(x, z), loss, lse, backward


def test_results_do_not_depend_on_the_number_of_threads():
    x, t = normal(0, 301, 333), np.arange(301)
    found = []
    for n in (1, 2, 5):
        with threads.threads(n):
            found.append(everything(x, t))
    assert all(same_bits(found[0], other) for other in found[1:])


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("c", [1, 15, 17, 130])
def test_nothing_is_written_outside(c, tier, monkeypatch):
    x, t = normal(c, 3, c), np.array([0, c - 1, c // 2])
    with mk.use("reference"):
        want = everything(x, t)
    with machine.use_tier(tier), guarded(monkeypatch, cpu):
        found = everything(x, t)
    for y, e in zip(found, want):
        # Sums of 130 terms, on both sides, and a logarithm.
        assert_close(y, e, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: mk.softmax(np.ones(())), ValueError, "at least 1 axis"),
        (lambda: mk.softmax(np.ones(3, int)), TypeError, "float32 or float64"),
        (lambda: mk.softmax_backward(np.ones(3), np.ones(4)), ValueError, "y's shape"),
        (lambda: mk.cross_entropy(np.ones(3), np.ones(3, int)), ValueError, "2 axes"),
        (lambda: mk.cross_entropy(np.ones((2, 3)), np.ones(3, int)), ValueError, "one class for each of the 2"),
        (lambda: mk.cross_entropy(np.ones((2, 3)), np.ones(2)), TypeError, "t must be integers"),
        (lambda: mk.cross_entropy(np.ones((2, 3)), np.ones(2, int), np.ones(2)), ValueError, "one per class"),
        (lambda: mk.cross_entropy(np.ones((2, 3)), np.ones(2, int), None, 0, 1.5), ValueError, "smoothing"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_planted_fault_is_caught(monkeypatch):
    """The comparison rejects a softmax that leaves the last class out."""
    right = cpu._softmax
    x = normal(0, 4, 33)
    monkeypatch.setattr(
        cpu, "_softmax", lambda *a: lambda e, t, k, rows, n, *at: right(*a)(e, t, k, rows * n // (n - 1), n - 1, *at)
    )
    plain = reference.softmax(x)
    with pytest.raises(AssertionError):
        assert_as_good(cpu.softmax(x), plain, reference.softmax(x.astype(np.float64)))
