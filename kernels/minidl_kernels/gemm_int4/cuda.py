"""Weights of 4 bits on a GPU: int4.cu, weights made floats in registers."""

from __future__ import annotations

import math
from typing import Any

from ..cuda.launch import aligned, ceil_div, contiguous, cupy, kernel

_SOURCE = "gemm_int4/int4.cu"
_MOST_BLOCKS = 65535  # along y


def _product(name: str, side: tuple[int, int], x: Any, w_q: Any, scale: Any, zero: Any, b: Any) -> Any:
    """side: outputs and rows that a block makes."""
    (x, w_q, scale, zero, b), xp = contiguous(x, w_q, scale, zero, b), cupy()
    n, k = len(scale), x.shape[-1]
    y = xp.empty((*x.shape[:-1], n), x.dtype)
    if not k:
        y[...] = 0 if b is None else b
        return y
    m, (columns, rows) = math.prod(x.shape[:-1]), side
    x, out, group = x.reshape(m, k), y.reshape(m, n), k // scale.shape[1]
    run = kernel(_SOURCE, name, x.dtype)
    for first in range(0, m, rows * _MOST_BLOCKS):
        some = slice(first, first + rows * _MOST_BLOCKS)
        grid = (ceil_div(n, columns), ceil_div(len(x[some]), rows))
        run(grid, 256, x[some], w_q, scale, zero, b, out[some], len(x[some]), n, k, group)
    return y


def warps(x: Any, w_q: Any, scale: Any, zero: Any, b: Any) -> Any:
    return _product("int4_warps", (8, 4), x, aligned(w_q, 4).reshape(-1).view("uint32"), scale, zero, b)


def tiles(x: Any, w_q: Any, scale: Any, zero: Any, b: Any) -> Any:
    return _product("int4_tiles", (64, 64), x, w_q, scale, zero, b)
