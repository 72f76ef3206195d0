"""The definition of right: int32 products by NumPy, and the layers built on them.

`linear_by` and `conv2d_by` take the integer product as a parameter; blas.py passes its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .quantize import dequantize, quantize

Array = NDArray[Any]
Pair = int | tuple[int, int]
Product = Callable[[Array, Array], Array]


def int8_matmul(a: Array, b: Array) -> Array:
    return np.matmul(a.astype(np.int32), b.astype(np.int32))


def linear_by(product: Product, x: Array, w_q: Array, w_scale: Array, b: Array | None, x_scale: float | None) -> Array:
    q, scale = quantize(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), x_scale)
    y = dequantize(product(q, w_q.T), scale[:, None], w_scale, b, x.dtype)
    return y.reshape(*x.shape[:-1], w_q.shape[0])


def conv2d_by(
    product: Product, x: Array, w_q: Array, w_scale: Array, b: Array | None,
    stride: Pair, padding: Pair, dilation: Pair, groups: int, x_scale: float | None,
) -> Array:  # fmt: skip
    """Windows of the quantized image as rows of a matrix: (P * Q, C * R * S) per group."""
    (sh, sw), (ph, pw), (dh, dw) = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding, dilation))
    (n, c, h, w), (k, cg, r, s) = x.shape, w_q.shape
    q, scale = quantize(x.reshape(n, c * h * w), x_scale)
    q = np.pad(q.reshape(n, c, h, w), ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    windows = np.lib.stride_tricks.sliding_window_view(q, (dh * (r - 1) + 1, dw * (s - 1) + 1), (2, 3))
    windows = windows[:, :, ::sh, ::sw, ::dh, ::dw]  # N, C, P, Q, R, S
    p_size, q_size = windows.shape[2:4]
    acc = np.empty((n, k, p_size * q_size), np.int32)
    for g in range(groups):
        some = windows[:, g * cg : (g + 1) * cg].transpose(0, 2, 3, 1, 4, 5).reshape(n, p_size * q_size, cg * r * s)
        filters = w_q[g * (k // groups) : (g + 1) * (k // groups)].reshape(k // groups, cg * r * s)
        acc[:, g * (k // groups) : (g + 1) * (k // groups)] = product(some, filters.T).swapaxes(1, 2)
    bias = None if b is None else b[:, None]
    y = dequantize(acc, scale[:, None, None], w_scale[:, None], bias, x.dtype)
    return y.reshape(n, k, p_size, q_size)


def int8_linear(x: Array, w_q: Array, w_scale: Array, b: Array | None, x_scale: float | None) -> Array:
    return linear_by(int8_matmul, x, w_q, w_scale, b, x_scale)


def int8_conv2d(
    x: Array, w_q: Array, w_scale: Array, b: Array | None,
    stride: Pair, padding: Pair, dilation: Pair, groups: int, x_scale: float | None,
) -> Array:  # fmt: skip
    return conv2d_by(int8_matmul, x, w_q, w_scale, b, stride, padding, dilation, groups, x_scale)
