"""Softmax and cross-entropy in vectors: a row is read from memory once, its other passes find it in the cache.

A task is some rows; each row is summed by one thread in one order, so results do not depend on the number of threads.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ..cpu import machine, threads
from ..cpu.gather import name as dtype_of
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.mathfn import choose, const, exp_below
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import Vectors
from ..cpu.sweep import GRAIN, Fold, Values, across, adding, row_pass, sweep, total

Array = NDArray[Any]

# --- passes over one row: addresses and numbers in, a number out -----------------------------------------------------


def _greater(v: Vectors, a: ir.Value, b: ir.Value) -> ir.Value:
    return choose(v, a, ">", b, a, b)


def _greatest(v: Vectors, n: ir.Value, at: Values, _: Values) -> Values:
    """max x; NaN counts for nothing."""
    fold = Fold(const(v, -math.inf), lambda a, b: _greater(v, a, b))
    (m,) = sweep(v, n, at, [], lambda xs, sums: ([], [_greater(v, xs[0], sums[0])]), [fold])
    return [across(v, m, _greater)]


def _exponentials(v: Vectors, n: ir.Value, at: Values, known: Values) -> Values:
    """y = e^(x - m) and its sum; nothing is stored where only x is given."""

    def step(xs: Values, sums: Values) -> tuple[Values, Values]:
        y = exp_below(v, v.builder.fsub(xs[0], known[0]))
        return [y], [v.builder.fadd(sums[0], y)]

    (s,) = sweep(v, n, at[:1], at[1:], step, [adding(v)], unroll=2)
    return [total(v, s)]


def _scaled(v: Vectors, n: ir.Value, at: Values, known: Values) -> Values:
    """y = y k"""
    sweep(v, n, at, at, lambda xs, sums: ([v.builder.fmul(xs[0], known[0])], sums))
    return []


def _lowered(v: Vectors, n: ir.Value, at: Values, known: Values) -> Values:
    """y = (x - k) - l"""
    b = v.builder
    sweep(v, n, at[:1], at[1:], lambda xs, sums: ([b.fsub(b.fsub(xs[0], known[0]), known[1])], sums))
    return []


def _inner(v: Vectors, n: ir.Value, at: Values, _: Values) -> Values:
    """sum a b"""
    (s,) = sweep(v, n, at, [], lambda xs, sums: ([], [v.multiply_add(xs[0], xs[1], sums[0])]), [adding(v)])
    return [total(v, s)]


def _sum(v: Vectors, n: ir.Value, at: Values, _: Values) -> Values:
    """sum a"""
    (s,) = sweep(v, n, at, [], lambda xs, sums: ([], [v.builder.fadd(xs[0], sums[0])]), [adding(v)])
    return [total(v, s)]


def _softmax_gradient(v: Vectors, n: ir.Value, at: Values, known: Values) -> Values:
    """dx = y (dy - k)"""
    b = v.builder
    sweep(v, n, at[:2], at[2:], lambda xs, sums: ([b.fmul(xs[1], b.fsub(xs[0], known[0]))], sums))
    return []


def _log_softmax_gradient(v: Vectors, n: ir.Value, at: Values, known: Values) -> Values:
    """dx = dy - e^y k"""
    b = v.builder
    sweep(
        v, n, at[:2], at[2:], lambda xs, sums: ([b.fsub(xs[0], b.fmul(exp_below(v, xs[1]), known[0]))], sums), unroll=2
    )
    return []


def _weighted_gap(v: Vectors, n: ir.Value, at: Values, known: Values) -> Values:
    """sum w (l - x); w = 1 where only x is given"""
    b = v.builder

    def step(xs: Values, sums: Values) -> tuple[Values, Values]:
        gap = b.fsub(known[0], xs[0])
        return [], [b.fadd(sums[0], gap) if len(xs) == 1 else v.multiply_add(xs[1], gap, sums[0])]

    (s,) = sweep(v, n, at, [], step, [adding(v)])
    return [total(v, s)]


def _entropy_gradient(v: Vectors, n: ir.Value, at: Values, known: Values) -> Values:
    """dx = e^(x - l) k - w j; x and dx are given, or x, w and dx"""
    b = v.builder
    lse, k, j = known

    def step(xs: Values, sums: Values) -> tuple[Values, Values]:
        p = b.fmul(exp_below(v, b.fsub(xs[0], lse)), k)
        return [b.fsub(p, j if len(xs) == 1 else b.fmul(xs[1], j))], sums

    sweep(v, n, at[:-1], at[-1:], step, unroll=2)
    return []


# --- kernels ---------------------------------------------------------------------------------------------------------


@functools.cache
def _softmax(tier: str, dtype: str, logarithm: bool) -> Any:
    one, size = getattr(np, dtype), np.dtype(dtype).itemsize
    greatest = row_pass(dtype, tier, 1, 0, 1, _greatest)
    sums = row_pass(dtype, tier, 1 if logarithm else 2, 1, 1, _exponentials)
    finish = row_pass(dtype, tier, 2, 2, 0, _lowered) if logarithm else row_pass(dtype, tier, 1, 1, 0, _scaled)

    @jit(inner=True)
    def some(task, slot, each, rows, n, x, y):  # type: ignore[no-untyped-def]
        for row in range(task * each, min((task + 1) * each, rows)):
            a, b = x + row * n * size, y + row * n * size
            (m,) = greatest(n, (a,), ())
            if logarithm:
                finish(n, (a, b), (m, one(math.log(sums(n, (a,), (m,))[0]))))
            else:
                finish(n, (b,), (one(1) / sums(n, (a, b), (m,))[0],))

    @jit(tag=f"{dtype} {tier} {logarithm}")
    def kernel(each, tasks, nthreads, rows, n, x, y):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, rows, n, x, y))

    return kernel


@functools.cache
def _softmax_backward(tier: str, dtype: str, logarithm: bool) -> Any:
    size = np.dtype(dtype).itemsize
    sums = row_pass(dtype, tier, 1, 0, 1, _sum) if logarithm else row_pass(dtype, tier, 2, 0, 1, _inner)
    finish = row_pass(dtype, tier, 3, 1, 0, _log_softmax_gradient if logarithm else _softmax_gradient)

    @jit(inner=True)
    def some(task, slot, each, rows, n, dy, y, dx):  # type: ignore[no-untyped-def]
        for row in range(task * each, min((task + 1) * each, rows)):
            at = row * n * size
            (s,) = sums(n, (dy + at,), ()) if logarithm else sums(n, (dy + at, y + at), ())
            finish(n, (dy + at, y + at, dx + at), (s,))

    @jit(tag=f"{dtype} {tier} {logarithm}")
    def kernel(each, tasks, nthreads, rows, n, dy, y, dx):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, rows, n, dy, y, dx))

    return kernel


@functools.cache
def _cross_entropy(tier: str, dtype: str, weighted: bool) -> Any:
    one, size = getattr(np, dtype), np.dtype(dtype).itemsize
    greatest, sums = row_pass(dtype, tier, 1, 0, 1, _greatest), row_pass(dtype, tier, 1, 1, 1, _exponentials)
    gap = row_pass(dtype, tier, 2 if weighted else 1, 1, 1, _weighted_gap)
    numbers, classes = pointer(dtype), pointer("int64")

    @jit(inner=True)
    def some(task, slot, each, rows, n, x, t, w, ignore, smoothing, loss, lse):  # type: ignore[no-untyped-def]
        for row in range(task * each, min((task + 1) * each, rows)):
            a = x + row * n * size
            (m,) = greatest(n, (a,), ())
            l = m + one(math.log(sums(n, (a,), (m,))[0]))
            numbers(lse)[row] = l
            c = classes(t)[row]
            if c == ignore:
                numbers(loss)[row] = one(0)
                continue
            k = one(1 - smoothing)
            if weighted:
                k *= numbers(w)[c]
            y = k * (l - numbers(a)[c])
            if smoothing:
                y += one(smoothing / n) * (gap(n, (a, w), (l,))[0] if weighted else gap(n, (a,), (l,))[0])
            numbers(loss)[row] = y

    @jit(tag=f"{dtype} {tier} {weighted}")
    def kernel(each, tasks, nthreads, rows, n, x, t, w, ignore, smoothing, loss, lse):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, rows, n, x, t, w, ignore, smoothing, loss, lse))

    return kernel


@functools.cache
def _cross_entropy_backward(tier: str, dtype: str, weighted: bool) -> Any:
    one, size = getattr(np, dtype), np.dtype(dtype).itemsize
    finish = row_pass(dtype, tier, 3 if weighted else 2, 3, 0, _entropy_gradient)
    numbers, classes = pointer(dtype), pointer("int64")

    @jit(inner=True)
    def some(task, slot, each, rows, n, dy, x, t, lse, w, weights, ignore, smoothing, dx):  # type: ignore[no-untyped-def]
        for row in range(task * each, min((task + 1) * each, rows)):
            a, d = x + row * n * size, dx + row * n * size
            c = classes(t)[row]
            if c == ignore:
                for i in range(n):
                    numbers(d)[i] = one(0)
                continue
            hit = one(1 - smoothing)
            if weighted:
                hit *= numbers(w)[c]
            g, each_class = numbers(dy)[row], one(smoothing / n)
            known = (numbers(lse)[row], g * (hit + each_class * one(weights)), g * each_class)
            if weighted:
                finish(n, (a, w, d), known)
            else:
                finish(n, (a, d), known)
            numbers(d)[c] -= g * hit

    @jit(tag=f"{dtype} {tier} {weighted}")
    def kernel(each, tasks, nthreads, rows, n, dy, x, t, lse, w, weights, ignore, smoothing, dx):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, rows, n, dy, x, t, lse, w, weights, ignore, smoothing, dx))

    return kernel


# --- the variants ----------------------------------------------------------------------------------------------------


def _rows(x: Array) -> tuple[int, int, int, int, int]:
    """Rows in a task, tasks, threads; rows and their length."""
    n = x.shape[-1]
    rows = x.size // n
    each = max(1, GRAIN // 2 // n)
    return each, -(-rows // each), threads.get_num_threads(), rows, n


def _forward(x: Array, logarithm: bool) -> Array:
    y = np.empty(x.shape, x.dtype)
    if y.size:
        x = np.ascontiguousarray(x)
        _softmax(machine.floats(), dtype_of(x), logarithm)(*_rows(x), address(x), address(y))
    return y


def _backward(dy: Array, y: Array, logarithm: bool) -> Array:
    dx = np.empty(y.shape, y.dtype)
    if dx.size:
        dy, y = np.ascontiguousarray(dy), np.ascontiguousarray(y)
        kernel = _softmax_backward(machine.floats(), dtype_of(y), logarithm)
        kernel(*_rows(y), address(dy), address(y), address(dx))
    return dx


def softmax(x: Array) -> Array:
    """e^(x - m) / sum"""
    return _forward(x, False)


def softmax_backward(dy: Array, y: Array) -> Array:
    """y (dy - sum dy y)"""
    return _backward(dy, y, False)


def log_softmax(x: Array) -> Array:
    """x - m - ln sum"""
    return _forward(x, True)


def log_softmax_backward(dy: Array, y: Array) -> Array:
    """dy - e^y sum dy"""
    return _backward(dy, y, True)


def _classes(t: Array, n: int, ignore_index: int) -> Array:
    """The classes as int64 in a row, each checked: kernels trust them."""
    outside = (t < 0) | (t >= n)
    if outside.any() and (outside := outside & (t != ignore_index)).any():
        raise IndexError(f"class {int(t[outside][0])} is out of bounds: there are {n} classes")
    return np.ascontiguousarray(t, np.int64)


def cross_entropy(x: Array, t: Array, w: Array | None, ignore_index: int, smoothing: float) -> tuple[Array, Array]:
    """Each row's loss and log-sum-exp."""
    t = _classes(t, x.shape[1], ignore_index)
    loss, lse = np.empty(len(t), x.dtype), np.empty(len(t), x.dtype)
    if x.size:
        x, w = np.ascontiguousarray(x), None if w is None else np.ascontiguousarray(w)
        kernel = _cross_entropy(machine.floats(), dtype_of(x), w is not None)
        places = address(x), address(t), address(w)
        kernel(*_rows(x), *places, ignore_index, float(smoothing), address(loss), address(lse))
    else:
        loss.fill(0)
        lse.fill(-np.inf)
    return loss, lse


def cross_entropy_backward(
    dy: Array, x: Array, t: Array, lse: Array, w: Array | None, ignore_index: int, smoothing: float
) -> Array:
    """The gradient for x."""
    t = _classes(t, x.shape[1], ignore_index)
    dx = np.empty(x.shape, x.dtype)
    if x.size:
        dy, x, lse = np.ascontiguousarray(dy), np.ascontiguousarray(x), np.ascontiguousarray(lse)
        w = None if w is None else np.ascontiguousarray(w)
        weights = float(x.shape[1] if w is None else w.sum())
        kernel = _cross_entropy_backward(machine.floats(), dtype_of(x), w is not None)
        places = address(dy), address(x), address(t), address(lse), address(w)
        kernel(*_rows(x), *places, weights, ignore_index, float(smoothing), address(dx))
    return dx
