"""Dropout in vectors: the generator's words are made in registers, compared there and forgotten."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import machine, threads
from ..cpu.gather import element
from ..cpu.gather import name as dtype_of
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import I8, I32, I64, Vectors, counting
from ..cpu.sweep import GRAIN, scalar
from .reference import MULTIPLIERS, WEYL

Array = NDArray[Any]

BLOCKS = 8  # of four words each, at a time
WORDS = 4 * BLOCKS


def _rounds(v: Vectors, block: ir.Value, seed: ir.Value, stream: ir.Value) -> list[ir.Value]:
    """The words of BLOCKS blocks from `block` on, in order, as two vectors of 32-bit integers.

    Two words share a 64-bit integer, (c0, c1) and (c2, c3), the first in its upper half: so a product is the new pair,
    and what is left is to xor the old second word and the key into its upper half.
    """
    b = v.builder
    half = ir.Constant(v.type, [32] * v.lanes)
    number = b.add(v.splat(block), ir.Constant(v.type, list(range(v.lanes))))

    def swapped(x: ir.Value) -> ir.Value:
        return b.or_(b.shl(x, half), b.lshr(x, half))

    s0, s1 = swapped(number), swapped(v.splat(stream))
    k0, k1 = b.and_(seed, I64(0xFFFFFFFF)), b.lshr(seed, I64(32))
    for i in range(10):
        p0 = b.mul(b.lshr(s1, half), ir.Constant(v.type, [MULTIPLIERS[1]] * v.lanes))
        p1 = b.mul(b.lshr(s0, half), ir.Constant(v.type, [MULTIPLIERS[0]] * v.lanes))
        # The key's carry into the upper half is shifted out with what else is there.
        key0, key1 = v.splat(b.add(k0, I64(i * WEYL[0]))), v.splat(b.add(k1, I64(i * WEYL[1])))
        s0, s1 = b.xor(b.shl(b.xor(s0, key0), half), p0), b.xor(b.shl(b.xor(s1, key1), half), p1)
    first, second = swapped(s0), swapped(s1)
    found = []
    for start in (0, v.lanes // 2):
        order = [j for i in range(v.lanes // 2) for j in (start + i, v.lanes + start + i)]
        pairs = b.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, v.lanes), order))
        found.append(b.bitcast(pairs, ir.VectorType(I32, 2 * v.lanes)))
    return found


@functools.cache
def _kernel(tier: str, dtype: str, draw: bool) -> Any:
    size, wide = np.dtype(dtype).itemsize, WORDS // 2

    @intrinsic
    def some_elements(typing: Any, start: Any, stop: Any, x: Any, mask: Any, y: Any, how: Any, scale: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            start, stop, x, mask, y, how, scale = args
            v, bools = Vectors(builder, element(dtype), wide), Vectors(builder, I8, wide)
            seed, stream, block, least = (builder.extract_value(how, i) for i in range(4))
            factor = scalar(v, scale)
            least = Vectors(builder, I32, wide).splat(builder.trunc(least, I32))
            with counting(builder, stop, start=start, step=I64(WORDS)) as i:
                if draw:
                    at = builder.add(block, builder.lshr(i, I64(2)))
                    drawn = _rounds(Vectors(builder, I64, BLOCKS), at, seed, stream)
                for h in range(2):
                    j = builder.add(i, I64(h * wide))
                    there = v.first(builder.sub(stop, j))
                    place, flag = builder.mul(j, I64(size)), builder.add(mask, j)
                    if draw:
                        word = builder.lshr(drawn[h], ir.Constant(drawn[h].type, [8] * wide))
                        keep = builder.icmp_unsigned(">=", word, least)
                        bools.masked_store(builder.zext(keep, bools.type), there, flag)
                    else:
                        keep = builder.icmp_unsigned("!=", bools.masked_load(there, flag), bools.zero())
                    scaled = builder.fmul(v.masked_load(there, builder.add(x, place)), factor)
                    v.masked_store(builder.select(keep, scaled, v.zero()), there, builder.add(y, place))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5, how, types.float64), emit

    @jit(inner=True)
    def some(task, slot, each, n, x, mask, y, how, scale):  # type: ignore[no-untyped-def]
        some_elements(task * each, min((task + 1) * each, n), x, mask, y, how, scale)

    @jit(tag=f"{dtype} {tier} {draw}")
    def kernel(each, tasks, nthreads, n, x, mask, y, how, scale):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, n, x, mask, y, how, scale))

    return kernel


def _run(draw: bool, x: Array, mask: Array, how: tuple[int, int, int, int], scale: float) -> Array:
    y = np.empty(x.shape, x.dtype)
    if y.size:
        x = np.ascontiguousarray(x)
        kernel = _kernel(machine.floats(), dtype_of(x), draw)
        tasks = -(-x.size // GRAIN)
        count = threads.get_num_threads()
        kernel(GRAIN, tasks, count, x.size, address(x), address(mask), address(y), how, float(scale))
    return y


def _signed(word: int) -> int:
    """64 bits as Numba takes them."""
    return word - (1 << 64) if word >> 63 else word


def dropout(x: Array, seed: int, stream: int, block: int, p: float) -> tuple[Array, Array]:
    """y and the mask."""
    mask = np.empty(x.shape, np.bool_)
    least = math.ceil(float(np.float32(p)) * 2**24)
    how = (_signed(seed), _signed(stream), _signed(block), least)
    return _run(True, x, mask, how, 1 / (1 - p)), mask


def mask_scale(x: Array, mask: Array, scale: float) -> Array:
    """x scale where mask, else 0."""
    return _run(False, x, np.ascontiguousarray(mask), (0, 0, 0, 0), scale)
