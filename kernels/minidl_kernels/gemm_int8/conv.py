"""Integer convolution without a matrix of windows: the register tile reads the quantized image through a table.

The tile multiplies elements of 4 bytes. Here an element holds the same pixel of 4 channels (of 2 or 1, where the tier's
dot product takes 2 numbers or 1), and elements of neighbouring pixels are neighbours. So quantizing writes whole
vectors, nothing is transposed, and what the tile reads for one tap of the window and one element of channels, a run of
output pixels wide, is a run of memory: its place is an entry of a table of offsets (Dukhan, "The Indirect Convolution
Algorithm", arXiv:1907.02129). With a stride, pixels of one phase (row and column modulo the stride) make a plane.

    tops      max|x| of every part of every image
    fill      an image, quantized, as planes with a border of zeros
    multiply  panels times planes, rescaled as the sums leave the registers

The tile unit takes 16 elements of a tap at a time, 16 pixels wide: a plane is what one of its rows steps over. With few
channels most of that would be zeros, and vectors are faster. Filters are packed with NumPy, once if nobody can write
them.

Rows of a plane are wider than rows of outputs. What the tile computes in the gap between two rows is not copied out.
Depthwise convolution, where a channel has no others to be packed with, is in depthwise.py.
"""

from __future__ import annotations

import functools
import math
from collections import namedtuple
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import amx, machine, workspace
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address, nothing
from ..cpu.simd import F32, I8, I32, I64, Vectors, counting
from ..cpu.tile import Tile, step, tile
from ..kept import once
from . import depthwise
from .cpu import FORMS, plain, vector_form
from .geometry import Pair, phases, split
from .stages import every_other, scale_from, shares, top_of, whole_numbers

Array = NDArray[Any]

i8, i16, i32, i64, f32 = (pointer(name) for name in ("int8", "int16", "int32", "int64", "float32"))

NEAR = 256 << 10  # bytes of planes that a strip reads: they stay in L2 while panel after panel passes
PLANES = 8 << 20  # bytes of planes that are filled before they are multiplied
RUN = 1024  # outputs of a filter in a strip, at most: so many sums of a panel's filters stay in L1 and L2

# What does not change from call to call. c, k: channels and filters of a group; elements: of 4 bytes, in c channels;
# element: bytes of the planes of one; depth: of the tile's loop; rows, pitch: of a plane; parts: of an image where
# max|x| is sought; cuts: of a plane's rows, filled by different tasks; block, items: panels and images of a task.
Plan = namedtuple(
    "Plan",
    "n c k groups h w p q sh sw ph pw elements element depth rows pitch phases_h phases_w group_bytes parts cuts strip"
    " strips panels block blocks chunk items consts_at image_at scratch_at scratch",
)


BLOCK = 16  # elements of one tap that the tile unit takes at a time
ENOUGH = 32  # channels from which on the tile unit is faster than vectors


def _form(tier: str, channels: int) -> tuple[Tile, type, int, int]:
    """Tile; type of a number in an element; numbers in an element; what sums have too much per unit of the filter's."""
    kind, number, per, factor = FORMS[tier] if channels >= ENOUGH else vector_form(tier)
    return tile(tier, kind), number, per, factor


@functools.cache
def _tiles_of_unit(t: Tile) -> dict[tuple[int, int], Any]:
    """As `_tiles`, on the tile unit: i counts blocks of 16 elements, `plane` bytes apart."""

    def made(rows: int, vectors: int) -> Any:
        high = rows // amx.SIDE

        @intrinsic
        def run(
            typing: Any, k: Any, a: Any, b: Any, table: Any, plane: Any, consts: Any, scale: Any, y: Any, y_row: Any
        ) -> Any:  # fmt: skip
            def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
                k, a, b, table, plane, consts, scale, y, y_row = args
                v, f = t.on(builder), Vectors(builder, F32, t.lanes)
                held = cgutils.alloca_once(builder, ir.ArrayType(I8, t.rows * t.line + 64))
                held = builder.and_(builder.add(builder.ptrtoint(held, I64), I64(63)), I64(-64))
                pairs = [(i, j) for i in range(high) for j in range(vectors)]
                for i, j in pairs:
                    amx.call(builder, "tilezero", I8(2 * i + j))
                with counting(builder, k) as block:
                    at = builder.add(a, builder.mul(block, I64(2 * amx.BYTES)))
                    entry = builder.add(table, builder.mul(block, I64(8)))
                    line = builder.add(b, builder.load(builder.inttoptr(entry, I64.as_pointer())))
                    for i in range(high):
                        place = amx.pointer_to(builder, at, amx.BYTES * i)
                        amx.call(builder, "tileloadd64", I8(4 + i), place, I64(64))
                    for j in range(vectors):
                        amx.call(builder, "tileloadd64", I8(6 + j), amx.pointer_to(builder, line, 64 * j), plane)
                    for i, j in pairs:
                        amx.call(builder, "tdpbssd", I8(2 * i + j), I8(4 + i), I8(6 + j))
                for i, j in pairs:
                    place = amx.pointer_to(builder, held, amx.SIDE * i * t.line + 64 * j)
                    amx.call(builder, "tilestored64", I8(2 * i + j), place, I64(t.line))
                scales = f.splat(scale)
                with counting(builder, I64(rows)) as r:
                    line, ends = builder.add(held, builder.mul(r, I64(t.line))), builder.mul(r, I64(4))
                    sums = [v.load(line, 64 * j) for j in range(vectors)]
                    to = builder.add(y, builder.mul(y_row, r))
                    _store(t, builder, sums, builder.add(consts, ends), scales, to)
                return context.get_dummy_value()

            return types.void(*[types.int64] * 6, types.float32, types.int64, types.int64), emit

        return run

    return {(rows, vectors): made(rows, vectors) for rows in (amx.SIDE, t.rows) for vectors in (1, 2)}


def _store(
    t: Tile, builder: ir.IRBuilder, sums: list[ir.Value], consts: ir.Value, scales: ir.Value, y: ir.Value
) -> None:
    """A filter's sums as outputs: float32(sum - less) * (scale * w_scale) + bias."""
    v, f = t.on(builder), Vectors(builder, F32, t.lanes)
    less, bias = v.broadcast(consts), f.broadcast(consts, 8 * t.stride)
    factor = builder.fmul(scales, f.broadcast(consts, 4 * t.stride))
    for j, s in enumerate(sums):
        value = builder.sitofp(builder.sub(s, less), f.type)
        f.store(builder.fadd(builder.fmul(value, factor), bias), y, j * t.lanes * t.size)


@functools.cache
def _tiles(t: Tile) -> dict[tuple[int, int], Any]:
    """f(k, a, b, table, plane, consts, scale, y, y_row) by rows and vectors: a tile of finished outputs.

    y[r, j] = float32(sum over i < k of A[i, r] . B[table[i] + j] - less[r]) * (scale * w_scale[r]) + bias[r]

    consts: less, w_scale and bias of the panel, `stride` each.
    """

    def made(rows: int, vectors: int) -> Any:
        @intrinsic
        def run(
            typing: Any, k: Any, a: Any, b: Any, table: Any, plane: Any, consts: Any, scale: Any, y: Any, y_row: Any
        ) -> Any:  # fmt: skip
            def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
                k, a, b, table, _, consts, scale, y, y_row = args
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
                    to = builder.add(y, builder.mul(y_row, I64(r)))
                    _store(t, builder, [builder.load(s) for s in row], builder.add(consts, I64(4 * r)), scales, to)
                return context.get_dummy_value()

            return types.void(*[types.int64] * 6, types.float32, types.int64, types.int64), emit

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
            rounded = whole_numbers(f, scale)
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
                return builder.xor(total, ir.Constant(v.type, [_border(t)] * v.lanes))

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


def _border(t: Tile) -> int:
    """An element of zeros; for vpdpbusd bytes of the image are unsigned, q + 128."""
    return 0x80808080 if t.kind == "s8u8" else 0


class Filters(NamedTuple):
    """Packed filters, and what the sums of each have too much, int32 (K,)."""

    at: int
    memory: Array
    less: Array


def _filters(w: Array, tier: str, groups: int) -> Filters:
    """w (K, C / groups, R, S) as panels of the tile: for vectors all rows' elements, in the order of channels and then
    taps; for the tile unit 32 rows of 64 channels, in the order of taps and then channels.
    """
    t, number, per, factor = _form(tier, w.shape[1])
    k, c, taps = len(w) // groups, w.shape[1], math.prod(w.shape[2:])
    panels, unit = -(-k // t.rows), t.kind == "s8s8"
    elements = -(-c // per)
    elements += -elements % (BLOCK if unit else 1)
    wide = np.zeros((groups, panels * t.rows, elements * per, taps), number)
    wide[:, :k, :c] = w.reshape(groups, k, c, taps)
    if unit:
        found = wide.reshape(groups, panels, t.rows, elements // BLOCK, BLOCK * per, taps).transpose(0, 1, 5, 3, 2, 4)
    else:
        found = np.zeros((groups, panels, elements, taps, t.stride, per), number)
        rows = wide.reshape(groups, panels, t.rows, elements, per, taps)
        found[..., : t.rows, :] = rows.transpose(0, 1, 3, 5, 2, 4)
    memory = np.empty(found.nbytes + workspace.ALIGN, np.uint8)
    start = -address(memory) % workspace.ALIGN
    memory[start : start + found.nbytes].view(number).reshape(found.shape)[...] = found
    less = factor * w.reshape(len(w), -1).sum(1, dtype=np.int32)
    return Filters(address(memory) + start, memory, less)


@functools.cache
def _kernel(t: Tile, per: int) -> Any:
    unit = t.kind == "s8s8"
    tiles, fill_run, evens = _tiles_of_unit(t) if unit else _tiles(t), _fill_run(t, per), every_other(t.lanes)
    enter, leave = (amx.enter, amx.leave) if unit else (nothing, nothing)
    rows, lanes, cols, stride = t.rows, t.lanes, t.cols, t.stride
    low, lower = (amx.SIDE, amx.SIDE) if unit else (t.heights[0], t.heights[-2])
    column = 2 * amx.BYTES if unit else stride * 4  # bytes of a panel for one i of the tile's loop
    tall_wide, tall_slim, low_wide, low_slim = tiles[rows, 2], tiles[rows, 1], tiles[low, 2], tiles[low, 1]
    border = np.int32(np.uint32(_border(t)).view(np.int32))

    @jit(inner=True)
    def tops(task, slot, p, x, found):  # type: ignore[no-untyped-def]
        """Task: a part of an image."""
        size = p.groups * p.c * p.h * p.w
        item, part = task // p.parts, task % p.parts
        first, last = size * part // p.parts, size * (part + 1) // p.parts
        i32(found)[task] = top_of(last - first, x + (item * size + first) * 4)

    @jit(inner=True)
    def line_up(p, less, w_scale, b, consts):  # type: ignore[no-untyped-def]
        """Of every panel what its sums have too much, its scales and its biases."""
        for number in range(p.groups * p.panels):
            group, first = number // p.panels, number % p.panels * rows
            ends = consts + number * 3 * stride * 4
            for r in range(min(rows, p.k - first)):
                channel = group * p.k + first + r
                i32(ends)[r] = i32(less)[channel]
                f32(ends)[stride + r] = f32(w_scale)[channel]
                # y + -0.0 is y, for -0.0 as well
                f32(ends)[2 * stride + r] = f32(b)[channel] if b else np.float32(-0.0)

    @jit(inner=True)
    def fill(task, slot, p, first, phases_h, phases_w, x, scales, image, scratch):  # type: ignore[no-untyped-def]
        """Task: some rows of the planes of one element."""
        cut, unit = task % p.cuts, task // p.cuts
        e, rest = unit % p.elements, unit // p.elements
        item, group = rest // p.groups, rest % p.groups
        channel = x + (((first + item) * p.groups + group) * p.c + e * per) * p.h * p.w * 4
        last = min(per, p.c - e * per) - 1
        scale = f32(scales)[first + item]
        planes = image + unit * p.element
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
    def panel_strip(p, number, m, run, b, table, packed, consts, scale, to, held):  # type: ignore[no-untyped-def]
        """A panel's filters over a strip of one image's rows."""
        a, consts = packed + number * p.depth * column, consts + number * 3 * stride * 4
        area, width = p.p * p.q, (run + cols - 1) // cols * cols
        # Where outputs are one run of memory too, whole tiles are written in place.
        done = 0
        if p.pitch == p.q and m == rows:
            while done + cols <= run:
                tall_wide(p.depth, a, b + done * 4, table, p.element, consts, scale, to + done * 4, area * 4)
                done += cols
        for j in range(done, run, cols):
            if m > lower:
                if run - j > lanes:
                    tall_wide(p.depth, a, b + j * 4, table, p.element, consts, scale, held + j * 4, width * 4)
                else:
                    tall_slim(p.depth, a, b + j * 4, table, p.element, consts, scale, held + j * 4, width * 4)
            else:
                for r in range(0, m, low):
                    at, ends, to_rows = a + r * 4, consts + r * 4, held + (r * width + j) * 4
                    if run - j > lanes:
                        low_wide(p.depth, at, b + j * 4, table, p.element, ends, scale, to_rows, width * 4)
                    else:
                        low_slim(p.depth, at, b + j * 4, table, p.element, ends, scale, to_rows, width * 4)
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
    def multiply(task, slot, p, first, some, table, image, packed, consts, scales, y, scratch):  # type: ignore[no-untyped-def]
        """Task: a block of panels over a strip of rows of some images: a panel meets them all while it is near."""
        block, rest = task % p.blocks, task // p.blocks
        strip, rest = rest % p.strips, rest // p.strips
        group, start = rest % p.groups, rest // p.groups * p.items
        row = strip * p.strip
        run = (min(p.strip, p.p - row) - 1) * p.pitch + p.q
        enter()
        for panel in range(block * p.block, min((block + 1) * p.block, p.panels)):
            m = min(rows, p.k - panel * rows)
            for item in range(start, min(start + p.items, some)):
                b = image + (item * p.groups + group) * p.group_bytes + row * p.pitch * 4
                channel = ((first + item) * p.groups + group) * p.k + panel * rows
                to = y + (channel * p.p * p.q + row * p.q) * 4
                scale = f32(scales)[first + item]
                number, held = group * p.panels + panel, scratch + slot * p.scratch
                panel_strip(p, number, m, run, b, table, packed, consts, scale, to, held)
        leave()

    @jit(tag=t.name)
    def convolve(p, table, phases_h, phases_w, x, packed, less, w_scale, b, static, y, work, nthreads):  # type: ignore[no-untyped-def]
        found, consts, image, scratch = work, work + p.consts_at, work + p.image_at, work + p.scratch_at
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
        line_up(p, less, w_scale, b, consts)
        for first in range(0, p.n, p.chunk):
            some = min(p.chunk, p.n - first)
            job = (p, first, phases_h, phases_w, x, scales, image, scratch)
            parallel_for(fill, some * p.groups * p.elements * p.cuts, nthreads, job)
            # What the last tile reads beyond the last plane is not written anywhere.
            product = (p, first, some, table, image, packed, consts, scales, y, scratch)
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
    t, _, per, _ = _form(tier, cg)
    kg, unit = k // groups, t.kind == "s8s8"
    p, q = (h + 2 * ph - dh * (r - 1) - 1) // sh + 1, (w + 2 * pw - dw * (s - 1) - 1) // sw + 1
    rows, pitch = p + dh * (r - 1) // sh, q + dw * (s - 1) // sw
    of_rows, of_cols = phases(r, dh, sh), phases(s, dw, sw)
    elements = -(-cg // per)
    element = len(of_rows) * len(of_cols) * rows * pitch * 4
    if unit:  # an odd number of cache lines: the rows of its tiles lie in different sets of the caches
        element = (element + 63) // 128 * 128 + 64
    places = np.empty((r, s), np.int64)
    for i in range(r):
        for j in range(s):
            phase = of_rows.index(i * dh % sh) * len(of_cols) + of_cols.index(j * dw % sw)
            places[i, j] = ((phase * rows + i * dh // sh) * pitch + j * dw // sw) * 4
    if unit:
        table = places.reshape(-1, 1) + np.arange(0, elements, BLOCK) * element
    else:
        table = np.arange(elements).reshape(-1, 1) * element + places.reshape(-1)
    depth, panels = table.size, -(-kg // t.rows)
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
    consts_at = up(n * (parts + 1) * 4)
    image_at = consts_at + up(groups * panels * 3 * t.stride * 4)
    scratch_at = image_at + up(chunk * groups * group_bytes + t.cols * 4 + (BLOCK * element if unit else 0))
    width = -(-((strip - 1) * pitch + q) // t.cols) * t.cols
    high = -(-t.rows // t.heights[0]) * t.heights[0]
    scratch = up(max(high * width, w + 2 * t.lanes) * 4)
    plan = Plan(
        n, cg, kg, groups, h, w, p, q, sh, sw, ph, pw, elements, element, depth, rows, pitch,
        len(of_rows), len(of_cols), group_bytes, parts, cuts, strip, strips, panels, block, blocks, chunk, items,
        consts_at, image_at, scratch_at, scratch,
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
    t, _, per, _ = _form(tier, w_q.shape[1])
    floats, w_scale, bias = plain(x), plain(w_scale), None if b is None else plain(b)
    y = workspace.empty((plan.n, plan.k * groups, plan.p, plan.q), np.float32)
    if y.size:
        filters = once(w_q, ("filters", tier, groups), lambda: _filters(w_q, tier, groups))
        with workspace.borrow(room) as at:
            _kernel(t, per)(
                plan, address(table), address(phases_h), address(phases_w), address(floats), filters.at,
                address(filters.less), address(w_scale), address(bias), x_scale or 0.0, address(y), at, nthreads,
            )  # fmt: skip
    return y.astype(x.dtype, copy=False)
