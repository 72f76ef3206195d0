"""C = A @ B: the loops around the register tile.

    for a stretch of k (`DEPTH` bytes, so that a panel of A fits the L1 cache)
        pack A's rows and B's columns of that stretch into panels
        for every panel of A, for every panel of B:
            one tile of C += panel of A x panel of B

That is the whole algorithm of BLIS and its kin. Why it is fast: the tile does 2 * rows * cols operations for rows +
cols elements read; a panel of A stays in L1 while it meets every panel of B in the block; the block of B stays in L2;
the copies that make this possible are n + m against m * n of work.

Threads share the work in one of two ways. Where a share of C is small enough that its panels fit the L2 cache, every
thread packs what its shares need for itself (`share`): some panels are packed twice, but nothing packed travels
between cores, and nobody waits. Larger products are packed by all, and then multiplied by all in many small blocks
(`together`).

What a task computes does not depend on the number of threads, and every element of C is summed in the order of k, so
results are the same bits for any number and either way.

Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.
"""

from __future__ import annotations

import ctypes
import functools
from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np

from . import machine, threads, workspace
from .jit import jit
from .pack import pack
from .pool import parallel_for
from .tile import Tile, multiply, tile

DEPTH = 1024  # bytes of k in a panel: 256 floats
PACKED = 16 << 20  # bytes of A, and of B, that are packed at a time
SHARES = 16  # blocks per thread: the last one that is waited for is then small
SMALL = 1 << 18  # multiply-adds below which a second thread costs more than it saves

# For kernels. `next`: bytes to the next matrix of a batch; `row`, `col`: to the next row, to the next column.
Matrix = namedtuple("Matrix", "at next row col")
Panels = namedtuple("Panels", "at next")  # of one operand, packed
Sizes = namedtuple("Sizes", "m n k")  # C is m x n


class Plan(NamedTuple):
    """How a product is cut. With tasks > 0 into shares, each for one thread alone; else by all together."""

    tasks: int
    room_a: int  # bytes for the panels of one A, or of a share's
    room_b: int
    high: int  # a share, in tiles
    wide: int
    items: int  # packed together at a time: matrices of the batch, rows, columns
    m: int
    n: int
    k: int  # of one stretch
    near: int  # bytes of B that stay in L2


@functools.cache
def product(t: Tile) -> Any:
    """The kernel of a tile: `kernel` below, compiled on first use."""
    pack_a, pack_b, tile_multiply = pack(t, "a"), pack(t, "b"), multiply(t)
    rows, cols, size = t.rows, t.cols, t.size
    column, line = t.stride * size, t.cols * size  # bytes of one k in a panel of A, of B

    @jit(inner=True)
    def pack_panel(item, p, pa, s, a, b, packed_a, packed_b):  # type: ignore[no-untyped-def]
        """Panel p of a product: those of A are numbered first, then those of B."""
        if p < pa:
            i = p * rows
            to = packed_a.at + item * packed_a.next + p * s.k * column
            pack_a(a.at + item * a.next + i * a.row, a.row, a.col, min(rows, s.m - i), s.k, to)
        else:
            j = (p - pa) * cols
            to = packed_b.at + item * packed_b.next + (p - pa) * s.k * line
            pack_b(b.at + item * b.next + j * b.col, b.col, b.row, min(cols, s.n - j), s.k, to)

    @jit(inner=True)
    def multiply_block(item, i0, high, j0, wide, s, packed_a, packed_b, c, add):  # type: ignore[no-untyped-def]
        """A block of `high` x `wide` tiles. A panel of A stays in L1 while the panels of B in the block pass."""
        for i in range(i0, min(i0 + high * rows, s.m), rows):
            for j in range(j0, min(j0 + wide * cols, s.n), cols):
                tile_multiply(
                    s.k,
                    packed_a.at + item * packed_a.next + i // rows * s.k * column,
                    packed_b.at + item * packed_b.next + j // cols * s.k * line,
                    c.at + item * c.next + i * c.row + j * c.col,
                    c.row,
                    add.at + item * add.next + i * add.row + j * add.col,
                    add.row,
                    min(rows, s.m - i),
                    min(cols, s.n - j),
                )

    @jit(inner=True)
    def share(task, slot, whole, plan, a, b, c, bias, work):  # type: ignore[no-untyped-def]
        """Task: plan.high x plan.wide tiles of one product, from packing to the last k."""
        down = (whole.m + plan.high * rows - 1) // (plan.high * rows)
        across = (whole.n + plan.wide * cols - 1) // (plan.wide * cols)
        item, cut = task // (down * across), task % (down * across)
        i0, j0 = cut // across * plan.high * rows, cut % across * plan.wide * cols
        m, n = min(plan.high * rows, whole.m - i0), min(plan.wide * cols, whole.n - j0)
        pa, pb = (m + rows - 1) // rows, (n + cols - 1) // cols
        mine = work + slot * (plan.room_a + plan.room_b)
        packed_a, packed_b = Panels(mine, 0), Panels(mine + plan.room_a, 0)
        c_here = Matrix(c.at + item * c.next + i0 * c.row + j0 * c.col, 0, c.row, c.col)
        parts = (whole.k + plan.k - 1) // plan.k
        for part in range(parts):
            k0, k1 = whole.k * part // parts, whole.k * (part + 1) // parts
            s = Sizes(m, n, k1 - k0)
            a_here = Matrix(a.at + item * a.next + i0 * a.row + k0 * a.col, 0, a.row, a.col)
            b_here = Matrix(b.at + item * b.next + j0 * b.col + k0 * b.row, 0, b.row, b.col)
            for p in range(pa + pb):
                pack_panel(0, p, pa, s, a_here, b_here, packed_a, packed_b)
            add = c_here if part else Matrix(bias.at + j0 * bias.col, 0, 0, bias.col)
            multiply_block(0, 0, pa, 0, pb, s, packed_a, packed_b, c_here, add)

    @jit(inner=True)
    def pack_some(task, slot, each, total, pa, pb, s, a, b, packed_a, packed_b):  # type: ignore[no-untyped-def]
        """Task: `each` panels, item after item."""
        for number in range(task * each, min((task + 1) * each, total)):
            pack_panel(number // (pa + pb), number % (pa + pb), pa, s, a, b, packed_a, packed_b)

    @jit(inner=True)
    def multiply_some(task, slot, high, wide, down, across, s, packed_a, packed_b, c, add):  # type: ignore[no-untyped-def]
        """Task: one block."""
        item, block = task // (down * across), task % (down * across)
        i0, j0 = block // across * high * rows, block % across * wide * cols
        multiply_block(item, i0, high, j0, wide, s, packed_a, packed_b, c, add)

    @jit(inner=True)
    def together(batch, whole, plan, a, b, c, bias, work, nthreads):  # type: ignore[no-untyped-def]
        packed_a, packed_b = Panels(work, plan.room_a), Panels(work + plan.items * plan.room_a, plan.room_b)
        parts = (whole.k + plan.k - 1) // plan.k  # equal stretches of k, rather than a short last one
        for first in range(0, batch, plan.items):
            items = min(plan.items, batch - first)
            for j0 in range(0, whole.n, plan.n):
                n = min(plan.n, whole.n - j0)
                pb = (n + cols - 1) // cols
                for part in range(parts):
                    k0, k1 = whole.k * part // parts, whole.k * (part + 1) // parts
                    b_here = Matrix(b.at + first * b.next + j0 * b.col + k0 * b.row, b.next, b.row, b.col)
                    for i0 in range(0, whole.m, plan.m):
                        s = Sizes(min(plan.m, whole.m - i0), n, k1 - k0)
                        pa = (s.m + rows - 1) // rows
                        a_here = Matrix(a.at + first * a.next + i0 * a.row + k0 * a.col, a.next, a.row, a.col)
                        fresh = pb if i0 == 0 else 0  # the panels of B serve all rows
                        total = items * (pa + fresh)
                        each = max(1, min(16, total // (SHARES * nthreads)))
                        job = (each, total, pa, fresh, s, a_here, b_here, packed_a, packed_b)
                        parallel_for(pack_some, (total + each - 1) // each, nthreads, job)

                        # Blocks of about equal work, with B's panels near.
                        tiles = max(1, items * pa * pb // (SHARES * nthreads))
                        wide = max(1, min(pb, plan.near // (s.k * line), tiles))
                        high = max(1, min(pa, 16, tiles // wide))
                        down, across = (pa + high - 1) // high, (pb + wide - 1) // wide
                        c_here = Matrix(c.at + first * c.next + i0 * c.row + j0 * c.col, c.next, c.row, c.col)
                        # The sums of this stretch are added to those before it, and the first to the bias (or zeros).
                        add = c_here if part else Matrix(bias.at + j0 * bias.col, 0, 0, bias.col)
                        block = (high, wide, down, across, s, packed_a, packed_b, c_here, add)
                        parallel_for(multiply_some, items * down * across, nthreads, block)

    @jit(tag=t.name)
    def kernel(  # type: ignore[no-untyped-def]
        batch, m, n, k, a, a_next, a_row, a_col, b, b_next, b_row, b_col, c, c_next, c_row, bias, bias_col,
        work, tasks, room_a, room_b, high, wide, items, most_m, most_n, most_k, near, nthreads,
    ):  # fmt: skip
        """c[i] = a[i] @ b[i] + bias for i < batch. Addresses, and steps in bytes; rows of c without gaps; m, n, k >= 1.

        The rest is a `Plan`: what goes together, and scratch memory for the panels of that.
        """
        whole = Sizes(m, n, k)
        plan = Plan(tasks, room_a, room_b, high, wide, items, most_m, most_n, most_k, near)
        a, b = Matrix(a, a_next, a_row, a_col), Matrix(b, b_next, b_row, b_col)
        c, bias = Matrix(c, c_next, c_row, size), Matrix(bias, 0, 0, bias_col)
        if tasks:
            parallel_for(share, tasks, nthreads, (whole, plan, a, b, c, bias, work))
        else:
            together(batch, whole, plan, a, b, c, bias, work, nthreads)

    return kernel


@functools.lru_cache(maxsize=1024)
def _planned(tier: str, kind: str, nthreads: int, batch: int, m: int, n: int, k: int) -> tuple[Any, Plan, int]:
    """The kernel, its plan, and the bytes of scratch memory that it needs."""
    t, near = tile(tier, kind), machine.machine().l2 // 2
    most_k = DEPTH // t.size
    depth = min(k, most_k) * t.size

    def rooms(m: int, n: int) -> tuple[int, int]:
        a, b = -(-m // t.rows) * t.stride * depth, -(-n // t.cols) * t.cols * depth
        return a + -a % workspace.ALIGN, b + -b % workspace.ALIGN

    tasks, high, wide = _shares(nthreads, batch, -(-m // t.rows), -(-n // t.cols))
    room_a, room_b = rooms(high * t.rows, wide * t.cols)
    if room_a + room_b <= near:
        plan = Plan(tasks, room_a, room_b, high, wide, 0, 0, 0, most_k, 0)
        return product(t), plan, nthreads * (room_a + room_b)
    most_m = max(1, PACKED // (depth * t.stride)) * t.rows
    most_n = max(1, PACKED // (depth * t.cols)) * t.cols
    room_a, room_b = rooms(min(m, most_m), min(n, most_n))
    items = max(1, min(batch, PACKED // (room_a + room_b)))
    return product(t), Plan(0, room_a, room_b, 0, 0, items, most_m, most_n, most_k, near), items * (room_a + room_b)


def _shares(nthreads: int, batch: int, pa: int, pb: int) -> tuple[int, int, int]:
    """Cut `batch` products of pa x pb tiles into shares: (how many, tiles high, tiles wide), for the least time."""

    def time(high: int, wide: int) -> int:
        """Of the thread with most shares, in units of about a cycle per k; packing a panel costs a third of a tile."""
        shares = batch * -(-pa // high) * -(-pb // wide)
        return -(-shares // nthreads) * (14 * high * wide + 4 * (high + wide))

    most = 2 * nthreads  # shares of one product
    cuts = [(down, across) for down in range(1, most + 1) for across in range(1, most // down + 1)]
    high, wide = min([(-(-pa // down), -(-pb // across)) for down, across in cuts], key=lambda c: time(*c))
    return batch * -(-pa // high) * -(-pb // wide), high, wide


# In CPython an object's id is its address; NumPy's array struct goes on, after the object's header, with the pointer
# to its first element (`PyArrayObject_fields`, a part of NumPy's binary interface). `__array_interface__` tells the
# same in a microsecond: as long as a product of 32 x 32 matrices takes.
_HEADER = object.__basicsize__
_pointer_at = ctypes.c_size_t.from_address


def address(a: np.ndarray | None) -> int:
    """Of an array's first element; 0 for None."""
    return 0 if a is None else _pointer_at(id(a) + _HEADER).value


_zeros = np.zeros(4096, np.uint8)
ZEROS = address(_zeros)
if _zeros.__array_interface__["data"][0] != ZEROS:
    raise ImportError("minidl's CPU kernels need CPython and NumPy's array struct; this interpreter has another one")


def multiply_at(
    kind: str, batch: int, m: int, n: int, k: int, a: int, a_next: int, a_row: int, a_col: int,
    b: int, b_next: int, b_row: int, b_col: int, c: int, c_next: int, c_row: int, bias: int = 0,
) -> None:  # fmt: skip
    """C[i] = A[i] @ B[i] + bias for i < batch, on this thread's tier.    A (batch, M, K), B (batch, K, N), C (batch,
    M, N)

    `kind` is the tile's (elements of 8 bytes for "f64", else 4); batch, m, n, k are at least 1. A, B: addresses, and
    bytes to the next matrix (0 for one that is shared), row and column, any. C and bias (N,): rows without gaps; bias 0
    means none. Nothing is checked here. Arguments are flat, since a tuple made and taken apart costs as much as the
    arithmetic of a small product.
    """
    nthreads = threads.get_num_threads() if batch * m * n * k >= SMALL else 1
    kernel, plan, room = _planned(machine.tier(), kind, nthreads, batch, m, n, k)
    with workspace.borrow(room) as work:
        kernel(
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
