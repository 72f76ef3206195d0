"""Values combined at places: scatter_reduce, index_reduce, index_put; parts of a tensor written anew, out of place."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, attach, op, require
from minidl.ops.common import join_at, one_dim
from minidl.ops.copies import cast, clone
from minidl.ops.diagonals import diagonal
from minidl.ops.gather_scatter import _checked_index, _grid, _vector, gather
from minidl.ops.indexing import getitem, plain_index, put
from minidl.ops.logic import raw
from minidl.ops.masks import where
from minidl.ops.shapes import reshape
from minidl.ops.splitting import select
from minidl.ops.tiling import broadcast_to
from minidl.tensors import Tensor

_REDUCE: dict[str, Any] = {
    "sum": np.add, "prod": np.multiply, "mean": np.add, "amax": np.maximum, "amin": np.minimum,
}  # fmt: skip


def _neutral(reduce: str, dtype: Any) -> Any:
    """What changes nothing: 0, 1, the least or the greatest number."""
    if reduce in ("sum", "mean", "prod"):
        return reduce == "prod"
    least = reduce == "amax"
    if dtype.kind == "f":
        return -np.inf if least else np.inf
    if dtype.kind == "b":
        return not least
    return np.iinfo(dtype).min if least else np.iinfo(dtype).max


@op()
class reduced_at(Op):
    """y = x with src[i] put together with y[index[i]] along dim by "sum", "prod", "mean", "amax" or "amin"

    Without include_self x counts only where nothing arrives. Gradients: of a mean, dy over the count; of amax and amin,
    dy shared by the ties; of a product, dy y / factor, worked out anew where a factor is 0.

    Why: what arrives at a place is a sum, a product, a mean or the greatest of src and x there, and dy passes as
        through each of those.
    Try: scatter_reduce(randn(3, 3), 0, tensor([[0, 2, 0], [1, 1, 1]]), randn(2, 3), "mean")
    """

    def forward(ctx, x: Any, dim: int, index: Any, src: Any, reduce: str, include_self: bool) -> Any:
        ctx.how = dim, index, reduce, include_self
        at = _grid(index, dim)
        part = src[tuple(slice(n) for n in index.shape)]
        y = x.copy()
        if not include_self:
            y[at] = _neutral(reduce, x.dtype)
        join_at(_REDUCE[reduce], y, at, part)
        if reduce == "mean":
            y = _divided(y, _count(x.shape, at, include_self))
        ctx.save(x, src, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        dim, index, reduce, include_self = ctx.how
        x, src, y = ctx.saved
        place = tuple(slice(n) for n in index.shape)
        b = getitem(src, place)
        kind = dtypes.as_numpy(dy.dtype)
        if reduce == "sum":
            dx, db = dy, gather(dy, dim, index)
        elif reduce == "mean":
            dx = dy / _count(tuple(x.shape), _grid(index, dim), include_self).astype(kind)
            db = gather(dx, dim, index)
        elif reduce == "prod":
            dx, db = _product_gradients(dy, x, b, y, dim, index, include_self)
        else:
            mine = (raw(x) == raw(y)).astype(kind)
            theirs = (raw(b) == raw(y)[_grid(index, dim)]).astype(kind)
            ties = mine.copy() if include_self else np.where(_reached(mine.shape, _grid(index, dim)), 0, mine)
            join_at(np.add, ties, _grid(index, dim), theirs)
            share = dy / np.maximum(ties, 1)
            dx, db = share * mine, gather(share, dim, index) * theirs
        if not include_self:
            dx = where(_reached(tuple(x.shape), _grid(index, dim)), 0.0, dx)
        if tuple(b.shape) != tuple(src.shape):
            db = put(db, place, tuple(src.shape))
        return dx if ctx.needs[0] else None, None, None, db if ctx.needs[3] else None


def _reached(shape: Any, at: Any) -> Any:
    hit = _module(at).zeros(shape, bool)
    hit[at] = True
    return hit


def _module(at: Any) -> Any:
    return next((m for m in map(devices.array_module, at) if m is not np), np)


def _count(shape: Any, at: Any, include_self: bool) -> Any:
    """How many values meet at each place, 1 where there are none."""
    n = _module(at).full(shape, 1 if include_self else 0, np.int64)
    join_at(np.add, n, at, 1)
    return np.maximum(n, 1)


def _divided(y: Any, n: Any) -> Any:
    return (y / n).astype(y.dtype) if y.dtype.kind == "f" else np.floor_divide(y, n).astype(y.dtype)


def _product_gradients(dy: Any, x: Any, b: Any, y: Any, dim: int, index: Any, include_self: bool) -> tuple:
    def product(first: Any, factors: Any) -> Any:
        return reduced_at(first, dim, index, factors, "prod", include_self)

    x_zero, b_zero = raw(x) == 0, raw(b) == 0
    one = where(x_zero, 1.0, x)
    dx = dy * product(one, b) / one
    zeros = devices.array_module(x_zero).zeros(x_zero.shape, np.int64)
    join_at(np.add, zeros, _grid(index, dim), b_zero)
    zeros = zeros[_grid(index, dim)]  # among the factors at each place
    alone = b_zero & (zeros == 1)
    others = product(x, where(alone, 1.0, b))
    db = where(alone, gather(dy * others, dim, index), gather(dy * y, dim, index) / where(b_zero, 1.0, b))
    return dx, where(zeros > 1, 0.0, db) if (zeros > 1).any() else db


@op(method="scatter_reduce", inplace=True)
def scatter_reduce(input: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True) -> Any:
    """input with the elements of src put together at `index` along dim: "sum", "prod", "mean", "amax" or "amin".

    y[index[i][j]][j] = reduce(y[index[i][j]][j], src[i][j]) for dim 0. Without include_self input counts only where
    nothing arrives. Index and src as in :func:`scatter`. Raises RuntimeError for another `reduce`, for different dtypes
    and shapes that do not fit.

    Try: scatter_reduce(randn(3, 3), 0, tensor([[0, 2, 0], [1, 1, 1]]), randn(2, 3), "sum")
    """
    if reduce not in _REDUCE:
        raise RuntimeError(f"reduce argument must be either sum, prod, mean, amax or amin, got {reduce}")
    x, b, at = raw(input), raw(src), raw(index)
    d = one_dim(dim, x.ndim)
    if at.size == 0 and at.dtype.kind in "iu":
        return clone(input)
    if b.dtype != x.dtype:
        raise RuntimeError(f"scatter_reduce(): Expected self.dtype to be equal to src.dtype: {x.dtype}, {b.dtype}")
    require(
        b.ndim == at.ndim and all(n <= m for n, m in zip(at.shape, b.shape)),
        "scatter_reduce: index {} is larger than src {}",
        at.shape,
        b.shape,
    )
    at = _checked_index(x.shape, d, at, "scatter_reduce")
    if not x.ndim:
        y = reduced_at(reshape(input, (1,)), 0, at.reshape(1), reshape(src, (1,)), reduce, include_self)
        return reshape(y, ())
    return reduced_at(input, d, at, src, reduce, include_self)


@op(method="index_reduce", inplace=True)
def index_reduce(input: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True) -> Any:
    """input with source's slices put together at `index`, a vector, along dim: "prod", "mean", "amax" or "amin".

    Try: index_reduce(randn(3, 2), 0, tensor([0, 2, 0]), randn(3, 2), "mean")
    """
    if reduce not in ("prod", "mean", "amax", "amin"):
        raise RuntimeError(f"reduce argument must be either prod, mean, amax or amin, got {reduce}")
    x, d = raw(input), one_dim(dim, len(input.shape))
    at = _vector("index_reduce", index)
    size = x.shape or (1,)
    want = (*size[:d], at.size, *size[d + 1 :])
    require(
        tuple(source.shape) == want or (not source.shape and want == (1,)),
        "index_reduce(): source {} where {} is wanted",
        tuple(source.shape),
        want,
    )
    places = np.broadcast_to(at.reshape((-1,) + (1,) * (len(size) - 1 - d)), want).astype(np.int64)
    if x.ndim:
        source = reshape(source, want) if not source.shape else source
        return scatter_reduce(input, d, places, source, reduce, include_self=include_self)
    y = scatter_reduce(reshape(input, size), d, places, reshape(source, want), reduce, include_self=include_self)
    return reshape(y, ())


@op(method="index_put", inplace=True)
def index_put(input: Any, indices: Any, values: Any, accumulate: bool = False) -> Any:
    """input with `values` written at input[indices], or with `accumulate` added there, repeated places added up.

    indices is a tuple of int64 or bool tensors, one for each of the first dimensions. values broadcast. Raises
    RuntimeError for different dtypes, IndexError for places that are not there.

    Try: index_put(randn(3, 2), (tensor([0, 2]), tensor([1, 0])), randn(2))
    """
    if not isinstance(indices, (tuple, list)):
        raise TypeError(f"index_put(): indices must be a tuple of tensors, not {type(indices).__name__}")
    if dtypes.as_numpy(values.dtype) != dtypes.as_numpy(input.dtype):
        raise RuntimeError(f"index_put(): values are {values.dtype}, the input is {input.dtype}")
    index = tuple(slice(None) if i is None else plain_index(i) for i in indices)
    index = tuple(np.asarray(i) if isinstance(i, (int, bool)) else i for i in index)
    shape = raw(input)[index].shape
    spread = broadcast_to(values, shape)
    if accumulate:
        added = put(spread, index, tuple(input.shape))
        return input | added if dtypes.as_numpy(input.dtype).kind == "b" else input + added
    return _with(input, lambda y: y.__setitem__(index, spread))


def _with(input: Any, write: Any) -> Any:
    """A copy of input after a change in place."""
    y = clone(input)
    write(y)
    return y


@op(method="masked_scatter", inplace=True)
def masked_scatter(input: Any, mask: Any, source: Any) -> Any:
    """input with the elements of source, in their order, where mask is True; mask and input broadcast.

    Raises RuntimeError unless the mask is bool, the dtypes agree and source has enough elements.

    Try: masked_scatter(randn(3), tensor([True, False, True]), randn(2))
    """
    m = raw(mask)
    require(m.dtype == bool, "masked_scatter: expected a bool mask, got {}", m.dtype)
    if dtypes.as_numpy(source.dtype) != dtypes.as_numpy(input.dtype):
        raise RuntimeError(f"masked_scatter: input is {input.dtype}, source {source.dtype}: they must be the same")
    shape = np.broadcast_shapes(m.shape, tuple(input.shape))
    m, count = np.broadcast_to(m, shape), int(np.broadcast_to(m, shape).sum())
    have = raw(source).size
    require(have >= count, "masked_scatter: source has {} elements for {} places", have, count)
    if not have:
        return clone(broadcast_to(input, shape))
    at = np.maximum(np.cumsum(m.reshape(-1)) - 1, 0).reshape(shape)
    return where(m, reshape(getitem(reshape(source, (-1,)), at.reshape(-1)), shape), input)


@op(method="slice_scatter")
def slice_scatter(
    input: Any, src: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    """A copy of input with src in the place of input[start:end:step] along dim.

    Try: slice_scatter(randn(4), randn(2), 0, 1, 3)
    """
    d = one_dim(dim, len(input.shape))
    return _placed(input, (slice(None),) * d + (slice(start, end, step),), src, "slice_scatter")


@op(method="select_scatter")
def select_scatter(input: Any, src: Any, dim: int, index: int) -> Any:
    """A copy of input with src in the place of the slice at `index` of dim.

    Try: select_scatter(randn(2, 3), randn(3), 0, 1)
    """
    select(input, dim, index)  # raises for an index out of range
    d = one_dim(dim, len(input.shape))
    return _placed(input, (slice(None),) * d + (index,), src, "select_scatter")


def _placed(input: Any, index: Any, src: Any, name: str) -> Any:
    want = raw(input)[index].shape
    require(tuple(src.shape) == want, "{}: src has shape {}, the part of input {}", name, tuple(src.shape), want)
    kind = dtypes.as_numpy(input.dtype)
    value = src if dtypes.as_numpy(src.dtype) == kind else cast(src, kind)
    return _with(input, lambda y: y.__setitem__(index, value))


@op(method="diagonal_scatter")
def diagonal_scatter(input: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """A copy of input with src on the diagonal of dimensions dim1 and dim2.

    Try: diagonal_scatter(randn(3, 3), randn(3))
    """
    y = clone(input)
    part = diagonal(y, offset, dim1, dim2)
    require(
        tuple(src.shape) == tuple(part.shape),
        "expected src to have the diagonal's shape {}, got {}",
        tuple(part.shape),
        tuple(src.shape),
    )
    part[...] = src
    return y


def _fill_diagonal_(self: Tensor, fill_value: Any, wrap: bool = False) -> Tensor:
    """`fill_value` on the diagonal, in place; with `wrap` again below the last row's end in tall matrices."""
    require(self.ndim >= 2, "dimensions must larger than 1, got {}", tuple(self.shape))
    require(self.ndim == 2 or len(set(self.shape)) == 1, "all dimensions of input must be of equal length")
    rows, columns = self.shape[0], self.shape[1]
    at = [np.arange(min(self.shape))] * self.ndim
    if self.ndim == 2 and wrap and rows > columns:
        place = np.arange(0, rows * columns, columns + 1)
        at = [place // columns, place % columns]
    self[tuple(at)] = fill_value
    return self


attach("fill_diagonal_", _fill_diagonal_)
