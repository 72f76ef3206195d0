"""Observers: the range that codes should cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidl import random
from minidl.compress import KL, MSE, MinMax, MovingAverage, Percentile, dequantize_array, quantize_array

ALL = [MinMax, MovingAverage, Percentile, MSE, KL]


def error(x, observer, bits, symmetric):
    s, z = observer.parameters(bits, symmetric)
    return float(np.mean((dequantize_array(quantize_array(x, s, z, bits, None), s, z, None) - x) ** 2))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_scales_and_zero_points_are_legal(kind, symmetric, bits):
    for x in (random.normal((100,)), random.uniform((3, 4)) + 1, -random.uniform((9,)), np.zeros(5, np.float32)):
        o = kind()
        o.update(x)
        s, z = o.parameters(bits, symmetric)
        assert s > 0
        assert -(2 ** (bits - 1)) <= z < 2 ** (bits - 1)
        assert not (symmetric and z)
        if not x.any():
            assert s == 1  # constant zeros
        low, high = o.range(bits, symmetric)
        assert low <= high
        # 0 is a code's very value: padding and relu are exact
        assert dequantize_array(quantize_array(np.zeros(1, np.float32), s, z, bits, None), s, z, None)[0] == 0


@pytest.mark.parametrize("kind", ALL)
def test_constant_activations(kind):
    o = kind()
    o.update(np.full((4, 4), 3.0, np.float32))
    s, z = o.parameters()
    back = dequantize_array(quantize_array(np.float32([3]), s, z, 8, None), s, z, None)[0]
    assert abs(back - 3) <= s


@pytest.mark.parametrize("kind", ALL)
def test_bad_data(kind):
    o = kind()
    with pytest.raises(ValueError, match="seen no data"):
        o.parameters()
    o.update(np.zeros((0, 3), np.float32))
    with pytest.raises(ValueError, match="seen no data"):
        o.parameters()
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            o.update(np.float32([1, bad]))
    with pytest.raises(ValueError, match="seen no data"):
        o.range()


def test_min_max_covers_all_and_batches_do_not_matter():
    x = random.normal((1000,))
    one, many = MinMax(), MinMax()
    one.update(x)
    for part in np.split(x, 10):
        many.update(part)
    assert one.range() == many.range() == (x.min(), x.max())
    s, z = one.parameters()
    back = dequantize_array(quantize_array(x, s, z, 8, None), s, z, None)
    assert abs(back - x).max() <= s / 2 * (1 + 1e-4)


def test_moving_average_by_hand():
    o = MovingAverage(0.75)
    for high in (4, 8, 0):
        o.update(np.float32([-1, high]))
    assert o.range() == (-1, 3.75)  # 4, then 4 + (8 - 4) / 4 = 5, then 5 - 5 / 4
    with pytest.raises(ValueError, match="momentum"):
        MovingAverage(1.0)


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=50), st.integers(0, 5))
def test_histograms_grow_without_losing_counts(values, cuts):
    """A histogram whose range grows again and again holds each value in a bin that contains it."""
    o = MSE(bins=64)
    x = np.array(values, np.float32)
    for part in np.array_split(x, cuts + 1):
        o.update(part)
    assert o.counts.sum() == x.size
    edges = o.left + np.arange(65) * o.width
    below = np.array([(x < e).sum() for e in edges])
    # doubling merges pairs, so cumulative counts are exact but for values within rounding of an edge
    near = np.array([(abs(x - e) <= 1e-5 * (1 + abs(e))).sum() for e in edges])
    assert (abs(np.concatenate([[0], np.cumsum(o.counts)]) - below) <= near).all()


def test_percentile_cuts_what_it_says():
    random.manual_seed(0)
    x = random.uniform((100_000,)) * 2 - 1
    x[:50] = 1000
    o = Percentile(99.0, bins=1 << 16)
    o.update(x)
    low, high = o.range()
    assert low == pytest.approx(-0.99, abs=0.05)
    assert high == pytest.approx(0.99, abs=0.05)
    with pytest.raises(ValueError, match="percent"):
        Percentile(50)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_on_heavy_tails_clipping_beats_min_max(bits, symmetric):
    """Laplace data with some outliers: MSE's range gives the least error of all, KL's less than MinMax's at 4 bits."""
    random.manual_seed(0)
    u = random.uniform((50_000,)).astype(np.float64) - 0.5
    x = (-np.sign(u) * np.log(1 - 2 * abs(u) * (1 - 1e-9))).astype(np.float32)
    found = {}
    for kind in ALL:
        o = kind()
        o.update(x)
        found[kind] = error(x, o, bits, symmetric)
    assert found[MSE] <= min(found.values()) * 1.02  # 1.02: its grid of ranges and the bins' width
    assert found[MSE] < (0.9 if bits == 4 else 0.95) * found[MinMax]
    if bits == 4:
        assert found[KL] < found[MinMax]


def test_kl_by_brute_force_on_a_small_histogram():
    """TensorRT's definition, loops and all, against the cut that KL takes."""
    random.manual_seed(3)
    x = abs(random.normal((5000,)))
    x[:3] = 9
    o = KL(bins=256)
    o.update(x)
    levels, bins, top = 16, 256, float(x.max())
    counts = np.zeros(bins)
    for centre, count in zip(o.centres(), o.counts, strict=True):
        counts[min(int(abs(centre) / top * bins), bins - 1)] += count
    best = None
    for n in range(levels, bins + 1, 2):
        p = counts[:n].copy()
        p[-1] += counts[n:].sum()
        q = np.zeros(n)
        for level in range(levels):
            inside = [i for i in range(n) if i * levels // n == level]
            filled = [i for i in inside if counts[i] > 0]
            for i in filled:
                q[i] = sum(counts[j] for j in inside) / len(filled)
        p, q = p / p.sum(), q / q.sum()
        q = np.where((p > 0) & (q == 0), 1e-6, q)
        q /= q.sum()
        kl = sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
        if best is None or kl < best[0] - 1e-12:
            best = kl, n
    assert o.range(4)[1] == pytest.approx(min(top * best[1] / bins, top))
