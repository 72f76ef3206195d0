"""The gradient for the filters of many groups: a product over pixels for each group, its filters as lanes.

    dw[k, c, r, s] = sum over images and pixels of dy[k, p, q] * x[c, p + r, q + s]

The same product as in cpu.py, where all threads lay out all images first. Groups share nothing, so here a thread takes
one from the first copy to the last sum, near its caches: x in planes (plan.py), dy turned so that filters lie side by
side. The tile's rows are channels and taps; it walks over the pixels of several images through a table, gaps left out.
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
from . import cpu
from . import plan as plans
from .dots import SOME, TASKS, add_parts
from .geometry import Geometry, Pair, geometry
from .plan import C_IN, C_OUT, COLS, GROUPS, PLANES, REACH, ROWS, SRC_H, SRC_W, STRIP_ROWS, STRIPS, Ints

Array = NDArray[Any]


@functools.cache
def kernels(dtype: str, tier: str, nvectors: int) -> Any:
    """The compiled gradient, with a tile of so many vectors."""
    size, lanes, nrows = np.dtype(dtype).itemsize, gather.lanes(dtype, tier), gather.rows(tier)
    wide = nvectors * lanes
    pointer, fill = gather.pointer(dtype), cpu._fill(dtype, lanes)
    tile, across = gather.product_of_rows(dtype, nrows, nvectors, lanes), gather.turn(dtype, lanes, False)
    together = add_parts(dtype)

    @jit(inner=True)
    def part(
        task, slot, images, each, parts, depth, room_x, room_y, room, numbers, bases, rows, pixels, dy, x, made,
        scratch,
    ):  # fmt: skip
        """A block of filters of one group, over one part of the images in order."""
        groups, c_in, c_out, strips = numbers[GROUPS], numbers[C_IN], numbers[C_OUT], numbers[STRIPS]
        blocks = (c_out + wide - 1) // wide
        which, at_group, block = task % parts, task // parts // blocks, task // parts % blocks
        full, ncol = min(wide, c_out - block * wide), numbers[COLS]
        area_x, area_y = numbers[SRC_H] * numbers[SRC_W], numbers[ROWS] * ncol
        planes = scratch + slot * room
        turned, sums = planes + room_x, planes + room_x + room_y
        units = (images + each - 1) // each * strips
        start, stop = units * which // parts, units * (which + 1) // parts
        if full < wide:
            clear = pointer(turned)
            for i in range(room_y // size):
                clear[i] = 0
        for unit in range(start, stop):
            image, first = unit // strips * each, unit % strips * numbers[STRIP_ROWS]
            count, some = min(each, images - image), min(numbers[STRIP_ROWS], numbers[ROWS] - first) * ncol
            for i in range(count):
                at = (image + i) * groups + at_group
                to = planes + i * c_in * numbers[PLANES] * size
                fill(
                    numbers, bases, x + at * c_in * area_x * size, c_in, first, numbers[STRIP_ROWS] + numbers[REACH], to
                )
                for k in range(0, full, lanes):
                    source = dy + ((at * c_out + block * wide + k) * area_y + first * ncol) * size
                    to = turned + (i * some * wide + k) * size
                    across((source, area_y * size, min(lanes, full - k), some, to, wide * size))
            for t in range(0, depth, nrows):
                tile(count * some, planes, rows + t * 8, pixels, turned, sums + t * wide * size, unit - start)
        to = made + ((which * groups + at_group) * c_out + block * wide) * depth * size
        for i in range(0, depth, lanes):
            some = min(lanes, depth - i)
            across((sums + i * wide * size, wide * size, some, full, to + i * size, depth * size))

    @jit(tag=f"{dtype} {tier} {nvectors}")
    def gradient(
        images, each, parts, depth, room_x, room_y, room, numbers, bases, rows, pixels, dy, x, dw, made, scratch,
        nthreads,
    ):  # fmt: skip
        blocks, every = (numbers[C_OUT] + wide - 1) // wide, numbers[GROUPS] * numbers[C_OUT] * depth
        to = made if parts > 1 else dw
        job = (images, each, parts, depth, room_x, room_y, room, numbers, bases, rows, pixels, dy, x, to, scratch)
        parallel_for(part, numbers[GROUPS] * blocks * parts, nthreads, job)
        if parts > 1:
            parallel_for(together, (every + SOME - 1) // SOME, nthreads, (parts, every, made, dw))

    return gradient


class _Plan(NamedTuple):
    numbers: tuple[
        int, ...
    ]  # images, those laid out at a time, parts of them, taps and channels of a filter, bytes of scratch memory
    layout: plans.Plan
    rows: Ints  # where each tap and channel begins in the planes, the last one repeated to fill a tile
    pixels: Ints  # where each pixel lies in them, of all images laid out at a time


PIXELS = 512  # of dy that are turned at a time: with 32 filters they leave the first cache, and stay in the second


@functools.lru_cache(maxsize=512)
def _plan(g: Geometry, size: int, nrows: int, wide: int) -> _Plan:
    layout = plans.forward(g, size, (nrows, wide), max(1, min(g.p, PIXELS // g.q)))
    n = layout.numbers
    depth, area = len(layout.cols), int(n[STRIP_ROWS] * n[COLS])
    each = max(1, min(g.n, PIXELS // area)) if n[STRIPS] == 1 else 1
    p, q = np.divmod(np.arange(area, dtype=np.int64), g.q)
    image = np.arange(each, dtype=np.int64)[:, None] * int(n[C_IN] * n[PLANES])
    pitch = int(n[plans.PITCH])
    rows = layout.cols[np.minimum(np.arange(-(-depth // nrows) * nrows), depth - 1)]
    up = lambda elements: -(-elements * size // 64) * 64
    room_x, room_y = up(each * int(n[C_IN] * n[PLANES])), up(each * area * wide)
    room = room_x + room_y + up(len(rows) * wide)
    blocks = -(-int(n[C_OUT]) // wide) * g.groups
    parts = max(1, min(TASKS // blocks, -(-g.n // each) * int(n[STRIPS])))
    return _Plan((g.n, each, parts, depth, room_x, room_y, room), layout, rows, (image + p * pitch + q).ravel())


def conv2d_dw(
    dy: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dw: for every tap the product of dy with x under that tap, over all pixels and images."""
    g = geometry(x.shape, tuple(w_shape), stride, padding, dilation, groups)
    dw = np.empty(g.w_shape, x.dtype)
    if not dw.size or not g.n:
        dw[...] = 0
        return dw
    dtype, tier = gather.name(x), machine.floats()
    lanes = gather.lanes(dtype, tier)
    nvectors = 1 if g.k // g.groups <= lanes else 2
    plan = _plan(g, x.itemsize, gather.rows(tier), nvectors * lanes)
    x, dy = cpu._plain(x), cpu._plain(dy)
    nthreads = cpu._threads(dy.size * dw[0].size)
    made = -(-dw.nbytes * plan.numbers[2] // 64) * 64 if plan.numbers[2] > 1 else 0
    with workspace.borrow(made + nthreads * plan.numbers[-1]) as at:
        kernels(dtype, tier, nvectors)(
            *plan.numbers, plan.layout.numbers, plan.layout.bases, address(plan.rows), address(plan.pixels),
            address(dy), address(x), address(dw), at, at + made, nthreads,
        )  # fmt: skip
    return dw
