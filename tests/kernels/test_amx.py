"""float32 products on the tile unit, as six products of bfloat16: as good as float32's own, or left to them."""

import subprocess
import sys

import numpy as np
import pytest
from kernel_testing import GUARD_PAGE, assert_close, guarded, laid_out, normal, same_bits, sum_bound

import minidl_kernels as mk
from minidl_kernels.cpu import machine, product, threads
from minidl_kernels.gemm import cpu

needs_the_unit = pytest.mark.skipif(
    not machine.multiplies_bfloat16(), reason="this CPU has no tile unit for bfloat16, and never takes this way"
)
SIX = [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)]  # parts of a and of b: 0 is the greatest


def parts(x):
    """Three bfloat16 whose sum is x."""
    found = []
    for _ in range(3):
        bits = (x.view(np.uint32) + 0x8000) & 0xFFFF0000
        found.append(bits.astype(np.uint32).view(np.float32))
        x = x - found[-1]
    assert not x.any()
    return found


def test_six_products_are_enough_and_five_are_not():
    """The idea, in NumPy and without rounding of sums: what is left out is below float32's rounding of one product."""
    a, b = normal(0, 400, 1), normal(1, 400, 1)
    split_a, split_b = parts(a), parts(b)
    exact = a.astype(np.float64) * b

    def error(products):
        total = sum(split_a[i].astype(np.float64) * split_b[j] for i, j in products)
        return np.abs(total / exact - 1).max()

    assert error(SIX) < 2.0**-24
    for left_out in SIX:
        assert error([p for p in SIX if p != left_out]) > 2.0**-20


@pytest.fixture
def always(monkeypatch):
    """Products of any size are split."""
    monkeypatch.setattr(cpu, "SPLIT_FROM", 0)
    monkeypatch.setattr(cpu, "SPLIT_AREA", 0)
    monkeypatch.setattr(cpu, "SPLIT_SIDE", 1)
    monkeypatch.setattr(cpu, "LITTLE", -1)
    monkeypatch.setattr(cpu, "FEW", -1)
    calls = []
    right = product.multiply_at

    def counted(kind, *rest, **kw):
        done = right(kind, *rest, **kw)
        calls.append((kind, done))
        return done

    monkeypatch.setattr(cpu, "multiply_at", counted)
    return calls


def check(a, b, what=""):
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    k = a.shape[-1]
    c = cpu.matmul(a, b)
    bound = sum_bound(k, np.abs(wide_a) @ np.abs(wide_b), np.float32)
    assert_close(c.astype(np.float64), wide_a @ wide_b, bound=bound, what=what)
    return c


@needs_the_unit
def test_any_size_and_layout(always):
    for m, k, n in ((2, 1, 2), (5, 31, 33), (16, 32, 16), (17, 33, 15), (32, 64, 32), (33, 129, 65), (70, 300, 40)):
        for layout_a in ("plain", "transposed", "sliced", "reversed", "broadcast", "unaligned"):
            for layout_b in ("plain", "transposed", "sliced", "reversed"):
                a, b = laid_out(normal(m, m, k), layout_a), laid_out(normal(n, k, n), layout_b)
                check(a, b, f"{m} x {k} x {n} {layout_a} {layout_b}")
    batch = check(normal(0, 3, 2, 20, 40), normal(1, 2, 40, 50))
    assert batch.shape == (3, 2, 20, 50)
    y = cpu.linear(normal(2, 40, 70), normal(3, 50, 70), normal(4, 50))
    exact = normal(2, 40, 70).astype(np.float64) @ normal(3, 50, 70).T.astype(np.float64) + normal(4, 50)
    assert_close(y.astype(np.float64), exact, atol=1e-4)
    assert {("f32x6", True)} == set(always)


@needs_the_unit
def test_the_error_is_below_that_of_vectors(always):
    for k in (64, 512, 2048):
        a, b = normal(k, 100, k), normal(k + 1, k, 120)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        with machine.use_tier("avx512"):
            plain = np.sqrt(np.mean((cpu.matmul(a, b) - exact) ** 2))
        assert np.sqrt(np.mean((cpu.matmul(a, b) - exact) ** 2)) < plain
    whole = np.random.default_rng(0).integers(-1000, 1001, (2, 90, 90)).astype(np.float32)
    assert same_bits(check(whole[0], whole[1]), whole[0] @ whole[1])  # sums below 2^27 of products that need 20 bits


ODD = {
    "NaN": np.nan,
    "Inf": np.inf,
    "-Inf": -np.inf,
    "near the greatest": 3.4e38,
    "small": 1e-31,
    "denormal": 1e-41,
}


@needs_the_unit
@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("size", [40, 700])  # a share for one thread; packed by all
def test_where_bfloat16_ends_vectors_compute(always, odd, size):
    a, b = normal(0, size, 80), normal(1, 80, size)
    with machine.use_tier("avx512"), np.errstate(all="ignore"):
        for operand, at in ((a, (size - 1, 79)), (b, (0, size // 2))):
            operand[at], kept = odd, operand[at]
            plain = cpu.matmul(a, b)
            always.clear()
            with machine.use_tier("amx"):
                assert same_bits(cpu.matmul(a, b), plain)
            assert always == [("f32x6", False), ("f32", True)]
            operand[at] = kept
    a *= np.float32(1e-16)
    b *= np.float32(1e-16)  # each is far from the end, their products are not
    always.clear()
    check(a, b)
    assert ("f32x6", False) in always


@needs_the_unit
def test_three_products_are_an_opt_in(always):
    a, b = normal(0, 100, 500), normal(1, 500, 90)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    off = lambda c: np.sqrt(np.mean((c - exact) ** 2) / np.mean(exact**2))
    fine = off(cpu.matmul(a, b))
    mk.set_float32_matmul_precision("high")
    try:
        coarse = cpu.matmul(a, b)
        b[7, 7] = np.inf
        assert np.isinf(cpu.matmul(a, b)[:, 7]).all()
    finally:
        mk.set_float32_matmul_precision("highest")
    # What is left out, m_a m_b and l, is below 3 * 2^-18 of a product.
    assert fine < 1e-7 < off(coarse) < 3 * 2.0**-18
    assert [kind for kind, _ in always] == ["f32x6", "f32x3", "f32x3", "f32"]


@needs_the_unit
def test_zeros_are_no_small_numbers(always):
    a, b = normal(0, 60, 70), normal(1, 70, 80)
    a[a < 0.5] = 0
    a[7] = 0
    b[:, 3] = -0.0
    c = check(a, b)
    assert (c[7] == 0).all()
    assert (c[:, 3] == 0).all()
    assert always == [("f32x6", True)]


@needs_the_unit
def test_same_bits_for_any_number_of_threads(always):
    for batch, m, n, k in ((1, 100, 90, 300), (1, 700, 300, 1100), (5, 130, 120, 50), (2, 400, 500, 200)):
        a, b = normal(0, batch, m, k), normal(1, batch, k, n)
        found = []
        for count in (1, 2, 5):
            with threads.threads(count):
                found.append(cpu.matmul(a, b))
        assert same_bits(found[0], found[1])
        assert same_bits(found[0], found[2])
        assert_close(found[0], a @ b, rtol=1e-3, atol=1e-3)


@needs_the_unit
def test_nothing_is_written_outside(always, monkeypatch):
    for m, n, k in ((1, 2, 1), (4, 15, 3), (17, 33, 20), (32, 32, 32), (29, 65, 300)):
        a, b = normal(0, 2, m, k), normal(1, 2, k, n)
        with guarded(monkeypatch, cpu):
            check(a, b)
            check(laid_out(a, "transposed"), laid_out(b, "transposed"))


@needs_the_unit
def test_nothing_is_read_outside():
    code = GUARD_PAGE + (
        "import minidl_kernels as mk\n"
        "from minidl_kernels.gemm import cpu\n"
        "cpu.SPLIT_FROM, cpu.SPLIT_SIDE, cpu.SPLIT_AREA = 0, 1, 0\n"
        "for m, n, k in ((2, 3, 1), (5, 3, 17), (13, 31, 15), (16, 32, 32), (33, 33, 33)):\n"
        "    a, b = at_end_of_page(np.ones((m, k), 'f')), at_end_of_page(np.ones((k, n), 'f'))\n"
        "    at, bt = at_end_of_page(np.ones((k, m), 'f')).T, at_end_of_page(np.ones((n, k), 'f')).T\n"
        "    for x in (a, at, a[::-1], a[:, ::-1]):\n"
        "        for y in (b, bt, b[::-1, ::-1]):\n"
        "            assert (cpu.matmul(x, y) == k).all()\n"
        "            q, r = at_end_of_page(x.astype(np.int8)), at_end_of_page(y.astype(np.int8))\n"
        "            assert (mk.int8_matmul(q, r) == k).all()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@needs_the_unit
def test_who_is_chosen(monkeypatch):
    seen = []
    right = product.multiply_at
    monkeypatch.setattr(cpu, "multiply_at", lambda kind, *rest: (seen.append(kind), right(kind, *rest))[1])
    mk.matmul(normal(0, 256, 256), normal(1, 256, 256))
    mk.matmul(normal(0, 150, 150), normal(1, 150, 150))
    mk.matmul(normal(0, 30, 3000), normal(1, 3000, 3000))
    mk.matmul(normal(0, 256, 256, dtype="float64"), normal(1, 256, 256, dtype="float64"))
    with machine.use_tier("avx512vnni"):
        mk.matmul(normal(0, 256, 256), normal(1, 256, 256))
    assert seen == ["f32x6", "f32", "f32", "f64", "f32"]
