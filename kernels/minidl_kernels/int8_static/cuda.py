"""Layers from int8 to int8 on a GPU: static.cu, the pipeline in the last step of the product."""

from __future__ import annotations

import math
from typing import Any

from ..cuda.launch import contiguous, counted, cupy, kernel, spread, squares
from .geometry import Border, Pair, outputs, sides, split

_SOURCE = "int8_static/static.cu"
_SIDE = 64  # rows and columns that a block makes


def requantize(acc: Any, bias: Any, multiplier: Any, zero: int, low: int, high: int) -> Any:
    acc, bias, multiplier = contiguous(acc, bias, multiplier)
    y = cupy().empty(acc.shape, "int8")
    args = (acc, bias, multiplier, y, y.size, max(len(bias), 1), zero, low, high)
    kernel(_SOURCE, "requantize")(spread(y.size), 256, *args)
    return y


def static_add(
    a: Any, b: Any, a_zero: int, b_zero: int, a_ratio: float, b_ratio: float, zero: int, low: int, high: int
) -> Any:
    a, b = contiguous(a, b)
    y = cupy().empty(a.shape, "int8")
    args = (a, b, y, y.size, a_zero, b_zero, a_ratio, b_ratio, zero, low, high)
    kernel(_SOURCE, "static_add")(spread(y.size), 256, *args)
    return y


def static_linear(x: Any, w: Any, bias: Any, multiplier: Any, zero: int, low: int, high: int) -> Any:
    x, w, bias, multiplier = contiguous(x, w, bias, multiplier)
    m, (n, k) = math.prod(x.shape[:-1]), w.shape
    y = cupy().empty((*x.shape[:-1], n), "int8")
    kernel(_SOURCE, "static_linear")(
        squares("static_linear", m, n, _SIDE), 128, x, w, bias, multiplier, y, m, n, k, zero, low, high
    )
    return y


def static_conv2d(
    x: Any, w: Any, bias: Any, multiplier: Any, stride: Pair, padding: Border, dilation: Pair, groups: int,
    border: int, zero: int, low: int, high: int,
) -> Any:  # fmt: skip
    x, w, bias, multiplier = contiguous(x, w, bias, multiplier)
    (b, h, wide, c), (k, r, s, each) = x.shape, w.shape
    p, q = outputs(x.shape, (r, s), stride, padding, dilation)
    top, _, left, _ = sides(padding)
    y = cupy().empty((b, p, q, k), "int8")
    where = (*split(stride), top, left, *split(dilation), border, zero, low, high)
    arrays = (x, w, bias, multiplier, y)
    pixels = counted("static_conv2d", b * p * q)
    if each == 1 and groups == c:
        run = kernel(_SOURCE, "static_depthwise")
        run(spread(y.size), 256, *arrays, y.size, h, wide, c, k, p, q, r, s, *where)
        return y
    grid = (squares("static_conv2d", pixels, k // groups, _SIDE), 1, groups)
    kernel(_SOURCE, "static_conv2d")(grid, 128, *arrays, b, h, wide, c, k, p, q, groups, r, s, *where)
    return y
