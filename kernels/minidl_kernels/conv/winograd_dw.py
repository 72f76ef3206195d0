"""The gradient for 3 x 3 filters with a quarter of the multiplications: the transpose of F(4 x 4, 3 x 3).

    dw = G' [ sum over windows of (A dy A') * (B' x B) ] G

For each of the 36 products that is a matrix product over windows, of filters by channels. The sums are kept
transformed, 36 numbers per filter and channel, and brought back once at the end.

Where these sums are small, the windows are cut into parts, each with sums of its own that its thread keeps near;
elsewhere all threads transform some windows and then share out the filters. Either follows from the shape alone.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cpu import gather, machine, threads, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from . import cpu
from .geometry import Geometry, Pair, geometry
from .winograd import ALONE, IN, OUT, POINTS, TOGETHER, epilogue, transform, windows, zeros

Array = NDArray[Any]

# Sizes; `group`: rows of windows transformed at a time; elements from one window (step) and from one of the 36 products
# (point) to the next among the transformed x (v) and dy (e); a block of the sums is `high` filters by one tile's
# columns, with s_point elements for each of the 36; bytes of a block, and of scratch memory for a thread's v, e, lines.
Job = namedtuple(
    "Job",
    "images c h w k p q top left down across group v_step v_point e_step e_point high s_point room_s room_v room_e "
    "room_line",
)


@functools.cache
def kernels(dtype: str, tier: str) -> Any:
    """The compiled gradient."""
    size, lanes, nrows = np.dtype(dtype).itemsize, gather.lanes(dtype, tier), gather.rows(tier)
    wide, vector = 2 * lanes, lanes * np.dtype(dtype).itemsize
    pointer, words = gather.pointer(dtype), gather.pointer("int64")
    tile, outward = gather.product(dtype, nrows, 2, lanes), gather.turn(dtype, lanes, False)
    read_x, read_dy = windows(dtype, lanes, "inputs"), windows(dtype, lanes, "errors")
    of_sums, finish, zero = transform(dtype, lanes, "filters"), epilogue(dtype, lanes), zeros(dtype)

    @jit(inner=True)
    def load(row, at, block, job, x, dy, v, e, held):
        """A row of windows, transformed: one block of the channels of x, or of dy, which are numbered after those."""
        image, top = row // job.down, row % job.down * OUT
        blocks = (job.c + lanes - 1) // lanes
        if block < blocks:
            source, to = x + image * job.c * job.h * job.w * size, v + at * job.v_step * size
            read_x(
                source, block, job.c, job.h, job.w, top - job.top, job.left, job.across, to, job.v_step, job.v_point,
                held,
            )  # fmt: skip
        else:
            source, to = dy + image * job.k * job.p * job.q * size, e + at * job.e_step * size
            read_dy(
                source, block - blocks, job.k, job.p, job.q, top, 0, job.across, to, job.e_step, job.e_point, held,
            )  # fmt: skip

    @jit(inner=True)
    def multiply(block, count, job, rows, cols, v, e, sums, add):
        """`count` windows into one block of the sums."""
        across = (job.c + wide - 1) // wide
        first, panel = block // across * job.high, block % across
        last = min(job.k, first + job.high)
        for point in range(POINTS):
            b = v + (point * job.v_point + panel * wide) * size
            for k in range(first, last, nrows):
                a = e + (point * job.e_point + k) * size
                to = sums + (point * job.s_point + (k - first) * wide) * size
                tile(count, a, rows, job.e_step, b, cols, to, wide, add)

    @jit(inner=True)
    def store(block, job, sums, dw, held, flag):
        """A block of the sums, transformed back."""
        across = (job.c + wide - 1) // wide
        first, panel = block // across * job.high, block % across
        check, none = held + 9 * vector, held + 10 * vector
        zero(check, 2 * lanes)
        point = job.s_point * size
        for k in range(first, min(job.k, first + job.high)):
            for c in range(panel * wide, min(job.c, (panel + 1) * wide), lanes):
                at = sums + ((k - first) * wide + c - panel * wide) * size
                of_sums((at, IN * point, point, held, 3 * vector, vector))
                full = min(lanes, job.c - c)
                for t in range(9):
                    tap = pointer(held + t * vector)
                    for i in range(full, lanes):
                        tap[i] = 0
                finish(held, none, 9, check)
                to = dw + (k * job.c + c) * 9 * size
                for t in range(0, 9, lanes):
                    outward((held + t * vector, vector, min(lanes, 9 - t), full, to + t * size, 9 * size))
        found = pointer(check)
        for i in range(lanes):
            if found[i] != found[i]:
                words(flag)[0] = 1

    @jit(inner=True)
    def part(task, slot, parts, blocks, job, rows, cols, x, dy, sums, scratch):
        """One part of the windows, into sums of its own."""
        v = scratch + slot * (job.room_v + job.room_e + job.room_line)
        e, held = v + job.room_v, v + job.room_v + job.room_e
        total = job.images * job.down
        start, stop = total * task // parts, total * (task + 1) // parts
        sources = (job.c + lanes - 1) // lanes + (job.k + lanes - 1) // lanes
        for first in range(start, stop, job.group):
            count = min(job.group, stop - first)
            for row in range(count):
                for source in range(sources):
                    load(first + row, row * job.across, source, job, x, dy, v, e, held)
            for block in range(blocks):
                to = sums + (task * blocks + block) * job.room_s
                multiply(block, count * job.across, job, rows, cols, v, e, to, first - start)

    @jit(inner=True)
    def gather_parts(task, slot, parts, blocks, job, sums, dw, scratch, flag):
        """One block: the sums of all parts, transformed back."""
        to = pointer(sums + task * job.room_s)
        for other in range(1, parts):
            more = pointer(sums + (other * blocks + task) * job.room_s)
            for i in range(POINTS * job.s_point):
                to[i] += more[i]
        store(task, job, sums + task * job.room_s, dw, scratch + slot * job.room_line, flag)

    @jit(inner=True)
    def load_some(task, slot, job, first, x, dy, v, e, lines):
        sources = (job.c + lanes - 1) // lanes + (job.k + lanes - 1) // lanes
        row = task // sources
        load(first + row, row * job.across, task % sources, job, x, dy, v, e, lines + slot * job.room_line)

    @jit(inner=True)
    def multiply_some(task, slot, job, first, count, last, rows, cols, v, e, sums, dw, lines, flag):
        # Sums that are complete at once need not be kept.
        at = sums + (slot if first == 0 and last else task) * job.room_s
        multiply(task, count * job.across, job, rows, cols, v, e, at, first)
        if last:
            store(task, job, at, dw, lines + slot * job.room_line, flag)

    @jit(tag=f"{dtype} {tier}")
    def gradient(
        images, c, h, w, k, p, q, top, left, down, across, group, v_step, v_point, e_step, e_point, high, s_point,
        room_s, room_v, room_e, room_line, parts, blocks,
        rows, cols, dy, x, dw, sums, scratch, flag, nthreads,
    ):  # fmt: skip
        job = Job(
            images, c, h, w, k, p, q, top, left, down, across, group, v_step, v_point, e_step, e_point, high, s_point,
            room_s, room_v, room_e, room_line,
        )  # fmt: skip
        words(flag)[0] = 0
        if parts > 1:
            parallel_for(part, parts, nthreads, (parts, blocks, job, rows, cols, x, dy, sums, scratch))
            parallel_for(gather_parts, blocks, nthreads, (parts, blocks, job, sums, dw, scratch, flag))
            return words(flag)[0]
        total = images * down
        sources = (c + lanes - 1) // lanes + (k + lanes - 1) // lanes
        v, e, lines = scratch, scratch + room_v, scratch + room_v + room_e
        for first in range(0, total, group):
            count = min(group, total - first)
            parallel_for(load_some, count * sources, nthreads, (job, first, x, dy, v, e, lines))
            job2 = (job, first, count, int(first + group >= total), rows, cols, v, e, sums, dw, lines, flag)
            parallel_for(multiply_some, blocks, nthreads, job2)
        return words(flag)[0]

    return gradient


class _Plan(NamedTuple):
    numbers: tuple[int, ...]  # of Job, parts, blocks
    rows: Array  # tables for the tile
    cols: Array
    sums: int  # bytes
    scratch: int


PARTS = 8  # most parts
PART = 32  # fewest windows of one
PARTS_BYTES = 8 << 20  # all sums of all parts
HIGH = 64  # filters in a block of the sums


@functools.lru_cache(maxsize=512)
def _plan(g: Geometry, size: int, lanes: int, nrows: int, nthreads: int) -> _Plan:
    down, across = -(-g.p // OUT), -(-g.q // OUT)
    line, wide, total = 64 // size, 2 * lanes, g.n * down

    def step(n: int) -> int:
        """n elements, and a cache line more where several steps would otherwise meet in one cache set."""
        return n + line if n * size % 2048 == 0 else n

    def odd(n: int) -> int:
        """n elements rounded up to an odd number of cache lines."""
        return (-(-n // line) | 1) * line

    high = -(-min(HIGH, g.k) // nrows) * nrows
    blocks = -(-g.k // high) * -(-g.c // wide)
    s_point = odd(high * wide)
    room_s = POINTS * s_point * size
    parts = max(1, min(PARTS, total * across // PART, PARTS_BYTES // (blocks * room_s)))
    near = machine.machine().l2 // (POINTS * (g.c + g.k) * size)
    most = max(ALONE // 2, min(ALONE, near)) if parts > 1 else TOGETHER
    group = max(1, min(most // across, -(-total // parts)))
    v_step, e_step = step(-(-g.c // wide) * wide), step(-(-g.k // lanes) * lanes)
    # The last window's rows of a tile may lie behind its channels.
    v_point, e_point = odd(group * across * v_step), odd(group * across * e_step + nrows)
    room_v, room_e = POINTS * v_point * size, POINTS * e_point * size
    room_line = max((IN * (across * OUT + IN - OUT) + 2 * lanes) * lanes, 11 * lanes) * size
    numbers = (
        *(g.n, g.c, g.h, g.w, g.k, g.p, g.q, *g.padding, down, across, group),
        *(v_step, v_point, e_step, e_point, high, s_point, room_s, room_v, room_e, room_line, parts, blocks),
    )
    if parts > 1:
        kept, scratch = parts * blocks, nthreads * (room_v + room_e + room_line)
    else:
        kept, scratch = blocks if group < total else nthreads, room_v + room_e + nthreads * room_line
    return _Plan(
        numbers,
        np.arange(nrows, dtype=np.int64),
        np.arange(group * across, dtype=np.int64) * v_step,
        kept * room_s,
        scratch,
    )


def conv2d_dw(
    dy: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dw: the windows of x and of dy, transformed and multiplied, summed and transformed back."""
    g = geometry(x.shape, tuple(w_shape), stride, padding, dilation, groups)
    dw = np.empty(g.w_shape, x.dtype)
    dtype, tier, nthreads = gather.name(x), machine.floats(), threads.get_num_threads()
    plan = _plan(g, x.itemsize, gather.lanes(dtype, tier), gather.rows(tier), nthreads)
    plain_x, plain_dy = cpu._plain(x), cpu._plain(dy)
    with workspace.borrow(64 + plan.sums + plan.scratch) as flag:
        odd = kernels(dtype, tier)(
            *plan.numbers, address(plan.rows), address(plan.cols), address(plain_dy), address(plain_x), address(dw),
            flag + 64, flag + 64 + plan.sums, flag, nthreads,
        )  # fmt: skip
    return cpu.conv2d_dw(dy, x, w_shape, stride, padding, dilation, groups) if odd else dw
