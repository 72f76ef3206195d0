"""Integer products on the register tile, with the dot product that the tier has.

    amx                the tile unit, signed by signed
    avx512vnni         vpdpbusd, 4 products per lane. It wants one side unsigned: B goes in as b + 128, and 128 * (sum
                       of A's row) is taken off again. Sums may wrap on the way, which is exact modulo 2^32, and the
                       result fits
    avx512, avx2       vpmaddwd on int16, 2 products per lane
    generic            int32 multiply and add

All read k in whole elements of 4 bytes: rows of k are padded with zeros to fill them, and where the numbers of a row
of B are neighbours (B as it comes, not transposed), the packer weaves rows together. A layer is not made of this
product: its weights are packed once, and windows.py reads the quantized rows of `int8_linear` where they lie. A few
rows times a matrix is bound by reading the matrix: vector.py reads it once, without packing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu import machine, workspace
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address, multiply_at
from ..kept import frozen
from . import vector
from .stages import finish_rows, quantize_rows, shares
from .windows import linear

Array = NDArray[Any]

# Kind of the tile; type of a number in an element; numbers in an element; what is added per unit of A's row sum.
FORMS = {
    "amx": ("s8s8", np.int8, 4, 0),
    "avx512vnni": ("s8u8", np.int8, 4, 128),
    "avx512": ("s16", np.int16, 2, 0),
    "avx2": ("s16", np.int16, 2, 0),
    "generic": ("i32", np.int32, 1, 0),
}

i8, i32 = pointer("int8"), pointer("int32")


def vector_form(tier: str) -> tuple[str, type, int, int]:
    """The same for kernels that work on vectors, even where there is a tile unit."""
    return FORMS["avx512vnni" if tier == "amx" else tier]


def _elements(q: Array) -> Array:
    """q (B, M, K) int8 -> (B, M, K padded): numbers as the tile wants them, K along memory; q itself if it serves."""
    _, number, per, _ = FORMS[machine.tier()]
    k = q.shape[-1]
    if number == np.int8 and k % per == 0 and q.strides[-1] == 1:
        return q
    out = np.zeros((*q.shape[:-1], k + -k % per), number)
    out[..., :k] = q
    return out


def multiply(a: Array, b: Array, c: Array) -> int:
    """c = a @ b^T.    a (B or 1, M, K), b (B or 1, N, K) int8, c (B, M, N) int32

    Gives the factor f of what c has too much: f * (sum of a's row).
    """
    kind, number, per, factor = FORMS[machine.tier()]
    (batch, m, n), k = c.shape, a.shape[2]
    if k == 0 or c.size == 0:
        c.fill(0)
        return 0
    a = _elements(a)
    if number == np.int8 and k % per == 0 and b.strides[1] == 1:
        b_row, b_col = per * b.strides[2], 1  # rows of k, which the packer weaves
    else:
        b = _elements(b)
        b_row, b_col = 4, b.strides[1]
    multiply_at(
        kind, batch, m, n, a.shape[2] // per, address(a), a.strides[0] if len(a) > 1 else 0, a.strides[1], 4,
        address(b), b.strides[0] if len(b) > 1 else 0, b_row, b_col, address(c), c.strides[0], c.strides[1],
    )  # fmt: skip
    return factor


@jit(inner=True)
def _take_off_some(task, slot, each, rows, k, n, q, row_step, step, c, factor):  # type: ignore[no-untyped-def]
    for row in range(task * each, min((task + 1) * each, rows)):
        at, to = i8(q + row * row_step), i32(c + row * n * 4)
        total = 0
        if step == 1:
            for p in range(k):
                total += at[p]
        else:
            for p in range(k):
                total += at[p * step]
        less = np.int32(factor * total)
        for j in range(n):
            to[j] = np.int32(to[j] - less)


@jit
def _take_off(rows, k, n, q, row_step, step, c, factor, nthreads):  # type: ignore[no-untyped-def]
    """c[i, :] -= factor * (sum over p of q[i, p])"""
    each = max(1, 16384 // max(n, k))
    parallel_for(_take_off_some, (rows + each - 1) // each, nthreads, (each, rows, k, n, q, row_step, step, c, factor))


def int8_matmul(a: Array, b: Array) -> Array:
    k, n = b.shape
    rows = a if a.ndim == 2 else a.reshape(math.prod(a.shape[:-1]), k)
    m = rows.shape[0]
    if m <= vector.MOST and vector.reads(rows, b.T):
        return vector.times(rows, b.T).reshape(*a.shape[:-1], n)
    c = np.empty((m, n), np.int32)
    kind, _, per, factor = FORMS[machine.tier()]
    row_step, step = rows.strides
    b_row, b_col = b.strides
    if per == 4 and step == 1 and k % 4 == 0 and k and c.size and 1 in (b_row, b_col):
        # As `multiply` does it for what lies well, without the views that it takes.
        across = (4 * b_row, 1) if b_col == 1 else (4, b_col)
        multiply_at(kind, 1, m, n, k // 4, address(rows), 0, row_step, 4, address(b), 0, *across, address(c), 0, 4 * n)
    else:
        factor = multiply(rows[None], b.T[None], c[None])
    if factor and c.size:
        _take_off(m, k, n, address(rows), row_step, step, address(c), factor, shares(m * (n + k)))
    return c if a.ndim == 2 else c.reshape(*a.shape[:-1], n)


def plain(a: Array) -> Array:
    """Contiguous float32, as the float stages read it."""
    if a.dtype.char == "f":
        return np.ascontiguousarray(a)
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(a, np.float32)


def int8_linear(x: Array, w_q: Array, w_scale: Array, b: Array | None, x_scale: float | None) -> Array:
    n, k = w_q.shape
    y = workspace.empty((*x.shape[:-1], n), np.float32)
    if y.size:
        floats, w_scale, bias = plain(x), plain(w_scale), None if b is None else plain(b)
        m = y.size // n
        if m <= vector.MOST and not frozen(w_q) and vector.reads(floats.reshape(m, k), w_q):
            q, scales = np.empty((m, k), np.int8), np.empty(m, np.float32)
            quantize_rows(machine.tier())(
                m, k, address(floats), address(q), x_scale or 0.0, address(scales), shares(m * k)
            )
            y = vector.times(q, w_q).view(np.float32).reshape(y.shape)
            finish_rows(m, n, address(y), address(scales), address(w_scale), address(bias), shares(m * n))
        else:
            linear(floats, w_q, w_scale, bias, x_scale, y)
    return y if x.dtype == np.float32 else y.astype(x.dtype)
