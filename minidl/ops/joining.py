"""Tensors put together: cat, stack, and their relatives by rows and columns."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import Op, ShapeError, op, require
from minidl.ops.common import one_dim, row_major
from minidl.ops.copies import cast
from minidl.ops.shapes import reshape, reshape_op, unsqueeze


@op()
class cat(Op):
    """The tensors one after the other along `dim`;    each dx is its part of dy

    Why: each x is copied to its own part of y, so that part of dy is its gradient.
    Try: cat([randn(2, 3), randn(1, 3)])
    """

    variadic = True

    def shape(xs: Any, dim: int = 0) -> Any:  # type: ignore[override]
        require(len(xs) > 0, "cat() needs at least one tensor")
        real = [x for x in xs if x != (0,)]
        if not real:
            return (0,)
        d = one_dim(dim, len(real[0]))
        for x in real[1:]:
            same = len(x) == len(real[0]) and builtins.all(
                a == b for i, (a, b) in enumerate(zip(x, real[0], strict=True)) if i != d
            )
            require(same, "sizes must match except in dimension {}: {} and {}", d, real[0], x)
        return tuple(builtins.sum(x[d] for x in real) if i == d else n for i, n in enumerate(real[0]))

    def forward(ctx, xs: Any, dim: int = 0) -> Any:
        if not xs:
            raise ShapeError("cat() needs at least one tensor")
        for k, x in enumerate(xs):
            if not hasattr(x, "dtype"):
                raise TypeError(f"cat: expected Tensor as element {k}, but got {type(x).__name__}")
        if builtins.any(x.ndim == 0 for x in xs):
            raise RuntimeError("zero-dimensional tensor cannot be concatenated: use stack(), or unsqueeze(0) first")
        dtype = xs[0].dtype
        for x in xs[1:]:
            if x.dtype != dtype:
                dtype = dtypes.result_type(*[y.reshape(-1)[:1] for y in xs])
                break
        real = [x for x in xs if x.shape != (0,)] or list(xs[:1])
        ctx.dim = one_dim(dim, real[0].ndim)
        ctx.shapes = [x.shape for x in xs]
        ctx.dtypes = [x.dtype for x in xs]
        return row_major(np.concatenate([x.astype(dtype, copy=False) for x in real], axis=ctx.dim))

    def backward(ctx, dy: Any) -> Any:
        grads, start = [], 0
        for shape, dtype, need in zip(ctx.shapes, ctx.dtypes, ctx.needs, strict=True):
            n = 0 if shape == (0,) and dy.ndim != 1 else shape[ctx.dim]
            part = dy[(slice(None),) * ctx.dim + (slice(start, start + n),)] if need else None
            if need and shape == (0,) and dy.ndim != 1:
                part = reshape(part, (0,))
            grads.append(part if part is None or dtypes.as_numpy(part.dtype) == dtype else cast(part, dtype))
            start += n
        return grads


concat = concatenate = cat


@op()
def stack(tensors: Any, dim: int = 0) -> Any:
    """The tensors, all of one shape, along a new dimension.

    Try: stack([randn(2, 3), randn(2, 3)])
    """
    require(len(tensors) > 0, "stack() needs at least one tensor")
    first = tuple(tensors[0].shape)
    for x in tensors:
        require(
            tuple(x.shape) == first,
            "stack expects each tensor to be equal size, but got {} and {}",
            first,
            tuple(x.shape),
        )
    return cat([unsqueeze(x, dim) for x in tensors], one_dim(dim, len(first) + 1))


@op()
def vstack(tensors: Any) -> Any:
    """The tensors, as rows or matrices, one below the other.

    Try: vstack([randn(3), randn(2, 3)])
    """
    return cat([reshape_op(x, (1, -1)) if x.ndim < 2 else x for x in tensors], 0)


@op()
def hstack(tensors: Any) -> Any:
    """The tensors side by side: along dimension 1, vectors along 0.

    Try: hstack([randn(3), randn(2)])
    """
    require(len(tensors) > 0, "hstack expects a non-empty list of tensors")
    tensors = [reshape_op(x, (1,)) if x.ndim == 0 else x for x in tensors]
    return cat(tensors, 0 if tensors[0].ndim == 1 else 1)
