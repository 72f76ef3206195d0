"""Convolution and its gradients as implicit matrix products: the tile reads the image through a table (plan.py).

A task is one strip of rows of one image and one group: it copies what the strip reads into planes in its thread's
scratch memory, walks the tile over them, and writes finished rows. Every output is one sum over channels and taps in
the same order, however the work is cut.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cpu import gather, machine, threads, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from . import FEW, im2col, lines
from . import plan as plans
from .geometry import Geometry, Pair, geometry
from .plan import (
    C_IN,
    C_OUT,
    COLS,
    CUTS,
    GROUPS,
    OUT_BASE_H,
    OUT_BASE_W,
    OUT_H,
    OUT_STEP_H,
    OUT_STEP_W,
    OUT_W,
    PHASES,
    PITCH,
    PLANES,
    REACH,
    ROWS,
    SCRATCH,
    SRC_H,
    SRC_STEP_H,
    SRC_STEP_W,
    SRC_W,
    STRIP_ROWS,
    STRIPS,
    TAPS,
    W_GROUP,
    W_IN,
    W_OUT,
    WIDTH,
    Plan,
)

Array = NDArray[Any]


class _Kernels(NamedTuple):
    """The compiled functions for one dtype, tier and tile."""

    convolve: Any
    tile: tuple[int, int]


@functools.cache
def _fill(dtype: str, nlanes: int) -> Any:
    """Copy rows [first, first + count) of some channels' planes out of the source, zeros where they leave it."""
    size, pointer = np.dtype(dtype).itemsize, gather.pointer(dtype)
    near, apart = lines.plane(dtype, nlanes, 1), lines.plane(dtype, nlanes, 2)

    @jit(inner=True)
    def fill(numbers, bases, source, channels, first, count, planes):
        height, width, pitch = numbers[SRC_H], numbers[SRC_W], numbers[PITCH]
        step_h, step_w = numbers[SRC_STEP_H], numbers[SRC_STEP_W]
        area, after = height * width * size, numbers[PLANES] * size
        for f in range(numbers[PHASES]):
            row, base, to = bases[0, f] + first * step_h, bases[1, f], planes + f * count * pitch * size
            if step_w == 1:
                near((source, area, channels, height, width, row, base, step_h, to, after, count, pitch))
            elif step_w == 2:
                apart((source, area, channels, height, width, row, base, step_h, to, after, count, pitch))
            else:
                # Columns [left, right) of the plane come from the source: 0 <= base + j * step < width.
                left = min(pitch, max(0, (-base + step_w - 1) // step_w))
                right = max(left, min(pitch, (width - base + step_w - 1) // step_w))
                for c in range(channels):
                    for i in range(count):
                        src = pointer(source + c * area + (row + i * step_h) * width * size)
                        dst = pointer(to + c * after + i * pitch * size)
                        inside = 0 <= row + i * step_h < height
                        for j in range(pitch):
                            dst[j] = src[base + j * step_w] if inside and left <= j < right else nothing

    nothing = np.dtype(dtype).type(0)
    return fill


@functools.cache
def _kernels(dtype: str, tier: str, nrows: int, nvectors: int) -> _Kernels:
    """The kernels with a tile of `nrows` x `nvectors`."""
    tag = f"{dtype} {tier} {nrows}x{nvectors}"
    size, lanes = np.dtype(dtype).itemsize, gather.lanes(dtype, tier)
    ncols = nvectors * lanes
    pointer = gather.pointer(dtype)
    wide, narrow = gather.product(dtype, nrows, nvectors, lanes), gather.product(dtype, nrows, 1, lanes)
    fill = _fill(dtype, lanes)
    out_of, out_apart = lines.unload(dtype, lanes, 1), lines.unload(dtype, lanes, 2)
    turn, pick = gather.turn(dtype, lanes, False), lines.pick(dtype, lanes)

    @jit(inner=True)
    def pack(panel, slot, numbers, taps, ordered, weights, packed):
        """Weights as the tile reads them: (panel of nrows outputs, channel, tap, row), short panels end in zeros."""
        c_in, c_out, ntaps = numbers[C_IN], numbers[C_OUT], numbers[TAPS]
        npanels = (c_out + nrows - 1) // nrows
        group, first = panel // npanels, panel % npanels * nrows
        w, to = weights + group * numbers[W_GROUP] * size, packed + panel * nrows * c_in * ntaps * size
        full = min(nrows, c_out - first)
        if full < nrows:
            clear = pointer(to)
            for i in range(nrows * c_in * ntaps):
                clear[i] = 0
        step = numbers[W_OUT] * size
        if ordered and numbers[W_IN] == ntaps:
            for r in range(0, full, lanes):
                source = w + (first + r) * step
                turn((source, step, min(lanes, full - r), c_in * ntaps, to + r * size, nrows * size))
            return
        for c in range(c_in):
            at = first * numbers[W_OUT] + c * numbers[W_IN]
            for r in range(0, full, lanes):
                here, line = to + (c * ntaps * nrows + r) * size, nrows * size
                if ordered:
                    turn((w + at * size + r * step, step, min(lanes, full - r), ntaps, here, line))
                else:
                    pick((w + at * size + r * step, step, min(lanes, full - r), taps, ntaps, here, line))

    @jit(inner=True)
    def strip(task, slot, numbers, bases, cols, rows, source, weights, packed, bias, out, scratch):
        """One strip of one image and group; where there are few of these, some of its panels of outputs."""
        groups, strips, c_in, c_out = numbers[GROUPS], numbers[STRIPS], numbers[C_IN], numbers[C_OUT]
        pitch, width, planes, depth = numbers[PITCH], numbers[WIDTH], numbers[PLANES], c_in * numbers[TAPS]
        cut, task = task % numbers[CUTS], task // numbers[CUTS]
        image, rest = task // (groups * strips), task % (groups * strips)
        group, first = rest // strips, rest % strips * numbers[STRIP_ROWS]
        count = min(numbers[STRIP_ROWS], numbers[ROWS] - first)
        ncol = numbers[COLS]
        held = scratch + slot * numbers[SCRATCH]
        at = source + (image * groups + group) * c_in * numbers[SRC_H] * numbers[SRC_W] * size
        fill(numbers, bases, at, c_in, first, numbers[STRIP_ROWS] + numbers[REACH], held)
        # The last tile may read beyond the last plane; what it finds there is not written, but must be a number that
        # costs no time.
        slack = pointer(held + c_in * planes * size)
        for j in range(ncols):
            slack[j] = 0
        products = held + (c_in * planes + ncols) * size
        made, run = pointer(products), (count - 1) * pitch + ncol
        npanels = (c_out + nrows - 1) // nrows
        biases, y = pointer(bias), pointer(out)
        area, step = numbers[OUT_H] * numbers[OUT_W], numbers[OUT_STEP_W]
        # Where the strip's outputs are one run of memory (1x1 windows), full tiles are written in place.
        flat = pitch == ncol and ncol == numbers[OUT_W] and step == 1 and numbers[OUT_STEP_H] == 1
        for panel in range(cut * npanels // numbers[CUTS], (cut + 1) * npanels // numbers[CUTS]):
            full = min(nrows, c_out - panel * nrows)
            if packed != 0:
                a, lines, along = packed + (group * npanels + panel) * nrows * depth * size, rows, nrows
            else:  # where they are: a short last panel has a table of its own
                a = weights + (group * numbers[W_GROUP] + panel * nrows * numbers[W_OUT]) * size
                lines, along = rows + (nrows * 8 if full < nrows else 0), 1
            channel = group * c_out + panel * nrows
            start = (image * groups * c_out + channel) * area
            start += (numbers[OUT_BASE_H] + first * numbers[OUT_STEP_H]) * numbers[OUT_W] + numbers[OUT_BASE_W]
            j = 0
            if flat and full == nrows:
                while j + ncols <= run:
                    wide(depth, a, lines, along, held + j * size, cols, out + (start + j) * size, area, 0)
                    j += ncols
            written = j
            while j < run:
                if run - j > ncols - lanes:
                    wide(depth, a, lines, along, held + j * size, cols, products + j * size, width, 0)
                    j += ncols
                else:
                    narrow(depth, a, lines, along, held + j * size, cols, products + j * size, width, 0)
                    j += lanes
            add = bias + channel * size if bias != 0 else 0
            if flat:
                from_, to, rest = products + written * size, out + (start + written) * size, run - written
                out_of((from_, width * size, 0, to, area * size, 0, full, 1, rest, add))
                if bias != 0:
                    for r in range(full if written else 0):
                        for q in range(written):
                            y[start + r * area + q] += biases[channel + r]
            elif step <= 2:
                to, line = out + start * size, numbers[OUT_STEP_H] * numbers[OUT_W] * size
                job = (products, width * size, pitch * size, to, area * size, line, full, count, ncol, add)
                if step == 1:
                    out_of(job)
                else:
                    out_apart(job)
            else:
                for r in range(full):
                    to, at = start + r * area, r * width
                    for _ in range(count):
                        for q in range(ncol):
                            y[to + q * step] = made[at + q]
                        to += numbers[OUT_STEP_H] * numbers[OUT_W]
                        at += pitch

    @jit(tag=tag)
    def convolve(
        images, numbers, bases, taps, ordered, cols, rows, source, weights, bias, out, packed, scratch, nthreads,
    ):  # fmt: skip
        npanels = (numbers[C_OUT] + nrows - 1) // nrows
        if packed != 0:
            parallel_for(pack, numbers[GROUPS] * npanels, nthreads, (numbers, taps, ordered, weights, packed))
        tasks = images * numbers[GROUPS] * numbers[STRIPS] * numbers[CUTS]
        job = (numbers, bases, cols, rows, source, weights, packed, bias, out, scratch)
        parallel_for(strip, tasks, nthreads, job)

    return _Kernels(convolve, (nrows, ncols))


class _Gradient(NamedTuple):
    """The compiled gradient for the filters, and the columns of its tile."""

    sums: Any
    columns: int


# Dot products that share the loads of dy where a group has one filter (depthwise).
DOTS = 5


@functools.cache
def _gradient(dtype: str, tier: str, nvectors: int) -> _Gradient:
    """dw as a product over pixels: the tile's rows are channels and taps of x, its columns filters, with dy turned."""
    size, lanes, nrows = np.dtype(dtype).itemsize, gather.lanes(dtype, tier), gather.rows(tier)
    ncols = nvectors * lanes
    pointer = gather.pointer(dtype)
    tile, across = gather.product(dtype, nrows, nvectors, lanes), gather.turn(dtype, lanes, False)
    fill = _fill(dtype, lanes)

    @jit(inner=True)
    def spread(task, slot, numbers, bases, x, first, planes):
        """One channel of one image into its planes."""
        held = planes + task * numbers[PLANES] * size
        area = numbers[SRC_H] * numbers[SRC_W]
        channels = numbers[GROUPS] * numbers[C_IN]
        at = x + (first * channels + task) * area * size
        fill(numbers, bases, at, 1, 0, numbers[ROWS] + numbers[REACH], held)

    @jit(inner=True)
    def turn(task, slot, numbers, dy, first, turned):
        """`ncols` filters of one image and group: dy with the filters side by side, zeros between the rows."""
        c_out, pitch, ncol = numbers[C_OUT], numbers[PITCH], numbers[COLS]
        blocks = (c_out + ncols - 1) // ncols
        group_of_image, block = task // blocks, task % blocks
        full = min(ncols, c_out - block * ncols)
        area = numbers[ROWS] * ncol
        src = dy + ((first * numbers[GROUPS] + group_of_image) * c_out + block * ncols) * area * size
        held = turned + task * numbers[ROWS] * pitch * ncols * size
        to = pointer(held)
        for i in range(numbers[ROWS]):
            # What is written, a row of all filters, stays in the first cache.
            at = i * pitch * ncols
            for k in range(0, full, lanes):
                source, target = src + (k * area + i * ncol) * size, held + (at + k) * size
                across((source, area * size, min(lanes, full - k), ncol, target, ncols * size))
            for q in range(ncol if full < ncols else 0):
                for k in range(full, ncols):
                    to[at + q * ncols + k] = 0
            for q in range(ncol * ncols, pitch * ncols):
                to[at + q] = 0

    @jit(inner=True)
    def multiply(task, slot, images, numbers, depth, rows, cols, planes, turned, sums, add):
        """`nrows` rows of dw (turned) for one group and block of filters, over all images of the chunk in order."""
        blocks, bands = (numbers[C_OUT] + ncols - 1) // ncols, (depth + nrows - 1) // nrows
        groups, block, band = numbers[GROUPS], task // bands, task % bands
        group, run = block // blocks, (numbers[ROWS] - 1) * numbers[PITCH] + numbers[COLS]
        for i in range(images):
            a = planes + (i * groups + group) * numbers[C_IN] * numbers[PLANES] * size
            b = turned + (i * groups * blocks + block) * numbers[ROWS] * numbers[PITCH] * ncols * size
            c = sums + task * nrows * ncols * size
            tile(run, a, rows + band * nrows * 8, 1, b, cols, c, ncols, min(1, add + i))

    @jit(inner=True)
    def write(task, slot, numbers, depth, sums, dw):
        """Some filters of dw, out of the turned sums."""
        c_out = numbers[C_OUT]
        blocks, bands = (c_out + ncols - 1) // ncols, (depth + nrows - 1) // nrows
        group, block = task // blocks, task % blocks
        full = min(ncols, c_out - block * ncols)
        src = sums + task * bands * nrows * ncols * size
        to = dw + (group * c_out + block * ncols) * depth * size
        for i in range(0, depth, lanes):
            count = min(lanes, depth - i)
            across((src + i * ncols * size, ncols * size, count, full, to + i * size, depth * size))

    @jit(tag=f"{dtype} {tier} {nvectors}")
    def sums(images, chunk, numbers, bases, depth, rows, cols, dy, x, dw, planes, turned, totals, nthreads):
        groups, c_out = numbers[GROUPS], numbers[C_OUT]
        blocks, bands = (c_out + ncols - 1) // ncols, (depth + nrows - 1) // nrows
        for first in range(0, images, chunk):
            some = min(chunk, images - first)
            parallel_for(spread, some * groups * numbers[C_IN], nthreads, (numbers, bases, x, first, planes))
            parallel_for(turn, some * groups * blocks, nthreads, (numbers, dy, first, turned))
            args = (some, numbers, depth, rows, cols, planes, turned, totals, first)
            parallel_for(multiply, groups * blocks * bands, nthreads, args)
        parallel_for(write, groups * blocks, nthreads, (numbers, depth, totals, dw))

    return _Gradient(sums, ncols)


@functools.cache
def _depthwise_gradient(dtype: str, tier: str) -> Any:
    """dw where a group has one filter: dot products of dy, laid out as the planes are, with x under each tap."""
    size, lanes = np.dtype(dtype).itemsize, gather.lanes(dtype, tier)
    pointer = gather.pointer(dtype)
    dots, fill = gather.dots(dtype, DOTS, lanes), _fill(dtype, lanes)

    @jit(inner=True)
    def filters(task, slot, images, numbers, bases, depth, rows, dy, x, dw, scratch, scratch_bytes):
        """The filter of one group, over all images in order."""
        groups, c_in, planes = numbers[GROUPS], numbers[C_IN], numbers[PLANES]
        pitch, ncol = numbers[PITCH], numbers[COLS]
        area_x, area_y = numbers[SRC_H] * numbers[SRC_W], numbers[ROWS] * ncol
        run = (numbers[ROWS] * pitch + lanes - 1) // lanes * lanes
        held = scratch + slot * scratch_bytes
        laid, totals = held + (c_in * planes + lanes) * size, held + (c_in * planes + lanes + run) * size
        slack, to = pointer(held + c_in * planes * size), pointer(laid)
        for j in range(lanes):
            slack[j] = 0
        for j in range(run):
            to[j] = 0
        for i in range(images):
            at = x + (i * groups + task) * c_in * area_x * size
            fill(numbers, bases, at, c_in, 0, numbers[ROWS] + numbers[REACH], held)
            src = pointer(dy + (i * groups + task) * area_y * size)
            for p in range(numbers[ROWS]):
                for q in range(ncol):
                    to[p * pitch + q] = src[p * ncol + q]
            for t in range(0, depth, DOTS):
                dots(run, laid, held, rows + t * 8, totals + t * size, min(i, 1))
        made, found = pointer(dw + task * depth * size), pointer(totals)
        for t in range(depth):
            made[t] = found[t]

    @jit(tag=f"{dtype} {tier}")
    def gradient(images, numbers, bases, depth, rows, dy, x, dw, scratch, scratch_bytes, nthreads):
        args = (images, numbers, bases, depth, rows, dy, x, dw, scratch, scratch_bytes)
        parallel_for(filters, numbers[GROUPS], nthreads, args)

    return gradient


# Multiply-adds below which waking a second thread costs more than it saves.
SMALL = 1 << 18


def _threads(work: int) -> int:
    return threads.get_num_threads() if work >= SMALL else 1


@functools.cache
def _row_table(nrows: int) -> Array:
    return np.arange(nrows, dtype=np.int64)


@functools.lru_cache(maxsize=512)
def _row_tables(nrows: int, outputs: int, step: int) -> Array:
    """Where the filters of a panel begin that are read where they lie, and those of the last one, the last of all
    repeated.
    """
    row = np.arange(nrows)
    return np.concatenate([row, np.minimum(row, (outputs - 1) % nrows)]) * step


def _kernels_for(dtype: str, outputs: int) -> _Kernels:
    """The kernels for this thread's tier, with a tile that suits the number of output channels in a group."""
    tier = machine.floats()
    return _kernels(dtype, tier, 1, 4) if outputs == 1 else _kernels(dtype, tier, gather.rows(tier), 2)


def _run(kernels: _Kernels, plan: Plan, images: int, source: Array, w: Array, b: Array | None, out: Array) -> None:
    nthreads = _threads(out.size * int(plan.numbers[C_IN] * plan.numbers[TAPS]))
    size = source.itemsize
    direct = plan.direct and images * int(plan.numbers[ROWS] * plan.numbers[COLS]) <= FEW
    outputs, step = int(plan.numbers[C_OUT]), int(plan.numbers[W_OUT])
    rows = _row_tables(kernels.tile[0], outputs, step) if direct else _row_table(kernels.tile[0])
    packed = 0 if direct else -(-plan.packed * size // 64) * 64
    with workspace.borrow(packed + nthreads * int(plan.numbers[SCRATCH])) as scratch:
        kernels.convolve(
            images,
            plan.numbers,
            plan.bases,
            address(plan.taps),
            plan.ordered,
            address(plan.cols),
            address(rows),
            address(source),
            address(w),
            address(b),
            address(out),
            0 if direct else scratch,
            scratch + packed,
            nthreads,
        )


def _plain(a: Array) -> Array:
    """`a` in C order and aligned, copied where it is not."""
    a = np.ascontiguousarray(a)
    return a if a.flags.aligned else a.copy()


def conv2d(x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """y = conv2d(x, w) + b"""
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    y = np.empty(g.y_shape, x.dtype)
    if y.size:
        kernels = _kernels_for(gather.name(x), g.k // g.groups)
        plan = plans.forward(g, x.itemsize, kernels.tile)
        _run(kernels, plan, g.n, _plain(x), _plain(w), None if b is None else _plain(b), y)
    return y


def conv2d_dx(
    dy: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dx: a convolution of dy with the turned filters, per phase of the stride."""
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    w = _plain(w)
    if not np.isfinite(w).all():
        # The planes hold zeros around dy, which an infinite weight would turn into NaN; the definition has no such
        # products.
        return im2col.conv2d_dx(dy, w, x_shape, stride, padding, dilation, groups)
    kernels = _kernels_for(gather.name(dy), g.c // g.groups)
    every = plans.backward(g, dy.itemsize, kernels.tile)
    some = [plan for plan in every if len(plan.cols)]  # a phase that no tap meets is zero
    dx = np.empty(g.x_shape, dy.dtype) if len(some) == len(every) else np.zeros(g.x_shape, dy.dtype)
    if dx.size:
        dy = _plain(dy)
        for plan in some:
            _run(kernels, plan, g.n, dy, w, None, dx)
    return dx


# Bytes of planes and turned dy that are made at once: they are read again by every task, out of the shared cache.
CHUNK_BYTES = 4 << 20


class _GradientPlan(NamedTuple):
    plan: Plan
    depth: int
    rows: Array  # where each tap and channel begins in the planes, the last one repeated to fill a tile
    cols: Array  # where each pixel's filters begin


@functools.lru_cache(maxsize=256)
def _gradient_plan(g: Geometry, itemsize: int, nrows: int, ncols: int) -> _GradientPlan:
    plan = plans.forward(g, itemsize, (nrows, ncols), g.p)
    depth = len(plan.cols)
    rows = plan.cols[np.minimum(np.arange(-(-depth // nrows) * nrows), depth - 1)]
    return _GradientPlan(plan, depth, rows, np.arange(g.p * int(plan.numbers[PITCH]), dtype=np.int64) * ncols)


def conv2d_dw(
    dy: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dw: for every tap the product of dy with x under that tap, over all pixels and images."""
    g = geometry(x.shape, tuple(w_shape), stride, padding, dilation, groups)
    dw = np.empty(g.w_shape, x.dtype)
    if not dw.size or not g.n:
        dw[...] = 0
        return dw
    x, dy = _plain(x), _plain(dy)
    name, tier, size, nthreads = gather.name(x), machine.floats(), x.itemsize, _threads(dy.size * dw[0].size)
    lanes = gather.lanes(name, tier)
    if g.k == g.groups:
        work = _gradient_plan(g, size, DOTS, lanes)
        numbers = work.plan.numbers
        run = -(-g.p * int(numbers[PITCH]) // lanes) * lanes
        scratch = (g.c // g.groups * int(numbers[PLANES]) + lanes + run + len(work.rows)) * size
        scratch = -(-scratch // 64) * 64
        with workspace.borrow(nthreads * scratch) as at:
            _depthwise_gradient(name, tier)(
                g.n,
                numbers,
                work.plan.bases,
                work.depth,
                address(work.rows),
                address(dy),
                address(x),
                address(dw),
                at,
                scratch,
                nthreads,
            )
    else:
        kernel = _gradient(name, tier, 1 if g.k // g.groups <= lanes else 2)
        work = _gradient_plan(g, size, gather.rows(tier), kernel.columns)
        numbers = work.plan.numbers
        blocks = -(-g.k // g.groups // kernel.columns)
        planes = -(-g.c * int(numbers[PLANES]) * size // 64) * 64
        turned = g.groups * blocks * g.p * int(numbers[PITCH]) * kernel.columns * size
        chunk = min(g.n, max(1, CHUNK_BYTES // (planes + turned)))
        totals = g.groups * blocks * len(work.rows) * kernel.columns * size
        with workspace.borrow(chunk * (planes + turned) + totals) as at:
            kernel.sums(
                g.n,
                chunk,
                numbers,
                work.plan.bases,
                work.depth,
                address(work.rows),
                address(work.cols),
                address(dy),
                address(x),
                address(dw),
                at,
                at + chunk * planes,
                at + chunk * (planes + turned),
                nthreads,
            )
    if not np.isfinite(dw).all():
        # The gaps between the rows of dy are zeros, which an infinite x beside them turned into NaN; the definition
        # has no such products.
        return im2col.conv2d_dw(dy, x, w_shape, stride, padding, dilation, groups)
    return dw
