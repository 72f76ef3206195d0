"""Convolution with one channel in each group on a GPU: depthwise.cu, a thread for each output."""

from __future__ import annotations

from typing import Any

from ..cuda.launch import ceil_div, contiguous, cupy, kernel
from .geometry import Geometry, geometry

_SOURCE = "conv/depthwise.cu"
_MOST_PLANES = 65535  # blocks along y


def _numbers(g: Geometry) -> tuple[int, ...]:
    each = g.k // g.c if g.c else 1
    return g.k, each, g.h, g.w, g.r, g.s, g.p, g.q, *g.stride, *g.padding, *g.dilation


def _planes(name: str, arrays: tuple[Any, ...], weights: tuple[Any, ...], out: Any, g: Geometry) -> None:
    """A kernel over all planes of `out`, whole images at a time: `arrays` have the images along their first axis."""
    planes, pixels = out.shape[1], out.shape[2] * out.shape[3]
    step = max(1, _MOST_PLANES // max(planes, 1))
    run = kernel(_SOURCE, name, out.dtype)
    for first in range(0, len(out), step):
        some = slice(first, first + step)
        grid = (ceil_div(pixels, 256), planes * len(out[some]))
        run(grid, 256, *(a[some] for a in arrays), *weights, out[some], *_numbers(g))


def conv2d(x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    x, w, b = contiguous(x, w, b)
    y = cupy().empty(g.y_shape, x.dtype)
    _planes("depthwise", (x,), (w, b), y, g)
    return y


def conv2d_dx(dy: Any, w: Any, x_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    dy, w = contiguous(dy, w)
    dx = cupy().empty(g.x_shape, dy.dtype)
    _planes("depthwise_dx", (dy,), (w,), dx, g)
    return dx


def conv2d_dw(dy: Any, x: Any, w_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    g = geometry(x.shape, tuple(w_shape), stride, padding, dilation, groups)
    dy, x = contiguous(dy, x)
    dw = cupy().empty(g.w_shape, x.dtype)
    kernel(_SOURCE, "depthwise_dw", x.dtype)(dw.size, 256, dy, x, dw, g.n, *_numbers(g))
    return dw
