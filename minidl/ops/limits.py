"""Numbers brought into a range: clamp, clip, nan_to_num."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, op
from minidl.ops.common import Elementwise, broadcast, number_for, shape_of, unbroadcast
from minidl.ops.masks import where


@op(method="clamp", inplace=True)
class clamp(Op):
    """y = min(max(x, low), high);    dx = dy where low <= x <= high

    The bounds are numbers or tensors, which broadcast; a tensor gets dy where it is what y was clamped to.

    Why: inside the bounds y is x, outside it is the bound: dy goes to whichever was taken.
    Try: clamp(randn(3, 4), -1.0, 1.0)
    """

    def promote(arrays: Any) -> Any:  # type: ignore[override]
        given = [a for a in arrays if a is not None]
        meet = dtypes.result_type(*given)
        return None if all(getattr(a, "dtype", meet) == meet for a in given) else meet

    def forward(ctx, x: Any, min: Any = None, max: Any = None) -> Any:
        if min is None and max is None:
            raise RuntimeError("clamp: at least one of 'min' or 'max' must not be None")
        if x.dtype.kind in "iu":
            min, max = (number_for(n, x.dtype) if type(n) in (int, bool) else n for n in (min, max))
        y: Any = x
        ctx.shapes = (x.shape, shape_of(min), shape_of(max))
        inside: Any = np.ones((), bool)
        ctx.below = ctx.above = np.zeros((), bool)
        if min is not None:
            y, inside, ctx.below = np.maximum(y, min), x >= min, x < min
        if max is not None:
            y, inside, ctx.above = np.minimum(y, max), inside & (x <= max), x > max
        if min is not None and max is not None:
            ctx.above = ctx.above | (devices.as_array(max) < min)
            ctx.below = ctx.below & ~(devices.as_array(max) < min)
        ctx.inside = inside
        return y

    def shape(x: Any, min: Any = None, max: Any = None) -> Any:  # type: ignore[override]
        return broadcast(x, *(s for s in (min, max) if isinstance(s, tuple)))

    def backward(ctx, dy: Any) -> Any:
        masks = zip((ctx.inside, ctx.below, ctx.above), ctx.shapes, strict=True)
        return ctx.wanted(*[lambda m=m, s=s: unbroadcast(where(m, dy, 0.0), s) for m, s in masks])


@op(method="nan_to_num", inplace=True)
class nan_to_num(Elementwise):
    """y = x, with NaN replaced by `nan` (0), Inf by `posinf` and -Inf by `neginf` (the greatest and least finite
    numbers of the dtype);    dx = dy where x is finite, else 0

    Why: finite x are copied, what was replaced is constant.
    Try: nan_to_num(randn(3, 4))
    """

    promote = None

    def shape(x: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Any:
        if x.dtype.kind != "f":
            return x.copy()
        ctx.finite = np.isfinite(x)
        return np.nan_to_num(x, nan=0.0 if nan is None else nan, posinf=posinf, neginf=neginf)

    def backward(ctx, dy: Any) -> Any:
        return where(ctx.finite, dy, 0.0)


clip = clamp  # NumPy's name
op(method="clip", inplace=True)(clamp)
