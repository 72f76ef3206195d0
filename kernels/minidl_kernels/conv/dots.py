"""The gradient for filters as dot products: pixels are the lanes, and nothing is turned.

    dw[k, c, r, s] = sum over images and pixels of dy[k, p, q] * x[c, p + r, q + s]

Four filters meet a few taps and channels at once, each pair with a vector of partial sums, which are folded to one
number at the end. That costs as much as some vectors of pixels, and the sums have to stay near: it is the way for small
filters, of a first layer or of many groups, for which a product over pixels would lay out more than it multiplies.

Images are copied into planes (plan.py), some rows at a time, small images together; dy lies at the same pitch, with
zeros between its rows.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numpy.typing import NDArray

from ..cpu import gather, machine, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import I64, Vectors, counting
from . import cpu, im2col, lines
from . import plan as plans
from .geometry import Geometry, Pair, geometry
from .plan import C_IN, C_OUT, COLS, GROUPS, PITCH, PLANES, REACH, ROWS, SRC_H, SRC_W, STRIP_ROWS, STRIPS, Ints

Array = NDArray[Any]

FILTERS = 4  # of a tile


def taps(lanes_bytes: int) -> int:
    """Of a tile: with its filters' vectors of dy and one of x they fill 32 or 16 registers."""
    return 6 if lanes_bytes == 64 else 2


@functools.cache
def tile(dtype: str, nlanes: int, ntaps: int) -> Any:
    """f((vectors, images, y, next_y, line_y, x, next_x, table, to, line, add)), addresses and steps in bytes.

    to[k, t] (+)= the sum over images and vectors v of y[image, k, v] * x[image, table[t] + v], lane by lane.
    """
    size = np.dtype(dtype).itemsize

    def body(builder: ir.IRBuilder, *args: ir.Value) -> None:
        vectors, images, y, next_y, line_y, x, next_x, table, to, line, add = args
        v = Vectors(builder, gather.element(dtype), nlanes)
        sums = [[cgutils.alloca_once_value(builder, v.zero()) for _ in range(ntaps)] for _ in range(FILTERS)]
        offsets = [
            builder.load(builder.inttoptr(builder.add(table, I64(8 * t)), I64.as_pointer())) for t in range(ntaps)
        ]
        with counting(builder, images) as i:
            rows = [
                builder.add(builder.add(y, builder.mul(i, next_y)), builder.mul(line_y, I64(k))) for k in range(FILTERS)
            ]
            image = builder.add(x, builder.mul(i, next_x))
            starts = [builder.add(image, builder.mul(offset, I64(size))) for offset in offsets]
            with counting(builder, vectors) as j:
                along = builder.mul(j, I64(nlanes * size))
                ys = [v.load(builder.add(row, along)) for row in rows]
                for t, start in enumerate(starts):
                    pixels = v.load(builder.add(start, along))
                    for k in range(FILTERS):
                        builder.store(v.multiply_add(ys[k], pixels, builder.load(sums[k][t])), sums[k][t])
        adding = builder.icmp_signed("!=", add, I64(0))
        for k in range(FILTERS):
            at = builder.add(to, builder.mul(line, I64(k)))
            with builder.if_then(adding):
                for t, total in enumerate(sums[k]):
                    builder.store(v.add(v.load(at, t * nlanes * size), builder.load(total)), total)
            for t, total in enumerate(sums[k]):
                v.store(builder.load(total), at, t * nlanes * size)

    return gather.outlined(f"dots_{dtype}_{nlanes}_{ntaps}", 11, body)


@functools.cache
def fold(dtype: str, nlanes: int) -> Any:
    """Add up the lanes of n vectors: f((source, n, to)). Some vectors behind them are read, too."""
    size = np.dtype(dtype).itemsize

    def body(builder: ir.IRBuilder, *args: ir.Value) -> None:
        source, n, to = args
        v = Vectors(builder, gather.element(dtype), nlanes)
        with counting(builder, n, step=I64(nlanes)) as j:
            at = builder.add(source, builder.mul(j, I64(nlanes * size)))
            rows = [v.load(at, i * nlanes * size) for i in range(nlanes)]
            unit = 1
            while len(rows) > 1:
                # Of two vectors of `unit` sums each, over and over: one with the sums of both.
                pairs = zip(rows[::2], rows[1::2])
                rows = [
                    v.add(v.alternate(a, b, unit, 2 * unit, 0), v.alternate(a, b, unit, 2 * unit, 1)) for a, b in pairs
                ]
                unit *= 2
            v.masked_store(rows[0], v.first(builder.sub(n, j)), builder.add(to, builder.mul(j, I64(size))))

    return gather.outlined(f"fold_{dtype}_{nlanes}", 3, body)


SOME = 4096  # numbers of dw that a task adds up


@functools.cache
def add_parts(dtype: str) -> Any:
    """Task: some numbers of dw, from the sums of all parts."""
    pointer, nothing = gather.pointer(dtype), np.dtype(dtype).type(0)

    @jit(inner=True)
    def together(task, slot, parts, every, made, dw):
        to, source = pointer(dw), pointer(made)
        for i in range(task * SOME, min(every, (task + 1) * SOME)):
            total = nothing
            for p in range(parts):
                total += source[p * every + i]
            to[i] = total

    return together


# `each`: images laid out at a time; parts: of the images and strips, with sums of their own; depth: taps and channels
# of a filter, `wide` with what fills tiles and vectors; run: elements from one filter of dy to the next; bytes of
# scratch memory per thread for x and dy, and in all.
Job = namedtuple("Job", "images each parts depth wide run room_x room_y room")


@functools.cache
def kernels(dtype: str, tier: str) -> Any:
    """The compiled gradient."""
    size, lanes = np.dtype(dtype).itemsize, gather.lanes(dtype, tier)
    ntaps, vector = taps(lanes * np.dtype(dtype).itemsize), lanes * np.dtype(dtype).itemsize
    pointer = gather.pointer(dtype)
    multiply, fill, lay = tile(dtype, lanes, ntaps), cpu._fill(dtype, lanes), lines.plane(dtype, lanes, 1)
    add_up, together = fold(dtype, lanes), add_parts(dtype)

    @jit(inner=True)
    def part(task, slot, job, numbers, bases, table, dy, x, made, scratch):
        """The filters of one group, over one part of the images."""
        groups, c_in, c_out, strips = numbers[GROUPS], numbers[C_IN], numbers[C_OUT], numbers[STRIPS]
        group, which = task // job.parts, task % job.parts
        rows, pitch, high = numbers[STRIP_ROWS], numbers[PITCH], (c_out + FILTERS - 1) // FILTERS * FILTERS
        area_x, area_y = numbers[SRC_H] * numbers[SRC_W], numbers[ROWS] * numbers[COLS]
        planes = scratch + slot * job.room
        laid, sums = planes + job.room_x, planes + job.room_x + job.room_y
        clear = pointer(laid)
        for i in range(job.room_y // size):
            clear[i] = 0
        vectors = ((rows - 1) * pitch + numbers[COLS] + lanes - 1) // lanes
        units = (job.images + job.each - 1) // job.each * strips
        start, stop = units * which // job.parts, units * (which + 1) // job.parts
        for unit in range(start, stop):
            image, first = unit // strips * job.each, unit % strips * rows
            count = min(job.each, job.images - image)
            for i in range(count):
                at = (image + i) * groups + group
                to = planes + i * c_in * numbers[PLANES] * size
                fill(numbers, bases, x + at * c_in * area_x * size, c_in, first, rows + numbers[REACH], to)
                source, to = dy + at * c_out * area_y * size, laid + i * high * job.run * size
                image_y = (numbers[ROWS], numbers[COLS], first, 0, 1)
                lay((source, area_y * size, c_out, *image_y, to, job.run * size, rows, pitch))
            # What the last vector reads on is multiplied by zero, so it must be a number.
            clear = pointer(planes + count * c_in * numbers[PLANES] * size)
            for i in range(lanes):
                clear[i] = 0
            for k in range(0, c_out, FILTERS):
                for t in range(0, job.depth, ntaps):
                    multiply((
                        vectors, count, laid + k * job.run * size, high * job.run * size, job.run * size, planes,
                        c_in * numbers[PLANES] * size, table + t * 8, sums + (k * job.wide + t) * vector,
                        job.wide * vector, unit - start,
                    ))  # fmt: skip
        to = made + (which * groups + group) * c_out * job.depth * size
        for k in range(c_out):
            add_up((sums + k * job.wide * vector, job.depth, to + k * job.depth * size))

    @jit(tag=f"{dtype} {tier}")
    def gradient(
        images, each, parts, depth, wide, run, room_x, room_y, room, numbers, bases, table, dy, x, dw, made, scratch,
        nthreads,
    ):  # fmt: skip
        job = Job(images, each, parts, depth, wide, run, room_x, room_y, room)
        to = made if parts > 1 else dw
        parallel_for(part, numbers[GROUPS] * parts, nthreads, (job, numbers, bases, table, dy, x, to, scratch))
        if parts > 1:
            every = numbers[GROUPS] * numbers[C_OUT] * depth
            parallel_for(together, (every + SOME - 1) // SOME, nthreads, (parts, every, made, dw))

    return gradient


class _Plan(NamedTuple):
    numbers: tuple[int, ...]  # of Job
    layout: plans.Plan
    table: Ints


RUN = 1024  # elements of dy, of one filter, that are laid out at a time: with some taps' x they fit the first cache
TASKS = 8


@functools.lru_cache(maxsize=512)
def _plan(g: Geometry, size: int, lanes: int) -> _Plan:
    span = g.q + (g.s - 1) * g.dilation[1] // g.stride[1]
    layout = plans.forward(g, size, (FILTERS, lanes), strip=max(1, min(g.p, RUN // span)))
    n = layout.numbers
    c_in, c_out, depth, ntaps = int(n[C_IN]), int(n[C_OUT]), len(layout.cols), taps(lanes * size)
    wide = -(-(-(-depth // ntaps) * ntaps) // lanes) * lanes
    run = -(-int(n[STRIP_ROWS] * n[PITCH]) // lanes) * lanes
    each = max(1, min(g.n, RUN // run)) if n[STRIPS] == 1 else 1
    up = lambda elements: -(-elements * size // 64) * 64
    room_x = up(each * c_in * int(n[PLANES]) + lanes)
    high = -(-c_out // FILTERS) * FILTERS
    room_y, room_s = up(each * high * run), up(high * wide * lanes)
    parts = max(1, min(TASKS // g.groups, -(-g.n // each) * int(n[STRIPS])))
    table = np.append(layout.cols, np.full(wide - depth, layout.cols[-1]))
    return _Plan((g.n, each, parts, depth, wide, run, room_x, room_y, room_x + room_y + room_s), layout, table)


def conv2d_dw(
    dy: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dw: for every tap the dot product of dy with x under that tap, over all pixels and images."""
    g = geometry(x.shape, tuple(w_shape), stride, padding, dilation, groups)
    dw = np.empty(g.w_shape, x.dtype)
    if not dw.size or not g.n:
        dw[...] = 0
        return dw
    dtype, tier = gather.name(x), machine.floats()
    plan = _plan(g, x.itemsize, gather.lanes(dtype, tier))
    x, dy = cpu._plain(x), cpu._plain(dy)
    nthreads = cpu._threads(dy.size * dw[0].size)
    parts, room = plan.numbers[2], plan.numbers[-1]
    made = -(-dw.nbytes * parts // 64) * 64 if parts > 1 else 0
    with workspace.borrow(made + nthreads * room) as at:
        kernels(dtype, tier)(
            *plan.numbers, plan.layout.numbers, plan.layout.bases, address(plan.table), address(dy), address(x),
            address(dw), at, at + made, nthreads,
        )  # fmt: skip
    if not np.isfinite(dw).all():
        # The gaps between the rows of dy are zeros, which an infinite x beside them turned into NaN; the definition
        # has no such products.
        return im2col.conv2d_dw(dy, x, w_shape, stride, padding, dilation, groups)
    return dw
