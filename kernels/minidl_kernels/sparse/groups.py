"""N of every M weights against rows of x.

Many rows of x are turned into panels as for compressed sparse rows (cpu.py), and a weight again is one number to
broadcast that meets whole vectors. But here every row of W has as many weights, and where they lie differs by a few
columns only: two rows of W are taken together, so that sums need not wait for each other, the position comes out of a
byte by a shift and a mask, and x is worked through in stretches that the first cache holds.

Fewer rows of x would leave vectors empty. Where half of the weights are kept, two vectors of x hold what a vector of
weights meets, and one permutation (AVX-512) puts it in their order. Elsewhere a weight meets single numbers.

A unit for products of bfloat16 (AMX) does not care for zeros and has many times the speed: with it many rows of x are
faster multiplied densely, by a W that is unpacked first ("unpacked").
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import machine, threads, workspace
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pack import pack
from ..cpu.pool import parallel_for
from ..cpu.product import SMALL, address
from ..cpu.simd import F32, I8, I32, I64, Vectors, counting
from ..cpu.tile import Tile, tile
from ..gemm import cpu as gemm
from .cpu import put
from .reference import index_bits, refuse_groups

Array = NDArray[Any]

FEW = 3  # rows of x up to which they are not turned,
PERMUTED = 32  # and where permutations do the work
SIDE = 4  # rows of W, and of x, that share what they read there
STRETCH = 128  # columns of x at once: with 64 rows in float32 they fill 32 KiB of the first cache
EACH = 64  # outputs of a task

u8 = pointer("uint8")


def _unit(n: int, bits: int) -> int:
    """Groups whose positions fill whole bytes."""
    return 8 // math.gcd(n * bits, 8)


@functools.cache
def _gathered(t: Tile, n: int, m: int, outputs: int, panels: int) -> Any:
    """f(groups, values, v_row, at, at_row, x, next, to, to_row): `outputs` rows of W under `panels` panels of x.

    to[:] += sum over the groups of values * x[columns], in their order; rows and panels are so many bytes apart.
    """
    bits = index_bits(m)
    unit, line, width = _unit(n, bits), t.cols * t.size, t.lanes * t.size

    @intrinsic
    def run(
        typing: Any, groups: Any, values: Any, v_row: Any, at: Any, at_row: Any, x: Any, next: Any, to: Any, to_row: Any
    ) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            groups, values, v_row, at, at_row, x, next, to, to_row = args
            v = t.on(builder)
            add, mul = builder.add, builder.mul
            rows = [[add(start, mul(step, I64(r))) for r in range(outputs)]
                    for start, step in ((values, v_row), (at, at_row), (to, to_row))]  # fmt: skip
            rows_v, rows_at, rows_to = rows
            bases = [add(x, mul(next, I64(p))) for p in range(panels)]
            sums = [[cgutils.alloca_once(builder, v.type) for _ in range(panels * t.vectors)] for _ in range(outputs)]
            for held, row in zip(sums, rows_to):
                for i, s in enumerate(held):
                    builder.store(v.load(row, i * width, align=width), s)

            def group(u: ir.Value, g: int) -> None:
                """Group g of unit u."""
                here = [add(base, mul(u, I64(unit * m * line))) for base in bases]
                for r, held in enumerate(sums):
                    weights = add(rows_v[r], mul(u, I64(unit * n * t.size)))
                    places = add(rows_at[r], mul(u, I64(unit * n * bits // 8)))
                    for s in range(g * n, (g + 1) * n):
                        value = v.broadcast(weights, s * t.size)
                        byte, shift = divmod(s * bits, 8)
                        byte = builder.load(builder.inttoptr(add(places, I64(byte)), I8.as_pointer()))
                        which = builder.and_(builder.zext(byte, I64), I64((1 << bits) - 1 << shift))
                        left = line.bit_length() - 1 - shift  # a line is a power of two
                        which = builder.shl(which, I64(left)) if left > 0 else builder.lshr(which, I64(-left))
                        for p, base in enumerate(here):
                            column = add(base, which)
                            for i in range(t.vectors):
                                total = held[p * t.vectors + i]
                                there = v.load(column, g * m * line + i * width, align=width)
                                builder.store(v.multiply_add(value, there, builder.load(total)), total)

            units = builder.sdiv(groups, I64(unit))
            with counting(builder, units) as u:
                for g in range(unit):
                    group(u, g)
            left = builder.sub(groups, mul(units, I64(unit)))
            for g in range(unit - 1):
                with builder.if_then(builder.icmp_signed("<", I64(g), left)):
                    group(units, g)
            for held, row in zip(sums, rows_to):
                for i, s in enumerate(held):
                    v.store(builder.load(s), row, i * width, align=width)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), emit

    return run


@functools.cache
def _dots(n: int, m: int, nx: int) -> Any:
    """f(chunks, x, x_row, some, values, v_row, at, at_row, count, to, to_row): x[i] . W[j], i < some <= nx, j < count
    <= SIDE, m = 2 n, over the first 16 `chunks` weights of a row.

    They lie in 32 columns each: two vectors of x, of which a permutation takes what the weights meet. Each lane sums
    its own, in order; then the lanes are added in pairs.
    """
    bits = index_bits(m)

    @intrinsic
    def run(
        typing: Any, chunks: Any, x: Any, x_row: Any, some: Any, values: Any, v_row: Any, at: Any, at_row: Any,
        count: Any, to: Any, to_row: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            chunks, x, x_row, some, values, v_row, at, at_row, count, to, to_row = args
            v, whole = Vectors(builder, F32, 16), Vectors(builder, I32, 16)
            constant = lambda numbers: ir.Constant(whole.type, list(numbers))
            shape = ir.FunctionType(v.type, [v.type, whole.type, v.type])
            permute = cgutils.get_or_insert_function(builder.module, shape, "llvm.x86.avx512.vpermi2var.ps.512")

            def lines(start: ir.Value, step: ir.Value, there: ir.Value, most: int) -> list[ir.Value]:
                """The first `most` rows; beyond those that are there the last again."""
                last = builder.sub(there, I64(1))
                each = [builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last) for i in range(most)]
                return [builder.add(start, builder.mul(i, step)) for i in each]

            def lanes_of(places: ir.Value) -> ir.Value:
                """Of 16 weights, whose places are there: columns 0 .. 31."""
                if bits == 1:
                    word = ir.IntType(16)
                    packed = builder.load(builder.inttoptr(places, word.as_pointer()), align=1)
                    lanes = whole.splat(builder.zext(packed, I32))
                else:  # 16 of 2 bits in one word, or 8 of 4 bits in each of two
                    words = Vectors(builder, I32, bits // 2).load(places)
                    each = constant(i * bits // 32 for i in range(16))
                    lanes = builder.shuffle_vector(words, ir.Constant(words.type, ir.Undefined), each)
                lanes = builder.lshr(lanes, constant(i * bits % 32 for i in range(16)))
                lanes = builder.and_(lanes, constant([(1 << bits) - 1] * 16))
                return builder.add(lanes, constant(i // n * m for i in range(16)))

            rows_x, rows_v = lines(x, x_row, some, nx), lines(values, v_row, count, SIDE)
            rows_at = lines(at, at_row, count, SIDE)
            sums = [[cgutils.alloca_once_value(builder, v.zero()) for _ in rows_v] for _ in rows_x]
            with counting(builder, chunks) as c:
                columns, weights, places = (builder.mul(c, I64(step)) for step in (128, 64, 2 * bits))
                lanes = [lanes_of(builder.add(row, places)) for row in rows_at]
                ws = [v.load(builder.add(row, weights)) for row in rows_v]
                if nx == 1:  # bound by memory: ask for the next rows of W
                    for row in rows_v:
                        v.prefetch(builder.add(builder.add(row, weights), builder.mul(v_row, I64(SIDE))))
                for row, held in zip(rows_x, sums):
                    here = builder.add(row, columns)
                    low, high = v.load(here), v.load(here, 64)
                    for lane, w, s in zip(lanes, ws, held):
                        met = builder.call(permute, [low, lane, high])
                        builder.store(v.multiply_add(w, met, builder.load(s)), s)
            for i, held in enumerate(sums):
                for j, s in enumerate(held):
                    total = builder.load(s)
                    for half in (8, 4, 2, 1):
                        other = builder.shuffle_vector(total, total, constant((lane + half) % 16 for lane in range(16)))
                        total = builder.fadd(total, other)
                    inside = builder.icmp_signed("<", I64(i), some)
                    inside = builder.and_(inside, builder.icmp_signed("<", I64(j), count))
                    with builder.if_then(inside):
                        one = builder.add(builder.add(to, builder.mul(to_row, I64(i))), I64(4 * j))
                        one = builder.inttoptr(one, F32.as_pointer())
                        builder.store(builder.extract_element(total, I64(0)), one)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 11), emit

    return run


def _permutes(tier: str, kind: str, n: int, m: int) -> bool:
    return tier == "avx512" and kind == "f32" and m == 2 * n and 16 % n == 0


@functools.cache
def _kernels(tier: str, kind: str, n: int, m: int) -> tuple[Any, Any, Any]:
    """nm_linear for many rows and for few, and a block of W made dense."""
    t, bits = tile(tier, kind), index_bits(m)
    size, lanes, cols = t.size, t.lanes, t.cols
    unit, mask, each_byte = _unit(n, bits), (1 << bits) - 1, 8 // bits
    pack_lines, place = pack(t, "b"), put(t)
    one, two = _gathered(t, n, m, 1, 1), _gathered(t, n, m, 2, 1)
    one_wide, two_wide = _gathered(t, n, m, 1, 2), _gathered(t, n, m, 2, 2)
    number = pointer("float32" if size == 4 else "float64")
    zero = np.float32(0) if size == 4 else np.float64(0)
    stretch = max(STRETCH // m // unit, 1) * unit  # in groups
    tag = f"{tier} {kind} {n} {m}"
    permutes = _permutes(tier, kind, n, m)
    dots, single = (_dots(n, m, SIDE), _dots(n, m, 1)) if permutes else (one, one)

    @jit(inner=True)
    def fits(count, k, groups, at, at_row):  # type: ignore[no-untyped-def]
        """Whether all positions are inside their groups, the last of which may be cut."""
        good = True
        for row in range(count):
            line = u8(at + row * at_row)
            for s in range(groups * n):
                which = (line[s // each_byte] >> (s % each_byte * bits)) & mask
                good &= which < m and s // n * m + which < k
        return good

    @jit(inner=True)
    def pack_panel(task, slot, m_rows, k, padded, x, x_row, x_col, packed):  # type: ignore[no-untyped-def]
        """Task: `cols` rows of x."""
        first, to = task * cols, packed + task * padded * cols * size
        pack_lines(x + first * x_row, x_row, x_col, min(cols, m_rows - first), k, to)

    @jit(inner=True)
    def rows(task, slot, pairs, m_rows, outputs, groups, padded, packed, values, at, at_row, b, y, scratch):  # type: ignore[no-untyped-def]
        """Task: EACH outputs of a pair of panels."""
        pair, first = task % pairs, task // pairs * EACH
        here, next = packed + pair * 2 * padded * cols * size, padded * cols * size
        some, count = min(2 * cols, m_rows - pair * 2 * cols), min(EACH, outputs - first)
        step, v_row = 2 * cols * size, groups * n * size
        held = scratch + slot * EACH * step
        to = number(held)
        for j in range(count):
            start = number(b)[first + j] if b else zero
            for i in range(2 * cols):
                to[j * 2 * cols + i] = start
        for g in range(0, groups, stretch):
            length, columns = min(stretch, groups - g), here + g * m * cols * size
            v0, at0 = values + first * v_row + g * n * size, at + first * at_row + g * n * bits // 8
            for j in range(0, count, 2):
                v, places, sums = v0 + j * v_row, at0 + j * at_row, held + j * step
                if j + 1 < count:
                    if some > cols:
                        two_wide(length, v, v_row, places, at_row, columns, next, sums, step)
                    else:
                        two(length, v, v_row, places, at_row, columns, next, sums, step)
                elif some > cols:
                    one_wide(length, v, v_row, places, at_row, columns, next, sums, step)
                else:
                    one(length, v, v_row, places, at_row, columns, next, sums, step)
        for n0 in range(0, count, lanes):
            for i in range(0, some, lanes):
                row = pair * 2 * cols + i
                place(
                    held + n0 * step + i * size, step, y + (row * outputs + first + n0) * size, outputs * size,
                    min(lanes, some - i), min(lanes, count - n0),
                )  # fmt: skip

    @jit(tag=tag)
    def many(m_rows, k, outputs, groups, padded, x, x_row, x_col, values, at, at_row, b, y, packed, scratch, nthreads):  # type: ignore[no-untyped-def]
        whole = m == mask + 1 and groups * m == k
        if not whole and not fits(outputs, k, groups, at, at_row):
            return False
        if k:
            parallel_for(
                pack_panel, (m_rows + cols - 1) // cols, nthreads, (m_rows, k, padded, x, x_row, x_col, packed)
            )
        pairs = (m_rows + 2 * cols - 1) // (2 * cols)
        job = (pairs, m_rows, outputs, groups, padded, packed, values, at, at_row, b, y, scratch)
        parallel_for(rows, (outputs + EACH - 1) // EACH * pairs, nthreads, job)
        return True

    @jit(inner=True)
    def singles(task, slot, each, m_rows, k, outputs, groups, x, values, at, at_row, b, y):  # type: ignore[no-untyped-def]
        """Task: `each` outputs of all rows of x."""
        last, v_row, x_row, y_row = min((task + 1) * each, outputs), groups * n * size, k * size, outputs * size
        chunks = k // 32 if permutes else 0  # whole vectors of weights, and of x
        for j in range(task * each, last, SIDE):
            count, v, places = min(SIDE, last - j), values + j * v_row, at + j * at_row
            for i in range(0, m_rows, SIDE):
                some, line, to = min(SIDE, m_rows - i), x + i * x_row, y + i * y_row + j * size
                if permutes and chunks and some > 1:
                    dots(chunks, line, x_row, some, v, v_row, places, at_row, count, to, y_row)
                elif permutes and chunks:
                    single(chunks, line, x_row, some, v, v_row, places, at_row, count, to, y_row)
                for row in range(some):
                    met, out = number(line + row * x_row), number(to + row * y_row)
                    for r in range(count):
                        weights, where = number(v + r * v_row), u8(places + r * at_row)
                        total = out[r] if chunks else zero
                        for s in range(chunks * 16, groups * n):
                            which = (where[s // each_byte] >> (s % each_byte * bits)) & mask
                            total += weights[s] * met[s // n * m + which]
                        out[r] = total + number(b)[j + r] if b else total

    @jit(tag=tag)
    def few(m_rows, k, outputs, groups, x, values, at, at_row, b, y, nthreads):  # type: ignore[no-untyped-def]
        whole = m == mask + 1 and groups * m == k
        if not whole and not fits(outputs, k, groups, at, at_row):
            return False
        each = max(16, outputs // (8 * nthreads) // SIDE * SIDE)
        job = (each, m_rows, k, outputs, groups, x, values, at, at_row, b, y)
        parallel_for(singles, (outputs + each - 1) // each, nthreads, job)
        return True

    @jit(inner=True)
    def row(task, slot, k, groups, values, at, at_row, to):  # type: ignore[no-untyped-def]
        dense, v, places = (
            number(to + task * k * size),
            number(values + task * groups * n * size),
            u8(at + task * at_row),
        )
        for i in range(k):
            dense[i] = zero
        for s in range(groups * n):
            which = (places[s // each_byte] >> (s % each_byte * bits)) & mask
            dense[s // n * m + which] += v[s]

    @jit(tag=tag)
    def unpacked(count, k, groups, values, at, at_row, to, nthreads):  # type: ignore[no-untyped-def]
        whole = m == mask + 1 and groups * m == k
        if not whole and not fits(count, k, groups, at, at_row):
            return False
        parallel_for(row, count, nthreads, (k, groups, values, at, at_row, to))
        return True

    return many, few, unpacked


def _operands(x: Array, values: Array, indices: Array) -> tuple[Array, Array, str, str]:
    kind = "f32" if x.itemsize == 4 else "f64"
    return np.ascontiguousarray(values), np.ascontiguousarray(indices), machine.floats(), kind


def nm_linear(x: Array, values: Array, indices: Array, m: int, b: Array | None) -> Array:
    outputs, groups, n = values.shape
    k, rows = x.shape[-1], math.prod(x.shape[:-1])
    values, indices, tier, kind = _operands(x, values, indices)
    bias = None if b is None else np.ascontiguousarray(b)
    y = np.empty((rows, outputs), x.dtype)
    t = tile(tier, kind)
    many, few, _ = _kernels(tier, kind, n, m)
    stored = address(values), address(indices), indices.shape[1], address(bias), address(y)
    nthreads = threads.get_num_threads() if rows * values.size >= SMALL else 1
    if rows <= (PERMUTED if _permutes(tier, kind, n, m) else FEW):
        flat = np.ascontiguousarray(x)
        good = few(rows, k, outputs, groups, address(flat), *stored, nthreads)
    else:
        flat = x.reshape(rows, k)
        padded = groups * m  # the last group may be cut: its positions keep to the columns that are there
        room = -(-rows // (2 * t.cols)) * 2 * t.cols * padded * t.size
        with workspace.borrow(room + nthreads * EACH * 2 * t.cols * t.size) as at:
            good = many(
                rows, k, outputs, groups, padded, address(flat), *flat.strides, *stored, at, at + room, nthreads
            )  # fmt: skip
    if not good:
        raise refuse_groups("nm_linear", m, k)
    return y.reshape(*x.shape[:-1], outputs)


def nm_linear_unpacked(x: Array, values: Array, indices: Array, m: int, b: Array | None) -> Array:
    outputs, groups, n = values.shape
    k = x.shape[-1]
    values, indices, tier, kind = _operands(x, values, indices)
    w = np.empty((outputs, k), x.dtype)
    *_, unpacked = _kernels(tier, kind, n, m)
    nthreads = threads.get_num_threads() if w.size >= SMALL else 1
    if not unpacked(outputs, k, groups, address(values), address(indices), indices.shape[1], address(w), nthreads):
        raise refuse_groups("nm_linear", m, k)
    return gemm.linear(x, w, b)
