"""Bringing numbers into a range: fmod, nan_to_num, clip."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import op
from minidl.ops.common import Binary, Elementwise, unbroadcast
from minidl.ops.indexing import where
from minidl.ops.pointwise import clamp


@op(method="fmod", inplace=True)
class fmod(Binary):
    """y = a - b trunc(a / b), with the sign of a;    da = dy,  db = -dy trunc(a / b)

    Raises RuntimeError for an integer division by 0.
    """

    def forward(ctx, a: Any, b: Any) -> Any:
        if not hasattr(a, "dtype"):
            raise TypeError(f"fmod(): the first argument must be a Tensor, not {type(a).__name__}")
        kind = a.dtype.kind
        if kind == "b":
            raise NotImplementedError("fmod is not defined for bools: convert to int or float first")
        if kind in "iu" and np.any(np.asarray(b) == 0):
            raise RuntimeError("ZeroDivisionError: fmod of integers by zero")
        ctx.sizes(a, b)
        if ctx.recording:
            ctx.quotient = np.trunc(np.true_divide(a, b))
        return np.fmod(a, b)

    def backward(ctx, dy: Any) -> Any:
        return ctx.wanted(lambda: unbroadcast(dy, ctx.a_shape), lambda: unbroadcast(-dy * ctx.quotient, ctx.b_shape))


@op(method="nan_to_num", inplace=True)
class nan_to_num(Elementwise):
    """y = x, with NaN replaced by `nan` (0), Inf by `posinf` and -Inf by `neginf` (the greatest and least finite
    numbers of the dtype);    dx = dy where x is finite, else 0"""

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
