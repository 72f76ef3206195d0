"""NumPy's BLAS, on one thread.

BLAS cuts a product differently for each number of threads, and then rounds differently: OpenBLAS gave other last bits
with 2 threads than with 1 in every eighth product we tried. Kernels promise the same bits for any number of threads,
so BLAS gets one here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu.threads import one_blas_thread

Array = NDArray[Any]


def _alone(a: Array, b: Array) -> bool:
    """Whether BLAS takes one thread of its own accord, so that it need not be told.

    OpenBLAS shares out a general product above 2^18 multiply-adds, a product with a vector from 9216, and one of a
    matrix with its own transpose from 59296 or so.
    """
    m, n = a.shape[-2], b.shape[-1]
    work = a.size * n
    if work <= 9000:
        return True
    if m <= 3 or n <= 3 or work > 1 << 18:
        return False
    return work < 59000 or (a.base if a.base is not None else a) is not (b.base if b.base is not None else b)


def matmul(a: Array, b: Array) -> Array:
    if a.itemsize == 2:
        return matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)
    if _alone(a, b):
        return _product(a, b)
    with one_blas_thread:
        return _product(a, b)


def _product(a: Array, b: Array) -> Array:
    """By the shorter of NumPy's ways into BLAS."""
    return a.dot(b) if a.ndim == b.ndim == 2 else np.matmul(a, b)


def linear(x: Array, w: Array, b: Array | None) -> Array:
    rows = (
        x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    )  # one product, not one per leading index
    y = matmul(rows, w.T)
    if b is not None:
        y += b
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], w.shape[0])
