"""Rows of numbers where they lie, times packed weights: the tile of the integer layers.

    acc[r, n] = sum over runs t, i < run of A[r * step + table[t] + i] * W[n, t, i]

The rows of A are not packed. With channels last, what an output of a convolution sees is a few *runs* of memory, one
for each row of its window, and neighbouring outputs see the same `step` further on: `table` has the places of the runs
(Dukhan, "The Indirect Convolution Algorithm", arXiv:1907.02129). A linear layer has a single run. The tile unit loads
16 such rows, 64 bytes of each, in one instruction; vectors broadcast 4 bytes of a row at a time. Weights are packed
into panels as wide as the tile (`panels`), every run filled with zeros up to whole blocks, so what is read of A behind
the end of a run counts nothing.

The sums of a tile go to scratch memory in L1, and from there through the output pipeline (`codes`, `floats`) to where
the outputs belong: that is a store and a load for sums that have met hundreds of products.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import amx, workspace
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pack import pack
from ..cpu.product import address
from ..cpu.simd import F32, I8, I32, I64, VECTOR_BYTES, Vectors, counting
from ..cpu.tile import Tile, step, tile
from ..kept import once
from .stages import MAGIC

Array = NDArray[Any]

# Kind of the tile; type of a number of A and W; numbers in an element of 4 bytes.
FORMS = {
    "amx": ("s8s8", np.int8, 4),
    "avx512vnni": ("u8s8", np.int8, 4),  # A goes in as a + 128, and 128 * sum(w) is taken off again
    "avx512": ("s16", np.int16, 2),
    "avx2": ("s16", np.int16, 2),
    "generic": ("i32", np.int32, 1),
}

i64 = pointer("int64")


def form(tier: str) -> tuple[Tile, Any, int]:
    """Tile, type of a number, numbers in an element."""
    kind, number, per = FORMS[tier]
    return tile(tier, kind), np.dtype(number), per


def whole(t: Tile, per: int, run: int) -> int:
    """Elements of a run, filled up to whole blocks."""
    elements = -(-run // per)
    return elements + -elements % t.block


# -- weights --------------------------------------------------------------------------------------------------------


class Panels(NamedTuple):
    """Packed weights. `more`: what has to be added to every sum of that output, int32 (N,)."""

    at: int
    memory: Array
    more: Array


def panels(w: Array, tier: str, groups: int, runs: int) -> Panels:
    """w (N, ...) as N / groups outputs for each group, each of `runs` runs: kept beside w if w is frozen."""
    return once(w, ("panels", tier, groups, runs), lambda: _panels(w, tier, groups, runs))


def _panels(w: Array, tier: str, groups: int, runs: int) -> Panels:
    t, number, per = form(tier)
    n, run = len(w), w[0].size // runs
    elements = whole(t, per, run)
    numbers = np.zeros((n, runs, -(-run // per) * per), number)
    numbers[..., :run] = w.reshape(n, runs, run)
    each = n // groups
    size = groups * -(-each // t.cols) * runs * elements * t.cols * 4
    memory = np.zeros(size + workspace.ALIGN, np.uint8)
    start = address(memory)
    start += -start % workspace.ALIGN
    _pack_all(tier)(groups, each, runs, -(-run // per), elements, address(numbers), start)
    more = (-128 if t.kind == "u8s8" else 0) * w.reshape(n, -1).sum(1, dtype=np.int32)
    return Panels(start, memory, more)


@functools.cache
def _pack_all(tier: str) -> Any:
    t, _, _ = form(tier)
    copy, cols = pack(t, "b"), t.cols

    @jit(tag=tier)
    def pack_all(groups, each, runs, elements, room, source, to):  # type: ignore[no-untyped-def]
        row = runs * elements * 4
        for group in range(groups):
            for n in range(0, each, cols):
                for run in range(runs):
                    at = source + (group * each + n) * row + run * elements * 4
                    copy(at, row, 4, min(cols, each - n), elements, to)
                    to += room * cols * 4

    return pack_all


# -- sums -----------------------------------------------------------------------------------------------------------


@functools.cache
def sums(t: Tile) -> Any:
    """f(m, n, runs, table, elements, a, row, panel, acc, more, once): the sums of m x n outputs, m <= rows, n <= cols.

    acc has `rows` rows of `cols` int32, on a multiple of 64; more of it than m x n may be written. With `more` the sums
    are added to what it holds. Rows of A up to the next multiple of 16, and runs up to whole blocks, are read. On the
    tile unit between `amx.enter` and `amx.leave`. `once`: it is the weights that are not wanted again soon, not A.
    """
    by = _sums_of_tiles if t.kind == "s8s8" else _sums_of_vectors

    @intrinsic
    def run(
        typing: Any, m: Any, n: Any, runs: Any, table: Any, elements: Any, a: Any, row: Any, panel: Any, acc: Any,
        more: Any, once: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            m, n, *rest = args
            rest[-2:] = (builder.icmp_signed("!=", flag, I64(0)) for flag in rest[-2:])
            heights = (16, 32) if t.kind == "s8s8" else t.heights

            def smallest(choices: list[tuple[int, int]]) -> None:
                """The smallest tile that holds m x n."""
                (high, wide), *larger = choices
                if not larger:
                    by(t, builder, high, wide, *rest)
                    return
                fits = builder.and_(
                    builder.icmp_signed("<=", m, I64(high)), builder.icmp_signed("<=", n, I64(wide * t.lanes))
                )
                with builder.if_else(fits) as (this, otherwise):
                    with this:
                        by(t, builder, high, wide, *rest)
                    with otherwise:
                        smallest(larger)

            smallest([(high, wide) for wide in range(1, t.vectors + 1) for high in heights])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), emit

    return run


def _run_at(builder: ir.IRBuilder, table: ir.Value, i: ir.Value, a: ir.Value) -> ir.Value:
    """Where run i of the first row begins."""
    place = builder.inttoptr(builder.add(table, builder.mul(i, I64(8))), I64.as_pointer())
    return builder.add(a, builder.load(place))


def _sums_of_tiles(
    t: Tile, builder: ir.IRBuilder, high: int, wide: int,
    runs: ir.Value, table: ir.Value, elements: ir.Value, a: ir.Value, row: ir.Value, panel: ir.Value, acc: ir.Value,
    more: ir.Value, once: ir.Value,
) -> None:  # fmt: skip
    """Sums i, j in register 2 * i + j; tiles of A in 4 and 5, of W in 6 and 7.

    What passes by once is loaded with the hint that says so, so that it does not push the other operand, which comes
    back for every tile, out of the L1 cache: 256 x 1024 by 1024 take 101 us instead of 136, 96 being the unit's peak.
    """
    high //= amx.SIDE
    blocks = builder.sdiv(elements, I64(t.block))
    pairs = list(itertools.product(range(high), range(wide)))

    def at_sums(i: int, j: int) -> ir.Value:
        return amx.pointer_to(builder, acc, amx.SIDE * i * t.line + 64 * j)

    def add(load_a: str, load_w: str) -> None:
        with counting(builder, runs) as r:
            start = _run_at(builder, table, r, a)
            first = builder.add(panel, builder.mul(builder.mul(r, elements), I64(t.line)))
            with counting(builder, blocks) as block:
                at = builder.add(start, builder.mul(block, I64(64)))
                to = builder.add(first, builder.mul(block, I64(t.block * t.line)))
                for i in range(high):
                    place = builder.add(at, builder.mul(row, I64(amx.SIDE * i)))
                    amx.call(builder, load_a, I8(4 + i), amx.pointer_to(builder, place), row)
                    for j in range(wide):
                        if i == 0:
                            amx.call(builder, load_w, I8(6 + j), amx.pointer_to(builder, to, 64 * j), I64(t.line))
                        amx.call(builder, "tdpbssd", I8(2 * i + j), I8(4 + i), I8(6 + j))

    with builder.if_else(more) as (go_on, afresh):
        with go_on:
            for i, j in pairs:
                amx.call(builder, "tileloadd64", I8(2 * i + j), at_sums(i, j), I64(t.line))
        with afresh:
            for i, j in pairs:
                amx.call(builder, "tilezero", I8(2 * i + j))
    with builder.if_else(once) as (weights_pass, a_passes):
        with weights_pass:
            add("tileloadd64", "tileloaddt164")
        with a_passes:
            add("tileloaddt164", "tileloadd64")
    for i, j in pairs:
        amx.call(builder, "tilestored64", I8(2 * i + j), at_sums(i, j), I64(t.line))


def _sums_of_vectors(
    t: Tile, builder: ir.IRBuilder, high: int, wide: int,
    runs: ir.Value, table: ir.Value, elements: ir.Value, a: ir.Value, row: ir.Value, panel: ir.Value, acc: ir.Value,
    more: ir.Value, once: ir.Value,
) -> None:  # fmt: skip
    """A row's element in all lanes, times the same element of as many columns as there are lanes."""
    v = t.on(builder)
    width = t.lanes * t.size
    held = [[cgutils.alloca_once(builder, v.type) for _ in range(wide)] for _ in range(high)]
    places = [(s, i * t.line + j * width) for i, some in enumerate(held) for j, s in enumerate(some)]
    with builder.if_else(more) as (go_on, afresh):
        with go_on:
            for s, place in places:
                builder.store(v.load(acc, place, align=width), s)
        with afresh:
            for s, _ in places:
                builder.store(v.zero(), s)
    with counting(builder, runs) as r:
        start = _run_at(builder, table, r, a)
        rows = [builder.add(start, builder.mul(row, I64(i))) for i in range(high)]
        first = builder.add(panel, builder.mul(builder.mul(r, elements), I64(t.line)))
        with counting(builder, elements) as e:
            line, along = builder.add(first, builder.mul(e, I64(t.line))), builder.mul(e, I64(4))
            ws = [v.load(line, j * width, align=width) for j in range(wide)]
            for at, some in zip(rows, held):
                x = v.broadcast(builder.add(at, along))
                for s, w in zip(some, ws):
                    builder.store(step(t, v, x, w, builder.load(s)), s)
    for s, place in places:
        v.store(builder.load(s), acc, place, align=width)


# -- the output pipeline --------------------------------------------------------------------------------------------


def to_codes(
    v: Vectors, total: ir.Value, factor: ir.Value, least: ir.Value, most: ir.Value, zero: ir.Value
) -> ir.Value:
    """clip(rint(float32(total) * factor) + zero), bounds without the zero point: int32 to int8, a vector of sums.

    A whole number added to 1.5 * 2^23 stands in the low bits of the sum, rounded half to even; `zero` (int32) takes the
    rest off again: see `zero_of`.
    """
    builder = v.builder
    f = Vectors(builder, F32, v.lanes)
    value = builder.fmul(builder.sitofp(total, f.type), factor)
    value = builder.select(builder.fcmp_ordered(">", value, least), value, least)
    value = builder.select(builder.fcmp_ordered("<", value, most), value, most)
    value = builder.fadd(value, ir.Constant(f.type, [MAGIC] * v.lanes))
    whole_number = builder.add(builder.bitcast(value, v.type), zero)
    return builder.trunc(whole_number, ir.VectorType(I8, v.lanes))


def ends(v: Vectors, zero: ir.Value, low: ir.Value, high: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """`least`, `most` and `zero` of `to_codes` from the pipeline's int64 settings."""
    builder = v.builder
    f = Vectors(builder, F32, v.lanes)
    least, most = (f.splat(builder.sitofp(builder.sub(end, zero), F32)) for end in (low, high))
    rest = int(np.float32(MAGIC).view(np.int32))
    return least, most, v.splat(builder.trunc(builder.sub(zero, I64(rest)), I32))


@functools.cache
def codes(t: Tile) -> Any:
    """f(m, n, acc, less, factor, zero, low, high, y, y_row): m x n sums through the pipeline into bytes.

    y[r, j] = clip(rint(float32(acc[r, j] + offset[j]) * factor[j]) + zero, low, high); `offset` and `factor` have room
    for `cols` numbers.
    """

    @intrinsic
    def run(
        typing: Any, m: Any, n: Any, acc: Any, offset: Any, factor: Any, zero: Any, low: Any, high: Any,
        y: Any, y_row: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            m, n, acc, offset, factor, zero, low, high, y, y_row = args
            v, f, b = Vectors(builder, I32, t.lanes), Vectors(builder, F32, t.lanes), Vectors(builder, I8, t.lanes)
            limits = ends(v, zero, low, high)
            offsets, factors = ([of.load(at, 4 * j) for j in _starts(t)] for of, at in ((v, offset), (f, factor)))

            def value(row: ir.Value, i: int) -> ir.Value:
                total = builder.add(v.load(row, 4 * i * t.lanes), offsets[i])
                return to_codes(v, total, factors[i], *limits)

            _each_row(t, b, m, n, acc, y, y_row, value)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 10), emit

    return run


@functools.cache
def floats(t: Tile) -> Any:
    """f(m, n, acc, offset, factor, bias, scales, y, y_row): m x n sums as floats.

    y[r, j] = float32(acc[r, j] + offset[j]) * (scales[r] * factor[j]) + bias[j]
    """

    @intrinsic
    def run(
        typing: Any, m: Any, n: Any, acc: Any, offset: Any, factor: Any, bias: Any, scales: Any, y: Any, y_row: Any
    ) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            m, n, acc, offset, factor, bias, scales, y, y_row = args
            v, f = Vectors(builder, I32, t.lanes), Vectors(builder, F32, t.lanes)
            offsets = [v.load(offset, 4 * j) for j in _starts(t)]
            factors, biases = ([f.load(at, 4 * j) for j in _starts(t)] for at in (factor, bias))

            def value(row: ir.Value, i: int) -> ir.Value:
                number = builder.sdiv(builder.sub(row, acc), I64(t.line))
                scale = f.broadcast(builder.add(scales, builder.mul(number, I64(4))))
                total = builder.add(v.load(row, 4 * i * t.lanes), offsets[i])
                scaled = builder.fmul(builder.sitofp(total, f.type), builder.fmul(scale, factors[i]))
                return builder.fadd(scaled, biases[i])

            _each_row(t, f, m, n, acc, y, y_row, value)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), emit

    return run


def _starts(t: Tile) -> range:
    """First columns of the vectors of a row."""
    return range(0, t.cols, t.lanes)


def _each_row(
    t: Tile, to: Vectors, m: ir.Value, n: ir.Value, acc: ir.Value, y: ir.Value, y_row: ir.Value,
    value: Callable[[ir.Value, int], ir.Value],
) -> None:  # fmt: skip
    """Store value(row of sums, i) for vector i of each row, no more than n columns of it."""
    builder = to.builder
    masks = [to.first(builder.sub(n, I64(start))) for start in _starts(t)]
    with builder.if_else(builder.icmp_signed("==", n, I64(t.cols))) as (whole_rows, edge):
        for here, masked in ((whole_rows, False), (edge, True)):
            with here, counting(builder, m) as r:
                row, place = builder.add(acc, builder.mul(r, I64(t.line))), builder.add(y, builder.mul(r, y_row))
                for i, mask in enumerate(masks):
                    made, offset = value(row, i), i * t.lanes * to.bytes
                    if masked:
                        to.masked_store(made, mask, place, offset)
                    else:
                        to.store(made, place, offset)


# -- numbers as the tile reads them ---------------------------------------------------------------------------------


@functools.cache
def convert(tier: str) -> Any:
    """f(n, source, to): n int8 as numbers of A. Nothing outside is read or written."""
    t, number, _ = form(tier)
    lanes = VECTOR_BYTES[tier] // number.itemsize
    wide = ir.IntType(8 * number.itemsize)

    @intrinsic
    def run(typing: Any, n: Any, source: Any, to: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, source, to = args

            def some(count: int, at: ir.Value) -> None:
                v = Vectors(builder, I8, count)
                value = v.load(builder.add(source, at))
                if t.kind == "u8s8":
                    value = builder.xor(value, ir.Constant(v.type, [128] * count))
                if wide != I8:
                    value = builder.sext(value, ir.VectorType(wide, count))
                place = builder.add(to, builder.mul(at, I64(number.itemsize)))
                builder.store(value, builder.inttoptr(place, value.type.as_pointer()), align=1)

            done: ir.Value = I64(0)
            for count in (lanes, 8, 1):
                full = builder.mul(builder.sdiv(n, I64(count)), I64(count))
                with counting(builder, full, start=done, step=I64(count)) as at:
                    some(count, at)
                done = full
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), emit

    return run
