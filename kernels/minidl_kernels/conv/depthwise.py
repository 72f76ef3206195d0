"""Depthwise convolution, a channel at a time: vectors of neighbouring pixels, several rows of outputs at once.

A channel has one filter, so there is no product over channels for the register tile: an output costs R * S
multiplications, and moving the image costs about as much. A channel is copied into a plane with its borders of zeros,
which stays in the first-level cache. Then every vector of the plane is loaded once per column of the window and used
for all rows of outputs that it belongs to; lanes beyond the end of a row are computed and not written.

The gradient for x is the same thing with the filter turned, and zeros between the pixels of dy where the stride is 2.
The gradient for the filter sums products instead, R * S vectors of partial sums at once.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numpy.typing import NDArray

from ..cpu import gather, machine, threads, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import I32, I64, Vectors, counting
from . import cpu, lines
from .dots import fold
from .geometry import Geometry, Pair, geometry

Array = NDArray[Any]

ROWS = 4  # rows of outputs at once


@functools.cache
def frame(dtype: str, nlanes: int, sh: int, sw: int) -> Any:
    """Copy an image into a plane with borders of zeros: f((source, height, width, top, left, to, rows, vectors)).

    The plane has so many rows of so many whole vectors; the image begins `top` rows and `left` columns inside, its rows
    `sh` and its columns `sw` (1 or 2) apart, with zeros between.
    """
    size = np.dtype(dtype).itemsize

    def body(builder: ir.IRBuilder, *args: ir.Value) -> None:
        source, height, width, top, left, to, rows, vectors = args
        v = Vectors(builder, gather.element(dtype), nlanes)

        def spread(x: ir.Value, first: int) -> ir.Value:
            """Zeros between the lanes, and `first` before them; the upper half is dropped."""
            order = [nlanes if (i - first) % 2 else (i - first) // 2 for i in range(nlanes)]
            return builder.shuffle_vector(x, v.zero(), ir.Constant(ir.VectorType(I32, nlanes), order))

        with counting(builder, rows) as i:
            down = builder.sub(i, top)
            row = builder.sdiv(down, I64(sh))
            inside = builder.and_(builder.icmp_signed(">=", down, I64(0)), builder.icmp_signed("<", row, height))
            inside = builder.and_(inside, builder.icmp_signed("==", builder.mul(row, I64(sh)), down))
            end = builder.select(inside, width, I64(0))
            line = builder.add(source, builder.mul(builder.mul(row, width), I64(size)))
            target = builder.add(to, builder.mul(builder.mul(i, vectors), I64(nlanes * size)))
            with counting(builder, vectors) as j:
                # Columns of the image from `at` on: those before 0 and from `end` on are zeros.
                across = builder.sub(builder.mul(j, I64(nlanes)), left)
                at = across if sw == 1 else builder.ashr(builder.add(across, I64(1)), I64(1))
                before, behind = v.first(builder.sub(I64(0), at)), v.first(builder.sub(end, at))
                mask = builder.and_(behind, builder.not_(before))
                x = v.masked_load(mask, builder.add(line, builder.mul(at, I64(size))))
                if sw == 2:
                    odd = builder.icmp_signed("!=", builder.and_(across, I64(1)), I64(0))
                    x = builder.select(odd, spread(x, 1), spread(x, 0))
                v.store(x, builder.add(target, builder.mul(j, I64(nlanes * size))))

    return gather.outlined(f"frame_{dtype}_{nlanes}_{sh}_{sw}", 8, body)


@functools.cache
def windows(dtype: str, nlanes: int, r: int, s: int, sh: int, sw: int) -> Any:
    """All outputs of one channel: f((plane, pitch, odd, filter, bias, to, rows, columns)).

    plane, pitch: rows of the plane and bytes between them; odd: bytes to the plane of the odd columns where sw is 2,
    while the first has the even ones; filter: address of R * S weights, bias of one number; to: the result, without
    gaps.
    """
    size = np.dtype(dtype).itemsize

    def body(builder: ir.IRBuilder, *args: ir.Value) -> None:
        plane, pitch, odd, filters, bias, to, rows, columns = args
        v = Vectors(builder, gather.element(dtype), nlanes)
        with (
            counting(builder, rows, step=I64(ROWS)) as p,
            counting(builder, columns, step=I64(nlanes)) as q,
        ):
            start = builder.add(plane, builder.mul(builder.mul(p, I64(sh)), pitch))
            start = builder.add(start, builder.mul(q, I64(size)))
            sums = [v.broadcast(bias)] * ROWS
            for i in range((ROWS - 1) * sh + r):
                line = builder.add(start, builder.mul(pitch, I64(i)))
                lines_of = [line, builder.add(line, odd)]
                for j in range(s):
                    x = v.load(lines_of[j % sw], j // sw * size)
                    for k in range(ROWS):
                        if 0 <= i - k * sh < r:
                            w = v.broadcast(filters, ((i - k * sh) * s + j) * size)
                            sums[k] = v.multiply_add(w, x, sums[k])
            left = builder.sub(columns, q)
            for k, total in enumerate(sums):
                row = builder.add(p, I64(k))
                mask = v.first(builder.select(builder.icmp_signed("<", row, rows), left, I64(0)))
                at = builder.add(builder.mul(row, columns), q)
                v.masked_store(total, mask, builder.add(to, builder.mul(at, I64(size))))

    return gather.outlined(f"depthwise_{dtype}_{nlanes}_{r}_{s}_{sh}_{sw}", 8, body)


@functools.cache
def dots(dtype: str, nlanes: int, r: int, s: int, sh: int, sw: int) -> Any:
    """The gradient for one filter: f((plane, pitch, odd, dy, rows, columns, sums)) adds to R * S vectors of partial
    sums."""
    size = np.dtype(dtype).itemsize
    high = max(1, SUMS // s)  # rows of the window at once

    def body(builder: ir.IRBuilder, *args: ir.Value) -> None:
        plane, pitch, odd, dy, rows, columns, sums = args
        v = Vectors(builder, gather.element(dtype), nlanes)
        for first in range(0, r, high):
            taps = [(i, j) for i in range(first, min(r, first + high)) for j in range(s)]
            held = [cgutils.alloca_once(builder, v.type) for _ in taps]
            for (i, j), place in zip(taps, held):
                builder.store(v.load(sums, (i * s + j) * nlanes * size), place)
            with (
                counting(builder, rows) as p,
                counting(builder, columns, step=I64(nlanes)) as q,
            ):
                start = builder.add(plane, builder.mul(builder.mul(p, I64(sh)), pitch))
                start = builder.add(start, builder.mul(q, I64(size)))
                at = builder.add(dy, builder.mul(builder.add(builder.mul(p, columns), q), I64(size)))
                d = v.masked_load(v.first(builder.sub(columns, q)), at)
                for (i, j), place in zip(taps, held):
                    line = builder.add(start, builder.mul(pitch, I64(i)))
                    x = v.load(builder.add(line, odd) if j % sw else line, j // sw * size)
                    builder.store(v.multiply_add(d, x, builder.load(place)), place)
            for (i, j), place in zip(taps, held):
                v.store(builder.load(place), sums, (i * s + j) * nlanes * size)

    return gather.outlined(f"depthwise_dw_{dtype}_{nlanes}_{r}_{s}_{sh}_{sw}", 7, body)


@functools.cache
def planes_of(dtype: str, nlanes: int, sw: int, apart: tuple[int, int]) -> Any:
    """Some images, `next` bytes from one to the other, into planes: f(job, source, next, count, planes)."""
    size = np.dtype(dtype).itemsize
    copy, spread = lines.plane(dtype, nlanes, sw), frame(dtype, nlanes, *apart)
    gaps = apart != (1, 1)

    @jit(inner=True)
    def fill(job, source, next, count, planes):
        pitch = job.vectors * nlanes
        if gaps:
            for c in range(count):
                to = planes + c * job.plane
                spread((source + c * next, job.h, job.w, job.top, job.left, to, job.rows, job.vectors))
            return
        for phase in range(sw):
            to = planes + phase * job.rows * pitch * size
            image = (source, next, count, job.h, job.w, -job.top, phase - job.left, 1)
            copy((*image, to, job.plane, job.rows, pitch))

    return fill


# `planes`: images times channels; `each`: channels in a task; outputs per channel of x; the image, its place in the
# plane, and the plane; the result; bytes of a plane, and of scratch memory per thread.
Job = namedtuple("Job", "planes channels each outputs h w top left rows vectors p q turned plane room")


@functools.cache
def kernels(dtype: str, tier: str, r: int, s: int, stride: tuple[int, int], apart: tuple[int, int]) -> Any:
    """The compiled convolution for one window and stride, of images whose pixels are set `apart`."""
    size, lanes = np.dtype(dtype).itemsize, gather.lanes(dtype, tier)
    pointer, fill = gather.pointer(dtype), planes_of(dtype, lanes, stride[1], apart)
    run = windows(dtype, lanes, r, s, *stride)
    nothing = np.dtype(dtype).type(0)

    @jit(inner=True)
    def body(task, slot, job, x, w, bias, y, scratch):
        """Some channels of one image."""
        planes = scratch + slot * job.room
        held = planes + job.each * job.plane + 4 * lanes * size  # what the last vectors read on, and the filter
        filters = pointer(held)
        cuts = (job.channels + job.each - 1) // job.each
        image, first = task // cuts, task % cuts * job.each
        count = min(job.each, job.channels - first)
        # All planes, then all results: vectors that cross a line are not read while it is being written.
        fill(job, x + (image * job.channels + first) * job.h * job.w * size, job.h * job.w * size, count, planes)
        for c in range(count):
            for k in range((first + c) * job.outputs, (first + c + 1) * job.outputs):
                taps = pointer(w + k * r * s * size)
                for t in range(r * s):
                    filters[t] = taps[r * s - 1 - t] if job.turned else taps[t]
                filters[r * s] = pointer(bias)[k] if bias != 0 else nothing
                to = y + (image * job.channels * job.outputs + k) * job.p * job.q * size
                pitch = job.vectors * lanes * size
                run((planes + c * job.plane, pitch, job.rows * pitch, held, held + r * s * size, to, job.p, job.q))

    @jit(tag=f"{dtype} {tier} {r} {s} {stride} {apart}")
    def convolve(
        planes, channels, each, outputs, h, w, top, left, rows, vectors, p, q, turned, plane, room,
        x, filters, bias, y, scratch, nthreads,
    ):  # fmt: skip
        job = Job(planes, channels, each, outputs, h, w, top, left, rows, vectors, p, q, turned, plane, room)
        tasks = planes // channels * ((channels + each - 1) // each)
        parallel_for(body, tasks, nthreads, (job, x, filters, bias, y, scratch))

    return convolve


@functools.cache
def gradient(dtype: str, tier: str, r: int, s: int, stride: tuple[int, int]) -> Any:
    """The compiled gradient for the filters."""
    size, lanes = np.dtype(dtype).itemsize, gather.lanes(dtype, tier)
    pointer, fill = gather.pointer(dtype), planes_of(dtype, lanes, stride[1], (1, 1))
    add, add_up = dots(dtype, lanes, r, s, *stride), fold(dtype, lanes)

    @jit(inner=True)
    def body(task, slot, job, dy, x, dw, scratch):
        """The filters of one channel, over all images in order."""
        images = job.planes // job.channels
        planes = scratch + slot * job.room
        held = planes + job.each * job.plane + 4 * lanes * size
        slack, sums = pointer(planes + job.each * job.plane), pointer(held)
        # What lies behind the last plane is multiplied by zero, so it must be a number.
        for i in range(4 * lanes):
            slack[i] = 0
        for i in range(job.outputs * r * s * lanes):
            sums[i] = 0
        for first in range(0, images, job.each):
            count = min(job.each, images - first)
            at = x + (first * job.channels + task) * job.h * job.w * size
            fill(job, at, job.channels * job.h * job.w * size, count, planes)
            if count < job.each:
                after = pointer(planes + count * job.plane)
                for i in range(4 * lanes):
                    after[i] = 0
            for i in range(count):
                for m in range(job.outputs):
                    at = dy + ((first + i) * job.channels * job.outputs + task * job.outputs + m) * job.p * job.q * size
                    pitch = job.vectors * lanes * size
                    add(
                        (
                            planes + i * job.plane,
                            pitch,
                            job.rows * pitch,
                            at,
                            job.p,
                            job.q,
                            held + m * r * s * lanes * size,
                        )
                    )
        add_up((held, job.outputs * r * s, dw + task * job.outputs * r * s * size))

    @jit(tag=f"{dtype} {tier} {r} {s} {stride}")
    def sums(
        planes, channels, each, outputs, h, w, top, left, rows, vectors, p, q, turned, plane, room,
        dy, x, dw, scratch, nthreads,
    ):  # fmt: skip
        job = Job(planes, channels, each, outputs, h, w, top, left, rows, vectors, p, q, turned, plane, room)
        parallel_for(body, channels, nthreads, (job, dy, x, dw, scratch))

    return sums


SUMS = 25  # vectors of sums in registers
NEAR = 16 << 10  # bytes of planes made at a time: half a first-level cache
MOST = 32  # and planes


@functools.lru_cache(maxsize=512)
def _plan(g: Geometry, size: int, lanes: int, op: str) -> tuple[int, ...]:
    """The numbers of Job."""
    turned = op == "conv2d_dx"
    (h, w), (p, q) = ((g.p, g.q), (g.h, g.w)) if turned else ((g.h, g.w), (g.p, g.q))
    top, left = (g.r - 1 - g.padding[0], g.s - 1 - g.padding[1]) if turned else g.padding
    sh, sw = (1, 1) if turned else g.stride
    # All rows and columns that some output reads, the last ones of a block of rows included.
    rows = (-(-p // ROWS) * ROWS - 1) * sh + g.r
    vectors = -(-(q + (g.s - 1) // sw) // lanes)
    plane = sw * rows * vectors * lanes * size
    outputs = g.k // g.c
    most = g.n if op == "conv2d_dw" else max(1, g.n * g.c // 16)
    each = min(max(1, min(MOST, NEAR // plane)), most)
    kept = -(-outputs * g.r * g.s // lanes) * lanes * lanes if op == "conv2d_dw" else g.r * g.s + 1
    room = each * plane + (4 * lanes + kept) * size
    return g.n * g.c, g.c, each, outputs, h, w, top, left, rows, vectors, p, q, int(turned), plane, room + -room % 64


def _run(op: str, g: Geometry, x: Array, w: Array, b: Array | None, y: Array) -> Array:
    dtype, tier = gather.name(x), machine.floats()
    plan = _plan(g, x.itemsize, gather.lanes(dtype, tier), op)
    stride, apart = ((1, 1), g.stride) if op == "conv2d_dx" else (g.stride, (1, 1))
    nthreads = threads.get_num_threads() if y.size * g.r * g.s >= cpu.SMALL else 1
    with workspace.borrow(nthreads * plan[-1]) as scratch:
        kernels(dtype, tier, g.r, g.s, stride, apart)(
            *plan, address(x), address(w), address(b), address(y), scratch, nthreads
        )
    return y


def conv2d(x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """y = conv2d(x, w) + b"""
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    b = None if b is None else cpu._plain(b)
    return _run("conv2d", g, cpu._plain(x), cpu._plain(w), b, np.empty(g.y_shape, x.dtype))


def conv2d_dx(
    dy: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dx: the convolution of dy, with zeros between its pixels where the stride is 2, with the turned filters."""
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    if not np.isfinite(w).all():
        # The planes hold zeros beside dy, which an infinite weight would turn into NaN; the definition has no such
        # products.
        return cpu.conv2d_dx(dy, w, x_shape, stride, padding, dilation, groups)
    return _run("conv2d_dx", g, cpu._plain(dy), cpu._plain(w), None, np.empty(g.x_shape, dy.dtype))


def conv2d_dw(
    dy: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dw: dot products of dy with x under each tap."""
    g = geometry(x.shape, tuple(w_shape), stride, padding, dilation, groups)
    dw = np.empty(g.w_shape, x.dtype)
    plain_x, plain_dy = cpu._plain(x), cpu._plain(dy)
    dtype, tier = gather.name(x), machine.floats()
    plan = _plan(g, x.itemsize, gather.lanes(dtype, tier), "conv2d_dw")
    nthreads = threads.get_num_threads() if dy.size * g.r * g.s >= cpu.SMALL else 1
    with workspace.borrow(nthreads * plan[-1]) as scratch:
        gradient(dtype, tier, g.r, g.s, g.stride)(
            *plan, address(plain_dy), address(plain_x), address(dw), scratch, nthreads
        )
    if not np.isfinite(dw).all():
        # Lanes behind the end of a row of dy are zeros, which an infinite x turned into NaN.
        return cpu.conv2d_dw(dy, x, w_shape, stride, padding, dilation, groups)
    return dw
