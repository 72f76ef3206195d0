"""Depthwise integer convolution: a channel has no others beside it that would fill an integer dot product.

The whole numbers stay floats. A product of two is at most 127 * 128, so a sum of 1024 products is exact in float32, in
any order, fused or not, and is the same number as float32(the int32 sum). A task quantizes one channel of one image
into a plane with a border of zeros, in its thread's scratch memory, and reads it there for every tap.
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
from ..cpu.simd import F32, I64, VECTOR_BYTES, Vectors, counting
from .cpu import plain
from .geometry import Pair, phases, split
from .stages import every_other, scale_from, shares, top_of, whole_numbers

Array = NDArray[Any]

EXACT = (1 << 24) // (127 * 128)  # taps whose sum a float32 holds
ROWS = 4  # rows of outputs that share a weight

i8, i32, i64, f32 = (pointer(name) for name in ("int8", "int32", "int64", "float32"))

# k: filters per channel; the rest as in conv.py.
Plan = namedtuple("Plan", "n c k h w taps p q sh sw ph pw rows pitch phases_h phases_w scales_at scratch_at scratch")


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
def _taps(lanes: int, vectors: int) -> Any:
    """f(k, w, b, pitch, table, factor, bias, y, y_row, count, n): ROWS x `vectors` vectors of outputs.

    y[r, j] = (sum over i < k of w[i] * B[r * pitch + table[i] + j]) * factor + bias    for r < count <= ROWS, j < n
    """

    @intrinsic
    def run(
        typing: Any, k: Any, w: Any, b: Any, pitch: Any, table: Any, factor: Any, bias: Any,
        y: Any, y_row: Any, count: Any, n: Any,
    ) -> Any:  # fmt: skip
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, w, b, pitch, table, factor, bias, y, y_row, count, n = args
            v = Vectors(builder, F32, lanes)
            last = builder.sub(count, I64(1))
            numbers = [builder.select(builder.icmp_signed("<", I64(r), last), I64(r), last) for r in range(ROWS)]
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
                        value = v.load(line, j * lanes * 4)
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
        return types.void(*[int_] * 5, float_, float_, *[int_] * 4), emit

    return run


@functools.cache
def _kernel(tier: str) -> Any:
    lanes = VECTOR_BYTES[tier] // 4
    whole_run, evens, wide, slim = _whole_run(lanes), every_other(lanes), _taps(lanes, 2), _taps(lanes, 1)

    @jit(inner=True)
    def top(task, slot, p, x, found):  # type: ignore[no-untyped-def]
        """Task: a channel of an image."""
        size = p.h * p.w
        i32(found)[task] = top_of(size, x + task * size * 4)

    @jit(inner=True)
    def channel(task, slot, p, table, phases_h, phases_w, x, w, w_scale, b, scales, y, scratch):  # type: ignore[no-untyped-def]
        """Task: a channel of an image."""
        scale = f32(scales)[task // p.c]
        planes = scratch + slot * p.scratch
        room = (p.phases_h * p.phases_w * p.rows * p.pitch + 2 * lanes) * 4
        held, weights = planes + room, planes + room + (p.w + 2 * lanes) * 4
        for a in range(p.phases_h):
            for i in range(p.rows):
                line_y = i * p.sh + i64(phases_h)[a] - p.ph
                inside = 0 <= line_y < p.h
                source = x + (task * p.h + line_y) * p.w * 4
                if inside and p.sw > 1:
                    whole_run(p.w, source, scale, held)
                for f in range(p.phases_w):
                    line = planes + ((a * p.phases_w + f) * p.rows + i) * p.pitch * 4
                    to, base = f32(line), i64(phases_w)[f] - p.pw
                    left = right = p.pitch
                    if inside:
                        left = min(p.pitch, max(0, (p.sw - 1 - base) // p.sw))
                        right = max(left, min(p.pitch, (p.w - base + p.sw - 1) // p.sw))
                    for j in range(left):
                        to[j] = 0
                    if left < right:
                        if p.sw == 1:
                            whole_run(right - left, source + (base + left) * 4, scale, line + left * 4)
                        elif p.sw == 2:
                            evens(right - left, held + (base + 2 * left) * 4, line + left * 4)
                        else:
                            row = f32(held)
                            for j in range(left, right):
                                to[j] = row[base + j * p.sw]
                    for j in range(right, p.pitch):
                        to[j] = 0
        # What is read behind the last plane is not written anywhere, but odd numbers there could cost time.
        behind = f32(planes + room - 8 * lanes)
        for j in range(2 * lanes):
            behind[j] = 0
        for m in range(p.k):
            number = task % p.c * p.k + m
            for i in range(p.taps):
                f32(weights)[i] = np.float32(i8(w)[number * p.taps + i])
            factor = scale * f32(w_scale)[number]
            bias = f32(b)[number] if b else np.float32(-0.0)  # y + -0.0 is y, for -0.0 as well
            out = y + (task * p.k + m) * p.p * p.q * 4
            for i in range(0, p.p, ROWS):
                count, from_, to_row = min(ROWS, p.p - i), planes + i * p.pitch * 4, out + i * p.q * 4
                j = 0
                while p.q - j > lanes:
                    wide(
                        p.taps, weights, from_ + j * 4, p.pitch * 4, table, factor, bias,
                        to_row + j * 4, p.q * 4, count, p.q - j,
                    )  # fmt: skip
                    j += 2 * lanes
                if j < p.q:
                    slim(
                        p.taps, weights, from_ + j * 4, p.pitch * 4, table, factor, bias,
                        to_row + j * 4, p.q * 4, count, p.q - j,
                    )  # fmt: skip

    @jit(tag=tier)
    def convolve(p, table, phases_h, phases_w, x, w, w_scale, b, static, y, work, nthreads):  # type: ignore[no-untyped-def]
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
        job = (p, table, phases_h, phases_w, x, w, w_scale, b, scales, y, work + p.scratch_at)
        parallel_for(channel, p.n * p.c, nthreads, job)

    return convolve


@functools.lru_cache(maxsize=256)
def _planned(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair
) -> tuple[Plan, Array, Array, Array]:
    """The plan, the table of offsets, the phases of rows and columns."""
    (sh, sw), (ph, pw), (dh, dw) = (split(v) for v in (stride, padding, dilation))
    (n, c, h, w), (k, _, r, s) = x_shape, w_shape
    p, q = (h + 2 * ph - dh * (r - 1) - 1) // sh + 1, (w + 2 * pw - dw * (s - 1) - 1) // sw + 1
    rows, pitch = p + dh * (r - 1) // sh, q + dw * (s - 1) // sw
    of_rows, of_cols = phases(r, dh, sh), phases(s, dw, sw)
    table = np.empty((r, s), np.int64)
    for i in range(r):
        for j in range(s):
            phase = of_rows.index(i * dh % sh) * len(of_cols) + of_cols.index(j * dw % sw)
            table[i, j] = ((phase * rows + i * dh // sh) * pitch + j * dw // sw) * 4
    up = lambda size: size + -size % workspace.ALIGN
    scales_at = up(n * c * 4)
    # The planes, what vectors read and write behind them; a row of x and the same; the weights.
    behind = 2 * VECTOR_BYTES["avx512"] // 4
    scratch = up((len(of_rows) * len(of_cols) * rows * pitch + behind + w + behind + r * s) * 4)
    plan = Plan(
        n, c, k // c, h, w, r * s, p, q, sh, sw, ph, pw, rows, pitch, len(of_rows), len(of_cols),
        scales_at, scales_at + up(n * 4), scratch,
    )  # fmt: skip
    return plan, table, np.array(of_rows, np.int64), np.array(of_cols, np.int64)


def int8_conv2d(
    x: Array, w_q: Array, w_scale: Array, b: Array | None,
    stride: Pair, padding: Pair, dilation: Pair, x_scale: float | None,
) -> Array:  # fmt: skip
    """As conv.py's, for a group per channel of x."""
    plan, table, phases_h, phases_w = _planned(x.shape, w_q.shape, stride, padding, dilation)
    floats, w_q, w_scale, bias = plain(x), np.ascontiguousarray(w_q), plain(w_scale), None if b is None else plain(b)
    y = workspace.empty((plan.n, plan.c * plan.k, plan.p, plan.q), np.float32)
    if y.size:
        nthreads = shares(y.size)
        with workspace.borrow(plan.scratch_at + nthreads * plan.scratch) as at:
            _kernel(machine.tier())(
                plan, address(table), address(phases_h), address(phases_w), address(floats), address(w_q),
                address(w_scale), address(bias), x_scale or 0.0, address(y), at, nthreads,
            )  # fmt: skip
    return y.astype(x.dtype, copy=False)
