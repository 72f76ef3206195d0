"""The steps of attention around the tile unit: softmax and its gradient, whose results leave split into bfloat16.

Scores, weights p and their gradients are blocks of 32 keys by 32 queries (two vectors) in float32. As an operand of the
next product each becomes a panel (cpu/split.py): of A, where rows are keys and queries are summed over, or of B, where
keys are summed over. Here parts are cut off, not rounded:

    x = h + m + l      h the upper 8 bits of x, m the next 8, l the rest: exact

which is four instructions instead of seven. What the six products leave out, m l + l m + l l, is twice as large then,
but has no bias, since the other operand is rounded.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu import mathfn
from ..cpu.simd import F32, I32, I64, Vectors, counting
from ..cpu.split import PLANE, SIDE

LINE = 128  # bytes of a row: 32 queries
BLOCK = 32 * LINE
PANEL = 3 * PLANE  # bytes of a block, split
HALVES = (0, 64)


class _Split:
    """Emits vectors of float32 and the parts of them."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder
        self.v, self.bits = Vectors(builder, F32, SIDE), Vectors(builder, I32, SIDE)

    def _all(self, value: int) -> ir.Constant:
        return ir.Constant(self.bits.type, [value] * SIDE)

    def _upper(self, x: ir.Value) -> ir.Value:
        return self.builder.and_(self.builder.bitcast(x, self.bits.type), self._all(0xFFFF0000))

    def parts(self, x: ir.Value) -> list[ir.Value]:
        """Bits of h, m and l in the upper halves of lanes, zeros in the lower."""
        b = self.builder
        h = self._upper(x)
        rest = b.fsub(x, b.bitcast(h, self.v.type))
        m = self._upper(rest)
        return [h, m, self._upper(b.fsub(rest, b.bitcast(m, self.v.type)))]  # which cuts off bits below 2^-133 only

    def store(self, first: list[ir.Value], second: list[ir.Value], address: ir.Value, offset: int = 0) -> None:
        """Plane by plane, in every lane the bfloat16 of `first` and behind it that of `second`."""
        for plane, (x, y) in enumerate(zip(first, second)):
            pair = self.builder.or_(self.builder.lshr(x, self._all(16)), y)
            self.bits.store(pair, address, PLANE * plane + offset, align=64)


@intrinsic
def absorb(typing: Any, blocks: Any, scores: Any, m: Any, l: Any, alpha: Any, panel: Any) -> Any:
    """absorb(blocks, scores, m, l, alpha, panel): softmax.absorb for `blocks` blocks of keys, p left as panels of B."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        blocks, scores, m, l, alpha, panel = args
        s = _Split(b)
        v = s.v
        larger = lambda x, y: mathfn.choose(v, x, ">", y, x, y)
        old = [v.load(m, o) for o in HALVES]
        # Several maxima at a time, since each waits for the one before.
        chains = [[cgutils.alloca_once_value(b, x) for x in old] for _ in range(4)]
        with counting(b, b.mul(blocks, I64(32)), step=I64(4)) as i:
            row = b.add(scores, b.mul(i, I64(LINE)))
            for k, places in enumerate(chains):
                for place, o in zip(places, HALVES):
                    b.store(larger(v.load(row, LINE * k + o), b.load(place)), place)
        base, sums = [], []
        for j, o in enumerate(HALVES):
            one, two, three, four = (b.load(places[j]) for places in chains)
            new = larger(larger(one, two), larger(three, four))
            v.store(new, m, o)
            # A lane that has met no key yet has m = -inf: -inf - 0 stays, where -inf - -inf would be NaN.
            base.append(mathfn.choose(v, new, "==", mathfn.const(v, float("-inf")), v.zero(), new))
            factor = mathfn.exp_below(v, b.fsub(old[j], base[j]))
            v.store(factor, alpha, o)
            sums.append(cgutils.alloca_once_value(b, b.fmul(v.load(l, o), factor)))
        with counting(b, blocks) as block:
            rows, to = b.add(scores, b.mul(block, I64(BLOCK))), b.add(panel, b.mul(block, I64(PANEL)))
            with counting(b, I64(SIDE)) as i:
                row, line = b.add(rows, b.mul(i, I64(LINE))), b.add(to, b.mul(i, I64(LINE)))
                for o, x, total in zip(HALVES, base, sums):
                    p, q = (mathfn.exp_below(v, b.fsub(v.load(row, o + far), x)) for far in (0, SIDE * LINE))
                    b.store(b.fadd(b.load(total), b.fadd(p, q)), total)
                    s.store(s.parts(p), s.parts(q), line, o)
        for o, total in zip(HALVES, sums):
            v.store(b.load(total), l, o)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), emit


@intrinsic
def differentiate(
    typing: Any, scores: Any, dp: Any, lse: Any, delta: Any, scale: Any, p_a: Any, ds_a: Any, ds_b: Any
) -> Any:
    """differentiate(scores, dp, lse, delta, scale, p_a, ds_a, ds_b): softmax.differentiate for a block, into panels.

    p as one of A, ds as one of A and one of B.
    """

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        scores, dp, lse, delta, scale, p_a, ds_a, ds_b = args
        s = _Split(b)
        v = s.v
        known = [[v.load(a, o) for a in (lse, delta, scale)] for o in HALVES]
        with counting(b, I64(SIDE)) as i:
            pairs = []
            for far in (0, SIDE):
                at = b.mul(b.add(i, I64(far)), I64(LINE))
                row, slope, ps, slopes = b.add(scores, at), b.add(dp, at), [], []
                for o, (base, mean, factor) in zip(HALVES, known):
                    p = mathfn.exp_below(v, b.fsub(v.load(row, o), base))
                    ps.append(s.parts(p))
                    slopes.append(s.parts(b.fmul(b.fmul(p, b.fsub(v.load(slope, o), mean)), factor)))
                line = b.mul(b.add(i, I64(far)), I64(64))
                s.store(ps[0], ps[1], b.add(p_a, line))
                s.store(slopes[0], slopes[1], b.add(ds_a, line))
                pairs.append(slopes)
            for o, first, second in zip(HALVES, *pairs):
                s.store(first, second, b.add(ds_b, b.mul(i, I64(LINE))), o)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 8), emit


@intrinsic
def blend(typing: Any, rows: Any, alpha: Any, fresh: Any) -> Any:
    """blend(rows, alpha, fresh): a block of sums becomes sums * alpha + fresh, alpha one number per lane."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        rows, alpha, fresh = args
        v = Vectors(b, F32, SIDE)
        factors = [v.load(alpha, o) for o in HALVES]
        with counting(b, I64(32)) as i:
            at = b.mul(i, I64(LINE))
            row, more = b.add(rows, at), b.add(fresh, at)
            for o, factor in zip(HALVES, factors):
                v.store(v.multiply_add(v.load(row, o), factor, v.load(more, o)), row, o)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), emit


@intrinsic
def gain(typing: Any, rows: Any, step: Any, fresh: Any) -> Any:
    """gain(rows, step, fresh): a block is added to rows `step` bytes apart."""

    def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        rows, step, fresh = args
        v = Vectors(b, F32, SIDE)
        with counting(b, I64(32)) as i:
            row, more = b.add(rows, b.mul(i, step)), b.add(fresh, b.mul(i, I64(LINE)))
            for o in HALVES:
                v.store(v.add(v.load(row, o), v.load(more, o)), row, o)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), emit
