"""Normalisations in vectors: mean and squares first, then what needs them, while the numbers are still in the cache.

Rows (layer_norm, rms_norm) and groups (group_norm) follow each other in memory; a channel (batch_norm) is one run for
each example. A variance is that of x - k, k the mean as first rounded, corrected for what k is off, so that no digits
are lost when the mean is far from 0 (Chan, Golub, LeVeque, "Algorithms for computing the sample variance", 1983).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu import machine, threads
from ..cpu.gather import name as dtype_of
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.mathfn import choose, const
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import Vectors
from ..cpu.sweep import GRAIN, Values, adding, row_pass, sweep, total

Array = NDArray[Any]

MOST = 32  # tasks that add up dw and db of rows, each in sums of its own
SHORT = 8  # values per channel of an example, below which batch_norm brings a channel's values together first


# --- passes over a row or segment ------------------------------------------------------------------------------------


def _runs(n: Any) -> tuple[Any, Any]:
    """n, and the runs where a pass was given some."""
    return (n[0], (n[1], n[2])) if isinstance(n, list) else (n, None)


def _sum(v: Vectors, n: Any, at: Values, _: Values) -> Values:
    """sum x"""
    n, runs = _runs(n)
    (s,) = sweep(v, n, at, [], lambda xs, sums: ([], [v.builder.fadd(xs[0], sums[0])]), [adding(v)], runs=runs)
    return [total(v, s)]


def _squares(v: Vectors, n: Any, at: Values, _: Values) -> Values:
    """sum x^2"""
    (s,) = sweep(v, n, at, [], lambda xs, sums: ([], [v.multiply_add(xs[0], xs[0], sums[0])]), [adding(v)])
    return [total(v, s)]


def _moments(v: Vectors, n: Any, at: Values, known: Values) -> Values:
    """sum (x - k), sum (x - k)^2"""

    def step(xs: Values, sums: Values) -> tuple[Values, Values]:
        d = v.builder.fsub(xs[0], known[0])
        return [], [v.builder.fadd(sums[0], d), v.multiply_add(d, d, sums[1])]

    n, runs = _runs(n)
    return [total(v, s) for s in sweep(v, n, at, [], step, [adding(v), adding(v)], runs=runs)]


def _scaled(w: bool, b: bool) -> Any:
    """y = (x - mean) r [w] [+ b], w and b vectors beside x"""

    def emit(v: Vectors, n: Any, at: Values, known: Values) -> Values:
        def step(xs: Values, sums: Values) -> tuple[Values, Values]:
            x, *more = xs
            y = v.builder.fmul(v.builder.fsub(x, known[0]), known[1])
            y = v.builder.fmul(y, more[0]) if w else y
            return [v.builder.fadd(y, more[-1]) if b else y], sums

        sweep(v, n, at[:-1], at[-1:], step)
        return []

    return emit


def _shifted(v: Vectors, n: Any, at: Values, known: Values) -> Values:
    """y = (x - mean) k + b, k and b numbers"""

    def step(xs: Values, sums: Values) -> tuple[Values, Values]:
        return [v.multiply_add(v.builder.fsub(xs[0], known[0]), known[1], known[2])], sums

    n, runs = _runs(n)
    sweep(v, n, at[:1], at[1:], step, runs=runs)
    return []


def _affine(f: str) -> Any:
    """y = f(x k + b), k and b numbers, rounded twice as NumPy does it; f relu, relu6 or nothing"""

    def emit(v: Vectors, n: Any, at: Values, known: Values) -> Values:
        def step(xs: Values, sums: Values) -> tuple[Values, Values]:
            y = v.builder.fadd(v.builder.fmul(xs[0], known[0]), known[1])
            y = choose(v, y, "<", v.zero(), v.zero(), y) if f else y
            return [choose(v, y, ">", const(v, 6.0), const(v, 6.0), y) if f == "relu6" else y], sums

        sweep(v, n, at[:1], at[1:], step)
        return []

    return emit


def _products(w: bool) -> Any:
    """sum g, sum g (x - mean), where g = dy [w]"""

    def emit(v: Vectors, n: Any, at: Values, known: Values) -> Values:
        def step(xs: Values, sums: Values) -> tuple[Values, Values]:
            g = v.builder.fmul(xs[0], xs[2]) if w else xs[0]
            return [], [v.builder.fadd(sums[0], g), v.multiply_add(g, v.builder.fsub(xs[1], known[0]), sums[1])]

        n, runs = _runs(n)
        return [total(v, s) for s in sweep(v, n, at, [], step, [adding(v), adding(v)], runs=runs)]

    return emit


def _gradient(w: bool) -> Any:
    """dx = r (g - q - p (x - mean)), where g = dy [w];  dw += dy (x - mean) r,  db += dy"""

    def emit(v: Vectors, n: Any, at: Values, known: Values) -> Values:
        b, (mean, r, p, q) = v.builder, known

        def step(xs: Values, sums: Values) -> tuple[Values, Values]:
            dy, x, dw, db, *more = xs
            centred = b.fsub(x, mean)
            g = b.fmul(dy, more[0]) if w else dy
            dx = b.fmul(r, b.fsub(b.fsub(g, q), b.fmul(p, centred)))
            return [v.multiply_add(dy, b.fmul(centred, r), dw), b.fadd(db, dy), dx], sums

        # dy, x, dw, db [, w], dx
        sweep(v, n, at[:-1], [at[2], at[3], at[-1]], step, unroll=2)
        return []

    return emit


def _channel_gradient(v: Vectors, n: Any, at: Values, known: Values) -> Values:
    """dx = r (w dy - q - p (x - mean)), w a number"""
    b, (mean, r, w, p, q) = v.builder, known

    def step(xs: Values, sums: Values) -> tuple[Values, Values]:
        dy, x = xs
        g = b.fsub(b.fmul(w, dy), q)
        return [b.fmul(r, b.fsub(g, b.fmul(p, b.fsub(x, mean))))], sums

    n, runs = _runs(n)
    sweep(v, n, at[:2], at[2:], step, runs=runs)
    return []


# --- rows ------------------------------------------------------------------------------------------------------------


def _mean_and_squares(dtype: str, tier: str) -> Any:
    """f(n or runs, count, x) -> mean of the count numbers, and sum of their squared distances from it, as float64."""
    one = getattr(np, dtype)
    first, both = row_pass(dtype, tier, 1, 0, 1, _sum), row_pass(dtype, tier, 1, 1, 2, _moments)

    @jit(inner=True)
    def mean_and_squares(n, count, x):  # type: ignore[no-untyped-def]
        k = one(first(n, (x,), ())[0] / one(count))
        off, squares = both(n, (x,), (k,))
        correction = np.float64(off) / count
        mean = k + correction if math.isfinite(k) else np.float64(k)
        left = squares - off * correction
        return mean, (left if left > 0 or left != left else 0.0)

    return mean_and_squares


@functools.cache
def _rows(tier: str, dtype: str, centre: bool, w: bool, b: bool) -> Any:
    one, size = getattr(np, dtype), np.dtype(dtype).itemsize
    moments = _mean_and_squares(dtype, tier)
    squares = row_pass(dtype, tier, 1, 0, 1, _squares)
    finish = row_pass(dtype, tier, 2 + w + b, 2, 0, _scaled(w, b))
    numbers = pointer(dtype)

    @jit(inner=True)
    def some(task, slot, each, rows, n, eps, x, wa, ba, y, means, variances):  # type: ignore[no-untyped-def]
        for row in range(task * each, min((task + 1) * each, rows)):
            a, c = x + row * n * size, y + row * n * size
            mean = 0.0
            if centre:
                mean, m2 = moments(n, n, a)
                numbers(means)[row] = one(mean)
            else:
                m2 = np.float64(squares(n, (a,), ())[0])
            numbers(variances)[row] = one(m2 / n)
            known = (one(mean), one(1 / math.sqrt(m2 / n + eps)))
            if w and b:
                finish(n, (a, wa, ba, c), known)
            elif w:
                finish(n, (a, wa, c), known)
            elif b:
                finish(n, (a, ba, c), known)
            else:
                finish(n, (a, c), known)

    @jit(tag=f"{dtype} {tier} {centre} {w} {b}")
    def kernel(each, tasks, nthreads, rows, n, eps, x, wa, ba, y, means, variances):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, rows, n, eps, x, wa, ba, y, means, variances))

    return kernel


@functools.cache
def _rows_backward(tier: str, dtype: str, centre: bool, w: bool) -> Any:
    one, size = getattr(np, dtype), np.dtype(dtype).itemsize
    products = row_pass(dtype, tier, 2 + w, 1, 2, _products(w))
    finish = row_pass(dtype, tier, 5 + w, 4, 0, _gradient(w))
    numbers = pointer(dtype)

    @jit(inner=True)
    def some(task, slot, each, rows, n, eps, dy, x, wa, means, variances, sums, dx):  # type: ignore[no-untyped-def]
        dw, db = sums + 2 * task * n * size, sums + (2 * task + 1) * n * size
        for i in range(n):
            numbers(dw)[i] = numbers(db)[i] = one(0)
        for row in range(task * each, min((task + 1) * each, rows)):
            at = row * n * size
            mean = numbers(means)[row] if centre else one(0)
            r = 1 / math.sqrt(np.float64(numbers(variances)[row]) + eps)
            if w:
                g, gx = products(n, (dy + at, x + at, wa), (mean,))
            else:
                g, gx = products(n, (dy + at, x + at), (mean,))
            q = one(g / np.float64(n)) if centre else one(0)
            known = (mean, one(r), one(r * r * gx / n), q)
            if w:
                finish(n, (dy + at, x + at, dw, db, wa, dx + at), known)
            else:
                finish(n, (dy + at, x + at, dw, db, dx + at), known)

    @jit(tag=f"{dtype} {tier} {centre} {w}")
    def kernel(each, tasks, nthreads, rows, n, eps, dy, x, wa, means, variances, sums, dx):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, rows, n, eps, dy, x, wa, means, variances, sums, dx))

    return kernel


def _plain(a: Array | None) -> Array | None:
    return None if a is None else np.ascontiguousarray(a)


def _normalise(x: Array, w: Array | None, b: Array | None, eps: float, centre: bool) -> tuple[Array, Array, Array]:
    y, n = np.empty(x.shape, x.dtype), x.shape[-1]
    mean, var = np.empty(x.shape[:-1], x.dtype), np.empty(x.shape[:-1], x.dtype)
    if y.size:
        x, w, b = np.ascontiguousarray(x), _plain(w), _plain(b)
        rows = x.size // n
        each = max(1, GRAIN // 2 // n)
        kernel = _rows(machine.floats(), dtype_of(x), centre, w is not None, b is not None)
        kernel(
            each, -(-rows // each), threads.get_num_threads(), rows, n, float(eps), address(x), address(w), address(b),
            address(y), address(mean), address(var),
        )  # fmt: skip
    return y, mean, var


def _normalise_backward(
    dy: Array, x: Array, w: Array | None, mean: Array | None, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    dx, n = np.empty(x.shape, x.dtype), x.shape[-1]
    if not x.size:
        return dx, np.zeros(n, x.dtype), np.zeros(n, x.dtype)
    dy, x, w, var = np.ascontiguousarray(dy), np.ascontiguousarray(x), _plain(w), np.ascontiguousarray(var)
    mean = _plain(mean)
    rows = x.size // n
    each = max(-(-rows // MOST), GRAIN // 2 // n, 1)  # of the shape only: dw and db are summed by tasks
    tasks = -(-rows // each)
    sums = np.empty((tasks, 2, n), x.dtype)
    kernel = _rows_backward(machine.floats(), dtype_of(x), mean is not None, w is not None)
    kernel(
        each, tasks, threads.get_num_threads(), rows, n, float(eps), address(dy), address(x), address(w), address(mean),
        address(var), address(sums), address(dx),
    )  # fmt: skip
    dw, db = sums.sum(0)
    return dx, dw.copy(), db.copy()


def layer_norm(x: Array, w: Array | None, b: Array | None, eps: float) -> tuple[Array, Array, Array]:
    """y, mean and var of each row."""
    return _normalise(x, w, b, eps, True)


def layer_norm_backward(
    dy: Array, x: Array, w: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """dx, dw, db."""
    return _normalise_backward(dy, x, w, mean, var, eps)


def rms_norm(x: Array, w: Array | None, eps: float) -> tuple[Array, Array]:
    """y, and the mean square of each row."""
    y, _, square = _normalise(x, w, None, eps, False)
    return y, square


def rms_norm_backward(dy: Array, x: Array, w: Array | None, square: Array, eps: float) -> tuple[Array, Array]:
    """dx, dw."""
    dx, dw, _ = _normalise_backward(dy, x, w, None, square, eps)
    return dx, dw


# --- channels --------------------------------------------------------------------------------------------------------


@functools.cache
def _channels(tier: str, dtype: str) -> Any:
    one, size = getattr(np, dtype), np.dtype(dtype).itemsize
    moments = _mean_and_squares(dtype, tier)
    finish = row_pass(dtype, tier, 2, 3, 0, _shifted)
    numbers = pointer(dtype)

    @jit(inner=True)
    def some(task, slot, each, channels, examples, n, eps, x, w, b, y, means, variances):  # type: ignore[no-untyped-def]
        runs = (n, examples, channels * n * size)
        for c in range(task * each, min((task + 1) * each, channels)):
            at = c * n * size
            mean, m2 = moments(runs, examples * n, x + at)
            numbers(means)[c], numbers(variances)[c] = one(mean), one(m2 / (examples * n))
            r = 1 / math.sqrt(m2 / (examples * n) + eps)
            k = r * numbers(w)[c] if w else r
            shift = numbers(b)[c] if b else one(0)
            finish(runs, (x + at, y + at), (one(mean), one(k), shift))

    @jit(tag=f"{dtype} {tier}")
    def kernel(each, tasks, nthreads, channels, examples, n, eps, x, w, b, y, means, variances):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, channels, examples, n, eps, x, w, b, y, means, variances))

    return kernel


@functools.cache
def _channels_backward(tier: str, dtype: str) -> Any:
    one, size = getattr(np, dtype), np.dtype(dtype).itemsize
    products = row_pass(dtype, tier, 2, 1, 2, _products(False))
    finish = row_pass(dtype, tier, 3, 5, 0, _channel_gradient)
    numbers = pointer(dtype)

    @jit(inner=True)
    def some(task, slot, each, channels, examples, n, eps, dy, x, w, means, variances, dw, db, dx):  # type: ignore[no-untyped-def]
        runs, count = (n, examples, channels * n * size), np.float64(examples * n)
        for c in range(task * each, min((task + 1) * each, channels)):
            at, mean = c * n * size, numbers(means)[c]
            r = 1 / math.sqrt(np.float64(numbers(variances)[c]) + eps)
            g, gx = products(runs, (dy + at, x + at), (mean,))
            numbers(dw)[c], numbers(db)[c] = one(gx * r), g
            k = numbers(w)[c] if w else one(1)
            known = (mean, one(r), k, one(k * (r * r * gx / count)), one(k * (g / count)))
            finish(runs, (dy + at, x + at, dx + at), known)

    @jit(tag=f"{dtype} {tier}")
    def kernel(each, tasks, nthreads, channels, examples, n, eps, dy, x, w, means, variances, dw, db, dx):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, channels, examples, n, eps, dy, x, w, means, variances, dw, db, dx))

    return kernel


def _share(x: Array, sets: int) -> tuple[int, int, int]:
    each = max(1, GRAIN // 2 * sets // x.size)
    return each, -(-sets // each), threads.get_num_threads()


def _together(x: Array) -> Array:
    """(N, C, ...) as (1, C, N * ...): the values of a channel side by side."""
    return np.ascontiguousarray(x.reshape(*x.shape[:2], -1).swapaxes(0, 1)).reshape(1, x.shape[1], -1)


def _apart(y: Array, shape: tuple[int, ...]) -> Array:
    return np.ascontiguousarray(y.reshape(shape[1], shape[0], -1).swapaxes(0, 1)).reshape(shape)


def batch_norm(x: Array, w: Array | None, b: Array | None, eps: float) -> tuple[Array, Array, Array]:
    """y, mean and var of each channel."""
    n, c = x.shape[:2]
    length = x.size // (n * c)
    if length < SHORT and n > 1:
        y, mean, var = batch_norm(_together(x), w, b, eps)
        return _apart(y, x.shape), mean, var
    y, mean, var = np.empty(x.shape, x.dtype), np.empty(c, x.dtype), np.empty(c, x.dtype)
    x, w, b = np.ascontiguousarray(x), _plain(w), _plain(b)
    _channels(machine.floats(), dtype_of(x))(
        *_share(x, c), c, n, length, float(eps), address(x), address(w), address(b), address(y), address(mean),
        address(var),
    )  # fmt: skip
    return y, mean, var


@functools.cache
def _lines(tier: str, dtype: str, f: str) -> Any:
    size, line, numbers = np.dtype(dtype).itemsize, row_pass(dtype, tier, 2, 2, 0, _affine(f)), pointer(dtype)

    @jit(inner=True)
    def some(task, slot, each, runs, channels, n, x, scale, shift, y):  # type: ignore[no-untyped-def]
        for run in range(task * each, min((task + 1) * each, runs)):
            at, c = run * n * size, run % channels
            line(n, (x + at, y + at), (numbers(scale)[c], numbers(shift)[c]))

    @jit(tag=f"{dtype} {tier} {f}")
    def kernel(each, tasks, nthreads, runs, channels, n, x, scale, shift, y):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, runs, channels, n, x, scale, shift, y))

    return kernel


def channel_affine(x: Array, scale: Array, shift: Array, f: str, out: Array | None) -> Array:
    """f(x scale + shift), in `out` (which may be x) or in a new array."""
    if out is None:
        y = np.empty(x.shape, x.dtype)
    elif not out.flags.writeable:
        raise ValueError("channel_affine: out is read-only")
    else:
        y, x = out, x.copy() if out is not x and np.may_share_memory(x, out) else x
    c = x.shape[1]
    runs = x.shape[0] * c
    length = x.size // runs
    x, scale, shift = np.ascontiguousarray(x), np.ascontiguousarray(scale), np.ascontiguousarray(shift)
    each = max(1, GRAIN // length)
    tasks = -(-runs // each)
    nthreads = threads.get_num_threads() if tasks > 1 else 1
    kernel = _lines(machine.floats(), dtype_of(x), f)
    kernel(each, tasks, nthreads, runs, c, length, address(x), address(scale), address(shift), address(y))
    return y


def batch_norm_backward(
    dy: Array, x: Array, w: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """dx, dw, db."""
    n, c = x.shape[:2]
    length = x.size // (n * c)
    if length < SHORT and n > 1:
        dx, dw, db = batch_norm_backward(_together(dy), _together(x), w, mean, var, eps)
        return _apart(dx, x.shape), dw, db
    dx, dw, db = np.empty(x.shape, x.dtype), np.empty(c, x.dtype), np.empty(c, x.dtype)
    dy, x, w = np.ascontiguousarray(dy), np.ascontiguousarray(x), _plain(w)
    mean, var = np.ascontiguousarray(mean), np.ascontiguousarray(var)
    _channels_backward(machine.floats(), dtype_of(x))(
        *_share(x, c), c, n, length, float(eps), address(dy), address(x), address(w), address(mean), address(var),
        address(dw), address(db), address(dx),
    )  # fmt: skip
    return dx, dw, db


# --- groups ----------------------------------------------------------------------------------------------------------


@functools.cache
def _groups(tier: str, dtype: str) -> Any:
    one, size = getattr(np, dtype), np.dtype(dtype).itemsize
    moments = _mean_and_squares(dtype, tier)
    finish = row_pass(dtype, tier, 2, 3, 0, _shifted)
    numbers = pointer(dtype)

    @jit(inner=True)
    def some(task, slot, each, sets, groups, wide, n, eps, x, w, b, y, means, variances):  # type: ignore[no-untyped-def]
        count = wide * n
        for s in range(task * each, min((task + 1) * each, sets)):
            mean, m2 = moments(count, count, x + s * count * size)
            numbers(means)[s], numbers(variances)[s] = one(mean), one(m2 / count)
            r = 1 / math.sqrt(m2 / count + eps)
            for i in range(wide):
                c, at = s % groups * wide + i, (s * count + i * n) * size
                k = r * numbers(w)[c] if w else r
                shift = numbers(b)[c] if b else one(0)
                finish(n, (x + at, y + at), (one(mean), one(k), shift))

    @jit(tag=f"{dtype} {tier}")
    def kernel(each, tasks, nthreads, sets, groups, wide, n, eps, x, w, b, y, means, variances):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, sets, groups, wide, n, eps, x, w, b, y, means, variances))

    return kernel


@functools.cache
def _groups_backward(tier: str, dtype: str) -> Any:
    one, size = getattr(np, dtype), np.dtype(dtype).itemsize
    products = row_pass(dtype, tier, 2, 1, 2, _products(False))
    finish = row_pass(dtype, tier, 3, 5, 0, _channel_gradient)
    numbers = pointer(dtype)

    @jit(inner=True)
    def some(task, slot, each, sets, groups, wide, n, eps, dy, x, w, means, variances, sums, dx):  # type: ignore[no-untyped-def]
        count = wide * n
        for s in range(task * each, min((task + 1) * each, sets)):
            mean = numbers(means)[s]
            r = 1 / math.sqrt(np.float64(numbers(variances)[s]) + eps)
            h, hx = 0.0, 0.0
            for i in range(wide):
                channel = s * wide + i
                at = channel * n * size
                g, gx = products(n, (dy + at, x + at), (mean,))
                numbers(sums)[2 * channel], numbers(sums)[2 * channel + 1] = one(gx * r), g
                k = np.float64(numbers(w)[s % groups * wide + i]) if w else 1.0
                h += k * g
                hx += k * gx
            for i in range(wide):
                at = (s * wide + i) * n * size
                k = numbers(w)[s % groups * wide + i] if w else one(1)
                known = (mean, one(r), k, one(r * r * hx / count), one(h / count))
                finish(n, (dy + at, x + at, dx + at), known)

    @jit(tag=f"{dtype} {tier}")
    def kernel(each, tasks, nthreads, sets, groups, wide, n, eps, dy, x, w, means, variances, sums, dx):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (each, sets, groups, wide, n, eps, dy, x, w, means, variances, sums, dx))

    return kernel


def group_norm(x: Array, groups: int, w: Array | None, b: Array | None, eps: float) -> tuple[Array, Array, Array]:
    """y, mean and var of each group of each example."""
    n, c = x.shape[:2]
    y, mean, var = np.empty(x.shape, x.dtype), np.empty((n, groups), x.dtype), np.empty((n, groups), x.dtype)
    x, w, b = np.ascontiguousarray(x), _plain(w), _plain(b)
    _groups(machine.floats(), dtype_of(x))(
        *_share(x, n * groups), n * groups, groups, c // groups, x.size // (n * c), float(eps), address(x), address(w),
        address(b), address(y), address(mean), address(var),
    )  # fmt: skip
    return y, mean, var


def group_norm_backward(
    dy: Array, x: Array, groups: int, w: Array | None, mean: Array, var: Array, eps: float
) -> tuple[Array, Array, Array]:
    """dx, dw, db."""
    n, c = x.shape[:2]
    dx, sums = np.empty(x.shape, x.dtype), np.empty((n, c, 2), x.dtype)
    dy, x, w = np.ascontiguousarray(dy), np.ascontiguousarray(x), _plain(w)
    mean, var = np.ascontiguousarray(mean), np.ascontiguousarray(var)
    _groups_backward(machine.floats(), dtype_of(x))(
        *_share(x, n * groups), n * groups, groups, c // groups, x.size // (n * c), float(eps), address(dy), address(x),
        address(w), address(mean), address(var), address(sums), address(dx),
    )  # fmt: skip
    found = sums.sum(0)
    return dx, found[:, 0].copy(), found[:, 1].copy()
