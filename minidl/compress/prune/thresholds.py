"""Thresholds: what is smaller than lambda times a unit goes, however much that is.

The rule of the literature that this project started from takes tau = lambda ||w||_2 / fan_in. Since ||w||_2 =
rms(w) sqrt(outputs * inputs) and fan_in = inputs,

    tau = lambda rms(w) sqrt(outputs / inputs)

so the same lambda cuts deeper in a layer that widens (512 -> 2048: 2 lambda rms) than in one that narrows (2048 -> 512:
lambda rms / 2), though both may be equally redundant. `rms_mask` leaves the factor out: lambda then means the same in
every layer. Neither knows the sparsity beforehand: for normally distributed weights |w| < t rms(w) holds for
erf(t / sqrt(2)) of them, .8 % at t = .01, 38 % at .5, 68 % at 1. Where a sparsity is wanted, take `magnitude_mask`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.compress.prune.choice import floats, no_nan
from minidl.devices import array_module

Array = Any


def fan_in_mask(w: Array, lam: float) -> Array:
    """Keep |w| >= lambda * ||w||_2 / fan_in, where fan_in counts the inputs of one output: w (N, ...), w[0].size.

    Raises ValueError for negative or NaN lambda, NaN weights, and arrays that have no inputs (fewer than two axes).

    >>> fan_in_mask(np.float32([[3, 4, 0, 0]]), 3.0).tolist()  # threshold 3 * 5 / 4
    [[False, True, False, False]]
    """
    if w.ndim < 2:
        raise ValueError(f"fan_in_mask needs a weight (outputs, inputs, ...), got shape {tuple(w.shape)}")
    return _at_least(w, lam, _norm(w) / max(1, math.prod(w.shape[1:])))


def rms_mask(w: Array, lam: float) -> Array:
    """Keep |w| >= lambda * rms(w): a threshold in units of the weights' own size, whatever the layer's shape.

    >>> rms_mask(np.float32([1, 1, 1, -3]), 1.0).tolist()
    [False, False, False, True]
    """
    return _at_least(w, lam, _norm(w) / math.sqrt(max(1, w.size)))


def _norm(w: Array) -> float:
    floats(w, "a threshold rule")
    no_nan(w)
    return math.sqrt(float(array_module(w).square(w, dtype=np.float64).sum()))


def _at_least(w: Array, lam: float, unit: float) -> Array:
    if not lam >= 0:
        raise ValueError(f"lambda must be 0 or more, got {lam}")
    return array_module(w).abs(w) >= lam * unit
