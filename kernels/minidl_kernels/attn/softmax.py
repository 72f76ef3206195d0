"""The vector steps of streaming attention: lanes are queries, rows are keys, so that a softmax never crosses lanes.

Exponentials are a polynomial in vectors (LLVM has no vector exp here): exp(x) = 2^n * p(r) with n = round(x / ln 2)
and r = x - n ln 2, |r| <= ln 2 / 2, p the Taylor series to degree 7 (float32) or 13 (float64), whose rest is below
0.1 units in the last place. The error is below 1 unit in the last place; results below 3 times the smallest normal
number are 0; exp(NaN) = NaN, exp(inf) = inf.
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

from ..cpu.gather import element
from ..cpu.simd import F32, I64, Vectors, counting


def _const(v: Vectors, value: float) -> ir.Value:
    """Every lane `value`, rounded to the lanes' precision as LLVM's constants must be."""
    return ir.Constant(v.type, [float(np.float32(value)) if v.element == F32 else value] * v.lanes)


def _choose(v: Vectors, a: ir.Value, relation: str, b: ir.Value, yes: ir.Value, no: ir.Value) -> ir.Value:
    """yes where a (relation) b, else no; a comparison with NaN is false."""
    return v.builder.select(v.builder.fcmp_ordered(relation, a, b), yes, no)


def exp(v: Vectors, x: ir.Value) -> ir.Value:
    """Emit exp of a vector (see the top of this page)."""
    b = v.builder
    single = v.element == F32
    mantissa, bias, degree = (23, 127, 7) if single else (52, 1023, 13)
    lowest = _const(v, math.log(2) * (2.5 - bias))
    highest = _const(v, math.log(2) * (bias + 1) - (1e-5 if single else 1e-12))
    # ln 2 in two parts: n times the first is exact, having trailing zeros enough for the bits of n.
    high = float.fromhex("0x1.62e400p-1" if single else "0x1.62e42fefa3800p-1")
    low = float.fromhex("0x1.7f7d1cp-20" if single else "0x1.ef35793c76730p-45")
    # Adding 1.5 * 2^mantissa rounds to an integer and leaves it in the lowest bits.
    magic = _const(v, 1.5 * 2.0**mantissa)
    bits = ir.VectorType(ir.IntType(8 * v.bytes), v.lanes)
    inside = _choose(v, x, "<", lowest, lowest, x)
    inside = _choose(v, inside, ">", highest, highest, inside)
    shifted = v.multiply_add(inside, _const(v, 1 / math.log(2)), magic)
    n = b.fsub(shifted, magic)
    r = v.multiply_add(n, _const(v, -high), inside)
    r = v.multiply_add(n, _const(v, -low), r)
    power = b.shl(b.bitcast(shifted, bits), ir.Constant(bits, [mantissa] * v.lanes))
    power = b.add(power, ir.Constant(bits, [(bias - 1) << mantissa] * v.lanes))
    p = _const(v, 1 / math.factorial(degree))
    for k in reversed(range(degree)):
        p = v.multiply_add(p, r, _const(v, 1 / math.factorial(k)))
    # 2^(n - 1) * 2 p: the largest n has no power of two of its own.
    y = b.fmul(b.fadd(p, p), b.bitcast(power, v.type))
    y = _choose(v, x, "<", lowest, v.zero(), y)
    return _choose(v, x, ">", highest, _const(v, math.inf), y)


def _at(v: Vectors, base: ir.Value, row: ir.Value, nvectors: int) -> ir.Value:
    """The address of a row of `nvectors` vectors."""
    return v.builder.add(base, v.builder.mul(row, I64(nvectors * v.lanes * v.bytes)))


@functools.cache
def exponentials(dtype: str, nlanes: int) -> Any:
    """exponentials(n, x): the n vectors at address x become their exponentials."""

    @intrinsic
    def function(typing: Any, n: Any, x: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, x = args
            v = Vectors(builder, element(dtype), nlanes)
            with counting(builder, n) as i:
                at = _at(v, x, i, 1)
                v.store(exp(v, v.load(at)), at)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), emit

    return function


@functools.cache
def absorb(dtype: str, nvectors: int, nlanes: int) -> Any:
    """absorb(count, scores, m, l, alpha): take `count` more keys into the softmax of each lane.

    All but count are addresses. scores (count, lanes) become exp(scores - m) for the new maximum m, and are added to
    l; alpha = exp(old m - m) is what sums from before must be multiplied with, as was done to l.
    Milakov, Gimelshein 2018, "Online normalizer calculation for softmax", arXiv:1805.02867.
    """

    @intrinsic
    def function(typing: Any, count: Any, scores: Any, m: Any, l: Any, alpha: Any) -> Any:
        def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            count, scores, m, l, alpha = args
            v = Vectors(b, element(dtype), nlanes)
            offsets = [j * nlanes * v.bytes for j in range(nvectors)]
            old = [v.load(m, o) for o in offsets]
            most = [cgutils.alloca_once(b, v.type) for _ in offsets]
            for place, x in zip(most, old):
                b.store(x, place)
            with counting(b, count) as i:
                row = _at(v, scores, i, nvectors)
                for place, o in zip(most, offsets):
                    x, y = v.load(row, o), b.load(place)
                    b.store(_choose(v, x, ">", y, x, y), place)
            base, sums = [], [cgutils.alloca_once(b, v.type) for _ in offsets]
            for place, x, s, o in zip(most, old, sums, offsets):
                new = b.load(place)
                v.store(new, m, o)
                # A lane that has met no key yet has m = -inf: -inf - 0 stays, where -inf - -inf would be NaN.
                base.append(_choose(v, new, "==", _const(v, -math.inf), v.zero(), new))
                factor = exp(v, b.fsub(x, base[-1]))
                v.store(factor, alpha, o)
                b.store(b.fmul(v.load(l, o), factor), s)
            with counting(b, count) as i:
                row = _at(v, scores, i, nvectors)
                for x, s, o in zip(base, sums, offsets):
                    p = exp(v, b.fsub(v.load(row, o), x))
                    v.store(p, row, o)
                    b.store(b.fadd(b.load(s), p), s)
            for s, o in zip(sums, offsets):
                v.store(b.load(s), l, o)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), emit

    return function


@functools.cache
def shrink(dtype: str, nvectors: int, nlanes: int) -> Any:
    """shrink(count, rows, alpha): multiply `count` rows by alpha, lane by lane; rows and alpha are addresses."""

    @intrinsic
    def function(typing: Any, count: Any, rows: Any, alpha: Any) -> Any:
        def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            count, rows, alpha = args
            v = Vectors(b, element(dtype), nlanes)
            factors = [(j * nlanes * v.bytes, v.load(alpha, j * nlanes * v.bytes)) for j in range(nvectors)]
            with counting(b, count) as i:
                row = _at(v, rows, i, nvectors)
                for o, factor in factors:
                    v.store(b.fmul(v.load(row, o), factor), row, o)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), emit

    return function


@functools.cache
def dots(dtype: str, nvectors: int, nlanes: int) -> Any:
    """dots(count, a, b, to): to = the sum of a * b over `count` rows, lane by lane; all but count are addresses."""

    @intrinsic
    def function(typing: Any, count: Any, a: Any, b: Any, to: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            count, a, b, to = args
            v = Vectors(builder, element(dtype), nlanes)
            sums = [(j * nlanes * v.bytes, cgutils.alloca_once_value(builder, v.zero())) for j in range(nvectors)]
            with counting(builder, count) as i:
                x, y = _at(v, a, i, nvectors), _at(v, b, i, nvectors)
                for o, s in sums:
                    builder.store(v.multiply_add(v.load(x, o), v.load(y, o), builder.load(s)), s)
            for o, s in sums:
                v.store(builder.load(s), to, o)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), emit

    return function


@functools.cache
def strange(dtype: str, nlanes: int) -> Any:
    """strange(count, x): whether a number among the `count` vectors at address x is NaN or infinite."""

    @intrinsic
    def function(typing: Any, count: Any, x: Any) -> Any:
        def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            count, x = args
            v = Vectors(b, element(dtype), nlanes)
            zeros = cgutils.alloca_once_value(b, v.zero())  # x - x, which is NaN for those, and stays so in a sum
            with counting(b, count) as i:
                y = v.load(_at(v, x, i, 1))
                b.store(b.fadd(b.load(zeros), b.fsub(y, y)), zeros)
            found = b.fcmp_unordered("uno", b.load(zeros), v.zero())
            return b.icmp_unsigned("!=", b.bitcast(found, ir.IntType(nlanes)), ir.Constant(ir.IntType(nlanes), 0))

        return types.boolean(types.int64, types.int64), emit

    return function


@functools.cache
def differentiate(dtype: str, nvectors: int, nlanes: int) -> Any:
    """differentiate(count, scores, dp, lse, delta, scale): scores become p = exp(scores - lse), dp becomes ds.

    ds = p * (dp - delta) * scale. All but count are addresses; lse, delta and scale hold one number per lane, lse =
    +inf in lanes without keys, which makes p zero.
    """

    @intrinsic
    def function(typing: Any, count: Any, scores: Any, dp: Any, lse: Any, delta: Any, scale: Any) -> Any:
        def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            count, scores, dp, *per_lane = args
            v = Vectors(b, element(dtype), nlanes)
            offsets = [j * nlanes * v.bytes for j in range(nvectors)]
            known = [[v.load(a, o) for a in per_lane] for o in offsets]
            with counting(b, count) as i:
                row, slope = _at(v, scores, i, nvectors), _at(v, dp, i, nvectors)
                for o, (lse, delta, scale) in zip(offsets, known):
                    p = exp(v, b.fsub(v.load(row, o), lse))
                    v.store(p, row, o)
                    v.store(b.fmul(b.fmul(p, b.fsub(v.load(slope, o), delta)), scale), slope, o)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return function
