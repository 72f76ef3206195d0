"""Convolution as one matrix product: all windows of all images side by side, gathered by all threads.

    columns (C R S, N P Q)      y = w @ columns      dw = dy @ columns.T      dx = the columns w.T @ dy, added up

What im2col.py does, compiled. It writes and reads R S times as many numbers as x has, which pays where the product is
much faster than any other: on a tile unit.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu import threads
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..gemm import cpu as gemm
from .geometry import Geometry, Pair, geometry
from .im2col import apart, as_one

Array = NDArray[Any]


@jit(inner=True)
def _inside(first, step, size, count):  # type: ignore[no-untyped-def]
    """The places q in 0 .. count - 1 at which 0 <= first + q * step < size: from the first to behind the last."""
    low = 0 if first >= 0 else (-first + step - 1) // step
    high = 0 if first >= size else (size - 1 - first) // step + 1
    return min(low, count), max(min(high, count), min(low, count))


@jit(inner=True)
def _gather(c, slot, x, columns, rs, ss, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w):  # type: ignore[no-untyped-def]
    """Task: all taps of one channel."""
    images, _, h, w = x.shape
    _, _, p, q = columns.shape
    for r in range(rs):
        for s in range(ss):
            row_of_columns = (c * rs + r) * ss + s
            left = s * dil_w - pad_w
            low, high = _inside(left, stride_w, w, q)
            for n in range(images):
                for i in range(p):
                    row = i * stride_h + r * dil_h - pad_h
                    inside = 0 <= row < h
                    for j in range(low if inside else q):
                        columns[row_of_columns, n, i, j] = 0
                    if inside:
                        for j in range(low, high):
                            columns[row_of_columns, n, i, j] = x[n, c, row, left + j * stride_w]
                        for j in range(high, q):
                            columns[row_of_columns, n, i, j] = 0


@jit(inner=True)
def _add_up(task, slot, dx, columns, rs, ss, stride_h, stride_w, pad_h, pad_w, dil_h, dil_w):  # type: ignore[no-untyped-def]
    """Task: one channel of one image, tap after tap."""
    _, channels, h, w = dx.shape
    _, _, p, q = columns.shape
    n, c = task // channels, task % channels
    for i in range(h):
        for j in range(w):
            dx[n, c, i, j] = 0
    for r in range(rs):
        for s in range(ss):
            left = s * dil_w - pad_w
            low, high = _inside(left, stride_w, w, q)
            for i in range(p):
                row = i * stride_h + r * dil_h - pad_h
                if 0 <= row < h:
                    for j in range(low, high):
                        dx[n, c, row, left + j * stride_w] += columns[(c * rs + r) * ss + s, n, i, j]


@jit
def _gather_all(nthreads, x, columns, window, stride, padding, dilation):  # type: ignore[no-untyped-def]
    (rs, ss), (sh, sw), (ph, pw), (dh, dw) = window, stride, padding, dilation
    parallel_for(_gather, x.shape[1], nthreads, (x, columns, rs, ss, sh, sw, ph, pw, dh, dw))


@jit
def _add_up_all(nthreads, dx, columns, window, stride, padding, dilation):  # type: ignore[no-untyped-def]
    (rs, ss), (sh, sw), (ph, pw), (dh, dw) = window, stride, padding, dilation
    parallel_for(_add_up, dx.shape[0] * dx.shape[1], nthreads, (dx, columns, rs, ss, sh, sw, ph, pw, dh, dw))


def _columns(x: Array, g: Geometry) -> Array:
    """(groups, C / groups R S, N P Q)"""
    columns = np.empty((g.c * g.r * g.s, g.n, g.p, g.q), x.dtype)
    plain = np.ascontiguousarray(x)
    _gather_all(threads.get_num_threads(), plain, columns, (g.r, g.s), g.stride, g.padding, g.dilation)
    return columns.reshape(g.groups, len(columns) // g.groups, g.n * g.p * g.q)


def _lines(a: Array, g: Geometry) -> Array:
    """Filters (K, C / groups, R, S) or outputs (K, N P Q), group by group."""
    return a.reshape(g.groups, g.k // g.groups, math.prod(a.shape[1:]))


def conv2d(x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """y = w @ columns + b"""
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    y = gemm.matmul(_lines(w, g), _columns(x, g)).reshape(g.k, g.n * g.p * g.q)
    if b is not None:
        y += b[:, None]
    return apart(y, g.n, g.p, g.q)


def conv2d_dx(
    dy: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """The columns w.T @ dy, each added to where it was read."""
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    columns = gemm.matmul(_lines(w, g).swapaxes(1, 2), _lines(as_one(dy), g))
    columns = columns.reshape(g.c * g.r * g.s, g.n, g.p, g.q)
    dx = np.empty(g.x_shape, dy.dtype)
    _add_up_all(threads.get_num_threads(), dx, columns, (g.r, g.s), g.stride, g.padding, g.dilation)
    return dx


def conv2d_dw(
    dy: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dw = dy @ columns.T"""
    g = geometry(x.shape, tuple(w_shape), stride, padding, dilation, groups)
    return gemm.matmul(_lines(as_one(dy), g), _columns(x, g).swapaxes(1, 2)).reshape(g.w_shape)
