"""Choosing elements: x[...], where, gather, scatter, embedding."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import Op, ShapeError, attach, op, require, state
from minidl.ops.common import IndexRangeError, broadcast, number_for, one_dim, shape_of, unbroadcast
from minidl.tensors import Tensor


def plain_index(index: Any) -> Any:
    """An index with Tensors and lists turned into arrays, as NumPy takes it."""
    if isinstance(index, tuple):
        return tuple(plain_index(i) for i in index)
    if isinstance(index, Tensor):
        index = index.array
    elif isinstance(index, list):
        index = np.asarray([i.array if isinstance(i, Tensor) else i for i in index])
        if index.size == 0:
            index = index.astype(np.int64)
    if isinstance(index, np.ndarray):
        if index.dtype.kind not in "biu":
            raise IndexError(f"tensors used as indices must be long, int, uint8 or bool tensors, not {index.dtype}")
        if index.dtype == np.uint8:
            warnings.warn(
                "indexing with uint8 is deprecated: it is taken as a mask, as in torch; use a bool or int64 tensor",
                UserWarning,
                stacklevel=4,
            )
            index = index.astype(bool)
        if index.ndim == 0:
            return int(index) if index.dtype.kind != "b" else bool(index)
    return index


def _is_basic(index: Any) -> bool:
    """Whether NumPy answers with a view."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        i is None or i is Ellipsis or (isinstance(i, (slice, int, np.integer)) and not isinstance(i, bool))
        for i in parts
    )


def _split_index(index: Any) -> Any:
    """torch's meaning of ``x[0, :, [1, 2]]``: first the integers, then the arrays on what is left, as two indices.

    NumPy takes an integer beside arrays for one of the arrays, which moves dimensions. None where the two agree.
    """
    if not isinstance(index, tuple):
        return None
    whole = [isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in index]
    if not any(whole) or not any(isinstance(i, (np.ndarray, bool)) for i in index):
        return None
    first: list[Any] = []
    for i, integer in zip(index, whole, strict=True):
        if integer or i is Ellipsis:
            first.append(i)
        elif i is not None and not isinstance(i, bool):
            first += [slice(None)] * (i.ndim if isinstance(i, np.ndarray) and i.dtype.kind == "b" else 1)
    return tuple(first), tuple(i for i, integer in zip(index, whole, strict=True) if not integer)


class _GetItem(Op):
    """y = x[index];    dx = zeros with dy added at index"""

    is_view = True

    def forward(ctx, x: Any, index: Any) -> Any:
        ctx.size, ctx.index = x.shape, index
        for i in index if isinstance(index, tuple) else (index,):
            if isinstance(i, slice) and i.step is not None and i.step <= 0:
                raise ValueError("step must be greater than zero: use flip() for a reversed order")
        y = x[index]
        if isinstance(y, np.generic):  # NumPy copies a single element; with ... it gives a view, as torch does
            y = x[(*index, ...) if isinstance(index, tuple) else (index, ...)]
        return y

    def backward(ctx, dy: Any) -> Any:
        return put(dy, ctx.index, ctx.size)


_GetItem.__name__ = "getitem"
getitem = op()(_GetItem)


@op()
class put(Op):
    """y = zeros of `size` with x added at `index` (repeated places add up);    dx = dy[index]"""

    def forward(ctx, x: Any, index: Any, size: Any) -> Any:
        ctx.index = index
        y = np.zeros_like(x, shape=size, order="C")
        if _is_basic(index):
            y[index] = x
        elif isinstance(index, np.ndarray) and index.dtype.kind != "b":
            scatter_rows(y, index, x)
        else:
            np.add.at(y, index, x)
        return y

    def backward(ctx, dy: Any) -> Any:
        return getitem(dy, ctx.index)


def scatter_rows(y: np.ndarray, index: np.ndarray, rows: np.ndarray) -> None:
    """``y[index[i]] += rows[i]`` in order of i, rows of equal index summed: sorted, then reduced run by run."""
    flat = index.reshape(-1).astype(np.int64)
    if flat.size == 0:
        return
    flat = np.where(flat < 0, flat + y.shape[0], flat)
    rows = rows.reshape(flat.size, -1)
    order = np.argsort(flat, kind="stable")
    sorted_index = flat[order]
    starts = np.flatnonzero(np.concatenate(([True], sorted_index[1:] != sorted_index[:-1])))
    sums = np.add.reduceat(rows[order], starts, axis=0)
    y.reshape(y.shape[0], -1)[sorted_index[starts]] += sums


def _getitem_method(self: Tensor, index: Any) -> Tensor:
    index = plain_index(index)
    parts = _split_index(index) if type(index) is tuple else None
    return getitem(self, index) if parts is None else getitem(getitem(self, parts[0]), parts[1])


def _setitem_method(self: Tensor, index: Any, value: Any) -> None:
    from minidl.autograd import caller
    from minidl.inplace import check_writable, place_of, take_place

    index = plain_index(index)
    parts = _split_index(index)
    if parts is not None:
        self[parts[0]][parts[1]] = value
        return
    wants = isinstance(value, Tensor) and value.requires_grad
    check_writable(self, wants)
    new = value.array if isinstance(value, Tensor) else value
    place = self.array[index]
    if isinstance(new, np.ndarray) or np.isscalar(new):
        shape = shape_of(new)
        if broadcast_or_none(shape, np.shape(place)) != np.shape(place):
            raise ShapeError(
                f"shape mismatch: value of shape {shape} cannot be put into x[...] of shape {np.shape(place)}"
            )
    self.array[index] = new
    self.bump(caller())
    if not state.grad:
        if self._view is not None:
            self._view.count = self.version.count
        return
    if self.requires_grad or wants:
        take_place(
            self, index_put_done(place_of(self), value if isinstance(value, Tensor) else None, index, self.array)
        )


class index_put_done(Op):
    """x after ``x[index] = value``; `memory` holds the result already.    dx = dy with 0 at index, dvalue =
    dy[index]"""

    def forward(ctx, x: Any, value: Any, index: Any, memory: Any) -> Any:
        ctx.index, ctx.size, ctx.value_shape = index, memory.shape, shape_of(value)
        ctx.value_dtype = getattr(value, "dtype", memory.dtype)
        return memory

    def backward(ctx, dy: Any) -> Any:
        from minidl.ops.movement import cast

        def dx() -> Any:
            keep = np.ones(ctx.size, bool)
            keep[ctx.index] = False
            return where(keep, dy, 0.0)

        return ctx.wanted(dx, lambda: cast(_fold(getitem(dy, ctx.index), ctx.value_shape), ctx.value_dtype))


def _fold(dy: Any, shape: tuple[int, ...]) -> Any:
    from minidl.ops.movement import reshape

    extra = len(shape) - len(dy.shape)  # NumPy lets a value have leading 1s
    return reshape(unbroadcast(dy, shape[extra:]), shape) if extra > 0 else unbroadcast(dy, shape)


def broadcast_or_none(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The common shape, or None; a value's surplus leading 1s are dropped."""
    value, place = shapes
    while len(value) > len(place) and value[0] == 1:
        value = value[1:]
    try:
        return broadcast(value, place)
    except ShapeError:
        return None


attach("__getitem__", _getitem_method)
attach("__setitem__", _setitem_method)


def _iter(self: Tensor) -> Any:
    if self.ndim == 0:
        raise TypeError("iteration over a 0-d tensor")
    return (self[i] for i in range(self.shape[0]))


attach("__iter__", _iter)


@op()
class where(Op):
    """y = a where condition, else b;    da = dy where condition, db = dy elsewhere"""

    promote = None

    def shape(condition: Any, a: Any, b: Any) -> Any:  # type: ignore[override]
        return broadcast(condition, a, b)

    def forward(ctx, condition: Any, a: Any, b: Any) -> Any:
        if condition.dtype != bool:
            if condition.dtype != np.uint8:
                raise RuntimeError(f"where expected condition to be a boolean tensor, but got {condition.dtype}")
            condition = condition.astype(bool)
        dtype = dtypes.result_type(a, b)
        ctx.condition, ctx.shapes = condition, (shape_of(a), shape_of(b))
        ctx.dtypes = (getattr(a, "dtype", dtype), getattr(b, "dtype", dtype))
        if type(b) is float and b == 0 and type(a) is np.ndarray and a.dtype.kind == "f":
            return _kept(a, condition)
        if type(a) is float and a == 0 and type(b) is np.ndarray and b.dtype.kind == "f":
            return _kept(b, ~condition)
        return np.where(condition, a, b).astype(dtype, copy=False)

    def backward(ctx, dy: Any) -> Any:
        from minidl.ops.movement import cast

        def branch(k: int) -> Any:
            d = where(ctx.condition, dy, 0.0) if k == 0 else where(ctx.condition, 0.0, dy)
            return cast(unbroadcast(d, ctx.shapes[k]), ctx.dtypes[k])

        return ctx.wanted(lambda: None, lambda: branch(0), lambda: branch(1))


def _kept(x: np.ndarray, keep: Any) -> Any:
    """x where `keep`, else 0: x's bits and-ed with all ones or 0. np.where branches, and takes eight times as long."""
    return (x.view(_BITS[x.itemsize]) & -keep.view(np.int8)).view(x.dtype)


_BITS = {2: np.int16, 4: np.int32, 8: np.int64}


def cleared(x: Any, mask: Any) -> Any:
    """0 where `mask`, else x; the short way to where(mask, 0.0, x) for backward passes."""
    return _kept(x, ~mask) if type(x) is np.ndarray else where(mask, 0.0, x)


def _where_method(self: Tensor, condition: Tensor, other: Any) -> Tensor:
    """This tensor where `condition`, else `other`."""
    return where(condition, self, other)


attach("where", _where_method)


@op(method="masked_fill", inplace=True)
def masked_fill(x: Any, mask: Any, value: Any) -> Any:
    """x with `value` where mask is True (mask broadcasts to x)."""
    from minidl.ops.movement import cast

    if getattr(value, "shape", ()) != ():
        raise RuntimeError(f"masked_fill: value must be a number or a 0-d tensor, got shape {tuple(value.shape)}")
    dtype = dtypes.as_numpy(x.dtype)
    return where(mask, cast(value, dtype) if hasattr(value, "dtype") else number_for(value, dtype), x)


@op(method="gather")
class gather(Op):
    """y[i][j] = x[index[i][j]][j] for dim 0, and likewise for others;    dx = dy added at index"""

    def shape(x: Any, dim: int, index: Any) -> Any:  # type: ignore[override]
        return shape_of(index)

    def forward(ctx, x: Any, dim: int, index: Any) -> Any:
        index = index.array if isinstance(index, Tensor) else np.asarray(index)
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
        from minidl.ops.movement import reshape

        zeros = np.zeros(ctx.size or 1, dtypes.as_numpy(dy.dtype))
        if not ctx.index.size:
            return zeros.reshape(ctx.size)
        dx = scatter_add(zeros, ctx.dim, ctx.index, reshape(dy, ctx.index.shape))
        return dx if ctx.size else reshape(dx, ())


def _checked_index(size: tuple[int, ...], dim: int, index: Any, name: str) -> np.ndarray:
    index = index.array if isinstance(index, Tensor) else np.asarray(index)
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
    if index.size and size and (index.min() < 0 or index.max() >= size[dim]):
        bad = index.min() if index.min() < 0 else index.max()
        raise IndexRangeError(f"{name}: index {bad} is out of bounds for dimension {dim} with size {size[dim]}")
    return index


def _grid(index: np.ndarray, dim: int) -> tuple:
    """The full index arrays of which `index` is the one for dimension dim."""
    return tuple(
        index if d == dim else np.arange(n).reshape((-1,) + (1,) * (index.ndim - 1 - d))
        for d, n in enumerate(index.shape)
    )


@op(method="scatter_add", inplace=True)
class scatter_add(Op):
    """y = x with b added at index along dim: y[index[i][j]][j] += b[i][j] for dim 0;    dx = dy, db = dy gathered"""

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


@op(method="take_along_dim")
def take_along_dim(x: Any, indices: Any, dim: Any = None) -> Any:
    """The elements at `indices` along `dim`, which broadcast against x; over the flattened x without a dim.

    Negative indices count from the end; one that is out of range raises IndexError.
    """
    from minidl.ops.movement import broadcast_to, reshape

    at = indices.array if isinstance(indices, Tensor) else indices
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
    """The slices at `index`, a vector, along `dim`."""
    d = one_dim(dim, x.ndim)
    at = plain_index(index if isinstance(index, Tensor) else np.asarray(index))
    if np.ndim(at) > 1:
        raise IndexError(f"index_select(): Index is supposed to be a vector, got shape {np.shape(at)}")
    if x.ndim == 0:
        from minidl.ops.movement import reshape

        require(np.size(at) == 1, "index_select(): Index to scalar can have only 1 value, got {}", np.size(at))
        return reshape(getitem(reshape(x, (1,)), np.atleast_1d(at)), ())
    return getitem(x, (slice(None),) * d + (np.atleast_1d(at),))


@op(namespace="nn.functional")
class embedding(Op):
    """y[...] = w[x[...]], rows of a table;    dw = dy added to the rows that were read, `padding_idx` left out

    x (...) integer, w (V, D) -> y (..., D)
    """

    def shape(x: Any, w: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        require(len(w) == 2, "the table must be (V, D), not {}", w)
        return (*x, w[1])

    def forward(ctx, x: Any, w: Any, padding_idx: int | None = None) -> Any:
        if x.dtype.kind not in "iu":
            raise RuntimeError(f"embedding: expected integer indices, got {x.dtype}; convert with .long()")
        if x.size and (x.min() < 0 or x.max() >= w.shape[0]):
            bad = x.min() if x.min() < 0 else x.max()
            raise IndexError(f"embedding: index {bad} is out of range for a table of {w.shape[0]} rows")
        ctx.x, ctx.size = x, w.shape
        ctx.padding_idx = padding_idx if padding_idx is None or padding_idx >= 0 else w.shape[0] + padding_idx
        return w[x]

    def backward(ctx, dy: Any) -> Any:
        if ctx.padding_idx is not None:
            dy = where((ctx.x == ctx.padding_idx)[..., None], 0.0, dy)
        return None, put(dy, ctx.x, ctx.size)


@op(namespace="nn.functional")
class one_hot(Op):
    """y[..., c] = 1 where x[...] = c, else 0; int64"""

    differentiable = False

    def forward(ctx, x: Any, num_classes: int = -1) -> Any:
        if x.dtype.kind not in "iu":
            raise RuntimeError(f"one_hot is only applicable to index tensors, got {x.dtype}")
        if x.size and x.min() < 0:
            raise RuntimeError("Class values must be non-negative.")
        if x.size == 0 and num_classes <= 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        n = int(x.max()) + 1 if num_classes == -1 else num_classes
        if x.size and x.max() >= n:
            raise RuntimeError(f"Class values must be smaller than num_classes: {int(x.max())} with {n} classes.")
        return (x[..., None] == np.arange(n)).astype(np.int64)


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
    """x on and below a diagonal, 0 above it"""

    cut = staticmethod(np.tril)


@op(method="triu", inplace=True)
class triu(_Triangle):
    """x on and above a diagonal, 0 below it"""

    cut = staticmethod(np.triu)
