"""The float stages of an integer layer, compiled: quantize.py has the definition, and the same bits.

quantize   x (rows, K) float32 -> q int8 and a scale per row
finish     acc (rows, N) int32 -> y float32, in place
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu import threads
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import SMALL
from ..cpu.simd import F32, I8, I32, I64, VECTOR_BYTES, Vectors, counting

i8, i32, f32 = pointer("int8"), pointer("int32"), pointer("float32")

LARGEST = np.float32(127)
# Adding and taking off 1.5 * 2^23 rounds to whole numbers, half to even, as `rint` does.
MAGIC = 12582912.0
# A float's bits without the sign grow with its magnitude, and those of NaN are largest: an integer maximum, which
# vectorises, finds max|x| and carries NaN.
MAGNITUDE = np.int32(0x7FFFFFFF)


def shares(work: int) -> int:
    """Threads for a pass over `work` numbers: a few microseconds of work each, at least."""
    return threads.get_num_threads() if work >= SMALL // 8 else 1


@intrinsic
def _float_of(typing: Any, bits: Any) -> Any:
    """The float32 with these bits."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), emit


@jit(inner=True)
def top_of(n, x):  # type: ignore[no-untyped-def]
    """The bits of max|x| of n floats."""
    bits, top = i32(x), np.int32(0)
    for p in range(n):
        top = max(top, np.int32(bits[p] & MAGNITUDE))
    return top


@jit(inner=True)
def scale_from(top):  # type: ignore[no-untyped-def]
    """The scale max|x| / 127, 1 where that is 0, from the bits of max|x|."""
    scale = _float_of(np.int32(top)) / LARGEST
    return np.float32(1) if scale == np.float32(0) else scale


@jit(inner=True)
def scale_of(n, x, static):  # type: ignore[no-untyped-def]
    """The scale of n floats, or the static one, if it is not 0."""
    return static if static != np.float32(0) else scale_from(top_of(n, x))


def whole_numbers(
    v: Vectors, divisor: ir.Value, low: ir.Value | None = None, high: ir.Value | None = None, *, as_bits: bool = False,
    inside: bool = False,
) -> Callable[[ir.Value], ir.Value]:  # fmt: skip
    """What makes a vector of floats into floats without fraction: clip(rint(x / divisor), low, high), NaN into 0 first.

    The bounds are whole numbers of up to 2^20, -127 and 127 by default. `as_bits`: as int32 of which only the lowest
    byte counts. `inside`: nothing lies outside the bounds, if the divisor is a usual number, nor is NaN.

    A division takes as long as a dozen multiplications. With r = 1 / s, rounded, q = x r is x / s but for two
    roundings; x - q s is exact in a fused multiply-add, and adding r times that gives a quotient that is off by less
    than its last bit. Once more, and it is x / s as a division rounds it (Markstein, "Computation of elementary
    functions on the IBM RISC System/6000 processor", 1990). That holds where nothing overflows and no remainder
    underflows: x is clipped to the bounds times s first, and scales outside 2^-100 ... 2^100 go by division.
    """
    builder = v.builder
    ends = F32(-float(LARGEST)) if low is None else low, F32(float(LARGEST)) if high is None else high
    scales, magic = v.splat(divisor), ir.Constant(v.type, [MAGIC] * v.lanes)
    inverse = v.splat(builder.fdiv(F32(1.0), divisor))
    fused = v.lanes > 4  # a generic CPU may have no fused multiply-add
    shape = ir.FunctionType(v.type, [v.type] * 3)
    fma = cgutils.get_or_insert_function(builder.module, shape, f"llvm.fma.v{v.lanes}f32") if fused else None
    usual = builder.and_(
        builder.fcmp_ordered(">=", divisor, F32(2.0**-100)), builder.fcmp_ordered("<=", divisor, F32(2.0**100))
    )

    def clipped(value: ir.Value, times: ir.Value | None) -> ir.Value:
        """Between the bounds, times something; 0 for NaN before."""
        least, most = (v.splat(e if times is None else builder.fmul(e, times)) for e in ends)
        value = builder.select(builder.fcmp_ordered("ord", value, value), value, v.zero())
        value = builder.select(builder.fcmp_ordered(">", value, most), most, value)
        return builder.select(builder.fcmp_ordered("<", value, least), least, value)

    def quick(x: ir.Value) -> ir.Value:
        x = x if inside else clipped(x, divisor)
        q = builder.fmul(x, inverse)
        for _ in range(2):
            rest = builder.call(fma, [builder.fneg(q), scales, x])
            q = builder.call(fma, [rest, inverse, q])
        return q

    def whole(value: ir.Value) -> ir.Value:
        found = cgutils.alloca_once(builder, v.type)
        with builder.if_else(usual if fused else ir.Constant(ir.IntType(1), 0)) as (this, otherwise):
            with this:
                if fused:
                    builder.store(quick(value), found)
            with otherwise:
                builder.store(clipped(builder.fdiv(value, scales), None), found)
        shifted = builder.fadd(builder.load(found), magic)
        return builder.bitcast(shifted, ir.VectorType(I32, v.lanes)) if as_bits else builder.fsub(shifted, magic)

    return whole


@functools.cache
def every_other(lanes: int) -> Any:
    """f(n, x, to): to[j] = x[2 * j] for j < n, elements of 4 bytes; x is read up to 2 * lanes elements further."""

    @intrinsic
    def run(typing: Any, n: Any, x: Any, to: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, x, to = args
            v = Vectors(builder, I32, lanes)
            order = ir.Constant(ir.VectorType(I32, lanes), list(range(0, 2 * lanes, 2)))

            def even(p: ir.Value) -> ir.Value:
                at = builder.add(x, builder.mul(p, I64(8)))
                return builder.shuffle_vector(v.load(at), v.load(at, lanes * 4), order)

            full = builder.mul(builder.sdiv(n, I64(lanes)), I64(lanes))
            with counting(builder, full, step=I64(lanes)) as p:
                v.store(even(p), builder.add(to, builder.mul(p, I64(4))))
            with builder.if_then(builder.icmp_signed("<", full, n)):
                mask = v.first(builder.sub(n, full))
                v.masked_store(even(full), mask, builder.add(to, builder.mul(full, I64(4))))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), emit

    return run


@functools.cache
def quantize(tier: str, inside: bool) -> Any:
    """f(n, x, scale, q): n floats at x as clip(rint(x / scale), -127, 127), NaN as 0, at q; `inside` as above."""
    lanes = VECTOR_BYTES[tier] // 4

    @intrinsic
    def quantize_run(typing: Any, n: Any, x: Any, scale: Any, q: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, x, scale, q = args
            v, narrow = (Vectors(builder, element, lanes) for element in (F32, I8))
            codes = whole_numbers(v, scale, as_bits=True, inside=inside)
            full = builder.mul(builder.sdiv(n, I64(lanes)), I64(lanes))
            with counting(builder, full, step=I64(lanes)) as p:
                value = codes(v.load(builder.add(x, builder.mul(p, I64(4)))))
                narrow.store(builder.trunc(value, narrow.type), builder.add(q, p))
            with builder.if_then(builder.icmp_signed("<", full, n)):
                mask = v.first(builder.sub(n, full))
                value = codes(v.masked_load(mask, builder.add(x, builder.mul(full, I64(4)))))
                narrow.masked_store(builder.trunc(value, narrow.type), mask, builder.add(q, full))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.float32, types.int64), emit

    return quantize_run


@functools.cache
def quantize_rows(tier: str) -> Any:
    run, run_inside = quantize(tier, False), quantize(tier, True)

    @jit(inner=True)
    def some(task, slot, each, rows, k, x, q, static, scales):  # type: ignore[no-untyped-def]
        for row in range(task * each, min((task + 1) * each, rows)):
            scale = scale_of(k, x + row * k * 4, static)
            f32(scales)[row] = scale
            if static != np.float32(0):
                run(k, x + row * k * 4, scale, q + row * k)
            else:  # by the largest of them: NaN or Inf among them make a scale that is no usual number
                run_inside(k, x + row * k * 4, scale, q + row * k)

    @jit(tag=tier)
    def quantize_rows(rows, k, x, q, static, scales, nthreads):  # type: ignore[no-untyped-def]
        """x (rows, k) -> q (rows, k), and the scales of the rows."""
        each = max(1, 8192 // max(k, 1))
        job = (each, rows, k, x, q, np.float32(static), scales)
        parallel_for(some, (rows + each - 1) // each, nthreads, job)

    return quantize_rows


@jit(inner=True)
def _finish_some(task, slot, each, rows, n, y, scales, w_scale, b):  # type: ignore[no-untyped-def]
    ws, bias = f32(w_scale), f32(b)
    for row in range(task * each, min((task + 1) * each, rows)):
        acc, to = i32(y + row * n * 4), f32(y + row * n * 4)
        scale = f32(scales)[row]
        if b:
            for j in range(n):
                to[j] = np.float32(acc[j]) * (scale * ws[j]) + bias[j]
        else:
            for j in range(n):
                to[j] = np.float32(acc[j]) * (scale * ws[j])


@jit
def finish_rows(rows, n, y, scales, w_scale, b, nthreads):  # type: ignore[no-untyped-def]
    """In place: y[i, j] = acc[i, j] * (scales[i] * w_scale[j]) + b[j]"""
    each = max(1, 8192 // max(n, 1))
    job = (each, rows, n, y, scales, w_scale, b)
    parallel_for(_finish_some, (rows + each - 1) // each, nthreads, job)
