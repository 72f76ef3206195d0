"""Compiled: blocks of the integer product that stay near while the pipeline passes over them; depthwise in one go.

Channels last make a 1x1 convolution a product of the images as they lie; for larger windows a block of them is copied
next to each other first, one byte a number. In a depthwise convolution a channel has no others to be summed with: a
pixel's channels are summed side by side, tap by tap, and pass the pipeline at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu import threads
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import SMALL, address
from ..registry import call
from .geometry import Border, Pair, outputs, sides, split, surrounded, windows
from .reference import conv2d_by

Array = NDArray[Any]

NEAR = 1 << 18  # sums of a block: 1 MB of int32

i8, i32, f32 = pointer("int8"), pointer("int32"), pointer("float32")

# Adding and taking off 1.5 * 2^23 rounds to whole numbers, half to even, as `rint` does.
MAGIC = np.float32(12582912.0)


def _shares(work: int) -> int:
    return threads.get_num_threads() if work >= SMALL // 8 else 1


@jit(inner=True)
def _finish(n, acc, bias, multiplier, zero, low, high, y):  # type: ignore[no-untyped-def]
    """y[j] = clip(rint(float32(acc[j] + bias[j]) * multiplier[j]) + zero, low, high)"""
    sums, offset, factor, to = i32(acc), i32(bias), f32(multiplier), i8(y)
    least, most = np.float32(low - zero), np.float32(high - zero)
    whole = np.int32(zero)
    for j in range(n):
        v = np.float32(np.int32(sums[j] + offset[j])) * factor[j]
        v = min(max(v, least), most)
        v = (v + MAGIC) - MAGIC
        to[j] = np.int8(np.int32(v) + whole)


@jit(inner=True)
def _finish_some(task, slot, each, rows, n, acc, bias, multiplier, zero, low, high, y):  # type: ignore[no-untyped-def]
    for row in range(task * each, min((task + 1) * each, rows)):
        _finish(n, acc + row * n * 4, bias, multiplier, zero, low, high, y + row * n)


@jit
def _finish_rows(rows, n, acc, bias, multiplier, zero, low, high, y, nthreads):  # type: ignore[no-untyped-def]
    each = max(1, 8192 // max(n, 1))
    job = (each, rows, n, acc, bias, multiplier, zero, low, high, y)
    parallel_for(_finish_some, (rows + each - 1) // each, nthreads, job)


def _into(y: Array, acc: Array, bias: Array, multiplier: Array, zero: int, low: int, high: int) -> None:
    """The pipeline over rows acc (M, N) into y (M, N), all contiguous."""
    m, n = acc.shape
    if acc.size:
        _finish_rows(
            m, n, address(acc), address(bias), address(multiplier), zero, low, high, address(y), _shares(acc.size)
        )


def requantize(acc: Array, bias: Array, multiplier: Array, zero: int, low: int, high: int) -> Array:
    n = acc.shape[-1]
    rows = np.ascontiguousarray(acc).reshape(math.prod(acc.shape[:-1]), n)
    y = np.empty(rows.shape, np.int8)
    _into(y, rows, np.ascontiguousarray(bias), np.ascontiguousarray(multiplier), zero, low, high)
    return y.reshape(acc.shape)


def static_linear(x: Array, w: Array, bias: Array, multiplier: Array, zero: int, low: int, high: int) -> Array:
    n, k = w.shape
    rows = x.reshape(math.prod(x.shape[:-1]), k)
    y = np.empty((len(rows), n), np.int8)
    bias, multiplier, turned = np.ascontiguousarray(bias), np.ascontiguousarray(multiplier), w.T
    each = max(1, NEAR // max(n, 1))
    for i in range(0, len(rows), each):
        acc = call("int8_matmul", (rows[i : i + each], turned))
        _into(y[i : i + each], acc, bias, multiplier, zero, low, high)
    return y.reshape(*x.shape[:-1], n)


def static_conv2d(
    x: Array, w: Array, bias: Array, multiplier: Array,
    stride: Pair, padding: Border, dilation: Pair, groups: int, border: int, zero: int, low: int, high: int,
) -> Array:  # fmt: skip
    k, r, s, cg = w.shape
    bias, multiplier = np.ascontiguousarray(bias), np.ascontiguousarray(multiplier)
    rest = (bias, multiplier, stride, padding, dilation)
    if groups == x.shape[3] == k:
        return _depthwise(x, w, *rest, border, zero, low, high)
    if groups > 1:
        by_kernel = lambda a, b: call("int8_matmul", (a, b))
        return conv2d_by(by_kernel, x, w, *rest, groups, border, zero, low, high)
    if (r, s) == (1, 1) and split(stride) == (1, 1) and not any(sides(padding)):
        return static_linear(x, w.reshape(k, cg), bias, multiplier, zero, low, high)
    found = windows(x, (r, s), stride, padding, dilation, border)
    b, p, q = found.shape[:3]
    turned = w.reshape(k, r * s * cg).T
    y = np.empty((b, p, q, k), np.int8)
    each = max(1, NEAR // max(1, q * max(k, r * s * cg // 4)))  # rows of outputs
    for item in range(b):
        for i in range(0, p, each):
            some = found[item, i : i + each]
            rows = np.ascontiguousarray(some).reshape(some.shape[0] * q, r * s * cg)
            acc = call("int8_matmul", (rows, turned))
            _into(y[item, i : i + each].reshape(len(rows), k), acc, bias, multiplier, zero, low, high)
    return y


@jit(inner=True)
def _line(task, slot, p, q, c, r, s, sh, sw, dh, dw, h, w, x, weights, bias, multiplier, zero, low, high, y, scratch):  # type: ignore[no-untyped-def]
    """Task: a row of outputs of an image."""
    item, i = task // p, task % p
    acc = scratch + slot * c * 4
    sums = i32(acc)
    for j in range(q):
        for n in range(c):
            sums[n] = 0
        for a in range(r):
            for b in range(s):
                at = i8(x + ((item * h + i * sh + a * dh) * w + j * sw + b * dw) * c)
                factors = i32(weights + (a * s + b) * c * 4)
                for n in range(c):
                    sums[n] += np.int32(at[n]) * factors[n]
        _finish(c, acc, bias, multiplier, zero, low, high, y + (task * q + j) * c)


@jit
def _lines(
    tasks, p, q, c, r, s, sh, sw, dh, dw, h, w, x, weights, bias, multiplier, zero, low, high, y, scratch, nthreads
):  # type: ignore[no-untyped-def]
    job = (p, q, c, r, s, sh, sw, dh, dw, h, w, x, weights, bias, multiplier, zero, low, high, y, scratch)
    parallel_for(_line, tasks, nthreads, job)


def _depthwise(
    x: Array, w: Array, bias: Array, multiplier: Array, stride: Pair, padding: Border, dilation: Pair,
    border: int, zero: int, low: int, high: int,
) -> Array:  # fmt: skip
    b, c = x.shape[0], x.shape[3]
    p, q = outputs(x.shape, w.shape[1:3], stride, padding, dilation)
    wide = np.ascontiguousarray(surrounded(x, padding, border))
    y = np.empty((b, p, q, c), np.int8)
    taps = np.ascontiguousarray(w[..., 0].transpose(1, 2, 0), np.int32)  # R, S, C
    if y.size:
        nthreads = _shares(y.size)
        scratch = np.empty((nthreads, c), np.int32)
        _lines(
            b * p, p, q, c, *w.shape[1:3], *split(stride), *split(dilation), *wide.shape[1:3], address(wide),
            address(taps), address(bias), address(multiplier), zero, low, high, address(y), address(scratch), nthreads,
        )  # fmt: skip
    return y


@jit(inner=True)
def _add_some(task, slot, each, n, a, b, a_zero, b_zero, a_ratio, b_ratio, zero, low, high, y):  # type: ignore[no-untyped-def]
    left, right, to = i8(a), i8(b), i8(y)
    least, most = np.float32(low - zero), np.float32(high - zero)
    less_a, less_b, whole = np.int32(a_zero), np.int32(b_zero), np.int32(zero)
    for j in range(task * each, min((task + 1) * each, n)):
        v = np.float32(np.int32(left[j]) - less_a) * a_ratio + np.float32(np.int32(right[j]) - less_b) * b_ratio
        v = min(max(v, least), most)
        v = (v + MAGIC) - MAGIC
        to[j] = np.int8(np.int32(v) + whole)


@jit
def _add(n, a, b, a_zero, b_zero, a_ratio, b_ratio, zero, low, high, y, nthreads):  # type: ignore[no-untyped-def]
    each = 16384
    job = (each, n, a, b, a_zero, b_zero, np.float32(a_ratio), np.float32(b_ratio), zero, low, high, y)
    parallel_for(_add_some, (n + each - 1) // each, nthreads, job)


def static_add(
    a: Array, b: Array, a_zero: int, b_zero: int, a_ratio: float, b_ratio: float, zero: int, low: int, high: int
) -> Array:
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    y = np.empty(a.shape, np.int8)
    if y.size:
        _add(
            y.size, address(a), address(b), a_zero, b_zero, float(a_ratio), float(b_ratio), zero, low, high,
            address(y), _shares(y.size),
        )  # fmt: skip
    return y
