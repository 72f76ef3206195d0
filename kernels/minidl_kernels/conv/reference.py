"""Convolution by its definition: the sum over the taps (r, s) of the window, each a product over channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .geometry import Geometry, Pair, geometry

Array = NDArray[Any]


def _pad(x: Array, g: Geometry) -> Array:
    (ph, pw) = g.padding
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))


def _under_tap(xp: Array, r: int, s: int, g: Geometry) -> Array:
    """The view of padded x that tap (r, s) reads, one element per output position.    (N, groups, C / groups, P, Q)"""
    (sh, sw), (dh, dw) = g.stride, g.dilation
    rows, cols = slice(r * dh, r * dh + (g.p - 1) * sh + 1, sh), slice(s * dw, s * dw + (g.q - 1) * sw + 1, sw)
    return xp[:, :, rows, cols].reshape(g.n, g.groups, g.c // g.groups, g.p, g.q)


def conv2d(x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """y[n, k, p, q] = b[k] + sum_crs xp[n, c, p * stride + r * dilation, q * stride + s * dilation] * w[k, c, r, s]"""
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    xp = _pad(x, g)
    wg = w.reshape(g.groups, g.k // g.groups, g.c // g.groups, g.r, g.s)
    y = np.zeros((g.n, g.groups, g.k // g.groups, g.p, g.q), x.dtype)
    for r in range(g.r):
        for s in range(g.s):
            y += np.einsum("ngcpq,gkc->ngkpq", _under_tap(xp, r, s, g), wg[..., r, s])
    y = y.reshape(g.y_shape)
    if b is not None:
        y += b[:, None, None]
    return y


def conv2d_dx(
    dy: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """Each dy[n, k, p, q] goes back, times w[k, c, r, s], to the element of x that the tap (r, s) read."""
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    (ph, pw), (h, wd) = g.padding, (g.h, g.w)
    dyg = dy.reshape(g.n, g.groups, g.k // g.groups, g.p, g.q)
    wg = w.reshape(g.groups, g.k // g.groups, g.c // g.groups, g.r, g.s)
    dxp = np.zeros((g.n, g.c, h + 2 * ph, wd + 2 * pw), dy.dtype)
    for r in range(g.r):
        for s in range(g.s):
            # Splitting the channel axis of a slice is always a view, so this adds into dxp.
            _under_tap(dxp, r, s, g)[...] += np.einsum("ngkpq,gkc->ngcpq", dyg, wg[..., r, s])
    return np.ascontiguousarray(dxp[:, :, ph : ph + h, pw : pw + wd])


def conv2d_dw(
    dy: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dw[k, c, r, s] = sum_npq dy[n, k, p, q] * xp[n, c, p * stride + r * dilation, q * stride + s * dilation]"""
    g = geometry(x.shape, tuple(w_shape), stride, padding, dilation, groups)
    xp = _pad(x, g)
    dyg = dy.reshape(g.n, g.groups, g.k // g.groups, g.p, g.q)
    dw = np.zeros((g.groups, g.k // g.groups, g.c // g.groups, g.r, g.s), x.dtype)
    for r in range(g.r):
        for s in range(g.s):
            dw[..., r, s] = np.einsum("ngkpq,ngcpq->gkc", dyg, _under_tap(xp, r, s, g))
    return dw.reshape(g.w_shape)
