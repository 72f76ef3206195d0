"""The float stages of an integer layer, by definition: in float32, one rounding per operation, as kernels do it.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018
(arXiv:1712.05877), with a symmetric range, which needs no zero points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

LARGEST = np.float32(127)


def quantize(x: Array, x_scale: float | None) -> tuple[Array, Array]:
    """x (M, K) float -> q (M, K) int8, scale (M,) float32: one scale per row."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        x = x.astype(np.float32)
        if x_scale is None:
            scale = np.abs(x).max(axis=1, initial=0) / LARGEST
            scale[scale == 0] = 1
        else:
            scale = np.full(x.shape[0], x_scale, np.float32)
        q = np.clip(np.rint(x / scale[:, None]), -LARGEST, LARGEST)
        q[np.isnan(q)] = 0
        return q.astype(np.int8), scale


def dequantize(acc: Array, x_scale: Array, w_scale: Array, b: Array | None, dtype: Any) -> Array:
    """acc (..., N) int32, x_scale (..., 1), w_scale and b broadcastable -> y: acc * (x_scale * w_scale) + b."""
    with np.errstate(over="ignore", invalid="ignore"):
        y = acc.astype(np.float32) * (x_scale * w_scale)
        if b is not None:
            y += b.astype(np.float32)
        return y.astype(dtype)
