"""Observers: what range of an activation the codes should cover, learned from batches as they pass.

An observer is fed arrays and answers with a range; `parameters` makes of it the scale and the zero point. Which one:
`MinMax` loses nothing but is ruled by a single outlier, `Percentile` cuts outliers off, `MSE` and `KL` weigh what is
cut against how fine the steps become, `MovingAverage` forgets, for ranges that move in training.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.compress.quantize.arrays import affine
from minidl.devices import move

__all__ = ["KL", "MSE", "MinMax", "MovingAverage", "Observer", "Percentile"]


class Observer:
    """Base: feed `update`, ask `parameters`. Raises ValueError for NaN or infinity, and when it has seen no data."""

    def __init__(self) -> None:
        self.low, self.high, self.seen = math.inf, -math.inf, False

    def update(self, x: Any) -> None:
        """Look at a batch, any shape."""
        x = move(x, "cpu").astype(np.float32, copy=False)
        if not np.isfinite(x).all():
            raise ValueError("NaN or infinity in the activations")
        if x.size:
            self.look(x)
            self.seen = True

    def look(self, x: np.ndarray) -> None:
        """Take in a batch of finite float32 that is not empty."""
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))

    def range(self, bits: int = 8, symmetric: bool = False) -> tuple[float, float]:
        """(low, high) to cover."""
        if not self.seen:
            raise ValueError("the observer has seen no data")
        return self.low, self.high

    def parameters(self, bits: int = 8, symmetric: bool = False) -> tuple[float, int]:
        """(scale, zero point) for codes -2**(bits - 1) ... 2**(bits - 1) - 1; symmetric: zero point 0, no lowest code.

        A range that is 0 alone, of constant zeros, gets scale 1.
        """
        low, high = self.range(bits, symmetric)
        if symmetric:
            scale = np.float32(max(abs(low), abs(high))) / np.float32(2 ** (bits - 1) - 1)
            return (float(scale) if scale >= np.finfo(np.float32).tiny else 1.0), 0
        ends = np.array([[min(low, 0.0)], [max(high, 0.0)]], np.float32)
        s, z = affine(ends[0], ends[1], bits)
        return float(s[0]), int(z[0])


class MinMax(Observer):
    """All that was seen.

    >>> o = MinMax()
    >>> o.update(np.float32([-1, 2])), o.update(np.float32([0, 3]))
    (None, None)
    >>> o.range()
    (-1.0, 3.0)
    """


class MovingAverage(Observer):
    """Of each batch's smallest and largest, an average that forgets: m <- m + (1 - momentum) (new - m)."""

    def __init__(self, momentum: float = 0.9):
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        self.momentum = momentum

    def look(self, x: np.ndarray) -> None:
        low, high = float(x.min()), float(x.max())
        if self.seen:
            low = self.low + (1 - self.momentum) * (low - self.low)
            high = self.high + (1 - self.momentum) * (high - self.high)
        self.low, self.high = low, high


class _Histogram(Observer):
    """Counts over the range that was seen, in bins that double in width as the range grows: counts merge exactly."""

    def __init__(self, bins: int = 2048):
        super().__init__()
        self.bins, self.counts, self.left, self.width = bins, np.zeros(bins), 0.0, 0.0

    def look(self, x: np.ndarray) -> None:
        super().look(x)
        low, high = min(self.low, 0.0), max(self.high, 0.0)
        if self.width == 0:
            self.width = (high - low) / self.bins * (1 + 1e-6) or 1.0 / self.bins
            self.left = low
        while low < self.left or high > self.left + self.width * self.bins:
            pairs = self.counts.reshape(-1, 2).sum(1)
            empty = np.zeros(self.bins // 2)
            if low < self.left:  # the old range becomes the right half
                self.counts, self.left = np.concatenate([empty, pairs]), self.left - self.width * self.bins
            else:
                self.counts = np.concatenate([pairs, empty])
            self.width *= 2
        places = ((x.reshape(-1).astype(np.float64) - self.left) / self.width).astype(np.int64)
        self.counts += np.bincount(np.clip(places, 0, self.bins - 1), minlength=self.bins)

    def centres(self) -> np.ndarray:
        """The middle of each bin."""
        return self.left + (np.arange(self.bins) + 0.5) * self.width

    def range(self, bits: int = 8, symmetric: bool = False) -> tuple[float, float]:
        super().range(bits, symmetric)
        low, high = self.choose(bits, symmetric)
        return max(low, self.low), min(high, self.high)

    def choose(self, bits: int, symmetric: bool) -> tuple[float, float]:
        """The range by the rule of the class."""
        raise NotImplementedError


class Percentile(_Histogram):
    """The middle `percent` of all values; symmetric: of their magnitudes."""

    def __init__(self, percent: float = 99.99, bins: int = 2048):
        super().__init__(bins)
        if not 50 < percent <= 100:
            raise ValueError(f"percent must lie in (50, 100], got {percent}")
        self.percent = percent

    def choose(self, bits: int, symmetric: bool) -> tuple[float, float]:
        edges = self.left + np.arange(self.bins + 1) * self.width
        if symmetric:
            order = np.argsort(np.abs(self.centres()), kind="stable")
            share = np.cumsum(self.counts[order]) / self.counts.sum()
            last = order[np.searchsorted(share, self.percent / 100 - 1e-12)]
            top = float(max(abs(edges[last]), abs(edges[last + 1])))
            return -top, top
        share = np.cumsum(self.counts) / self.counts.sum()
        out = (1 - self.percent / 100) / 2
        low = np.searchsorted(share, out + 1e-12)
        high = np.searchsorted(share, 1 - out - 1e-12)
        return float(edges[low]), float(edges[high + 1])


class MSE(_Histogram):
    """The range whose rounding and clipping together make the smallest mean squared error, of ranges 1 % apart."""

    def choose(self, bits: int, symmetric: bool) -> tuple[float, float]:
        x, levels = self.centres(), 2**bits - (2 if symmetric else 1)
        top = max(abs(self.low), abs(self.high))
        low, high = (-top, top) if symmetric else (min(self.low, 0.0), max(self.high, 0.0))
        best, found = math.inf, (low, high)
        for share in np.arange(100, 0, -1) / 100:
            a, b = low * share, high * share
            step = (b - a) / levels
            if step <= 0:
                break
            near = a + np.rint((np.clip(x, a, b) - a) / step) * step
            error = float((self.counts * (near - x) ** 2).sum())
            if error < best:
                best, found = error, (a, b)
        return found


class KL(_Histogram):
    """The range after which the histogram, in as many levels as there are codes, tells least apart from what it was.

    TensorRT's calibration: of all cuts of the magnitudes, the least Kullback-Leibler divergence between the histogram,
    with what is cut off counted in the last bin, and itself merged into 2**(bits - 1) levels. Migacz, "8-bit Inference
    with TensorRT", GTC 2017. For values of one sign the whole range has 2**bits levels.
    """

    def choose(self, bits: int, symmetric: bool) -> tuple[float, float]:
        x = self.centres()
        negative = self.low < 0
        levels = 2 ** (bits - 1) if symmetric or negative else 2**bits
        top = max(abs(self.low), abs(self.high))
        if top == 0:
            return 0.0, 0.0
        places = np.minimum((np.abs(x) / top * self.bins).astype(np.int64), self.bins - 1)
        p = np.bincount(places, weights=self.counts, minlength=self.bins)
        best, cut = math.inf, self.bins
        for n in range(levels, self.bins + 1, max(1, self.bins // 128)):
            q = _merged(p[:n], levels)
            kept = p[:n].copy()
            kept[-1] += p[n:].sum()
            divergence = _divergence(kept, q)
            if divergence < best:
                best, cut = divergence, n
        top = top * cut / self.bins
        return (-top if symmetric or negative else 0.0), (top if symmetric or self.high > 0 else 0.0)


def _merged(p: np.ndarray, levels: int) -> np.ndarray:
    """Counts as `levels` codes can tell them: each level's sum, spread evenly over those of its bins that held any."""
    level = np.arange(p.size) * levels // p.size
    total = np.bincount(level, weights=p, minlength=levels)
    filled = np.bincount(level, weights=p > 0, minlength=levels)
    return np.where(p > 0, (total / np.maximum(filled, 1))[level], 0.0)


def _divergence(p: np.ndarray, q: np.ndarray) -> float:
    """Kullback-Leibler divergence of two unnormalised histograms; infinite where q has nothing and p has."""
    if q.sum() == 0:
        return math.inf
    p, q = p / p.sum(), q / q.sum()
    there = p > 0
    if (q[there] == 0).any():
        # The last bin holds what was cut off; TensorRT's smoothing, a thousandth of a count's share, keeps it finite.
        q = np.where(there & (q == 0), 1e-6, q)
        q = q / q.sum()
    return float((p[there] * np.log(p[there] / q[there])).sum())
