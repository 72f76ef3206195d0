"""Integer convolution: the windows of the quantized images as rows of a matrix, and the integer product.

The quantized image lies with its channels last, zeros around it. Then the taps of a window are runs of bytes, and a
window is one row of a matrix, (R, S, C / groups) long; the filters are laid out to match.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu import machine
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import PACKED, address
from .cpu import multiply, plain
from .stages import quantize, scale_of, shares

Array = NDArray[Any]
Pair = int | tuple[int, int]

i8, i32, f32 = pointer("int8"), pointer("int32"), pointer("float32")


@functools.cache
def _quantize_images(tier: str) -> Any:
    run = quantize(tier)

    @jit(inner=True)
    def image_scale(task, slot, size, x, static, scales):  # type: ignore[no-untyped-def]
        f32(scales)[task] = scale_of(size, x + task * size * 4, static)

    @jit(inner=True)
    def plane(task, slot, c, size, x, q, scales):  # type: ignore[no-untyped-def]
        """Task: one channel of one image, still in its place."""
        run(size, x + task * size * 4, f32(scales)[task // c], q + task * size)

    @jit(inner=True)
    def image_row(task, slot, c, h, w, ph, pw, q, image):  # type: ignore[no-untyped-def]
        """Task: one row of one image, (C, W) -> (W, C)."""
        item, row = task // h, task % h
        to = i8(image + ((item * (h + 2 * ph) + row + ph) * (w + 2 * pw) + pw) * c)
        for channel in range(c):
            line = i8(q + ((item * c + channel) * h + row) * w)
            for j in range(w):
                to[j * c + channel] = line[j]

    @jit(tag=tier)
    def quantize_images(n, c, h, w, ph, pw, x, q, image, static, scales, nthreads):  # type: ignore[no-untyped-def]
        """x (N, C, H, W) -> q, and the inside of image (N, H + 2 ph, W + 2 pw, C); the scale of each."""
        parallel_for(image_scale, n, nthreads, (c * h * w, x, np.float32(static), scales))
        parallel_for(plane, n * c, nthreads, (c, h * w, x, q, scales))
        parallel_for(image_row, n * h, nthreads, (c, h, w, ph, pw, q, image))

    return quantize_images


@jit(inner=True)
def _window_row(task, slot, q_size, p_size, r, s, sh, sw, dh, dw, c, groups, height, width, image, to, room):  # type: ignore[no-untyped-def]
    """Task: the windows of one row of outputs, for all groups: (N, groups, P * Q, room)."""
    item, p = task // p_size, task % p_size
    cg = c // groups
    for g in range(groups):
        for q in range(q_size):
            row = i8(to + (((item * groups + g) * p_size + p) * q_size + q) * room)
            at = 0
            for i in range(r):
                line = image + ((item * height + p * sh + i * dh) * width + q * sw) * c + g * cg
                if dw == 1 and groups == 1:
                    source = i8(line)
                    for j in range(s * c):
                        row[at + j] = source[j]
                    at += s * c
                else:
                    for tap in range(s):
                        source = i8(line + tap * dw * c)
                        for j in range(cg):
                            row[at + j] = source[j]
                        at += cg
            for j in range(at, room):
                row[j] = 0


@jit
def _windows(n, p_size, q_size, r, s, sh, sw, dh, dw, c, groups, height, width, image, to, room, nthreads):  # type: ignore[no-untyped-def]
    job = (q_size, p_size, r, s, sh, sw, dh, dw, c, groups, height, width, image, to, room)
    parallel_for(_window_row, n * p_size, nthreads, job)


@jit(inner=True)
def _finish_plane(task, slot, k, size, y, factor, sums, scales, w_scale, b):  # type: ignore[no-untyped-def]
    """Task: one output channel of one image."""
    item, channel = task // k, task % k
    acc, to = i32(y + task * size * 4), f32(y + task * size * 4)
    less = factor * i32(sums)[channel]
    scale = f32(scales)[item] * f32(w_scale)[channel]
    if b:
        bias = f32(b)[channel]
        for j in range(size):
            to[j] = np.float32(np.int32(acc[j] - less)) * scale + bias
    else:
        for j in range(size):
            to[j] = np.float32(np.int32(acc[j] - less)) * scale


@jit
def _finish_planes(n, k, size, y, factor, sums, scales, w_scale, b, nthreads):  # type: ignore[no-untyped-def]
    """In place: y[n, k, :] = (acc[n, k, :] - factor * sums[k]) * (scales[n] * w_scale[k]) + b[k]"""
    parallel_for(_finish_plane, n * k, nthreads, (k, size, y, factor, sums, scales, w_scale, b))


def int8_conv2d(
    x: Array, w_q: Array, w_scale: Array, b: Array | None,
    stride: Pair, padding: Pair, dilation: Pair, groups: int, x_scale: float | None,
) -> Array:  # fmt: skip
    (sh, sw), (ph, pw), (dh, dw) = (v if isinstance(v, tuple) else (v, v) for v in (stride, padding, dilation))
    (n, c, h, w), (k, cg, r, s) = x.shape, w_q.shape
    height, width = h + 2 * ph, w + 2 * pw
    p_size, q_size = (height - dh * (r - 1) - 1) // sh + 1, (width - dw * (s - 1) - 1) // sw + 1
    kg, length = k // groups, cg * r * s
    room = length + -length % 4
    floats, w_scale, bias = plain(x), plain(w_scale), None if b is None else plain(b)
    acc = np.empty((n, k, p_size * q_size), np.int32)
    q = np.empty(floats.shape, np.int8)
    image, scales = np.zeros((n, height, width, c), np.int8), np.empty(n, np.float32)
    _quantize_images(machine.tier())(
        n, c, h, w, ph, pw, address(floats), address(q), address(image),
        x_scale or 0.0, address(scales), shares(floats.size),
    )  # fmt: skip
    # Filters as (groups, K / groups, R * S * C / groups), padded as the windows are.
    filters = np.zeros((groups, kg, room), np.int8)
    filters[..., :length] = w_q.transpose(0, 2, 3, 1).reshape(groups, kg, length)
    sums = filters.sum(axis=-1, dtype=np.int32)
    each = max(1, PACKED // max(1, p_size * q_size * room * groups))  # images whose windows are laid out at a time
    windows = np.empty((min(each, n), groups, p_size * q_size, room), np.int8)
    factor = 0
    for first in range(0, n, each):
        some = min(each, n - first)
        _windows(
            some, p_size, q_size, r, s, sh, sw, dh, dw, c, groups, height, width,
            address(image[first:]), address(windows), room, shares(some * p_size * q_size * groups * room),
        )  # fmt: skip
        if groups == 1:
            factor = multiply(filters, windows[:some, 0], acc[first : first + some])
        else:
            for i in range(some):
                factor = multiply(filters, windows[i], acc[first + i].reshape(groups, kg, p_size * q_size))
    _finish_planes(
        n, k, p_size * q_size, address(acc), factor, address(sums), address(scales), address(w_scale),
        address(bias), shares(acc.size),
    )  # fmt: skip
    return acc.view(np.float32).reshape(n, k, p_size, q_size).astype(x.dtype, copy=False)
