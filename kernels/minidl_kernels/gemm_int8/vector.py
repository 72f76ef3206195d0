"""Few rows times an int8 matrix: bound by reading the matrix, so it is read once, where it lies.

    y[i, n] = sum over k of x[i, k] * S[n, k]        x (M, K), S (N, K) int8 -> y (M, N) int32, M small

S comes by rows (k without gaps: the weights of a layer) or by columns (n without gaps: B of a product, as it comes).
vpdpbusd wants one side unsigned: S goes in as s + 128, and 128 * (sum of x's row) is taken off at the end.
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

from ..cpu import machine, workspace
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import I8, I32, I64, Vectors, counting
from .stages import shares

Array = NDArray[Any]

MOST = 4  # rows of x for which packing S does not pay
ROWS = 4  # rows of S that share the loads of x
WIDE = 4  # vectors of columns of S at a time: whole cache lines of every row
TIERS = ("amx", "avx512vnni")

i8, i32 = pointer("int8"), pointer("int32")


def reads(x: Array, s: Array) -> bool:
    """Whether this page serves: few rows, a dot product in the tier, S by rows or by columns."""
    return 0 < len(x) <= MOST and machine.tier() in TIERS and 1 in s.strides and s.size > 0


class _Bytes:
    """Vectors of 64 int8, and the dot product of their quadruples."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        self.bytes, self.sums = Vectors(builder, I8, 64), Vectors(builder, I32, 16)

    def unsigned(self, value: ir.Value) -> ir.Value:
        """s + 128"""
        value = self.builder.bitcast(value, self.sums.type)
        return self.builder.xor(value, ir.Constant(self.sums.type, [0x80808080] * 16))

    def dot(self, total: ir.Value, u: ir.Value, x: ir.Value) -> ir.Value:
        """total + the sums of four products of unsigned u and signed x."""
        shape = ir.FunctionType(self.sums.type, [self.sums.type] * 3)
        call = cgutils.get_or_insert_function(self.builder.module, shape, "llvm.x86.avx512.vpdpbusd.512")
        return self.builder.call(call, [total, u, self.builder.bitcast(x, self.sums.type)])

    def zeros(self, count: int) -> list[ir.Value]:
        """Sums that LLVM keeps in registers."""
        made = [cgutils.alloca_once(self.builder, self.sums.type) for _ in range(count)]
        for one in made:
            self.builder.store(self.sums.zero(), one)
        return made


@intrinsic
def _dots(typing: Any, k: Any, x: Any, s: Any, step: Any, count: Any, less: Any, y: Any) -> Any:
    """y[r] = dot(x, S[r]) - less for r < count <= ROWS; rows of S `step` bytes apart."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        k, x, s, step, count, less, y = args
        v = _Bytes(builder)
        last = builder.sub(count, I64(1))
        starts = []  # rows beyond the last are the last again
        for r in range(ROWS):
            row = builder.select(builder.icmp_signed("<", I64(r), last), I64(r), last)
            starts.append(builder.add(s, builder.mul(row, step)))
        sums = v.zeros(ROWS)

        def add(load: Any, at: ir.Value) -> None:
            xs = load(builder.add(x, at))
            for start, total in zip(starts, sums):
                u = v.unsigned(load(builder.add(start, at)))
                builder.store(v.dot(builder.load(total), u, xs), total)

        whole = builder.mul(builder.sdiv(k, I64(64)), I64(64))
        with counting(builder, whole, step=I64(64)) as p:
            add(v.bytes.load, p)
        with builder.if_then(builder.icmp_signed("<", whole, k)):
            mask = v.bytes.first(builder.sub(k, whole))
            add(functools.partial(v.bytes.masked_load, mask), whole)  # x is zero beyond its end
        reduce = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(I32, [v.sums.type]), "llvm.vector.reduce.add.v16i32"
        )
        for r, total in enumerate(sums):
            with builder.if_then(builder.icmp_signed("<=", I64(r), last)):
                value = builder.sub(builder.call(reduce, [builder.load(total)]), less)
                builder.store(value, builder.inttoptr(builder.add(y, I64(4 * r)), I32.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, types.int64, types.int32, types.int64), emit


@intrinsic
def _columns(typing: Any, quads: Any, x: Any, s: Any, step: Any, count: Any, less: Any, y: Any) -> Any:
    """y[j] = sum over k of x[k] * S[j, k] - less for j < count <= 16 * WIDE; columns of S `step` bytes apart; k = 4 *
    quads."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        quads, x, s, step, count, less, y = args
        v = _Bytes(builder)
        quarter = Vectors(builder, I8, 16)
        sums = v.zeros(WIDE)
        masks = [quarter.first(builder.sub(count, I64(16 * i))) for i in range(WIDE)]
        with counting(builder, quads) as q:
            xs = v.sums.broadcast(builder.add(x, builder.mul(q, I64(4))))
            line = builder.add(s, builder.mul(builder.mul(q, I64(4)), step))
            lines = [builder.add(line, builder.mul(step, I64(r))) for r in range(4)]
            for i, (mask, total) in enumerate(zip(masks, sums)):
                woven = quarter.weave([quarter.masked_load(mask, one, 16 * i) for one in lines])
                builder.store(v.dot(builder.load(total), v.unsigned(woven), xs), total)
        for i, total in enumerate(sums):
            mask = v.sums.first(builder.sub(count, I64(16 * i)))
            v.sums.masked_store(builder.sub(builder.load(total), v.sums.splat(less)), mask, y, 64 * i)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64, types.int64, types.int32, types.int64), emit


@jit(inner=True)
def _some_rows(task, slot, each, m, n, k, x, room, less, s, step, y):  # type: ignore[no-untyped-def]
    for r in range(task * each, min((task + 1) * each, n), ROWS):
        for i in range(m):
            _dots(k, x + i * room, s + r * step, step, min(ROWS, n - r), i32(less)[i], y + (i * n + r) * 4)


@jit(inner=True)
def _some_columns(task, slot, m, n, k, x, room, less, s, step, y):  # type: ignore[no-untyped-def]
    j = task * 16 * WIDE
    for i in range(m):
        _columns(k // 4, x + i * room, s + j, step, min(16 * WIDE, n - j), i32(less)[i], y + (i * n + j) * 4)


@jit(tag="vpdpbusd")
def _multiply(m, n, k, x, x_row, x_col, s, step_n, step_k, y, work, nthreads):  # type: ignore[no-untyped-def]
    # x without gaps and zeros up to a whole vector; what S + 128 adds too much.
    room = (k + 63) // 64 * 64
    less = work + m * room
    for i in range(m):
        to, at = i8(work + i * room), i8(x + i * x_row)
        total = 0
        for p in range(k):
            to[p] = at[p * x_col]
            total += at[p * x_col]
        for p in range(k, room):
            to[p] = 0
        i32(less)[i] = 128 * total
    if step_k == 1:
        each = ROWS * max(1, 4096 // k)
        parallel_for(_some_rows, (n + each - 1) // each, nthreads, (each, m, n, k, work, room, less, s, step_n, y))
    else:
        job = (m, n, k, work, room, less, s, step_k, y)
        parallel_for(_some_columns, (n + 16 * WIDE - 1) // (16 * WIDE), nthreads, job)


def times(x: Array, s: Array) -> Array:
    """x (M, K), S (N, K) that `reads` -> y (M, N) int32"""
    (m, k), n = x.shape, len(s)
    if s.strides[1] != 1 and k % 4:
        s = np.pad(s, ((0, 0), (0, -k % 4)))
        x = np.pad(x, ((0, 0), (0, -k % 4)))
        k += -k % 4
    y = np.empty((m, n), np.int32)
    (x_row, x_col), (step_n, step_k) = x.strides, s.strides
    with workspace.borrow(m * (k + -k % 64 + 4)) as work:
        _multiply(
            m, n, k, address(x), x_row, x_col, address(s), step_n, step_k, address(y), work, shares(m * n * k // 8)
        )
    return y
