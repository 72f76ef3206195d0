"""Copy a matrix into the order in which the tile reads it.

A *panel* holds `width` lanes (rows of A, or columns of B) for all k: first every lane at k = 0, then at k = 1, ...
with `stride` elements from one k to the next. Where lanes are neighbours in memory (B by rows; A transposed) that is
a copy of vectors; where k are neighbours (A by rows; B transposed) it is a transpose of squares in registers; any
other strides are copied one by one. So a transposed operand costs nothing more, and a strided, broadcast or reversed
one needs no copy before. An element of four int8 holds four k of one lane: where B lies by rows, four rows are woven
together.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .simd import I8, I64, Vectors, counting
from .tile import ELEMENT, Tile


@functools.cache
def pack(t: Tile, operand: str) -> Any:
    """The packer `f(source, lane_step, k_step, lanes, k, to)` of operand "a" or "b" of a tile, to be called in kernels.

    Steps are in bytes; 1 <= lanes <= width and k >= 1. `to` is aligned to 64 bytes and has room for k * stride
    elements. Lanes beyond `lanes` get some value of the matrix or zero, or what was there: the tile computes with them
    but stores nothing of it. For the kind s8u8 the bytes of B become unsigned, b + 128. For it and for s8s8 a lane step
    of 1 in B means that four rows of bytes, k_step / 4 apart, make the elements of one k.
    """
    width, stride = (t.rows, t.stride) if operand == "a" else (t.cols, t.cols)
    size, lanes_of_vector = t.size, t.lanes
    unsigned = t.kind == "s8u8" and operand == "b"

    def finish(v: Vectors, value: ir.Value) -> ir.Value:
        return v.builder.xor(value, ir.Constant(v.type, [0x80808080] * v.lanes)) if unsigned else value

    @intrinsic
    def pack_panel(typing: Any, source: Any, lane_step: Any, k_step: Any, lanes: Any, k: Any, to: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            source, lane_step, k_step, lanes, k, to = args
            v = t.on(builder)
            starts = range(0, stride, lanes_of_vector)  # first lane of each vector of the panel

            def neighbours_are_lanes() -> None:
                def copy(masks: list[ir.Value | None]) -> None:
                    with counting(builder, k) as p:
                        line = builder.add(source, builder.mul(p, k_step))
                        for start, mask in zip(starts, masks):
                            value = v.masked_load(mask, line, start * size) if mask else v.load(line, start * size)
                            at = builder.add(to, builder.mul(p, I64(stride * size)))
                            v.store(finish(v, value), at, start * size, align=v.lanes * size)

                with builder.if_else(builder.icmp_signed("==", lanes, I64(width))) as (whole, edge):
                    with whole:
                        copy([None if s + v.lanes <= width else v.first(I64(width - s)) for s in starts])
                    with edge:
                        copy([v.first(builder.sub(lanes, I64(s))) for s in starts])

            def neighbours_are_k() -> None:
                last = builder.sub(lanes, I64(1))
                final = builder.sub(k, I64(v.lanes))
                with counting(builder, k, step=I64(v.lanes)) as at:
                    # The last square overlaps the one before it instead of leaving a rest.
                    p = builder.select(builder.icmp_signed("<", at, final), at, final)
                    for start in starts:
                        rows = []
                        for i in range(start, min(start + v.lanes, width)):
                            lane = builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last)
                            row = builder.add(builder.mul(lane, lane_step), builder.mul(p, I64(size)))
                            rows.append(v.load(builder.add(source, row)))
                        rows += [ir.Constant(v.type, ir.Undefined)] * (v.lanes - len(rows))
                        for i, column in enumerate(v.transpose(rows)):
                            line = builder.add(to, builder.mul(builder.add(p, I64(i)), I64(stride * size)))
                            v.store(finish(v, column), line, start * size, align=v.lanes * size)

            def neighbours_are_bytes() -> None:
                four = Vectors(builder, I8, v.lanes)
                row_step = builder.sdiv(k_step, I64(4))
                with counting(builder, k) as p:
                    for start in starts:
                        line = builder.add(source, builder.mul(p, k_step))
                        mask = four.first(builder.sub(lanes, I64(start)))
                        rows = [
                            four.masked_load(mask, builder.add(line, builder.mul(row_step, I64(r))), start)
                            for r in range(4)
                        ]
                        value = builder.bitcast(four.weave(rows), v.type)
                        at = builder.add(to, builder.mul(p, I64(stride * size)))
                        v.store(finish(v, value), at, start * size, align=v.lanes * size)

            def neighbours_are_far() -> None:
                one = Vectors(builder, ELEMENT[t.kind], 1)
                with counting(builder, k) as p:
                    with counting(builder, lanes) as lane:
                        at = builder.add(source, builder.add(builder.mul(p, k_step), builder.mul(lane, lane_step)))
                        line = builder.add(builder.mul(p, I64(stride * size)), builder.mul(lane, I64(size)))
                        one.store(finish(one, one.load(at)), builder.add(to, line))

            squares = builder.and_(
                builder.icmp_signed("==", k_step, I64(size)), builder.icmp_signed(">=", k, I64(v.lanes))
            )
            ways = [
                (builder.icmp_signed("==", lane_step, I64(size)), neighbours_are_lanes),
                (squares, neighbours_are_k),
            ]
            if t.kind in ("s8u8", "s8s8") and operand == "b":
                ways.append((builder.icmp_signed("==", lane_step, I64(1)), neighbours_are_bytes))

            def first_that_fits(ways: list[tuple[ir.Value, Any]]) -> None:
                if not ways:
                    neighbours_are_far()
                    return
                (fits, way), *others = ways
                with builder.if_else(fits) as (this, otherwise):
                    with this:
                        way()
                    with otherwise:
                        first_that_fits(others)

            first_that_fits(ways)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return pack_panel
