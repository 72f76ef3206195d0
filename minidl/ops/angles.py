"""Degrees and radians, the hypotenuse, and sin(pi x) / (pi x)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.autograd import op
from minidl.ops.common import Binary, Elementwise, meet, need_arrays, of_tensors, unbroadcast
from minidl.ops.masks import where
from minidl.ops.trigonometry import cos, sin


@op(method="deg2rad", inplace=True)
class deg2rad(Elementwise):
    """y = x pi / 180;    dx = dy pi / 180

    Why: a line through 0.
    Try: deg2rad(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        return x * (math.pi / 180)

    def backward(ctx, dy: Any) -> Any:
        return dy * (math.pi / 180)


@op(method="rad2deg", inplace=True)
class rad2deg(Elementwise):
    """y = x 180 / pi;    dx = dy 180 / pi

    Why: a line through 0.
    Try: rad2deg(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        return x * (180 / math.pi)

    def backward(ctx, dy: Any) -> Any:
        return dy * (180 / math.pi)


@op(method="hypot", inplace=True)
class hypot(Binary):
    """y = sqrt(a^2 + b^2), without overflow on the way;    da = dy a / y,  db = dy b / y

    Why: y^2 = a^2 + b^2 gives 2 y dy = 2 a da + 2 b db.
    Try: hypot(randn(3, 4), randn(4))
    """

    promote = staticmethod(of_tensors(meet, "hypot"))

    def forward(ctx, a: Any, b: Any) -> Any:
        need_arrays("hypot", a, b)
        if a.dtype.kind != "f":
            raise NotImplementedError(f"hypot needs floating point numbers, got {a.dtype}; convert with .float()")
        ctx.sizes(a, b)
        y = np.hypot(a, b)
        ctx.save(a, b, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        a, b, y = ctx.saved
        return ctx.wanted(
            lambda: unbroadcast(dy * (a / y), ctx.a_shape), lambda: unbroadcast(dy * (b / y), ctx.b_shape)
        )


@op(method="sinc", inplace=True)
class sinc(Elementwise):
    """y = sin(pi x) / (pi x), 1 at 0;    dx = dy (cos(pi x) - y) / x, 0 at 0

    Why: (sin(u) / u)' = (cos u - sin(u) / u) / u, and u = pi x; at 0 the curve is flat.
    Try: sinc(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        at = x * math.pi
        y = np.where(x == 0, 1, np.sin(at) / np.where(x == 0, 1, at)).astype(x.dtype, copy=False)
        ctx.save(x)
        return y

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        none = x == 0
        at = where(none, 1.0, x)
        slope = (math.pi * at * cos(math.pi * at) - sin(math.pi * at)) / (math.pi * at * at)
        # at 0 the slope is 0, and its own slope -pi^2 / 3
        return dy * where(none, x * (-math.pi * math.pi / 3), slope)
