"""Convolution as one matrix product in NumPy: every window becomes a column. What a NumPy user would write.

Small images are laid side by side first: one product of a long row of windows rather than many of short ones.

Chellapilla, Puri, Simard 2006, "High Performance Convolutional Neural Networks for Document Processing".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ..gemm import blas
from .geometry import Geometry, Pair, geometry

Array = NDArray[Any]


SMALL_IMAGE = 128  # outputs of one image, below which images are put together


def _together(g: Geometry) -> bool:
    """Whether the images become one."""
    return g.groups == 1 and g.n > 1 and g.p * g.q < SMALL_IMAGE and g.c * g.k >= 64


def as_one(a: Array) -> Array:
    """(N, C, ...) -> (C, N * ...), a copy."""
    return np.ascontiguousarray(a.swapaxes(0, 1)).reshape(a.shape[1], len(a) * math.prod(a.shape[2:]))


def apart(a: Array, n: int, *sizes: int) -> Array:
    """(C, N * ...) -> (N, C, ...), a copy."""
    return np.ascontiguousarray(a.reshape(len(a), n, *sizes).swapaxes(0, 1))


def _matmul(a: Array, b: Array) -> Array:
    """a @ b by the faster of the two ways. The kernel pays only where each single product is large."""
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    size = m * n * k
    if min(m, n) < 4 or size < 1 << 18 or k < (16 if size >= 1 << 22 else 32):
        return blas.matmul(a, b)
    from ..gemm import cpu  # loads Numba

    return cpu.matmul(a, b)


def _columns(x: Array, g: Geometry) -> Array:
    """Each window of x as a column.    (N, groups, C / groups * R * S, P * Q)"""
    (sh, sw), (ph, pw), (dh, dw) = g.stride, g.padding, g.dilation
    if g.r == g.s == sh == sw == 1 and not (ph or pw):  # every window is a pixel
        return x.reshape(g.n, g.groups, g.c // g.groups, g.p * g.q)
    if ph or pw:
        x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    n, c, h, w = x.strides
    cg = g.c // g.groups
    windows = as_strided(
        x,
        (g.n, g.groups, cg, g.r, g.s, g.p, g.q),
        (n, cg * c, c, dh * h, dw * w, sh * h, sw * w),
        writeable=False,
    )
    return windows.reshape(g.n, g.groups, cg * g.r * g.s, g.p * g.q)


def _grouped(w: Array, g: Geometry) -> Array:
    """(groups, K / groups, C / groups * R * S)"""
    return w.reshape(g.groups, g.k // g.groups, g.c // g.groups * g.r * g.s)


def conv2d(x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """y = w @ columns(x) + b"""
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    if _together(g):
        columns = as_one(_columns(x, g)[:, 0])
        y = apart(_matmul(w.reshape(g.k, -1), columns), g.n, g.p, g.q)
    else:
        y = _matmul(_grouped(w, g), _columns(x, g)).reshape(g.y_shape)
    if b is not None:
        y += b[:, None, None]
    return y


def conv2d_dx(
    dy: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """The columns' gradient w.T @ dy, added back to where each column was read (col2im)."""
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    (sh, sw), (ph, pw), (dh, dw) = g.stride, g.padding, g.dilation
    if _together(g):
        cols = apart(_matmul(w.reshape(g.k, -1).T, as_one(dy)), g.n, g.p * g.q)
    else:
        cols = _matmul(_grouped(w, g).swapaxes(1, 2), dy.reshape(g.n, g.groups, g.k // g.groups, g.p * g.q))
    if g.r == g.s == 1 and g.stride == (1, 1) and g.padding == (0, 0):
        return cols.reshape(g.x_shape)
    cols = cols.reshape(g.n, g.c, g.r, g.s, g.p, g.q)
    dxp = np.zeros((g.n, g.c, g.h + 2 * ph, g.w + 2 * pw), dy.dtype)
    for r in range(g.r):
        for s in range(g.s):
            dxp[:, :, r * dh : r * dh + (g.p - 1) * sh + 1 : sh, s * dw : s * dw + (g.q - 1) * sw + 1 : sw] += cols[
                :, :, r, s
            ]
    return np.ascontiguousarray(dxp[:, :, ph : ph + g.h, pw : pw + g.w])


def conv2d_dw(
    dy: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dw = sum over images of dy @ columns(x).T"""
    g = geometry(x.shape, tuple(w_shape), stride, padding, dilation, groups)
    if _together(g):
        return _matmul(as_one(dy), as_one(_columns(x, g)[:, 0]).T).reshape(g.w_shape)
    dyg = dy.reshape(g.n, g.groups, g.k // g.groups, g.p * g.q)
    each = _matmul(dyg, _columns(x, g).swapaxes(2, 3))
    return (each if g.n == 1 else np.add.reduce(each, axis=0)).reshape(g.w_shape)
