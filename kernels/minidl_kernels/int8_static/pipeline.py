"""The output pipeline by definition: in float32, one rounding per operation, as kernels do it.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018
(arXiv:1712.05877); the multiplier is a float32 rather than a fixed-point number, as in XNNPACK's fp32 requantization
(google/XNNPACK:src/reference/packing.cc, `fp32` kernels), which needs no shift and rounds half to even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def requantize(acc: Array, bias: Array, multiplier: Array, zero: int, low: int, high: int) -> Array:
    with np.errstate(over="ignore"):
        v = (acc + bias).astype(np.float32) * multiplier
    return _codes(v, zero, low, high)


def static_add(
    a: Array, b: Array, a_zero: int, b_zero: int, a_ratio: float, b_ratio: float, zero: int, low: int, high: int
) -> Array:
    left = (a.astype(np.int32) - np.int32(a_zero)).astype(np.float32) * np.float32(a_ratio)
    right = (b.astype(np.int32) - np.int32(b_zero)).astype(np.float32) * np.float32(b_ratio)
    with np.errstate(over="ignore", invalid="ignore"):
        return _codes(left + right, zero, low, high)


def _codes(v: Array, zero: int, low: int, high: int) -> Array:
    """clip(rint(v) + zero, low, high): the bounds are whole numbers, so it is the same to clip first."""
    v = np.clip(v, np.float32(low - zero), np.float32(high - zero))
    return (np.rint(v).astype(np.int32) + np.int32(zero)).astype(np.int8)
