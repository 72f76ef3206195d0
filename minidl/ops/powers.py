"""Fixed powers: square, sqrt, rsqrt, reciprocal. pow itself stands with the operators, in arithmetic.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import op
from minidl.ops.common import Elementwise


@op(method="square", inplace=True)
class square(Elementwise):
    """y = x^2;    dx = 2 x dy

    Why: (x + h)^2 = x^2 + 2 x h + h^2, so the slope is 2 x.
    Try: square(randn(3, 4))
    """

    promote = None

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.square(x if x.dtype != bool else x.astype(np.int64))

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * (2 * x)


@op(method="sqrt", inplace=True)
class sqrt(Elementwise):
    """y = x^(1/2);    dx = dy / (2 y)

    Why: y^2 = x, so 2 y dy/dx = 1.
    Try: sqrt(rand(3, 4) + 0.5)
    """

    def forward(ctx, x: Any) -> Any:
        y = np.sqrt(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy / (2 * y)


@op(method="rsqrt", inplace=True)
class rsqrt(Elementwise):
    """y = x^(-1/2);    dx = -dy y^3 / 2

    Why: y^-2 = x, so -2 y^-3 dy/dx = 1.
    Try: rsqrt(rand(3, 4) + 0.5)
    """

    def forward(ctx, x: Any) -> Any:
        y = 1 / np.sqrt(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy * (-0.5 * y * y * y)


@op(method="reciprocal", inplace=True)
class reciprocal(Elementwise):
    """y = 1 / x;    dx = -dy y^2

    Why: x y = 1, so y + x dy/dx = 0: dy/dx = -y / x = -y^2.
    Try: reciprocal(rand(3, 4) + 0.5)
    """

    def forward(ctx, x: Any) -> Any:
        y = 1 / x
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return -dy * (y * y)
