"""One compiled call for all parameters: where they and their state lie stands in a table, a line for each.

A task is a piece of one parameter; which one is looked up by the task's number. Each number is read and written once,
where a formula in NumPy goes over memory a dozen times, and a list of small parameters costs one call.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from ..cpu import machine, threads
from ..cpu.gather import element, lanes, pointer
from ..cpu.gather import name as dtype_of
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import F64, I64, Vectors
from ..cpu.sweep import GRAIN, Values, scalar, sweep
from .reference import masked

Array = NDArray[Any]
Arrays = Sequence[Array]
Step = Callable[[Vectors, Values, Values], Values]

PLACES = 2  # of a line of the table: elements, number of its first task, then the addresses


# --- the formulas, on one vector of each array; what is written comes first -------------------------------------------


def _sgd(decay: bool, momentum: bool, nesterov: bool) -> Step:
    def step(v: Vectors, xs: Values, numbers: Values) -> Values:
        b = v.builder
        lr, sign, shrink, mu, share = numbers
        (w, *m), d = xs[:-1], b.fmul(xs[-1], sign)
        if decay:
            d = b.fadd(d, b.fmul(w, shrink))
        if momentum:
            m = [b.fadd(b.fmul(m[0], mu), b.fmul(d, share))]
            d = b.fadd(d, b.fmul(m[0], mu)) if nesterov else m[0]
        return [b.fsub(w, b.fmul(d, lr)), *m]

    return step


def _adam(decay: bool, greatest: bool) -> Step:
    def step(v: Vectors, xs: Values, numbers: Values) -> Values:
        b = v.builder
        rate, sign, shrink, keep, less1, beta2, less2, root, eps = numbers
        (w, m, square, *top), d = xs[:-1], b.fmul(xs[-1], sign)
        if decay:
            d = b.fadd(d, b.fmul(w, shrink))
        w = b.fmul(w, keep)
        square = b.fadd(b.fmul(square, beta2), b.fmul(b.fmul(d, d), less2))
        m = b.fadd(m, b.fmul(b.fsub(d, m), less1))
        used = square
        if greatest:
            # as NumPy's maximum: NaN from either side
            first = b.or_(b.fcmp_ordered(">=", top[0], square), b.fcmp_unordered("uno", top[0], top[0]))
            top = [b.select(first, top[0], square)]
            used = top[0]
        length = b.fadd(b.fdiv(_sqrt(v, used), root), eps)
        return [b.fsub(w, b.fmul(b.fdiv(m, length), rate)), m, square, *top]

    return step


def _sqrt(v: Vectors, x: ir.Value) -> ir.Value:
    shape = ir.FunctionType(v.type, [v.type])
    name = f"llvm.sqrt.v{v.lanes}f{8 * v.bytes}"
    return v.builder.call(cgutils.get_or_insert_function(v.builder.module, shape, name), [x])


# --- the walk over the table ------------------------------------------------------------------------------------------


@functools.cache
def _kernel(tier: str, dtype: str, name: str, how: tuple[bool, ...], arrays: int, scalars: int) -> Any:
    size, nlanes = np.dtype(dtype).itemsize, lanes(dtype, tier)
    step = _sgd(*how) if name == "sgd" else _adam(*how)
    line = PLACES + arrays
    integers = pointer("int64")

    @intrinsic
    def piece(typing: Any, n: Any, start: Any, places: Any, numbers: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, start, places, numbers = args
            v = Vectors(builder, element(dtype), nlanes)
            at = builder.mul(start, I64(size))
            table, known = builder.inttoptr(places, I64.as_pointer()), builder.inttoptr(numbers, F64.as_pointer())
            come = [builder.add(builder.load(builder.gep(table, [I64(i)])), at) for i in range(arrays)]
            values = [scalar(v, builder.load(builder.gep(known, [I64(i)]))) for i in range(scalars)]
            sweep(v, n, come, come[:-1], lambda xs, sums: (step(v, xs, values), sums), unroll=1)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), emit

    @jit(inner=True)
    def some(task, slot, count, each, table, numbers):  # type: ignore[no-untyped-def]
        low, high = 0, count
        while high - low > 1:
            middle = (low + high) // 2
            if integers(table)[middle * line + 1] <= task:
                low = middle
            else:
                high = middle
        start = (task - integers(table)[low * line + 1]) * each
        left = integers(table)[low * line] - start
        piece(min(each, left), start, table + 8 * (low * line + PLACES), numbers + 8 * low * scalars)

    @jit(tag=f"{name} {dtype} {tier} {how}")
    def kernel(each, tasks, nthreads, count, table, numbers):  # type: ignore[no-untyped-def]
        parallel_for(some, tasks, nthreads, (count, each, table, numbers))

    return kernel


def _run(name: str, how: tuple[bool, ...], written: list[Arrays], grads: Arrays, numbers: list[list[float]]) -> None:
    """The formula on every parameter that has elements; `numbers` has a line for each."""
    lines, known, whole, tasks, total = [], [], [], 0, 0
    for i, g in enumerate(grads):
        n = g.size
        if n:
            if not g.flags.c_contiguous:
                g = np.ascontiguousarray(g)
                whole.append(g)  # which lives as long as its address is in use
            lines += [n, tasks, *[address(a[i]) for a in written], address(g)]
            known += numbers[i]
            tasks += -(-n // GRAIN)
            total += n
    if not lines:
        return
    table, values, arrays = np.array(lines, np.int64), np.array(known, np.float64), len(written) + 1
    rows, first = len(lines) // (PLACES + arrays), written[0][0]
    count = min(threads.get_num_threads(), 1 + total // GRAIN)
    if count > 1 and _overlapping(table.reshape(rows, -1), first.itemsize):
        count = 1  # tasks then run in order
    kernel = _kernel(machine.floats(), dtype_of(first), name, how, arrays, len(known) // rows)
    kernel(GRAIN, tasks, count, rows, address(table), address(values))


def _overlapping(table: Array, size: int) -> bool:
    """Whether memory that is written is also somebody else's."""
    starts = table[:, PLACES:]
    ends = (starts + table[:, :1] * size).ravel()
    written = np.ones(starts.shape, np.bool_)
    written[:, -1] = False
    order = starts.ravel().argsort()
    starts, ends, written = starts.ravel()[order], ends[order], written.ravel()[order]
    into = np.maximum.accumulate(ends)[:-1] > starts[1:]  # something before reaches in here
    into_written = np.maximum.accumulate(np.where(written, ends, 0))[:-1] > starts[1:]
    return bool((into & written[1:]).any() or into_written.any())


def sgd_step(
    params: Arrays, grads: Arrays, buffers: Arrays | None, lr: float, momentum: float, dampening: float,
    weight_decay: float, nesterov: bool, maximize: bool, masks: Sequence[Array | None] | None,
) -> None:  # fmt: skip
    """w and m move on."""
    numbers = [lr, -1.0 if maximize else 1.0, weight_decay, momentum, 1 - dampening]
    how = (bool(weight_decay), buffers is not None, bool(nesterov) and buffers is not None)
    _run("sgd", how, [params] if buffers is None else [params, buffers], grads, [numbers] * len(params))
    _prune(params, masks)


def adam_step(
    params: Arrays, grads: Arrays, means: Arrays, squares: Arrays, greatest: Arrays | None, steps: Sequence[int],
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, decoupled: bool, maximize: bool,
    masks: Sequence[Array | None] | None,
) -> None:  # fmt: skip
    """w, m, v and the greatest v move on."""
    sign, keep = -1.0 if maximize else 1.0, 1 - lr * weight_decay if decoupled else 1.0
    of_step = {
        t: [lr / (1 - beta1**t), sign, weight_decay, keep, 1 - beta1, beta2, 1 - beta2, math.sqrt(1 - beta2**t), eps]
        for t in set(steps)
    }
    written = [params, means, squares] if greatest is None else [params, means, squares, greatest]
    how = (bool(weight_decay) and not decoupled, greatest is not None)
    _run("adam", how, written, grads, [of_step[t] for t in steps])
    _prune(params, masks)


def _prune(params: Arrays, masks: Sequence[Array | None] | None) -> None:
    """What `masked` does, 20 times as fast where all is finite: a masked copy has branches that cannot be foreseen."""
    for w, mask in zip(params, masks or ()):
        if mask is not None:
            w *= mask
            w += 0
            if not np.isfinite(w.sum()):  # 0 times NaN or infinity is not 0
                masked(w, mask)
