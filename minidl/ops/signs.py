"""The sign and the size of numbers: neg, abs, sign."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import attach, op
from minidl.ops.common import Elementwise, zeros_like_array


def not_bool(x: Any) -> None:
    """Raise NotImplementedError for a bool array."""
    if x.dtype == bool:
        raise NotImplementedError("not defined for bools: convert to int or float first")


@op(method="neg", inplace=True)
class neg(Elementwise):
    """y = -x

    Why: the slope of -x is -1 everywhere.
    Try: neg(randn(3, 4))
    """

    promote = None

    def forward(ctx, x: Any) -> Any:
        if x.dtype == bool:
            raise RuntimeError("negation of a bool tensor is not supported: use logical_not")
        return -x

    def backward(ctx, dy: Any) -> Any:
        return -dy


@op(method="abs", inplace=True)
class abs(Elementwise):
    """y = |x|;    dx = dy sign(x), 0 at 0

    Why: |x| is x on the right of 0 and -x on its left; at 0 it bends, and 0 is taken from between -1 and 1.
    Try: abs(randn(3, 4))
    """

    promote = None

    def forward(ctx, x: Any) -> Any:
        not_bool(x)
        ctx.save(x)
        return np.abs(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * sign(x)


@op(method="sign", inplace=True)
class sign(Elementwise):
    """y = -1, 0 or 1, and 0 for NaN (as torch); its gradient is 0

    Why: it is constant on either side of 0, so its slope is 0 wherever it has one.
    Try: sign(randn(3, 4))
    """

    promote = None

    def forward(ctx, x: Any) -> Any:
        return x.copy() if x.dtype == bool else (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype)

    def backward(ctx, dy: Any) -> Any:
        return zeros_like_array(dy)


attach("__neg__", lambda self: neg(self))
attach("__pos__", lambda self: self)
attach("__abs__", lambda self: abs(self))
