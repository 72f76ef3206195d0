"""Convolution as an implicit matrix product, with filters as the lanes of vectors and pixels as the tile's rows.

The same planes and tables as in cpu.py, the other way round: there a vector holds neighbouring pixels, so that short
rows leave lanes idle; here it holds the outputs of neighbouring filters, and a row of the tile may be any pixel, also
of another image. The products come out with filters side by side and are turned into place. Every output is the same
sum in the same order as there.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cpu import gather, machine, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from . import cpu, im2col, lines
from . import plan as plans
from .geometry import Geometry, Pair, geometry
from .plan import (
    C_IN,
    C_OUT,
    COLS,
    GROUPS,
    OUT_BASE_H,
    OUT_BASE_W,
    OUT_H,
    OUT_STEP_H,
    OUT_STEP_W,
    OUT_W,
    PITCH,
    PLANES,
    REACH,
    ROWS,
    SRC_H,
    SRC_W,
    STRIP_ROWS,
    STRIPS,
    TAPS,
    W_GROUP,
    W_IN,
    W_OUT,
    Plan,
)

Array = NDArray[Any]

PIXELS = 96  # of one task, at least, where there are images enough: they share a panel of filters while it is near
DEPTH = 256  # channels and taps at a time: with a panel of filters they fit the first-level cache
TASKS = 4  # fewest tasks that images are put together for


@functools.cache
def kernels(dtype: str, tier: str) -> Any:
    """The compiled convolution."""
    size, lanes, nrows = np.dtype(dtype).itemsize, gather.lanes(dtype, tier), gather.rows(tier)
    wide = 2 * lanes
    pointer, tile = gather.pointer(dtype), gather.product_of_rows(dtype, nrows, 2, lanes)
    turn, pick = gather.turn(dtype, lanes, False), lines.pick(dtype, lanes)
    outward, fill, out_apart = turn, cpu._fill(dtype, lanes), lines.unload(dtype, lanes, 2)

    @jit(inner=True)
    def pack(task, slot, numbers, taps, ordered, weights, packed):
        """One channel's filters as the tile reads them: (panel of filters, channel, tap, filter), then zeros."""
        c_in, c_out, ntaps = numbers[C_IN], numbers[C_OUT], numbers[TAPS]
        panel, c = task // c_in, task % c_in
        npanels = (c_out + wide - 1) // wide
        group, first = panel // npanels, panel % npanels * wide
        w = weights + (group * numbers[W_GROUP] + first * numbers[W_OUT] + c * numbers[W_IN]) * size
        to, step, line = packed + task * ntaps * wide * size, numbers[W_OUT] * size, wide * size
        full = min(wide, c_out - first)
        if full < wide:
            clear = pointer(to)
            for i in range(ntaps * wide):
                clear[i] = 0
        for r in range(0, full, lanes):
            count = min(lanes, full - r)
            if ordered:
                turn((w + r * step, step, count, ntaps, to + r * size, line))
            else:
                pick((w + r * step, step, count, taps, ntaps, to + r * size, line))

    @jit(inner=True)
    def strip(task, slot, images, each, room, numbers, bases, cols, rows, source, packed, bias, out, scratch):
        """One strip of some images and one group."""
        groups, strips, c_in, c_out = numbers[GROUPS], numbers[STRIPS], numbers[C_IN], numbers[C_OUT]
        planes, depth, ncol = numbers[PLANES], c_in * numbers[TAPS], numbers[COLS]
        image, rest = task // (groups * strips) * each, task % (groups * strips)
        group, first = rest // strips, rest % strips * numbers[STRIP_ROWS]
        count = min(numbers[STRIP_ROWS], numbers[ROWS] - first)
        some = min(each, images - image)
        held = scratch + slot * room
        for i in range(some):
            at = source + ((image + i) * groups + group) * c_in * numbers[SRC_H] * numbers[SRC_W] * size
            to = held + i * c_in * planes * size
            fill(numbers, bases, at, c_in, first, numbers[STRIP_ROWS] + numbers[REACH], to)
        products = held + each * c_in * planes * size
        made, biases, y = pointer(products), pointer(bias), pointer(out)
        area, step = numbers[OUT_H] * numbers[OUT_W], numbers[OUT_STEP_W]
        # Where a strip's outputs are one run of memory, they are turned as one row.
        flat = ncol == numbers[OUT_W] and step == 1 and numbers[OUT_STEP_H] == 1
        number, length = (1, count * ncol) if flat else (count, ncol)
        turned = held + room - lanes * numbers[STRIP_ROWS] * ncol * size
        npanels = (c_out + wide - 1) // wide
        for panel in range(npanels):
            b = packed + (group * npanels + panel) * depth * wide * size
            full = min(wide, c_out - panel * wide)
            # Images of a strip that is not full lie further apart in the table than in the products.
            each_pixels = numbers[STRIP_ROWS] * ncol
            pixels = (some - 1) * each_pixels + count * ncol
            for k in range(0, max(1, depth), DEPTH):
                deep, taps_at, near = min(DEPTH, depth - k), cols + k * 8, b + k * wide * size
                for t in range(0, pixels, nrows):
                    tile(deep, held, rows + t * 8, taps_at, near, products + t * wide * size, k)
            for i in range(some):
                channel = group * c_out + panel * wide
                start = ((image + i) * groups * c_out + channel) * area
                start += (numbers[OUT_BASE_H] + first * numbers[OUT_STEP_H]) * numbers[OUT_W] + numbers[OUT_BASE_W]
                base = i * each_pixels * wide
                if bias != 0:
                    for t in range(count * ncol):
                        for r in range(full):
                            made[base + t * wide + r] += biases[channel + r]
                if step == 1:
                    for half in range(0, full, lanes):
                        for line in range(number):
                            at = base + line * ncol * wide + half
                            to = start + line * numbers[OUT_STEP_H] * numbers[OUT_W] + half * area
                            for q in range(0, length, lanes):
                                job = (min(lanes, length - q), min(lanes, full - half), out + (to + q) * size)
                                outward((products + (at + q * wide) * size, wide * size, *job, area * size))
                elif step == 2:
                    # Turned, and then set apart.
                    strip_pixels, line = count * ncol, numbers[OUT_STEP_H] * numbers[OUT_W] * size
                    for half in range(0, full, lanes):
                        filters = min(lanes, full - half)
                        for q in range(0, strip_pixels, lanes):
                            at = products + (base + q * wide + half) * size
                            target, across = turned + q * size, min(lanes, strip_pixels - q)
                            outward((at, wide * size, across, filters, target, strip_pixels * size))
                        to = out + (start + half * area) * size
                        out_apart(
                            (turned, strip_pixels * size, ncol * size, to, area * size, line, filters, count, ncol, 0)
                        )
                else:
                    for line in range(count):
                        at = base + line * ncol * wide
                        to = start + line * numbers[OUT_STEP_H] * numbers[OUT_W]
                        for r in range(full):
                            for q in range(ncol):
                                y[to + r * area + q * step] = made[at + q * wide + r]

    @jit(tag=f"{dtype} {tier}")
    def convolve(
        images, each, room, numbers, bases, taps, ordered, cols, rows, source, weights, bias, out, packed, scratch,
        nthreads,
    ):  # fmt: skip
        panels = numbers[GROUPS] * ((numbers[C_OUT] + wide - 1) // wide)
        parallel_for(pack, panels * numbers[C_IN], nthreads, (numbers, taps, ordered, weights, packed))
        tasks = (images + each - 1) // each * numbers[GROUPS] * numbers[STRIPS]
        job = (images, each, room, numbers, bases, cols, rows, source, packed, bias, out, scratch)
        parallel_for(strip, tasks, nthreads, job)

    return convolve


class _Layout(NamedTuple):
    plan: Plan
    each: int  # images of a task
    rows: Array  # where each pixel of a task begins in the planes
    room: int  # bytes of scratch memory per thread


def _layout(plan: Plan, images: int, size: int, wide: int, nrows: int) -> _Layout:
    n = plan.numbers
    per_image, pixels = int(n[C_IN] * n[PLANES]), int(n[STRIP_ROWS] * n[COLS])
    near = plans.STRIP_BYTES * 2 // max(1, per_image * size)
    each = max(1, min(-(-PIXELS // pixels), near, images // TASKS)) if n[STRIPS] == 1 else 1
    t = np.arange(pixels, dtype=np.int64)
    one = t // n[COLS] * n[PITCH] + t % n[COLS]
    rows = (np.arange(each, dtype=np.int64)[:, None] * per_image + one).ravel()
    rows = np.append(rows, np.full(-len(rows) % nrows, rows[-1]))
    # `turned` as well, for which there are never more filters than half a panel
    room = (each * per_image + len(rows) * wide + wide // 2 * pixels) * size
    return _Layout(plan, each, rows, room + -room % 64)


@functools.lru_cache(maxsize=512)
def _layouts(g: Geometry, size: int, lanes: int, nrows: int, turned: bool) -> tuple[_Layout, ...]:
    tile = (2 * lanes, nrows)
    every = plans.backward(g, size, tile) if turned else (plans.forward(g, size, tile),)
    return tuple(_layout(plan, g.n, size, 2 * lanes, nrows) for plan in every)


def _run(layout: _Layout, images: int, source: Array, w: Array, b: Array | None, out: Array) -> None:
    plan, dtype, tier = layout.plan, gather.name(source), machine.floats()
    nthreads = cpu._threads(out.size * int(plan.numbers[C_IN] * plan.numbers[TAPS]))
    packed = -(-plan.packed * source.itemsize // 64) * 64
    with workspace.borrow(packed + nthreads * layout.room) as scratch:
        kernels(dtype, tier)(
            images, layout.each, layout.room, plan.numbers, plan.bases, address(plan.taps), plan.ordered,
            address(plan.cols), address(layout.rows), address(source), address(w), address(b), address(out), scratch,
            scratch + packed, nthreads,
        )  # fmt: skip


def conv2d(x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """y = conv2d(x, w) + b"""
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    y = np.empty(g.y_shape, x.dtype)
    if y.size:
        tier, dtype = machine.floats(), gather.name(x)
        (layout,) = _layouts(g, x.itemsize, gather.lanes(dtype, tier), gather.rows(tier), False)
        _run(layout, g.n, cpu._plain(x), cpu._plain(w), None if b is None else cpu._plain(b), y)
    return y


def conv2d_dx(
    dy: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dx: a convolution of dy with the turned filters, per phase of the stride."""
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    w = cpu._plain(w)
    if not np.isfinite(w).all():
        # The planes hold zeros around dy, which an infinite weight would turn into NaN; the definition has no such
        # products.
        return im2col.conv2d_dx(dy, w, x_shape, stride, padding, dilation, groups)
    tier = machine.floats()
    every = _layouts(g, dy.itemsize, gather.lanes(gather.name(dy), tier), gather.rows(tier), True)
    some = [layout for layout in every if len(layout.plan.cols)]  # a phase that no tap meets is zero
    dx = np.empty(g.x_shape, dy.dtype) if len(some) == len(every) else np.zeros(g.x_shape, dy.dtype)
    if dx.size:
        dy = cpu._plain(dy)
        for layout in some:
            _run(layout, g.n, dy, w, None, dx)
    return dx
