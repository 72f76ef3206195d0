"""Depthwise integer convolution: a channel has no others beside it that would fill an integer dot product.

The whole numbers stay floats. A product of two is at most 127 * 128, so a sum of 1024 products is exact in float32, in
any order, fused or not, and is the same number as float32(the int32 sum). A task quantizes one channel of one image
into a plane with a border of zeros, in its thread's scratch memory, and reads it there for every tap; with a stride
of 2 every other number of two vectors, which a shuffle picks.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import machine, workspace
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import F32, I32, I64, VECTOR_BYTES, Vectors, counting
from .cpu import plain
from .geometry import Pair, split
from .stages import scale_from, shares, top_of, whole_numbers

Array = NDArray[Any]

EXACT = (1 << 24) // (127 * 128)  # taps whose sum a float32 holds
SUMS = 8  # vectors of outputs that share a weight: rows of one vector, or half as many of two

i8, i32, i64, f32 = (pointer(name) for name in ("int8", "int32", "int64", "float32"))

# k: filters per channel; pitch: of a plane; room: bytes of a plane and what is read behind it; the rest as in conv.py.
Plan = namedtuple("Plan", "n c k h w taps p q sh sw ph pw pitch room scales_at scratch_at scratch")


@functools.cache
def _whole_run(lanes: int) -> Any:
    """f(n, x, scale, to): n floats as whole numbers, and zeros up to a whole vector: a masked store is slow."""

    @intrinsic
    def run(typing: Any, n: Any, x: Any, scale: Any, to: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, x, scale, to = args
            v = Vectors(builder, F32, lanes)
            whole = whole_numbers(v, scale)
            full = builder.mul(builder.sdiv(n, I64(lanes)), I64(lanes))
            with counting(builder, full, step=I64(lanes)) as p:
                at = builder.mul(p, I64(4))
                v.store(whole(v.load(builder.add(x, at))), builder.add(to, at))
            with builder.if_then(builder.icmp_signed("<", full, n)):
                mask, at = v.first(builder.sub(n, full)), builder.mul(full, I64(4))
                v.store(whole(v.masked_load(mask, builder.add(x, at))), builder.add(to, at))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.float32, types.int64), emit

    return run


@functools.cache
def _taps(lanes: int, vectors: int, stride: int) -> Any:
    """f(k, w, b, pitch, apart, table, factor, bias, y, y_row, count, n): SUMS vectors of outputs, `vectors` in a row.

    y[r, j] = (sum over i < k of w[i] * B[r * pitch + table[i] + j * apart]) * factor + bias    for r < count, j < n

    `stride` is `apart` in numbers where it is 1 or 2, else 0: numbers are fetched one by one then.
    """

    @intrinsic
    def run(
        typing: Any, k: Any, w: Any, b: Any, pitch: Any, apart: Any, table: Any, factor: Any, bias: Any,
        y: Any, y_row: Any, count: Any, n: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, w, b, pitch, apart, table, factor, bias, y, y_row, count, n = args
            v, one = Vectors(builder, F32, lanes), Vectors(builder, F32, 1)
            even = ir.Constant(ir.VectorType(I32, lanes), list(range(0, 2 * lanes, 2)))

            def load(line: ir.Value, j: int) -> ir.Value:
                if stride == 1:
                    return v.load(line, 4 * j)
                if stride == 2:
                    return builder.shuffle_vector(v.load(line, 8 * j), v.load(line, 8 * j + 4 * lanes), even)
                found = v.zero()
                for i in range(lanes):
                    number = one.load(builder.add(line, builder.mul(apart, I64(j + i))))
                    found = builder.insert_element(found, builder.extract_element(number, I32(0)), I32(i))
                return found

            last = builder.sub(count, I64(1))
            numbers = [
                builder.select(builder.icmp_signed("<", I64(r), last), I64(r), last) for r in range(SUMS // vectors)
            ]
            starts = [builder.add(b, builder.mul(r, pitch)) for r in numbers]  # rows beyond are the last again
            sums = [[cgutils.alloca_once(builder, v.type) for _ in range(vectors)] for _ in starts]
            for s in (s for row in sums for s in row):
                builder.store(v.zero(), s)
            with counting(builder, k) as i:
                entry = builder.inttoptr(builder.add(table, builder.mul(i, I64(8))), I64.as_pointer())
                offset = builder.load(entry)
                weight = v.broadcast(builder.add(w, builder.mul(i, I64(4))))
                for start, row in zip(starts, sums):
                    line = builder.add(start, offset)
                    for j, s in enumerate(row):
                        value = load(line, j * lanes)
                        builder.store(v.multiply_add(weight, value, builder.load(s)), s)
            factors, biases = v.splat(factor), v.splat(bias)
            masks = [v.first(builder.sub(n, I64(j * lanes))) for j in range(vectors)]
            for r, row in zip(numbers, sums):
                to = builder.add(y, builder.mul(r, y_row))
                for j, (mask, s) in enumerate(zip(masks, row)):
                    value = builder.fadd(builder.fmul(builder.load(s), factors), biases)
                    v.masked_store(value, mask, to, j * lanes * 4)
            return context.get_dummy_value()

        float_, int_ = types.float32, types.int64
        return types.void(*[int_] * 6, float_, float_, *[int_] * 4), emit

    return run


@functools.cache
def _kernel(tier: str, stride: int) -> Any:
    lanes = VECTOR_BYTES[tier] // 4
    whole_run, wide, slim = _whole_run(lanes), _taps(lanes, 2, stride), _taps(lanes, 1, stride)

    @jit(inner=True)
    def top(task, slot, p, x, found):  # type: ignore[no-untyped-def]
        """Task: a channel of an image."""
        size = p.h * p.w
        i32(found)[task] = top_of(size, x + task * size * 4)

    @jit(inner=True)
    def channel(task, slot, p, table, x, w, w_scale, b, scales, y, scratch):  # type: ignore[no-untyped-def]
        """Task: a channel of an image."""
        scale = f32(scales)[task // p.c]
        planes = scratch + slot * p.scratch
        weights = planes + p.room
        for j in range(p.room // 4):
            f32(planes)[j] = 0
        for i in range(p.h):
            to = planes + ((i + p.ph) * p.pitch + p.pw) * 4
            whole_run(p.w, x + (task * p.h + i) * p.w * 4, scale, to)
        for m in range(p.k):
            number = task % p.c * p.k + m
            for i in range(p.taps):
                f32(weights)[i] = np.float32(i8(w)[number * p.taps + i])
            factor = scale * f32(w_scale)[number]
            bias = f32(b)[number] if b else np.float32(-0.0)  # y + -0.0 is y, for -0.0 as well
            out = y + (task * p.k + m) * p.p * p.q * 4
            high = SUMS if p.q <= lanes else SUMS // 2
            for i in range(0, p.p, high):
                count, from_, to_row = min(high, p.p - i), planes + i * p.sh * p.pitch * 4, out + i * p.q * 4
                if p.q <= lanes:
                    slim(
                        p.taps, weights, from_, p.sh * p.pitch * 4, p.sw * 4, table, factor, bias,
                        to_row, p.q * 4, count, p.q,
                    )  # fmt: skip
                else:
                    for j in range(0, p.q, 2 * lanes):
                        wide(
                            p.taps, weights, from_ + j * p.sw * 4, p.sh * p.pitch * 4, p.sw * 4, table, factor, bias,
                            to_row + j * 4, p.q * 4, count, p.q - j,
                        )  # fmt: skip

    @jit(tag=f"{tier} {stride}")
    def convolve(p, table, x, w, w_scale, b, static, y, work, nthreads):  # type: ignore[no-untyped-def]
        scales = work + p.scales_at
        if static != 0:
            for item in range(p.n):
                f32(scales)[item] = np.float32(static)
        else:
            parallel_for(top, p.n * p.c, nthreads, (p, x, work))
            for item in range(p.n):
                most = np.int32(0)
                for i in range(item * p.c, (item + 1) * p.c):
                    most = max(most, i32(work)[i])
                f32(scales)[item] = scale_from(most)
        job = (p, table, x, w, w_scale, b, scales, y, work + p.scratch_at)
        parallel_for(channel, p.n * p.c, nthreads, job)

    return convolve


@functools.lru_cache(maxsize=256)
def _planned(
    lanes: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Plan, Array]:
    """The plan, and the table of offsets."""
    (sh, sw), (ph, pw), (dh, dw) = (split(v) for v in (stride, padding, dilation))
    (n, c, h, w), (k, _, r, s) = x_shape, w_shape
    p, q = (h + 2 * ph - dh * (r - 1) - 1) // sh + 1, (w + 2 * pw - dw * (s - 1) - 1) // sw + 1
    pitch = w + 2 * pw
    table = (np.arange(r).reshape(-1, 1) * dh * pitch + np.arange(s) * dw).astype(np.int64) * 4
    up = lambda size: size + -size % workspace.ALIGN
    scales_at = up(n * c * 4)
    room = ((h + 2 * ph) * pitch + (2 * lanes + 1) * sw) * 4
    plan = Plan(
        n, c, k // c, h, w, r * s, p, q, sh, sw, ph, pw, pitch, room, scales_at, scales_at + up(n * 4),
        up(room + r * s * 4),
    )  # fmt: skip
    return plan, table


def int8_conv2d(
    x: Array, w_q: Array, w_scale: Array, b: Array | None,
    stride: Pair, padding: Pair, dilation: Pair, x_scale: float | None,
) -> Array:  # fmt: skip
    """As conv.py's, for a group per channel of x."""
    tier = machine.tier()
    plan, table = _planned(VECTOR_BYTES[tier] // 4, x.shape, w_q.shape, stride, padding, dilation)
    floats, w_q, w_scale, bias = plain(x), np.ascontiguousarray(w_q), plain(w_scale), None if b is None else plain(b)
    y = workspace.empty((plan.n, plan.c * plan.k, plan.p, plan.q), np.float32)
    if y.size:
        nthreads = shares(y.size)
        with workspace.borrow(plan.scratch_at + nthreads * plan.scratch) as at:
            _kernel(tier, plan.sw if plan.sw <= 2 else 0)(
                plan, address(table), address(floats), address(w_q), address(w_scale), address(bias), x_scale or 0.0,
                address(y), at, nthreads,
            )  # fmt: skip
    return y.astype(x.dtype, copy=False)
