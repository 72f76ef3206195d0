"""Convolution and its gradients on a GPU: conv.cu, implicit matrix products."""

from __future__ import annotations

import math
from typing import Any

from ..cuda.launch import ceil_div, contiguous, counted, cupy, kernel, spread, squares
from .geometry import Geometry, geometry

_SOURCE = "conv/conv.cu"
_SIDE = 64  # rows and columns of a tile
_BLOCKS = 256  # conv2d_dw shares its sums among blocks until there are about so many


def _numbers(g: Geometry) -> tuple[int, ...]:
    sizes = (g.n, g.c, g.h, g.w, g.k, g.r, g.s, g.p, g.q, g.groups)
    return *sizes, *g.stride, *g.padding, *g.dilation


def conv2d(x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    x, w, b = contiguous(x, w, b)
    y = cupy().empty(g.y_shape, x.dtype)
    grid = (squares("conv2d", g.k // groups, g.n * g.p * g.q, _SIDE), 1, groups)
    kernel(_SOURCE, "conv2d", x.dtype)(grid, 256, x, w, b, y, *_numbers(g))
    return y


def conv2d_dx(dy: Any, w: Any, x_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    (dy, w), xp = contiguous(dy, w), cupy()
    dx, odd = xp.empty(g.x_shape, dy.dtype), xp.zeros(1, "int32")
    kernel(_SOURCE, "find_odd", dy.dtype)(spread(w.size), 256, w, odd, w.size)
    grid = (squares("conv2d_dx", g.c // groups, g.n * g.h * g.w, _SIDE), 1, groups)
    kernel(_SOURCE, "conv2d_dx", dy.dtype)(grid, 256, dy, w, odd, dx, *_numbers(g))
    return dx


def conv2d_dw(dy: Any, x: Any, w_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    g = geometry(x.shape, tuple(w_shape), stride, padding, dilation, groups)
    (dy, x), xp = contiguous(dy, x), cupy()
    blocks = squares("conv2d_dw", g.k // groups, math.prod(g.w_shape[1:]), _SIDE)
    total = counted("conv2d_dw", g.n * g.p * g.q)
    share = max(1, ceil_div(total, max(1, _BLOCKS // max(1, blocks * groups))))
    share = ceil_div(share, 512) * 512  # no share smaller than what pays for itself
    shares = max(1, ceil_div(total, share))
    parts, dw = xp.empty((shares, *g.w_shape), x.dtype), xp.empty(g.w_shape, x.dtype)
    kernel(_SOURCE, "conv2d_dw", x.dtype)((blocks, 1, groups * shares), 256, dy, x, parts, shares, share, *_numbers(g))
    kernel(_SOURCE, "add_shares", x.dtype)(spread(dw.size), 256, parts, dw, shares, dw.size)
    return dw
