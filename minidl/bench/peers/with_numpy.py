"""NumPy, that is, the BLAS behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from minidl_kernels.cpu import threads

Call = Callable[[], Any]


@contextlib.contextmanager
def start(nthreads: int) -> Iterator[None]:
    """Inside, BLAS has this many threads (where it can be told: Apple's cannot)."""
    functions = threads._blas()
    if functions is None:
        yield
        return
    get, put = functions
    before = get()
    put(nthreads)
    try:
        yield
    finally:
        put(before)


def matmul(a: np.ndarray, b: np.ndarray) -> Call:
    return lambda: a @ b


def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray | None = None) -> Call:
    return (lambda: x @ w.T) if b is None else (lambda: x @ w.T + b)
