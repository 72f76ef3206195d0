"""dx as columns that are added up, the filters read where they lie: for few outputs of many channels.

    columns (N P Q, C R S) = dy.T @ w      dx[n, c, p + r, q + s] += columns[n p q, c r s]

A convolution of dy with turned filters (cpu.py, filters.py) first turns them, which takes longer than the product where
a filter meets few pixels. Here neighbouring channels and taps, as they lie in memory, are the lanes of the tile, and
pixels its rows. A task has all columns of some channels, and adds them up while they are near.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cpu import gather, machine, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from . import cpu
from .geometry import Geometry, Pair, geometry

Array = NDArray[Any]

CHANNELS = 32  # of a task
FEW = 16  # outputs, up to which the filters are not even copied
PIXELS = 64  # outputs whose columns are kept at a time, in whole lines


@jit(inner=True)
def inside(offset, step, size, count):  # type: ignore[no-untyped-def]
    """The places q in 0 .. count - 1 at which 0 <= offset + q * step < size: from the first to behind the last."""
    low = 0 if offset >= 0 else (-offset + step - 1) // step
    high = 0 if offset >= size else (size - 1 - offset) // step + 1
    return min(low, count), max(min(high, count), min(low, count))


# Sizes as in geometry.py; c and k are those of a group. Numbers of `lines` of outputs' columns; of one filter's weights
# that are copied, or 0.
Job = namedtuple("Job", "n groups c h w k r s p q sh sw ph pw dh dw lines columns copy room")


@functools.cache
def kernels(dtype: str, tier: str) -> Any:
    """The compiled gradient."""
    size, lanes, nrows = np.dtype(dtype).itemsize, gather.lanes(dtype, tier), gather.rows(tier)
    wide = 2 * lanes
    pointer, tile = gather.pointer(dtype), gather.product(dtype, nrows, 2, lanes)
    nothing = np.dtype(dtype).type(0)

    @jit(inner=True)
    def add_up(job, group, first, count, line, stop, step, made, dx):
        """The columns of some lines of outputs, and some channels, into dx."""
        found = pointer(made)
        for which in range(line, stop):
            image, p = which // job.p, which % job.p
            for c in range(count):
                to = pointer(dx + ((image * job.groups + group) * job.c + first + c) * job.h * job.w * size)
                for r in range(job.r):
                    row = p * job.sh + r * job.dh - job.ph
                    if row < 0 or row >= job.h:
                        continue
                    for s in range(job.s):
                        offset = s * job.dw - job.pw
                        low, high = inside(offset, job.sw, job.w, job.q)
                        at = (which - line) * job.q * step + (c * job.r + r) * job.s + s
                        for q in range(low, high):
                            to[row * job.w + offset + q * job.sw] += found[at + q * step]

    @jit(inner=True)
    def block(task, slot, job, rows, cols, dy, w, dx, scratch):
        """Some channels of one group, of all images."""
        blocks, taps = (job.c + CHANNELS - 1) // CHANNELS, job.r * job.s
        group, first = task // blocks, task % blocks * CHANNELS
        count, depth, step = min(CHANNELS, job.c - first), job.c * taps, CHANNELS * taps + wide
        # The last lanes of a filter are some of the panel before once more, not what lies behind it.
        begin, end = min(first * taps, depth - wide), (first + count) * taps
        held = scratch + slot * job.room
        copied = held + job.columns * size
        filters, source = w + (group * job.k * depth + begin) * size, dy + group * job.k * job.p * job.q * size
        if job.copy:
            every = min(max(wide, end - begin + wide - 1), depth - begin)
            for k in range(job.k):
                here, to = pointer(filters + k * depth * size), pointer(copied + k * job.copy * size)
                for i in range(every):
                    to[i] = here[i]
            filters = copied
        for image in range(job.n):
            clear = pointer(dx + ((image * job.groups + group) * job.c + first) * job.h * job.w * size)
            for i in range(count * job.h * job.w):
                clear[i] = nothing
        for line in range(0, job.n * job.p, job.lines):
            stop = min(job.n * job.p, line + job.lines)
            pixels = (stop - line) * job.q
            for j in range(first * taps, end, wide):
                start = min(j, depth - wide)
                panel, to = filters + (start - begin) * size, held + (start - first * taps + wide) * size
                for t in range(0, pixels, nrows):
                    table = rows + (line * job.q + t) * 8
                    tile(job.k, source, table, job.p * job.q, panel, cols, to + t * step * size, step, 0)
            add_up(job, group, first, count, line, stop, step, held + wide * size, dx)

    @jit(tag=f"{dtype} {tier}")
    def gradient(
        n, groups, c, h, wd, k, r, s, p, q, sh, sw, ph, pw, dh, dw, lines, columns, copy, room, rows, cols, dy, w,
        dx, scratch, nthreads,
    ):  # fmt: skip
        job = Job(n, groups, c, h, wd, k, r, s, p, q, sh, sw, ph, pw, dh, dw, lines, columns, copy, room)
        tasks = groups * ((c + CHANNELS - 1) // CHANNELS)
        parallel_for(block, tasks, nthreads, (job, rows, cols, dy, w, dx, scratch))

    return gradient


class _Plan(NamedTuple):
    numbers: tuple[int, ...]  # of Job
    rows: Array  # where each output lies in dy, the last one repeated to fill a tile
    cols: Array  # where each filter's weights begin in a panel
    room: int


@functools.lru_cache(maxsize=512)
def _plan(g: Geometry, size: int, lanes: int, nrows: int) -> _Plan:
    area, c, k = g.p * g.q, g.c // g.groups, g.k // g.groups
    rows = np.arange(g.n, dtype=np.int64)[:, None] * g.k * area + np.arange(area)
    rows = np.append(rows, np.full(nrows, rows[-1, -1]))
    lines = max(1, PIXELS // g.q)
    pixels = -(-lines * g.q // nrows) * nrows
    # A panel may end behind its channels, in front of the next output's columns.
    columns = pixels * (CHANNELS * g.r * g.s + 2 * lanes) + 4 * lanes
    copy = min(c, CHANNELS) * g.r * g.s + 2 * lanes if g.n * area > FEW else 0
    room = (columns + k * copy) * size
    room += -room % 64
    numbers = (
        *(g.n, g.groups, c, g.h, g.w, k, g.r, g.s, g.p, g.q, *g.stride, *g.padding, *g.dilation),
        *(lines, columns, copy, room),
    )
    cols = np.arange(k, dtype=np.int64) * (copy or c * g.r * g.s)
    return _Plan(numbers, rows, cols, room)


def conv2d_dx(
    dy: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dx: for every output its window's share, added to where it was read."""
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    dtype, tier = gather.name(dy), machine.floats()
    plan = _plan(g, dy.itemsize, gather.lanes(dtype, tier), gather.rows(tier))
    dx = np.empty(g.x_shape, dy.dtype)
    dy, w = cpu._plain(dy), cpu._plain(w)
    nthreads = cpu._threads(dy.size * w[0].size)
    with workspace.borrow(nthreads * plan.room) as scratch:
        kernels(dtype, tier)(
            *plan.numbers, address(plan.rows), address(plan.cols), address(dy), address(w), address(dx), scratch,
            nthreads,
        )  # fmt: skip
    return dx
