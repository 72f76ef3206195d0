"""Integer products on the register tile, with the dot product that the tier has.

    avx512vnni (amx)   vpdpbusd, 4 products per lane. It wants one side unsigned: B goes in as b + 128, and 128 * (sum
                       of A's row) is taken off again. Sums may wrap on the way, which is exact modulo 2^32, and the
                       result fits
    avx512, avx2       vpmaddwd on int16, 2 products per lane
    generic            int32 multiply and add

All read k along memory in whole elements of 4 bytes, so rows are padded with zeros. In a layer A is the side whose
rows are summed cheaply: the quantized x of `int8_linear`, the filters of `int8_conv2d`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import machine, threads
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import PACKED, SMALL, address, multiply_at

Array = NDArray[Any]
Pair = int | tuple[int, int]

# Kind of the tile; type of a number in an element; numbers in an element; what is added per unit of A's row sum.
_FORMS = {
    "amx": ("s8u8", np.int8, 4, 128),
    "avx512vnni": ("s8u8", np.int8, 4, 128),
    "avx512": ("s16", np.int16, 2, 0),
    "avx2": ("s16", np.int16, 2, 0),
    "generic": ("i32", np.int32, 1, 0),
}

i8, i32, f32 = pointer("int8"), pointer("int32"), pointer("float32")

# --- the product -----------------------------------------------------------------------------------------------------


def _elements(q: Array) -> Array:
    """q (B, M, K) int8 -> (B, M, K padded): numbers as the tile wants them, K along memory; q itself if it serves."""
    _, number, per, _ = _FORMS[machine.tier()]
    k = q.shape[-1]
    if number == np.int8 and k % per == 0 and q.strides[-1] == 1:
        return q
    out = np.zeros((*q.shape[:-1], k + -k % per), number)
    out[..., :k] = q
    return out


def _multiply(a: Array, b: Array, c: Array) -> int:
    """c = a @ b^T.    a (B or 1, M, K), b (B or 1, N, K) int8, c (B, M, N) int32

    Gives the factor f of what c has too much: f * (sum of a's row).
    """
    kind, _, per, factor = _FORMS[machine.tier()]
    a, b = _elements(a), _elements(b)
    (batch, m, n), k = c.shape, a.shape[2] // per
    if k == 0 or c.size == 0:
        c.fill(0)
        return 0
    multiply_at(
        kind, batch, m, n, k, address(a), a.strides[0] if len(a) > 1 else 0, a.strides[1], 4,
        address(b), b.strides[0] if len(b) > 1 else 0, 4, b.strides[1], address(c), *c.strides[:2],
    )  # fmt: skip
    return factor


def _threads(work: int) -> int:
    """Threads for a pass over `work` numbers: a few microseconds of work each, at least."""
    return threads.get_num_threads() if work >= SMALL // 8 else 1


@jit(inner=True)
def _sum_some(task, slot, each, rows, k, q, row_step, step, sums):  # type: ignore[no-untyped-def]
    to = i32(sums)
    for row in range(task * each, min((task + 1) * each, rows)):
        at = i8(q + row * row_step)
        total = 0
        if step == 1:
            for p in range(k):
                total += at[p]
        else:
            for p in range(k):
                total += at[p * step]
        to[row] = total


@jit
def _row_sums(rows, k, q, row_step, step, sums, nthreads):  # type: ignore[no-untyped-def]
    """sums[i] = sum over p of q[i, p]"""
    each = max(1, 65536 // max(k, 1))
    parallel_for(_sum_some, (rows + each - 1) // each, nthreads, (each, rows, k, q, row_step, step, sums))


@jit(inner=True)
def _take_off_some(task, slot, each, rows, n, c, sums, factor):  # type: ignore[no-untyped-def]
    for row in range(task * each, min((task + 1) * each, rows)):
        at, less = i32(c + row * n * 4), factor * i32(sums)[row]
        for j in range(n):
            at[j] = np.int32(at[j] - less)


@jit
def _take_off(rows, n, c, sums, factor, nthreads):  # type: ignore[no-untyped-def]
    """c[i, :] -= factor * sums[i]"""
    each = max(1, 16384 // n)
    parallel_for(_take_off_some, (rows + each - 1) // each, nthreads, (each, rows, n, c, sums, factor))


def int8_matmul(a: Array, b: Array) -> Array:
    k, n = b.shape
    rows = a if a.ndim == 2 else a.reshape(math.prod(a.shape[:-1]), k)
    m = rows.shape[0]
    c = np.empty((1, m, n), np.int32)
    if factor := _multiply(rows[None], b.T[None], c):
        sums = np.empty(m, np.int32)
        _row_sums(m, k, address(rows), *rows.strides, address(sums), _threads(m * k))
        _take_off(m, n, address(c), address(sums), factor, _threads(m * n))
    return c.reshape(*a.shape[:-1], n)


# --- quantize, dequantize --------------------------------------------------------------------------------------------

LARGEST = np.float32(127)
# Adding and taking off 1.5 * 2^23 rounds to whole numbers, half to even, as `rint` does.
MAGIC = np.float32(12582912)
# A float's bits without the sign grow with its magnitude, and those of NaN are largest: an integer maximum, which
# vectorises, finds max|x| and carries NaN.
MAGNITUDE = np.int32(0x7FFFFFFF)


@intrinsic
def float_of(typing: Any, bits: Any) -> Any:
    """The float32 with these bits."""

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), emit


@jit(inner=True)
def _scale(n, x, static):  # type: ignore[no-untyped-def]
    """The scale of n floats: max|x| / 127, 1 where that is 0; or the static one, if it is not 0."""
    if static != np.float32(0):
        return static
    bits, top = i32(x), np.int32(0)
    for p in range(n):
        top = max(top, np.int32(bits[p] & MAGNITUDE))
    scale = float_of(top) / LARGEST
    return np.float32(1) if scale == np.float32(0) else scale


@jit(inner=True)
def _quantized(x, scale):  # type: ignore[no-untyped-def]
    """One float as a whole float in [-127, 127]; NaN as 0."""
    v = x / scale
    v = LARGEST if v > LARGEST else v
    v = -LARGEST if v < -LARGEST else v
    v = v if v == v else np.float32(0)
    return (v + MAGIC) - MAGIC


@jit(inner=True)
def _quantize_some(task, slot, each, rows, k, room, x, q, static, scales, sums):  # type: ignore[no-untyped-def]
    for row in range(task * each, min((task + 1) * each, rows)):
        xs, to = f32(x + row * k * 4), i8(q + row * room)
        scale = _scale(k, x + row * k * 4, static)
        total = 0
        for p in range(k):
            whole = np.int32(_quantized(xs[p], scale))
            total += whole  # type: ignore[assignment]
            to[p] = whole
        for p in range(k, room):
            to[p] = 0
        f32(scales)[row] = scale
        i32(sums)[row] = total


@jit
def _quantize_rows(rows, k, room, x, q, static, scales, sums, nthreads):  # type: ignore[no-untyped-def]
    """x (rows, k) -> q (rows, room), padded with zeros; scales and sums of the rows."""
    each = max(1, 8192 // max(k, 1))
    job = (each, rows, k, room, x, q, np.float32(static), scales, sums)
    parallel_for(_quantize_some, (rows + each - 1) // each, nthreads, job)


@jit(inner=True)
def _finish_some(task, slot, each, rows, n, y, factor, sums, scales, w_scale, b):  # type: ignore[no-untyped-def]
    ws, bias = f32(w_scale), f32(b)
    for row in range(task * each, min((task + 1) * each, rows)):
        acc, to = i32(y + row * n * 4), f32(y + row * n * 4)
        less, scale = factor * i32(sums)[row], f32(scales)[row]
        if b:
            for j in range(n):
                to[j] = np.float32(np.int32(acc[j] - less)) * (scale * ws[j]) + bias[j]
        else:
            for j in range(n):
                to[j] = np.float32(np.int32(acc[j] - less)) * (scale * ws[j])


@jit
def _finish_rows(rows, n, y, factor, sums, scales, w_scale, b, nthreads):  # type: ignore[no-untyped-def]
    """In place: y[i, j] = (acc[i, j] - factor * sums[i]) * (scales[i] * w_scale[j]) + b[j]"""
    each = max(1, 8192 // max(n, 1))
    job = (each, rows, n, y, factor, sums, scales, w_scale, b)
    parallel_for(_finish_some, (rows + each - 1) // each, nthreads, job)


def _plain(a: Array) -> Array:
    """Contiguous float32, as kernels of this page read floats."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(a, np.float32)


def int8_linear(x: Array, w_q: Array, w_scale: Array, b: Array | None, x_scale: float | None) -> Array:
    n, k = w_q.shape
    m = math.prod(x.shape[:-1])
    floats, w_scale, bias = _plain(x), _plain(w_scale), None if b is None else _plain(b)
    room = k + -k % 4
    q, scales, sums = np.empty((1, m, room), np.int8), np.empty(m, np.float32), np.empty(m, np.int32)
    _quantize_rows(
        m, k, room, address(floats), address(q), x_scale or 0.0, address(scales), address(sums), _threads(m * k)
    )
    acc = np.empty((1, m, n), np.int32)
    factor = _multiply(q[..., :k] if k % 4 else q, w_q[None], acc)
    _finish_rows(
        m, n, address(acc), factor, address(sums), address(scales), address(w_scale),
        0 if bias is None else address(bias), _threads(m * n),
    )  # fmt: skip
    return acc.view(np.float32).reshape(*x.shape[:-1], n).astype(x.dtype, copy=False)


# --- convolution -----------------------------------------------------------------------------------------------------
# The quantized image lies with its channels last, zeros around it. Then the taps of a window are runs of bytes, and a
# window is one row of a matrix, (R, S, C / groups) long; the filters are laid out to match.


@jit(inner=True)
def _image_scale(task, slot, size, x, static, scales):  # type: ignore[no-untyped-def]
    f32(scales)[task] = _scale(size, x + task * size * 4, static)


@jit(inner=True)
def _image_row(task, slot, c, h, w, ph, pw, x, image, scales):  # type: ignore[no-untyped-def]
    """Task: one row of one image, (C, W) floats -> (W, C) int8."""
    item, row = task // h, task % h
    scale = f32(scales)[item]
    to = i8(image + ((item * (h + 2 * ph) + row + ph) * (w + 2 * pw) + pw) * c)
    for channel in range(c):
        line = f32(x + ((item * c + channel) * h + row) * w * 4)
        for j in range(w):
            to[j * c + channel] = np.int32(_quantized(line[j], scale))


@jit
def _quantize_images(n, c, h, w, ph, pw, x, image, static, scales, nthreads):  # type: ignore[no-untyped-def]
    """x (N, C, H, W) -> the inside of image (N, H + 2 ph, W + 2 pw, C), and the scale of each."""
    parallel_for(_image_scale, n, nthreads, (c * h * w, x, np.float32(static), scales))
    parallel_for(_image_row, n * h, nthreads, (c, h, w, ph, pw, x, image, scales))


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
    floats, w_scale, bias = _plain(x), _plain(w_scale), None if b is None else _plain(b)
    acc = np.empty((n, k, p_size * q_size), np.int32)
    image, scales = np.zeros((n, height, width, c), np.int8), np.empty(n, np.float32)
    nthreads = _threads(floats.size)
    _quantize_images(n, c, h, w, ph, pw, address(floats), address(image), x_scale or 0.0, address(scales), nthreads)
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
            address(image[first:]), address(windows), room, _threads(some * p_size * q_size * groups * room),
        )  # fmt: skip
        if groups == 1:
            factor = _multiply(filters, windows[:some, 0], acc[first : first + some])
        else:
            for i in range(some):
                factor = _multiply(filters, windows[i], acc[first + i].reshape(groups, kg, p_size * q_size))
    _finish_planes(
        n, k, p_size * q_size, address(acc), factor, address(sums), address(scales), address(w_scale),
        0 if bias is None else address(bias), _threads(acc.size),
    )  # fmt: skip
    return acc.view(np.float32).reshape(n, k, p_size, q_size).astype(x.dtype, copy=False)
