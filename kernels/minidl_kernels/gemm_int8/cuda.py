"""8-bit integers on a GPU: int8.cu, exact, by dp4a or tensor cores, with the rescaling in the product's last step."""

from __future__ import annotations

import math
from typing import Any

from ..checks import pair
from ..cuda.launch import contiguous, cupy, kernel, lanes, squares

_SOURCE = "gemm_int8/int8.cu"
_WAYS = {"dp4a": ((16, 16), 16), "mma": (128, 64)}  # block, rows and columns that it makes


def _steps(b: Any) -> tuple[Any, tuple[int, int]]:
    """b (K, N), read where it is if it is a matrix or the transpose of one; steps along k and n."""
    k, n = b.shape
    if b.T.flags.c_contiguous and not b.flags.c_contiguous:
        return b.T, (1, k)
    return cupy().ascontiguousarray(b), (n, 1)


def _quantize(x: Any, x_scale: float | None) -> tuple[Any, Any]:
    """x (M, K) -> q int8, scale (M,) float32."""
    q, scale = cupy().empty(x.shape, "int8"), cupy().empty(x.shape[0], "float32")
    kernel(_SOURCE, "quantize", x.dtype)(x.shape[0], lanes(x.shape[1]), x, q, scale, x.shape[1], x_scale or 0)
    return q, scale


def _matmul(way: str, a: Any, b: Any) -> Any:
    (rows,), (b, steps) = contiguous(a), _steps(b)
    m, (k, n) = math.prod(a.shape[:-1]), (a.shape[-1], steps[0] if steps[1] == 1 else b.shape[0])
    y = cupy().empty((*a.shape[:-1], n), "int32")
    block, side = _WAYS[way]
    kernel(_SOURCE, way)(squares("int8_matmul", m, n, side), block, rows, b, y, m, n, k, *steps)
    return y


def _linear(way: str, x: Any, w_q: Any, w_scale: Any, b: Any, x_scale: float | None) -> Any:
    (rows,), (n, k) = contiguous(x), w_q.shape
    m = math.prod(x.shape[:-1])
    q, scale = _quantize(rows.reshape(m, k), x_scale)
    (w, steps), xp = _steps(w_q.T), cupy()
    w_scale = xp.ascontiguousarray(w_scale, "float32")
    b = None if b is None else xp.ascontiguousarray(b, "float32")
    y = xp.empty((*x.shape[:-1], n), x.dtype)
    block, side = _WAYS[way]
    grid = squares("int8_linear", m, n, side)
    kernel(_SOURCE, f"{way}_linear", x.dtype)(grid, block, q, w, y, scale, w_scale, b, m, n, k, *steps)
    return y


def matmul_dp4a(a: Any, b: Any) -> Any:
    return _matmul("dp4a", a, b)


def matmul_mma(a: Any, b: Any) -> Any:
    return _matmul("mma", a, b)


def linear_dp4a(x: Any, w_q: Any, w_scale: Any, b: Any, x_scale: float | None) -> Any:
    return _linear("dp4a", x, w_q, w_scale, b, x_scale)


def linear_mma(x: Any, w_q: Any, w_scale: Any, b: Any, x_scale: float | None) -> Any:
    return _linear("mma", x, w_q, w_scale, b, x_scale)


def conv2d_mma(
    x: Any, w_q: Any, w_scale: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int, x_scale: float | None
) -> Any:
    how = [pair("int8_conv2d", "", v, 0) for v in (stride, padding, dilation)]
    (n, c, h, w), (k, _, r, s) = x.shape, w_q.shape
    out = [(size + 2 * p - d * (f - 1) - 1) // t + 1 for size, f, t, p, d in zip((h, w), (r, s), *how)]
    x, w_q = contiguous(x, w_q)
    q, scale = _quantize(x.reshape(n, c * h * w), x_scale)
    xp = cupy()
    w_scale, b = (None if a is None else xp.ascontiguousarray(a, "float32") for a in (w_scale, b))
    y = xp.empty((n, k, *out), x.dtype)
    grid = (squares("int8_conv2d", k // groups, n * out[0] * out[1], 64), 1, groups)
    sizes = (n, c, h, w, k, *out, groups, r, s, *how[0], *how[1], *how[2])
    kernel(_SOURCE, "mma_conv2d", x.dtype)(grid, 128, q, w_q, y, scale, w_scale, b, *sizes)
    return y
