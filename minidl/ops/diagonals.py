"""Diagonals and triangles of matrices: taking them, making matrices of them, adding them up."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import Op, op, require
from minidl.ops.common import one_dim
from minidl.ops.copies import clone
from minidl.ops.reduce import sum


def _two_dims(dim1: int, dim2: int, ndim: int) -> tuple[int, int]:
    d1, d2 = one_dim(dim1, ndim), one_dim(dim2, ndim)
    if d1 == d2:
        raise RuntimeError(f"diagonal dimensions cannot be identical {dim1}, {dim2}")
    return d1, d2


@op(method="diagonal")
class diagonal(Op):
    """y[..., i] = x[..., i, i + offset], a view; the dimensions dim1 and dim2 make way for a last one

    dx = zeros with dy on the diagonal

    Why: y copies the diagonal, so dy goes back there, zeros elsewhere.
    Try: diagonal(randn(3, 4))
    """

    is_view = True

    def forward(ctx, x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
        d1, d2 = _two_dims(dim1, dim2, x.ndim)
        ctx.size, ctx.how = x.shape, (offset, d1, d2)
        y = np.diagonal(x, offset, d1, d2)
        if isinstance(y, np.ndarray) and x.flags.writeable:
            y.flags.writeable = True  # NumPy's is read-only, torch's is not
        return y

    def backward(ctx, dy: Any) -> Any:
        return place_diagonal(dy, ctx.size, *ctx.how)


@op()
class place_diagonal(Op):
    """y = zeros of `size` with x on a diagonal;    dx = that diagonal of dy

    Why: x is copied to the diagonal, so its gradient is read there.
    Try: place_diagonal(randn(3), (3, 4), 1, 0, 1)
    """

    def forward(ctx, x: Any, size: Any, offset: int, d1: int, d2: int) -> Any:
        ctx.how = (offset, d1, d2)
        y = np.zeros_like(x, shape=size, order="C")
        line = np.diagonal(y, offset, d1, d2)
        if isinstance(line, np.ndarray):
            line.flags.writeable = True
        line[...] = x
        return y

    def backward(ctx, dy: Any) -> Any:
        return diagonal(dy, *ctx.how)


@op(method="diag_embed")
def diag_embed(input: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """Square matrices with the vectors along input's last dimension on their diagonal, zeros elsewhere.

    Try: diag_embed(randn(3))
    """
    ndim = len(input.shape) + 1
    if ndim == 1:
        raise RuntimeError("diag_embed needs at least one dimension")
    d1, d2 = _two_dims(dim1, dim2, ndim)
    n = input.shape[-1] + abs(offset)
    size = list(input.shape[:-1])
    for d in sorted((d1, d2)):
        size.insert(d, n)
    return place_diagonal(input, tuple(size), offset, d1, d2)


@op(method="diag")
def diag(input: Any, diagonal: int = 0) -> Any:
    """Of a vector the matrix with it on a diagonal; of a matrix a copy of that diagonal.

    Try: diag(randn(3))
    """
    require(len(input.shape) in (1, 2), "diag: a vector or a matrix is expected, got {}", tuple(input.shape))
    return diag_embed(input, diagonal) if len(input.shape) == 1 else clone(_diagonal(input, diagonal))


_diagonal = diagonal


@op(method="trace")
def trace(input: Any) -> Any:
    """The sum of a matrix's diagonal.

    Try: trace(randn(3, 3))
    """
    require(
        len(input.shape) == 2,
        "trace: a matrix is expected, got {}; or a loss of one element, to step through its backward: sum() or mean()",
        tuple(input.shape),
    )
    if dtypes.as_numpy(input.dtype).kind == "b":
        raise NotImplementedError("trace is not defined for bools: convert to int or float first")
    return sum(diagonal(input))


class _Triangle(Op):
    cut: Any

    def forward(ctx, x: Any, diagonal: int = 0) -> Any:
        require(x.ndim >= 2, "expected at least 2 dimensions, got shape {}", x.shape)
        ctx.diagonal = diagonal
        return type(ctx).cut(x, diagonal)

    def backward(ctx, dy: Any) -> Any:
        return type(ctx)(dy, ctx.diagonal)


@op(method="tril", inplace=True)
class tril(_Triangle):
    """x on and below a diagonal, 0 above it

    Why: what is kept is copied, what is cut is constant 0: the gradient is cut alike.
    Try: tril(randn(3, 4))
    """

    cut = staticmethod(np.tril)


@op(method="triu", inplace=True)
class triu(_Triangle):
    """x on and above a diagonal, 0 below it

    Why: what is kept is copied, what is cut is constant 0: the gradient is cut alike.
    Try: triu(randn(3, 4))
    """

    cut = staticmethod(np.triu)
