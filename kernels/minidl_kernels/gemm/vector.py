"""A matrix times a vector: bound by memory, since every element of the matrix is used once.

    y[i] = sum over k of S[i, k] * x[k]

Nothing is packed: S is read once, in the order in which it lies. Where k are neighbours in memory, four rows are summed
at a time, each in two vectors of partial sums; where i are neighbours, a stretch of y stays in registers while k runs.
Each y[i] is summed by one task in one order, so results are the same bits for any number of threads.
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
from ..cpu.simd import I32, I64, Vectors, counting
from ..cpu.tile import tile

Array = NDArray[Any]

ROWS = 4  # rows that are summed at a time
ACROSS = 8  # vectors of y that stay in registers


def _total(v: Vectors, sums: ir.Value) -> ir.Value:
    """The sum of the lanes: halves onto each other."""
    lanes = v.lanes
    while lanes > 1:
        lanes //= 2
        order = [list(range(lanes)), list(range(lanes, 2 * lanes))]
        low, high = (
            v.builder.shuffle_vector(sums, sums, ir.Constant(ir.VectorType(I32, lanes), half)) for half in order
        )
        sums = v.builder.fadd(low, high)
    return v.builder.extract_element(sums, I32(0))


@functools.cache
def _rows(tier: str, kind: str) -> Any:
    """f(k, s, step, count, x, y): y[i] = sum of S[i, :] * x for i < count <= 4, rows of S `step` bytes apart."""
    t = tile(tier, kind)

    @intrinsic
    def rows(typing: Any, k: Any, s: Any, step: Any, count: Any, x: Any, y: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, s, step, count, x, y = args
            v = t.on(builder)
            width = t.lanes * t.size
            last = builder.sub(count, I64(1))
            starts = []  # rows beyond the last are the last again
            for i in range(ROWS):
                row = builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last)
                starts.append(builder.add(s, builder.mul(row, step)))
            sums = [[cgutils.alloca_once(builder, v.type) for _ in range(2)] for _ in range(ROWS)]
            for pair in sums:
                for one in pair:
                    builder.store(v.zero(), one)

            def add(load: Any, at: ir.Value, part: int) -> None:
                xs = load(builder.add(x, at), part * width)
                for start, pair in zip(starts, sums):
                    term = v.multiply_add(load(builder.add(start, at), part * width), xs, builder.load(pair[part]))
                    builder.store(term, pair[part])

            whole = builder.mul(builder.sdiv(k, I64(2 * t.lanes)), I64(2 * t.lanes))
            with counting(builder, whole, step=I64(2 * t.lanes)) as p:
                for part in range(2):
                    add(v.load, builder.mul(p, I64(t.size)), part)
            with builder.if_then(builder.icmp_signed("<", whole, k)):
                for part in range(2):
                    mask = v.first(builder.sub(builder.sub(k, whole), I64(part * t.lanes)))
                    add(functools.partial(v.masked_load, mask), builder.mul(whole, I64(t.size)), part)
            for i, pair in enumerate(sums):
                with builder.if_then(builder.icmp_signed("<=", I64(i), last)):
                    total = _total(v, v.add(builder.load(pair[0]), builder.load(pair[1])))
                    one = Vectors(builder, v.element, 1)
                    one.store(one.splat(total), y, i * t.size)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return rows


@functools.cache
def _columns(tier: str, kind: str) -> Any:
    """f(k, s, step, count, x, y): y[j] = sum over p of S[p, j] * x[p] for j < count <= 8 vectors."""
    t = tile(tier, kind)

    @intrinsic
    def columns(typing: Any, k: Any, s: Any, step: Any, count: Any, x: Any, y: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, s, step, count, x, y = args
            v = t.on(builder)
            width = t.lanes * t.size

            def stretch(load: Any, store: Any) -> None:
                sums = [cgutils.alloca_once(builder, v.type) for _ in range(ACROSS)]
                for one in sums:
                    builder.store(v.zero(), one)
                with counting(builder, k) as p:
                    factor = v.broadcast(builder.add(x, builder.mul(p, I64(t.size))))
                    line = builder.add(s, builder.mul(p, step))
                    for j, one in enumerate(sums):
                        builder.store(v.multiply_add(load(j, line), factor, builder.load(one)), one)
                for j, one in enumerate(sums):
                    store(j, builder.load(one))

            full = builder.icmp_signed("==", count, I64(ACROSS * t.lanes))
            with builder.if_else(full) as (whole, edge):
                with whole:
                    stretch(lambda j, line: v.load(line, j * width), lambda j, value: v.store(value, y, j * width))
                with edge:
                    masks = [v.first(builder.sub(count, I64(j * t.lanes))) for j in range(ACROSS)]
                    stretch(
                        lambda j, line: v.masked_load(masks[j], line, j * width),
                        lambda j, value: v.masked_store(value, masks[j], y, j * width),
                    )
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return columns


@functools.cache
def _kernel(tier: str, kind: str) -> Any:
    t = tile(tier, kind)
    rows, columns = _rows(tier, kind), _columns(tier, kind)
    size, across = t.size, ACROSS * t.lanes

    @jit(inner=True)
    def some_rows(task, slot, each, n, k, s, step, x, y):  # type: ignore[no-untyped-def]
        for i in range(task * each, min((task + 1) * each, n), ROWS):
            rows(k, s + i * step, step, min(ROWS, n - i), x, y + i * size)

    @jit(inner=True)
    def some_columns(task, slot, n, k, s, step, x, y):  # type: ignore[no-untyped-def]
        j = task * across
        columns(k, s + j * size, step, min(across, n - j), x, y + j * size)

    @jit(tag=t.name)
    def vector(n, k, s, step_n, step_k, x, y, nthreads):  # type: ignore[no-untyped-def]
        if step_k == size:
            each = ROWS * max(1, 4096 // k)
            parallel_for(some_rows, (n + each - 1) // each, nthreads, (each, n, k, s, step_n, x, y))
        else:
            parallel_for(some_columns, (n + across - 1) // across, nthreads, (n, k, s, step_k, x, y))

    return vector


def reads(s: Array) -> bool:
    """Whether the rows or the columns of S (N, K) lie without gaps."""
    return s.itemsize in s.strides


def times(s: Array, x: Array) -> Array:
    """S (N, K) that `reads`, x (K,) -> y (N,)"""
    n, k = s.shape
    y = np.empty(n, s.dtype)
    if k == 0 or n == 0:
        y.fill(0)
        return y
    x = np.ascontiguousarray(x)
    nthreads = threads.get_num_threads() if n * k >= SMALL else 1
    kernel = _kernel(machine.tier(), "f32" if s.dtype.itemsize == 4 else "f64")
    kernel(n, k, address(s), *s.strides, address(x), address(y), nthreads)
    return y
