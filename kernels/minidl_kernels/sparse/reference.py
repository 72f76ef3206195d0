"""The definition of right, row by row, with sums in float64."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # numpy.typing takes 10 ms to import, and this page is imported with the package
    from numpy.typing import NDArray

    Array = NDArray[Any]


def valid(indices: Array, indptr: Array, count: int, k: int) -> bool:
    """Whether these describe `count` numbers in rows of `k` columns."""
    if indptr[0] != 0 or indptr[-1] != count or (np.diff(indptr) < 0).any():
        return False
    return not count or bool(indices.min() >= 0 and indices.max() < k)


def refuse(op: str, count: int, k: int) -> IndexError:
    """What to raise where they do not."""
    return IndexError(
        f"{op}: indptr must rise from 0 to the {count} stored numbers, and indices must name columns 0 .. {k - 1}"
    )


def csr_linear(x: Array, values: Array, indices: Array, indptr: Array, b: Array | None) -> Array:
    n, k = len(indptr) - 1, x.shape[-1]
    if not valid(indices, indptr, len(values), k):
        raise refuse("csr_linear", len(values), k)
    rows = x.reshape(math.prod(x.shape[:-1]), k).astype(np.float64)
    y = np.empty((len(rows), n), np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for row in range(n):
            some = slice(indptr[row], indptr[row + 1])
            y[:, row] = (rows[:, indices[some]] * values[some]).sum(axis=1)
        if b is not None:
            y += b
        return y.astype(x.dtype).reshape(*x.shape[:-1], n)


def csr_linear_dx(dy: Array, values: Array, indices: Array, indptr: Array, k: int) -> Array:
    n = len(indptr) - 1
    if not valid(indices, indptr, len(values), k):
        raise refuse("csr_linear_dx", len(values), k)
    rows = dy.reshape(math.prod(dy.shape[:-1]), n).astype(np.float64)
    dx = np.zeros((len(rows), k), np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for row in range(n):
            some = slice(indptr[row], indptr[row + 1])
            at: Any = (slice(None), indices[some])
            np.add.at(dx, at, rows[:, row, None] * values[some])
        return dx.astype(dy.dtype).reshape(*dy.shape[:-1], k)


def index_bits(m: int) -> int:
    """Bits of a place among m, such that none lies across two bytes."""
    return 1 if m <= 2 else 2 if m <= 4 else 4


def columns_of(indices: Array, groups: int, n: int, m: int) -> Array:
    """The column of each value, int64 (N, groups * n)."""
    bits, each = index_bits(m), np.unpackbits(indices, axis=1, bitorder="little")
    each = each[:, : groups * n * bits].reshape(len(indices), groups * n, bits)
    return (each << np.arange(bits)).sum(2) + np.arange(groups * n) // n * m


def valid_groups(columns: Array, n: int, m: int, k: int) -> bool:
    """Whether every value lies in its own group and in one of k columns."""
    own = np.arange(columns.shape[1]) // n
    return bool((columns // m == own).all() and columns.max(initial=-1) < k)


def refuse_groups(op: str, m: int, k: int) -> IndexError:
    """What to raise where they do not."""
    return IndexError(f"{op}: indices must name places 0 .. {m - 1} of their groups, in columns 0 .. {k - 1}")


def nm_linear(x: Array, values: Array, indices: Array, m: int, b: Array | None) -> Array:
    outputs, groups, n = values.shape
    columns = columns_of(indices, groups, n, m)
    if not valid_groups(columns, n, m, x.shape[-1]):
        raise refuse_groups("nm_linear", m, x.shape[-1])
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).astype(np.float64)
    y = np.empty((len(rows), outputs), np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        for row, (w, at) in enumerate(zip(values.reshape(outputs, groups * n), columns)):
            y[:, row] = (rows[:, at] * w).sum(axis=1)
        if b is not None:
            y += b
        return y.astype(x.dtype).reshape(*x.shape[:-1], outputs)
