"""A float32 as the sum of three bfloat16, for products on the tile unit (amx.py, kinds f32x6 and f32x3).

    x = h + m + l      h is x rounded to bfloat16's 8 bits, m what is left, rounded, l the rest: exact

The unit takes bfloat16's range ends otherwise than float32's: it reads and writes denormals as zeros, and Inf - Inf
makes NaN of what was Inf. So the packers note the smallest magnitude that is not 0, or 0 where one is not finite or
2^127 and more; `trusted` says whether products of such numbers are as good as float32's. Where they are not, the caller
computes on vectors instead.

Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations",
arXiv:1904.06376.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import jit
from .simd import F32, I32, I64, Vectors, counting
from .tile import Tile

KINDS = ("f32x6", "f32x3")
SIDE = 16  # lanes, and rows of a square
PLANE = 2048  # bytes of a part of a block, 32 k of 32 rows or columns
# In units of 2^23 of a float's bits: exponents, with 127 for 1. Of a number, and of the product of two.
ALONE, TOGETHER = 127 - 100, 2 * 127 - 100


@jit(inner=True)
def trusted(low_a, low_b):  # type: ignore[no-untyped-def]
    """Whether operands whose packers gave these are far from the ends of the range (see the top of the page)."""
    a, b = low_a >> 23, low_b >> 23
    return a >= ALONE and b >= ALONE and a + b >= TOGETHER


class _Parts:
    """Emits the splitting of vectors of float32 into bfloat16, and notes their magnitudes."""

    def __init__(self, builder: ir.IRBuilder, planes: int) -> None:
        self.builder, self.planes = builder, planes
        self.v, self.bits = Vectors(builder, F32, SIDE), Vectors(builder, I32, SIDE)
        self.low = cgutils.alloca_once_value(builder, self._all(0xFFFFFFFF))
        self.top = cgutils.alloca_once_value(builder, self.bits.zero())

    def _all(self, value: int) -> ir.Constant:
        return ir.Constant(self.bits.type, [value] * SIDE)

    def _upper(self, x: ir.Value) -> ir.Value:
        """x rounded to bfloat16, as the upper halves of lanes."""
        bits = self.builder.add(self.builder.bitcast(x, self.bits.type), self._all(0x8000))
        return self.builder.and_(bits, self._all(0xFFFF0000))

    def parts(self, x: ir.Value) -> list[ir.Value]:
        """Bits of h, m and, with three planes, l in the upper halves of lanes, zeros in the lower: x = h + m + l."""
        b = self.builder
        size = b.and_(b.bitcast(x, self.bits.type), self._all(0x7FFFFFFF))
        top, low = b.load(self.top), b.load(self.low)
        b.store(b.select(b.icmp_unsigned(">", size, top), size, top), self.top)
        less = b.sub(size, self._all(1))  # a zero becomes the greatest
        b.store(b.select(b.icmp_unsigned("<", less, low), less, low), self.low)
        h = self._upper(x)
        rest = b.fsub(x, b.bitcast(h, self.v.type))
        m = self._upper(rest)
        if self.planes == 2:
            return [h, m]
        return [h, m, b.bitcast(b.fsub(rest, b.bitcast(m, self.v.type)), self.bits.type)]

    def _beside(self, first: ir.Value, second: ir.Value) -> ir.Value:
        """In every lane the bfloat16 of `first`, and behind it that of `second`."""
        return self.builder.or_(self.builder.lshr(first, self._all(16)), second)

    def store(self, first: ir.Value, second: ir.Value, address: ir.Value, offset: int) -> None:
        """Both, plane by plane, side by side in every lane."""
        for plane, pair in enumerate(zip(self.parts(first), self.parts(second))):
            self.bits.store(self._beside(*pair), address, PLANE * plane + offset, align=64)

    def smallest(self) -> ir.Value:
        """Bits of the smallest magnitude but 0; 0 where one is 2^127 or more, Inf or NaN."""
        b = self.builder

        def reduced(held: ir.Value, how: str) -> ir.Value:
            shape = ir.FunctionType(I32, [self.bits.type])
            name = f"llvm.vector.reduce.{how}.v{SIDE}i32"
            return b.call(cgutils.get_or_insert_function(b.module, shape, name), [b.load(held)])

        low, top = reduced(self.low, "umin"), reduced(self.top, "umax")
        great = b.icmp_unsigned(">=", top, I32(254 << 23))
        return b.select(great, I64(0), b.zext(low, I64))


@functools.cache
def pack(t: Tile, operand: str) -> Any:
    """The packer of amx.pack: squares of 16 x 16 floats are brought into registers, with k along the lanes (A) or along
    the columns (B), split, and stored plane by plane; panels are whole, with zeros behind the last lane.
    """
    column = t.column

    @intrinsic
    def pack_panel(typing: Any, source: Any, lane_step: Any, k_step: Any, lanes: Any, k: Any, to: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            source, lane_step, k_step, lanes, k, to = args
            split = _Parts(builder, 3 if t.kind == "f32x6" else 2)
            v = split.v
            gathered = cgutils.alloca_once(builder, ir.ArrayType(F32, SIDE * SIDE))
            gathered = builder.ptrtoint(gathered, I64)
            nothing = cgutils.global_constant(builder, "minidl_zeros", ir.Constant(ir.ArrayType(F32, SIDE), None))
            zeros = builder.ptrtoint(nothing, I64)
            # Of a square: vector i along `outer`, lanes along `inner`.
            outer_step, inner_step = (lane_step, k_step) if operand == "a" else (k_step, lane_step)

            ahead = builder.mul(k_step, I64(t.block))

            def vectors(start: ir.Value, step: ir.Value, count: ir.Value, mask: ir.Value) -> list[ir.Value]:
                """`count` vectors, `step` bytes apart, and zeros: read from elsewhere, which is cheaper than a mask."""
                found = []
                for i in range(SIDE):
                    inside = builder.icmp_signed("<", I64(i), count)
                    here = builder.add(start, builder.mul(step, I64(i)))
                    found.append(v.masked_load(mask, builder.select(inside, here, zeros)))
                    v.prefetch(builder.add(here, ahead))
                return found

            def blocks(square: Callable[[ir.Value, ir.Value, ir.Value], list[ir.Value]]) -> None:
                """`square(start, outer, inner)`: the vectors of a square with that many rows and columns inside."""
                with counting(builder, k, step=I64(t.block)) as p:
                    place = builder.add(to, builder.mul(p, I64(column)))
                    with counting(builder, I64(2 * SIDE), step=I64(SIDE)) as lane:
                        start = builder.add(source, builder.mul(lane, lane_step))
                        wide = builder.sub(lanes, lane)
                        halves = []
                        for half in range(2):
                            first = builder.add(p, I64(SIDE * half))
                            deep = builder.sub(k, first)
                            at = builder.add(start, builder.mul(first, k_step))
                            halves.append(square(at, wide, deep) if operand == "a" else square(at, deep, wide))
                        # Line i of both halves side by side: which k are neighbours does not matter, if they are so in
                        # A and in B.
                        line, width = (64, 64) if operand == "a" else (128, 4)
                        corner = builder.add(place, builder.mul(lane, I64(width)))
                        for i, (one, two) in enumerate(zip(*halves)):
                            split.store(one, two, corner, line * i)

            def as_they_lie() -> None:
                blocks(lambda at, outer, inner: vectors(at, outer_step, outer, v.first(inner)))

            def transposed() -> None:
                blocks(lambda at, outer, inner: v.transpose(vectors(at, inner_step, inner, v.first(outer))))

            def far_apart() -> None:
                one = Vectors(builder, F32, 1)

                def square(at: ir.Value, outer: ir.Value, inner: ir.Value) -> list[ir.Value]:
                    for i in range(SIDE):
                        v.store(v.zero(), gathered, 64 * i)
                    least = lambda n: builder.select(builder.icmp_signed("<", n, I64(SIDE)), n, I64(SIDE))
                    with counting(builder, least(outer)) as i:
                        with counting(builder, least(inner)) as j:
                            place = builder.add(builder.mul(i, outer_step), builder.mul(j, inner_step))
                            number = builder.add(builder.mul(i, I64(64)), builder.mul(j, I64(4)))
                            one.store(one.load(builder.add(at, place)), builder.add(gathered, number))
                    return [v.load(gathered, 64 * i) for i in range(SIDE)]

                blocks(square)

            with builder.if_else(builder.icmp_signed("==", inner_step, I64(4))) as (this, otherwise):
                with this:
                    as_they_lie()
                with otherwise:
                    with builder.if_else(builder.icmp_signed("==", outer_step, I64(4))) as (this, last):
                        with this:
                            transposed()
                        with last:
                            far_apart()
            return split.smallest()

        return types.int64(*[types.int64] * 6), emit

    return pack_panel
