"""Whole numbers near a number: floor, ceil, trunc, round; and what is behind the point: frac."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from minidl.autograd import OpType, op
from minidl.ops.common import Elementwise, zeros_like_array
from minidl.ops.signs import not_bool

_NO_SLOPE = """

    Why: it is constant between its jumps: its slope is 0.
    Try: {}(3 * randn(3, 4))
    """


def _rounding(name: str, doc: str, function: Any) -> Any:
    def forward(ctx: Any, x: Any) -> Any:
        not_bool(x)
        return function(x) if x.dtype.kind == "f" else x.copy()

    def backward(ctx: Any, dy: Any) -> Any:
        return zeros_like_array(dy)

    page = doc + _NO_SLOPE.format(name)
    body = {"forward": forward, "backward": backward, "promote": None, "__doc__": page, "__module__": __name__}
    return op(method=name, inplace=True)(OpType(name, (Elementwise,), body))


floor = _rounding("floor", "The greatest integer not above x; its gradient is 0", np.floor)
ceil = _rounding("ceil", "The least integer not below x; its gradient is 0", np.ceil)
trunc = _rounding("trunc", "The integer part of x; its gradient is 0", np.trunc)


@op(method="frac", inplace=True)
class frac(Elementwise):
    """y = x - trunc(x), with the sign of x;    dx = dy

    Why: trunc(x) is constant between its jumps, so y is a line of slope 1.
    Try: frac(randn(3, 4))
    """

    promote = None

    def forward(ctx, x: Any) -> Any:
        if x.dtype.kind != "f":
            raise NotImplementedError(f"frac needs floating point numbers, got {x.dtype}; convert with .float()")
        return x - np.trunc(x)

    def backward(ctx, dy: Any) -> Any:
        return dy


@op(method="round", inplace=True)
class round(Elementwise):
    """The nearest integer, halves to even (or the nearest multiple of 10^-decimals); its gradient is 0

    Why: it is constant between its jumps: its slope is 0.
    Try: round(randn(3, 4))
    """

    promote = None

    def forward(ctx, x: Any, *, decimals: int = 0) -> Any:
        not_bool(x)
        if x.dtype.kind != "f":
            return x.copy()
        if decimals == 0:
            return np.rint(x)
        scale = x.dtype.type(10.0 ** builtins.abs(decimals))
        return np.rint(x * scale) / scale if decimals > 0 else np.rint(x / scale) * scale

    def backward(ctx, dy: Any) -> Any:
        return zeros_like_array(dy)
