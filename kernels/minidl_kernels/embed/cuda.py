"""Rows of a table added up on a GPU: embed.cu, after a sort by CuPy."""

from __future__ import annotations

from typing import Any

from ..cuda.launch import ceil_div, check_index, contiguous, cupy, kernel


def scatter_rows(x: Any, index: Any, rows: int) -> Any:
    """An index outside is left out, unless the debug switch of launch.py is on."""
    check_index("scatter_rows", "index", index, rows)
    (x,), xp, (count, d) = contiguous(x), cupy(), x.shape
    index = index.astype("int64", copy=False)
    order = xp.argsort(index * max(count, 1) + xp.arange(count)) if count else xp.empty(0, "int64")  # stable
    starts = xp.searchsorted(index[order], xp.arange(rows + 1)).astype("int64")
    y = xp.empty((rows, d), x.dtype)
    run = kernel("embed/embed.cu", "scatter_rows", x.dtype)
    run((ceil_div(rows, 8), ceil_div(d, 32)), (32, 8), x, order.astype("int64", copy=False), starts, y, rows, d)
    return y
