"""Integer products: exact in every variant, on every tier; layers equal to the definition bit by bit."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_testing import GUARD_PAGE, floats, guarded, laid_out, layouts, normal, same_bits, seeds, sizes, unmodified

import minidl_kernels as mk
from minidl_kernels.cpu import machine, threads
from minidl_kernels.cpu.product import address
from minidl_kernels.gemm_int8 import blas, conv, cpu, depthwise, quantize, reference, stages, vector

VARIANTS = [v for v in mk.variants("int8_matmul", "cpu") if v != "reference"]

rows, columns, depths = sizes(14, 40), sizes(32, 70), sizes(4, 70)


def integers(seed, *shape, low=-128):
    return np.random.default_rng(seed).integers(low, 128, shape).astype(np.int8)


def exact(a, b):
    return np.matmul(a.astype(np.int64), b.astype(np.int64)).astype(np.int32)


@pytest.mark.parametrize("variant", VARIANTS)
@given(lead=st.lists(st.integers(0, 3), max_size=1), m=rows, n=columns, k=depths, layout=layouts, seed=seeds)
@example([], 14, 32, 64, "plain", 0)
@example([2], 15, 33, 65, "transposed", 0)
@example([], 3, 3, 0, "plain", 0)
@example([], 20, 70, 68, "plain", 0)  # rows of B woven by the packer ...
@example([], 40, 299, 1100, "plain", 0)  # ... several panels at once, group after group, in two stretches of k
@example([], 1, 130, 260, "plain", 0)  # few rows: B read once, by columns ...
@example([], 4, 70, 131, "transposed", 0)  # ... and by rows
def test_product_is_exact(variant, lead, m, n, k, layout, seed):
    a, b = laid_out(integers(seed, *lead, m, k), layout), laid_out(integers(seed + 1, k, n), layout)
    with mk.use(int8_matmul=variant), unmodified(a, b):
        c = mk.int8_matmul(a, b)
    assert same_bits(c, exact(a, b))
    assert same_bits(reference.int8_matmul(a, b), exact(a, b))


@pytest.mark.parametrize("tier", machine.tiers())
def test_every_tier_at_the_ends_of_the_range(tier):
    with machine.use_tier(tier):
        for k in (1, 3, 4, 5, 1024, 3000, (1 << 17) - 1):
            for x, y in ((-128, -128), (127, 127), (-128, 127), (127, -128)):
                a, b = np.full((3, k), x, np.int8), np.full((k, 5), y, np.int8)
                assert (cpu.int8_matmul(a, b) == x * y * k).all(), (k, x, y)
        a, b = integers(0, 30, 301), integers(1, 301, 70)
        for layout in ("plain", "transposed", "sliced", "reversed"):
            assert same_bits(cpu.int8_matmul(laid_out(a, layout), laid_out(b, layout)), exact(a, b)), layout
        x, w, scale = normal(0, 9, 301), integers(1, 33, 301), normal(2, 33) ** 2
        assert same_bits(cpu.int8_linear(x, w, scale, None, None), reference.int8_linear(x, w, scale, None, None))
        for c, groups in ((6, 2), (10, 10), (16, 1), (70, 1)):
            x, w, scale = normal(0, 2, c, 9, 35), integers(1, 30, c // groups, 3, 3), normal(2, 30) ** 2
            for stride in (1, 2, 3):
                args = (x, w, scale, None, stride, 1, 1, groups, None)
                assert same_bits(conv.int8_conv2d(*args), reference.int8_conv2d(*args)), (groups, stride)


def test_blas_stays_within_what_a_float_holds():
    """1024 products of -128 * -128 make 2^24 exactly, and one more odd product would be rounded."""
    assert blas.EXACT * 128 * 128 == 2**24
    assert np.float32(2**24) + np.float32(1) == np.float32(2**24)
    a, b = np.full((2, 1025), -128, np.int8), np.full((1025, 2), -128, np.int8)
    a[:, -1] = b[-1] = 1
    assert (blas.int8_matmul(a, b) == 2**24 + 1).all()


def test_a_planted_fault_is_caught(monkeypatch):
    a, b = integers(0, 20, 64), integers(1, 64, 40)
    assert same_bits(cpu.int8_matmul(a, b), exact(a, b))
    monkeypatch.setitem(cpu.FORMS, machine.tier(), (*cpu.FORMS[machine.tier()][:3], 127))
    assert not same_bits(cpu.int8_matmul(a, b), exact(a, b))
    monkeypatch.undo()
    monkeypatch.setattr(blas, "EXACT", 4096)
    top = np.random.default_rng(0).integers(100, 128, (16, 4096)).astype(np.int8)
    assert not same_bits(blas.int8_matmul(top, top.T), exact(top, top.T))


def test_quantize_is_symmetric_and_rounds_half_to_even():
    x = np.array([[-127, 126.5, 0.5, 1.5, 2.5, -0.5], [0, 0, 0, 0, 0, 0]], np.float32)
    q, scale = quantize.quantize(x, None)
    assert q.tolist() == [[-127, 126, 0, 2, 2, 0], [0] * 6]
    assert scale.tolist() == [1, 1]
    q, scale = quantize.quantize(x, 0.5)
    assert q[0].tolist() == [-127, 127, 1, 3, 5, -1]


@pytest.mark.parametrize("tier", machine.tiers())
def test_quotients_are_those_of_a_division(tier):
    """Around every half, where one bit of x / scale decides, and beyond both ends; tiny, usual and huge scales."""
    scales = (2.0 ** np.random.default_rng(0).uniform(-126, 126, 200)).astype(np.float32)
    with np.errstate(over="ignore"):
        x = (np.arange(-129, 129, 0.5, np.float64) * scales[:, None].astype(np.float64)).astype(np.float32)
        x = np.concatenate([x, np.nextafter(x, np.float32(np.inf)), np.nextafter(x, np.float32(-np.inf))], 1)
    x = np.concatenate([x, np.tile(np.float32([0, np.inf, -np.inf, np.nan, 1e-45, -3e38]), (len(x), 1))], 1)
    q, spare = np.empty(x.shape[1], np.int8), np.empty(1, np.float32)
    for row, scale in zip(x, scales):
        stages.quantize_rows(tier)(1, len(row), address(row), address(q), float(scale), address(spare), 1)
        assert same_bits(q, quantize.quantize(row[None], float(scale))[0][0]), scale


@pytest.mark.parametrize("variant", VARIANTS)
@given(
    lead=st.lists(st.integers(0, 5), max_size=2),
    n=columns,
    k=depths,
    dtype=floats,
    layout=layouts,
    x_scale=st.sampled_from([None, 0.013, 1e-30]),
    odd=st.sampled_from([None, np.nan, np.inf, -np.inf, 1e38, 1e-44]),
    seed=seeds,
)
@example([1], 10, 64, "float32", "plain", None, None, 0)
def test_linear_has_the_definitions_bits(variant, lead, n, k, dtype, layout, x_scale, odd, seed):
    x = normal(seed, *lead, k, dtype=dtype)
    if odd is not None and x.size:
        x.flat[0] = odd
    x = laid_out(x, layout)
    w, scale, bias = laid_out(integers(seed, n, k), layout), normal(seed + 1, n) ** 2, normal(seed + 2, n)
    for b in (bias, None):
        with mk.use(int8_linear=variant), unmodified(x, w, scale, bias):
            y = mk.int8_linear(x, w, scale, b, x_scale)
        expected = reference.int8_linear(x, w, scale, b, x_scale)
        assert y.dtype == x.dtype
        assert y.shape == (*lead, n)
        assert np.array_equal(y, expected, equal_nan=True)


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))
    (r, s), stride, padding, dilation = draw(pair(1, 3)), draw(pair(1, 2)), draw(pair(0, 2)), draw(pair(1, 2))
    h, w = draw(pair(5, 12))
    x = (draw(st.integers(0, 3)), groups * draw(sizes(4, 6)), h, w)
    return x, (groups * draw(sizes(14, 16)), x[1] // groups, r, s), stride, padding, dilation, groups


@pytest.mark.parametrize("variant", VARIANTS)
@given(setting=convolutions(), dtype=floats, layout=layouts, x_scale=st.sampled_from([None, 0.02]), seed=seeds)
@example(((2, 16, 8, 8), (32, 16, 3, 3), (1, 1), (1, 1), (1, 1), 1), "float32", "plain", None, 0)
@example(((2, 70, 8, 8), (33, 70, 3, 3), (1, 2), (1, 1), (1, 1), 1), "float32", "plain", None, 0)  # the tile unit
def test_conv2d_has_the_definitions_bits(variant, setting, dtype, layout, x_scale, seed):
    x_shape, w_shape, *rest = setting
    x, w = laid_out(normal(seed, *x_shape, dtype=dtype), layout), laid_out(integers(seed, *w_shape), layout)
    scale, bias = normal(seed + 1, w_shape[0]) ** 2, normal(seed + 2, w_shape[0])
    for b in (bias, None):
        with mk.use(int8_conv2d=variant), unmodified(x, w, scale, bias):
            y = mk.int8_conv2d(x, w, scale, b, *rest, x_scale)
        assert same_bits(y, reference.int8_conv2d(x, w, scale, b, *rest, x_scale))


def test_reference_convolution_is_torchs():
    """With whole numbers for x and a static scale of 1 nothing is rounded, so torch in float64 is exact too."""
    x, w = integers(0, 2, 6, 9, 10, low=-127).astype(np.float32), integers(1, 8, 3, 3, 2)
    for settings in ((1, 0, 1), ((2, 1), (1, 2), (1, 2))):
        y = reference.int8_conv2d(x, w, np.ones(8, np.float32), None, *settings, 2, 1.0)
        theirs = torch.nn.functional.conv2d(
            torch.from_numpy(x).double(), torch.from_numpy(w).double(), None, *settings, 2
        )
        assert np.array_equal(y, theirs.numpy())


@pytest.mark.parametrize("kernel", [1, 3])
def test_images_strips_and_planes_in_parts(monkeypatch, kernel):
    x, w, scale = normal(0, 5, 8, 11, 9), integers(1, 40, 8, kernel, kernel), normal(2, 40) ** 2
    args = (x, w, scale, normal(3, 40), 1, kernel // 2, 1, 1, None)
    for limit in ("PLANES", "NEAR", "RUN"):
        monkeypatch.setattr(conv, limit, 20 if limit == "RUN" else 1000)
        conv._planned.cache_clear()
        assert same_bits(conv.int8_conv2d(*args), reference.int8_conv2d(*args)), limit
    conv._planned.cache_clear()


@pytest.mark.parametrize("groups", [1, 4])
def test_convolution_of_odd_numbers_and_of_zeros(groups):
    """NaN and Inf spoil their image only; a negative or zero scale of a filter keeps the sign of a zero."""
    x, w = normal(0, 4, 4, 6, 6), integers(1, 8, 4 // groups, 3, 3)
    x[0], x[1, 2, 3, 3], x[2, 0, 0, 0] = 0, np.nan, np.inf
    scale, bias = normal(2, 8), normal(3, 8)
    scale[0], bias[1] = 0, -0.0
    for b in (None, bias):
        for x_scale in (None, 0.01):
            args = (x, w, scale, b, 1, 1, 1, groups, x_scale)
            y, expected = conv.int8_conv2d(*args), reference.int8_conv2d(*args)
            assert np.array_equal(y, expected, equal_nan=True)
            assert np.array_equal(np.signbit(y), np.signbit(expected) | (np.isnan(y) & np.signbit(y)))
            assert np.isfinite(y[[0, 3]]).all()
            assert np.isnan(y[1:3]).all() == (x_scale is None)


def test_same_bits_for_any_number_of_threads():
    x, w, scale, bias = normal(0, 150, 300), integers(1, 200, 300), normal(2, 200) ** 2, normal(3, 200)
    image, filters = normal(4, 6, 8, 20, 20), integers(5, 24, 8, 3, 3)
    results = []
    for count in (1, 2, 5):
        with threads.threads(count):
            y = cpu.int8_linear(x, w, scale, bias, None)
            z = conv.int8_conv2d(image, filters, scale[:24], None, 1, 1, 1, 1, None)
            each = conv.int8_conv2d(image, filters[:, :1], scale[:24], None, 1, 1, 1, 8, None)
            results.append((cpu.int8_matmul(w, w.T), y, z, each))
    assert same_bits(results[0], results[1])
    assert same_bits(results[0], results[2])


def test_nothing_is_written_outside(monkeypatch):
    for m, n, k in ((1, 1, 1), (13, 33, 20), (14, 32, 16), (29, 65, 301)):
        a, b, scale = integers(0, m, k), integers(1, k, n), normal(2, n) ** 2
        image, filters = normal(3, 2, 3, 7, 9), integers(4, n, 3, 2, 3)
        channels, own = normal(6, 2, n, 7, 9), integers(4, 2 * n, 1, 2, 3)
        with guarded(monkeypatch, cpu, conv, depthwise, vector):
            assert same_bits(cpu.int8_matmul(a, b), exact(a, b))
            y = cpu.int8_linear(normal(5, m, k), b.T, scale, None, None)
            made = [
                conv.int8_conv2d(image, filters, scale, None, stride, padding, 1, 1, None)
                for stride, padding in ((1, 0), (1, 1), (2, 1), ((1, 3), (2, 0)))
            ]
            one = conv.int8_conv2d(image, filters[..., :1, :1], scale, None, 1, 0, 1, 1, None)
            each = [
                conv.int8_conv2d(channels, own, np.repeat(scale, 2), None, stride, 1, 1, n, None) for stride in (1, 2)
            ]
        assert all(np.isfinite(z).all() for z in (y, *made, one, *each))


def test_nothing_is_read_outside():
    code = GUARD_PAGE + (
        "import minidl_kernels as mk\n"
        "import minidl_kernels.cpu.machine\n"
        "tiled = mk.use(int8_matmul='tiled', int8_linear='tiled', int8_conv2d='tiled')\n"
        "for tier in mk.cpu.machine.tiers():\n"
        "    with mk.cpu.machine.use_tier(tier), tiled:\n"
        "        for m, n, k in ((1, 1, 1), (5, 3, 17), (13, 31, 60), (14, 32, 64), (15, 33, 66)):\n"
        "            a, b = (at_end_of_page(np.ones(s, np.int8)) for s in ((m, k), (k, n)))\n"
        "            w, x = at_end_of_page(np.ones((n, k), np.int8)), at_end_of_page(np.ones((m, k), 'f'))\n"
        "            one = at_end_of_page(np.ones(n, 'f'))\n"
        "            assert (mk.int8_matmul(a, b) == k).all() and (mk.int8_matmul(a, w.T) == k).all()\n"
        "            assert (mk.int8_linear(x, w, one, one, 1.0) == k + 1).all()\n"
        "            x = at_end_of_page(np.ones((m, k, 3, 3), 'f'))\n"
        "            w = at_end_of_page(np.ones((n, k, 2, 2), np.int8))\n"
        "            assert (mk.int8_conv2d(x, w, one, one, x_scale=1.0) == 4 * k + 1).all()\n"
        "            w = at_end_of_page(np.ones((n, k, 3, 3), np.int8))\n"
        "            assert (mk.int8_conv2d(x, w, one, one, x_scale=1.0) == 9 * k + 1).all()\n"
        "            w = at_end_of_page(np.ones((n, k, 1, 1), np.int8))\n"
        "            assert (mk.int8_conv2d(x, w, one, one, x_scale=1.0) == k + 1).all()\n"
        "            w, one = at_end_of_page(np.ones((k, 1, 3, 3), np.int8)), at_end_of_page(np.ones(k, 'f'))\n"
        "            assert (mk.int8_conv2d(x, w, one, one, groups=k, x_scale=1.0) == 10).all()\n"
        "            x, w = (at_end_of_page(np.ones(s, np.int8)) for s in ((m, 3, 3, k), (n, 2, 2, k)))\n"
        "            zero, one = at_end_of_page(np.zeros(n, np.int32)), at_end_of_page(np.full(n, 1 / (4 * k), 'f'))\n"
        "            assert (mk.static_conv2d(x, w, zero, one) == 1).all()\n"
        "            assert (mk.static_linear(x[:, 0, 0], w[:, 0, 0], zero, one * 4) == 1).all()\n"
        "            w = at_end_of_page(np.ones((k, 3, 3, 1), np.int8))\n"
        "            zero, one = at_end_of_page(np.zeros(k, np.int32)), at_end_of_page(np.full(k, 1 / 9, 'f'))\n"
        "            assert (mk.static_conv2d(x, w, zero, one, groups=k) == 1).all() or k == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_sums_that_could_leave_int32_are_refused():
    a = np.zeros((1, 1 << 17), np.int8)
    with pytest.raises(ValueError, match="overflow int32"):
        mk.int8_matmul(a, a.T)
