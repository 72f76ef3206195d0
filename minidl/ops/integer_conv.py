"""Convolution of int64 and its transpose, exact modulo 2^64, tap by tap: the kernels take floats only."""

from __future__ import annotations

from typing import Any

import numpy as np


def _tap(padded: Any, i: int, j: int, out: Any, stride: Any, dilation: Any) -> Any:
    """What tap (i, j) sees of every window, a view."""
    top, left = i * dilation[0], j * dilation[1]
    rows = slice(top, top + (out[0] - 1) * stride[0] + 1, stride[0])
    return padded[..., rows, slice(left, left + (out[1] - 1) * stride[1] + 1, stride[1])]


def _in_groups(w: Any, groups: int) -> Any:
    return w.reshape(groups, w.shape[0] // groups, *w.shape[1:])  # G, K, C, R, S


def conv2d(x: Any, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int, out: Any) -> Any:
    """As :class:`minidl.ops.conv.conv2d_op`, for integers; `out` is the size of the output."""
    n, c = x.shape[:2]
    wide = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    wide = wide.reshape(n, groups, c // groups, *wide.shape[2:])
    wg = _in_groups(w, groups)
    y = np.zeros((n, groups, wg.shape[1], *out), x.dtype)
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            y += np.einsum("ngcpq,gkc->ngkpq", _tap(wide, i, j, out, stride, dilation), wg[..., i, j])
    y = y.reshape(n, w.shape[0], *out)
    return y if b is None else y + b[:, None, None]


def conv2d_dx(dy: Any, w: Any, x_shape: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> Any:
    """As :class:`minidl.ops.conv.conv2d_dx`, for integers."""
    n, c, h, width = x_shape
    wg, out = _in_groups(w, groups), dy.shape[2:]
    parts = dy.reshape(n, groups, -1, *out)
    wide = np.zeros((n, groups, c // groups, h + 2 * padding[0], width + 2 * padding[1]), dy.dtype)
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            place = _tap(wide, i, j, out, stride, dilation)
            place += np.einsum("ngkpq,gkc->ngcpq", parts, wg[..., i, j])
    wide = wide.reshape(n, c, *wide.shape[3:])
    return wide[..., padding[0] : padding[0] + h, padding[1] : padding[1] + width].copy()
