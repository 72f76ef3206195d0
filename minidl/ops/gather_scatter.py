"""Elements and slices by number: reading them (gather, index_select) and writing them (scatter, index_add)."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import devices, dtypes
from minidl.autograd import Op, op, require
from minidl.ops.common import IndexRangeError, broadcast, join_at, number_for, one_dim, shape_of
from minidl.ops.indexing import getitem, plain_index, put
from minidl.ops.shapes import reshape
from minidl.ops.tiling import broadcast_to
from minidl.tensors import Tensor


@op(method="gather")
class gather(Op):
    """y[i][j] = x[index[i][j]][j] for dim 0, and likewise for others;    dx = dy added at index

    Why: y copies elements of x, so each dy is added at the place it was read from.
    Try: gather(randn(3, 4), 0, randint(0, 3, (2, 4)))
    """

    def shape(x: Any, dim: int, index: Any) -> Any:  # type: ignore[override]
        return shape_of(index)

    def forward(ctx, x: Any, dim: int, index: Any) -> Any:
        index = index.array if isinstance(index, Tensor) else devices.as_array(index)
        ctx.dim, ctx.size = one_dim(dim, x.ndim), x.shape
        if not index.size and index.dtype.kind in "iu":  # nothing to look up, of whatever shape
            ctx.index = index
            return np.empty_like(x, shape=index.shape)
        size = index.shape
        if x.ndim <= 1 and index.ndim <= 1:  # a 0-d tensor is a vector of one
            x, index = x.reshape(-1), index.reshape(-1)
        ctx.index = _checked_index(x.shape, ctx.dim, index, "gather")
        return x[_grid(ctx.index, ctx.dim)].reshape(size)

    def backward(ctx, dy: Any) -> Any:
        zeros = devices.array_module(ctx.index).zeros(ctx.size or 1, dtypes.as_numpy(dy.dtype))
        if not ctx.index.size:
            return zeros.reshape(ctx.size)
        dx = scatter_add(zeros, ctx.dim, ctx.index, reshape(dy, ctx.index.shape))
        return dx if ctx.size else reshape(dx, ())


def _checked_index(size: tuple[int, ...], dim: int, index: Any, name: str) -> np.ndarray:
    index = index.array if isinstance(index, Tensor) else devices.as_array(index)
    if index.dtype.kind not in "iu":
        raise RuntimeError(f"{name}(): Expected dtype int64 for index, got {index.dtype}")
    require(
        index.ndim == len(size),
        "{}: index {} and input {} must have the same number of dimensions",
        name,
        index.shape,
        size,
    )
    for d, (n, have) in enumerate(zip(index.shape, size, strict=True)):
        require(
            d == dim or n <= have,
            "{}: index {} is larger than the input {} in dimension {}",
            name,
            index.shape,
            size,
            d,
        )
    if devices.is_cuda_array(index):
        kernels.check_index(name, "index", index, size[dim] if size else 1)  # only while debugging
    elif index.size and size and (index.min() < 0 or index.max() >= size[dim]):
        bad = index.min() if index.min() < 0 else index.max()
        raise IndexRangeError(f"{name}: index {bad} is out of bounds for dimension {dim} with size {size[dim]}")
    return index


def _grid(index: np.ndarray, dim: int) -> tuple:
    """The full index arrays of which `index` is the one for dimension dim."""
    return tuple(
        index if d == dim else np.arange(n).reshape((-1,) + (1,) * (index.ndim - 1 - d))
        for d, n in enumerate(index.shape)
    )


@op(method="take_along_dim")
def take_along_dim(x: Any, indices: Any, dim: Any = None) -> Any:
    """The elements at `indices` along `dim`, which broadcast against x; over the flattened x without a dim.

    Negative indices count from the end; one that is out of range raises IndexError.

    Try: take_along_dim(randn(3, 4), randint(0, 3, (2, 4)), 0)
    """
    at = indices.array if isinstance(indices, Tensor) else indices
    if at.dtype != np.int64:
        raise RuntimeError(f"take_along_dim(): dtype of indices should be int64 but got {at.dtype}")
    if dim is None:
        x, at, dim = reshape(x, (-1,)), at.reshape(-1), 0
    d = one_dim(dim, x.ndim)
    require(
        at.ndim == x.ndim,
        "take_along_dim: input {} and indices {} must have the same number of dimensions",
        tuple(x.shape),
        at.shape,
    )
    if at.dtype.kind == "i" and at.size and at.min() < 0:
        at = np.where(at < 0, at + x.shape[d], at)  # counted from the end
    lead = broadcast(
        tuple(1 if i == d else n for i, n in enumerate(x.shape)),
        tuple(1 if i == d else n for i, n in enumerate(at.shape)),
    )
    x = broadcast_to(x, tuple(x.shape[d] if i == d else n for i, n in enumerate(lead)))
    return gather(x, d, np.broadcast_to(at, tuple(at.shape[d] if i == d else n for i, n in enumerate(lead))))


@op(method="index_select")
def index_select(x: Any, dim: int, index: Any) -> Any:
    """The slices at `index`, a vector, along `dim`.

    Try: index_select(randn(3, 4), 0, randint(0, 3, (3,)))
    """
    d = one_dim(dim, x.ndim)
    at = plain_index(index if isinstance(index, Tensor) else devices.as_array(index))
    if np.ndim(at) > 1:
        raise IndexError(f"index_select(): Index is supposed to be a vector, got shape {np.shape(at)}")
    if type(at) is np.ndarray and at.size and at.min() < 0:
        raise IndexRangeError(f"index_select(): index {at.min()} is out of range: it is not counted from the end")
    if x.ndim == 0:
        require(np.size(at) == 1, "index_select(): Index to scalar can have only 1 value, got {}", np.size(at))
        return reshape(getitem(reshape(x, (1,)), np.atleast_1d(at)), ())
    return getitem(x, (slice(None),) * d + (np.atleast_1d(at),))


@op(method="scatter_add", inplace=True)
class scatter_add(Op):
    """y = x with b added at index along dim: y[index[i][j]][j] += b[i][j] for dim 0;    dx = dy, db = dy gathered

    Why: x enters with 1, and b enters at one place each with 1.
    Try: scatter_add(randn(3, 4), 0, randint(0, 3, (2, 4)), randn(2, 4))
    """

    def forward(ctx, x: Any, dim: int, index: Any, b: Any) -> Any:
        ctx.dim = one_dim(dim, x.ndim)
        ctx.index = _checked_index(x.shape, ctx.dim, index, "scatter_add")
        if b.dtype != x.dtype:
            raise RuntimeError(f"scatter_add(): Expected self.dtype to be equal to src.dtype: {x.dtype}, {b.dtype}")
        require(
            b.ndim == ctx.index.ndim and all(n <= m for n, m in zip(ctx.index.shape, b.shape, strict=True)),
            "index {} is larger than src {}, or of other dimensions",
            ctx.index.shape,
            b.shape,
        )
        ctx.b_shape = b.shape
        if devices.is_cuda_array(x) and x.dtype.kind == "f":
            return x + put(b[tuple(slice(n) for n in ctx.index.shape)], _grid(ctx.index, ctx.dim), x.shape)
        y = x.copy()
        np.add.at(y, _grid(ctx.index, ctx.dim), b[tuple(slice(n) for n in ctx.index.shape)])
        return y

    def backward(ctx, dy: Any) -> Any:
        def db() -> Any:
            part = gather(dy, ctx.dim, ctx.index)
            if ctx.b_shape == ctx.index.shape:
                return part
            return put(part, tuple(slice(n) for n in ctx.index.shape), ctx.b_shape)

        dx, db_ = (dy if ctx.needs[0] else None), (db() if len(ctx.needs) > 3 and ctx.needs[3] else None)
        return dx, None, None, db_


def _vector(name: str, index: Any, long: bool = False) -> np.ndarray:
    """An index as a checked vector, with `long` of int64 only."""
    at = index.array if isinstance(index, Tensor) else devices.as_array(index)
    if at.dtype != np.int64 and (long or at.dtype != np.int32):
        raise IndexRangeError(f"{name}(): Expected dtype {'' if long else 'int32/'}int64 for index, got {at.dtype}")
    if at.ndim > 1:
        raise IndexError(f"{name}(): Index is supposed to be a vector, got shape {at.shape}")
    return at.reshape(-1)


@op(method="index_add", inplace=True)
class index_add(Op):
    """y = x with alpha b's slices added at `index` along dim, repeated places added up;    dx = dy,  db = alpha dy's
    slices

    Why: x enters with 1, and each slice of b at one place with alpha.
    Try: index_add(randn(3, 4), 0, randint(0, 3, (3,)), randn(3, 4))
    """

    def forward(ctx, x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
        ctx.dim, ctx.alpha, ctx.size = one_dim(dim, x.ndim), alpha, source.shape
        ctx.index = at = _vector("index_add", index)
        if source.dtype != x.dtype:
            raise RuntimeError(f"index_add(): self ({x.dtype}) and source ({source.dtype}) must have the same dtype")
        want = (*x.shape[: ctx.dim], at.size, *x.shape[ctx.dim + 1 :]) if x.ndim else ()
        require(
            source.shape == want or (x.ndim == 0 and source.size == at.size == 1) or (want == (1,) and not source.ndim),
            "index_add: {} places along dimension {} of {} want a source of shape {}, not {}",
            at.size,
            ctx.dim,
            x.shape,
            want,
            source.shape,
        )
        n = x.shape[ctx.dim] if x.ndim else 1
        if at.size and (at.min() < 0 or at.max() >= n):
            raise IndexError(f"index_add(): index out of range for dimension {ctx.dim} of size {n}")
        added = source if alpha == 1 else source * devices.as_array(alpha).astype(x.dtype)
        if not x.ndim:
            return x + added.reshape(())
        kind = np.int64 if x.dtype == bool else x.dtype  # bools add up as "or"
        y = np.moveaxis(x, ctx.dim, 0).astype(kind, copy=False)
        y = y + put(np.moveaxis(added.reshape(want), ctx.dim, 0).astype(kind, copy=False), at, y.shape)
        return devices.contiguous(np.moveaxis(y, 0, ctx.dim), x.dtype)

    def backward(ctx, dy: Any) -> Any:
        def db() -> Any:
            part = getitem(dy, (slice(None),) * ctx.dim + (ctx.index,)) if len(dy.shape) else dy
            return reshape(part if ctx.alpha == 1 else part * ctx.alpha, ctx.size)

        needs = ctx.needs
        return dy if needs[0] else None, None, None, db() if needs[3] else None


@op()
class scatter_write(Op):
    """y = x with b written at index along dim: y[index[i][j]][j] = b[i][j] for dim 0

    dx = dy, 0 where it was written over;  db = dy gathered. Of several values for one place the last stays, and all of
    them get its gradient, as in torch.

    Why: what was overwritten no longer reaches y (0 for x there); b is copied to its place. Of several at one place
         torch gives each dy.
    Try: scatter_write(randn(3, 4), 0, tensor([[2, 0, 1, 1], [0, 1, 2, 0]]), randn(2, 4))
    """

    def forward(ctx, x: Any, dim: int, index: Any, b: Any) -> Any:
        ctx.how, ctx.b_shape = (dim, index), b.shape
        y = x.copy()
        y[_grid(index, dim)] = b[tuple(slice(n) for n in index.shape)]
        return y

    def backward(ctx, dy: Any) -> Any:
        dim, index = ctx.how

        def db() -> Any:
            part = gather(dy, dim, index)
            return part if ctx.b_shape == index.shape else put(part, tuple(slice(n) for n in index.shape), ctx.b_shape)

        needs = ctx.needs
        zeros = devices.array_module(index).zeros(index.shape, dtypes.as_numpy(dy.dtype))
        return scatter_write(dy, dim, index, zeros) if needs[0] else None, None, None, db() if needs[3] else None


@op()
class scatter_multiply(Op):
    """y = x with y[index[i][j]][j] *= b[i][j] for dim 0, repeated places multiplied up; no gradient, as in torch

    Why: the product of all factors at a place has a slope, but torch gives none, and neither does minidl.
    Try: scatter_multiply(randn(3, 4), 0, randint(0, 3, (2, 4)), randn(2, 4))
    """

    def forward(ctx, x: Any, dim: int, index: Any, b: Any) -> Any:
        y = x.copy()
        join_at(np.multiply, y, _grid(index, dim), b[tuple(slice(n) for n in index.shape)])
        return y


@op(method="scatter", inplace=True)
def scatter(input: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str | None = None) -> Any:
    """input with src (a tensor, or one number) written at index along dim: y[index[i][j]][j] = src[i][j] for dim 0.

    reduce "add" or "multiply" combines with what is there instead. The index has input's number of dimensions, and no
    more elements than src along any, nor than input along any but `dim`. Raises RuntimeError otherwise, or when the
    dtypes of input and src differ; IndexError for an index out of range.

    Try: scatter(randn(3, 4), 0, tensor([[2, 0, 1, 1], [0, 1, 2, 0]]), randn(2, 4))
    """
    if value is not None:
        src = value
    if src is None:
        raise TypeError("scatter() needs src, a tensor, or value, a number")
    x = input.array if isinstance(input, Tensor) else input
    at = index.array if isinstance(index, Tensor) else devices.as_array(index)
    d = one_dim(dim, x.ndim)
    if at.size == 0 and at.dtype.kind in "iu":
        return input.clone() if isinstance(input, Tensor) else input.copy()
    if not hasattr(src, "shape"):
        src = np.full(at.shape, number_for(src, x.dtype), x.dtype)
    src_array = src.array if isinstance(src, Tensor) else src
    if src_array.dtype != x.dtype:
        raise RuntimeError(f"scatter(): Expected self.dtype to be equal to src.dtype: {x.dtype}, {src_array.dtype}")
    require(
        src_array.ndim == at.ndim and all(n <= m for n, m in zip(at.shape, src_array.shape)),
        "scatter: index {} is larger than src {}",
        at.shape,
        src_array.shape,
    )
    at = _checked_index(x.shape, d, at, "scatter")
    if not x.ndim:
        input, at = reshape(input, (1,)), at.reshape(1)
        return reshape(scatter(input, 0, at, reshape(src, (1,)), reduce=reduce), ())
    if reduce is None:
        return scatter_write(input, d, at, src)
    if reduce == "add":
        return scatter_add(input, d, at, src)
    if reduce != "multiply":
        raise RuntimeError(f"reduce argument must be either add or multiply, not {reduce!r}")
    return scatter_multiply(input, d, at, src)
