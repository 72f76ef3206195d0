"""What a step of a recurrence is made of, in vectors: the product with the state, and the gates of some units.

A *unit* is one number of the state. The product keeps `streams` vectors for several rows of the batch in registers;
the state is read as it lies (one number, broadcast), W comes packed by pack.py in panels of one vector, all of k.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu.gather import element, lanes
from ..cpu.mathfn import choose, const, sigmoid, tanh
from ..cpu.simd import I8, I64, VECTOR_BYTES, Vectors, counting

REGISTERS = {64: 32, 32: 16, 16: 16}  # by the bytes of a vector


def most_rows(tier: str, streams: int) -> int:
    """Rows of a tile of so many streams: sums, a vector of each stream and the broadcast fit the registers."""
    return min(8, (REGISTERS[VECTOR_BYTES[tier]] - 1 - streams) // streams)


def most_streams(tier: str) -> int:
    """Of a product whose streams are free: so that a tile has several rows."""
    return 4 if VECTOR_BYTES[tier] == 64 else 2


@functools.cache
def product(dtype: str, tier: str, streams: int, adding: bool) -> Any:
    """f(n, k, a, a_row, b, b_next, c, c_row), to be called in kernels:

        C[r, s] (+)= sum over i < k of A[r, i] * B[s, i]        r < n <= most_rows, s < streams

    C and B hold vectors, A numbers. Addresses, and bytes from row to row, from stream to stream. Sums are formed in the
    order of k and added to C last, whatever n: results do not depend on how rows are cut.
    """
    size, nlanes = np.dtype(dtype).itemsize, lanes(dtype, tier)
    width, most = size * nlanes, most_rows(tier, streams)
    heights = range(1, most + 1) if streams > 2 else sorted({h for h in (1, 2, 4, most) if h <= most})

    def body(
        builder: ir.IRBuilder, n: Any, k: Any, a: Any, a_row: Any, b: Any, b_next: Any, c: Any, c_row: Any
    ) -> None:
        v = Vectors(builder, element(dtype), nlanes)
        last = builder.sub(n, I64(1))

        def part(height: int) -> None:
            # Rows beyond n are the last one again: the same numbers go to the same place.
            rows = [I64(r) for r in range(height)]
            rows = [builder.select(builder.icmp_signed("<", r, last), r, last) for r in rows]
            sources = [builder.add(a, builder.mul(r, a_row)) for r in rows]
            lines = [builder.add(b, builder.mul(b_next, I64(s))) for s in range(streams)]
            sums = [[cgutils.alloca_once(builder, v.type) for _ in lines] for _ in rows]
            for place in itertools.chain(*sums):
                builder.store(v.zero(), place)
            with counting(builder, k) as i:
                along, across = builder.mul(i, I64(size)), builder.mul(i, I64(width))
                bs = [v.load(builder.add(line, across), align=width) for line in lines]
                for source, row in zip(sources, sums):
                    x = v.broadcast(builder.add(source, along))
                    for y, place in zip(bs, row):
                        builder.store(v.multiply_add(x, y, builder.load(place)), place)
            targets = [builder.add(c, builder.mul(r, c_row)) for r in rows]
            found = [[builder.load(place) for place in row] for row in sums]
            if adding:
                found = [
                    [v.add(v.load(to, s * width), x) for s, x in enumerate(row)] for to, row in zip(targets, found)
                ]
            for to, row in zip(targets, found):
                for s, x in enumerate(row):
                    v.store(x, to, s * width)

        def lowest(choices: list[int]) -> None:
            height, *higher = choices
            if not higher:
                part(height)
                return
            with builder.if_else(builder.icmp_signed("<=", n, I64(height))) as (fits, otherwise):
                with fits:
                    part(height)
                with otherwise:
                    lowest(higher)

        lowest(list(heights))
        builder.ret_void()

    @intrinsic
    def tile(typing: Any, n: Any, k: Any, a: Any, a_row: Any, b: Any, b_next: Any, c: Any, c_row: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            name = f"minidl_scan_{dtype}_{tier}_{streams}{'_adding' * adding}"
            function = builder.module.globals.get(name)
            if function is None:
                function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [I64] * 8), name)
                function.linkage = "internal"
                # Inlined, it would share the registers with the constants of the gates' functions, and spill its sums.
                function.attributes.add("noinline")
                body(ir.IRBuilder(function.append_basic_block("entry")), *function.args)
            builder.call(function, args)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 8), emit

    return tile


# --- the gates of one row, a vector of units at a time ---------------------------------------------------------------


class Units:
    """Loads and stores of a vector of units: all lanes, or those that there are."""

    def __init__(self, v: Vectors, mask: ir.Value | None) -> None:
        self.v, self.mask = v, mask

    def load(self, address: ir.Value) -> ir.Value:
        return self.v.load(address) if self.mask is None else self.v.masked_load(self.mask, address)

    def store(self, value: ir.Value, address: ir.Value) -> None:
        if self.mask is None:
            self.v.store(value, address)
        else:
            self.v.masked_store(value, self.mask, address)

    def loads(self, address: ir.Value, step: ir.Value, count: int) -> list[ir.Value]:
        """Of `count` gates, `step` bytes apart."""
        return [self.load(self.gate(address, step, k)) for k in range(count)]

    def stores(self, values: list[ir.Value], address: ir.Value, step: ir.Value) -> None:
        for k, value in enumerate(values):
            self.store(value, self.gate(address, step, k))

    def gate(self, address: ir.Value, step: ir.Value, k: int) -> ir.Value:
        b = self.v.builder
        return b.add(address, b.mul(step, I64(k))) if k else address


Emit = Callable[[Units, list[ir.Value], ir.Value], None]


@functools.cache
def units(dtype: str, tier: str, count: int, emit: Emit) -> Any:
    """f(left, flags, (count addresses or steps)), to be called in kernels: `emit` for min(left, lanes) units."""
    nlanes = lanes(dtype, tier)

    @intrinsic
    def some(typing: Any, left: Any, flags: Any, places: Any) -> Any:
        def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            left, flags, places = args
            v = Vectors(builder, element(dtype), nlanes)
            at = [builder.extract_value(places, i) for i in range(count)]
            with builder.if_else(builder.icmp_signed(">=", left, I64(nlanes))) as (whole, edge):
                with whole:
                    emit(Units(v, None), at, flags)
                with edge:
                    emit(Units(v, v.first(left)), at, flags)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.UniTuple(types.int64, count)), make

    return some


@functools.cache
def fetch(tier: str, count: int, write: bool) -> Any:
    """f(address, step), to be called in kernels: ask for the memory of `count` vectors, `step` bytes apart.

    The units of neighbouring rows lie far apart: no prefetcher of the CPU guesses where.
    """
    end = VECTOR_BYTES[tier] - 1  # vectors may lie across two lines; the units before asked for the first

    @intrinsic
    def ask(typing: Any, address: Any, step: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            for k in range(count):
                place = builder.add(args[0], builder.mul(args[1], I64(k)))
                Vectors(builder, I8, 1).prefetch(place, end, write)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), emit

    return ask


KEEP, TANH = 1, 2  # flags


def _has(b: ir.IRBuilder, flags: ir.Value, flag: int) -> ir.Value:
    return b.icmp_signed("!=", b.and_(flags, I64(flag)), I64(0))


def _minus(v: Vectors, x: ir.Value) -> ir.Value:
    """1 - x"""
    return v.builder.fsub(const(v, 1.0), x)


def _slope(v: Vectors, y: ir.Value) -> ir.Value:
    """1 - y^2: of tanh at y"""
    return v.multiply_add(v.builder.fneg(y), y, const(v, 1.0))


def _slope_s(v: Vectors, y: ir.Value) -> ir.Value:
    """y (1 - y): of the logistic function at y"""
    return v.builder.fmul(y, _minus(v, y))


def rnn(u: Units, at: list[ir.Value], flags: ir.Value) -> None:
    sums, gx, h, after, before, y = at
    v, b = u.v, u.v.builder
    with b.if_then(_has(b, flags, KEEP)):
        u.store(u.load(h), before)
    a = b.fadd(u.load(gx), v.load(sums))
    place = cgutils.alloca_once(b, v.type)
    with b.if_else(_has(b, flags, TANH)) as (yes, no):
        with yes:
            b.store(tanh(v, a), place)
        with no:
            b.store(choose(v, a, "<", v.zero(), v.zero(), a), place)
    new = b.load(place)
    u.store(new, after)
    u.store(new, y)


def rnn_backward(u: Units, at: list[ir.Value], flags: ir.Value) -> None:
    dy, dh, y, da = at
    v, b = u.v, u.v.builder
    d, out = b.fadd(u.load(dh), u.load(dy)), u.load(y)
    through = choose(v, out, "<=", v.zero(), v.zero(), d)
    u.store(b.select(_has(b, flags, TANH), b.fmul(d, _slope(v, out)), through), da)
    u.store(v.zero(), dh)


def lstm(u: Units, at: list[ir.Value], flags: ir.Value) -> None:
    sums, gx, gates, c, cells, h, after, before, y, step = at
    v, b = u.v, u.v.builder
    width = v.lanes * v.bytes
    i, f, g, o = (b.fadd(x, v.load(sums, k * width)) for k, x in enumerate(u.loads(gx, step, 4)))
    i, f, g, o = sigmoid(v, i), sigmoid(v, f), tanh(v, g), sigmoid(v, o)
    cell = v.multiply_add(f, u.load(c), b.fmul(i, g))
    new = b.fmul(o, tanh(v, cell))
    u.store(cell, c)
    with b.if_then(_has(b, flags, KEEP)):
        u.stores([i, f, g, o], gates, step)
        u.store(cell, cells)
        u.store(u.load(h), before)
    u.store(new, after)
    u.store(new, y)


def lstm_backward(u: Units, at: list[ir.Value], _: ir.Value) -> None:
    dy, dh, dc, gates, c, cells, da, step = at
    v, b = u.v, u.v.builder
    i, f, g, o = u.loads(gates, step, 4)
    s, d = tanh(v, u.load(cells)), b.fadd(u.load(dh), u.load(dy))
    e = b.fadd(u.load(dc), b.fmul(b.fmul(d, o), _slope(v, s)))
    parts = [
        b.fmul(b.fmul(e, g), _slope_s(v, i)),
        b.fmul(b.fmul(e, u.load(c)), _slope_s(v, f)),
        b.fmul(b.fmul(e, i), _slope(v, g)),
        b.fmul(b.fmul(d, s), _slope_s(v, o)),
    ]
    u.stores(parts, da, step)
    u.store(b.fmul(e, f), dc)
    u.store(v.zero(), dh)


def gru(u: Units, at: list[ir.Value], flags: ir.Value) -> None:
    sums, gx, gates, bias, inner, h, after, before, y, step = at
    v, b = u.v, u.v.builder
    width = v.lanes * v.bytes
    x_r, x_z, x_n = u.loads(gx, step, 3)
    p_r, p_z, p_n = (b.fadd(v.load(sums, k * width), x) for k, x in enumerate(u.loads(bias, step, 3)))
    r, z = sigmoid(v, b.fadd(x_r, p_r)), sigmoid(v, b.fadd(x_z, p_z))
    n = tanh(v, v.multiply_add(r, p_n, x_n))
    old = u.load(h)
    new = v.multiply_add(b.fsub(old, n), z, n)
    with b.if_then(_has(b, flags, KEEP)):
        u.stores([r, z, n], gates, step)
        u.store(p_n, inner)
        u.store(old, before)
    u.store(new, after)
    u.store(new, y)


def gru_backward(u: Units, at: list[ir.Value], _: ir.Value) -> None:
    dy, dh, gates, inner, before, da, dp, step = at
    v, b = u.v, u.v.builder
    r, z, n = u.loads(gates, step, 3)
    d = b.fadd(u.load(dh), u.load(dy))
    d_n = b.fmul(b.fmul(d, _minus(v, z)), _slope(v, n))
    d_r = b.fmul(b.fmul(d_n, u.load(inner)), _slope_s(v, r))
    d_z = b.fmul(b.fmul(d, b.fsub(u.load(before), n)), _slope_s(v, z))
    u.stores([d_r, d_z, d_n], da, step)
    u.stores([d_r, d_z, b.fmul(d_n, r)], dp, step)
    u.store(b.fmul(d, z), dh)
