"""Sparse rows against many rows of x at once.

x is turned into panels: for every column of W, the rows of x side by side (the packer of the dense product does it).
Then a stored weight is one number to broadcast, and what it meets are whole vectors, at the place that its index names:
a few multiply-adds per weight, no gathering. Sums of as many outputs as a vector has lanes are turned back in
registers. A few rows of x would leave the vectors empty: there a weight meets single numbers.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import machine, threads, workspace
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pack import pack
from ..cpu.pool import parallel_for
from ..cpu.product import SMALL, address
from ..cpu.simd import I64, Vectors, counting
from ..cpu.tile import Tile, tile
from .reference import refuse

Array = NDArray[Any]

FEW = 3  # rows of x up to which single numbers are faster: measured at 90 % zeros, 1024 x 1024
WIDTH = {"uint16": 16, "int32": 32}

i64 = pointer("int64")


def _entry(builder: ir.IRBuilder, v: Vectors, values: ir.Value, indices: ir.Value, j: ir.Value, index: str) -> Any:
    """Of stored number j: itself in all lanes, and its column."""
    value = v.broadcast(builder.add(values, builder.mul(j, I64(v.bytes))))
    narrow = ir.IntType(WIDTH[index])
    at = builder.add(indices, builder.mul(j, I64(WIDTH[index] // 8)))
    column = builder.load(builder.inttoptr(at, narrow.as_pointer()), align=1)
    return value, builder.zext(column, I64)


@functools.cache
def _gathered(t: Tile, index: str, panels: int) -> Any:
    """f(first, last, values, indices, x, next, start, to): `panels` panels of x, `next` bytes apart, under a row of W.

    to[:] = start + sum over first <= j < last of values[j] * x[indices[j]]
    """

    @intrinsic
    def run(
        typing: Any, first: Any, last: Any, values: Any, indices: Any, x: Any, next: Any, start: Any, to: Any
    ) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            first, last, values, indices, x, next, start, to = args
            v, width = t.on(builder), t.lanes * t.size
            bases = [builder.add(x, builder.mul(next, I64(p))) for p in range(panels)]
            sums = [cgutils.alloca_once(builder, v.type) for _ in range(panels * t.vectors)]
            for s in sums:
                builder.store(v.splat(start), s)
            with counting(builder, last, first, I64(1)) as j:
                value, column = _entry(builder, v, values, indices, j, index)
                line = builder.mul(column, I64(t.cols * t.size))
                places = [(builder.add(base, line), i * width) for base in bases for i in range(t.vectors)]
                for s, place in zip(sums, places):
                    builder.store(v.multiply_add(value, v.load(*place, align=width), builder.load(s)), s)
            for i, s in enumerate(sums):
                v.store(builder.load(s), to, i * width, align=width)
            return context.get_dummy_value()

        number = types.float32 if t.size == 4 else types.float64
        return types.void(*[types.int64] * 6, number, types.int64), emit

    return run


@functools.cache
def _scattered(t: Tile, index: str) -> Any:
    """f(first, last, values, indices, dy, dx): a panel's line of dy under a row of W, added to dx's panel.

    dx[indices[j]] += values[j] * dy for first <= j < last, one after the other
    """

    @intrinsic
    def run(typing: Any, first: Any, last: Any, values: Any, indices: Any, dy: Any, dx: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            first, last, values, indices, dy, dx = args
            v, width = t.on(builder), t.lanes * t.size
            lines = [v.load(dy, i * width, align=width) for i in range(t.vectors)]
            with counting(builder, last, first, I64(1)) as j:
                value, column = _entry(builder, v, values, indices, j, index)
                at = builder.add(dx, builder.mul(column, I64(t.cols * t.size)))
                for i, line in enumerate(lines):
                    total = v.multiply_add(value, line, v.load(at, i * width, align=width))
                    v.store(total, at, i * width, align=width)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return run


@functools.cache
def put(t: Tile) -> Any:
    """f(held, step, y, y_row, m, n): y[i, j] = held[j * step + i] for i < m, j < n, a square of a vector's lanes."""

    @intrinsic
    def run(typing: Any, held: Any, step: Any, y: Any, y_row: Any, m: Any, n: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            held, step, y, y_row, m, n = args
            v = t.on(builder)
            mask = v.first(n)
            columns = v.transpose([v.load(builder.add(held, builder.mul(step, I64(j)))) for j in range(t.lanes)])
            for i, column in enumerate(columns):
                with builder.if_then(builder.icmp_signed("<", I64(i), m)):
                    v.masked_store(column, mask, builder.add(y, builder.mul(y_row, I64(i))))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return run


@functools.cache
def _kernels(tier: str, kind: str, index: str) -> tuple[Any, Any, Any]:
    """csr_linear for many rows and for few, and csr_linear_dx."""
    t = tile(tier, kind)
    pack_lines, place, scattered = pack(t, "b"), put(t), _scattered(t, index)
    one, two = _gathered(t, index, 1), _gathered(t, index, 2)
    size, lanes, cols = t.size, t.lanes, t.cols
    number, column = pointer("float32" if size == 4 else "float64"), pointer(index)
    zero = np.float32(0) if size == 4 else np.float64(0)
    tag = f"{tier} {kind} {index}"

    @jit(inner=True)
    def fits(n, k, count, indices, indptr):  # type: ignore[no-untyped-def]
        """Whether the indices are those of an N x K matrix with `count` stored numbers."""
        at, ends = column(indices), i64(indptr)
        good = ends[0] == 0 and ends[n] == count
        for row in range(n):
            good &= ends[row] <= ends[row + 1]
        top = np.uint32(0)
        for j in range(count):
            top = max(top, np.uint32(at[j]))  # a negative index becomes a large one
        return good and (count == 0 or top < k)

    @jit(inner=True)
    def pack_panel(task, slot, m, k, x, x_row, x_col, packed):  # type: ignore[no-untyped-def]
        """Task: `cols` rows of x."""
        first = task * cols
        to = packed + task * k * cols * size
        pack_lines(x + first * x_row, x_row, x_col, min(cols, m - first), k, to)

    @jit(inner=True)
    def rows(task, slot, each, pairs, m, n, k, packed, values, indices, indptr, b, y, scratch):  # type: ignore[no-untyped-def]
        """Task: `each` outputs of a pair of panels."""
        pair, first = task % pairs, task // pairs * each
        here = packed + pair * 2 * k * cols * size
        some = min(2 * cols, m - pair * 2 * cols)
        held, ends = scratch + slot * 2 * cols * lanes * size, i64(indptr)
        for n0 in range(first, min(first + each, n), lanes):
            for j in range(min(lanes, n - n0)):
                start = number(b)[n0 + j] if b else zero
                to = held + j * 2 * cols * size
                if some > cols:
                    two(ends[n0 + j], ends[n0 + j + 1], values, indices, here, k * cols * size, start, to)
                else:
                    one(ends[n0 + j], ends[n0 + j + 1], values, indices, here, 0, start, to)
            for i in range(0, some, lanes):
                row = pair * 2 * cols + i
                place(
                    held + i * size, 2 * cols * size, y + (row * n + n0) * size, n * size,
                    min(lanes, some - i), min(lanes, n - n0),
                )  # fmt: skip

    @jit(tag=tag)
    def many(m, n, k, count, x, x_row, x_col, values, indices, indptr, b, y, packed, scratch, nthreads):  # type: ignore[no-untyped-def]
        if not fits(n, k, count, indices, indptr):
            return False
        if k:
            parallel_for(pack_panel, (m + cols - 1) // cols, nthreads, (m, k, x, x_row, x_col, packed))
        pairs = (m + 2 * cols - 1) // (2 * cols)
        each = max(1, n // lanes // (8 * nthreads)) * lanes
        job = (each, pairs, m, n, k, packed, values, indices, indptr, b, y, scratch)
        parallel_for(rows, (n + each - 1) // each * pairs, nthreads, job)
        return True

    @jit(inner=True)
    def singles(task, slot, each, m, n, k, x, values, indices, indptr, b, y):  # type: ignore[no-untyped-def]
        """Task: `each` outputs of all rows of x."""
        v, at, ends = number(values), column(indices), i64(indptr)
        for i in range(m):
            line, out = number(x + i * k * size), number(y + i * n * size)
            for row in range(task * each, min((task + 1) * each, n)):
                j, last = ends[row], ends[row + 1]
                s0 = s1 = s2 = s3 = zero
                while j + 4 <= last:
                    s0 += v[j] * line[np.int64(at[j])]
                    s1 += v[j + 1] * line[np.int64(at[j + 1])]
                    s2 += v[j + 2] * line[np.int64(at[j + 2])]
                    s3 += v[j + 3] * line[np.int64(at[j + 3])]
                    j += 4
                while j < last:
                    s0 += v[j] * line[np.int64(at[j])]
                    j += 1
                total = (s0 + s1) + (s2 + s3)
                out[row] = total + number(b)[row] if b else total

    @jit(tag=tag)
    def few(m, n, k, count, x, values, indices, indptr, b, y, nthreads):  # type: ignore[no-untyped-def]
        if not fits(n, k, count, indices, indptr):
            return False
        each = max(16, n // (8 * nthreads))
        job = (each, m, n, k, x, values, indices, indptr, b, y)
        parallel_for(singles, (n + each - 1) // each, nthreads, job)
        return True

    @jit(inner=True)
    def spread(task, slot, m, n, k, dy, dy_row, dy_col, values, indices, indptr, dx, scratch, room):  # type: ignore[no-untyped-def]
        """Task: `cols` rows of dy."""
        first, ends = task * cols, i64(indptr)
        some = min(cols, m - first)
        packed = scratch + slot * room
        made = packed + n * cols * size
        pack_lines(dy + first * dy_row, dy_row, dy_col, some, n, packed)
        to = number(made)
        for i in range((k + lanes) * cols):
            to[i] = zero
        for row in range(n):
            scattered(ends[row], ends[row + 1], values, indices, packed + row * cols * size, made)
        for k0 in range(0, k, lanes):
            for i in range(0, some, lanes):
                place(
                    made + (k0 * cols + i) * size, cols * size, dx + ((first + i) * k + k0) * size, k * size,
                    min(lanes, some - i), min(lanes, k - k0),
                )  # fmt: skip

    @jit(tag=tag)
    def dx_of(m, n, k, count, dy, dy_row, dy_col, values, indices, indptr, dx, scratch, room, nthreads):  # type: ignore[no-untyped-def]
        if not fits(n, k, count, indices, indptr):
            return False
        job = (m, n, k, dy, dy_row, dy_col, values, indices, indptr, dx, scratch, room)
        parallel_for(spread, (m + cols - 1) // cols, nthreads, job)
        return True

    return many, few, dx_of


def _kernels_for(x: Array, indices: Array) -> tuple[Tile, tuple[Any, Any, Any]]:
    tier, kind = machine.floats(), "f32" if x.itemsize == 4 else "f64"
    return tile(tier, kind), _kernels(tier, kind, "uint16" if indices.itemsize == 2 else "int32")


def _nthreads(work: int) -> int:
    return threads.get_num_threads() if work >= SMALL else 1


def csr_linear(x: Array, values: Array, indices: Array, indptr: Array, b: Array | None) -> Array:
    n, k, m = len(indptr) - 1, x.shape[-1], math.prod(x.shape[:-1])
    values, indices, indptr = (np.ascontiguousarray(a) for a in (values, indices, indptr))
    bias = None if b is None else np.ascontiguousarray(b)
    y = np.empty((m, n), x.dtype)
    t, (many, few, _) = _kernels_for(x, indices)
    stored = (address(values), address(indices), address(indptr), address(bias))
    nthreads = _nthreads(m * len(values))
    if m <= FEW:
        rows = np.ascontiguousarray(x)
        good = few(m, n, k, len(values), address(rows), *stored, address(y), nthreads)
    else:
        rows = x.reshape(m, k)
        room = -(-m // t.cols) * t.cols * k * t.size
        with workspace.borrow(room + nthreads * 2 * t.cols * t.lanes * t.size) as at:
            good = many(
                m, n, k, len(values), address(rows), *rows.strides, *stored, address(y), at, at + room, nthreads
            )
    if not good:
        raise refuse("csr_linear", len(values), k)
    return y.reshape(*x.shape[:-1], n)


def csr_linear_dx(dy: Array, values: Array, indices: Array, indptr: Array, k: int) -> Array:
    n, m = len(indptr) - 1, math.prod(dy.shape[:-1])
    values, indices, indptr = (np.ascontiguousarray(a) for a in (values, indices, indptr))
    dx = np.zeros((m, k), dy.dtype) if n == 0 else np.empty((m, k), dy.dtype)
    t, (_, _, dx_of) = _kernels_for(dy, indices)
    rows = dy.reshape(m, n)
    room = (n + k + t.lanes) * t.cols * t.size
    nthreads = _nthreads(m * len(values))
    with workspace.borrow(nthreads * room) as at:
        good = dx_of(
            m if n else 0, n, k, len(values), address(rows), *rows.strides, address(values), address(indices),
            address(indptr), address(dx), at, room, nthreads,
        )  # fmt: skip
    if not good:
        raise refuse("csr_linear_dx", len(values), k)
    return dx.reshape(*dy.shape[:-1], k)
