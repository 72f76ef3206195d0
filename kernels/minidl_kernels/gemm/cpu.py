"""The tiled product: cpu/product.py has the loops, cpu/tile.py the arithmetic. Here are the shapes.

Where one side is a vector or a few, and in small products, vector.py and small.py do without packing.

On a CPU with a tile unit for bfloat16 large products of float32 are sums of six products of bfloat16 each (cpu/amx.py):
faster than float32's own multiply-adds, and closer to the exact result. Measured as root mean square of the error over
that of the result, normal numbers, K = 64, 512 and 2048: 5e-8, 7e-8, 9e-8; on vectors 1e-7, 3e-7, 3e-7. With the
switch in precision.py at "high" three products do, with 4e-6. Where the numbers reach the ends of bfloat16's range, or
are not finite, vectors compute instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import precision
from ..cpu import machine
from ..cpu.product import address, multiply_at
from . import small, vector

Array = NDArray[Any]

KIND = {"f": "f32", "d": "f64"}  # by dtype.char, since NumPy takes 4 us to tell a name
LITTLE, FEW = 1 << 21, 12  # multiply-adds of a product, or rows of A, up to which packing does not pay
SPLIT_FROM = 1 << 22  # multiply-adds from which splitting into bfloat16 pays
SPLIT_SIDE = 64  # and the least M, N and K: splitting is work on the sides, (M + N) K against M N K
SPLIT_AREA = 48  # and the least M N / (M + N): one product of 64 x 64 is faster on vectors, of 1024 x 64 on the unit


def _multiply(kind: str, batch: int, m: int, n: int, k: int, *rest: int) -> None:
    """multiply_at, by the way that is fastest; on the tile unit only if the numbers are such that it is as good."""
    if (
        kind == "f32"
        and batch * m * n * k >= SPLIT_FROM
        and min(m, n, k) >= SPLIT_SIDE
        and m * n >= SPLIT_AREA * (m + n)
        and machine.multiplies_bfloat16()
        and multiply_at("f32x6" if precision.highest() else "f32x3", batch, m, n, k, *rest)
    ):
        return
    packs = k > small.MOST_K or (m > FEW and m * n * k > LITTLE)
    (multiply_at if packs else small.multiply_at)(kind, batch, m, n, k, *rest)


def matmul(a: Array, b: Array) -> Array:
    if a.itemsize == 2:
        return matmul(a.astype(np.float32), b.astype(np.float32)).astype(a.dtype)
    if a.ndim == b.ndim == 2:
        (m, k), n = a.shape, b.shape[1]
        if m <= vector.MOST and vector.reads(m, b.T):
            return vector.times(b.T, a)
        if n == 1 and vector.reads(1, a):
            return vector.times(a, b.T).reshape(m, n)
        c = np.empty((m, n), a.dtype)
        if m and n and k:
            (a_row, a_col), (b_row, b_col) = a.strides, b.strides
            _multiply(
                KIND[a.dtype.char], 1, m, n, k, address(a), 0, a_row, a_col, address(b), 0, b_row, b_col,
                address(c), 0, n * a.itemsize,
            )  # fmt: skip
        else:
            c.fill(0)
        return c
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    c = np.empty((*lead, m, n), a.dtype)
    if c.size == 0 or k == 0:
        c.fill(0)
        return c
    at_a, at_b, at_c = address(a), address(b), address(c)
    steps = [_steps(x, len(lead)) for x in (a, b, c)]
    (a_row, a_col), (b_row, b_col), c_row = a.strides[-2:], b.strides[-2:], c.strides[-2]
    for batch, rows, offsets, nexts in _products(lead, m, steps, a_row, c_row):
        _multiply(
            KIND[a.dtype.char], batch, rows, n, k, at_a + offsets[0], nexts[0], a_row, a_col,
            at_b + offsets[1], nexts[1], b_row, b_col, at_c + offsets[2], nexts[2], c_row,
        )  # fmt: skip
    return c


def _steps(a: Array, ndim: int) -> list[int]:
    """Bytes from one index to the next along each of `ndim` leading axes, 0 where the array is broadcast."""
    own = [0 if size == 1 else step for size, step in zip(a.shape[:-2], a.strides[:-2])]
    return [0] * (ndim - len(own)) + own


def _products(
    lead: tuple[int, ...], m: int, steps: list[list[int]], a_row: int, c_row: int
) -> Iterator[tuple[int, int, list[int], list[int]]]:
    """A product over leading axes as few batches with one step each: (batch, rows of one A, offsets, steps) of a, b
    and c.

    Neighbouring axes that continue each other become one; a shared B whose A's follow each other row by row becomes
    one tall product.
    """
    axes = [(size, list(step)) for size, *step in zip(lead, *steps) if size > 1]
    merged: list[tuple[int, list[int]]] = []
    for size, step in axes:
        if merged and all(outer == size * inner for outer, inner in zip(merged[-1][1], step)):
            merged[-1] = (merged[-1][0] * size, step)
        else:
            merged.append((size, step))
    if merged:
        size, (a_next, b_next, c_next) = merged[-1]
        if b_next == 0 and a_next == m * a_row and c_next == m * c_row:
            m *= size
            merged.pop()
    batch, nexts = merged.pop() if merged else (1, [0, 0, 0])
    for index in np.ndindex(*(size for size, _ in merged)):
        offsets = [sum(i * step[x] for i, (_, step) in zip(index, merged)) for x in range(3)]
        yield batch, m, offsets, nexts


def linear(x: Array, w: Array, b: Array | None) -> Array:
    n, k = w.shape
    rows = x if x.ndim == 2 else x.reshape(math.prod(x.shape[:-1]), k)
    m = rows.shape[0]
    if m <= vector.MOST and vector.reads(m, w):
        y = vector.times(w, rows)
        if b is not None:
            y += b
        return y.reshape(*x.shape[:-1], n)
    y = np.empty((m, n), x.dtype)
    if b is not None and b.strides[0] != b.itemsize:
        b = np.ascontiguousarray(b)
    if m and n and k:
        (x_row, x_col), (w_row, w_col) = rows.strides, w.strides
        _multiply(
            KIND[x.dtype.char], 1, m, n, k, address(rows), 0, x_row, x_col, address(w), 0, w_col, w_row,
            address(y), 0, n * x.itemsize, address(b),
        )  # fmt: skip
    else:
        y[...] = 0 if b is None else b
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], n)
