"""Exact integer products by float32 BLAS: a portable way where the CPU has no integer dot product.

A float32 holds every integer up to 2^24. A product of two int8 is at most 128 * 128 = 2^14, so 1024 of them can be
added in any order, fused or not, without rounding: |sum| <= 2^24. (Without -128 in the data it would be 1040.)
Stretches of 1024 along k are added in int32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu.threads import one_blas_thread
from .reference import Pair, conv2d_by, linear_by

Array = NDArray[Any]

EXACT = (1 << 24) // (128 * 128)


def int8_matmul(a: Array, b: Array) -> Array:
    k = b.shape[0]
    fa, fb = a.astype(np.float32), b.astype(np.float32)
    c = np.zeros((*a.shape[:-1], b.shape[1]), np.int32)
    with one_blas_thread:
        for k0 in range(0, k, EXACT):
            c += (fa[..., k0 : k0 + EXACT] @ fb[k0 : k0 + EXACT]).astype(np.int32)
    return c


def int8_linear(x: Array, w_q: Array, w_scale: Array, b: Array | None, x_scale: float | None) -> Array:
    return linear_by(int8_matmul, x, w_q, w_scale, b, x_scale)


def int8_conv2d(
    x: Array, w_q: Array, w_scale: Array, b: Array | None,
    stride: Pair, padding: Pair, dilation: Pair, groups: int, x_scale: float | None,
) -> Array:  # fmt: skip
    return conv2d_by(int8_matmul, x, w_q, w_scale, b, stride, padding, dilation, groups, x_scale)
