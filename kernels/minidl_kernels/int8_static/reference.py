"""The definition of right: int32 products by NumPy, then the pipeline.

`linear_by` and `conv2d_by` take the integer product as a parameter; blas.py passes its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..gemm_int8.reference import int8_matmul
from .geometry import Border, Pair, windows
from .pipeline import requantize, static_add

__all__ = ["conv2d_by", "linear_by", "requantize", "static_add", "static_conv2d", "static_linear"]

Array = NDArray[Any]
Product = Callable[[Array, Array], Array]


def linear_by(
    product: Product, x: Array, w: Array, bias: Array, multiplier: Array, zero: int, low: int, high: int
) -> Array:
    return requantize(product(x, w.T), bias, multiplier, zero, low, high)


def conv2d_by(
    product: Product, x: Array, w: Array, bias: Array, multiplier: Array,
    stride: Pair, padding: Border, dilation: Pair, groups: int, border: int, zero: int, low: int, high: int,
) -> Array:  # fmt: skip
    found = windows(x, w.shape[1:3], stride, padding, dilation, border)  # B, P, Q, R, S, C
    b, p, q, r, s, _ = found.shape
    k, cg = w.shape[0], w.shape[3]
    acc = np.empty((b, p, q, k), np.int32)
    each = k // groups
    for g in range(groups):
        some = found[..., g * cg : (g + 1) * cg].reshape(b, p, q, r * s * cg)
        acc[..., g * each : (g + 1) * each] = product(some, w[g * each : (g + 1) * each].reshape(each, r * s * cg).T)
    return requantize(acc, bias, multiplier, zero, low, high)


def static_linear(x: Array, w: Array, bias: Array, multiplier: Array, zero: int, low: int, high: int) -> Array:
    return linear_by(int8_matmul, x, w, bias, multiplier, zero, low, high)


def static_conv2d(
    x: Array, w: Array, bias: Array, multiplier: Array,
    stride: Pair, padding: Border, dilation: Pair, groups: int, border: int, zero: int, low: int, high: int,
) -> Array:  # fmt: skip
    return conv2d_by(int8_matmul, x, w, bias, multiplier, stride, padding, dilation, groups, border, zero, low, high)
