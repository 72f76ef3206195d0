"""Depthwise convolution of integer images with channels last: an output sees its own channel only.

    x (B, H, W, C), w (C, R, S, 1) -> y (B, P, Q, C), int8

A channel has no others to be summed with, so the dot product of the tier takes its terms from the rows of the window.
A task first *weaves* the rows that the window spans: an element of 4 bytes holds the same pixel and channel of as many
rows as an element has numbers (4 with vpdpbusd). Then every output is the sum, over the columns of the window, of woven
elements times woven weights, a vector of channels at a time, and passes the pipeline in registers. The border is woven
in, so nothing else is copied. Four rows hold what two rows of outputs of a 3x3 window see, eight what four of a 5x5
see: weights woven as often, each time shifted by a row, make so many rows of outputs of one weaving.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import machine, workspace
from ..cpu.gather import pointer, record
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import F32, I8, I32, I64, Vectors, counting
from ..cpu.tile import Tile, step
from ..gemm_int8 import rows
from ..gemm_int8.geometry import Border, Pair, sides, split
from ..gemm_int8.stages import shares
from ..kept import once

Array = NDArray[Any]

TOGETHER = 8  # neighbouring outputs that share the loads of weights

i8, i32, i64 = pointer("int8"), pointer("int32"), pointer("int64")

# weaves: groups of rows that elements hold; served: rows of outputs that see them; tasks: of an image; pitch: numbers
# of a woven row; woven, scratch: bytes
Plan = namedtuple("Plan", "h w c p q s sh sw dh dw top left right weaves served tasks pitch woven scratch")


def _form(tier: str) -> tuple[Tile, Any, int]:
    """There is no tile here: vectors, also where there is a tile unit."""
    return rows.form("avx512vnni" if tier == "amx" else tier)


@functools.cache
def _weave(tier: str) -> Any:
    """f(n, sources, to): n elements of 4 bytes, number i of each from the row whose address is sources[i]."""
    t, _, per = _form(tier)

    @intrinsic
    def run(typing: Any, n: Any, sources: Any, to: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, sources, to = args
            at_row = lambda i: builder.inttoptr(builder.add(sources, I64(8 * i)), I64.as_pointer())
            starts = [builder.load(at_row(i)) for i in range(per)]

            def some(lanes: int, at: ir.Value) -> None:
                v, b = Vectors(builder, I32, lanes), Vectors(builder, I8, lanes)
                total: Any = None
                for i, start in enumerate(starts):
                    value = b.load(builder.add(start, at))
                    value = builder.zext(value, v.type) if per == 4 else builder.sext(value, v.type)
                    if per == 2 and i == 0:
                        value = builder.and_(value, ir.Constant(v.type, [0xFFFF] * lanes))
                    if i:
                        value = builder.shl(value, ir.Constant(v.type, [i * 32 // per] * lanes))
                    total = value if total is None else builder.or_(total, value)
                if t.kind == "u8s8":
                    total = builder.xor(total, ir.Constant(v.type, [0x80808080] * lanes))
                v.store(total, builder.add(to, builder.mul(at, I64(4))))

            done: ir.Value = I64(0)
            for lanes in (t.lanes, 1):
                full = builder.mul(builder.sdiv(n, I64(lanes)), I64(lanes))
                with counting(builder, full, start=done, step=I64(lanes)) as at:
                    some(lanes, at)
                done = full
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), emit

    return run


@functools.cache
def _outputs(tier: str) -> Any:
    """f(weaves, taps, x, x_weave, x_tap, x_next, w, w_tap, m, n, offset, factor, zero, low, high, y, y_next).

    m <= TOGETHER outputs, a vector of n channels of each: y[j, c] = pipeline of the sum over weaves a and taps b of
    x[a * x_weave + b * x_tap + j * x_next][c] . w[(a * taps + b) * w_tap][c]. Whole vectors of x, w, offset and factor
    are read.
    """
    t, _, _ = _form(tier)

    @intrinsic
    def run(
        typing: Any, weaves: Any, taps: Any, x: Any, x_weave: Any, x_tap: Any, x_next: Any, w: Any, w_tap: Any,
        m: Any, n: Any, offset: Any, factor: Any, zero: Any, low: Any, high: Any, y: Any, y_next: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            weaves, taps, x, x_weave, x_tap, x_next, w, w_tap, m, n, offset, factor, zero, low, high, y, y_next = args
            v, f, b = Vectors(builder, I32, t.lanes), Vectors(builder, F32, t.lanes), Vectors(builder, I8, t.lanes)
            last = builder.sub(m, I64(1))  # outputs beyond are the last again
            numbers = [builder.select(builder.icmp_signed("<", I64(j), last), I64(j), last) for j in range(TOGETHER)]
            starts = [builder.add(x, builder.mul(x_next, j)) for j in numbers]
            sums = [cgutils.alloca_once(builder, v.type) for _ in numbers]
            for s in sums:
                builder.store(v.load(offset), s)
            with counting(builder, weaves) as a, counting(builder, taps) as tap:
                at = builder.add(builder.mul(a, x_weave), builder.mul(tap, x_tap))
                number = builder.add(builder.mul(a, taps), tap)
                weight = v.load(builder.add(w, builder.mul(number, w_tap)))
                for start, s in zip(starts, sums):
                    value = v.load(builder.add(start, at))
                    builder.store(step(t, v, value, weight, builder.load(s)), s)
            factors, limits = f.load(factor), rows.ends(v, zero, low, high)
            made = [rows.to_codes(v, builder.load(s), factors, *limits) for s in sums]
            places = [builder.add(y, builder.mul(y_next, j)) for j in numbers]
            with builder.if_else(builder.icmp_signed(">=", n, I64(t.lanes))) as (whole, edge):
                with whole:
                    for value, place in zip(made, places):
                        b.store(value, place)
                with edge:
                    mask = b.first(n)
                    for value, place in zip(made, places):
                        b.masked_store(value, mask, place)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 17), emit

    return run


@functools.cache
def _kernel(tier: str) -> Any:
    t, _, per = _form(tier)
    read_plan = record(Plan)
    weave, outputs, lanes = _weave(tier), _outputs(tier), t.lanes
    flip, mask = (128 if t.kind == "u8s8" else 0), (1 << 32 // per) - 1

    @jit(inner=True)
    def edge(n, border, to):  # type: ignore[no-untyped-def]
        """n elements of the border's number."""
        element = np.int64(0)
        for i in range(per):
            element |= ((border ^ flip) & mask) << (32 // per * i)
        for f in range(n):
            i32(to)[f] = element

    @jit(inner=True)
    def line(task, slot, p, x, weights, consts, limits, border, y, scratch):  # type: ignore[no-untyped-def]
        """Task: a few rows of outputs of an image."""
        item, i = task // p.tasks, task % p.tasks * p.served
        woven = scratch + slot * p.scratch
        sources, around = woven + p.woven, woven + p.woven + 64
        for f in range(p.w * p.c):
            i8(around)[f] = border
        for a in range(p.weaves):
            for b in range(per):
                row = i * p.sh + (a * per + b) * p.dh - p.top
                i64(sources)[b] = x + (item * p.h + row) * p.w * p.c if 0 <= row < p.h else around
            to = woven + a * p.pitch * 4
            edge(p.left * p.c, border, to)
            weave(p.w * p.c, sources, to + p.left * p.c * 4)
            edge(p.right * p.c, border, to + (p.left + p.w) * p.c * 4)
        offset, factor = consts
        zero, low, high = limits
        for shift in range(min(p.served, p.p - i)):
            shifted = weights + shift * p.weaves * p.s * p.c * 4
            to = y + (item * p.p + i + shift) * p.q * p.c
            for j in range(0, p.q, TOGETHER):
                for c in range(0, p.c, lanes):
                    outputs(
                        p.weaves, p.s, woven + (j * p.sw * p.c + c) * 4, p.pitch * 4, p.dw * p.c * 4, p.sw * p.c * 4,
                        shifted + c * 4, p.c * 4, min(TOGETHER, p.q - j), p.c - c, offset + c * 4, factor + c * 4,
                        zero, low, high, to + j * p.c + c, p.c,
                    )  # fmt: skip

    @jit(tag=tier)
    def layer(tasks, plan, x, weights, more, bias, factor, zero, low, high, border, y, work, nthreads):  # type: ignore[no-untyped-def]
        p = read_plan(plan)
        each = (p.c + lanes) * 4
        for c in range(p.c):
            i32(work)[c] = i32(bias)[c] + i32(more)[c]
            i32(work + each)[c] = i32(factor)[c]
        for c in range(p.c, p.c + lanes):
            i32(work)[c] = i32(work + each)[c] = 0
        job = (p, x, weights, (work, work + each), (zero, low, high), border, y, work + 2 * each)
        parallel_for(line, tasks, nthreads, job)

    return layer


def _served(r: int, per: int, sh: int, dh: int) -> tuple[int, int]:
    """Weaves for a window of r rows, and the rows of outputs that they serve."""
    weaves = -(-r // per)
    return weaves, (weaves * per - r) // sh + 1 if dh == 1 else 1


def _woven(w: Array, tier: str, sh: int, dh: int) -> tuple[Array, Array]:
    """Elements of weights (served, weaves, S, C) and a vector more; what has to be added to all sums of a channel."""
    t, number, per = _form(tier)
    c, r, s = w.shape[:3]
    weaves, served = _served(r, per, sh, dh)
    some = np.zeros((served, weaves * per, s, c), number)
    for shift in range(served):
        some[shift, shift * sh : shift * sh + r] = w[..., 0].transpose(1, 2, 0)
    elements = np.zeros((served * weaves * s * c + t.lanes, per), number)
    elements[: -t.lanes] = some.reshape(served, weaves, per, s, c).transpose(0, 1, 3, 4, 2).reshape(-1, per)
    sums = w.reshape(c, -1).sum(1, dtype=np.int32)
    return elements, (-128 if t.kind == "u8s8" else 0) * sums


@functools.lru_cache(maxsize=256)
def _planned(
    tier: str, x: tuple[int, ...], window: tuple[int, int], outputs: tuple[int, int],
    stride: Pair, padding: Border, dilation: Pair,
) -> tuple[Plan, Array]:  # fmt: skip
    """The plan, and the same as int64."""
    t, _, per = _form(tier)
    (_, h, wide, c), (r, s), (p, q) = x, window, outputs
    (sh, sw), (dh, dw), (top, _, left, right) = split(stride), split(dilation), sides(padding)
    weaves, served = _served(r, per, sh, dh)
    pitch = (left + wide + right) * c
    up = lambda size: size + -size % workspace.ALIGN
    woven = up((weaves * pitch + t.lanes) * 4)
    plan = Plan(
        h, wide, c, p, q, s, sh, sw, dh, dw, top, left, right, weaves, served, -(-p // served), pitch,
        woven, woven + 64 + up(wide * c),
    )  # fmt: skip
    return plan, np.array(plan, np.int64)


def depthwise(
    x: Array, w: Array, bias: Array, multiplier: Array, stride: Pair, padding: Border, dilation: Pair, y: Array,
    *, border: int, ends: tuple[int, int, int],
) -> None:  # fmt: skip
    """Into y, which has no size of 0; all but w lie without gaps."""
    tier, (c, r, s, _) = machine.tier(), w.shape
    plan, stored = _planned(tier, x.shape, (r, s), y.shape[1:3], stride, padding, dilation)
    weights, more = once(
        w, ("depthwise", tier, plan.sh, plan.dh), lambda: _woven(w, tier, plan.sh, plan.dh)
    )  # fmt: skip
    nthreads = shares(y.size * r * s // 8)
    with workspace.borrow(2 * (c + 16) * 4 + nthreads * plan.scratch) as work:
        _kernel(tier)(
            len(x) * plan.tasks, address(stored), address(x), address(weights), address(more), address(bias),
            address(multiplier), *ends, border, address(y), work, nthreads,
        )  # fmt: skip
