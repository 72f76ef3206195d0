"""The first rungs of the ladder from three loops to the register tile, to read and to time; `choose` never takes them.

naive     one sum at a time. B is walked down its columns: every step misses the cache, and each addition waits for
the one before
blocked   rows of B are walked along memory, so that a row of C gets whole vectors; blocks of B stay in the L2 cache
tiled     (cpu/product.py) sums stay in registers, operands are packed, threads share the work
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu.jit import jit

Array = NDArray[Any]


@jit
def _naive(a, b, c):  # type: ignore[no-untyped-def]
    batch, m, n = c.shape
    for i in range(batch):
        for row in range(m):
            for col in range(n):
                total = c[i, row, col]
                for p in range(a.shape[2]):
                    total += a[i, row, p] * b[i, p, col]
                c[i, row, col] = total


@jit
def _blocked(a, b, c):  # type: ignore[no-untyped-def]
    batch, m, n = c.shape
    k = a.shape[2]
    deep, wide = 64, 1024  # 256 KiB of float32
    for i in range(batch):
        for p0 in range(0, k, deep):
            for j0 in range(0, n, wide):
                j1 = min(j0 + wide, n)
                for row in range(m):
                    for p in range(p0, min(p0 + deep, k)):
                        x = a[i, row, p]
                        for col in range(j0, j1):
                            c[i, row, col] += x * b[i, p, col]


def _run(kernel: Any, a: Array, b: Array) -> Array:
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    c = np.zeros((*lead, m, n), a.dtype)
    if c.size and k:
        # Both rungs are compiled for plain arrays of three axes, whatever comes.
        plain = [
            np.array(np.broadcast_to(x, (*lead, *x.shape[-2:])), order="C").reshape(-1, *x.shape[-2:]) for x in (a, b)
        ]
        kernel(*plain, c.reshape(-1, m, n))
    return c


def naive(a: Array, b: Array) -> Array:
    return _run(_naive, a, b)


def blocked(a: Array, b: Array) -> Array:
    return _run(_blocked, a, b)
