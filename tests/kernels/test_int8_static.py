"""Layers from int8 to int8: the oracle, the exact blocked-float path and every CPU tier agree bit for bit."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_testing import guarded, laid_out, layouts, same_bits, seeds, sizes, unmodified

import minidl_kernels as mk
from minidl_kernels import kept
from minidl_kernels.cpu import machine, threads
from minidl_kernels.gemm_int8 import windows
from minidl_kernels.int8_static import cpu, pipeline, reference

VARIANTS = [v for v in mk.variants("static_linear", "cpu") if v != "reference"]
F32 = np.float32


def integers(seed, *shape, low=-128, high=128, dtype=np.int8):
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def ends(seed, n, spread):
    """bias, multiplier, zero, low, high for sums of about +-spread: codes of all sizes, some of them clipped."""
    rng = np.random.default_rng([seed, 1])
    bias = rng.integers(-spread, spread + 1, n).astype(np.int32)
    multiplier = (rng.uniform(10, 80, n) / max(spread, 1)).astype(F32)
    return bias, multiplier, int(rng.integers(-60, 60)), int(rng.integers(-128, -60)), 100


def spread(k):
    """The standard deviation of a sum of k products of codes."""
    return int(5460 * np.sqrt(k)) + 1


def one_by_one(acc, bias, multiplier, zero, low, high):
    """The pipeline as the specification words it, number by number, with Python's own rounding half to even."""
    y = np.empty(acc.shape, np.int8)
    for at in np.ndindex(acc.shape):
        n = at[-1]
        total = (int(acc[at]) + int(bias[n]) + 2**31) % 2**32 - 2**31
        v = float(F32(F32(total) * multiplier[n]))  # two float32 roundings
        y[at] = min(max(round(v) + zero, low), high)
    return y


@given(seed=seeds, shape=st.sampled_from([(3, 5), (2, 2, 7), (0, 4), (1,), (4, 0), (40, 33)]), wide=st.booleans())
@example(0, (40, 33), True)
def test_pipeline_is_the_specification(seed, shape, wide):
    top = 2**30 if wide else 2**16
    acc = integers(seed, *shape, low=-top, high=top, dtype=np.int32)
    bias, multiplier, zero, low, high = ends(seed, shape[-1], top // 4)
    expected = one_by_one(acc, bias, multiplier, zero, low, high)
    for variant in mk.variants("requantize", "cpu"):
        with mk.use(requantize=variant), unmodified(acc, bias, multiplier):
            y = mk.requantize(acc, bias, multiplier, zero, low, high)
        assert same_bits(y, expected), variant


def test_halves_go_to_even_and_bounds_hold():
    acc = np.int32([[-5, -3, -1, 1, 3, 5, 2**31 - 1, -(2**31), 16777217, 16777219]])
    bias, half = np.zeros(10, np.int32), np.full(10, 0.5, F32)
    half[8:] = 2.0**-18  # 16777217 is no float32: it is rounded to even first, then scaled
    for variant in mk.variants("requantize", "cpu"):
        with mk.use(requantize=variant):
            y = mk.requantize(acc, bias, half, 0, -128, 127)[0]
            assert y.tolist() == [-2, -2, 0, 0, 2, 2, 127, -128, 64, 64]
            assert mk.requantize(acc, bias, half, 3, 3, 5)[0].tolist() == [3, 3, 3, 3, 5, 5, 5, 3, 5, 5]
            assert mk.requantize(acc[:, 6:7], np.ones(1, np.int32), half[:1])[0].tolist() == [-128]  # wraps


@pytest.mark.parametrize("variant", VARIANTS)
@given(lead=st.lists(st.integers(0, 4), max_size=2), n=sizes(32, 70), k=sizes(16, 70), layout=layouts, seed=seeds)
@example([300], 1000, 64, "plain", 0)  # several blocks
def test_linear_has_the_oracles_bits(variant, lead, n, k, layout, seed):
    x, w = laid_out(integers(seed, *lead, k), layout), laid_out(integers(seed + 1, n, k), layout)
    rest = ends(seed, n, spread(k))
    with mk.use(static_linear=variant), unmodified(x, w, *rest[:2]):
        y = mk.static_linear(x, w, *rest)
    exact = np.matmul(x.astype(np.int64), w.T.astype(np.int64)).astype(np.int32)
    assert same_bits(y, reference.static_linear(x, w, *rest))
    assert same_bits(y, pipeline.requantize(exact, *rest))


@st.composite
def convolutions(draw):
    pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))
    (r, s), stride, dilation = draw(pair(1, 3)), draw(pair(1, 2)), draw(pair(1, 2))
    padding = draw(st.integers(0, 2) | pair(0, 2) | st.tuples(*[st.integers(0, 2)] * 4))
    h, w = draw(pair(5, 9))
    kind, width = draw(st.sampled_from(["full", "groups", "depthwise"])), draw(sizes(16, 20, 1))
    c = {"full": width, "groups": 2 * width, "depthwise": width}[kind]
    groups = {"full": 1, "groups": 2, "depthwise": c}[kind]
    k = c if kind == "depthwise" else groups * draw(sizes(16, 20, 1))
    return (draw(st.integers(0, 2)), h, w, c), (k, r, s, c // groups), stride, padding, dilation, groups


@pytest.mark.parametrize("variant", VARIANTS)
@given(setting=convolutions(), border=st.integers(-128, 127), layout=layouts, seed=seeds)
@example(((2, 40, 40, 70), (70, 3, 3, 70), (1, 1), 1, (1, 1), 1), -7, "plain", 0)  # several blocks
@example(((2, 9, 9, 33), (33, 3, 3, 1), (2, 2), (0, 1, 0, 1), (1, 1), 33), -128, "plain", 0)
@example(((3, 6, 5, 20), (9, 1, 1, 20), (1, 1), 0, (1, 1), 1), 5, "transposed", 0)
def test_conv2d_has_the_oracles_bits(variant, setting, border, layout, seed):
    x_shape, w_shape, *rest = setting
    x, w = laid_out(integers(seed, *x_shape), layout), laid_out(integers(seed + 1, *w_shape), layout)
    last = ends(seed, w_shape[0], spread(np.prod(w_shape[1:])))
    args = (x, w, *last[:2], *rest, border, *last[2:])
    with mk.use(static_conv2d=variant), unmodified(x, w, *last[:2]):
        y = mk.static_conv2d(*args)
    assert same_bits(y, reference.static_conv2d(*args))


def test_the_oracles_convolution_is_torchs_in_float64():
    """What the windows, the border code and the pipeline make, against float64 convolution of the numbers they mean."""
    import torch

    x, w = integers(0, 2, 9, 8, 6), integers(1, 4, 3, 2, 3)
    z, s_x, s_w, s_y, zero = -9, 0.5, 0.25, 8.0, 11
    meant = torch.from_numpy((x.astype(np.float64) - z).transpose(0, 3, 1, 2) * s_x)
    weights = torch.from_numpy(w.astype(np.float64).transpose(0, 3, 1, 2) * s_w)
    padded = torch.nn.functional.pad(meant, (1, 0, 2, 1))
    exact = torch.nn.functional.conv2d(padded, weights, None, (2, 1), 0, 1, 2).numpy()
    bias = (-z * w.astype(np.int64).sum((1, 2, 3))).astype(np.int32)
    y = mk.static_conv2d(x, w, bias, np.full(4, s_x * s_w / s_y, F32), (2, 1), (2, 1, 1, 0), 1, 2, z, zero)
    expected = np.clip(np.rint(exact / s_y) + zero, -128, 127)  # powers of two: no other rounding
    assert (y.transpose(0, 3, 1, 2) == expected).all()


@pytest.mark.parametrize("variant", [v for v in mk.variants("static_add", "cpu") if v != "reference"])
@given(shape=st.sampled_from([(7,), (3, 5, 2), (0,), (2, 40000)]), layout=layouts, seed=seeds)
@example((2, 40000), "plain", 0)
def test_sum_has_the_oracles_bits(variant, shape, layout, seed):
    rng = np.random.default_rng(seed)
    a, b = laid_out(integers(seed, *shape), layout), laid_out(integers(seed + 1, *shape), layout)
    za, zb, z = (int(v) for v in rng.integers(-128, 128, 3))
    args = (a, b, za, zb, float(rng.uniform(0.01, 2)), float(rng.uniform(0.01, 2)), z, -100, 120)
    with mk.use(static_add=variant), unmodified(a, b):
        y = mk.static_add(*args)
    assert same_bits(y, pipeline.static_add(*args))


@pytest.mark.parametrize("tier", machine.tiers())
def test_every_tier_has_the_oracles_bits(tier):
    with machine.use_tier(tier):
        for n, k in ((33, 301), (70, 64), (1, 7)):
            x, w = integers(0, 45, k), integers(1, n, k)
            rest = ends(2, n, spread(k))
            assert same_bits(cpu.static_linear(x, w, *rest), reference.static_linear(x, w, *rest)), (n, k)
        for c, k, groups, window in ((20, 33, 1, 3), (24, 24, 24, 3), (12, 8, 2, 3), (19, 40, 1, 1)):
            x, w = integers(0, 2, 11, 13, c), integers(1, k, window, window, c // groups)
            last = ends(3, k, spread(window * window * c // groups))
            for stride in (1, 2):
                args = (x, w, *last[:2], stride, (1, 0, 0, 1), 1, groups, -5, *last[2:])
                assert same_bits(cpu.static_conv2d(*args), reference.static_conv2d(*args)), (c, groups, stride)


def test_threads_do_not_change_a_bit():
    x, w = integers(0, 1, 40, 40, 64), integers(1, 64, 1, 1, 64)
    d = integers(2, 64, 5, 5, 1)
    last = ends(3, 64, spread(64))
    before = mk.get_num_threads()
    try:
        found = []
        for n in (1, 2, 3):
            mk.set_num_threads(n)
            y = mk.static_conv2d(x, w, *last[:2], 1, 0, 1, 1, 0, *last[2:])
            found.append(
                (y, mk.static_conv2d(y, d, *last[:2], 1, 2, 1, 64, 7, *last[2:]), mk.static_add(y, y, 1, 2, 0.5, 0.7))
            )
    finally:
        mk.set_num_threads(before)
    for other in found[1:]:
        assert all(same_bits(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("near", [1, 3000])
def test_bands_and_blocks_of_panels(monkeypatch, near):
    """Small bands, several blocks of panels, with and without staging, the last tile partly behind the image."""
    monkeypatch.setattr(windows, "NEAR", near)
    windows.planned.cache_clear()
    for c, window, padding, stride in ((3, 1, 0, 1), (70, 2, 0, 1), (20, 3, 1, 2), (64, 1, 0, 2)):
        x, w = integers(0, 2, 11, 13, c), integers(1, 100, window, window, c)
        last = ends(2, 100, spread(window * window * c))
        args = (x, w, *last[:2], stride, padding, 1, 1, -5, *last[2:])
        for n in (1, 2, 7):
            with threads.threads(n):
                assert same_bits(cpu.static_conv2d(*args), reference.static_conv2d(*args)), (c, window, n)
    windows.planned.cache_clear()


@pytest.mark.parametrize("tier", machine.tiers())
def test_long_windows_pass_in_stretches(monkeypatch, tier):
    """Sums wait for the rest of a window while other tiles are summed: of a long row, and of rows of a window."""
    x, w, last = integers(0, 75, 2048), integers(1, 40, 2048), ends(2, 40, spread(2048))
    with machine.use_tier(tier):
        assert same_bits(cpu.static_linear(x, w, *last), reference.static_linear(x, w, *last))
        monkeypatch.setattr(windows, "DEEP", 4096)
        windows.planned.cache_clear()
        for c, groups, k in ((20, 1, 70), (16, 2, 6)):
            x, w, last = integers(3, 1, 9, 11, c), integers(4, k, 3, 3, c // groups), ends(5, k, spread(9 * c))
            args = (x, w, *last[:2], 1, 1, 1, groups, -5, *last[2:])
            assert same_bits(cpu.static_conv2d(*args), reference.static_conv2d(*args)), groups
    windows.planned.cache_clear()


@pytest.mark.parametrize("tier", machine.tiers())
def test_nothing_is_written_outside(monkeypatch, tier):
    with machine.use_tier(tier):
        for c, k, groups, window, how in (
            (3, 33, 1, 3, (2, 1)), (64, 5, 1, 1, (1, 0)), (10, 40, 1, 2, (1, 0)), (24, 24, 24, 3, (1, 1)),
            (20, 20, 20, 5, (2, 2)), (6, 8, 2, 3, (1, 1)),
        ):  # fmt: skip
            x, w = integers(0, 2, 9, 11, c), integers(1, k, window, window, c // groups)
            last = ends(3, k, spread(window * window * c // groups))
            args = (x, w, *last[:2], *how, 1, groups, -5, *last[2:])
            with guarded(monkeypatch, cpu):
                y = cpu.static_conv2d(*args)
            assert same_bits(y, reference.static_conv2d(*args)), (c, k, how)


def test_weights_are_kept_while_nobody_can_write_them():
    """Packed once if they are read-only; what was packed dies with them; others may change between calls."""
    x, last = integers(0, 20, 40), ends(2, 8, spread(40))
    w = integers(1, 8, 40)
    own = w.copy()
    own.flags.writeable = False
    view = w[:]
    view.flags.writeable = False  # w itself can still be written
    assert mk.frozen(own)
    assert mk.frozen(own.reshape(4, 80))
    assert not mk.frozen(view)
    before, numbers = len(kept._kept), (id(own), id(view))
    for _ in range(2):
        for some in (own, view):
            assert same_bits(cpu.static_linear(x, some, *last), reference.static_linear(x, some, *last))
    assert numbers[0] in kept._kept
    assert numbers[1] not in kept._kept
    w[:] = -w // 2
    assert same_bits(cpu.static_linear(x, view, *last), reference.static_linear(x, view, *last))
    own.flags.writeable = True
    own[:] = w
    assert same_bits(cpu.static_linear(x, own, *last), reference.static_linear(x, own, *last))
    assert len(kept._kept) <= before
    own.flags.writeable = False
    assert same_bits(cpu.static_linear(x, own, *last), reference.static_linear(x, own, *last))
    del own, some
    assert numbers[0] not in kept._kept


def test_planted_faults_are_caught(monkeypatch):
    acc, bias, multiplier, *rest = integers(0, 30, 20, low=-4000, high=4000, dtype=np.int32), *ends(0, 20, 4000)
    expected = one_by_one(acc, bias, multiplier, *rest)
    assert len(np.unique(expected)) > 100
    assert same_bits(pipeline.requantize(acc, bias, multiplier, *rest), expected)
    monkeypatch.setattr(np, "rint", np.floor)
    assert not same_bits(pipeline.requantize(acc, bias, multiplier, *rest), expected)


@pytest.mark.parametrize(("change", "error", "message"), [
    (dict(x=np.zeros((2, 3))), TypeError, "x must be int8"),
    (dict(w=np.zeros((4, 5), np.int8)), ValueError, "static_linear"),
    (dict(bias=np.zeros(3, np.int32)), ValueError, r"bias must have shape \(4,\)"),
    (dict(bias=np.zeros(4, np.int64)), TypeError, "bias must be int32"),
    (dict(multiplier=np.zeros(4)), TypeError, "multiplier must be float32"),
    (dict(zero=128), ValueError, "zero must be a code"),
    (dict(low=5, high=4), ValueError, "low must not be above high"),
    (dict(high=-129), ValueError, "high must be at least -128"),
    (dict(zero=0.5), TypeError, "zero must be an integer"),
    (dict(x=np.zeros((1, 1 << 16), np.int8), w=np.zeros((4, 1 << 16), np.int8)), ValueError, "could overflow int32"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(change, error, message):
    good = dict(x=np.zeros((2, 3), np.int8), w=np.zeros((4, 3), np.int8), bias=np.zeros(4, np.int32),
                multiplier=np.ones(4, F32), zero=0, low=-128, high=127)  # fmt: skip
    mk.static_linear(**good)
    with pytest.raises(error, match=message):
        mk.static_linear(**(good | change))


def test_convolutions_and_sums_that_do_not_fit():
    x, w = np.zeros((1, 4, 4, 2), np.int8), np.zeros((3, 3, 3, 2), np.int8)
    bias, multiplier = np.zeros(3, np.int32), np.ones(3, F32)
    assert mk.static_conv2d(x, w, bias, multiplier, padding=(0, 1, 2, 3)).shape == (1, 3, 7, 3)
    for bad, message in (
        (dict(padding=(1, 2, 3)), "pair"), (dict(padding=-1), "at least 0"), (dict(groups=2), "groups|channels"),
        (dict(border=200), "border must be a code"), (dict(stride=0), "at least 1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            mk.static_conv2d(x, w, bias, multiplier, **bad)
    with pytest.raises(ValueError, match="one shape"):
        mk.static_add(np.zeros(2, np.int8), np.zeros(3, np.int8), 0, 0, 1.0, 1.0)
    for ratio in (0.0, -1.0, np.nan, np.inf, True):
        with pytest.raises(ValueError, match="b_ratio must be a positive number"):
            mk.static_add(np.zeros(2, np.int8), np.zeros(2, np.int8), 0, 0, 1.0, ratio)
