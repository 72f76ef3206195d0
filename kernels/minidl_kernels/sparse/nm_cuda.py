"""Two of four on a GPU: nm.cu, values (N, K / 4, 2) and a byte for every 4 of them."""

from __future__ import annotations

import math
from typing import Any

from ..cuda.launch import ceil_div, contiguous, counted, cupy, kernel


def _product(name: str, side: tuple[int, int], x: Any, values: Any, where: Any, b: Any) -> Any:
    """side: outputs and rows that a block makes."""
    (x, values, where, b), n, k = contiguous(x, values, where, b), len(values), x.shape[-1]
    m, (columns, rows) = math.prod(x.shape[:-1]), side
    y = cupy().empty((*x.shape[:-1], n), x.dtype)
    x, out, run = x.reshape(m, k), y.reshape(m, n), kernel("sparse/nm.cu", name, x.dtype)
    run(ceil_div(n, columns) * ceil_div(counted("nm_linear", m), rows), 256, x, values, where, b, out, m, n, k)
    return y


def warps(x: Any, values: Any, indices: Any, m: int, b: Any) -> Any:
    return _product("nm_warps", (8, 4), x, values, indices, b)


def tiles(x: Any, values: Any, indices: Any, m: int, b: Any) -> Any:
    return _product("nm_tiles", (64, 64), x, values, indices, b)
