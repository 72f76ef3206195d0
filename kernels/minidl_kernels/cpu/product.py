"""C = A @ B: the loops around the register tile.

    pack A's rows and B's columns into panels
    for every block of C, small enough for the L2 cache
        for a stretch of k, short enough that a panel of A fits the L1 cache
            for every panel of A, for every panel of B in the block:
                one tile of C += panel of A x panel of B

That is the whole algorithm of BLIS and its kin. Why it is fast: the tile does 2 * rows * cols operations for rows +
cols elements read; a panel of A stays in L1 while it meets every panel of B in the block; the block of C, which every
stretch of k reads and writes, stays in L2, and so does the block of B; the copies that make this possible are n + m
against m * n of work.

Threads share the work in one of two ways. Where a share of C is small enough that its panels fit the L2 cache, every
thread packs what its shares need for itself (`share`): some panels are packed twice, but nothing packed travels
between cores, and nobody waits. Sums go to C when they are complete only: the lines of memory in which two shares meet
would travel at every stretch of k, which cost a product of 128 x 128 with 768 k as much as all else. Larger products
are packed by all, and then multiplied by all in many small blocks (`together`).

What a task computes does not depend on the number of threads, and every element of C is summed in the order of k, so
results are the same bits for any number and either way.

Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.
"""

from __future__ import annotations

import functools
import math
from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import amx, machine, split, threads, workspace
from .gather import pointer
from .jit import jit
from .pack import pack
from .pool import parallel_for
from .tile import Tile, multiply, tile
from .workspace import address as address

DEPTH = {"f64": 128, "f32x6": 128, "f32x3": 192}  # k of panels that stay in L1, where it is not 256
PACKED = 16 << 20  # bytes of A, and of B, that are packed at a time
DEEP = 1024  # k that are packed at a time, at most
SHARES = 8  # blocks per thread: the last one that is waited for is then small
FLOATS = ("f32", "f64")  # kinds of tile that are vectors of floats
ENDLESS = 1 << 40  # a note of numbers about which nothing is to be said
SMALL = 1 << 18  # multiply-adds below which a second thread costs more than it saves

i64 = pointer("int64")

# For kernels. `next`: bytes to the next matrix of a batch; `row`, `col`: to the next row, to the next column.
Matrix = namedtuple("Matrix", "at next row col")
Panels = namedtuple("Panels", "at next")  # of one operand, packed
Sizes = namedtuple("Sizes", "m n k")  # C is m x n


class Plan(NamedTuple):
    """How a product is cut. With tasks > 0 into shares, each for one thread alone; else by all together."""

    tasks: int
    room_a: int  # bytes for the panels of one A, or of a share's
    room_b: int
    room_c: int  # bytes for the sums of a share, until the last k
    high: int  # a share, or a block of what all have packed, in tiles
    wide: int
    items: int  # packed together at a time: matrices of the batch, rows, columns
    m: int
    n: int
    k: int  # whole stretches
    near: int  # k of a stretch, whose panels stay in L1
    notes: int  # bytes for what threads note of the numbers


@functools.cache
def product(t: Tile) -> Any:
    """The kernel of a tile: `kernel` below, compiled on first use."""
    pack_a, pack_b, tile_multiply, enter, leave = _parts(t)
    rows, cols, size, block, column, line = t.rows, t.cols, t.size, t.block, t.column, t.line
    careful = t.kind in split.KINDS

    @jit(inner=True)
    def whole_blocks(k):  # type: ignore[no-untyped-def]
        return (k + block - 1) // block * block

    @jit(inner=True)
    def pack_panel(item, p, pa, s, a, b, packed_a, packed_b):  # type: ignore[no-untyped-def]
        """Panel p of a product: those of A are numbered first, then those of B. Gives what the packer gives."""
        deep = whole_blocks(s.k)
        if p < pa:
            i = p * rows
            to = packed_a.at + item * packed_a.next + p * deep * column
            return pack_a(a.at + item * a.next + i * a.row, a.row, a.col, min(rows, s.m - i), s.k, to)
        j = (p - pa) * cols
        to = packed_b.at + item * packed_b.next + (p - pa) * deep * line
        return pack_b(b.at + item * b.next + j * b.col, b.col, b.row, min(cols, s.n - j), s.k, to)

    @jit(inner=True)
    def multiply_block(item, i0, high, j0, wide, s, each, packed_a, packed_b, c, add):  # type: ignore[no-untyped-def]
        """A block of `high` x `wide` tiles, from the first to the last k that is packed, `each` at a time: a panel of A
        stays in L1 while the panels of B in the block pass, and the block of C in L2.
        """
        deep = whole_blocks(s.k)
        enter()
        for k0 in range(0, s.k, each):
            old = c if k0 else add
            for i in range(i0, min(i0 + high * rows, s.m), rows):
                for j in range(j0, min(j0 + wide * cols, s.n), cols):
                    tile_multiply(
                        min(each, s.k - k0),
                        packed_a.at + item * packed_a.next + i // rows * deep * column + k0 * column,
                        packed_b.at + item * packed_b.next + j // cols * deep * line + k0 * line,
                        c.at + item * c.next + i * c.row + j * c.col,
                        c.row,
                        old.at + item * old.next + i * old.row + j * old.col,
                        old.row,
                        min(rows, s.m - i),
                        min(cols, s.n - j),
                    )
        leave()

    @jit(inner=True)
    def share(task, slot, whole, plan, a, b, c, bias, notes, work):  # type: ignore[no-untyped-def]
        """Task: plan.high x plan.wide tiles of one product, from packing to the last k."""
        low_a, low_b = np.int64(ENDLESS), np.int64(ENDLESS)
        down = (whole.m + plan.high * rows - 1) // (plan.high * rows)
        across = (whole.n + plan.wide * cols - 1) // (plan.wide * cols)
        item, cut = task // (down * across), task % (down * across)
        i0, j0 = cut // across * plan.high * rows, cut % across * plan.wide * cols
        m, n = min(plan.high * rows, whole.m - i0), min(plan.wide * cols, whole.n - j0)
        pa, pb = (m + rows - 1) // rows, (n + cols - 1) // cols
        mine = work + slot * (plan.room_a + plan.room_b + plan.room_c)
        packed_a, packed_b = Panels(mine, 0), Panels(mine + plan.room_a, 0)
        sums = Matrix(mine + plan.room_a + plan.room_b, 0, plan.wide * cols * c.col, c.col)
        c_here = Matrix(c.at + item * c.next + i0 * c.row + j0 * c.col, 0, c.row, c.col)
        for k0 in range(0, whole.k, plan.k):
            s = Sizes(m, n, min(plan.k, whole.k - k0))
            a_here = Matrix(a.at + item * a.next + i0 * a.row + k0 * a.col, 0, a.row, a.col)
            b_here = Matrix(b.at + item * b.next + j0 * b.col + k0 * b.row, 0, b.row, b.col)
            for p in range(pa):
                low_a = min(low_a, pack_panel(0, p, pa, s, a_here, b_here, packed_a, packed_b))
            for p in range(pa, pa + pb):
                low_b = min(low_b, pack_panel(0, p, pa, s, a_here, b_here, packed_a, packed_b))
            if careful and not split.trusted(low_a, low_b):
                i64(notes)[slot] = 0
                return
            add = sums if k0 else Matrix(bias.at + j0 * bias.col, 0, 0, bias.col)
            to = sums if k0 + plan.k < whole.k else c_here
            multiply_block(0, 0, pa, 0, pb, s, plan.near, packed_a, packed_b, to, add)

    @jit(inner=True)
    def pack_some(task, slot, each, total, pa, pb, s, a, b, packed_a, packed_b, notes, items):  # type: ignore[no-untyped-def]
        """Task: `each` panels, item after item."""
        mine = i64(notes + slot * items * 16)  # of every item: A's, and B's
        for number in range(task * each, min((task + 1) * each, total)):
            item, p = number // (pa + pb), number % (pa + pb)
            low = pack_panel(item, p, pa, s, a, b, packed_a, packed_b)
            if careful:
                which = 2 * item + (p >= pa)
                mine[which] = min(mine[which], low)

    @jit(inner=True)
    def all_trusted(notes, items, nthreads):  # type: ignore[no-untyped-def]
        for item in range(items):
            low_a, low_b = np.int64(ENDLESS), np.int64(ENDLESS)
            for slot in range(nthreads):
                low_a = min(low_a, i64(notes)[2 * (slot * items + item)])
                low_b = min(low_b, i64(notes)[2 * (slot * items + item) + 1])
            if not split.trusted(low_a, low_b):
                return False
        return True

    @jit(inner=True)
    def multiply_some(task, slot, high, wide, down, across, s, each, packed_a, packed_b, c, add):  # type: ignore[no-untyped-def]
        """Task: one block."""
        item, block = task // (down * across), task % (down * across)
        i0, j0 = block // across * high * rows, block % across * wide * cols
        multiply_block(item, i0, high, j0, wide, s, each, packed_a, packed_b, c, add)

    @jit(inner=True)
    def together(batch, whole, plan, a, b, c, bias, notes, work, nthreads):  # type: ignore[no-untyped-def]
        packed_a, packed_b = Panels(work, plan.room_a), Panels(work + plan.items * plan.room_a, plan.room_b)
        for first in range(0, batch, plan.items):
            items = min(plan.items, batch - first)
            for i in range(2 * items * nthreads):
                i64(notes)[i] = ENDLESS
            for j0 in range(0, whole.n, plan.n):
                n = min(plan.n, whole.n - j0)
                pb = (n + cols - 1) // cols
                for k0 in range(0, whole.k, plan.k):
                    depth = min(plan.k, whole.k - k0)
                    b_here = Matrix(b.at + first * b.next + j0 * b.col + k0 * b.row, b.next, b.row, b.col)
                    for i0 in range(0, whole.m, plan.m):
                        s = Sizes(min(plan.m, whole.m - i0), n, depth)
                        pa = (s.m + rows - 1) // rows
                        a_here = Matrix(a.at + first * a.next + i0 * a.row + k0 * a.col, a.next, a.row, a.col)
                        fresh = pb if i0 == 0 else 0  # the panels of B serve all rows
                        total = items * (pa + fresh)
                        each = max(1, min(16, total // (SHARES * nthreads)))
                        job = (each, total, pa, fresh, s, a_here, b_here, packed_a, packed_b, notes, items)
                        parallel_for(pack_some, (total + each - 1) // each, nthreads, job)
                        if careful and not all_trusted(notes, items, nthreads):
                            return False

                        down, across = (pa + plan.high - 1) // plan.high, (pb + plan.wide - 1) // plan.wide
                        c_here = Matrix(c.at + first * c.next + i0 * c.row + j0 * c.col, c.next, c.row, c.col)
                        # The sums of this stretch are added to those before it, and the first to the bias (or zeros).
                        add = c_here if k0 else Matrix(bias.at + j0 * bias.col, 0, 0, bias.col)
                        blocks = (plan.high, plan.wide, down, across, s, plan.near, packed_a, packed_b, c_here, add)
                        parallel_for(multiply_some, items * down * across, nthreads, blocks)
        return True

    @jit(tag=t.name)
    def kernel(  # type: ignore[no-untyped-def]
        batch, m, n, k, a, a_next, a_row, a_col, b, b_next, b_row, b_col, c, c_next, c_row, bias, bias_col,
        work, tasks, room_a, room_b, room_c, high, wide, items, most_m, most_n, most_k, near, room_of_notes, nthreads,
    ):  # fmt: skip
        """c[i] = a[i] @ b[i] + bias for i < batch. Addresses, and steps in bytes; rows of c without gaps; m, n, k >= 1.

        The rest is a `Plan`: what goes together, and scratch memory for notes and for the panels of that. False if the
        kind is not for these numbers: C is unfinished then.
        """
        whole = Sizes(m, n, k)
        plan = Plan(tasks, room_a, room_b, room_c, high, wide, items, most_m, most_n, most_k, near, room_of_notes)
        a, b = Matrix(a, a_next, a_row, a_col), Matrix(b, b_next, b_row, b_col)
        c, bias = Matrix(c, c_next, c_row, size), Matrix(bias, 0, 0, bias_col)
        notes, work = work, work + plan.notes
        if not tasks:
            return together(batch, whole, plan, a, b, c, bias, notes, work, nthreads)
        for slot in range(nthreads):
            i64(notes)[slot] = 1
        parallel_for(share, tasks, nthreads, (whole, plan, a, b, c, bias, notes, work))
        good = True
        for slot in range(nthreads):
            good = good and i64(notes)[slot] == 1
        return good

    return kernel


@intrinsic
def nothing(typing: Any) -> Any:
    """What goes before and behind a tile that needs neither."""
    return types.void(), lambda context, builder, signature, args: context.get_dummy_value()


def _parts(t: Tile) -> tuple[Any, Any, Any, Any, Any]:
    """Of a tile: both packers, which give a note on the numbers they saw, the micro-kernel, what goes before it and
    what behind.
    """
    if t.kind in amx.KINDS:
        return amx.pack(t, "a"), amx.pack(t, "b"), amx.multiply(t), amx.enter, amx.leave

    def noted(copy: Any) -> Any:
        @jit(inner=True)
        def pack_and_note(source, lane_step, k_step, lanes, k, to):  # type: ignore[no-untyped-def]
            copy(source, lane_step, k_step, lanes, k, to)
            return ENDLESS

        return pack_and_note

    return noted(pack(t, "a")), noted(pack(t, "b")), multiply(t), nothing, nothing


@functools.lru_cache(maxsize=1024)
def _planned(tier: str, kind: str, nthreads: int, batch: int, m: int, n: int, k: int) -> tuple[Any, Plan, int]:
    """The kernel, its plan, and the bytes of scratch memory that it needs."""
    t, near = tile(tier, kind), machine.machine().l2 * 3 // 4
    up = lambda size: size + -size % workspace.ALIGN
    blocks = lambda k: -(-k // t.block) * t.block
    rooms = lambda m, n, k: (up(-(-m // t.rows) * t.column * blocks(k)), up(-(-n // t.cols) * t.line * blocks(k)))
    # Equal stretches of k rather than a short last one. Where they are cut decides how sums are rounded, so it does not
    # depend on which way the product goes.
    each = blocks(-(-k // -(-k // DEPTH.get(kind, 256))))
    tasks, high, wide = _shares(nthreads, batch, -(-m // t.rows), -(-n // t.cols), 16 if kind in split.KINDS else 4)
    room_a, room_b = rooms(high * t.rows, wide * t.cols, min(k, each))
    room_c = up(high * t.rows * wide * t.cols * t.size) if k > each else 0
    if room_a + room_b + room_c <= near:
        notes = up(8 * nthreads)
        plan = Plan(tasks, room_a, room_b, room_c, high, wide, 0, 0, 0, each, each, notes)
        return product(t), plan, notes + nthreads * (room_a + room_b + room_c)
    deep = min(blocks(k), each * max(1, DEEP // each))
    most_m = max(1, PACKED // (deep * t.column)) * t.rows
    most_n = max(1, PACKED // (deep * t.line)) * t.cols
    room_a, room_b = rooms(min(m, most_m), min(n, most_n), deep)
    items = max(1, min(batch, PACKED // (room_a + room_b)))
    notes = up(16 * items * nthreads)
    high, wide = _block(t, nthreads, items, -(-min(m, most_m) // t.rows), -(-min(n, most_n) // t.cols), each)
    plan = Plan(0, room_a, room_b, 0, high, wide, items, most_m, most_n, deep, each, notes)
    return product(t), plan, notes + items * (room_a + room_b)


def _block(t: Tile, nthreads: int, items: int, pa: int, pb: int, deep: int) -> tuple[int, int]:
    """Tiles of a block, high and wide: its part of C and of B within a quarter of L2 each, its sides about equal, since
    it reads panels as long as its sides; enough blocks that no thread waits long for another.
    """
    near = machine.machine().l2 // 4
    most = max(1, items * pa * pb // (SHARES * nthreads)) if nthreads > 1 else pa * pb
    most = max(1, min(most, near // (t.rows * t.cols * t.size)))
    wide = max(1, min(pb, near // (t.line * deep), round(math.sqrt(most * t.rows / t.cols))))
    wide = -(-pb // -(-pb // wide))
    high = max(1, min(pa, most // wide))
    return -(-pa // -(-pa // high)), wide


def _shares(nthreads: int, batch: int, pa: int, pb: int, packing: int) -> tuple[int, int, int]:
    """Cut `batch` products of pa x pb tiles into shares: (how many, tiles high, tiles wide), for the least time."""

    def time(high: int, wide: int) -> int:
        """Of the thread with most shares, in units of about a cycle per k: 14 of a tile, `packing` of a panel."""
        shares = batch * -(-pa // high) * -(-pb // wide)
        return -(-shares // nthreads) * (14 * high * wide + packing * (high + wide))

    most = 2 * nthreads  # shares of one product
    cuts = [(down, across) for down in range(1, most + 1) for across in range(1, most // down + 1)]
    high, wide = min([(-(-pa // down), -(-pb // across)) for down, across in cuts], key=lambda c: time(*c))
    return batch * -(-pa // high) * -(-pb // wide), high, wide


_zeros = np.zeros(4096, np.uint8)
ZEROS = address(_zeros)


def multiply_at(
    kind: str, batch: int, m: int, n: int, k: int, a: int, a_next: int, a_row: int, a_col: int,
    b: int, b_next: int, b_row: int, b_col: int, c: int, c_next: int, c_row: int, bias: int = 0,
) -> bool:  # fmt: skip
    """C[i] = A[i] @ B[i] + bias for i < batch, on this thread's tier.    A (batch, M, K), B (batch, K, N), C (batch,
    M, N)

    `kind` is the tile's (elements of 8 bytes for "f64", else 4); batch, m, n, k are at least 1. A, B: addresses, and
    bytes to the next matrix (0 for one that is shared), row and column, any. C and bias (N,): rows without gaps; bias 0
    means none. Nothing is checked here. False, and C unfinished, where the kind is not for these numbers.

    Arguments are flat, since a tuple made and taken apart costs as much as the arithmetic of a small product.
    """
    nthreads = threads.get_num_threads() if batch * m * n * k >= SMALL else 1
    tier = machine.floats() if kind in FLOATS else machine.tier()
    kernel, plan, room = _planned(tier, kind, nthreads, batch, m, n, k)
    with workspace.borrow(room) as work:
        return kernel(
            batch, m, n, k, a, a_next, a_row, a_col, b, b_next, b_row, b_col, c, c_next, c_row,
            bias or ZEROS, (8 if kind == "f64" else 4) if bias else 0, work, *plan, nthreads,
        )  # fmt: skip


def multiply_arrays(
    kind: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, bias: np.ndarray | None = None
) -> None:  # fmt: skip
    """`multiply_at` for arrays of three axes."""
    (batch, m, n), k = c.shape, a.shape[2]
    (a_next, a_row, a_col), (b_next, b_row, b_col), (c_next, c_row, _) = a.strides, b.strides, c.strides
    multiply_at(
        kind, batch, m, n, k, address(a), a_next, a_row, a_col, address(b), b_next, b_row, b_col,
        address(c), c_next, c_row, address(bias),
    )  # fmt: skip
