"""Depthwise convolution of small images, with channels as lanes: short rows would leave vectors of pixels half empty.

Some channels' images are turned, so that a vector holds one pixel of all of them. An output is then a sum of such
vectors times vectors of weights; a few neighbours are computed at once, for which every pixel is loaded once per row of
the window. Rows of the window outside the image are left out. The gradient for x is the same thing with the filters
turned round, and zeros between the columns of dy where the stride is 2; rows between those of dy are left out, too.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils
from numpy.typing import NDArray

from ..cpu import gather, machine, threads, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import Vectors, counting
from . import cpu, depthwise
from .geometry import Geometry, Pair, geometry

Array = NDArray[Any]

ACROSS = 8  # outputs of a row at once, at most


@functools.cache
def outputs(dtype: str, nlanes: int, s: int, sw: int, across: int) -> Any:
    """`across` neighbouring outputs: f((x, line, w, step, rows, bias, to)).

    x: the first pixel that they read, and bytes from one row to the next; w: `rows` rows of s vectors, step bytes from
    one to the next; bias: a vector.
    """
    vector = nlanes * np.dtype(dtype).itemsize

    def body(builder: ir.IRBuilder, *args: ir.Value) -> None:
        x, line, w, step, rows, bias, to = args
        v = Vectors(builder, gather.element(dtype), nlanes)
        sums = [cgutils.alloca_once_value(builder, v.load(bias)) for _ in range(across)]
        with counting(builder, rows) as i:
            row, weights = builder.add(x, builder.mul(i, line)), builder.add(w, builder.mul(i, step))
            taps = [v.load(weights, t * vector) for t in range(s)]
            for column in range((across - 1) * sw + s):
                pixel = v.load(row, column * vector)
                for j, total in enumerate(sums):
                    if 0 <= column - j * sw < s:
                        builder.store(v.multiply_add(pixel, taps[column - j * sw], builder.load(total)), total)
        for j, total in enumerate(sums):
            v.store(builder.load(total), to, j * vector)

    return gather.outlined(f"channels_{dtype}_{nlanes}_{s}_{sw}_{across}", 7, body)


# Sizes as in geometry.py; `pitch`: pixels from one row of the image to the next, borders included; parts: of the
# images, for threads; turned: whether filters are turned round; ah, aw: distance of the image's rows and columns; bytes
# of scratch memory for the weights and the bias, the image as it comes, the same with borders, the outputs, in all.
Job = namedtuple("Job", "n c h w p q ph pw pitch parts turned ah aw room_w room_x room_b room_y room")


@functools.cache
def kernels(dtype: str, tier: str, r: int, s: int, sh: int, sw: int, across: int) -> Any:
    """The compiled convolution."""
    size, lanes = np.dtype(dtype).itemsize, gather.lanes(dtype, tier)
    vector, pointer = lanes * size, gather.pointer(dtype)
    inward, outward = gather.turn(dtype, lanes, True), gather.turn(dtype, lanes, False)
    some = outputs(dtype, lanes, s, sw, across)
    nothing = np.dtype(dtype).type(0)

    @jit(inner=True)
    def body(task, slot, job, x, w, bias, y, scratch):
        """Some channels of one part of the images."""
        first, part = task // job.parts * lanes, task % job.parts
        count, area_x, area_y = min(lanes, job.c - first), job.h * job.w, job.p * job.q
        weights = scratch + slot * job.room
        raw = weights + job.room_w
        framed, made = raw + job.room_x, raw + job.room_x + job.room_b
        inward((w + first * r * s * size, r * s * size, count, r * s, weights, vector))
        add = pointer(weights + job.room_w - vector)
        for i in range(lanes):
            add[i] = pointer(bias)[first + i] if bias != 0 and i < count else nothing
        if job.turned:
            taps = pointer(weights)
            for t in range(r * s // 2):
                for i in range(lanes):
                    one, other = t * lanes + i, (r * s - 1 - t) * lanes + i
                    taps[one], taps[other] = taps[other], taps[one]
        clear = pointer(framed)
        for i in range(job.h * job.pitch * lanes):
            clear[i] = nothing
        for image in range(job.n * part // job.parts, job.n * (part + 1) // job.parts):
            at = x + (image * job.c + first) * area_x * size
            inward((at, area_x * size, count, area_x, raw, vector))
            for i in range(job.h):
                source, to = pointer(raw + i * job.w * vector), pointer(framed + (i * job.pitch + job.pw) * vector)
                for j in range(job.w):
                    for k in range(lanes):
                        to[j * job.aw * lanes + k] = source[j * lanes + k]
            for p in range(job.p):
                top = p * sh - job.ph
                # Rows of the window at `low` and every `ah` from there meet rows of the image.
                low = max(0, -top)
                low += (-(top + low)) % job.ah
                row = (top + low) // job.ah
                rows = max(0, min((r - low + job.ah - 1) // job.ah, job.h - row))
                line, taps_at = framed + row * job.pitch * vector, weights + low * s * vector
                step = job.ah * s * vector
                for j in range(0, job.q, across):
                    q = min(j, job.q - across)  # the last ones once more
                    to = made + (p * job.q + q) * vector
                    read, add_at = line + q * sw * vector, weights + job.room_w - vector
                    some((read, job.pitch * vector, taps_at, step, rows, add_at, to))
            at = y + (image * job.c + first) * area_y * size
            for i in range(0, area_y, lanes):
                outward((made + i * vector, vector, min(lanes, area_y - i), count, at + i * size, area_y * size))

    @jit(tag=f"{dtype} {tier} {r} {s} {sh} {sw} {across}")
    def convolve(
        n, c, h, wd, p, q, ph, pw, pitch, parts, turned, ah, aw, room_w, room_x, room_b, room_y, room, x, w, bias, y,
        scratch, nthreads,
    ):  # fmt: skip
        job = Job(n, c, h, wd, p, q, ph, pw, pitch, parts, turned, ah, aw, room_w, room_x, room_b, room_y, room)
        parallel_for(body, (c + lanes - 1) // lanes * parts, nthreads, (job, x, w, bias, y, scratch))

    return convolve


TASKS = 8


@functools.lru_cache(maxsize=512)
def _plan(g: Geometry, size: int, lanes: int, turned: bool) -> tuple[tuple[int, ...], int]:
    """The numbers of Job, and outputs at once."""
    (h, w), (p, q) = ((g.p, g.q), (g.h, g.w)) if turned else ((g.h, g.w), (g.p, g.q))
    ph, pw = (g.r - 1 - g.padding[0], g.s - 1 - g.padding[1]) if turned else g.padding
    up = lambda pixels: -(-pixels // lanes) * lanes * lanes * size
    (ah, aw), sw = (g.stride, 1) if turned else ((1, 1), g.stride[1])
    pitch = max((w - 1) * aw + 1 + pw, (q - 1) * sw + g.s)
    rooms = up(g.r * g.s + 1), up(h * w), up(h * pitch), up(p * q)
    parts = min(g.n, -(-TASKS // -(-g.c // lanes)))
    numbers = (g.n, g.c, h, w, p, q, ph, pw, pitch, parts, int(turned), ah, aw, *rooms, sum(rooms))
    return numbers, -(-q // -(-q // ACROSS))


def _run(g: Geometry, x: Array, w: Array, b: Array | None, y: Array, turned: bool) -> Array:
    dtype, tier = gather.name(x), machine.floats()
    numbers, across = _plan(g, x.itemsize, gather.lanes(dtype, tier), turned)
    nthreads = threads.get_num_threads() if y.size * g.r * g.s >= cpu.SMALL else 1
    with workspace.borrow(nthreads * numbers[-1]) as scratch:
        kernels(dtype, tier, g.r, g.s, *((1, 1) if turned else g.stride), across)(
            *numbers, address(x), address(w), address(b), address(y), scratch, nthreads
        )
    return y


def conv2d(x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """y = conv2d(x, w) + b"""
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    if not np.isfinite(w).all():
        # Beside the border an infinite weight meets zeros; rows of them are left out here.
        return depthwise.conv2d(x, w, b, stride, padding, dilation, groups)
    b = None if b is None else cpu._plain(b)
    return _run(g, cpu._plain(x), cpu._plain(w), b, np.empty(g.y_shape, x.dtype), False)


def conv2d_dx(
    dy: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dx: the convolution of dy with the filters turned round."""
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    if not np.isfinite(w).all():
        # Beside dy they would meet zeros, of which the definition knows nothing.
        return depthwise.conv2d_dx(dy, w, x_shape, stride, padding, dilation, groups)
    return _run(g, cpu._plain(dy), cpu._plain(w), None, np.empty(g.x_shape, dy.dtype), True)
