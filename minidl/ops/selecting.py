"""Parts of a tensor by place or by mask, and writing to such parts: select, masked_select, scatter, index_add."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import Op, op, require
from minidl.ops.common import broadcast, one_dim
from minidl.ops.indexing import _checked_index, _grid, gather, getitem, put, scatter_add, scatter_rows
from minidl.ops.movement import broadcast_to, reshape
from minidl.tensors import Tensor, wrap


@op(method="select")
def select(input: Any, dim: int, index: int) -> Any:
    """input at one index of `dim`, without that dimension; a view. Raises IndexError out of range."""
    if not len(input.shape):
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    d = one_dim(dim, len(input.shape))
    n = input.shape[d]
    if not -n <= index < n:
        raise IndexError(f"select(): index {index} out of range for tensor of size {tuple(input.shape)} at dim {d}")
    return getitem(input, (slice(None),) * d + (int(index),))


@op(method="masked_select")
def masked_select(input: Any, mask: Any) -> Any:
    """The elements where the mask is True, as a vector; input and mask broadcast. Raises RuntimeError unless bool."""
    m = mask.array if isinstance(mask, Tensor) else mask
    if m.dtype != bool:
        raise RuntimeError(f"masked_select: expected a bool mask, got {m.dtype}")
    shape = broadcast(tuple(input.shape), m.shape)
    if tuple(input.shape) != shape:
        input = broadcast_to(input, shape)
    return getitem(input if shape else reshape(input, (1,)), np.broadcast_to(m, shape or (1,)))


def _vector(name: str, index: Any) -> np.ndarray:
    """An index as a checked vector."""
    at = index.array if isinstance(index, Tensor) else np.asarray(index)
    if at.dtype not in (np.int64, np.int32):
        raise RuntimeError(f"{name}(): Expected dtype int32/int64 for index, got {at.dtype}")
    if at.ndim > 1:
        raise IndexError(f"{name}(): Index is supposed to be a vector, got shape {at.shape}")
    return at.reshape(-1)


@op(method="index_add", inplace=True)
class index_add(Op):
    """y = x with alpha b's slices added at `index` along dim, repeated places added up;    dx = dy,  db = alpha dy's
    slices"""

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
        added = source if alpha == 1 else source * np.asarray(alpha).astype(x.dtype)
        if not x.ndim:
            return x + added.reshape(())
        kind = np.int64 if x.dtype == bool else x.dtype  # bools add up as "or"
        y = np.array(np.moveaxis(x, ctx.dim, 0), kind, order="C")
        if y.size:
            scatter_rows(y, at, np.moveaxis(added.reshape(want), ctx.dim, 0).astype(kind, copy=False))
        return np.moveaxis(y, 0, ctx.dim).astype(x.dtype, copy=False)

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
        zeros = np.zeros(index.shape, dtypes.as_numpy(dy.dtype))
        return scatter_write(dy, dim, index, zeros) if needs[0] else None, None, None, db() if needs[3] else None


@op()
class scatter_multiply(Op):
    """y = x with y[index[i][j]][j] *= b[i][j] for dim 0, repeated places multiplied up; no gradient, as in torch"""

    def forward(ctx, x: Any, dim: int, index: Any, b: Any) -> Any:
        y = x.copy()
        np.multiply.at(y, _grid(index, dim), b[tuple(slice(n) for n in index.shape)])
        return y


@op(method="scatter", inplace=True)
def scatter(input: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str | None = None) -> Any:
    """input with src (a tensor, or one number) written at index along dim: y[index[i][j]][j] = src[i][j] for dim 0.

    reduce "add" or "multiply" combines with what is there instead. The index has input's number of dimensions, and no
    more elements than src along any, nor than input along any but `dim`. Raises RuntimeError otherwise, or when the
    dtypes of input and src differ; IndexError for an index out of range.
    """
    if value is not None:
        src = value
    if src is None:
        raise TypeError("scatter() needs src, a tensor, or value, a number")
    x = input.array if isinstance(input, Tensor) else input
    at = index.array if isinstance(index, Tensor) else np.asarray(index)
    d = one_dim(dim, x.ndim)
    if at.size == 0 and at.dtype.kind in "iu":
        return input.clone() if isinstance(input, Tensor) else input.copy()
    if not hasattr(src, "shape"):
        src = np.full(at.shape, src, x.dtype)
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


@op(method="repeat_interleave")
def repeat_interleave(
    input: Any, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    """Every slice along `dim` (every element of the flattened input without one) repeated, in place: a a b b c c.

    repeats is a number, or a vector with one for each slice. ``repeat_interleave(repeats)`` alone gives indices, i
    repeated repeats[i] times. Raises RuntimeError for negative repeats and for a vector of another length.
    """
    if repeats is None:
        counts = input.array if isinstance(input, Tensor) else input
        require(counts.ndim == 1, "repeat_interleave: repeats must be a vector, got {}", counts.shape)
        return wrap(_spread(len(counts), counts, output_size))
    if dim is None:
        input, d = reshape(input, (-1,)), 0
    else:
        d = one_dim(dim, len(input.shape))
        input = input if len(input.shape) else reshape(input, (1,))
    counts = repeats.array if isinstance(repeats, Tensor) else np.asarray(repeats)
    require(counts.ndim <= 1, "repeat_interleave: repeats must be a number or a vector, got {}", counts.shape)
    n = input.shape[d]
    require(counts.size in (1, n), "repeat_interleave: {} repeats for {} slices", counts.size, n)
    return getitem(input, (slice(None),) * d + (_spread(n, counts.reshape(-1), output_size),))


def _spread(n: int, counts: Any, output_size: int | None) -> np.ndarray:
    if counts.dtype.kind not in "iu":
        raise RuntimeError(f"repeats has to be Long or Int tensor, got {counts.dtype}")
    if (counts < 0).any():
        raise RuntimeError("repeats can not be negative")
    at = np.repeat(np.arange(n), counts)
    require(output_size in (None, at.size), "repeat_interleave: allocated size {} is not {}", output_size, at.size)
    return at
