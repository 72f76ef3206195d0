"""The definition of right: codes by NumPy, in float32, one rounding per operation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _along(value: Any, a: Array, axis: int | None) -> Any:
    """A scale or zero point as float32 that meets index `axis` of a."""
    if not isinstance(value, np.ndarray):
        return np.float32(value)
    shape = [1] * a.ndim
    shape[axis or 0] = len(value)
    return value.astype(np.float32).reshape(shape)


def quantize(x: Array, scale: Any, zero: Any, low: int, high: int, axis: int | None) -> Array:
    s, z = _along(scale, x, axis), _along(zero, x, axis)
    with np.errstate(all="ignore"):
        v = np.rint(x.astype(np.float32) / s)
    v = np.clip(np.where(np.isnan(v), np.float32(0), v), low - z, high - z) + z
    return np.ascontiguousarray(v, np.int8).reshape(x.shape)


def dequantize(q: Array, scale: Any, zero: Any, axis: int | None) -> Array:
    with np.errstate(over="ignore"):
        x = (q.astype(np.float32) - _along(zero, q, axis)) * _along(scale, q, axis)
    return np.ascontiguousarray(x, np.float32).reshape(q.shape)
