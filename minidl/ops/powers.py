"""Fixed powers: square, sqrt, rsqrt, reciprocal. pow itself stands with the operators, in arithmetic.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import op
from minidl.ops.common import Elementwise


@op(method="square", inplace=True)
class square(Elementwise):
    """y = x^2;    dx = 2 x dy"""

    promote = None

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.square(x if x.dtype != bool else x.astype(np.int64))

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * (2 * x)


@op(method="sqrt", inplace=True)
class sqrt(Elementwise):
    """y = x^(1/2);    dx = dy / (2 y)"""

    def forward(ctx, x: Any) -> Any:
        y = np.sqrt(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy / (2 * y)


@op(method="rsqrt", inplace=True)
class rsqrt(Elementwise):
    """y = x^(-1/2);    dx = -dy y^3 / 2"""

    def forward(ctx, x: Any) -> Any:
        y = 1 / np.sqrt(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy * (-0.5 * y * y * y)


@op(method="reciprocal", inplace=True)
class reciprocal(Elementwise):
    """y = 1 / x;    dx = -dy y^2"""

    def forward(ctx, x: Any) -> Any:
        y = 1 / x
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return -dy * (y * y)
