"""C = A @ B: the loops around the register tile.

    for a stretch of k (`DEPTH` bytes, so that a panel of A fits the L1 cache)
        pack A's rows and B's columns of that stretch into panels           in parallel, some panels per task
        for every panel of A, for every panel of B:                         in parallel, a block of tiles per task
            one tile of C += panel of A x panel of B

That is the whole algorithm of BLIS and its kin. Why it is fast: the tile does 2 * rows * cols operations for rows +
cols elements read; a panel of A stays in L1 while it meets every panel of B in the block; the block of B stays in L2;
the copies that make this possible are n + m against m * n of work. What a task computes does not depend on the number
of threads, and every element of C is summed in the order of k, so results are the same bits for any number.

Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.
"""

from __future__ import annotations

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


@functools.cache
def product(t: Tile) -> Any:
    """The kernel of a tile: `kernel` below, compiled on first use."""
    pack_a, pack_b, tile_multiply = pack(t, "a"), pack(t, "b"), multiply(t)
    rows, cols, size = t.rows, t.cols, t.size
    column, line = t.stride * size, t.cols * size  # bytes of one k in a panel of A, of B

    @jit(inner=True)
    def pack_some(task, slot, each, total, pa, pb, s, a, b, packed_a, packed_b):  # type: ignore[no-untyped-def]
        """Task: `each` panels. The panels of one A are numbered first, then those of its B, then the next of the
        batch.
        """
        for number in range(task * each, min((task + 1) * each, total)):
            item, p = number // (pa + pb), number % (pa + pb)
            if p < pa:
                i = p * rows
                to = packed_a.at + item * packed_a.next + p * s.k * column
                pack_a(a.at + item * a.next + i * a.row, a.row, a.col, min(rows, s.m - i), s.k, to)
            else:
                j = (p - pa) * cols
                to = packed_b.at + item * packed_b.next + (p - pa) * s.k * line
                pack_b(b.at + item * b.next + j * b.col, b.col, b.row, min(cols, s.n - j), s.k, to)

    @jit(inner=True)
    def multiply_block(task, slot, high, wide, down, across, s, packed_a, packed_b, c, add):  # type: ignore[no-untyped-def]
        """Task: a block of `high` x `wide` tiles. A panel of A stays in L1 while the panels of B in the block pass."""
        item, block = task // (down * across), task % (down * across)
        i0, j0 = block // across * high * rows, block % across * wide * cols
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

    @jit(tag=t.name)
    def kernel(  # type: ignore[no-untyped-def]
        batch, m, n, k, a, a_next, a_row, a_col, b, b_next, b_row, b_col, c, c_next, c_row, bias, bias_col,
        work, room_a, room_b, most_items, most_m, most_n, most_k, near, nthreads,
    ):  # fmt: skip
        """c[i] = a[i] @ b[i] + bias for i < batch. Addresses, and steps in bytes; rows of c without gaps; m, n, k >= 1.

        The rest is a `Plan`: what goes together, and scratch memory for the panels of that.
        """
        packed_a, packed_b = Panels(work, room_a), Panels(work + most_items * room_a, room_b)
        parts = (k + most_k - 1) // most_k  # equal stretches of k, rather than a short last one
        for first in range(0, batch, most_items):
            items = min(most_items, batch - first)
            for j0 in range(0, n, most_n):
                nn = min(most_n, n - j0)
                pb = (nn + cols - 1) // cols
                for part in range(parts):
                    k0, k1 = k * part // parts, k * (part + 1) // parts
                    b_here = Matrix(b + first * b_next + j0 * b_col + k0 * b_row, b_next, b_row, b_col)
                    for i0 in range(0, m, most_m):
                        s = Sizes(min(most_m, m - i0), nn, k1 - k0)
                        pa = (s.m + rows - 1) // rows
                        a_here = Matrix(a + first * a_next + i0 * a_row + k0 * a_col, a_next, a_row, a_col)
                        fresh = pb if i0 == 0 else 0  # the panels of B serve all rows
                        total = items * (pa + fresh)
                        each = max(1, min(16, total // (SHARES * nthreads)))
                        job = (each, total, pa, fresh, s, a_here, b_here, packed_a, packed_b)
                        parallel_for(pack_some, (total + each - 1) // each, nthreads, job)

                        # Blocks of about equal work, with B's panels near.
                        share = max(1, items * pa * pb // (SHARES * nthreads))
                        wide = max(1, min(pb, near // (s.k * line), share))
                        high = max(1, min(pa, 16, share // wide))
                        down, across = (pa + high - 1) // high, (pb + wide - 1) // wide
                        c_here = Matrix(c + first * c_next + i0 * c_row + j0 * size, c_next, c_row, size)
                        # The sums of this stretch are added to those before it, and the first to the bias (or zeros).
                        add = c_here if part else Matrix(bias + j0 * bias_col, 0, 0, bias_col)
                        block = (high, wide, down, across, s, packed_a, packed_b, c_here, add)
                        parallel_for(multiply_block, items * down * across, nthreads, block)

    return kernel


class Plan(NamedTuple):
    """How much of a product is packed at a time: bytes for the panels of one A and one B; matrices, rows, columns, k;
    bytes of B that stay in L2."""

    room_a: int
    room_b: int
    items: int
    m: int
    n: int
    k: int
    near: int


@functools.lru_cache(maxsize=1024)
def _planned(tier: str, kind: str, batch: int, m: int, n: int, k: int) -> tuple[Any, Plan]:
    t = tile(tier, kind)
    most_k = DEPTH // t.size
    depth = min(k, most_k) * t.size
    most_m = max(1, PACKED // (depth * t.stride)) * t.rows
    most_n = max(1, PACKED // (depth * t.cols)) * t.cols
    room_a = -(-min(m, most_m) // t.rows) * t.stride * depth
    room_b = -(-min(n, most_n) // t.cols) * t.cols * depth
    room_a, room_b = room_a + -room_a % workspace.ALIGN, room_b + -room_b % workspace.ALIGN
    items = max(1, min(batch, PACKED // (room_a + room_b)))
    return product(t), Plan(room_a, room_b, items, most_m, most_n, most_k, machine.machine().l2 // 2)


_zeros = np.zeros(4096, np.uint8)
ZEROS: int = _zeros.__array_interface__["data"][0]


def address(a: np.ndarray | None) -> int:
    """Of an array's first element; 0 for None."""
    if a is None:
        return 0
    return a.__array_interface__["data"][0]  # type: ignore[no-any-return]


Steps = tuple[int, ...]  # bytes to the next matrix of a batch, to the next row, to the next column


def multiply_at(
    kind: str, sizes: tuple[int, int, int, int], a: int, a_steps: Steps, b: int, b_steps: Steps,
    c: int, c_steps: Steps, bias: int = 0,
) -> None:  # fmt: skip
    """C[i] = A[i] @ B[i] + bias for i < batch, on this thread's tier.    A (batch, M, K), B (batch, K, N), C (batch,
    M, N)

    `kind` is the tile's (elements of 8 bytes for "f64", else 4), `sizes` (batch, M, N, K), all at least 1. A, B:
    addresses and any steps in bytes (0 along the batch for one that is shared). C (its steps without the last) and bias
    (N,): rows without gaps; bias 0 means none. Nothing is checked here.
    """
    batch, m, n, k = sizes
    kernel, plan = _planned(machine.tier(), kind, batch, m, n, k)
    nthreads = threads.get_num_threads() if batch * m * n * k >= SMALL else 1
    with workspace.borrow(plan.items * (plan.room_a + plan.room_b)) as work:
        kernel(
            batch, m, n, k, a, *a_steps, b, *b_steps, c, *c_steps,
            bias or ZEROS, (8 if kind == "f64" else 4) if bias else 0, work, *plan, nthreads,
        )  # fmt: skip


def multiply_arrays(
    kind: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, bias: np.ndarray | None = None
) -> None:  # fmt: skip
    """`multiply_at` for arrays of three axes."""
    multiply_at(
        kind, (*c.shape, a.shape[2]), address(a), a.strides, address(b), b.strides,
        address(c), c.strides[:2], 0 if bias is None else address(bias),
    )  # fmt: skip
