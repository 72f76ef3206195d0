"""Rows added one after another, as the definition says: threads share out the columns, so nobody waits for anybody."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu import threads
from ..cpu.gather import pointer
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from .reference import refuse

Array = NDArray[Any]

GRAIN = 1 << 14  # additions in a task: some microseconds at least, where waking a thread costs less
LINE = 64  # bytes that two threads must not share

i64 = pointer("int64")


@functools.cache
def _kernel(dtype: str) -> Any:
    numbers, size = pointer(dtype), np.dtype(dtype).itemsize

    @jit(inner=True)
    def some_columns(task, slot, each, length, width, x, index, y):  # type: ignore[no-untyped-def]
        first, last = task * each, min((task + 1) * each, width)
        for i in range(length):
            row = numbers(x + (i * width + first) * size)
            total = numbers(y + (i64(index)[i] * width + first) * size)
            for j in range(last - first):
                total[j] += row[j]

    @jit(tag=dtype)
    def kernel(each, tasks, nthreads, length, width, x, index, y):  # type: ignore[no-untyped-def]
        parallel_for(some_columns, tasks, nthreads, (each, length, width, x, index, y))

    return kernel


def scatter_rows(x: Array, index: Array, rows: int) -> Array:
    refuse(index, rows)
    kind = "int64" if x.dtype.kind in "iu" else "float64" if x.itemsize == 8 else "float32"
    length, width = x.shape
    y = np.zeros((rows, width), kind)
    if x.size:
        count = max(1, min(threads.get_num_threads(), x.size // GRAIN))
        each = -(-width // count)
        each += -each % (LINE // y.itemsize)
        plain, at = np.ascontiguousarray(x, kind), np.ascontiguousarray(index, np.int64)
        _kernel(kind)(each, -(-width // each), count, length, width, address(plain), address(at), address(y))
    return y.astype(x.dtype, copy=False)
