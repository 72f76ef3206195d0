"""Compressed sparse rows on a GPU: csr.cu, for the layer and, with the weights turned, for its gradient."""

from __future__ import annotations

import math
from typing import Any

from ..cuda.launch import ceil_div, check_index, cupy, kernel


def csr_linear(x: Any, values: Any, indices: Any, indptr: Any, b: Any) -> Any:
    """An index that does not exist gives NaN, unless the debug switch of launch.py is on."""
    check_index("csr_linear", "an index", indices, x.shape[-1])
    return _product(x, values, indices, indptr, b, len(indptr) - 1)


def csr_linear_dx(dy: Any, values: Any, indices: Any, indptr: Any, k: int) -> Any:
    """dy @ W is the product with W^T, whose rows are W's columns: entries in order of column, then of row."""
    check_index("csr_linear_dx", "an index", indices, k)
    xp, n, stored = cupy(), len(indptr) - 1, len(values)
    columns = indices.astype("int64")
    place = xp.arange(stored, dtype="int64")
    order = xp.argsort(columns * stored + place) if stored else place
    row = xp.searchsorted(indptr, place, side="right") - 1  # of each entry
    starts = xp.searchsorted(columns[order], xp.arange(k + 1, dtype="int64")).astype("int64")
    return _product(dy, values[order], row[order].clip(0, max(n - 1, 0)), starts, None, k)


def _product(x: Any, values: Any, columns: Any, starts: Any, b: Any, n: int) -> Any:
    xp, k, count = cupy(), x.shape[-1], math.prod(x.shape[:-1])
    rows, y = xp.ascontiguousarray(x).reshape(count, k), xp.empty((*x.shape[:-1], n), x.dtype)
    values, starts, b = (None if a is None else xp.ascontiguousarray(a) for a in (values, starts, b))
    columns, out = xp.ascontiguousarray(columns, "int32"), y.reshape(count, n)
    run = kernel("sparse/csr.cu", "csr_linear", x.dtype)
    run(ceil_div(n, 8) * count, 256, rows, values, columns, starts, b, out, n, k, len(values))
    return y
