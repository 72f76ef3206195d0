"""Weights of 4 bits on a GPU: int4.cu, weights made floats in registers."""

from __future__ import annotations

import math
from typing import Any

from ..cuda.launch import aligned, ceil_div, contiguous, counted, cupy, kernel

_SOURCE = "gemm_int4/int4.cu"


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
    run(
        ceil_div(n, columns) * ceil_div(counted("int4_linear", m), rows),
        256,
        x,
        w_q,
        scale,
        zero,
        b,
        out,
        m,
        n,
        k,
        group,
    )
    return y


def warps(x: Any, w_q: Any, scale: Any, zero: Any, b: Any) -> Any:
    return _product("int4_warps", (8, 4), x, aligned(w_q, 4).reshape(-1).view("uint32"), scale, zero, b)


def tiles(x: Any, w_q: Any, scale: Any, zero: Any, b: Any) -> Any:
    return _product("int4_tiles", (64, 64), x, w_q, scale, zero, b)
