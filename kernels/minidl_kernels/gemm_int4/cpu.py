"""Weights of 4 bits become floats in registers, on the way to the multiplication.

The 16 values that a weight of a group can have fill one vector of AVX-512: a permutation of it by the 4 bits is the
whole conversion. Narrower tiers compute (q - zero) * scale. Few rows of x are bound by reading the weights, of which
there are eight times fewer bytes than in float32: they are read once, and converted for four rows of x at a time. For
many rows a block of W becomes floats in scratch memory, and the tiled product takes it from there.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import machine, threads, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import SMALL, address, multiply_at
from ..cpu.simd import F32, I8, I32, I64, VECTOR_BYTES, Vectors, counting

Array = NDArray[Any]

RUN = 16  # bytes that hold 32 neighbouring weights
AT_ONCE = 4  # rows of x for which a weight is converted once
FEW = 40  # rows of x up to which weights are converted on the way; measured at 1024 x 1024 and 4096 x 4096
BLOCK = 2 << 20  # bytes of W as floats


class _Group:
    """Emits the conversion of a group's weights, for one row of W."""

    def __init__(self, builder: ir.IRBuilder, lanes: int, scale: ir.Value, zero: ir.Value | None) -> None:
        self.builder, self.lanes = builder, lanes
        self.floats, self.ints = Vectors(builder, F32, lanes), Vectors(builder, I32, lanes)
        self.narrow = Vectors(builder, I8, lanes)
        self.scale = self.floats.broadcast(scale)
        if zero is None:
            less: ir.Value = F32(8)
        else:
            byte = builder.load(builder.inttoptr(zero, I8.as_pointer()))
            less = builder.uitofp(byte, F32)
        self.zero = self.floats.splat(less)
        if lanes == 16:
            numbers = ir.Constant(self.floats.type, [float(i) for i in range(16)])
            self.values = builder.fmul(builder.fsub(numbers, self.zero), self.scale)

    def run(self, at: ir.Value) -> Iterator[tuple[int, ir.Value]]:
        """(first number, vector of weights) of the 32 in the 16 bytes there."""
        for start in range(0, RUN, self.lanes):
            both = self.builder.zext(self.narrow.load(at, start), self.ints.type)
            yield start, self._floats(both)
            yield RUN + start, self._floats(self.builder.lshr(both, ir.Constant(self.ints.type, [4] * self.lanes)))

    def _floats(self, q: ir.Value) -> ir.Value:
        builder = self.builder
        if self.lanes == 16:  # looks at the low 4 bits only
            shape = ir.FunctionType(self.floats.type, [self.floats.type, self.ints.type])
            permute = cgutils.get_or_insert_function(builder.module, shape, "llvm.x86.avx512.permvar.sf.512")
            return builder.call(permute, [self.values, q])
        q = builder.and_(q, ir.Constant(self.ints.type, [15] * self.lanes))
        return builder.fmul(builder.fsub(builder.uitofp(q, self.floats.type), self.zero), self.scale)


def _clamped(builder: ir.IRBuilder, count: ir.Value, many: int, base: ir.Value, step: ir.Value) -> list[ir.Value]:
    """base + i * step for i < many; beyond count the last again."""
    last = builder.sub(count, I64(1))
    numbers = [builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last) for i in range(many)]
    return [builder.add(base, builder.mul(i, step)) for i in numbers]


@functools.cache
def _dots(lanes: int, nrows: int, nx: int, zeros: bool) -> Any:
    """f(groups, runs, x, x_row, m, w, w_row, n, scale, zero, start, y, y_row): x[i] . W[j] for i < m <= nx, j < n <=
    nrows.

    y[i, j] = the sum over all weights (+ start[j], where start is not 0), each lane's first, in order, then the lanes',
    one half to the other.
    """

    @intrinsic
    def run(
        typing: Any, groups: Any, runs: Any, x: Any, x_row: Any, m: Any, w: Any, w_row: Any, n: Any,
        scale: Any, zero: Any, start: Any, y: Any, y_row: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            groups, runs, x, x_row, m, w, w_row, n, scale, zero, start, y, y_row = args
            v = Vectors(builder, F32, lanes)
            xs, ws = _clamped(builder, m, nx, x, x_row), _clamped(builder, n, nrows, w, w_row)
            scales = _clamped(builder, n, nrows, scale, builder.mul(groups, I64(4)))
            zeros_at = _clamped(builder, n, nrows, zero, groups)
            # With few outputs two sums for each, so that one need not wait for the other.
            each = 2 if nx == 1 else 1
            sums = [[[cgutils.alloca_once(builder, v.type) for _ in range(each)] for _ in xs] for _ in ws]
            for s in (s for row in sums for pair in row for s in pair):
                builder.store(v.zero(), s)
            with counting(builder, groups) as g:
                made = [
                    _Group(builder, lanes, builder.add(s, builder.mul(g, I64(4))), builder.add(z, g) if zeros else None)
                    for s, z in zip(scales, zeros_at)
                ]
                first = builder.mul(g, runs)
                with counting(builder, runs) as r:
                    at = builder.add(first, r)
                    here = builder.mul(at, I64(RUN))
                    columns = builder.mul(at, I64(2 * RUN * 4))
                    for row, group, pairs in zip(ws, made, sums):
                        for k, weight in group.run(builder.add(row, here)):
                            for line, pair in zip(xs, pairs):
                                s = pair[(k >= RUN) % each]
                                value = v.load(builder.add(line, columns), 4 * k)
                                builder.store(v.multiply_add(weight, value, builder.load(s)), s)
            starting = builder.icmp_signed("!=", start, I64(0))
            for j, pairs in enumerate(sums):
                for i, pair in enumerate(pairs):
                    with builder.if_then(
                        builder.and_(builder.icmp_signed("<", I64(i), m), builder.icmp_signed("<", I64(j), n))
                    ):
                        total = cgutils.alloca_once_value(builder, F32(0.0))
                        with builder.if_then(starting):
                            bias = builder.inttoptr(builder.add(start, I64(4 * j)), F32.as_pointer())
                            builder.store(builder.load(bias), total)
                        both, many = functools.reduce(builder.fadd, [builder.load(s) for s in pair]), lanes
                        while many > 1:  # one half to the other
                            many //= 2
                            orders = (range(many), range(many, 2 * many))
                            halves = [ir.Constant(ir.VectorType(I32, many), list(order)) for order in orders]
                            both = builder.fadd(*(builder.shuffle_vector(both, both, half) for half in halves))
                        value = builder.extract_element(both, I64(0))
                        to = builder.add(builder.add(y, builder.mul(y_row, I64(i))), I64(4 * j))
                        value = builder.fadd(value, builder.load(total))
                        builder.store(value, builder.inttoptr(to, F32.as_pointer()))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 13), emit

    return run


@functools.cache
def _expand(lanes: int, zeros: bool) -> Any:
    """f(groups, runs, w, scale, zero, to): a row of W as floats."""

    @intrinsic
    def run(typing: Any, groups: Any, runs: Any, w: Any, scale: Any, zero: Any, to: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            groups, runs, w, scale, zero, to = args
            v = Vectors(builder, F32, lanes)
            with counting(builder, groups) as g:
                at_scale = builder.add(scale, builder.mul(g, I64(4)))
                group = _Group(builder, lanes, at_scale, builder.add(zero, g) if zeros else None)
                first = builder.mul(g, runs)
                with counting(builder, runs) as r:
                    at = builder.add(first, r)
                    line = builder.add(to, builder.mul(at, I64(2 * RUN * 4)))
                    for k, weight in group.run(builder.add(w, builder.mul(at, I64(RUN)))):
                        v.store(weight, line, 4 * k)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return run


@functools.cache
def _kernels(tier: str, zeros: bool) -> tuple[Any, Any]:
    """Of few rows of x the product, and of a block of W the floats."""
    lanes = VECTOR_BYTES[tier] // 4
    expand = _expand(lanes, zeros)
    narrow = tier == "avx2" or lanes == 4  # 16 registers
    wide = 2 if narrow else 4
    single, several = _dots(lanes, wide, 1, zeros), _dots(lanes, wide, AT_ONCE, zeros)

    @jit(inner=True)
    def some(task, slot, each, m, n, groups, runs, x, w, scale, zero, b, y):  # type: ignore[no-untyped-def]
        """Task: `each` outputs of all rows of x."""
        x_row, w_row = groups * runs * 2 * RUN * 4, groups * runs * RUN
        last = min((task + 1) * each, n)
        for j in range(task * each, last, wide):
            count, start = min(wide, last - j), b + j * 4 if b else 0
            at, to_scale, to_zero = w + j * w_row, scale + j * groups * 4, zero + j * groups
            for i in range(0, m, AT_ONCE):
                rows, out = min(AT_ONCE, m - i), y + (i * n + j) * 4
                if rows == 1:
                    single(groups, runs, x + i * x_row, 0, 1, at, w_row, count, to_scale, to_zero, start, out, 0)
                else:
                    several(
                        groups, runs, x + i * x_row, x_row, rows, at, w_row, count, to_scale, to_zero,
                        start, out, n * 4,
                    )  # fmt: skip

    @jit(tag=f"{tier} {zeros}")
    def few(m, n, groups, runs, x, w, scale, zero, b, y, nthreads):  # type: ignore[no-untyped-def]
        each = max(4, n // (8 * nthreads) // 4 * 4)
        job = (each, m, n, groups, runs, x, w, scale, zero, b, y)
        parallel_for(some, (n + each - 1) // each, nthreads, job)

    @jit(inner=True)
    def row(task, slot, groups, runs, w, scale, zero, to):  # type: ignore[no-untyped-def]
        length = groups * runs * RUN
        expand(groups, runs, w + task * length, scale + task * groups * 4, zero + task * groups, to + task * length * 8)

    @jit(tag=f"{tier} {zeros}")
    def floats(n, groups, runs, w, scale, zero, to, nthreads):  # type: ignore[no-untyped-def]
        parallel_for(row, n, nthreads, (groups, runs, w, scale, zero, to))

    return few, floats


def int4_linear(x: Array, w_q: Array, scale: Array, zero: Array | None, b: Array | None) -> Array:
    (n, groups), k, m = scale.shape, x.shape[-1], math.prod(x.shape[:-1])
    y = np.empty((m, n), np.float32)
    if not y.size or not k:
        y[...] = 0 if b is None else b
        return y.reshape(*x.shape[:-1], n)
    w_q, scale = np.ascontiguousarray(w_q), np.ascontiguousarray(scale)
    zero, b = (None if a is None else np.ascontiguousarray(a) for a in (zero, b))
    few, floats = _kernels(machine.tier(), zero is not None)
    runs = k // groups // (2 * RUN)
    nthreads = threads.get_num_threads() if m * n * k >= SMALL else 1
    if m <= FEW:
        rows = np.ascontiguousarray(x)
        few(
            m, n, groups, runs, address(rows), address(w_q), address(scale), address(zero), address(b), address(y),
            nthreads,
        )  # fmt: skip
        return y.reshape(*x.shape[:-1], n)
    rows = x.reshape(m, k)
    x_row, x_col = rows.strides
    block = max(64, BLOCK // (4 * k) // 64 * 64)
    at_x, at_w, at_scale, at_zero, at_b, at_y = (address(a) for a in (rows, w_q, scale, zero, b, y))
    with workspace.borrow(min(n, block) * k * 4) as made:
        for j in range(0, n, block):
            some = min(block, n - j)
            floats(
                some, groups, runs, at_w + j * k // 2, at_scale + j * groups * 4, at_zero + j * groups, made, nthreads
            )
            multiply_at(
                "f32", 1, m, some, k, at_x, 0, x_row, x_col, made, 0, 4, 4 * k, at_y + 4 * j, 0, 4 * n,
                at_b + 4 * j if b is not None else 0,
            )  # fmt: skip
    return y.reshape(*x.shape[:-1], n)
