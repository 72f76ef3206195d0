"""Many elements to one: sum, mean, extremes, variance."""

from __future__ import annotations

import builtins
import functools
from collections import namedtuple
from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, ShapeError, op
from minidl.ops.common import many_dims, one_dim, prod, put_back, row_major, total
from minidl.ops.shapes import reshape
from minidl.ops.tiling import broadcast_to


class Reduction(Op):
    """y = f over the dimensions `dim` of x (all of them by default); ``keepdim`` leaves them with size 1."""

    def shape(x: Any, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:  # type: ignore[override]
        dims = many_dims(dim, len(x))
        return tuple(1 if i in dims else n for i, n in enumerate(x) if keepdim or i not in dims)

    def over(ctx, x: Any, dim: Any, keepdim: bool) -> tuple[int, ...]:
        """The dimensions, counted from the front; keeps what backward needs to stretch dy again."""
        ctx.dims, ctx.keepdim, ctx.size = many_dims(dim, x.ndim), bool(keepdim), x.shape
        return ctx.dims

    def stretch(ctx, y: Any) -> Any:
        """y or dy, at the size of x."""
        return broadcast_to(put_back(y, ctx.dims, ctx.keepdim), ctx.size)


def computed_in(ctx: Any, dtype: Any) -> Any:
    """The NumPy dtype of ``dtype=``. Raises RuntimeError for integers where a gradient is wanted: they have none."""
    dtype = dtypes.as_numpy(dtype)
    if ctx.recording and dtype.kind != "f":
        raise RuntimeError(f"Autograd does not support dtype {dtype}: integers have no gradient; detach() the input")
    return dtype


def in_dtype(dx: Any, dtype: Any) -> Any:
    """A gradient in the dtype of the input, where an op was told to compute in another."""
    from minidl.ops.copies import cast

    dtype = dtypes.as_numpy(dtype)
    return dx if dtypes.as_numpy(dx.dtype) == dtype else cast(dx, dtype)


@op(method="sum")
class sum(Reduction):
    """y = sum of x;    dx = dy, repeated

    Integers and bools are added as int64.

    Why: every x enters with the factor 1, so each gets dy whole.
    Try: sum(randn(3, 4))
    """

    def forward(ctx, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        dims = ctx.over(x, dim, keepdim)
        ctx.x_dtype = x.dtype
        if dtype is not None:
            dtype = computed_in(ctx, dtype)
        elif x.dtype.kind in "bui":
            dtype = np.dtype("int64")
        return total(x, dims, ctx.keepdim, dtype)

    def backward(ctx, dy: Any) -> Any:
        return in_dtype(ctx.stretch(dy), ctx.x_dtype)


@op(method="mean")
class mean(Reduction):
    """y = (1/n) sum of x;    dx = dy / n, repeated

    Why: every x enters with the factor 1 / n.
    Try: mean(randn(3, 4))
    """

    def forward(ctx, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        ctx.x_dtype = x.dtype
        if dtype is not None:
            x = x.astype(dtypes.as_numpy(dtype))
        if x.dtype.kind != "f":
            raise RuntimeError(f"mean(): the dtype must be floating point, got {x.dtype}; convert with .float()")
        dims = ctx.over(x, dim, keepdim)
        ctx.n = prod([x.shape[d] for d in dims])
        if x.dtype == np.float16:  # the sum might not fit where the mean does
            return (total(x, dims, ctx.keepdim, np.dtype(np.float32)) / np.float32(ctx.n)).astype(x.dtype)
        return total(x, dims, ctx.keepdim) / x.dtype.type(ctx.n)

    def backward(ctx, dy: Any) -> Any:
        return in_dtype(ctx.stretch(dy / ctx.n), ctx.x_dtype)


class _Extreme(Reduction):
    def backward(ctx, dy: Any) -> Any:
        from minidl.ops.copies import cast

        x, y = ctx.saved
        hit = cast(x == ctx.stretch(y), dy.dtype)
        return put_back(dy, ctx.dims, ctx.keepdim) / sum(hit, ctx.dims, True) * hit

    def reduce(ctx, x: Any, dim: Any, keepdim: bool, function: Any) -> Any:
        dims = ctx.over(x, dim, keepdim)
        if not builtins.all(x.shape[d] for d in dims):
            kind = ShapeError if dim is None or dim == () or dim == [] else IndexError
            raise kind(f"an extreme over no elements has no value: input {x.shape}, dim {dim}")
        y = row_major(devices.as_array(function(x, axis=dims, keepdims=ctx.keepdim)))
        ctx.save(x, y)
        return y


@op(method="amax")
class amax(_Extreme):
    """y = greatest x; NaN wins; the gradient is shared evenly among equals

    Why: y copies the greatest x, so the gradient goes there; among equals it is shared, any share being as right.
    Try: amax(randn(3, 4))
    """

    def forward(ctx, x: Any, dim: Any = (), keepdim: bool = False) -> Any:
        return ctx.reduce(x, dim, keepdim, np.max)


@op(method="amin")
class amin(_Extreme):
    """y = least x; NaN wins; the gradient is shared evenly among equals

    Why: y copies the least x, so the gradient goes there; among equals it is shared, any share being as right.
    Try: amin(randn(3, 4))
    """

    def forward(ctx, x: Any, dim: Any = (), keepdim: bool = False) -> Any:
        return ctx.reduce(x, dim, keepdim, np.min)


class _Arg(Op):
    differentiable = False

    def find(ctx, x: Any, dim: Any, keepdim: bool, function: Any) -> Any:
        if x.dtype == bool:
            raise NotImplementedError(f"{type(ctx).__name__} is not defined for bools: convert to int or float first")
        if dim is None:
            if not x.size:
                raise IndexError(f"Expected reduction dim to be specified for an input without elements, {x.shape}")
            y = devices.as_array(function(x.reshape(-1)), np.int64)
            return y.reshape((1,) * x.ndim) if keepdim else y
        d = one_dim(dim, x.ndim)
        if x.ndim == 0:
            return np.zeros((), np.int64)
        if not x.shape[d]:
            raise IndexError(f"Expected reduction dim {d} to have non-zero size, the input is {x.shape}")
        y = function(x, axis=d).astype(np.int64)
        return np.expand_dims(y, d) if keepdim else y


@op(method="argmax")
class argmax(_Arg):
    """The index of the greatest element, int64: the first of equals, NaN before numbers

    Why: an index jumps from one whole number to another: its slope is 0 wherever it has one.
    Try: argmax(randn(3, 4))
    """

    def forward(ctx, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        return ctx.find(x, dim, keepdim, np.argmax)


@op(method="argmin")
class argmin(_Arg):
    """The index of the least element, int64: the first of equals, NaN before numbers

    Why: an index jumps from one whole number to another: its slope is 0 wherever it has one.
    Try: argmin(randn(3, 4))
    """

    def forward(ctx, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        return ctx.find(x, dim, keepdim, np.argmin)


@functools.cache
def pair(name: str) -> Any:
    """The named tuple (values, indices) that torch returns from `name`; made when first returned."""
    return namedtuple(name, ["values", "indices"])


def named(name: str, *fields: str) -> Any:
    """A named tuple as torch returns it from `name`."""
    return namedtuple(name, fields)


def _extreme(name: str, whole: Any, index: Any, binary_name: str) -> Any:
    """torch's three meanings of max and min in one function."""

    def extreme(x: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        from minidl.ops import arithmetic
        from minidl.ops.copies import cast
        from minidl.ops.gather_scatter import take_along_dim
        from minidl.tensors import Tensor

        if not hasattr(x, "dtype"):
            raise TypeError(f"{name}(): the first argument must be a Tensor, not {type(x).__name__}")
        if other is not None or isinstance(dim, (Tensor, np.ndarray)):
            return getattr(arithmetic, binary_name)(x, dim if other is None else other)
        if dim is None:
            if 0 in x.shape:
                raise RuntimeError(f"{name}(): the input {tuple(x.shape)} has no elements")
            return whole(x)
        d = one_dim(dim, x.ndim)
        compared = cast(x, np.uint8) if dtypes.as_numpy(x.dtype).kind == "b" else x  # argmax itself refuses bools
        if x.ndim == 0:
            return pair(name)(whole(x), index(compared, 0))
        at = index(compared, d, True)
        values = take_along_dim(x, at, d)
        return pair(name)(values, at) if keepdim else pair(name)(squeeze_dim(values, d), squeeze_dim(at, d))

    extreme.__name__ = name
    extreme.__doc__ = f"""{name}(x): the {name}imum of all elements; {name}(x, dim, keepdim): (values, indices) along a
    dimension, gradients to the first of equals; {name}(x, other): element by element.

    Try: {name}(randn(3, 4), 1)
    """
    return op(method=name)(extreme)


def squeeze_dim(x: Any, dim: int) -> Any:
    """x without dimension `dim`, which has size 1."""
    return reshape(x, (*x.shape[:dim], *x.shape[dim + 1 :]))


max = _extreme("max", amax, argmax, "maximum")
min = _extreme("min", amin, argmin, "minimum")


class prod_(Reduction):
    """y = product of x;    dx = dy times the product of all the others

    Why: y is linear in each x, with the product of all the others as its slope: products from both ends, no division.
    Try: prod(randn(3, 4))
    """

    def forward(ctx, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        dims = ctx.over(x, dim, keepdim)
        ctx.save(x)
        kind: Any = None if dtype is None else computed_in(ctx, dtype)
        if kind is not None:
            x = x.astype(kind, copy=False)
        elif x.dtype.kind in "bui":
            kind = np.int64
        if type(x) is np.ndarray:
            multiply: Any = np.multiply
            y = multiply.reduce(x, axis=dims, keepdims=ctx.keepdim, dtype=kind)  # see total()
        else:
            y = x.prod(axis=dims, keepdims=ctx.keepdim, dtype=kind)
        return row_major(y)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        dx = ctx.stretch(dy) * _others(in_dtype(x, dy.dtype), ctx.dims)
        return in_dtype(dx, x.dtype)


def _others(x: Any, dims: tuple[int, ...]) -> Any:
    """For each element the product of all the others over dims: products from the left times products from the
    right."""
    from minidl.ops.axes import flip, permute

    kept = [d for d in range(x.ndim) if d not in dims]
    order = (*kept, *dims)
    moved = permute(x, order)
    rows = reshape(moved, (*[x.shape[d] for d in kept], prod([x.shape[d] for d in dims])))
    left = _exclusive_products(rows)
    right = flip(_exclusive_products(flip(rows, (-1,))), (-1,))
    inverse = tuple(int(i) for i in np.argsort(order))
    return permute(reshape(left * right, tuple(moved.shape)), inverse)


def _exclusive_products(rows: Any) -> Any:
    from minidl.ops.joining import cat

    n = rows.shape[-1]
    running = [rows[..., :1] * 0 + 1]
    for i in range(n - 1):
        running.append(running[-1] * rows[..., i : i + 1])
    return cat(running, -1) if n else rows


prod_.__name__ = "prod"
op(method="prod")(prod_)


def _correction(unbiased: Any, correction: Any) -> float:
    if correction is not None:
        return correction
    return 0 if unbiased is False else 1


@op(method="var")
def var(x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Any:
    """Sum of (x - mean)^2 over (n - correction); correction is 1 unless ``unbiased=False``.

    Try: var(randn(3, 4))
    """
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    dims = many_dims(dim, x.ndim)
    n = prod([x.shape[d] for d in dims])
    d = x - mean(x, dims, True)
    degrees = builtins.max(n - _correction(unbiased, correction), 0)
    return sum(d * d, dims, keepdim) / (degrees if degrees else 0.0)


@op(method="std")
def std(x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None) -> Any:
    """The square root of :func:`var`; where that is 0 the gradient is 0, as in torch.

    Try: std(randn(3, 4))
    """
    from minidl.ops.masks import where
    from minidl.ops.powers import sqrt

    v = var(x, dim, unbiased, keepdim, correction=correction)
    zero = v == 0  # the slope of the root is infinite there; torch's choice is 0
    return where(zero, 0.0, sqrt(where(zero, 1.0, v)))


class _Truth(Op):
    differentiable = False

    def reduce(ctx, x: Any, dim: Any, keepdim: bool, function: Any) -> Any:
        dims = () if dim in ((), []) else many_dims(dim, x.ndim)  # no dimension is none here, as in torch
        y = function(x, axis=dims, keepdims=bool(keepdim))
        return y.astype(np.uint8) if x.dtype == np.uint8 else y


@op(method="all")
class all(_Truth):
    """Whether every element is nonzero; uint8 stays uint8, all else gives bool

    Why: the result is a truth value: it has no slope.
    Try: all(rand(3, 4) > 0.5)
    """

    def forward(ctx, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        return ctx.reduce(x, dim, keepdim, np.all)


@op(method="any")
class any(_Truth):
    """Whether some element is nonzero; uint8 stays uint8, all else gives bool

    Why: the result is a truth value: it has no slope.
    Try: any(rand(3, 4) > 0.5)
    """

    def forward(ctx, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        return ctx.reduce(x, dim, keepdim, np.any)


@op(method="cumsum", inplace=True)
class cumsum(Op):
    """y_i = x_0 + ... + x_i along `dim`;    dx_i = dy_i + ... + dy_last

    Why: x_i is in y_i and in every later one, so its gradient is the sum of dy from i on.
    Try: cumsum(randn(3, 4), 0)
    """

    def shape(x: Any, dim: int, **_: Any) -> Any:  # type: ignore[override]
        one_dim(dim, len(x))
        return x

    def forward(ctx, x: Any, dim: int, *, dtype: Any = None) -> Any:
        ctx.dim, ctx.x_dtype = one_dim(dim, x.ndim), x.dtype
        dtype = computed_in(ctx, dtype) if dtype is not None else np.int64 if x.dtype.kind in "bui" else None
        return row_major(x.cumsum(ctx.dim, dtype)) if x.ndim else x.astype(dtype or x.dtype)

    def backward(ctx, dy: Any) -> Any:
        from minidl.ops.axes import flip

        dx = dy if not dy.ndim else flip(cumsum(flip(dy, (ctx.dim,)), ctx.dim), (ctx.dim,))
        return in_dtype(dx, ctx.x_dtype)
