"""Circular and hyperbolic functions and their inverses, element by element. Angles are in radians."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.autograd import op
from minidl.ops.common import Binary, Elementwise, compiled, meet_float, need_arrays, of_tensors, unbroadcast
from minidl.ops.masks import where
from minidl.ops.powers import rsqrt


@op(method="sin", inplace=True)
class sin(Elementwise):
    """y = sin x;    dx = dy cos x

    Why: sin(x + h) = sin x cos h + cos x sin h, and sin h / h -> 1.
    Try: sin(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.sin(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * cos(x)


@op(method="cos", inplace=True)
class cos(Elementwise):
    """y = cos x;    dx = -dy sin x

    Why: cos x = sin(x + pi/2), whose slope is cos(x + pi/2) = -sin x.
    Try: cos(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.cos(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return -dy * sin(x)


@op(method="tanh", inplace=True)
class tanh(Elementwise):
    """y = tanh x;    dx = dy (1 - y^2)

    Why: y = s / c with s' = c, c' = s and c^2 - s^2 = 1: dy/dx = (c^2 - s^2) / c^2 = 1 - y^2.
    Try: tanh(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        y = kernels.activation(x, "tanh") if compiled(x, least=1 << 16) else np.tanh(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        if compiled(dy, y):
            return kernels.activation_backward(dy, y, "tanh")
        return dy * (1 - y * y)


@op(method="tan", inplace=True)
class tan(Elementwise):
    """y = tan x;    dx = dy (1 + y^2)

    Why: y = s / c with s' = c, c' = -s: dy/dx = (c^2 + s^2) / c^2 = 1 + y^2.
    Try: tan(rand(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        y = np.tan(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy * (1 + y * y)


@op(method="asin", inplace=True)
class asin(Elementwise):
    """y = the angle in [-pi/2, pi/2] whose sine is x, NaN for |x| > 1;    dx = dy / sqrt(1 - x^2)

    Why: sin y = x, so cos y dy/dx = 1, and cos y = sqrt(1 - x^2) on [-pi/2, pi/2].
    Try: asin(0.9 * rand(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.arcsin(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * rsqrt(1 - x * x)


@op(method="acos", inplace=True)
class acos(Elementwise):
    """y = the angle in [0, pi] whose cosine is x, NaN for |x| > 1;    dx = -dy / sqrt(1 - x^2)

    Why: it is pi/2 - asin x.
    Try: acos(0.9 * rand(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.arccos(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return -dy * rsqrt(1 - x * x)


@op(method="atan", inplace=True)
class atan(Elementwise):
    """y = the angle in [-pi/2, pi/2] whose tangent is x;    dx = dy / (1 + x^2)

    Why: tan y = x, so (1 + tan^2 y) dy/dx = 1.
    Try: atan(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.arctan(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy / (1 + x * x)


@op(method="atan2", inplace=True)
class atan2(Binary):
    """y = the angle in [-pi, pi] of the point (b, a);    da = dy b / (a^2 + b^2),  db = -dy a / (a^2 + b^2)

    Why: the angle turns by the part of a step that is at right angles to (b, a), divided by the length.
    Try: atan2(randn(3, 4), rand(3, 4) + 0.5)
    """

    promote = staticmethod(of_tensors(meet_float, "atan2"))

    def forward(ctx, a: Any, b: Any) -> Any:
        need_arrays("atan2", a, b)
        ctx.sizes(a, b)
        ctx.save(a, b)
        return np.arctan2(a, b)

    def backward(ctx, dy: Any) -> Any:
        a, b = ctx.saved
        square = a * a + b * b
        d = where(square == 0, 0.0, dy / square)  # at the origin, where there is no slope, torch's is 0
        return ctx.wanted(lambda: unbroadcast(d * b, ctx.a_shape), lambda: unbroadcast(-d * a, ctx.b_shape))


@op(method="sinh", inplace=True)
class sinh(Elementwise):
    """y = (e^x - e^-x) / 2;    dx = dy cosh x

    Why: the slope of e^x is e^x, that of -e^-x is e^-x: half their sum is cosh x.
    Try: sinh(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.sinh(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * cosh(x)


@op(method="cosh", inplace=True)
class cosh(Elementwise):
    """y = (e^x + e^-x) / 2;    dx = dy sinh x

    Why: half of e^x - e^-x is left, which is sinh x.
    Try: cosh(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.cosh(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * sinh(x)


@op(method="asinh", inplace=True)
class asinh(Elementwise):
    """y with sinh y = x;    dx = dy / sqrt(x^2 + 1)

    Why: sinh y = x, so cosh y dy/dx = 1, and cosh y = sqrt(1 + x^2).
    Try: asinh(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.arcsinh(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * rsqrt(x * x + 1)


@op(method="acosh", inplace=True)
class acosh(Elementwise):
    """y >= 0 with cosh y = x, NaN for x < 1;    dx = dy / sqrt(x^2 - 1)

    Why: cosh y = x, so sinh y dy/dx = 1, and sinh y = sqrt(x^2 - 1) for y >= 0.
    Try: acosh(rand(3, 4) + 1.5)
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.arccosh(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * rsqrt(x * x - 1)


@op(method="atanh", inplace=True)
class atanh(Elementwise):
    """y with tanh y = x, NaN for |x| > 1;    dx = dy / (1 - x^2)

    Why: tanh y = x, so (1 - x^2) dy/dx = 1.
    Try: atanh(0.9 * rand(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.arctanh(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy / (1 - x * x)


arcsin, arccos, arctan, arctan2 = asin, acos, atan, atan2  # NumPy's names
arcsinh, arccosh, arctanh = asinh, acosh, atanh


for _name, _page in (
    ("arcsin", asin), ("arccos", acos), ("arctan", atan), ("arctan2", atan2), ("arcsinh", asinh), ("arccosh", acosh),
    ("arctanh", atanh),
):  # fmt: skip
    op(method=_name, inplace=True)(_page)
