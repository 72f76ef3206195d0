"""Matrix products on a GPU: gemm.cu, a ladder for float32 and float64, and tensor.cu, tensor cores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..cuda.launch import cupy, kernel, squares

# kernel -> its file, its block, rows and columns of C that a block makes
_KERNELS: dict[str, tuple[str, tuple[int, int], int]] = {
    "naive": ("gemm/gemm.cu", (16, 16), 16),
    "shared_tiles": ("gemm/gemm.cu", (16, 16), 16),
    "register_tiles": ("gemm/gemm.cu", (256, 1), 64),
    "async_tiles": ("gemm/gemm.cu", (256, 1), 64),
    "tf32x3": ("gemm/tensor.cu", (128, 1), 64),
    "tf32": ("gemm/tensor.cu", (128, 1), 64),
    "bf16": ("gemm/tensor.cu", (128, 1), 64),
    "f16": ("gemm/tensor.cu", (128, 1), 64),
}
_MOST_BATCHES = 65535  # blocks along z


def _operand(a: Any, batch: tuple[int, ...]) -> tuple[Any, tuple[int, int, int]]:
    """A dense array with the elements of `a`, and its steps from matrix to matrix, row to row, column to column.

    Transposed matrices are read where they are; one matrix for the whole batch is read again and again.
    """
    rows, columns = a.shape[-2:]
    if a.shape[:-2] != batch and math.prod(a.shape[:-2]) != 1:
        a = cupy().broadcast_to(a, (*batch, rows, columns))
    step = 0 if math.prod(a.shape[:-2]) == 1 else rows * columns
    turned = a.swapaxes(-1, -2)
    if turned.flags.c_contiguous and not a.flags.c_contiguous:
        return turned, (step, 1, rows)
    return cupy().ascontiguousarray(a), (step, columns, 1)


def product(name: str, a: Any, b: Any, bias: Any = None) -> Any:
    """a (..., M, K) @ b (..., K, N) + bias (N,) by one of the kernels."""
    source, block, side = _KERNELS[name]
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    (m, k), n, count = a.shape[-2:], b.shape[-1], math.prod(batch)
    (a, a_steps), (b, b_steps) = _operand(a, batch), _operand(b, batch)
    c = cupy().empty((*batch, m, n), a.dtype)
    bias = None if bias is None else cupy().ascontiguousarray(bias)
    bits = [x if x is None or x.dtype != "float16" else x.view("uint16") for x in (a, b, bias)]
    dtype = "float32" if a.dtype == "float16" else a.dtype
    run = kernel(source, name, dtype)
    out = (c.view("uint16") if c.dtype == "float16" else c).reshape(count, m, n)
    for first in range(0, count, _MOST_BATCHES):
        some = slice(first, first + _MOST_BATCHES)
        if first:
            bits[:2] = [x.reshape(-1)[step * first :] for x, (step, *_) in zip(bits[:2], (a_steps, b_steps))]
        grid = (squares(name, m, n, side), 1, min(count - first, _MOST_BATCHES))
        run(grid, block, *bits, out[some], m, n, k, *a_steps, *b_steps)
    return c


def _linear(name: str, x: Any, w: Any, b: Any) -> Any:
    rows = cupy().ascontiguousarray(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return product(name, rows, w.T, b).reshape(*x.shape[:-1], w.shape[0])


def matmul_naive(a: Any, b: Any) -> Any:
    return product("naive", a, b)


def matmul_shared_tiles(a: Any, b: Any) -> Any:
    return product("shared_tiles", a, b)


def matmul_register_tiles(a: Any, b: Any) -> Any:
    return product("register_tiles", a, b)


def matmul_async_tiles(a: Any, b: Any) -> Any:
    return product("async_tiles", a, b)


def matmul_tf32x3(a: Any, b: Any) -> Any:
    return product("tf32x3", a, b)


def matmul_tf32(a: Any, b: Any) -> Any:
    return product("tf32", a, b)


def matmul_bf16(a: Any, b: Any) -> Any:
    return product("bf16", a, b)


def matmul_f16(a: Any, b: Any) -> Any:
    return product("f16", a, b)


def matmul_library(a: Any, b: Any) -> Any:
    return cupy().matmul(a, b)


def linear_naive(x: Any, w: Any, b: Any) -> Any:
    return _linear("naive", x, w, b)


def linear_shared_tiles(x: Any, w: Any, b: Any) -> Any:
    return _linear("shared_tiles", x, w, b)


def linear_register_tiles(x: Any, w: Any, b: Any) -> Any:
    return _linear("register_tiles", x, w, b)


def linear_async_tiles(x: Any, w: Any, b: Any) -> Any:
    return _linear("async_tiles", x, w, b)


def linear_tf32x3(x: Any, w: Any, b: Any) -> Any:
    return _linear("tf32x3", x, w, b)


def linear_tf32(x: Any, w: Any, b: Any) -> Any:
    return _linear("tf32", x, w, b)


def linear_bf16(x: Any, w: Any, b: Any) -> Any:
    return _linear("bf16", x, w, b)
