"""Softmax and cross-entropy by definition, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _shifted(x: Array) -> tuple[Array, Array]:
    """x - m and m, the greatest of each row."""
    m = x.max(-1, keepdims=True, initial=-np.inf)
    return x - m, m


def softmax(x: Array) -> Array:
    with np.errstate(all="ignore"):
        e = np.exp(_shifted(x)[0])
        return np.ascontiguousarray(e / e.sum(-1, keepdims=True))


def softmax_backward(dy: Array, y: Array) -> Array:
    with np.errstate(all="ignore"):
        z = dy * y
        return np.ascontiguousarray(z - y * z.sum(-1, keepdims=True))


def log_softmax(x: Array) -> Array:
    with np.errstate(all="ignore"):
        z = _shifted(x)[0]
        return np.ascontiguousarray(z - np.log(np.exp(z).sum(-1, keepdims=True)))


def log_softmax_backward(dy: Array, y: Array) -> Array:
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(dy - np.exp(y) * dy.sum(-1, keepdims=True))


def _targets(x: Array, t: Array, w: Array | None, ignore_index: int) -> tuple[Array, Array, Array]:
    """Which rows count, their classes (0 in the others), the weights of all classes."""
    keep = t != ignore_index
    bad = keep & ((t < 0) | (t >= x.shape[1]))
    if bad.any():
        raise IndexError(f"class {int(t[bad][0])} is out of bounds: there are {x.shape[1]} classes")
    return keep, np.where(keep, t, 0).astype(np.int64), np.ones(x.shape[1], x.dtype) if w is None else w


def cross_entropy(x: Array, t: Array, w: Array | None, ignore_index: int, smoothing: float) -> tuple[Array, Array]:
    keep, at, weights = _targets(x, t, w, ignore_index)
    if not x.size:
        return np.zeros(len(t), x.dtype), np.full(len(t), -np.inf, x.dtype)
    with np.errstate(all="ignore"):
        z, m = _shifted(x)
        lse = (m + np.log(np.exp(z).sum(-1, keepdims=True)))[:, 0]
        logp = x - lse[:, None]
        loss = -(1 - smoothing) * weights[at] * logp[np.arange(len(at)), at]
        if smoothing:
            loss -= smoothing / x.shape[1] * (weights * logp).sum(-1)
    return np.where(keep, loss, 0).astype(x.dtype), lse


def cross_entropy_backward(
    dy: Array, x: Array, t: Array, lse: Array, w: Array | None, ignore_index: int, smoothing: float
) -> Array:
    keep, at, weights = _targets(x, t, w, ignore_index)
    if not x.size:
        return np.zeros(x.shape, x.dtype)
    hit, each = (1 - smoothing) * weights[at], smoothing / x.shape[1]
    with np.errstate(all="ignore"):
        dx = np.exp(x - lse[:, None]) * (hit + each * weights.sum())[:, None] - each * weights
        dx[np.arange(len(at)), at] -= hit
        return np.where(keep[:, None], dx * dy[:, None], 0).astype(x.dtype)
