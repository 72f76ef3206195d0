"""Compiled: the integer layers of gemm_int8/windows.py and depthwise.py with codes for results.

A 1x1 convolution is a linear layer of the pixels as they lie.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu import workspace
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..gemm_int8.stages import MAGIC, shares
from ..gemm_int8.windows import convolve
from .depthwise import depthwise
from .geometry import Border, Pair, outputs, sides, split

Array = NDArray[Any]

i8, i32, f32 = pointer("int8"), pointer("int32"), pointer("float32")


@jit(inner=True)
def _finish(n, acc, bias, multiplier, zero, low, high, y):  # type: ignore[no-untyped-def]
    """y[j] = clip(rint(float32(acc[j] + bias[j]) * multiplier[j]) + zero, low, high)"""
    sums, offset, factor, to = i32(acc), i32(bias), f32(multiplier), i8(y)
    least, most = np.float32(low - zero), np.float32(high - zero)
    whole = np.int32(zero)
    for j in range(n):
        v = np.float32(np.int32(sums[j] + offset[j])) * factor[j]
        v = min(max(v, least), most)
        v = (v + np.float32(MAGIC)) - np.float32(MAGIC)
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


def requantize(acc: Array, bias: Array, multiplier: Array, zero: int, low: int, high: int) -> Array:
    acc, bias, multiplier = (np.ascontiguousarray(a) for a in (acc, bias, multiplier))
    m, n = math.prod(acc.shape[:-1]), acc.shape[-1]
    y = np.empty(acc.shape, np.int8)
    if y.size:
        _finish_rows(
            m, n, address(acc), address(bias), address(multiplier), zero, low, high, address(y), shares(acc.size)
        )
    return y


def static_linear(x: Array, w: Array, bias: Array, multiplier: Array, zero: int, low: int, high: int) -> Array:
    n, k = len(w), x.shape[-1]
    pixels = np.ascontiguousarray(x).reshape(1, math.prod(x.shape[:-1]), 1, k)
    y = workspace.empty((1, pixels.shape[1], 1, n), np.int8)
    if y.size:
        convolve(
            pixels, w, (1, 1), np.ascontiguousarray(bias), np.ascontiguousarray(multiplier), 1, 0, 1, 1, y,
            ends=(zero, low, high),
        )  # fmt: skip
    return y.reshape(*x.shape[:-1], n)


def static_conv2d(
    x: Array, w: Array, bias: Array, multiplier: Array,
    stride: Pair, padding: Border, dilation: Pair, groups: int, border: int, zero: int, low: int, high: int,
) -> Array:  # fmt: skip
    k, r, s, _ = w.shape
    if (r, s) == (1, 1) and groups == 1 and split(stride) == (1, 1) and not any(sides(padding)):
        return static_linear(x, w, bias, multiplier, zero, low, high)
    y = workspace.empty((x.shape[0], *outputs(x.shape, (r, s), stride, padding, dilation), k), np.int8)
    if not y.size:
        return y
    x, bias, multiplier = (np.ascontiguousarray(a) for a in (x, bias, multiplier))
    ends = zero, low, high
    if groups == x.shape[3] == k:
        depthwise(x, w, bias, multiplier, stride, padding, dilation, y, border=border, ends=ends)
    else:
        convolve(x, w, (r, s), bias, multiplier, stride, padding, dilation, groups, y, border=border, ends=ends)
    return y


@jit(inner=True)
def _add_some(task, slot, each, n, a, b, a_zero, b_zero, a_ratio, b_ratio, zero, low, high, y):  # type: ignore[no-untyped-def]
    left, right, to = i8(a), i8(b), i8(y)
    least, most = np.float32(low - zero), np.float32(high - zero)
    less_a, less_b, whole = np.int32(a_zero), np.int32(b_zero), np.int32(zero)
    for j in range(task * each, min((task + 1) * each, n)):
        v = np.float32(np.int32(left[j]) - less_a) * a_ratio + np.float32(np.int32(right[j]) - less_b) * b_ratio
        v = min(max(v, least), most)
        v = (v + np.float32(MAGIC)) - np.float32(MAGIC)
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
    y = workspace.empty(a.shape, np.int8)
    if y.size:
        _add(
            y.size, address(a), address(b), a_zero, b_zero, float(a_ratio), float(b_ratio), zero, low, high,
            address(y), shares(y.size),
        )  # fmt: skip
    return y
