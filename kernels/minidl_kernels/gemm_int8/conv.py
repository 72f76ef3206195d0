"""Integer convolution without a matrix of windows: the register tile reads the quantized image through a table.

The tile multiplies elements of 4 bytes. Here an element holds the same pixel of 4 channels (of 2 or 1, where the tier's
dot product takes 2 numbers or 1), and elements of neighbouring pixels are neighbours. So quantizing writes whole
vectors, nothing is transposed, and what the tile reads for one tap of the window and one element of channels, a run of
output pixels wide, is a run of memory: its place is an entry of a table of offsets (Dukhan, "The Indirect Convolution
Algorithm", arXiv:1907.02129). With a stride, pixels of one phase (row and column modulo the stride) make a plane.

    tops      max|x| of every part of every image
    pack      filters into panels of the tile; their sums, scales and biases
    fill      an image, quantized, as planes with a border of zeros
    multiply  panels times planes, rescaled as the sums leave the registers

Rows of a plane are wider than rows of outputs. What the tile computes in the gap between two rows is not copied out.
Depthwise convolution, where a channel has no others to be packed with, is in depthwise.py.
"""

from __future__ import annotations

import functools
import math
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
from ..cpu.pack import pack
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import F32, I8, I32, I64, Vectors, counting
from ..cpu.tile import Tile, step, tile
from . import depthwise
from .cpu import plain, vector_form
from .geometry import Pair, phases, split
from .stages import every_other, scale_from, shares, top_of, whole_numbers

Array = NDArray[Any]

i8, i16, i32, i64, f32 = (pointer(name) for name in ("int8", "int16", "int32", "int64", "float32"))

NEAR = 256 << 10  # bytes of planes that a strip reads: they stay in L2 while panel after panel passes
PLANES = 8 << 20  # bytes of planes that are filled before they are multiplied
RUN = 1024  # outputs of a filter in a strip, at most: so many sums of a panel's filters stay in L1 and L2

# What does not change from call to call. c, k: channels and filters of a group; elements: of 4 bytes, in c channels;
# depth: of the tile's loop, elements * taps; rows, pitch: of a plane; parts: of an image where max|x| is sought;
# cuts: of a plane's rows, filled by different tasks; block, items: panels and images of a
# task.
Plan = namedtuple(
    "Plan",
    "n c k groups h w taps p q sh sw ph pw elements depth rows pitch phases_h phases_w group_bytes parts cuts strip"
    " strips panels block blocks chunk items packed_at image_at scratch_at scratch",
)


@functools.cache
def _tiles(t: Tile) -> dict[tuple[int, int], Any]:
    """f(k, a, b, table, consts, scale, y, y_row) by rows and vectors: a tile of finished outputs.

    y[r, j] = float32(sum over i < k of A[i, r] . B[table[i] + j] - less[r]) * (scale * w_scale[r]) + bias[r]

    consts: less, w_scale and bias of the panel, `stride` each.
    """

    def made(rows: int, vectors: int) -> Any:
        @intrinsic
        def run(
            typing: Any, k: Any, a: Any, b: Any, table: Any, consts: Any, scale: Any, y: Any, y_row: Any
        ) -> Any:  # fmt: skip
            def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
                k, a, b, table, consts, scale, y, y_row = args
                v, f = t.on(builder), Vectors(builder, F32, t.lanes)
                width = t.lanes * t.size
                sums = [[cgutils.alloca_once_value(builder, v.zero()) for _ in range(vectors)] for _ in range(rows)]
                for total in (s for row in sums for s in row):
                    builder.store(v.zero(), total)
                with counting(builder, k) as i:
                    column = builder.add(a, builder.mul(i, I64(t.stride * t.size)))
                    entry = builder.add(table, builder.mul(i, I64(8)))
                    line = builder.add(b, builder.load(builder.inttoptr(entry, I64.as_pointer())))
                    bs = [v.load(line, j * width) for j in range(vectors)]
                    for r, row in enumerate(sums):
                        x = v.broadcast(column, r * t.size)
                        for s, values in zip(row, bs):
                            builder.store(step(t, v, x, values, builder.load(s)), s)
                scales = f.splat(scale)
                for r, row in enumerate(sums):
                    less = v.broadcast(consts, 4 * r)
                    factor = builder.fmul(scales, f.broadcast(consts, 4 * (t.stride + r)))
                    bias = f.broadcast(consts, 4 * (2 * t.stride + r))
                    to = builder.add(y, builder.mul(y_row, I64(r)))
                    for j, s in enumerate(row):
                        value = builder.sitofp(builder.sub(builder.load(s), less), f.type)
                        f.store(builder.fadd(builder.fmul(value, factor), bias), to, j * width)
                return context.get_dummy_value()

            return types.void(*[types.int64] * 5, types.float32, types.int64, types.int64), emit

        return run

    return {(rows, vectors): made(rows, vectors) for rows in (t.heights[0], t.rows) for vectors in (1, 2)}


@functools.cache
def _fill_run(t: Tile, per: int) -> Any:
    """f(n, x, step, last, scale, to): n elements of `per` channels, `step` bytes apart; beyond channel `last` it again,
    since the filters are zero there.
    """

    @intrinsic
    def run(typing: Any, n: Any, x: Any, step: Any, last: Any, scale: Any, to: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, x, step, last, scale, to = args
            f, v = Vectors(builder, F32, t.lanes), Vectors(builder, I32, t.lanes)
            rounded = whole_numbers(f, f.splat(scale))
            channels = []
            for i in range(per):
                which = builder.select(builder.icmp_signed("<", I64(i), last), I64(i), last)
                channels.append(builder.add(x, builder.mul(which, step)))

            def element(load: Any, at: ir.Value) -> ir.Value:
                total = v.zero()
                for i, channel in enumerate(channels):
                    value = builder.fptosi(rounded(load(builder.add(channel, at))), v.type)
                    if i + 1 < per:
                        value = builder.and_(value, ir.Constant(v.type, [(1 << 32 // per) - 1] * v.lanes))
                    value = builder.shl(value, ir.Constant(v.type, [i * (32 // per)] * v.lanes))
                    total = builder.or_(total, value)
                return builder.xor(total, ir.Constant(v.type, [_border(per)] * v.lanes))

            full = builder.mul(builder.sdiv(n, I64(t.lanes)), I64(t.lanes))
            with counting(builder, full, step=I64(t.lanes)) as p:
                at = builder.mul(p, I64(4))
                v.store(element(f.load, at), builder.add(to, at))
            with builder.if_then(builder.icmp_signed("<", full, n)):
                mask, at = f.first(builder.sub(n, full)), builder.mul(full, I64(4))
                v.masked_store(element(functools.partial(f.masked_load, mask), at), mask, builder.add(to, at))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4, types.float32, types.int64), emit

    return run


def _border(per: int) -> int:
    """An element of zeros; bytes of the image are unsigned, q + 128, for vpdpbusd."""
    return 0x80808080 if per == 4 else 0


@intrinsic
def _turn_3x3(typing: Any, count: Any, w: Any, to: Any) -> Any:
    """4 channels of 9 taps -> 9 taps of 4 channels, `count` times: 36 bytes each."""

    def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
        count, w, to = args
        v = Vectors(builder, I8, 64)
        mask = ir.Constant(ir.VectorType(ir.IntType(1), 64), [i < 36 for i in range(64)])
        order = [(i % 4 * 9 + i // 4) if i < 36 else 0 for i in range(64)]
        with counting(builder, count) as i:
            at = builder.mul(i, I64(36))
            value = v.masked_load(mask, builder.add(w, at))
            value = builder.shuffle_vector(value, v.zero(), ir.Constant(ir.VectorType(I32, 64), order))
            v.masked_store(value, mask, builder.add(to, at))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), emit


@functools.cache
def _kernel(tier: str) -> Any:
    kind, _, per, factor = vector_form(tier)
    t = tile(tier, kind)
    tiles, fill_run, evens, pack_a = _tiles(t), _fill_run(t, per), every_other(t.lanes), pack(t, "a")
    rows, lanes, cols, stride, low, lower = t.rows, t.lanes, t.cols, t.stride, t.heights[0], t.heights[-2]
    tall_wide, tall_slim, low_wide, low_slim = tiles[rows, 2], tiles[rows, 1], tiles[low, 2], tiles[low, 1]
    border = np.int32(np.uint32(_border(per)).view(np.int32))
    bits = 32 // per
    mask = (1 << bits) - 1

    @jit(inner=True)
    def tops(task, slot, p, x, found):  # type: ignore[no-untyped-def]
        """Task: a part of an image."""
        size = p.groups * p.c * p.h * p.w
        item, part = task // p.parts, task % p.parts
        first, last = size * part // p.parts, size * (part + 1) // p.parts
        i32(found)[task] = top_of(last - first, x + (item * size + first) * 4)

    @jit(inner=True)
    def elements(p, w, to):  # type: ignore[no-untyped-def]
        """A filter as the tile's elements, taps innermost."""
        done = 0
        if per == 4 and p.taps == 9:
            done = p.c // 4
            _turn_3x3(done, w, to)
        source, target = i8(w), i32(to)
        for e in range(done, p.elements):
            for tap in range(p.taps):
                value = np.int64(0)
                for i in range(min(per, p.c - e * per)):
                    value |= (np.int64(source[(e * per + i) * p.taps + tap]) & mask) << (bits * i)
                target[e * p.taps + tap] = np.int32(value)

    @jit(inner=True)
    def pack_filters(task, slot, p, w, w_scale, b, packed, scratch):  # type: ignore[no-untyped-def]
        """Task: a panel of filters, and behind all panels what it needs at the end."""
        group, first = task // p.panels, task % p.panels * rows
        m, length = min(rows, p.k - first), p.c * p.taps
        filters = w + (group * p.k + first) * length
        consts = packed + (p.groups * p.panels * p.depth + task * 3) * stride * 4
        less, scales, bias = i32(consts), f32(consts + stride * 4), f32(consts + 2 * stride * 4)
        for r in range(stride):
            less[r], scales[r], bias[r] = 0, np.float32(0), np.float32(-0.0)  # y + -0.0 is y, for -0.0 as well
        for r in range(m):
            channel = group * p.k + first + r
            scales[r] = f32(w_scale)[channel]
            if b:
                bias[r] = f32(b)[channel]
            if factor:
                at, total = i8(filters + r * length), 0
                for i in range(length):
                    total += at[i]
                less[r] = factor * total
        to = packed + task * p.depth * stride * 4
        if p.depth == 0:
            return
        if per == 4 and p.taps == 1 and p.c % 4 == 0:
            pack_a(filters, length, 4, m, p.depth, to)
        else:
            held = scratch + slot * p.scratch
            for r in range(m):
                elements(p, filters + r * length, held + r * p.depth * 4)
            pack_a(held, p.depth * 4, 4, m, p.depth, to)

    @jit(inner=True)
    def fill(task, slot, p, first, phases_h, phases_w, x, scales, image, scratch):  # type: ignore[no-untyped-def]
        """Task: some rows of the planes of one element."""
        cut, unit = task % p.cuts, task // p.cuts
        e, rest = unit % p.elements, unit // p.elements
        item, group = rest // p.groups, rest % p.groups
        channel = x + (((first + item) * p.groups + group) * p.c + e * per) * p.h * p.w * 4
        last = min(per, p.c - e * per) - 1
        scale = f32(scales)[first + item]
        planes = image + unit * p.phases_h * p.phases_w * p.rows * p.pitch * 4
        held = scratch + slot * p.scratch
        for a in range(p.phases_h):
            for i in range(p.rows * cut // p.cuts, p.rows * (cut + 1) // p.cuts):
                y = i * p.sh + i64(phases_h)[a] - p.ph
                inside = 0 <= y < p.h
                source = channel + y * p.w * 4
                if inside and p.sw > 1:
                    fill_run(p.w, source, p.h * p.w * 4, last, scale, held)
                for f in range(p.phases_w):
                    line = planes + ((a * p.phases_w + f) * p.rows + i) * p.pitch * 4
                    to, base = i32(line), i64(phases_w)[f] - p.pw
                    left = right = p.pitch
                    if inside:  # columns [left, right) come from x: 0 <= base + j * sw < w
                        left = min(p.pitch, max(0, (p.sw - 1 - base) // p.sw))
                        right = max(left, min(p.pitch, (p.w - base + p.sw - 1) // p.sw))
                    for j in range(left):
                        to[j] = border
                    if left < right:
                        if p.sw == 1:
                            start = source + (base + left) * 4
                            fill_run(right - left, start, p.h * p.w * 4, last, scale, line + left * 4)
                        elif p.sw == 2:
                            evens(right - left, held + (base + 2 * left) * 4, line + left * 4)
                        else:
                            whole = i32(held)
                            for j in range(left, right):
                                to[j] = whole[base + j * p.sw]
                    for j in range(right, p.pitch):
                        to[j] = border

    @jit(inner=True)
    def panel_strip(p, number, m, run, b, table, packed, scale, to, held):  # type: ignore[no-untyped-def]
        """A panel's filters over a strip of one image's rows."""
        a = packed + number * p.depth * stride * 4
        consts = packed + (p.groups * p.panels * p.depth + number * 3) * stride * 4
        area, width = p.p * p.q, (run + cols - 1) // cols * cols
        # Where outputs are one run of memory too, whole tiles are written in place.
        done = 0
        if p.pitch == p.q and m == rows:
            while done + cols <= run:
                tall_wide(p.depth, a, b + done * 4, table, consts, scale, to + done * 4, area * 4)
                done += cols
        for j in range(done, run, cols):
            if m > lower:
                if run - j > lanes:
                    tall_wide(p.depth, a, b + j * 4, table, consts, scale, held + j * 4, width * 4)
                else:
                    tall_slim(p.depth, a, b + j * 4, table, consts, scale, held + j * 4, width * 4)
            else:
                for r in range(0, m, low):
                    at, ends, to_rows = a + r * 4, consts + r * 4, held + (r * width + j) * 4
                    if run - j > lanes:
                        low_wide(p.depth, at, b + j * 4, table, ends, scale, to_rows, width * 4)
                    else:
                        low_slim(p.depth, at, b + j * 4, table, ends, scale, to_rows, width * 4)
        for r in range(m):
            made, out = f32(held + r * width * 4), f32(to + r * area * 4)
            if p.pitch == p.q:
                for j in range(done, run):
                    out[j] = made[j]
            else:
                for i in range((run + p.pitch - 1) // p.pitch):
                    for j in range(p.q):
                        out[i * p.q + j] = made[i * p.pitch + j]

    @jit(inner=True)
    def multiply(task, slot, p, first, some, table, image, packed, scales, y, scratch):  # type: ignore[no-untyped-def]
        """Task: a block of panels over a strip of rows of some images: a panel meets them all while it is near."""
        block, rest = task % p.blocks, task // p.blocks
        strip, rest = rest % p.strips, rest // p.strips
        group, start = rest % p.groups, rest // p.groups * p.items
        row = strip * p.strip
        run = (min(p.strip, p.p - row) - 1) * p.pitch + p.q
        for panel in range(block * p.block, min((block + 1) * p.block, p.panels)):
            m = min(rows, p.k - panel * rows)
            for item in range(start, min(start + p.items, some)):
                b = image + (item * p.groups + group) * p.group_bytes + row * p.pitch * 4
                channel = ((first + item) * p.groups + group) * p.k + panel * rows
                to = y + (channel * p.p * p.q + row * p.q) * 4
                scale = f32(scales)[first + item]
                panel_strip(
                    p, group * p.panels + panel, m, run, b, table, packed, scale, to, scratch + slot * p.scratch
                )

    @jit(tag=tier)
    def convolve(p, table, phases_h, phases_w, x, w, w_scale, b, static, y, work, nthreads):  # type: ignore[no-untyped-def]
        found, packed, image, scratch = work, work + p.packed_at, work + p.image_at, work + p.scratch_at
        scales = found + p.n * p.parts * 4
        if static != 0:
            for item in range(p.n):
                f32(scales)[item] = np.float32(static)
        else:
            parallel_for(tops, p.n * p.parts, nthreads, (p, x, found))
            for item in range(p.n):
                top = np.int32(0)
                for part in range(p.parts):
                    top = max(top, i32(found)[item * p.parts + part])
                f32(scales)[item] = scale_from(top)
        parallel_for(pack_filters, p.groups * p.panels, nthreads, (p, w, w_scale, b, packed, scratch))
        for first in range(0, p.n, p.chunk):
            some = min(p.chunk, p.n - first)
            job = (p, first, phases_h, phases_w, x, scales, image, scratch)
            parallel_for(fill, some * p.groups * p.elements * p.cuts, nthreads, job)
            # What the last tile reads beyond the last plane is not written anywhere.
            product = (p, first, some, table, image, packed, scales, y, scratch)
            units = (some + p.items - 1) // p.items * p.groups
            parallel_for(multiply, units * p.strips * p.blocks, nthreads, product)

    return convolve


@functools.lru_cache(maxsize=256)
def _planned(
    tier: str, nthreads: int, x_shape: tuple[int, ...], w_shape: tuple[int, ...],
    stride: Pair, padding: Pair, dilation: Pair, groups: int,
) -> tuple[Plan, Array, Array, Array, int]:  # fmt: skip
    """The plan, the table of offsets, the phases of rows and columns, bytes of scratch memory."""
    (sh, sw), (ph, pw), (dh, dw) = (split(v) for v in (stride, padding, dilation))
    (n, c, h, w), (k, cg, r, s) = x_shape, w_shape
    kind, _, per, _ = vector_form(tier)
    t, kg = tile(tier, kind), k // groups
    p, q = (h + 2 * ph - dh * (r - 1) - 1) // sh + 1, (w + 2 * pw - dw * (s - 1) - 1) // sw + 1
    rows, pitch = p + dh * (r - 1) // sh, q + dw * (s - 1) // sw
    of_rows, of_cols = phases(r, dh, sh), phases(s, dw, sw)
    elements, taps = -(-cg // per), r * s
    element = len(of_rows) * len(of_cols) * rows * pitch * 4
    table = np.empty((elements, r, s), np.int64)
    for i in range(r):
        for j in range(s):
            phase = of_rows.index(i * dh % sh) * len(of_cols) + of_cols.index(j * dw % sw)
            place = ((phase * rows + i * dh // sh) * pitch + j * dw // sw) * 4
            table[:, i, j] = np.arange(elements) * element + place
    depth, panels = elements * taps, -(-kg // t.rows)
    # A strip: few enough rows that its part of the planes and its sums stay near; several where threads need work.
    near = max(1, NEAR // max(1, elements * len(of_rows) * len(of_cols) * pitch * 4))
    strip = max(1, min(p, near, RUN // pitch))
    strip = -(-p // -(-p // strip))
    strips = -(-p // strip)
    chunk = max(1, min(n, PLANES // max(1, groups * elements * element)))
    items = max(1, min(chunk, NEAR // max(1, elements * element)))
    units = -(-chunk // items) * groups * strips
    blocks = 1 if units >= 4 * nthreads else max(1, min(panels, -(-4 * nthreads // max(1, units))))
    block = max(1, -(-panels // blocks))
    blocks = -(-panels // block)
    parts = max(1, min(c * h * w // 8192, -(-4 * nthreads // max(1, n))))
    cuts = max(1, min(rows, -(-4 * nthreads // max(1, n * groups * elements))))
    group_bytes = elements * element
    up = lambda size: size + -size % workspace.ALIGN
    packed_at = up(n * (parts + 1) * 4)
    image_at = packed_at + up(groups * panels * (depth + 3) * t.stride * 4)
    scratch_at = image_at + up(chunk * groups * group_bytes + t.cols * 4)
    width = -(-((strip - 1) * pitch + q) // t.cols) * t.cols
    high = -(-t.rows // t.heights[0]) * t.heights[0]
    scratch = up(max(high * width, t.rows * depth, w + 2 * t.lanes) * 4)
    plan = Plan(
        n, cg, kg, groups, h, w, taps, p, q, sh, sw, ph, pw, elements, depth, rows, pitch, len(of_rows), len(of_cols),
        group_bytes, parts, cuts, strip, strips, panels, block, blocks, chunk, items,
        packed_at, image_at, scratch_at, scratch,
    )  # fmt: skip
    return plan, table, np.array(of_rows, np.int64), np.array(of_cols, np.int64), scratch_at + nthreads * scratch


def int8_conv2d(
    x: Array, w_q: Array, w_scale: Array, b: Array | None,
    stride: Pair, padding: Pair, dilation: Pair, groups: int, x_scale: float | None,
) -> Array:  # fmt: skip
    if w_q.shape[1] == 1 and groups > 1 and math.prod(w_q.shape[2:]) <= depthwise.EXACT:
        return depthwise.int8_conv2d(x, w_q, w_scale, b, stride, padding, dilation, x_scale)
    work = math.prod(x.shape[2:]) * x.shape[0] * w_q.size
    tier, nthreads = machine.tier(), shares(work // 8)
    plan, table, phases_h, phases_w, room = _planned(
        tier, nthreads, x.shape, w_q.shape, stride, padding, dilation, groups
    )
    floats, w_q, w_scale, bias = plain(x), np.ascontiguousarray(w_q), plain(w_scale), None if b is None else plain(b)
    y = np.empty((plan.n, plan.k * groups, plan.p, plan.q), np.float32)
    if y.size:
        with workspace.borrow(room) as at:
            _kernel(tier)(
                plan, address(table), address(phases_h), address(phases_w), address(floats), address(w_q),
                address(w_scale), address(bias), x_scale or 0.0, address(y), at, nthreads,
            )  # fmt: skip
    return y.astype(x.dtype, copy=False)
