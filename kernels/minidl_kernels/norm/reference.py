"""Normalisations by definition, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Axes = tuple[int, ...]


def _forward(x: Array, w: Array | None, b: Array | None, axes: Axes, eps: float) -> tuple[Array, Array, Array]:
    with np.errstate(all="ignore"):
        mean = x.mean(axes, keepdims=True)
        centred = x - mean
        var = (centred * centred).mean(axes, keepdims=True)
        y = centred / np.sqrt(var + x.dtype.type(eps))
        y = y if w is None else y * w
        y = y if b is None else y + b
    return np.ascontiguousarray(y).reshape(x.shape), mean, var


def _backward(
    dy: Array, x: Array, w: Array | None, mean: Array, var: Array, axes: Axes, kept: Axes, eps: float
) -> tuple[Array, Array, Array]:
    """`kept`: the axes over which dw and db are summed."""
    with np.errstate(all="ignore"):
        r = 1 / np.sqrt(var + x.dtype.type(eps))
        xhat = (x - mean) * r
        g = dy if w is None else dy * w
        dx = r * (g - g.mean(axes, keepdims=True) - xhat * (g * xhat).mean(axes, keepdims=True))
        return np.ascontiguousarray(dx).reshape(x.shape), (dy * xhat).sum(kept), dy.sum(kept)


def layer_norm(x: Array, w: Array | None, b: Array | None, eps: float) -> tuple[Array, Array, Array]:
    y, mean, var = _forward(x, w, b, (-1,), eps)
    return y, mean[..., 0], var[..., 0]


def layer_norm_backward(
    dy: Array, x: Array, w: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    lead = tuple(range(x.ndim - 1))
    return _backward(dy, x, w, mean[..., None], var[..., None], (-1,), lead, eps)


def rms_norm(x: Array, w: Array | None, eps: float) -> tuple[Array, Array]:
    with np.errstate(all="ignore"):
        square = (x * x).mean(-1, keepdims=True)
        y = x / np.sqrt(square + x.dtype.type(eps))
        y = y if w is None else y * w
    return np.ascontiguousarray(y).reshape(x.shape), square[..., 0]


def rms_norm_backward(dy: Array, x: Array, w: Array | None, square: Array, eps: float) -> tuple[Array, Array]:
    with np.errstate(all="ignore"):
        r = 1 / np.sqrt(square[..., None] + x.dtype.type(eps))
        xhat, g = x * r, dy if w is None else dy * w
        dx = r * (g - xhat * (g * xhat).mean(-1, keepdims=True))
        return np.ascontiguousarray(dx).reshape(x.shape), (dy * xhat).sum(tuple(range(x.ndim - 1)))


def _per_channel(a: Array | None, x: Array) -> Array | None:
    return None if a is None else a.reshape((1, -1) + (1,) * (x.ndim - 2))


def batch_norm(x: Array, w: Array | None, b: Array | None, eps: float) -> tuple[Array, Array, Array]:
    axes = (0, *range(2, x.ndim))
    y, mean, var = _forward(x, _per_channel(w, x), _per_channel(b, x), axes, eps)
    return y, mean.reshape(-1), var.reshape(-1)


def batch_norm_backward(
    dy: Array, x: Array, w: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    axes = (0, *range(2, x.ndim))
    one = (1, -1) + (1,) * (x.ndim - 2)
    return _backward(dy, x, _per_channel(w, x), mean.reshape(one), var.reshape(one), axes, axes, eps)


def channel_affine(x: Array, scale: Array, shift: Array, f: str, out: Array | None) -> Array:
    one = (1, -1) + (1,) * (x.ndim - 2)
    with np.errstate(all="ignore"):
        y = x * scale.reshape(one) + shift.reshape(one)
        y = np.maximum(y, 0) if f else y
        y = np.minimum(y, 6) if f == "relu6" else y
    if out is None:
        return np.ascontiguousarray(y).reshape(x.shape)
    out[...] = y
    return out


def group_norm(x: Array, groups: int, w: Array | None, b: Array | None, eps: float) -> tuple[Array, Array, Array]:
    shape = (x.shape[0], groups, x.shape[1] // groups, -1)
    w, b = (None if a is None else a.reshape(1, groups, -1, 1) for a in (w, b))
    y, mean, var = _forward(x.reshape(shape), w, b, (2, 3), eps)
    return y.reshape(x.shape), mean[..., 0, 0], var[..., 0, 0]


def group_norm_backward(
    dy: Array, x: Array, groups: int, w: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    shape = (x.shape[0], groups, x.shape[1] // groups, -1)
    w, mean, var = None if w is None else w.reshape(1, groups, -1, 1), mean[..., None, None], var[..., None, None]
    dx, dw, db = _backward(dy.reshape(shape), x.reshape(shape), w, mean, var, (2, 3), (0, 3), eps)
    return dx.reshape(x.shape), dw.reshape(-1), db.reshape(-1)
