"""Convolution of integer images with channels last, and linear layers, which are its simplest case.

    x (B, H, W, C) int8, w (K, R, S, C / groups) int8 -> y (B, P, Q, K)

A task takes a band of rows of outputs of an image and some panels of weights (rows.py has the tile and the packing):

    stage     the rows of the image that the band sees, with their border, as numbers of the tile. With a stride, rows
              of one phase (row modulo the stride) make a plane: then one step leads from any output to the next
    multiply  for every panel, for every tile of pixels: sums, the output pipeline, the outputs in place

Where the tile reads int8 as they are, and there is neither border nor stride, nothing is staged: the image is read
where it lies. So a 1x1 convolution and a linear layer are products straight from and to memory. Rows of a plane may be
wider than rows of outputs; what the tile computes in the gap is not stored.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu import amx, machine, threads, workspace
from ..cpu.gather import pointer, record
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import SMALL, address, nothing
from . import rows
from .geometry import Border, Pair, outputs, phases, sides, split
from .stages import quantize_rows, shares

Array = NDArray[Any]

AROUND = 96  # rows that may be read behind those of a linear layer: more than a tile, its last 64 bytes and a row
DEEP = 32 << 10  # bytes of a panel's weights that pass at a time: they stay in L1 while tile after tile meets them
NEAR = 384 << 10  # bytes of a band, staged, and of its outputs: they stay in L2 while panel after panel passes
TASKS = 4  # per thread: the last one that is waited for is then small

i8, i16, i32, i64, f32 = (pointer(name) for name in ("int8", "int16", "int32", "int64", "float32"))

# What does not change from call to call. c: channels; kg: outputs of a group; rows: staged, of each phase; step: bytes
# from what an output sees to what the next sees; pitch: steps in a row of the image; reach: bytes behind a tile's first
# number that it may read; band: rows of outputs of a task, bands: of an image; block: panels of a task, blocks: of a
# group; deep: runs that pass at a time, sums: bytes of those that wait for the next.
Plan = namedtuple(
    "Plan",
    "b h w c p q sh sw top left phases_h rows pitch step groups kg cg runs elements reach staged band bands"
    " panels block blocks deep sums scratch",
)


@functools.cache
def kernel(tier: str, as_floats: bool) -> Any:
    """The whole layer; `as_floats`: its outputs are floats (rows.floats), else codes (rows.codes)."""
    t, number, _ = rows.form(tier)
    read_plan = record(Plan)
    size, height, cols = number.itemsize, t.rows, t.cols
    sums, finish, convert = rows.sums(t), (rows.floats if as_floats else rows.codes)(t), rows.convert(tier)
    enter, leave = (amx.enter, amx.leave) if t.kind == "s8s8" else (nothing, nothing)
    to_numbers = {1: i8, 2: i16, 4: i32}[size]
    flip = 128 if t.kind == "u8s8" else 0
    out_size = 4 if as_floats else 1

    @jit(inner=True)
    def fill(n, value, to):  # type: ignore[no-untyped-def]
        for i in range(n):
            to_numbers(to)[i] = value

    @jit(inner=True)
    def stage(p, item, row, count, x, phases_h, border, planes):  # type: ignore[no-untyped-def]
        """What rows of outputs [row, row + count) see: planes of the phases of rows."""
        line = p.pitch * p.sw * p.c  # numbers; columns [left, left + middle) come from x
        middle = max(0, min(p.w, p.pitch * p.sw - p.left)) * p.c
        left = min(line, p.left * p.c)
        for a in range(p.phases_h):
            for i in range(count + p.rows - p.band):
                y = (row + i) * p.sh + i64(phases_h)[a] - p.top
                to = planes + (a * p.rows + i) * line * size
                if 0 <= y < p.h:
                    fill(left, border, to)
                    convert(middle, x + (item * p.h + y) * p.w * p.c, to + left * size)
                    fill(line - left - middle, border, to + (left + middle) * size)
                else:
                    fill(line, border, to)

    @jit(inner=True)
    def store(p, m, first, n, acc, consts, scales, low, y):  # type: ignore[no-untyped-def]
        """Outputs of pixels [first, first + m) of a band, gaps between rows left out."""
        offset, factor, bias = consts
        zero, least, most = low
        r = 0
        if p.pitch == p.q:  # no gaps
            to = y + first * p.groups * p.kg * out_size
            if as_floats:
                finish(m, n, acc, offset, factor, bias, scales + first * 4, to, p.groups * p.kg * 4)
            else:
                finish(m, n, acc, offset, factor, zero, least, most, to, p.groups * p.kg)
            r = m
        while r < m:
            i, j = (first + r) // p.pitch, (first + r) % p.pitch
            count = 0
            if j < p.q:
                count = min(m - r, p.q - j) if p.pitch > p.q else m - r
                pixel = i * p.q + j
                to, at = y + pixel * p.groups * p.kg * out_size, acc + r * cols * 4
                if as_floats:
                    finish(count, n, at, offset, factor, bias, scales + pixel * 4, to, p.groups * p.kg * 4)
                else:
                    finish(count, n, at, offset, factor, zero, least, most, to, p.groups * p.kg)
            r += count if count else p.pitch - j

    @jit(inner=True)
    def some(task, slot, p, x, end, table, phases_h, packed, consts, scales, low, border, y, scratch):  # type: ignore[no-untyped-def]
        """Task: a block of panels over a band of an image."""
        band, rest = task % p.bands, task // p.bands  # bands one after the other, while a block's panels are near
        item, rest = rest % p.b, rest // p.b
        block, group = rest % p.blocks, rest // p.blocks
        row = band * p.band
        count = min(p.band, p.p - row)
        pixels = (count - 1) * p.pitch + p.q
        acc = scratch + slot * p.scratch
        held = acc + p.sums
        # Where a tile of the image may be read, and from which tile on that is a copy, `held`.
        a, copied = x + (item * p.h + row) * p.w * p.c + group * p.cg, pixels
        if p.staged:
            stage(p, item, row, count, x, phases_h, border, held)
            a = held + group * p.cg * size
        else:
            safe = (end - a - p.reach) // (height * p.step) + 1  # tiles that end inside
            if end - a < p.reach:
                safe = 0
            if safe * height < pixels:
                copied = safe * height
                convert(end - a - copied * p.step, a + copied * p.step, held)
        out = y + (item * p.p + row) * p.q * p.groups * p.kg * out_size
        if as_floats:
            scales += (item * p.p + row) * p.q * 4
        enter()
        for panel in range(block * p.block, min((block + 1) * p.block, p.panels)):
            n = min(cols, p.kg - panel * cols)
            number = group * p.panels + panel
            at = packed + number * p.runs * p.elements * cols * 4
            mine, (offset, factor, bias) = number * cols * 4, consts
            three = (offset + mine, factor + mine, bias + mine)
            for run in range(0, p.runs, p.deep):
                runs, weights = min(p.deep, p.runs - run), at + run * p.elements * cols * 4
                for first in range(0, pixels, height):
                    m = min(height, pixels - first)
                    from_ = a + first * p.step if first < copied else held + (first - copied) * p.step
                    here = acc if p.deep >= p.runs else acc + first * cols * 4
                    sums(
                        m, n, runs, table + run * 8, p.elements, from_, p.step, weights, here, run > 0,
                        pixels <= height,
                    )  # fmt: skip
                    if run + runs == p.runs:
                        store(p, m, first, n, here, three, scales, low, out + (group * p.kg + panel * cols) * out_size)
        leave()

    @jit(inner=True)
    def line_up(p, more, offset, factor, bias, consts):  # type: ignore[no-untyped-def]
        """Offset, factor and bias of all outputs, whole panels of each."""
        each = p.groups * p.panels * cols * 4
        for group in range(p.groups):
            source, to = group * p.kg * 4, consts + group * p.panels * cols * 4
            for k in range(p.kg):
                i32(to)[k] = i32(more + source)[k]
            for k in range(p.kg if offset else 0):
                i32(to)[k] += i32(offset + source)[k]
            for k in range(p.kg):
                f32(to + each)[k] = f32(factor + source)[k]
            for k in range(p.kg):
                f32(to + 2 * each)[k] = np.float32(-0.0)  # y + -0.0 is y, for -0.0 as well
            for k in range(p.kg if bias else 0):
                f32(to + 2 * each)[k] = f32(bias + source)[k]

    @jit(tag=f"{tier} {as_floats}")
    def layer(  # type: ignore[no-untyped-def]
        plan, x, beyond, table, phases_h, packed, more, offset, factor, bias, scales, zero, low, high, border, y, work,
        nthreads,
    ):  # fmt: skip
        p = read_plan(plan)
        each = p.groups * p.panels * cols * 4
        consts = work, work + each, work + 2 * each
        # They serve as they are where there are whole panels of them, and nothing is missing or to be added.
        if p.groups == 1 and p.kg % cols == 0 and (bias != 0 if as_floats else flip == 0):
            consts = more if as_floats else offset, factor, bias
        else:
            line_up(p, more, offset, factor, bias, work)
        scratch = work + (3 * p.groups * p.panels * cols * 4 + 63) // 64 * 64
        end = x + p.b * p.h * p.w * p.c + beyond
        job = (
            p, x, end, table, phases_h, packed, consts, scales, (zero, low, high), border ^ flip, y, scratch,
        )  # fmt: skip
        parallel_for(some, p.b * p.bands * p.groups * p.blocks, nthreads, job)

    return layer


def _parts(k: int) -> int:
    """Equal parts of k numbers, of whole blocks of any tile, short enough for `DEEP`."""
    return next((n for n in range(1, 65) if k % (64 * n) == 0 and k // n <= DEEP // 32), 1)


@functools.lru_cache(maxsize=512)
def planned(
    tier: str, nthreads: int, x: tuple[int, ...], w: tuple[int, ...],
    stride: Pair, padding: Border, dilation: Pair, groups: int, out_size: int,
) -> tuple[Array, Array, Array, int, int]:  # fmt: skip
    """The plan as int64, the table of runs, the phases of rows, how many runs, bytes of scratch memory."""
    t, number, per = rows.form(tier)
    (b, h, wide, c), (k, r, s, cg) = x, w
    (sh, sw), (dh, dw), (top, bottom, left, right) = split(stride), split(dilation), sides(padding)
    p, q = outputs(x, (r, s), stride, padding, dilation)
    of_rows = phases(r, dh, sh)
    staged = number != np.int8 or t.kind != "s8s8" or (sh, sw) != (1, 1) or any((top, bottom, left, right))
    pitch = -(-((q - 1) * sw + dw * (s - 1) + 1) // sw) if staged else wide
    step = max(1, sw * c * number.itemsize)
    joined = groups == 1 and dw == 1  # the taps of a row of the window are one run
    runs, run = (r, s * c) if joined else (r * s, cg)
    parts = _parts(c) if joined and r == s == 1 else 1  # a long run, which nothing interrupts, as several
    runs, run = runs * parts, run // parts
    elements, kg = rows.whole(t, per, run), k // groups
    panels = -(-kg // t.cols)
    # A band: few enough rows that they stay near, several where threads need work; then several blocks of panels.
    # Floats are written in whole cache lines, so they need not stay; of a line of codes the panels write parts.
    near = max(1, NEAR // (len(of_rows) * pitch * step + (q * k if out_size == 1 else 0)))
    several = 1 if nthreads == 1 else TASKS * nthreads
    least = -(-t.rows // pitch)  # rows of outputs that fill a tile
    band = max(1, min(p, near, max(least, -(-p * b * groups // several))))
    if pitch == 1:
        band = -(-band // t.rows) * t.rows
    bands = -(-p // band)
    block = -(-panels // max(1, several // (b * bands * groups)))
    if b * bands > 1:
        block = max(1, min(block, NEAR // max(1, runs * elements * t.line)))
    extra = dh * (r - 1) // sh
    table = np.empty((r, s), np.int64)
    for i in range(r):
        for j in range(s):
            row = of_rows.index(i * dh % sh) * (band + extra) + i * dh // sh
            table[i, j] = row * pitch * step + j * dw * c * number.itemsize
    table = np.ascontiguousarray(table[:, 0] if joined else table.reshape(-1))
    table = (table[:, None] + np.arange(parts) * (run * number.itemsize)).reshape(-1)
    reach = int(table.max()) + t.rows * step + elements * 4
    planes = len(of_rows) * (band + extra) * pitch * step if staged else t.rows * step
    up = lambda size: size + -size % workspace.ALIGN
    tiles = -(-((band - 1) * pitch + q) // t.rows)
    deep = runs if tiles == 1 else max(1, min(runs, DEEP // max(1, elements * t.line)))
    sums = (tiles if deep < runs else 1) * t.rows * t.cols * 4
    scratch = up(up(sums) + planes + reach + 64)
    plan = Plan(
        b, h, wide, c, p, q, sh, sw, top, left, len(of_rows), band + extra, pitch, step, groups, kg, cg,
        runs, elements, reach, int(staged), band, bands, panels, block, -(-panels // block), deep, up(sums), scratch,
    )  # fmt: skip
    room = up(3 * groups * panels * t.cols * 4) + nthreads * scratch
    return np.array(plan, np.int64), table, np.array(of_rows, np.int64), runs, room


def convolve(
    x: Array, w: Array, window: tuple[int, int], offset: Array | None, factor: Array,
    stride: Pair, padding: Border, dilation: Pair, groups: int, y: Array, *,
    border: int = 0, ends: tuple[int, int, int] = (0, 0, 0), bias: Array | None = None, scales: Array | None = None,
    beyond: int = 0,
) -> None:  # fmt: skip
    """y = the layer of x (B, H, W, C) and w (K, ...), whose outputs lie as (R, S, C / groups), into y (B, P, Q, K).

    Codes or floats as y's dtype says: `rows.codes` with `ends` (zero, low, high), or `rows.floats` with `bias` and a
    scale for each pixel. x and y lie without gaps, and y has no size of 0. `beyond`: bytes behind x that may be read.
    """
    tier, (r, s) = machine.tier(), window
    shape = len(w), r, s, x.shape[3] // groups
    work = y.size * r * s * shape[3]
    nthreads = threads.get_num_threads() if work >= SMALL else 1
    plan, table, phases_h, runs, room = planned(
        tier, nthreads, x.shape, shape, stride, padding, dilation, groups, y.itemsize
    )
    packed = rows.panels(w, tier, groups, runs)
    with workspace.borrow(room) as at:
        kernel(tier, y.itemsize == 4)(
            address(plan), address(x), beyond, address(table), address(phases_h), packed.at, address(packed.more),
            address(offset), address(factor), address(bias), address(scales), *ends, border, address(y), at, nthreads,
        )  # fmt: skip


# -- linear layers of floats ----------------------------------------------------------------------------------------


@functools.cache
def _quantized(tier: str) -> Any:
    quantize, layer = quantize_rows(tier), kernel(tier, True)

    @jit(tag=tier)
    def quantized(  # type: ignore[no-untyped-def]
        m, k, x, static, plan, table, phases_h, packed, more, factor, bias, y, work, scales_at, q_at, quantizers,
        nthreads,
    ):  # fmt: skip
        q, scales = work + q_at, work + scales_at
        quantize(m, k, x, q, static, scales, quantizers)
        layer(
            plan, q, AROUND * k, table, phases_h, packed, more, 0, factor, bias, scales, 0, 0, 0, 0, y, work, nthreads
        )

    return quantized


@functools.lru_cache(maxsize=512)
def _linear(tier: str, count: int, m: int, n: int, k: int) -> tuple[Any, ...]:
    """What does not change from call to call: kernel, runs, bytes of scratch memory, arguments, and their memory."""
    nthreads = count if m * n * k >= SMALL else 1
    plan, table, phases_h, runs, room = planned(tier, nthreads, (1, m, 1, k), (n, 1, 1, k), 1, 0, 1, 1, 4)
    q_at = room + 4 * m + -(room + 4 * m) % workspace.ALIGN
    first, last = (address(plan), address(table), address(phases_h)), (room, q_at, shares(m * k), nthreads)
    return _quantized(tier), runs, q_at + (m + AROUND) * k, first, last, (plan, table, phases_h)


def linear(x: Array, w: Array, factor: Array, bias: Array | None, x_scale: float | None, y: Array) -> None:
    """y (M, N) = the layer of x (M, K) floats, each row quantized by a scale of its own, or by `x_scale`."""
    n, k = w.shape
    m, tier = x.size // k if k else y.size // n, machine.tier()
    run, runs, room, first, last, _ = _linear(tier, threads.get_num_threads(), m, n, k)
    packed = rows.panels(w, tier, 1, runs)
    with workspace.borrow(room) as work:
        run(
            m, k, address(x), x_scale or 0.0, *first, packed.at, address(packed.more), address(factor), address(bias),
            address(y), work, *last,
        )  # fmt: skip
