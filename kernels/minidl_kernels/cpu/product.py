"""C = A @ B: the loops around the register tile.

    for a stretch of k (`DEPTH` bytes deep, so that a panel of A fits the L1 cache)
        pack A's rows and B's columns of that stretch into panels                    in parallel, a few panels per task
        for every panel of A, for every panel of B: one tile of C += A panel x B panel   in parallel, a block of tiles per task

That is the whole algorithm of BLIS and its kin. Why it is fast: the tile does `2 * rows * cols` operations for `rows + cols` elements
read; a panel of A stays in L1 while it meets every panel of B in the block; the block of B stays in L2. What each task computes does not
depend on the number of threads, and each element of C is summed in the order of k, so results are the same bits for any number.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any

import numpy as np

from . import machine, threads, workspace
from .jit import jit
from .pack import pack
from .pool import parallel_for
from .tile import Tile, multiply, tile

DEPTH = 1024  # bytes of k in a panel: 256 floats
PACKED = 16 << 20  # bytes of A, and of B, that are packed at a time
NEAR = 512 << 10  # bytes of packed B that stay in the L2 cache while the panels of A pass
SMALL = 1 << 18  # multiply-adds below which a second thread costs more than it saves

Matrix = namedtuple("Matrix", "at next row col")  # address; bytes to the next matrix of a batch, to the next row, to the next column
Sizes = namedtuple("Sizes", "m n k")  # C is m x n
Panels = namedtuple("Panels", "at next")  # address of packed panels; bytes to those of the next matrix of a batch


@functools.cache
def product(t: Tile) -> Any:
    """The kernel of a tile: `kernel` below, compiled on first use."""
    pack_a, pack_b, tile_multiply = pack(t, "a"), pack(t, "b"), multiply(t)
    rows, cols, size = t.rows, t.cols, t.size
    column, line = t.stride * size, t.cols * size  # bytes of one k in a panel of A, of B
    depth, most_m, most_n = DEPTH // size, _most(t, "a"), _most(t, "b")

    @jit(inner=True)
    def pack_some(task, slot, each, total, pa, pb, s, a, b, packed_a, packed_b):  # type: ignore[no-untyped-def]
        """Task: `each` panels. The panels of one A are numbered first, then those of its B, then the next of the batch."""
        for number in range(task * each, min((task + 1) * each, total)):
            item, p = number // (pa + pb), number % (pa + pb)
            if p < pa:
                i = p * rows
                source, to = a.at + item * a.next + i * a.row, packed_a.at + item * packed_a.next + p * s.k * column
                pack_a(source, a.row, a.col, min(rows, s.m - i), s.k, to)
            else:
                j = (p - pa) * cols
                source, to = b.at + item * b.next + j * b.col, packed_b.at + item * packed_b.next + (p - pa) * s.k * line
                pack_b(source, b.col, b.row, min(cols, s.n - j), s.k, to)

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
        work, room_a, room_b, together, nthreads,
    ):  # fmt: skip
        """c[i] = a[i] @ b[i] + bias for i < batch. Addresses, and steps in bytes; rows of c are contiguous; m, n, k >= 1.

        `together` matrices of the batch are multiplied at a time; `work` has room_a + room_b bytes for the panels of each.
        """
        packed_a, packed_b = Panels(work, room_a), Panels(work + together * room_a, room_b)
        parts = (k + depth - 1) // depth  # equal stretches of k, rather than a short last one
        for first in range(0, batch, together):
            items = min(together, batch - first)
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
                        each = max(1, min(16, total // (4 * nthreads)))
                        job = (each, total, pa, fresh, s, a_here, b_here, packed_a, packed_b)
                        parallel_for(pack_some, (total + each - 1) // each, nthreads, job)

                        # About four blocks per thread, to share them evenly; none wider than stays in L2.
                        share = max(1, items * pa * pb // (4 * nthreads))
                        wide = max(1, min(pb, NEAR // (s.k * line), share))
                        high = max(1, min(pa, 16, share // wide))
                        down, across = (pa + high - 1) // high, (pb + wide - 1) // wide
                        c_here = Matrix(c + first * c_next + i0 * c_row + j0 * size, c_next, c_row, size)
                        # The sums of this stretch are added to those before it, and the first to the bias (or zeros).
                        add = c_here if part else Matrix(bias + j0 * bias_col, 0, 0, bias_col)
                        block = (high, wide, down, across, s, packed_a, packed_b, c_here, add)
                        parallel_for(multiply_block, items * down * across, nthreads, block)

    return kernel


def _most(t: Tile, operand: str) -> int:
    """Rows of A, or columns of B, that are packed at a time."""
    lanes, stride = (t.rows, t.stride) if operand == "a" else (t.cols, t.cols)
    return PACKED // (DEPTH * stride) * lanes


def _room(t: Tile, m: int, n: int, k: int) -> tuple[int, int]:
    """Bytes of scratch memory for the panels of A and for those of B."""
    k = min(k, DEPTH // t.size)
    a = -(-min(m, _most(t, "a")) // t.rows) * t.stride * t.size * k
    b = -(-min(n, _most(t, "b")) // t.cols) * t.cols * t.size * k
    return a + -a % workspace.ALIGN, b + -b % workspace.ALIGN


_zeros = np.zeros(4096, np.uint8)
ZEROS: int = _zeros.__array_interface__["data"][0]


def address(a: np.ndarray) -> int:
    """Of an array's first element."""
    return a.__array_interface__["data"][0]  # type: ignore[no-any-return]


@functools.lru_cache(maxsize=1024)
def _plan(tier: str, kind: str, batch: int, m: int, n: int, k: int) -> tuple[Any, int, int, int, int]:
    """The kernel; bytes of scratch memory in all, for one A, for one B; how many matrices of the batch go together."""
    t = tile(tier, kind)
    room_a, room_b = _room(t, m, n, k)
    together = max(1, min(batch, PACKED // (room_a + room_b)))
    return product(t), together * (room_a + room_b), room_a, room_b, together


Steps = tuple[int, int, int]  # bytes to the next matrix of a batch, to the next row, to the next column


def multiply_at(
    kind: str, sizes: tuple[int, int, int, int], a: int, a_steps: Steps, b: int, b_steps: Steps,
    c: int, c_steps: tuple[int, int], bias: int = 0,
) -> None:  # fmt: skip
    """C[i] = A[i] @ B[i] + bias for i < batch, on this thread's tier.    A (batch, M, K), B (batch, K, N), C (batch, M, N), bias (N,)

    `kind` is the tile's (elements of 8 bytes for "f64", else 4), `sizes` (batch, M, N, K), all at least 1. A, B: addresses and any steps in
    bytes (0 along the batch for one that is shared). C, bias: rows without gaps; bias 0 means none. Nothing is checked here.
    """
    batch, m, n, k = sizes
    kernel, room, room_a, room_b, together = _plan(machine.tier(), kind, batch, m, n, k)
    nthreads = threads.get_num_threads() if batch * m * n * k >= SMALL else 1
    with workspace.borrow(room) as work:
        kernel(
            batch, m, n, k, a, *a_steps, b, *b_steps, c, *c_steps,
            bias or ZEROS, (8 if kind == "f64" else 4) if bias else 0, work, room_a, room_b, together, nthreads,
        )  # fmt: skip


def multiply_arrays(kind: str, a: np.ndarray, b: np.ndarray, c: np.ndarray, bias: np.ndarray | None = None) -> None:
    """`multiply_at` for arrays of three axes."""
    multiply_at(
        kind, (*c.shape, a.shape[2]), address(a), a.strides, address(b), b.strides,
        address(c), c.strides[:2], 0 if bias is None else address(bias),
    )  # fmt: skip
