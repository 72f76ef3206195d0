"""The gradients of `linear` in one call: three short calls one after the other find Python's own data gone from the
caches, which the products fill, and then cost as much as a small product.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import blas as of_blas

Array = NDArray[Any]
Gradients = tuple[Array | None, Array | None, Array | None]

MANY = 1 << 15  # elements from which all threads sum columns


def _rows(x: Array) -> Array:
    return x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def _gradients(product: Callable[[Array, Array], Array], dy: Array, x: Array, w: Array, needs: Any) -> Gradients:
    rows = _rows(dy)
    dx = product(rows, w).reshape(x.shape) if needs[0] else None  # R, N @ N, K
    dw = product(rows.T, _rows(x)) if needs[1] else None  # N, R @ R, K
    return dx, dw, _column_sums(rows) if needs[2] else None


def _column_sums(x: Array) -> Array:
    if x.size >= MANY:
        from . import vector

        if vector.reads(1, x.T):
            return vector.times(x.T, np.ones((1, len(x)), x.dtype))[0]
    return np.add.reduce(x, axis=0)


def blas(dy: Array, x: Array, w: Array, needs: tuple[bool, bool, bool]) -> Gradients:
    return _gradients(of_blas.matmul, dy, x, w, needs)


def tiled(dy: Array, x: Array, w: Array, needs: tuple[bool, bool, bool]) -> Gradients:
    from . import cpu

    return _gradients(cpu.matmul, dy, x, w, needs)
