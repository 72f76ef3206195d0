"""Floats to codes and back: the specification word by word, and the same bits in every variant, tier and layout."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_testing import floats, guarded, laid_out, layouts, normal, same_bits, seeds, sizes, unmodified

import minidl_kernels as mk
from minidl_kernels.cpu import machine
from minidl_kernels.quant import cpu, reference

F32 = np.float32
BOUNDS = [(-127, 127), (-128, 127), (-7, 7), (-8, 7), (-2, 1), (-1, 1)]


def one_by_one(x, scale, zero, low, high, axis):
    """As docs/quantization.md words it, with Python's own rounding half to even."""
    q = np.empty(x.shape, np.int8)
    for at in np.ndindex(x.shape):
        s, z = (scale, zero) if axis is None else (scale[at[axis]], int(zero[at[axis]]))
        with np.errstate(all="ignore"):
            v = float(F32(x[at]) / F32(s))  # one float32 division
        q[at] = z if v != v else min(max((round(v) if abs(v) < 1e9 else v) + z, low), high)
    return q


def scales(seed, shape, axis, low, high, dtype=np.int8):
    rng = np.random.default_rng([seed, 1])
    if axis is None:
        return float(rng.uniform(0.01, 3)), int(rng.integers(low, high + 1))
    n = shape[axis]
    return rng.uniform(0.01, 3, n).astype(F32), rng.integers(low, high + 1, n).astype(dtype)


@st.composite
def settings(draw):
    shape = tuple(draw(st.lists(sizes(16, 70), min_size=1, max_size=3)))
    return shape, draw(st.none() | st.integers(-len(shape), len(shape) - 1))


@given(setting=settings(), ends=st.sampled_from(BOUNDS), layout=layouts, dtype=floats, seed=seeds)
@example(((40000,), None), (-127, 127), "plain", "float32", 0)  # several tasks
@example(((300, 100), 1), (-128, 127), "plain", "float32", 0)
@example(((3, 9000), 0), (-128, 127), "plain", "float64", 0)
@example(((70, 5, 60), 1), (-8, 7), "sliced", "float32", 0)
def test_every_variant_has_the_same_bits(setting, ends, layout, dtype, seed):
    shape, axis = setting
    x = normal(seed, *shape, dtype=dtype) * 100
    if x.size > 8:
        x.reshape(-1)[:8] = [np.nan, np.inf, -np.inf, 0, -0.0, 1e30, -1e-30, 1e-44]
    x = laid_out(x, layout)
    scale, zero = scales(seed, shape, axis, *ends)
    expected = reference.quantize(x, scale, zero, *ends, axis)
    codes = laid_out(expected, layout)
    back = reference.dequantize(codes, scale, zero, axis)
    for variant in mk.variants("quantize", "cpu"):
        with mk.use(quantize=variant, dequantize=variant), unmodified(x):
            assert same_bits(mk.quantize(x, scale, zero, *ends, axis), expected), variant
            assert same_bits(mk.dequantize(codes, scale, zero, axis), back), variant
    codes = laid_out(expected.view(np.uint8), layout)
    scale, zero = scales(seed, shape, axis, 0, 255, np.uint8)
    assert same_bits(mk.dequantize(codes, scale, zero, axis), reference.dequantize(codes, scale, zero, axis))


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_the_reference_is_the_specification(axis):
    x = normal(0, 9, 13) * 30
    x[0, :6] = [np.nan, np.inf, -np.inf, 1e38, -1e38, -0.0]
    for ends in BOUNDS:
        scale, zero = scales(1, x.shape, axis, *ends)
        assert same_bits(mk.quantize(x, scale, zero, *ends, axis), one_by_one(x, scale, zero, *ends, axis))
    with mk.use("reference"):
        assert mk.dequantize(np.int8([[5, -128]]), np.float32([0.5]), 3, axis=0).tolist() == [[1.0, -65.5]]


@pytest.mark.parametrize("tier", machine.tiers())
def test_every_tier_divides_as_numpy_does(tier):
    """Halves go to even, and quotients a last bit beside a half go where the division says, for any scale."""
    halves = np.arange(-200, 200, dtype=F32) + F32(0.5)
    with machine.use_tier(tier):
        for s in (1.0, 0.1, 1 / 3, 7e-20, 1.2e-38, 1e-44, 2.0**-101, 3e30, 3e38):
            with np.errstate(over="ignore"):
                x = halves * F32(s)
            x = np.concatenate([x, np.nextafter(x, F32(np.inf)), np.nextafter(x, F32(-np.inf)), np.float32([np.nan])])
            for z, ends in ((0, (-127, 127)), (17, (-128, 127)), (-3, (-8, 7))):
                expected = reference.quantize(x, s, z, *ends, None)
                assert same_bits(cpu.quantize(x, s, z, *ends, None), expected), (s, z)
                many, zeros = np.full(x.size, s, F32), np.full(x.size, z, np.int8)
                assert same_bits(cpu.quantize(x, many, zeros, *ends, 0), expected), (s, z)


def test_nothing_is_written_outside_and_threads_change_nothing(monkeypatch):
    x, before = normal(0, 50, 1001) * 9, mk.get_num_threads()
    try:
        for axis in (None, 0, 1):
            scale, zero = scales(2, x.shape, axis, -128, 127)
            found = []
            for n in (1, 3):
                mk.set_num_threads(n)
                with guarded(monkeypatch, cpu):
                    q = cpu.quantize(x, scale, zero, -128, 127, axis)
                    found.append((q, cpu.dequantize(q, scale, zero, axis)))
            assert same_bits(*found)
    finally:
        mk.set_num_threads(before)


def test_what_does_not_fit_is_said():
    x, one = np.ones((2, 3), F32), np.ones(3, F32)
    for error, match, args in [
        (TypeError, "scale must be a number where axis is None", (x, one)),
        (TypeError, "zero must be an integer where axis is None", (x, 1.0, np.zeros(3, np.int8))),
        (TypeError, "x must be float32 or float64", (x.astype(np.float16), 1.0)),
        (TypeError, "zero must be int8, got int32", (x, one, np.zeros(3, np.int32), -127, 127, 1)),
        (TypeError, "scale must be float32", (x, one.astype(np.float64), 0, -127, 127, 1)),
        (ValueError, "scale must have shape .2,.", (x, one, 0, -127, 127, 0)),
        (ValueError, "axis 2 is not one of", (x, one, 0, -127, 127, 2)),
        (ValueError, "axis must be at least -2", (x, one, 0, -127, 127, -3)),
        (ValueError, "positive and finite", (x, 0.0)),
        (ValueError, "positive and finite", (x, float("nan"))),
        (ValueError, "zero must be a code in -128 ... 127", (x, 1.0, 128)),
        (ValueError, "low must not be above high", (x, 1.0, 0, 3, 2)),
    ]:
        with pytest.raises(error, match=match):
            mk.quantize(*args)
    with pytest.raises(TypeError, match="q must be int8 or uint8, got int32"):
        mk.dequantize(np.ones(3, np.int32), 1.0)
    with pytest.raises(ValueError, match="zero must be a code in 0 ... 255"):
        mk.dequantize(np.ones(3, np.uint8), 1.0, 256)
