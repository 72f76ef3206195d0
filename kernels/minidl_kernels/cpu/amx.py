"""The tile unit of newer x86 CPUs (AMX): the product of two small matrices as one instruction.

Eight registers hold tiles of 16 rows of 64 bytes. One instruction adds to a tile of 16 x 16 sums the product of a tile
of A, 16 rows with 64 bytes of k, and a tile of B, whose 16 rows hold the k of neighbouring columns side by side, as
many as fill 4 bytes: 16 * 16 * 64 products of int8 (or half as many of bfloat16) in 16 cycles. Four sums, two tiles of
A and two of B make a register tile of 32 x 32, where every tile that is loaded is used twice. Three kinds:

    s8s8    int8 by int8 into int32, exact. An element is 4 bytes along k
    f32x6   float32, each as the sum of three bfloat16, exactly: x = h + m + l with 8 bits each. Of the nine products
            those are taken whose size is not below float32's own rounding:

                a * b  ~  a_l b_h + a_h b_l + a_m b_m + a_m b_h + a_h b_m   +   a_h b_h

            What is left out is below 2^-24 of a * b. The five small ones are summed first, over a whole stretch of k,
            and the great one on top, so rounding errors are those of the great one: `gemm/cpu.py` has the measured
            error.

    f32x3   the same with h and m alone and three products: an error of some 1e-6, at nearly twice the speed. Opt-in

split.py has the packers of both, and says for which numbers it may be taken.

Registers belong to a thread: `enter` says how they are used, `leave` frees them, so that nothing has to be saved when
threads change.

Intel, "Architecture Instruction Set Extensions Programming Reference", chapter 3.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import pack as plain_pack
from . import split
from .jit import jit
from .simd import F32, I8, I32, I64, Vectors, counting
from .tile import Tile

KINDS = ("s8s8", "f32x6", "f32x3")
SIDE = 16  # rows of a tile register, and sums in one of its rows
BYTES = 1024  # of a tile register
WIDE = {"s8s8": 8}  # panels of B that its packer makes at once, if not 1: of neighbours in memory
PLANES = {"s8s8": 1, "f32x6": 3, "f32x3": 2}  # parts that a number is split into
# Products of the parts 0 (h), 1 (m), 2 (l) of A and of B, in passes over k: the small ones first.
PASSES = {
    "s8s8": [[(0, 0)]],
    "f32x6": [[(0, 2), (0, 1), (1, 1), (1, 0), (2, 0)], [(0, 0)]],
    "f32x3": [[(0, 1), (1, 0)], [(0, 0)]],
}

VOID = ir.VoidType()


def call(builder: ir.IRBuilder, name: str, *args: ir.Value) -> None:
    shape = ir.FunctionType(VOID, [a.type for a in args])
    builder.call(cgutils.get_or_insert_function(builder.module, shape, f"llvm.x86.{name}"), args)


def pointer_to(builder: ir.IRBuilder, address: ir.Value, offset: int = 0) -> ir.Value:
    return builder.inttoptr(builder.add(address, I64(offset)), I8.as_pointer())


@intrinsic
def enter(typing: Any) -> Any:
    """All eight registers as tiles of 16 rows of 64 bytes, zeroed."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        setting = np.zeros(64, np.uint8)
        setting[0] = 1  # palette
        setting[16:32].view(np.uint16)[:] = 64  # bytes of a row
        setting[48:56] = SIDE  # rows
        held = cgutils.global_constant(
            builder, "minidl_amx_setting", ir.Constant(ir.ArrayType(I8, 64), bytearray(setting))
        )
        call(builder, "ldtilecfg", builder.bitcast(held, I8.as_pointer()))
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def leave(typing: Any) -> Any:
    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), emit


def _sums(
    builder: ir.IRBuilder, t: Tile, blocks: ir.Value, a: ir.Value, b: ir.Value, high: int = 2, wide: int = 2
) -> None:
    """Add the product of two panels of `blocks` blocks to the sums i, j in register 2 * i + j; tiles of A in 4 and 5,
    of B in 6 and 7.
    """
    for one_pass in PASSES[t.kind]:
        with counting(builder, blocks) as block:
            at = builder.mul(block, I64(2 * BYTES * PLANES[t.kind]))
            at_a, at_b = builder.add(a, at), builder.add(b, at)
            held_a = held_b = -1
            for of_a, of_b in one_pass:
                for i in range(high if of_a != held_a else 0):
                    place = pointer_to(builder, at_a, (2 * of_a + i) * BYTES)
                    call(builder, "tileloadd64", I8(4 + i), place, I64(64))
                for j in range(wide if of_b != held_b else 0):
                    place = pointer_to(builder, at_b, 2 * of_b * BYTES + 64 * j)
                    call(builder, "tileloadd64", I8(6 + j), place, I64(128))
                for j in range(wide):
                    for i in range(high):
                        instruction = "tdpbssd" if t.kind == "s8s8" else "tdpbf16ps"
                        call(builder, instruction, I8(2 * i + j), I8(4 + i), I8(6 + j))
                held_a, held_b = of_a, of_b


@functools.cache
def dense(t: Tile) -> Any:
    """The micro-kernel `f(blocks, a, b, c)` for panels that are used where they lie, as attention's are: C, 32 x 32
    without gaps, becomes their product over `blocks` blocks of k; between `enter` and `leave`.
    """

    @intrinsic
    def product(typing: Any, blocks: Any, a: Any, b: Any, c: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            blocks, a, b, c = args
            for i in range(4):
                call(builder, "tilezero", I8(i))
            _sums(builder, t, blocks, a, b)
            for i in range(2):
                for j in range(2):
                    place = pointer_to(builder, c, 128 * SIDE * i + 64 * j)
                    call(builder, "tilestored64", I8(2 * i + j), place, I64(128))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), emit

    return product


@functools.cache
def multiply(t: Tile) -> Any:
    """The micro-kernel of tile.multiply, for the tile unit; between `enter` and `leave`.

    Panels hold whole blocks of k, zeros behind the last one.
    """
    planes = PLANES[t.kind]
    element = I32 if t.kind == "s8s8" else F32

    @intrinsic
    def tile_multiply(
        typing: Any, k: Any, a: Any, b: Any, c: Any, ldc: Any, add: Any, ldadd: Any, m: Any, n: Any
    ) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, a, b, c, ldc, add, ldadd, m, n = args
            blocks = builder.sdiv(builder.add(k, I64(t.block - 1)), I64(t.block))
            scratch = cgutils.alloca_once(builder, ir.ArrayType(I8, 4 * BYTES + 64))
            scratch = builder.ptrtoint(scratch, I64)
            scratch = builder.and_(builder.add(scratch, I64(63)), I64(-64))
            v = Vectors(builder, element, SIDE)

            def whole() -> None:
                """Sums start from `add` and are stored where they belong."""
                for i in range(2):
                    for j in range(2):
                        place = builder.add(add, builder.mul(ldadd, I64(SIDE * i)))
                        call(builder, "tileloadd64", I8(2 * i + j), pointer_to(builder, place, 64 * j), ldadd)
                _sums(builder, t, blocks, a, b)
                for i in range(2):
                    for j in range(2):
                        place = builder.add(c, builder.mul(ldc, I64(SIDE * i)))
                        call(builder, "tilestored64", I8(2 * i + j), pointer_to(builder, place, 64 * j), ldc)

            def part(high: int, wide: int) -> None:
                """Sums start from zero, go to scratch memory, and what is wanted of them to where it belongs."""
                for i in range(high):
                    for j in range(wide):
                        call(builder, "tilezero", I8(2 * i + j))
                _sums(builder, t, blocks, a, b, high, wide)
                for i in range(high):
                    for j in range(wide):
                        place = pointer_to(builder, scratch, 128 * SIDE * i + 64 * j)
                        call(builder, "tilestored64", I8(2 * i + j), place, I64(128))
                masks = [v.first(builder.sub(n, I64(SIDE * j))) for j in range(wide)]
                with counting(builder, m) as i:
                    line = builder.add(scratch, builder.mul(i, I64(128)))
                    old, new = builder.add(add, builder.mul(ldadd, i)), builder.add(c, builder.mul(ldc, i))
                    for j, mask in enumerate(masks):
                        total = v.add(v.masked_load(mask, old, 64 * j), v.load(line, 64 * j, align=64))
                        v.masked_store(total, mask, new, 64 * j)

            def smallest_part(choices: list[tuple[int, int]]) -> None:
                (high, wide), *larger = choices
                if not larger:
                    part(high, wide)
                    return
                fits = builder.and_(
                    builder.icmp_signed("<=", m, I64(SIDE * high)), builder.icmp_signed("<=", n, I64(SIDE * wide))
                )
                with builder.if_else(fits) as (this, otherwise):
                    with this:
                        part(high, wide)
                    with otherwise:
                        smallest_part(larger)

            sizes = [(1, 1), (1, 2), (2, 1), (2, 2)]
            if planes > 1:  # what is added comes last, after the small products: always by way of scratch memory
                smallest_part(sizes)
            else:
                full = builder.icmp_signed("==", m, I64(t.rows))
                full = builder.and_(full, builder.icmp_signed("==", n, I64(t.cols)))
                with builder.if_else(full) as (all_of_it, edge):
                    with all_of_it:
                        whole()
                    with edge:
                        smallest_part(sizes)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), emit

    return tile_multiply


@functools.cache
def pack(t: Tile, operand: str) -> Any:
    """The packer `f(source, lane_step, k_step, lanes, k, to) -> low` of operand "a" or "b", as in pack.py.

    A panel is a sequence of blocks of k, in each of them the planes, in each of those 32 rows of 64 bytes along k (A),
    or 16 lines of 32 columns, 4 bytes along k of each (B; of several panels at once, if `WIDE` says so). Behind the
    last k it is filled with zeros. `low` is what `split.trusted` wants to know, as bits of a float.
    """
    if t.kind in split.KINDS:
        return split.pack(t, operand)
    return _pack_rows(t) if operand == "a" else _pack_lines(t)


def _pack_lines(t: Tile) -> Any:
    """B of integers: as for vectors, and zeros up to a whole block. Up to `WIDE` panels at once, one behind the other:
    where B lies by rows of bytes, whole cache lines of four rows are read and become two panels.
    """
    copy, line, cols = plain_pack.pack(t, "b"), t.line // 64, t.cols

    @intrinsic
    def clear(typing: Any, to: Any, lines: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            v = Vectors(builder, I32, 16)
            with counting(builder, args[1]) as p:
                v.store(v.zero(), builder.add(args[0], builder.mul(p, I64(64))), align=64)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), emit

    @intrinsic
    def weave(typing: Any, source: Any, row: Any, k: Any, pairs: Any, to: Any, panel: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            source, row, k, pairs, to, panel = args
            v, element = Vectors(builder, I8, 64), Vectors(builder, I32, SIDE)
            with counting(builder, k) as p, counting(builder, pairs) as pair:
                start = builder.add(source, builder.mul(builder.mul(p, row), I64(4)))
                start = builder.add(start, builder.mul(pair, I64(64)))
                out = builder.add(to, builder.mul(p, I64(t.line)))
                out = builder.add(out, builder.mul(builder.mul(pair, I64(2)), panel))
                rows = [v.load(builder.add(start, builder.mul(row, I64(r)))) for r in range(4)]
                for i, value in enumerate(v.woven(rows)):
                    place = builder.add(out, builder.mul(panel, I64(i // 2)))
                    element.store(builder.bitcast(value, element.type), place, 64 * (i % 2), align=64)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    block, width = t.block, t.line

    @jit(inner=True)
    def pack_panels(source, lane_step, k_step, lanes, k, to):  # type: ignore[no-untyped-def]
        panel = (k + block - 1) // block * block * width
        done = lanes // 64 if lane_step == 1 else 0
        weave(source, k_step // 4, k, done, to, panel)
        for i in range(2 * done, (lanes + cols - 1) // cols):
            here, at = min(cols, lanes - i * cols), source + i * cols * lane_step
            copy(at, lane_step, k_step, here, k, to + i * panel)
        for i in range((lanes + cols - 1) // cols):
            clear(to + i * panel + k * width, (-k % block) * line)
        return 0

    return pack_panels


def _pack_rows(t: Tile) -> Any:
    """A of integers: rows of 64 bytes, read as such where k are neighbours, else element by element."""

    @intrinsic
    def pack_panel(typing: Any, source: Any, lane_step: Any, k_step: Any, lanes: Any, k: Any, to: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            source, lane_step, k_step, lanes, k, to = args
            v, one = Vectors(builder, I32, SIDE), Vectors(builder, I32, 1)
            near = builder.icmp_signed("==", k_step, I64(4))
            whole = builder.mul(builder.sdiv(k, I64(SIDE)), I64(SIDE))

            def line(p: ir.Value, row: ir.Value) -> ir.Value:
                return builder.add(builder.add(to, builder.mul(p, I64(t.column))), builder.mul(row, I64(64)))

            with counting(builder, lanes) as row:
                start = builder.add(source, builder.mul(row, lane_step))
                with builder.if_else(near) as (neighbours, apart):
                    with neighbours:
                        with counting(builder, whole, step=I64(SIDE)) as p:
                            v.store(v.load(builder.add(start, builder.mul(p, I64(4)))), line(p, row), align=64)
                        with builder.if_then(builder.icmp_signed("<", whole, k)):
                            rest = v.masked_load(
                                v.first(builder.sub(k, whole)), builder.add(start, builder.mul(whole, I64(4)))
                            )
                            v.store(rest, line(whole, row), align=64)
                    with apart:
                        with builder.if_then(builder.icmp_signed("<", whole, k)):
                            v.store(v.zero(), line(whole, row), align=64)
                        with counting(builder, k) as p:
                            inside = builder.srem(p, I64(SIDE))
                            place = builder.add(line(builder.sub(p, inside), row), builder.mul(inside, I64(4)))
                            one.store(one.load(builder.add(start, builder.mul(p, k_step))), place)
            return ir.Constant(I64, 0)

        return types.int64(*[types.int64] * 6), emit

    return pack_panel
