"""Max pooling by definition, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pair = tuple[int, int]


def max_pool2d(x: Array, window: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair) -> tuple[Array, Array]:
    """One comparison of whole images per tap of the window."""
    (h, w), (p, q) = x.shape[2:], size
    y = np.zeros((*x.shape[:2], p, q), x.dtype)
    index = np.full(y.shape, -1, np.int64)
    for r in range(window[0]):
        for s in range(window[1]):
            rows = np.arange(p) * stride[0] - padding[0] + r * dilation[0]
            cols = np.arange(q) * stride[1] - padding[1] + s * dilation[1]
            inside = ((rows >= 0) & (rows < h))[:, None] & ((cols >= 0) & (cols < w))
            rows, cols = rows.clip(0, max(h - 1, 0)), cols.clip(0, max(w - 1, 0))
            v = x[:, :, rows[:, None], cols]
            better = inside & ((index < 0) | (v > y) | (v != v))
            np.copyto(y, v, where=better)
            np.copyto(index, rows[:, None] * w + cols, where=better)
    return y, index


def scatter_plane(x: Array, index: Array, width: int) -> Array:
    """Values added at their places, in order."""
    _inside(index, width)
    y = np.zeros((*x.shape[:-1], width), x.dtype)
    rows = y.reshape(-1, width) if width else y.reshape(x.size // max(x.shape[-1], 1), 0)
    flat = index.reshape(len(rows), -1) if len(rows) else index.reshape(0, 0)
    np.add.at(rows, (np.arange(len(rows))[:, None], flat), x.reshape(flat.shape))
    return y


def gather_plane(x: Array, index: Array) -> Array:
    """Values read from their places."""
    _inside(index, x.shape[-1])
    return np.take_along_axis(x, index, -1)


def _inside(index: Array, width: int) -> None:
    if index.size and (index.min() < 0 or index.max() >= width):
        raise IndexError(f"an index is outside the plane of {width} elements: {index.min()} .. {index.max()}")
