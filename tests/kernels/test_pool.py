"""Max pooling, scatter and gather in planes: every variant against torch and the definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from kernel_testing import LAYOUTS, laid_out, same_bits, unmodified

import minidl_kernels as kernels
from minidl_kernels.cpu import threads

VARIANTS = ["reference", "loops"]


@st.composite
def settings(draw):
    """x's shape and a window that touches it everywhere."""
    axis = []
    for _ in range(2):
        k, s, d = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
        p = draw(st.integers(0, k // 2))
        n = draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p, p), 12))
        windows = (n + 2 * p - d * (k - 1) - 1) // s + 1
        assume(all(any(0 <= i * s - p + r * d < n for r in range(k)) for i in range(windows)))
        axis.append((n, k, s, p, d))
    n, k, s, p, d = zip(*axis)
    return (draw(st.integers(0, 3)), draw(st.integers(1, 3)), *n), k, s, p, d


@pytest.mark.parametrize("variant", VARIANTS)
@example(setting=((2, 3, 9, 7), (3, 3), (2, 2), (1, 1), (1, 1)), seed=0, dtype="float32", layout="plain")
@example(setting=((3, 2, 8, 12), (2, 2), (2, 2), (0, 0), (1, 1)), seed=1, dtype="float32", layout="plain")
@given(
    setting=settings(),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(["float32", "float64"]),
    layout=st.sampled_from(LAYOUTS),
)
def test_max_pool_is_torchs(variant, setting, seed, dtype, layout):
    """Few distinct values, so that ties happen; NaN among them."""
    shape, window, stride, padding, dilation = setting
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, shape).astype(dtype)
    x[rng.random(shape) < 0.05] = np.nan
    x = laid_out(x, layout)
    with kernels.use(max_pool2d=variant), unmodified(x):
        y, index = kernels.max_pool2d(x, window, stride, padding, dilation)
    want_y, want_index = torch.nn.functional.max_pool2d(
        torch.from_numpy(x.copy()), window, stride, padding, dilation, return_indices=True
    )
    assert (y.dtype, index.dtype) == (x.dtype, np.int64)
    assert np.array_equal(y, want_y.numpy(), equal_nan=True)
    assert np.array_equal(index, want_index.numpy())


@pytest.mark.parametrize("variant", VARIANTS)
@given(
    rows=st.integers(0, 5),
    length=st.integers(0, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 99),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_scatter_and_gather_are_transposes(variant, rows, length, width, seed, dtype):
    """Against loops written out; repeated places add up in order, so the bits agree."""
    rng = np.random.default_rng(seed)
    x, z = rng.standard_normal((rows, length)).astype(dtype), rng.standard_normal((rows, width)).astype(dtype)
    index = rng.integers(0, width, (rows, length))
    want, read = np.zeros((rows, width), dtype), np.zeros((rows, length), dtype)
    for n in range(rows):
        for i in range(length):
            want[n, index[n, i]] += x[n, i]
            read[n, i] = z[n, index[n, i]]
    with kernels.use(scatter_plane=variant, gather_plane=variant), unmodified(x, z, index):
        assert same_bits(kernels.scatter_plane(x, index, width), want)
        assert same_bits(kernels.gather_plane(z, index), read)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bad", [-1, 4, 2**40])
def test_an_index_outside_the_plane_raises(variant, bad):
    index = np.array([[0, 1], [2, bad]])
    with kernels.use(scatter_plane=variant, gather_plane=variant):
        with pytest.raises(IndexError, match="outside the plane of 4"):
            kernels.scatter_plane(np.ones((2, 2)), index, 4)
        with pytest.raises(IndexError, match="outside the plane of 4"):
            kernels.gather_plane(np.ones((2, 4)), index)


def test_results_do_not_depend_on_the_number_of_threads():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 16, 20, 20), np.float32)
    results = []
    for n in (1, 2, 5):
        with threads.threads(n):
            y, index = kernels.max_pool2d(x, 3, 2, 1)
            flat = index.reshape(8, 16, -1)
            results.append((y, index, kernels.scatter_plane(y.reshape(flat.shape), flat, 400)))
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other))


@pytest.mark.parametrize(
    ("shape", "window", "stride", "padding", "size", "message"),
    [
        ((1, 1, 4), 2, 2, 0, None, "4 axes"),
        ((1, 1, 4, 4), 0, 2, 0, None, "window must be at least 1"),
        ((1, 1, 4, 4), 2, 2, 2, None, "do not all touch"),
        ((1, 1, 4, 4), 2, 2, 0, (3, 2), "do not all touch"),
        ((1, 1, 4, 4), 6, 1, 0, None, "at least 0"),
    ],
)
def test_bad_windows_are_refused(shape, window, stride, padding, size, message):
    with pytest.raises(ValueError, match=message):
        kernels.max_pool2d(np.zeros(shape), window, stride, padding, 1, size)


def test_which_runs():
    x = np.zeros((1, 1, 4, 4), np.float32)
    assert kernels.which("max_pool2d", x, (2, 2), (2, 2), (0, 0), (1, 1), (2, 2)) == "loops"
    assert kernels.which("max_pool2d", x.astype(np.int32), (2, 2), (2, 2), (0, 0), (1, 1), (2, 2)) == "reference"


def test_a_planted_fault_is_caught(monkeypatch):
    """The comparison above rejects a variant that forgets the last column of each window."""
    from minidl_kernels.pool import cpu

    right = cpu.max_pool2d
    x = np.arange(16.0).reshape(1, 1, 4, 4)
    want = torch.nn.functional.max_pool2d(torch.from_numpy(x), 2).numpy()
    with kernels.use(max_pool2d="loops"):
        assert np.array_equal(kernels.max_pool2d(x, 2, 2)[0], want)
        monkeypatch.setattr(cpu, "max_pool2d", lambda x, window, *rest: right(x, (window[0], window[1] - 1), *rest))
        assert not np.array_equal(kernels.max_pool2d(x, 2, 2)[0], want)
