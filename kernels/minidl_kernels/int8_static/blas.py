"""The exact sums by float32 BLAS (gemm_int8/blas.py), then the pipeline."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..gemm_int8.blas import int8_matmul
from .geometry import Border, Pair
from .reference import conv2d_by, linear_by

Array = NDArray[Any]


def static_linear(x: Array, w: Array, bias: Array, multiplier: Array, zero: int, low: int, high: int) -> Array:
    return linear_by(int8_matmul, x, w, bias, multiplier, zero, low, high)


def static_conv2d(
    x: Array, w: Array, bias: Array, multiplier: Array,
    stride: Pair, padding: Border, dilation: Pair, groups: int, border: int, zero: int, low: int, high: int,
) -> Array:  # fmt: skip
    return conv2d_by(int8_matmul, x, w, bias, multiplier, stride, padding, dilation, groups, border, zero, low, high)
