"""Softmax, its logarithm, and log-sum-exp: computed from x - max x, so that nothing overflows."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import devices, dtypes
from minidl.autograd import Op, op
from minidl.ops.common import compiled, many_dims, one_dim, put_back, row_major, total
from minidl.ops.exponentials import exp
from minidl.ops.reduce import in_dtype, sum


def _floating(x: Any, dtype: Any) -> Any:
    if dtype is not None:
        return x.astype(dtypes.as_numpy(dtype))
    if x.dtype.kind != "f":
        raise NotImplementedError(f"softmax needs floating point numbers, got {x.dtype}; convert with .float()")
    return x


ROWS = 1 << 11  # elements, from which on the kernels along rows are faster than NumPy's passes


def _rows(x: Any, dim: int) -> bool:
    """Whether a compiled kernel takes the rows of x, which lie along the last dimension."""
    return dim == x.ndim - 1 and compiled(x, least=ROWS)


@op(method="softmax")
class softmax(Op):
    """y_i = e^(x_i) / sum_j e^(x_j) along `dim`;    dx = y (dy - sum_j dy_j y_j)

    Why: dy_i/dx_j = y_i ([i = j] - y_j); against dy this sums to y_j (dy_j - sum_i dy_i y_i).
    Try: softmax(randn(3, 4), 1)
    """

    def shape(x: Any, dim: int, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        one_dim(dim, len(x))
        return x

    def forward(ctx, x: Any, dim: int, dtype: Any = None) -> Any:
        ctx.x_dtype = x.dtype
        x = _floating(x, dtype)
        ctx.dim = one_dim(dim, x.ndim)
        if not x.size:
            y = x.copy()
        elif x.ndim == 0:
            y = devices.as_array(np.exp(x - x))
        elif _rows(x, ctx.dim):
            y = kernels.softmax(x)
        else:
            y = row_major(np.exp(x - x.max(ctx.dim, keepdims=True)))
            y /= total(y, ctx.dim, True)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        if compiled(dy, y, least=ROWS) and ctx.dim == y.ndim - 1:
            return in_dtype(kernels.softmax_backward(dy, y), ctx.x_dtype)
        z = dy * y
        return in_dtype(z - y * sum(z, ctx.dim, True), ctx.x_dtype)


@op(method="log_softmax")
class log_softmax(Op):
    """y_i = x_i - ln sum_j e^(x_j) along `dim`;    dx = dy - e^y sum_j dy_j

    Why: dy_i/dx_j = [i = j] - e^(y_j), since the slope of ln sum e^x is the softmax e^y; sum against dy.
    Try: log_softmax(randn(3, 4), 1)
    """

    def shape(x: Any, dim: int, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        one_dim(dim, len(x))
        return x

    def forward(ctx, x: Any, dim: int, dtype: Any = None) -> Any:
        ctx.x_dtype = x.dtype
        x = _floating(x, dtype)
        ctx.dim = one_dim(dim, x.ndim)
        if not x.size:
            y = x.copy()
        elif x.ndim == 0:
            y = devices.as_array(x - x)
        elif _rows(x, ctx.dim):
            y = kernels.log_softmax(x)
        else:
            y = row_major(x - x.max(ctx.dim, keepdims=True))
            y -= np.log(total(np.exp(y), ctx.dim, True))
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        if compiled(dy, y, least=ROWS) and ctx.dim == y.ndim - 1:
            return in_dtype(kernels.log_softmax_backward(dy, y), ctx.x_dtype)
        return in_dtype(dy - exp(y) * sum(dy, ctx.dim, True), ctx.x_dtype)


@op(method="logsumexp")
class logsumexp(Op):
    """y = ln sum e^x over `dim`;    dx = dy e^(x - y)

    Why: dy/dx_j = e^(x_j) / sum e^x = e^(x_j - y), the softmax of x.
    Try: logsumexp(randn(3, 4), 1)
    """

    def forward(ctx, x: Any, dim: Any, keepdim: bool = False) -> Any:
        if x.dtype.kind != "f":
            x = x.astype(dtypes.default())
        ctx.dims, ctx.keepdim = many_dims(dim, x.ndim), bool(keepdim)
        start = {} if devices.is_cuda_array(x) else {"initial": -np.inf}  # CuPy has none, nor a maximum of nothing
        peak = x.max(ctx.dims, keepdims=True, **start)
        peak = np.where(np.isfinite(peak), peak, 0).astype(x.dtype)
        y = np.log(total(np.exp(x - peak), ctx.dims, True)) + peak
        y = row_major(y if ctx.keepdim else y.reshape(tuple(n for i, n in enumerate(y.shape) if i not in ctx.dims)))
        ctx.save(x, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        x, y = ctx.saved
        return put_back(dy, ctx.dims, ctx.keepdim) * exp(x - put_back(y, ctx.dims, ctx.keepdim))
