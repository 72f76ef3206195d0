"""Max pooling in one pass: every plane is read once, and what is found goes straight to its place."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu import threads
from ..cpu.jit import jit
from ..cpu.pool import parallel_for

Array = NDArray[Any]
Pair = tuple[int, int]

GRAIN = 1 << 14  # elements in a task: some tens of microseconds


@functools.cache
def _max_pool(rs: int, ss: int, sh: int, sw: int) -> Any:
    """The kernel for windows of rs x ss at that stride, whose taps it knows and compares without a jump (of numbers in
    no order every second would be guessed wrong); of zeros: for any.
    """

    @jit(inner=True)
    def some(task, slot, each, x, y, index, window, stride, padding, dilation):  # type: ignore[no-untyped-def]
        planes, h, w = x.shape
        p, q = y.shape[1:]
        down, right = (sh, sw) if rs else stride
        for n in range(task * each, min((task + 1) * each, planes)):
            for i in range(p):
                top = i * down - padding[0]
                for j in range(q):
                    left = j * right - padding[1]
                    if rs and top >= 0 and left >= 0 and top + rs <= h and left + ss <= w:
                        best, at = x[n, top, left], top * w + left
                        for r in range(rs):
                            for s in range(ss):
                                v = x[n, top + r, left + s]
                                taken = (v > best) | (v != v)
                                best, at = v if taken else best, (top + r) * w + left + s if taken else at
                    else:
                        best, at = x.dtype.type(0), -1
                        for r in range(window[0]):
                            row = top + r * dilation[0]
                            if row < 0 or row >= h:
                                continue
                            for s in range(window[1]):
                                col = left + s * dilation[1]
                                if col < 0 or col >= w:
                                    continue
                                v = x[n, row, col]
                                if at < 0 or v > best or v != v:
                                    best, at = v, row * w + col
                    y[n, i, j], index[n, i, j] = best, at

    @jit(tag=f"max pool {rs} {ss} {sh} {sw}")
    def kernel(each, tasks, nthreads, x, y, index, window, stride, padding, dilation):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, x, y, index, window, stride, padding, dilation))

    return kernel


USUAL = {(2, 2, 2, 2), (3, 3, 2, 2)}  # window and stride of what has its own kernel


def max_pool2d(x: Array, window: Pair, stride: Pair, padding: Pair, dilation: Pair, size: Pair) -> tuple[Array, Array]:
    """The first greatest element of each window, and where it was."""
    n, c, h, w = x.shape
    y, index = np.empty((n * c, *size), x.dtype), np.empty((n * c, *size), np.int64)
    if y.size:
        each, tasks = _share(n * c, math.prod(size) * math.prod(window))
        plain = np.ascontiguousarray(x).reshape(n * c, h, w)
        taps = (*window, *stride)
        kernel = _max_pool(*(taps if taps in USUAL and dilation == (1, 1) else (0, 0, 0, 0)))
        kernel(each, tasks, threads.get_num_threads(), plain, y, index, window, stride, padding, dilation)
    return y.reshape(n, c, *size), index.reshape(n, c, *size)


@jit(inner=True)
def _scatter_rows(task, slot, each, x, index, y, bad):  # type: ignore[no-untyped-def]
    rows, length = x.shape
    width = y.shape[1]
    for n in range(task * each, min((task + 1) * each, rows)):
        for i in range(width):
            y[n, i] = 0
        for i in range(length):
            at = index[n, i]
            if at < 0 or at >= width:
                bad[task] = 1
            else:
                y[n, at] += x[n, i]


@jit(inner=True)
def _gather_rows(task, slot, each, x, index, y, bad):  # type: ignore[no-untyped-def]
    rows, length = index.shape
    width = x.shape[1]
    for n in range(task * each, min((task + 1) * each, rows)):
        for i in range(length):
            at = index[n, i]
            if at < 0 or at >= width:
                bad[task] = 1
            else:
                y[n, i] = x[n, at]


@jit
def _scatter(each, tasks, nthreads, x, index, y, bad):  # type: ignore[no-untyped-def]
    parallel_for(_scatter_rows, tasks, nthreads, (each, x, index, y, bad))


@jit
def _gather(each, tasks, nthreads, x, index, y, bad):  # type: ignore[no-untyped-def]
    parallel_for(_gather_rows, tasks, nthreads, (each, x, index, y, bad))


def scatter_plane(x: Array, index: Array, width: int) -> Array:
    """Values added at their places, in order."""
    return _move(_scatter, x, index, width)


def gather_plane(x: Array, index: Array) -> Array:
    """Values read from their places."""
    return _move(_gather, x, index, index.shape[-1])


def _move(kernel: Any, x: Array, index: Array, width: int) -> Array:
    rows = math.prod(x.shape[:-1])
    y = np.zeros((rows, width), x.dtype) if not (index.size and width) else np.empty((rows, width), x.dtype)
    if index.size:
        each, tasks = _share(rows, max(width, index.shape[-1]))
        bad = np.zeros(tasks, np.uint8)
        plain = np.ascontiguousarray(x).reshape(rows, x.shape[-1])
        places = np.ascontiguousarray(index, np.int64).reshape(rows, index.shape[-1])
        kernel(each, tasks, threads.get_num_threads(), plain, places, y, bad)
        if bad.any():
            inner = width if kernel is _scatter else x.shape[-1]
            raise IndexError(f"an index is outside the plane of {inner} elements: {index.min()} .. {index.max()}")
    return y.reshape(*x.shape[:-1], width)


def _share(rows: int, cost: int) -> tuple[int, int]:
    """Rows of a task, and how many tasks."""
    each = max(1, GRAIN // max(cost, 1))
    return each, -(-rows // each)
