"""C = A @ B: the loops around the register tile.

    for every share of C, so small that all it needs fits the L2 cache
        for a stretch of k, short enough that a panel of A fits the L1 cache
            pack the share's rows of A and columns of B into panels
            for every panel of A, for every panel of B:
                one tile of sums += panel of A x panel of B

That is the whole algorithm of BLIS and its kin. Why it is fast: the tile does 2 * rows * cols operations for rows +
cols elements read; a panel of A stays in L1 while it meets every panel of B; the sums, which every stretch of k reads
and writes, stay in L2, and so do all panels; the copies that make this possible are n + m against m * n of work.

A share is packed, multiplied and summed by one thread. So panels that several shares need are packed several times; but
nothing packed ever leaves the core, to memory or to another core, and nobody waits. Packing once for all took as long
for float32 at 1024 x 1024 x 1024 and more, and on the tile unit, for which a packed number is larger, a fifth longer.
(Integers pass the tile unit so fast that panels of B are packed and multiplied a group at a time, while they are near.)
Sums go to C when they are complete only: rows of C may lie so that they push each other out of the cache (4096 bytes
apart), and the lines in which two shares meet would travel between cores at every stretch.

What a share computes does not depend on the number of threads, and every element of C is summed in the order of k, so
results are the same bits for any number.

Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable
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
FLOATS = ("f32", "f64")  # kinds of tile that are vectors of floats
ENDLESS = 1 << 40  # a note of numbers about which nothing is to be said
SMALL = 1 << 18  # multiply-adds below which a second thread costs more than it saves

i64 = pointer("int64")

# For kernels. `next`: bytes to the next matrix of a batch; `row`, `col`: to the next row, to the next column.
Matrix = namedtuple("Matrix", "at next row col")
Sizes = namedtuple("Sizes", "m n k")  # C is m x n


class Plan(NamedTuple):
    """How a product is cut."""

    tasks: int  # shares
    high: int  # tiles of a share
    wide: int
    group: int  # panels of B that are packed at a time, and then multiplied
    each: int  # k of a stretch
    room_a: int  # bytes for a share's panels of A
    room_b: int
    room_c: int  # and for its sums, until the last k
    notes: int  # bytes for what threads note of the numbers


@functools.cache
def product(t: Tile) -> Any:
    """The kernel of a tile: `kernel` below, compiled on first use."""
    pack_a, pack_b, tile_multiply, enter, leave = _parts(t)
    rows, cols, size, block, column, line = t.rows, t.cols, t.size, t.block, t.column, t.line
    careful, neighbours = t.kind in split.KINDS, amx.WIDE.get(t.kind, 1) * t.cols

    @jit(inner=True)
    def share(task, slot, whole, plan, a, b, c, bias, notes, work):  # type: ignore[no-untyped-def]
        """Task: plan.high x plan.wide tiles of one product, from packing to the last k."""
        down = (whole.m + plan.high * rows - 1) // (plan.high * rows)
        across = (whole.n + plan.wide * cols - 1) // (plan.wide * cols)
        item, cut = task // (down * across), task % (down * across)
        i0, j0 = cut // across * plan.high * rows, cut % across * plan.wide * cols
        m, n = min(plan.high * rows, whole.m - i0), min(plan.wide * cols, whole.n - j0)
        a_here, b_here = a.at + item * a.next + i0 * a.row, b.at + item * b.next + j0 * b.col
        packed_a = work + slot * (plan.room_a + plan.room_b + plan.room_c)
        packed_b = packed_a + plan.room_a
        sums = Matrix(packed_b + plan.room_b, 0, plan.wide * cols * c.col, c.col)
        deep = (min(plan.each, whole.k) + block - 1) // block * block  # of panels
        old = Matrix(bias.at + j0 * bias.col, 0, 0, bias.col)
        for k0 in range(0, whole.k, plan.each):
            k = min(plan.each, whole.k - k0)
            low_a, low_b = np.int64(ENDLESS), np.int64(ENDLESS)
            for i in range(0, m, rows):
                to = packed_a + i // rows * deep * column
                low = pack_a(a_here + i * a.row + k0 * a.col, a.row, a.col, min(rows, m - i), k, to)
                low_a = min(low_a, low)
            new = sums
            if k0 + k == whole.k:
                new = Matrix(c.at + item * c.next + i0 * c.row + j0 * c.col, 0, c.row, c.col)
            for first in range(0, n, plan.group * cols):
                end = min(first + plan.group * cols, n)
                for j in range(first, end, neighbours):
                    to = packed_b + (j - first) // cols * deep * line
                    low = pack_b(b_here + j * b.col + k0 * b.row, b.col, b.row, min(neighbours, end - j), k, to)
                    low_b = min(low_b, low)
                if careful and not split.trusted(low_a, low_b):
                    i64(notes)[slot] = 0
                    return
                enter()
                for i in range(0, m, rows):
                    for j in range(first, end, cols):
                        tile_multiply(
                            k, packed_a + i // rows * deep * column, packed_b + (j - first) // cols * deep * line,
                            new.at + i * new.row + j * new.col, new.row, old.at + i * old.row + j * old.col, old.row,
                            min(rows, m - i), min(cols, n - j),
                        )  # fmt: skip
                leave()
            old = sums

    @jit(tag=t.name)
    def kernel(  # type: ignore[no-untyped-def]
        batch, m, n, k, a, a_next, a_row, a_col, b, b_next, b_row, b_col, c, c_next, c_row, bias, bias_col,
        work, tasks, high, wide, group, each, room_a, room_b, room_c, room_of_notes, nthreads,
    ):  # fmt: skip
        """c[i] = a[i] @ b[i] + bias for i < batch. Addresses, and steps in bytes; rows of c without gaps; m, n, k >= 1.

        The rest is a `Plan`: what goes together, and scratch memory for notes and for the panels of that. False if the
        kind is not for these numbers: C is unfinished then.
        """
        whole = Sizes(m, n, k)
        plan = Plan(tasks, high, wide, group, each, room_a, room_b, room_c, room_of_notes)
        a, b = Matrix(a, a_next, a_row, a_col), Matrix(b, b_next, b_row, b_col)
        c, bias = Matrix(c, c_next, c_row, size), Matrix(bias, 0, 0, bias_col)
        for slot in range(nthreads):
            i64(work)[slot] = 1
        parallel_for(share, tasks, nthreads, (whole, plan, a, b, c, bias, work, work + plan.notes))
        good = True
        for slot in range(nthreads):
            good = good and i64(work)[slot] == 1
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
    t = tile(tier, kind)
    up = lambda size: size + -size % workspace.ALIGN
    blocks = lambda k: -(-k // t.block) * t.block
    # Equal stretches of k rather than a short last one. Where they are cut decides how sums are rounded: by k alone.
    each = blocks(-(-k // -(-k // DEPTH.get(kind, 256))))
    deep = blocks(min(k, each))
    group = lambda wide: min(wide, amx.WIDE.get(kind, wide))

    def rooms(high: int, wide: int) -> tuple[int, int, int]:
        sums = high * t.rows * wide * t.cols * t.size if k > each else 0
        return up(high * t.column * deep), up(group(wide) * t.line * deep), up(sums)

    tasks, high, wide = _shares(t, nthreads, batch, -(-m // t.rows), -(-n // t.cols), rooms)
    notes = up(8 * nthreads)
    return (
        product(t),
        Plan(tasks, high, wide, group(wide), each, *rooms(high, wide), notes),
        notes + nthreads * sum(rooms(high, wide)),
    )


def _shares(
    t: Tile, nthreads: int, batch: int, pa: int, pb: int, rooms: Callable[[int, int], tuple[int, int, int]]
) -> tuple[int, int, int]:
    """Cut `batch` products of pa x pb tiles into shares, whose `rooms` fit the L2 cache: (how many, tiles high, tiles
    wide), for the least time.
    """
    near = machine.machine().l2 * 3 // 4
    packing = 16 if t.kind in split.KINDS else 4

    def time(high: int, wide: int) -> int:
        """Of the thread with most shares, in units of about a cycle per k: 14 of a tile, `packing` of a panel."""
        shares = batch * -(-pa // high) * -(-pb // wide)
        return -(-shares // nthreads) * (14 * high * wide + packing * (high + wide))

    def lengths(n: int, room: int) -> set[int]:
        """Of parts of equal length: those with room."""
        return {-(-n // -(-n // most)) for most in range(1, min(n, near // room) + 1)}

    highs, wides = lengths(pa, rooms(1, 0)[0]), lengths(pb, rooms(0, 1)[1])
    cuts = [(high, wide) for high in highs for wide in wides if sum(rooms(high, wide)) <= near]
    high, wide = min(cuts, key=lambda c: (time(*c), c), default=(1, 1))
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
