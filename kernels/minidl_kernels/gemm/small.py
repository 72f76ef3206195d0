"""Small products: the copies that pay in large ones cost more than they save, so the tile reads operands as they lie.

    for every strip of columns of B, as wide as the tile (copied only if its columns are no neighbours in memory)
        for every few rows of A: a tile of C

The tile is low and wide, 6 rows by 4 vectors: it needs as few pointers into A as fit the address registers, and B's
rows in a strip stay in a near cache. Every sum is formed in the order of k; what a task computes does not depend on the
number of threads.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu import machine, threads, workspace
from ..cpu.jit import jit
from ..cpu.pack import pack
from ..cpu.pool import parallel_for
from ..cpu.product import SMALL, ZEROS
from ..cpu.simd import I64, VECTOR_BYTES, counting
from ..cpu.tile import Tile

MOST_K = 1024  # a strip of B stays in L2


def tile_of(tier: str, kind: str) -> Tile:
    size = 8 if kind == "f64" else 4
    wide = VECTOR_BYTES[tier]
    return Tile(tier, kind, 6, 4 if wide == 64 else 2, wide // size, size)


@functools.cache
def _tile(t: Tile) -> Any:
    """f(k, a, a_row, a_col, b, b_row, c, c_row, bias, m, n): C[i, j] = bias[j] + sum over k of A[i, k] * B[k, j] for
    i < m <= rows, j < n <= cols. Addresses, and steps in bytes; columns of B, C and bias are neighbours.
    """

    @intrinsic
    def tile_multiply(
        typing: Any, k: Any, a: Any, a_row: Any, a_col: Any, b: Any, b_row: Any, c: Any, c_row: Any, bias: Any, m: Any,
        n: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, a, a_row, a_col, b, b_row, c, c_row, bias, m, n = args
            v = t.on(builder)
            width = t.lanes * t.size
            last = builder.sub(m, I64(1))

            def part(rows: int, vectors: int, whole: bool) -> None:
                masks = [None if whole else v.first(builder.sub(n, I64(j * t.lanes))) for j in range(vectors)]

                def load(at: ir.Value, j: int) -> ir.Value:
                    return v.load(at, j * width) if whole else v.masked_load(masks[j], at, j * width)

                starts = []  # rows beyond the last are the last again
                for i in range(rows):
                    row = builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last)
                    starts.append(builder.add(a, builder.mul(row, a_row)))
                sums = [[cgutils.alloca_once(builder, v.type) for _ in range(vectors)] for _ in range(rows)]
                for s in itertools.chain(*sums):
                    builder.store(v.zero(), s)
                with counting(builder, k) as p:
                    line, along = builder.add(b, builder.mul(p, b_row)), builder.mul(p, a_col)
                    bs = [load(line, j) for j in range(vectors)]
                    for start, row in zip(starts, sums):
                        x = v.broadcast(builder.add(start, along))
                        for s, y in zip(row, bs):
                            builder.store(v.multiply_add(x, y, builder.load(s)), s)
                for i, row in enumerate(sums):
                    with builder.if_then(builder.icmp_signed("<=", I64(i), last)):
                        to = builder.add(c, builder.mul(c_row, I64(i)))
                        for j, s in enumerate(row):
                            total = v.add(load(bias, j), builder.load(s))
                            if whole:
                                v.store(total, to, j * width)
                            else:
                                v.masked_store(total, masks[j], to, j * width)

            def smallest(choices: list[tuple[int, int, bool]]) -> None:
                (rows, vectors, whole), *larger = choices
                if not larger:
                    part(rows, vectors, whole)
                    return
                fits = builder.and_(
                    builder.icmp_signed("<=", m, I64(rows)), builder.icmp_signed("<=", n, I64(vectors * t.lanes))
                )
                if whole:
                    fits = builder.and_(fits, builder.icmp_signed("==", n, I64(t.cols)))
                with builder.if_else(fits) as (this, otherwise):
                    with this:
                        part(rows, vectors, whole)
                    with otherwise:
                        smallest(larger)

            heights, widths = (t.rows // 2, t.rows), [w for w in (1, 2, 4) if w <= t.vectors]
            whole = [(rows, t.vectors, True) for rows in heights]
            smallest(whole + [(rows, vectors, False) for vectors in widths for rows in heights])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), emit

    return tile_multiply


@functools.cache
def _kernel(tier: str, kind: str) -> Any:
    t = tile_of(tier, kind)
    tile_multiply, pack_b = _tile(t), pack(t, "b")
    rows, cols, size = t.rows, t.cols, t.size

    @jit(inner=True)
    def block(  # type: ignore[no-untyped-def]
        task, slot, cuts, high, m, n, k, a, a_next, a_row, a_col, b, b_next, b_row, b_col, c, c_next, c_row,
        bias, bias_col, work, room,
    ):  # fmt: skip
        """Task: some rows of one product."""
        item, i0 = task // cuts, task % cuts * high
        for j in range(0, n, cols):
            wide = min(cols, n - j)
            strip, step = b + item * b_next + j * b_col, b_row
            if b_col != size:
                strip, step = work + slot * room, cols * size
                pack_b(b + item * b_next + j * b_col, b_col, b_row, wide, k, strip)
            for i in range(i0, min(i0 + high, m), rows):
                tile_multiply(
                    k, a + item * a_next + i * a_row, a_row, a_col, strip, step,
                    c + item * c_next + i * c_row + j * size, c_row, bias + j * bias_col, min(rows, m - i), wide,
                )  # fmt: skip

    @jit(tag=f"small {t.name}")
    def kernel(  # type: ignore[no-untyped-def]
        batch, m, n, k, a, a_next, a_row, a_col, b, b_next, b_row, b_col, c, c_next, c_row, bias, bias_col,
        work, room, nthreads,
    ):  # fmt: skip
        # Rows are cut where there are fewer products than threads.
        cuts = 1 if batch >= nthreads else nthreads
        high = ((m + cuts - 1) // cuts + rows - 1) // rows * rows
        cuts = (m + high - 1) // high
        job = (cuts, high, m, n, k, a, a_next, a_row, a_col, b, b_next, b_row, b_col, c, c_next, c_row, bias, bias_col)
        parallel_for(block, batch * cuts, nthreads, (*job, work, room))

    return kernel


def multiply_at(
    kind: str, batch: int, m: int, n: int, k: int, a: int, a_next: int, a_row: int, a_col: int,
    b: int, b_next: int, b_row: int, b_col: int, c: int, c_next: int, c_row: int, bias: int = 0,
) -> bool:  # fmt: skip
    """As cpu/product.py's, for float32 and float64 and k <= MOST_K."""
    tier = machine.floats()
    nthreads = threads.get_num_threads() if batch * m * n * k >= SMALL else 1
    size = 8 if kind == "f64" else 4
    kernel = _kernel(tier, kind)
    at = (batch, m, n, k, a, a_next, a_row, a_col, b, b_next, b_row, b_col, c, c_next, c_row)
    if b_col == size:
        kernel(*at, bias or ZEROS, size if bias else 0, 0, 0, nthreads)
        return True
    room = (k + k % 2) * VECTOR_BYTES[tier] * (4 if VECTOR_BYTES[tier] == 64 else 2)
    with workspace.borrow(nthreads * room) as work:
        kernel(*at, bias or ZEROS, size if bias else 0, work, room, nthreads)
    return True
