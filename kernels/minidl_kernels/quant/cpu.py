"""Codes and floats in vectors: every array is read once and written once.

An array is runs of `inner` elements that share a scale, that of run number modulo C. Where runs are single elements
(the last axis has the scales), a vector takes a vector of scales instead.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import machine, threads
from ..cpu.gather import element, pointer
from ..cpu.gather import name as dtype_of
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import F32, I8, I32, I64, VECTOR_BYTES, Vectors, counting
from ..cpu.sweep import GRAIN
from ..gemm_int8.stages import MAGIC, whole_numbers

Array = NDArray[Any]
Load = Callable[[Vectors, ir.Value], ir.Value]
Store = Callable[[Vectors, ir.Value, ir.Value], None]

f32, i8, u8 = pointer("float32"), pointer("int8"), pointer("uint8")


def _loop(builder: ir.IRBuilder, n: ir.Value, lanes: int, work: Callable[[Load, Store], None]) -> None:
    """Emit work(load, store) for whole vectors, then for what is left, masked."""
    full = builder.mul(builder.sdiv(n, I64(lanes)), I64(lanes))
    at = lambda v, base, p: builder.add(base, builder.mul(p, I64(v.bytes)))
    with counting(builder, full, step=I64(lanes)) as p:
        work(lambda v, base: v.load(at(v, base, p)), lambda v, value, base: v.store(value, at(v, base, p)))
    with builder.if_then(builder.icmp_signed("<", full, n)):
        mask = Vectors(builder, I32, lanes).first(builder.sub(n, full))
        work(
            lambda v, base: v.masked_load(mask, at(v, base, full)),
            lambda v, value, base: v.masked_store(value, mask, at(v, base, full)),
        )


def _rounded(v: Vectors, x: ir.Value, s: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """clip(rint(x / s), low, high) with a scale in each lane; NaN counts as 0."""
    b, magic = v.builder, ir.Constant(v.type, [MAGIC] * v.lanes)
    value = b.fdiv(x, s)
    value = b.select(b.fcmp_ordered("ord", value, value), value, v.zero())
    value = b.select(b.fcmp_ordered(">", value, high), high, value)
    value = b.select(b.fcmp_ordered("<", value, low), low, value)
    return b.fsub(b.fadd(value, magic), magic)


@functools.cache
def _quantize(tier: str, dtype: str) -> Any:
    lanes = VECTOR_BYTES[tier] // 4

    def vectors(builder: ir.IRBuilder) -> tuple[Vectors, ...]:
        return tuple(Vectors(builder, kind, lanes) for kind in (element(dtype), F32, I32, I8))

    def narrow(v: Vectors, x: ir.Value) -> ir.Value:
        return x if dtype == "float32" else v.builder.fptrunc(x, v.type)

    @intrinsic
    def one_scale(typing: Any, n: Any, x: Any, scale: Any, zero: Any, low: Any, high: Any, q: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, x, scale, zero, low, high, q = args
            source, v, whole, codes = vectors(builder)
            z = builder.trunc(zero, I32)
            least, most = (builder.sitofp(builder.sub(builder.trunc(w, I32), z), F32) for w in (low, high))
            rounded, shift = whole_numbers(v, scale, least, most), whole.splat(z)

            def work(load: Load, store: Store) -> None:
                ints = builder.fptosi(rounded(narrow(v, load(source, x))), whole.type)
                store(codes, builder.trunc(builder.add(ints, shift), codes.type), q)

            _loop(builder, n, lanes, work)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.float32, *[types.int64] * 4), emit

    @intrinsic
    def many_scales(typing: Any, n: Any, x: Any, scales: Any, zeros: Any, low: Any, high: Any, q: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, x, scales, zeros, low, high, q = args
            source, v, whole, codes = vectors(builder)
            ends = [whole.splat(builder.trunc(w, I32)) for w in (low, high)]

            def work(load: Load, store: Store) -> None:
                z = builder.sext(load(codes, zeros), whole.type)
                least, most = (builder.sitofp(builder.sub(w, z), v.type) for w in ends)
                value = _rounded(v, narrow(v, load(source, x)), load(v, scales), least, most)
                store(codes, builder.trunc(builder.add(builder.fptosi(value, whole.type), z), codes.type), q)

            _loop(builder, n, lanes, work)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), emit

    size = np.dtype(dtype).itemsize

    @jit(inner=True)
    def some(task, slot, each, total, inner, c, x, scales, zeros, low, high, q):  # type: ignore[no-untyped-def]
        p, stop = task * each, min((task + 1) * each, total)
        while p < stop:
            if inner == 1:
                first = p % c
                n = min(c - first, stop - p)
                many_scales(n, x + p * size, scales + first * 4, zeros + first, low, high, q + p)
            else:
                run = p // inner
                n = min((run + 1) * inner, stop) - p
                one_scale(n, x + p * size, f32(scales)[run % c], np.int64(i8(zeros)[run % c]), low, high, q + p)
            p += n

    @jit(tag=f"{dtype} {tier}")
    def quantize(each, nthreads, total, inner, c, x, scales, zeros, low, high, q):  # type: ignore[no-untyped-def]
        job = (each, total, inner, c, x, scales, zeros, low, high, q)
        parallel_for(some, (total + each - 1) // each, nthreads, job)

    return quantize


@jit(inner=True)
def _back(n, q, signed, z, s, x):  # type: ignore[no-untyped-def]
    to = f32(x)
    if signed:
        codes = i8(q)
        for j in range(n):
            to[j] = np.float32(np.int32(codes[j]) - z) * s
    else:
        bare = u8(q)
        for j in range(n):
            to[j] = np.float32(np.int32(bare[j]) - z) * s


@jit(inner=True)
def _back_columns(n, q, signed, zeros, scales, x):  # type: ignore[no-untyped-def]
    to, s = f32(x), f32(scales)
    if signed:
        codes, z = i8(q), i8(zeros)
        for j in range(n):
            to[j] = np.float32(np.int32(codes[j]) - np.int32(z[j])) * s[j]
    else:
        bare, base = u8(q), u8(zeros)
        for j in range(n):
            to[j] = np.float32(np.int32(bare[j]) - np.int32(base[j])) * s[j]


@jit(inner=True)
def _back_some(task, slot, each, total, inner, c, q, signed, scales, zeros, x):  # type: ignore[no-untyped-def]
    p, stop = task * each, min((task + 1) * each, total)
    while p < stop:
        if inner == 1:
            first = p % c
            n = min(c - first, stop - p)
            _back_columns(n, q + p, signed, zeros + first, scales + first * 4, x + p * 4)
        else:
            run = p // inner
            n = min((run + 1) * inner, stop) - p
            z = np.int32(i8(zeros)[run % c]) if signed else np.int32(u8(zeros)[run % c])
            _back(n, q + p, signed, z, f32(scales)[run % c], x + p * 4)
        p += n


@jit
def _dequantize(each, nthreads, total, inner, c, q, signed, scales, zeros, x):  # type: ignore[no-untyped-def]
    parallel_for(_back_some, (total + each - 1) // each, nthreads, (each, total, inner, c, q, signed, scales, zeros, x))


def _parameters(shape: tuple[int, ...], scale: Any, zero: Any, axis: int | None, kind: Any) -> tuple[Any, ...]:
    """inner, scales (C,) and zero points (C,)."""
    if axis is None:
        return math.prod(shape), np.array([scale], np.float32), np.array([zero], kind)
    scale = np.ascontiguousarray(scale)
    zero = np.ascontiguousarray(zero) if isinstance(zero, np.ndarray) else np.full(len(scale), zero, kind)
    return math.prod(shape[axis % len(shape) + 1 :]), scale, zero


def quantize(x: Array, scale: Any, zero: Any, low: int, high: int, axis: int | None) -> Array:
    q = np.empty(x.shape, np.int8)
    if q.size:
        x = np.ascontiguousarray(x)
        inner, scales, zeros = _parameters(x.shape, scale, zero, axis, np.int8)
        where = address(x), address(scales), address(zeros), low, high, address(q)
        run = _quantize(machine.floats(), dtype_of(x))
        run(GRAIN, threads.get_num_threads(), q.size, inner, len(scales), *where)
    return q


def dequantize(q: Array, scale: Any, zero: Any, axis: int | None) -> Array:
    x = np.empty(q.shape, np.float32)
    if x.size:
        q = np.ascontiguousarray(q)
        inner, scales, zeros = _parameters(q.shape, scale, zero, axis, q.dtype)
        where = address(q), q.dtype == np.int8, address(scales), address(zeros), address(x)
        _dequantize(GRAIN, threads.get_num_threads(), x.size, inner, len(scales), *where)
    return x
