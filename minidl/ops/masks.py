"""Choosing by truth values: where, masked_fill, masked_select."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, attach, op
from minidl.ops.common import broadcast, number_for, shape_of, unbroadcast
from minidl.ops.copies import cast
from minidl.ops.shapes import reshape
from minidl.tensors import Tensor


@op()
class where(Op):
    """y = a where condition, else b;    da = dy where condition, db = dy elsewhere

    ``where(condition)`` alone gives the places where it is not 0, as nonzero(condition, as_tuple=True).

    Why: each y is a copy of one of the two: the gradient goes to the one that was copied, 0 to the other.
    Try: where(rand(3, 4) > 0.5, randn(3, 4), randn(3, 4))
    """

    promote = None

    def shape(condition: Any, a: Any, b: Any) -> Any:  # type: ignore[override]
        return broadcast(condition, a, b)

    def forward(ctx, condition: Any, a: Any = None, b: Any = None) -> Any:
        if a is None and b is None:
            return tuple(devices.contiguous(at) for at in np.nonzero(np.atleast_1d(condition)))
        if a is None or b is None:
            raise TypeError("where() takes a condition alone, or the condition with two values to choose from")
        if condition.dtype != bool:
            if condition.dtype != np.uint8:
                raise RuntimeError(f"where expected condition to be a boolean tensor, but got {condition.dtype}")
            condition = condition.astype(bool)
        dtype = dtypes.result_type(a, b)
        if dtype.kind in "iu":
            a, b = (number_for(n, dtype) if type(n) is int else n for n in (a, b))
        ctx.condition, ctx.shapes = condition, (shape_of(a), shape_of(b))
        ctx.dtypes = (getattr(a, "dtype", dtype), getattr(b, "dtype", dtype))
        if type(b) is float and b == 0 and type(a) is np.ndarray and a.dtype.kind == "f":
            return _kept(a, condition)
        if type(a) is float and a == 0 and type(b) is np.ndarray and b.dtype.kind == "f":
            return _kept(b, ~condition)
        return np.where(condition, a, b).astype(dtype, copy=False)

    def backward(ctx, dy: Any) -> Any:
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
    """x with `value` where mask is True (mask broadcasts to x).

    Try: masked_fill(randn(3, 4), rand(3, 4) > 0.5, 2.0)
    """
    if getattr(value, "shape", ()) != ():
        raise RuntimeError(f"masked_fill: value must be a number or a 0-d tensor, got shape {tuple(value.shape)}")
    if dtypes.as_numpy(mask.dtype).kind != "b":
        raise RuntimeError(f"masked_fill only supports boolean masks, but got a mask of {mask.dtype}: write mask != 0")
    if isinstance(value, complex):
        raise RuntimeError(f"value {value} cannot be converted to {x.dtype} without overflow")
    dtype = dtypes.as_numpy(x.dtype)
    return where(mask, cast(value, dtype) if hasattr(value, "dtype") else number_for(value, dtype), x)


@op(method="masked_select")
def masked_select(input: Any, mask: Any) -> Any:
    """The elements where the mask is True, as a vector; input and mask broadcast. Raises RuntimeError unless bool.

    Try: masked_select(randn(3, 4), rand(3, 4) > 0.5)
    """
    from minidl.ops.indexing import getitem
    from minidl.ops.tiling import broadcast_to

    m = mask.array if isinstance(mask, Tensor) else mask
    if m.dtype != bool:
        raise RuntimeError(f"masked_select: expected a bool mask, got {m.dtype}")
    shape = broadcast(tuple(input.shape), m.shape)
    if tuple(input.shape) != shape:
        input = broadcast_to(input, shape)
    return getitem(input if shape else reshape(input, (1,)), np.broadcast_to(m, shape or (1,)))
