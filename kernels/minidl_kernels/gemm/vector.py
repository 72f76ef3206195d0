"""A matrix times a vector, or a few: bound by memory, since every element of the matrix is used so few times.

    y[q, i] = sum over k of S[i, k] * x[q, k]

Nothing is packed: S is read once, in the order in which it lies. Where k are neighbours in memory, four rows are summed
at a time, each in two vectors of partial sums, or with four x at once, each in one; where i are neighbours, eight
columns are added to y at a time, for one x. Each y[q, i] is summed by one task in one order, so results are the same
bits for any number of threads.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import machine, threads
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import SMALL, address
from ..cpu.simd import I64, Vectors, counting
from ..cpu.tile import tile

Array = NDArray[Any]

ROWS = 4  # rows that are summed at a time
FEW = 4  # x at a time
MOST = 8  # x for which packing S does not pay, where rows lie without gaps
DEEP = 8  # columns of S that are added to y at a time, where columns lie without gaps


@functools.cache
def _rows(tier: str, kind: str, many: int) -> Any:
    """f(k, s, step, count, x, x_step, most, y, y_step): y[q, i] = sum of S[i, :] * x[q, :] for i < count <= ROWS and
    q < most <= `many`; rows of S, of x and of y so many bytes apart.
    """
    t = tile(tier, kind)
    parts = 2 if many == 1 else 1

    @intrinsic
    def rows(
        typing: Any, k: Any, s: Any, step: Any, count: Any, x: Any, x_step: Any, most: Any, y: Any, y_step: Any
    ) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, s, step, count, x, x_step, most, y, y_step = args
            v = t.on(builder)
            width = t.lanes * t.size

            def starts(base: ir.Value, step: ir.Value, number: int, count: ir.Value) -> list[ir.Value]:
                """Rows beyond the last are the last again."""
                last = builder.sub(count, I64(1))
                indices = [builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last) for i in range(number)]
                return [builder.add(base, builder.mul(i, step)) for i in indices]

            of_s, of_x = starts(s, step, ROWS, count), starts(x, x_step, many, most)
            sums = [
                [[cgutils.alloca_once(builder, v.type) for _ in range(parts)] for _ in range(many)] for _ in range(ROWS)
            ]
            for one in (one for row in sums for total in row for one in total):
                builder.store(v.zero(), one)

            def add(load: Any, at: ir.Value, part: int) -> None:
                xs = [load(builder.add(start, at), part * width) for start in of_x]
                for start, row in zip(of_s, sums):
                    value = load(builder.add(start, at), part * width)
                    for total, other in zip(row, xs):
                        builder.store(v.multiply_add(value, other, builder.load(total[part])), total[part])

            whole = builder.mul(builder.sdiv(k, I64(parts * t.lanes)), I64(parts * t.lanes))
            with counting(builder, whole, step=I64(parts * t.lanes)) as p:
                for part in range(parts):
                    add(v.load, builder.mul(p, I64(t.size)), part)
            with builder.if_then(builder.icmp_signed("<", whole, k)):
                for part in range(parts):
                    mask = v.first(builder.sub(builder.sub(k, whole), I64(part * t.lanes)))
                    add(functools.partial(v.masked_load, mask), builder.mul(whole, I64(t.size)), part)
            one = Vectors(builder, v.element, 1)
            for i, row in enumerate(sums):
                for q, total in enumerate(row):
                    inside = builder.icmp_signed("<", I64(i), count)
                    inside = builder.and_(inside, builder.icmp_signed("<", I64(q), most))
                    with builder.if_then(inside):
                        value = functools.reduce(v.add, [builder.load(part) for part in total])
                        place = builder.add(y, builder.mul(y_step, I64(q)))
                        one.store(one.splat(v.total(value)), place, i * t.size)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), emit

    return rows


@functools.cache
def _columns(tier: str, kind: str) -> Any:
    """f(k, s, step, count, x, y): y[i] = sum over p of S[i, p] * x[p], i < count, columns of S `step` bytes apart."""
    t = tile(tier, kind)

    @intrinsic
    def columns(typing: Any, k: Any, s: Any, step: Any, count: Any, x: Any, y: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, s, step, count, x, y = args
            v = t.on(builder)
            whole = builder.mul(builder.sdiv(count, I64(t.lanes)), I64(t.lanes))
            mask = v.first(builder.sub(count, whole))

            def along(work: Any) -> None:
                """work(offset, load, store) for every vector of y, the last one masked."""
                with counting(builder, whole, step=I64(t.lanes)) as i:
                    work(builder.mul(i, I64(t.size)), v.load, v.store)
                with builder.if_then(builder.icmp_signed("<", whole, count)):
                    load = functools.partial(v.masked_load, mask)
                    work(builder.mul(whole, I64(t.size)), load, lambda value, to: v.masked_store(value, mask, to))

            def add(first: ir.Value, deep: int) -> None:
                """y += columns first ... first + deep - 1"""
                xs = [v.broadcast(builder.add(x, builder.mul(first, I64(t.size))), p * t.size) for p in range(deep)]
                starts = [builder.add(s, builder.mul(builder.add(first, I64(p)), step)) for p in range(deep)]

                def work(at: ir.Value, load: Any, store: Any) -> None:
                    total = load(builder.add(y, at))
                    for start, factor in zip(starts, xs):
                        total = v.multiply_add(load(builder.add(start, at)), factor, total)
                    store(total, builder.add(y, at))

                along(work)

            along(lambda at, load, store: store(v.zero(), builder.add(y, at)))
            rest = builder.mul(builder.sdiv(k, I64(DEEP)), I64(DEEP))
            with counting(builder, rest, step=I64(DEEP)) as p:
                add(p, DEEP)
            with counting(builder, k, start=rest) as p:
                add(p, 1)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return columns


@functools.cache
def _kernel(tier: str, kind: str, many: int) -> Any:
    t = tile(tier, kind)
    rows, columns = _rows(tier, kind, many), _columns(tier, kind)
    size = t.size

    @jit(inner=True)
    def some_rows(task, slot, each, m, n, k, s, step, x, x_step, y):  # type: ignore[no-untyped-def]
        for i in range(task * each, min((task + 1) * each, n), ROWS):
            for q in range(0, m, many):
                to = y + (q * n + i) * size
                rows(k, s + i * step, step, min(ROWS, n - i), x + q * x_step, x_step, min(many, m - q), to, n * size)

    @jit(inner=True)
    def some_columns(task, slot, each, n, k, s, step, x, y):  # type: ignore[no-untyped-def]
        i = task * each
        columns(k, s + i * size, step, min(each, n - i), x, y + i * size)

    @jit(tag=f"{t.name} {many}")
    def vector(m, n, k, s, step_n, step_k, x, x_step, y, nthreads):  # type: ignore[no-untyped-def]
        if step_k == size:
            # One stretch of rows per thread: what lies in a core's own cache is there in the next call, too.
            each = (n + nthreads * ROWS - 1) // (nthreads * ROWS) * ROWS
            parallel_for(some_rows, (n + each - 1) // each, nthreads, (each, m, n, k, s, step_n, x, x_step, y))
        else:
            # Long stretches of every column; a line of the cache is written by one task.
            each = max(1, n // (256 * nthreads)) * 256 if nthreads > 1 else n
            parallel_for(some_columns, (n + each - 1) // each, nthreads, (each, n, k, s, step_k, x, y))

    return vector


def reads(m: int, s: Array) -> bool:
    """Whether this page serves m rows of x: with the rows or the columns of S (N, K) without gaps."""
    return s.itemsize in s.strides if m == 1 else 1 < m <= MOST and s.strides[1] == s.itemsize


def times(s: Array, x: Array) -> Array:
    """S (N, K) that is read, x (M, K) -> y (M, N)"""
    m, (n, k) = len(x), s.shape
    y = np.empty((m, n), s.dtype)
    if k == 0 or n == 0:
        y.fill(0)
        return y
    if x.strides[1] != x.itemsize:
        x = np.ascontiguousarray(x)
    nthreads = threads.get_num_threads() if m * n * k >= SMALL else 1
    kernel = _kernel(machine.floats(), "f32" if s.dtype.itemsize == 4 else "f64", 1 if m == 1 else FEW)
    kernel(m, n, k, address(s), *s.strides, address(x), x.strides[0], address(y), nthreads)
    return y
