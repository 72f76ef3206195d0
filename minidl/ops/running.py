"""Running along a dimension: cummax, cummin, logcumsumexp; differences of neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, op, require
from minidl.ops.axes import flip
from minidl.ops.common import accumulated, one_dim
from minidl.ops.copies import clone
from minidl.ops.exponentials import exp, log
from minidl.ops.gather_scatter import gather
from minidl.ops.joining import cat
from minidl.ops.logic import like, raw
from minidl.ops.masks import where
from minidl.ops.reduce import pair
from minidl.ops.splitting import narrow


def _so_far(name: str, input: Any, dim: int, better: Any) -> Any:
    """(values, indices) of the best so far, the last of equals; NaN, once met, stays."""
    x = raw(input)
    d = one_dim(dim, x.ndim)
    if not x.ndim:
        return pair(name)(clone(input), like(input, devices.array_module(x).zeros((), np.int64)))
    best: Any = accumulated(better, x, d)
    reached = (x == best) | (x != x)
    place = devices.array_module(x).arange(x.shape[d]).reshape((-1,) + (1,) * (x.ndim - 1 - d))
    index = accumulated(np.maximum, np.where(reached, place, 0), d)
    return pair(name)(gather(input, d, index), like(input, index))


@op(method="cummax")
def cummax(input: Any, dim: int) -> Any:
    """(values, indices): the greatest element so far along `dim`, and where it is, the last of equals.

    Try: cummax(randn(3, 5), 0)
    """
    return _so_far("cummax", input, dim, np.maximum)


@op(method="cummin")
def cummin(input: Any, dim: int) -> Any:
    """(values, indices): the least element so far along `dim`, and where it is, the last of equals.

    Try: cummin(randn(3, 5), 0)
    """
    return _so_far("cummin", input, dim, np.minimum)


@op(method="logcumsumexp")
class logcumsumexp(Op):
    """y_i = log(e^x_0 + ... + e^x_i) along `dim`;    dx_j = sum over i >= j of dy_i e^(x_j - y_i)

    The sum is taken in the same way, with the positive and the negative dy apart, so that nothing overflows.

    Why: dy_i/dx_j = e^(x_j) / sum up to i of e^x = e^(x_j - y_i) for j <= i; sum over i.
    Try: logcumsumexp(randn(3, 4), 0)
    """

    def shape(x: Any, dim: int) -> Any:  # type: ignore[override]
        one_dim(dim, len(x))
        return x

    def forward(ctx, x: Any, dim: int) -> Any:
        if x.dtype.kind != "f":
            raise NotImplementedError(f"logcumsumexp is not defined for {x.dtype}: convert with .float()")
        ctx.dim = one_dim(dim, x.ndim)
        y = accumulated(np.logaddexp, x, ctx.dim) if x.ndim else x.copy()
        ctx.save(x, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        x, y = ctx.saved
        if not len(x.shape):
            return dy

        def share(part: Any) -> Any:
            """sum over i >= j of part_i e^(x_j - y_i), part >= 0"""
            none = part == 0
            size = where(none, -np.inf, log(where(none, 1.0, part)) - y)
            return exp(flip(logcumsumexp(flip(size, (ctx.dim,)), ctx.dim), (ctx.dim,)) + x)

        return share(where(dy > 0, dy, 0.0)) - share(where(dy < 0, -dy, 0.0))


@op(method="diff")
def diff(input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """x_(i+1) - x_i along `dim`, n times over; `prepend` and `append` are joined to input first.

    Differences of bools tell whether they differ. Raises RuntimeError for a 0-d input or a negative n.

    Try: diff(randn(5))
    """
    require(len(input.shape) > 0, "diff expects input to be at least one-dimensional, got {}", tuple(input.shape))
    require(n >= 0, "order must be non-negative but got {}", n)
    d = one_dim(dim, len(input.shape))
    for other in (prepend, append):
        require(
            other is None or len(other.shape) == len(input.shape),
            "diff expects prepend or append to have the dimensions of input, {}, got {}",
            tuple(input.shape),
            other is not None and tuple(other.shape),
        )
    if n == 0:
        return clone(input)
    if prepend is not None or append is not None:
        input = cat([part for part in (prepend, input, append) if part is not None], d)
    for _ in range(n):
        size = max(input.shape[d] - 1, 0)
        later, earlier = narrow(input, d, min(1, input.shape[d]), size), narrow(input, d, 0, size)
        input = later != earlier if dtypes.as_numpy(input.dtype).kind == "b" else later - earlier
    return input
