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
from minidl_kernels.sparse import cpu, groups, reference

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


PATTERNS = [(2, 4), (1, 2), (4, 8), (2, 3), (3, 16)]  # bits 1, 2 and 4; whole vectors and not; units of 1 to 8


def some_of_many(seed, rows, k, n, m, dtype="float32"):
    """W (rows, k) with at most n of every m neighbours, packed and dense."""
    w, count = normal(seed, rows, k, dtype=dtype), -(-k // m)
    wide = np.zeros((rows, count * m), dtype)
    wide[:, :k] = w
    parts = wide.reshape(rows, count, m)
    np.put_along_axis(parts, np.argsort(np.abs(parts), axis=2)[:, :, : m - n], 0, 2)
    w = np.ascontiguousarray(wide[:, :k])
    return mk.pack_nm(w, n, m), w


@pytest.mark.parametrize("variant", mk.variants("nm_linear", "cpu"))
@given(
    pattern=st.sampled_from(PATTERNS), count=sizes(32, 70), rest=st.integers(0, 15), lead=st.lists(rows, max_size=1),
    rows=columns, layout=layouts, bias=st.booleans(), seed=seeds,
)  # fmt: skip
@example((2, 4), 32, 0, [64], 17, "plain", True, 0)
@example((2, 4), 40, 3, [30], 9, "plain", True, 0)
@example((4, 8), 0, 0, [5], 3, "plain", True, 0)
def test_some_of_many(variant, pattern, count, rest, lead, rows, layout, bias, seed):
    n, m = pattern
    dtype = "float64" if pattern == (2, 3) else "float32"
    k = count * m // 4
    k += rest % m - k % m if rest % m >= n else -(k % m)
    (values, indices), w = some_of_many(seed, rows, k, n, m, dtype)
    assert indices.nbytes == rows * -(-values[0].size * reference.index_bits(m) // 8) if rows else not indices.size
    assert np.array_equal(mk.unpack_nm(values, indices, m, k), w)
    x = laid_out(normal(seed + 1, *lead, k, dtype=dtype), layout)
    b = normal(seed + 2, rows, dtype=dtype) if bias else None
    packed = laid_out(values, "reversed"), laid_out(indices, "sliced")
    with mk.use(nm_linear=variant), unmodified(x, *packed):
        y = mk.nm_linear(x, *packed, m, b)
    wide = x.astype(np.float64) @ w.T.astype(np.float64) + (0 if b is None else b)
    added = 0 if b is None else np.abs(b)
    bound = sum_bound(k + 1, np.abs(x.astype(np.float64)) @ np.abs(w.T) + added, dtype)
    assert_close(y, wide.astype(dtype), bound=bound, what="y")


@pytest.mark.parametrize("tier", machine.tiers())
@pytest.mark.parametrize("pattern", [(2, 4), (2, 3)])
def test_some_of_many_on_every_tier(tier, pattern):
    n, m = pattern
    (values, indices), w = some_of_many(0, 71, 15 * m, n, m)
    b = normal(1, 71)
    with machine.use_tier(tier):
        for count in (1, 2, 5, 39, 75):
            x = normal(2, count, 15 * m)
            expected = (x.astype(np.float64) @ w.T + b).astype(np.float32)
            bound = sum_bound(15 * m + 1, np.abs(x) @ np.abs(w.T) + np.abs(b), "float32")
            for kernel in (groups.nm_linear, groups.nm_linear_unpacked):
                assert_close(kernel(x, values, indices, m, b), expected, bound=bound)


def test_some_of_many_beside_infinity_and_with_threads():
    w = np.zeros((300, 200), np.float32)
    w[:, 1::4], w[:, 2::4] = 1, 2
    packed = mk.pack_nm(w, 2, 4)
    for count in (1, 7, 70):
        x = normal(0, count, 200)
        x[:, ::4] = np.inf  # meets nothing
        x[count // 2, 5] = np.nan
        found = []
        for nthreads in (1, 2, 5):
            with threads.threads(nthreads):
                found.append(groups.nm_linear(x, *packed, 4, None))
        assert same_bits(found[0], found[1])
        assert same_bits(found[0], found[2])
        assert np.isnan(found[0]).any(axis=1).tolist() == [i == count // 2 for i in range(count)]
        assert np.isfinite(np.delete(found[0], count // 2, 0)).all()


def test_some_of_many_packs_nan_and_groups_that_are_not_full():
    w = np.float32([[0, np.nan, 0, 0, 0, 0, 0, 5, 1, 2]])
    values, indices = mk.pack_nm(w, 2, 4)
    np.testing.assert_array_equal(values, np.float32([[[0, np.nan], [0, 5], [1, 2]]]))
    assert [f"{byte:08b}" for byte in indices[0]] == ["11000100", "00000100"]
    np.testing.assert_array_equal(mk.unpack_nm(values, indices, 4, 10), w)


@pytest.mark.parametrize("variant", mk.variants("nm_linear", "cpu"))
@pytest.mark.parametrize("count", [1, 40])
def test_places_that_do_not_exist_are_refused(variant, count):
    values = np.ones((2, 2, 2), np.float32)
    for m, k, indices in ((3, 6, [0b01000100, 0b00110100]), (4, 6, [0b01000100, 0b10000100])):
        wrong, x = np.uint8([[b] for b in indices]), np.ones((count, k), np.float32)
        with mk.use(nm_linear=variant), pytest.raises(IndexError, match=f"places 0 .. {m - 1} of their groups"):
            mk.nm_linear(x, values, wrong, m)
        with pytest.raises(IndexError, match="unpack_nm"):
            mk.unpack_nm(values, wrong, m, k)


def test_some_of_many_refuses_what_does_not_fit():
    w = np.float32([[1, 0, 2, 0]])
    packed = mk.pack_nm(w, 2, 4)
    x = np.ones((2, 4), np.float32)
    for call, error, message in (
        (lambda: mk.pack_nm(w, 1, 4), ValueError, "row 0 has more than 1 numbers in columns 0 .. 3; prune"),
        (lambda: mk.pack_nm(w, 5, 4), ValueError, "n <= m <= 16, got 5:4"),
        (lambda: mk.pack_nm(w, 2, 17), ValueError, "n <= m <= 16"),
        (lambda: mk.pack_nm(w, 0, 4), ValueError, "at least 1"),
        (lambda: mk.pack_nm(w, 2, 3), ValueError, "the last group of 4 columns has 1"),
        (lambda: mk.pack_nm(w.astype(int), 2, 4), TypeError, "float32 or float64"),
        (lambda: mk.nm_linear(x.astype("d"), *packed, 4), TypeError, "x is float64 but values is float32"),
        (lambda: mk.nm_linear(x[:, :3].repeat(2, 1), *packed, 4), ValueError, "2 groups of 4, K = 6"),
        (lambda: mk.nm_linear(x, packed[0], packed[1].repeat(2, 1), 4), ValueError, r"indices .* must be \(1, 1\)"),
        (lambda: mk.nm_linear(x, packed[0], packed[1].astype("i1"), 4), TypeError, "must be uint8"),
        (lambda: mk.nm_linear(x, *packed, 17), ValueError, "m <= 16"),
        (lambda: mk.nm_linear(x, *packed, 4, x[0]), ValueError, "b must have shape"),
        (lambda: mk.nm_linear(np.array(1, np.float32), *packed, 4), ValueError, "at least 1 axis"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_which_way_some_of_many_goes():
    """Dense where a unit for bfloat16 makes up for the zeros, and there alone."""
    (packed, _), x = some_of_many(0, 64, 64, 2, 4), np.zeros((300, 64), np.float32)
    assert mk.which("nm_linear", x[:64], *packed, 4) == "panels"
    assert mk.which("nm_linear", x, *packed, 4) == ("unpacked" if machine.tier() == "amx" else "panels")


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
    for m, n, k in ((1, 1, 4), (4, 15, 20), (33, 65, 40), (65, 33, 64)):
        packed, _ = some_of_many(0, n, k, 2, 4)
        with guarded(monkeypatch, groups):
            for kernel in (groups.nm_linear, groups.nm_linear_unpacked):
                assert np.isfinite(kernel(normal(1, m, k), *packed, 4, None)).all()
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
        "            for size in (k // 4 * 4 + 2, 76):\n"
        "                x, w = at_end_of_page(np.ones((m, size), 'f')), np.tile(np.float32([1, 1, 0, 0]), (n, 20))\n"
        "                packed = [at_end_of_page(a) for a in mk.pack_nm(w[:, :size].copy(), 2, 4)]\n"
        "                with mk.use(nm_linear='panels'):\n"
        "                    assert (mk.nm_linear(x, *packed, 4) == -(-size // 4) * 2).all()\n"
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
