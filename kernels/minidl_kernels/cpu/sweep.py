"""Arrays a vector at a time: what softmax, normalisations, activations and optimizers are made of.

    def step(xs, sums):                     # one vector of every array that is read, and the running sums
        return [exp(v, xs[0])], sums        # one of every array that is written, and the sums

    sweep(v, n, reads=[x], writes=[y], step=step)

emits the loop: several vectors at a time while there are that many, then vector by vector with the lanes behind the end
masked out, so nothing there is read or written. An array may be both read and written.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import machine, threads
from .gather import element, lanes
from .jit import jit
from .pool import parallel_for
from .simd import F64, I32, I64, Vectors, counting

Values = list[ir.Value]

GRAIN = 1 << 14  # elements in a task: some microseconds at least, where waking a thread costs less


@dataclass(frozen=True)
class Fold:
    """A running total in vectors: where it starts, and how two are brought together."""

    start: ir.Value
    merge: Callable[[ir.Value, ir.Value], ir.Value]


def sweep(
    v: Vectors,
    n: ir.Value,
    reads: Sequence[ir.Value],
    writes: Sequence[ir.Value],
    step: Callable[[Values, Values], tuple[Values, Values]],
    folds: Sequence[Fold] = (),
    unroll: int = 4,
    runs: tuple[ir.Value, ir.Value] | None = None,
) -> Values:
    """Emit the loop over `n` elements (see the top of this page); returns the folds, a vector each.

    With `runs` = (count, bytes): over so many runs of n elements, in all arrays as many bytes from one to the next.
    """
    b = v.builder
    width = v.lanes * v.bytes
    places = [[cgutils.alloca_once(b, v.type) for _ in range(unroll)] for _ in folds]
    for fold, slots in zip(folds, places):
        for slot in slots:
            b.store(fold.start, slot)
    stride = I64(unroll * v.lanes)
    done = b.mul(b.sdiv(n, stride), stride)

    def one_run(reads: Sequence[ir.Value], writes: Sequence[ir.Value]) -> None:
        with counting(b, done, step=stride) as i:
            at = b.mul(i, I64(v.bytes))
            for u in range(unroll):
                xs = [v.load(b.add(a, at), u * width) for a in reads]
                ys, sums = step(xs, [b.load(slots[u]) for slots in places])
                for y, a in zip(ys, writes):
                    v.store(y, b.add(a, at), u * width)
                for s, slots in zip(sums, places):
                    b.store(s, slots[u])
        with counting(b, n, start=done, step=I64(v.lanes)) as i:
            at = b.mul(i, I64(v.bytes))
            mask = v.first(b.sub(n, i))
            xs = [v.masked_load(mask, b.add(a, at)) for a in reads]
            old = [b.load(slots[0]) for slots in places]
            ys, sums = step(xs, old)
            for y, a in zip(ys, writes):
                v.masked_store(y, mask, b.add(a, at))
            for s, o, slots in zip(sums, old, places):
                b.store(b.select(mask, s, o), slots[0])

    if runs is None:
        one_run(reads, writes)
    else:
        with counting(b, runs[0]) as r:
            at = b.mul(r, runs[1])
            one_run([b.add(a, at) for a in reads], [b.add(a, at) for a in writes])
    results = []
    for fold, slots in zip(folds, places):
        parts = [b.load(slot) for slot in slots]
        while len(parts) > 1:
            parts = [fold.merge(*parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
        results.append(parts[0])
    return results


def across(v: Vectors, x: ir.Value, merge: Callable[[Vectors, ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """All lanes brought together, halves onto each other."""
    n = v.lanes
    while n > 1:
        n //= 2
        low, high = (
            v.builder.shuffle_vector(x, x, ir.Constant(ir.VectorType(I32, n), list(range(start, start + n))))
            for start in (0, n)
        )
        x = merge(Vectors(v.builder, v.element, n), low, high)
    return v.builder.extract_element(x, I32(0))


def adding(v: Vectors) -> Fold:
    """A sum."""
    return Fold(v.zero(), v.builder.fadd)


def total(v: Vectors, x: ir.Value) -> ir.Value:
    """The sum of the lanes."""
    return across(v, x, lambda w, a, b: w.builder.fadd(a, b))


def scalar(v: Vectors, x: ir.Value) -> ir.Value:
    """A double in every lane, rounded to the lanes' precision."""
    return v.splat(x if v.element == F64 else v.builder.fptrunc(x, v.element))


# --- a pass over one row ----------------------------------------------------------------------------------------------

Emit = Callable[[Vectors, Any, Values, Values], Values]


def row_pass(dtype: str, tier: str, arrays: int, numbers: int, results: int, emit: Emit) -> Any:
    """f(n, (arrays' addresses), (numbers)) -> (numbers), to be called in kernels.

    `emit` writes the loop: it gets n, the addresses, the numbers in vectors, and returns `results` numbers. n may be a
    tuple (n, count, bytes) for `runs`, which `emit` then gets as it is.
    """
    number = getattr(types, dtype)
    back = types.UniTuple(number, results) if results else types.void

    @intrinsic
    def function(typing: Any, n: Any, places: Any, values: Any) -> Any:
        def make(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            length, places, values = args
            if isinstance(n, types.BaseTuple):
                length = [builder.extract_value(length, i) for i in range(3)]
            v = Vectors(builder, element(dtype), lanes(dtype, tier))
            at = [builder.extract_value(places, i) for i in range(arrays)]
            found = emit(v, length, at, [v.splat(builder.extract_value(values, i)) for i in range(numbers)])
            return context.make_tuple(builder, back, found) if results else context.get_dummy_value()

        length = n if isinstance(n, types.BaseTuple) else types.int64
        return back(length, types.UniTuple(types.int64, arrays), types.UniTuple(number, numbers)), make

    return function


# --- element by element ---------------------------------------------------------------------------------------------

Step = Callable[[Vectors, Values, Values], Values]


@functools.cache
def _elementwise(tier: str, dtype: str, name: str, reads: int, writes: int, scalars: int, step: Step) -> Any:
    size, nlanes = np.dtype(dtype).itemsize, lanes(dtype, tier)

    @intrinsic
    def block(typing: Any, n: Any, start: Any, sources: Any, targets: Any, numbers: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, start, sources, targets, numbers = args
            v = Vectors(builder, element(dtype), nlanes)
            at = builder.mul(start, I64(size))
            come = [builder.add(builder.extract_value(sources, i), at) for i in range(reads)]
            go = [builder.add(builder.extract_value(targets, i), at) for i in range(writes)]
            known = [scalar(v, builder.extract_value(numbers, i)) for i in range(scalars)]
            sweep(v, n, come, go, lambda xs, sums: (step(v, xs, known), sums), unroll=2)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, sources, targets, numbers), emit

    @jit(inner=True)
    def body(task, slot, n, each, sources, targets, numbers):  # type: ignore[no-untyped-def]
        start = task * each
        block(min(each, n - start), start, sources, targets, numbers)

    @jit(tag=f"{name} {dtype} {tier}")
    def elementwise(n, each, tasks, nthreads, sources, targets, numbers):  # type: ignore[no-untyped-def]
        parallel_for(body, tasks, nthreads, (n, each, sources, targets, numbers))

    return elementwise


def elementwise(
    name: str,
    step: Step,
    dtype: str,
    n: int,
    sources: tuple[int, ...],
    targets: tuple[int, ...],
    numbers: tuple[float, ...] = (0.0,),
) -> None:
    """targets[j][i] = step(sources[0][i], sources[1][i], ...; numbers)[j] for i < n; arrays by their addresses.

    `name` names the kernel on disk and must tell apart the steps of this process.
    """
    kernel = _elementwise(machine.floats(), dtype, name, len(sources), len(targets), len(numbers), step)
    kernel(n, GRAIN, -(-n // GRAIN), threads.get_num_threads(), sources, targets, numbers)
