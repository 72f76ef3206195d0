"""Normalisations on a GPU: norm.cu, a block for each stretch that is normalised together."""

from __future__ import annotations

import math
from typing import Any

from ..cuda.launch import ceil_div, contiguous, counted, cupy, kernel, lanes, rows, spread

_SOURCE = "norm/norm.cu"
_SHARE = 256  # rows that one block adds up


def _forward(x: Any, w: Any, b: Any, sizes: tuple[int, int, int], groups: int, eps: float, centred: bool = True) -> Any:
    """y, mean, var of x seen as (N, C, L); the statistics flat, mean None for rms norm."""
    x, w, b = contiguous(x, w, b)
    n, c, _ = sizes
    count = n * groups if groups else c
    size = counted("normalise", x.size // count) if count else 0
    y, (mean, var) = cupy().empty_like(x), (cupy().empty(count, x.dtype) for _ in range(2))
    mean = mean if centred else None
    kernel(_SOURCE, "normalise", x.dtype)(count, lanes(size, 512), x, w, b, y, mean, var, *sizes, groups, eps)
    return y, mean, var


def _backward(
    dy: Any, x: Any, w: Any, mean: Any, var: Any, sizes: tuple[int, int, int], groups: int, eps: float
) -> tuple[Any, Any, Any]:
    """dx, dw, db."""
    dy, x, w, mean, var = contiguous(dy, x, w, mean, var)
    (n, c, length), xp = sizes, cupy()
    count = n * groups if groups else c
    size = counted("normalise_backward", x.size // count) if count else 0
    dx, dw, db = xp.empty_like(x), xp.zeros(c, x.dtype), xp.zeros(c, x.dtype)
    run = kernel(_SOURCE, "normalise_backward", x.dtype)
    run(count, lanes(size, 512), dy, x, w, mean, var, dx, dw, db, *sizes, groups, eps)
    if groups and length == 1 and groups == 1:
        shares = max(1, ceil_div(n, _SHARE))
        parts = xp.empty((2, shares, c), x.dtype)
        grid, block = (ceil_div(c, 32), shares), (32, 8)
        run = kernel(_SOURCE, "weight_gradients_of_rows", x.dtype)
        run(grid, block, dy, x, mean, var, parts[0], parts[1], n, c, _SHARE, eps)
        for part, sums in ((parts[0], dw), (parts[1], db)):
            kernel(_SOURCE, "column_sums", x.dtype)(grid[0], block, part, sums, shares, c)
    elif groups:
        run = kernel(_SOURCE, "weight_gradients_of_planes", x.dtype)
        run(c, lanes(counted("normalise_backward", n * length)), dy, x, mean, var, dw, db, *sizes, groups, eps)
    return dx, dw, db


def _as_rows(x: Any) -> tuple[int, int, int]:
    return rows(x), x.shape[-1], 1


def _as_planes(x: Any) -> tuple[int, int, int]:
    return x.shape[0], x.shape[1], math.prod(x.shape[2:])


def layer_norm(x: Any, w: Any, b: Any, eps: float) -> tuple[Any, Any, Any]:
    y, mean, var = _forward(x, w, b, _as_rows(x), 1, eps)
    return y, mean.reshape(x.shape[:-1]), var.reshape(x.shape[:-1])


def layer_norm_backward(dy: Any, x: Any, w: Any, mean: Any, var: Any, eps: float) -> tuple[Any, Any, Any]:
    return _backward(dy, x, w, mean, var, _as_rows(x), 1, eps)


def rms_norm(x: Any, w: Any, eps: float) -> tuple[Any, Any]:
    y, _, square = _forward(x, w, None, _as_rows(x), 1, eps, centred=False)
    return y, square.reshape(x.shape[:-1])


def rms_norm_backward(dy: Any, x: Any, w: Any, square: Any, eps: float) -> tuple[Any, Any]:
    dx, dw, _ = _backward(dy, x, w, None, square, _as_rows(x), 1, eps)
    return dx, dw


def batch_norm(x: Any, w: Any, b: Any, eps: float) -> tuple[Any, Any, Any]:
    return _forward(x, w, b, _as_planes(x), 0, eps)


def batch_norm_backward(dy: Any, x: Any, w: Any, mean: Any, var: Any, eps: float) -> tuple[Any, Any, Any]:
    return _backward(dy, x, w, mean, var, _as_planes(x), 0, eps)


def channel_affine(x: Any, scale: Any, shift: Any, f: str, out: Any) -> Any:
    y = cupy().empty(x.shape, x.dtype) if out is None else out
    x, scale, shift = contiguous(x, scale, shift)
    _, c, length = _as_planes(x)
    run = kernel(_SOURCE, "channel_affine", x.dtype)
    run(spread(x.size), 256, x, scale, shift, y, x.size, c, length, ("", "relu", "relu6").index(f))
    return y


def group_norm(x: Any, groups: int, w: Any, b: Any, eps: float) -> tuple[Any, Any, Any]:
    y, mean, var = _forward(x, w, b, _as_planes(x), groups, eps)
    return y, mean.reshape(x.shape[0], groups), var.reshape(x.shape[0], groups)


def group_norm_backward(dy: Any, x: Any, groups: int, w: Any, mean: Any, var: Any, eps: float) -> tuple[Any, Any, Any]:
    return _backward(dy, x, w, mean, var, _as_planes(x), groups, eps)
