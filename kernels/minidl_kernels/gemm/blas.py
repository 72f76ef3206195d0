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

from ..cpu.threads import blas_threads

Array = NDArray[Any]


def _alone(a: Array, b: Array) -> bool:
    """Whether BLAS takes one thread of its own accord, so that telling it (3 us) can be spared.

    OpenBLAS shares out a general product from 2^18 multiply-adds, a product with a vector from 9216, and one of a
    matrix with its own transpose from 59296 or so.
    """
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    if m * n * k < 8192:
        return True
    related = (a.base if a.base is not None else a) is (b.base if b.base is not None else b)
    return m * n * k < 1 << 18 and m > 3 and n > 3 and not related


def matmul(a: Array, b: Array) -> Array:
    if a.dtype.itemsize == 2:
        return matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)
    if _alone(a, b):
        return np.matmul(a, b)
    with blas_threads(1):
        return np.matmul(a, b)


def linear(x: Array, w: Array, b: Array | None) -> Array:
    rows = (
        x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    )  # one product, not one per leading index
    y = matmul(rows, w.T)
    if b is not None:
        y += b
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], w.shape[0])
