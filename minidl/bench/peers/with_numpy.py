"""NumPy, that is, the BLAS behind it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl_kernels.cpu import threads
from minidl_kernels.gemm_int4.reference import weights

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


def int4_linear(
    x: np.ndarray, w_q: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, b: np.ndarray | None = None
) -> Call:
    """The product in float32, its weights made floats before."""
    return _kept(linear(x, weights(w_q, scale, zero), b))


def csr_linear(
    x: np.ndarray, values: np.ndarray, indices: np.ndarray, indptr: np.ndarray, b: np.ndarray | None = None
) -> Call:
    """The dense product, with the zeros."""
    return _kept(linear(x, kernels.unpack_csr(values, indices, indptr, x.shape[-1]), b))


def csr_linear_dx(dy: np.ndarray, values: np.ndarray, indices: np.ndarray, indptr: np.ndarray, k: int) -> Call:
    """The dense product, with the zeros."""
    return _kept(matmul(dy, kernels.unpack_csr(values, indices, indptr, k)))


def nm_linear(x: np.ndarray, values: np.ndarray, indices: np.ndarray, m: int, b: np.ndarray | None = None) -> Call:
    """The dense product, with the zeros."""
    return _kept(linear(x, kernels.unpack_nm(values, indices, m, x.shape[-1]), b))


def _kept(call: Call) -> Call:
    """It works on weights that were made dense before."""
    call.keeps = True  # type: ignore[attr-defined]
    return call
