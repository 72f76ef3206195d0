"""Codes and floats on a GPU: quant.cu, a thread for every few elements."""

from __future__ import annotations

import math
from typing import Any

from ..cuda.launch import contiguous, cupy, kernel, spread

_SOURCE = "quant/quant.cu"


def _parameters(shape: tuple[int, ...], scale: Any, zero: Any, axis: int | None) -> tuple[Any, ...]:
    """What the kernels take: scales and zero points as arrays (None where it is one number), as numbers, inner, C."""
    if axis is None:
        return None, None, scale, zero, 1, 1
    inner = max(1, math.prod(shape[axis % len(shape) + 1 :]))
    many = hasattr(zero, "dtype")
    scale, zeros = contiguous(scale, zero if many else None)
    return scale, zeros if zeros is None else zeros.view("uint8"), 0, 0 if many else zero, inner, len(scale)


def quantize(x: Any, scale: Any, zero: Any, low: int, high: int, axis: int | None) -> Any:
    (x,) = contiguous(x)
    q = cupy().empty(x.shape, "int8")
    how = _parameters(x.shape, scale, zero, axis)
    kernel(_SOURCE, "quantize", x.dtype)(spread(q.size), 256, x, q, q.size, *how, low, high)
    return q


def dequantize(q: Any, scale: Any, zero: Any, axis: int | None) -> Any:
    (q,) = contiguous(q)
    x = cupy().empty(q.shape, "float32")
    how = _parameters(q.shape, scale, zero, axis)
    args = q.view("uint8"), q.dtype == "int8", x, x.size, *how
    kernel(_SOURCE, "dequantize")(spread(x.size), 256, *args)
    return x
