"""Sparse linear layers: packing there and back, variants against the reference, what kernels promise."""

import subprocess
import sys

import numpy as np
import pytest
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
)  # fmt: skip

import minidl_kernels as mk
from minidl_kernels.cpu import machine, threads
from minidl_kernels.sparse import cpu, reference

VARIANTS = [v for v in mk.variants("csr_linear", "cpu") if v != "reference"]
rows, columns = sizes(32, 80), sizes(16, 70)


def sparse(seed, n, k, dtype="float32", zeros=0.8):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, k)) * (rng.random((n, k)) >= zeros)).astype(dtype)


@given(n=columns, k=columns, dtype=floats, zeros=st.sampled_from([0.0, 0.5, 0.95, 1.0]), layout=layouts, seed=seeds)
def test_packing_there_and_back(n, k, dtype, zeros, layout, seed):
    w = laid_out(sparse(seed, n, k, dtype, zeros), layout)
    values, indices, indptr = mk.pack_csr(w)
    assert len(values) == np.count_nonzero(w)
    assert indices.dtype == np.uint16
    assert np.array_equal(mk.unpack_csr(values, indices, indptr, k), w)
    assert len(indptr) == n + 1
    for row, first, last in zip(w, indptr, indptr[1:]):
        assert np.array_equal(indices[first:last], np.flatnonzero(row))
        assert np.array_equal(values[first:last], row[row != 0])


def test_packing_keeps_nan_and_takes_wide_matrices():
    w = np.zeros((2, (1 << 16) + 1), np.float32)
    w[0, -1], w[1, 0] = np.nan, -0.0
    values, indices, indptr = mk.pack_csr(w)
    assert np.isnan(values).tolist() == [True]
    assert (indices.dtype, indices.tolist(), indptr.tolist()) == (np.int32, [1 << 16], [0, 1, 1])
    x = normal(0, 5, w.shape[1])
    w[0, -1] = 2
    packed = mk.pack_csr(w)
    for some in (x, x[:1]):
        assert np.array_equal(mk.csr_linear(some, *packed)[:, 0], 2 * some[:, -1])
    assert mk.csr_linear_dx(np.ones((5, 2), np.float32), *packed, w.shape[1])[:, -1].tolist() == [2] * 5


@pytest.mark.parametrize("variant", VARIANTS)
@given(
    lead=st.lists(rows, max_size=1) | st.lists(st.integers(0, 3), min_size=2, max_size=2),
    n=columns, k=columns, dtype=floats, zeros=st.sampled_from([0.0, 0.8, 1.0]), layout=layouts,
    index=st.sampled_from([np.uint16, np.int32]), bias=st.booleans(), seed=seeds,
)  # fmt: skip
@example([64], 17, 40, "float32", 0.8, "plain", np.uint16, True, 0)
@example([33], 0, 40, "float32", 0.8, "plain", np.uint16, True, 0)
@example([33], 5, 0, "float64", 0.8, "plain", np.int32, True, 0)
def test_linear_and_its_gradient(variant, lead, n, k, dtype, zeros, layout, index, bias, seed):
    w, b = sparse(seed, n, k, dtype, zeros), normal(seed + 1, n, dtype=dtype) if bias else None
    x = laid_out(normal(seed + 2, *lead, k, dtype=dtype), layout)
    dy = laid_out(normal(seed + 3, *lead, n, dtype=dtype), layout)
    values, indices, indptr = mk.pack_csr(w)
    packed = laid_out(values, "reversed"), laid_out(indices.astype(index), "sliced"), indptr
    with mk.use(csr_linear=variant, csr_linear_dx=variant), unmodified(x, dy, *packed):
        y, dx = mk.csr_linear(x, *packed, b), mk.csr_linear_dx(dy, *packed, k)
    added = 0 if b is None else np.abs(b)
    assert_close(
        y, reference.csr_linear(x, *packed, b), bound=sum_bound(k + 1, np.abs(x) @ np.abs(w.T) + added, dtype), what="y"
    )
    bound = sum_bound(n, np.abs(dy) @ np.abs(w), dtype)
    assert_close(dx, reference.csr_linear_dx(dy, *packed, k), bound=bound, what="dx")


def test_reference_is_the_dense_product():
    w, x, b, dy = sparse(0, 30, 40, "float64"), normal(1, 7, 40, dtype="float64"), normal(2, 30), normal(3, 7, 30)
    packed = mk.pack_csr(w)
    # Both sum in float64, in different orders.
    assert_close(
        reference.csr_linear(x, *packed, b), x @ w.T + b, bound=sum_bound(40, np.abs(x) @ np.abs(w.T) + 9, "d")
    )
    wide = dy.astype(np.float64)
    assert_close(
        reference.csr_linear_dx(wide, *packed, 40), wide @ w, bound=sum_bound(30, np.abs(wide) @ np.abs(w), "d")
    )


@pytest.mark.parametrize("m", [1, 3, 4, 40, 70])
def test_what_is_not_stored_takes_no_part(m):
    """Columns in any order, one of them twice; an infinite x meets nothing, a NaN spoils the outputs that read it."""
    values, indices = np.array([1, 2, 4, 8], np.float32), np.array([3, 0, 3, 1], np.int32)
    indptr = np.array([0, 3, 3, 4], np.int64)
    x = np.tile(np.array([1, 10, np.inf, 100], np.float32), (m, 1))
    assert mk.csr_linear(x, values, indices, indptr).tolist() == [[502, 0, 80]] * m
    assert mk.csr_linear_dx(np.ones((m, 3), np.float32), values, indices, indptr, 4).tolist() == [[2, 8, 0, 5]] * m
    x[m // 2, 1] = np.nan
    spoiled = np.isnan(mk.csr_linear(x, values, indices, indptr))
    assert np.argwhere(spoiled).tolist() == [[m // 2, 2]]


@pytest.mark.parametrize("tier", machine.tiers())
def test_every_tier(tier):
    w, x, dy, b = sparse(0, 45, 90), normal(1, 75, 90), normal(2, 75, 45), normal(3, 45)
    packed = mk.pack_csr(w)
    with machine.use_tier(tier):
        for m in (1, 5, 75):
            y, dx = cpu.csr_linear(x[:m], *packed, b), cpu.csr_linear_dx(dy[:m], *packed, 90)
            bound = sum_bound(91, np.abs(x[:m]) @ np.abs(w.T) + np.abs(b), "float32")
            assert_close(y, reference.csr_linear(x[:m], *packed, b), bound=bound)
            bound = sum_bound(45, np.abs(dy[:m]) @ np.abs(w), "float32")
            assert_close(dx, reference.csr_linear_dx(dy[:m], *packed, 90), bound=bound)


def test_same_bits_for_any_number_of_threads():
    w, x, dy = sparse(0, 300, 200), normal(1, 150, 200), normal(2, 150, 300)
    packed, found = mk.pack_csr(w), []
    for count in (1, 2, 5):
        with threads.threads(count):
            found.append((cpu.csr_linear(x, *packed, None), cpu.csr_linear_dx(dy, *packed, 200)))
    assert same_bits(found[0], found[1])
    assert same_bits(found[0], found[2])


def test_nothing_is_written_outside(monkeypatch):
    for m, n, k in ((1, 1, 1), (4, 15, 17), (33, 17, 31), (65, 33, 64)):
        packed = mk.pack_csr(sparse(m, n, k, zeros=0.5))
        with guarded(monkeypatch, cpu):
            y = cpu.csr_linear(normal(1, m, k), *packed, None)
            dx = cpu.csr_linear_dx(normal(2, m, n), *packed, k)
        assert np.isfinite(y).all()
        assert np.isfinite(dx).all()


def test_nothing_is_read_outside():
    code = GUARD_PAGE + (
        "import minidl_kernels as mk\n"
        "import minidl_kernels.cpu.machine\n"
        "for tier in mk.cpu.machine.tiers():\n"
        "    with mk.cpu.machine.use_tier(tier):\n"
        "        for m, n, k in ((1, 1, 1), (4, 3, 17), (13, 31, 60), (33, 32, 64), (65, 33, 66)):\n"
        "            x, dy = at_end_of_page(np.ones((m, k), 'f')), at_end_of_page(np.ones((m, n), 'f'))\n"
        "            packed = [at_end_of_page(a) for a in mk.pack_csr(np.ones((n, k), 'f'))]\n"
        "            assert (mk.csr_linear(x, *packed, at_end_of_page(np.ones(n, 'f'))) == k + 1).all()\n"
        "            assert (mk.csr_linear_dx(dy, *packed, k) == n).all()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("variant", mk.variants("csr_linear", "cpu"))
@pytest.mark.parametrize("m", [1, 40])
def test_numbers_that_would_lead_outside_are_refused(variant, m):
    values, x = np.ones(2, np.float32), np.ones((m, 4), np.float32)
    for indices, indptr in (
        ([0, 4], [0, 1, 2]), ([-1, 0], [0, 1, 2]), ([0, 1], [0, 3, 2]), ([0, 1], [1, 1, 2]), ([0, 1], [0, 1, 3]),
    ):  # fmt: skip
        wrong = values, np.array(indices, np.int32), np.array(indptr, np.int64)
        with mk.use(csr_linear=variant, csr_linear_dx=variant):
            with pytest.raises(IndexError, match="indptr must rise from 0 to the 2 stored numbers"):
                mk.csr_linear(x, *wrong)
            with pytest.raises(IndexError, match="columns 0 .. 3"):
                mk.csr_linear_dx(np.ones((m, 2), np.float32), *wrong, 4)
        with pytest.raises(IndexError, match="unpack_csr"):
            mk.unpack_csr(*wrong, 4)


def test_wrong_shapes_and_dtypes_are_refused():
    x, w = np.ones((2, 4), np.float32), np.eye(3, 4, dtype=np.float32)
    values, indices, indptr = mk.pack_csr(w)
    with pytest.raises(TypeError, match="x is float64 but values is float32"):
        mk.csr_linear(x.astype(np.float64), values, indices, indptr)
    with pytest.raises(TypeError, match="indices must be uint16 or int32"):
        mk.csr_linear(x, values, indices.astype(np.int64), indptr)
    with pytest.raises(TypeError, match="indptr must be int64"):
        mk.csr_linear(x, values, indices, indptr.astype(np.int32))
    with pytest.raises(ValueError, match="one entry per stored number"):
        mk.csr_linear(x, values[1:], indices, indptr)
    with pytest.raises(ValueError, match="b must have shape"):
        mk.csr_linear(x, values, indices, indptr, np.ones(4, np.float32))
    with pytest.raises(ValueError, match="must be the 3 rows that indptr describes"):
        mk.csr_linear_dx(x, values, indices, indptr, 4)
    with pytest.raises(ValueError, match="indptr must have"):
        mk.csr_linear(x, values, indices, indptr[:0])
    with pytest.raises(TypeError, match="pack_csr"):
        mk.pack_csr(w.astype(np.int32))
