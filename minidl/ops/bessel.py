"""Modified Bessel functions of the first kind, orders 0 and 1: i0, i1, and e^-|x| times them, i0e, i1e.

Near 0 by their power series, whose terms are all of one sign; further out by their asymptotic series (Abramowitz &
Stegun 1964, 9.6.10 and 9.7.1). Computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import op
from minidl.ops.common import Elementwise, float_dtype
from minidl.ops.masks import where
from minidl.ops.signs import abs, sign

_FAR = 20.0  # from here on the asymptotic series' least term is below e^-40


def _scaled(x: Any, order: int) -> Any:
    """e^-|x| I_order(x)."""
    z = np.abs(devices.as_array(x, np.float64))
    near, far = np.minimum(z, _FAR), np.maximum(z, _FAR)
    term = total = (near / 2) ** order
    for k in range(1, 60):
        term = term * (near * near / 4) / (k * (k + order))
        total = total + term
    wide = terms = np.ones_like(far)
    for k in range(1, 30):
        terms = terms * ((2 * k - 1) ** 2 - 4 * order * order) / (8 * k * far)
        wide = wide + terms
    y = np.where(z < _FAR, total * np.exp(-near), wide / np.sqrt(2 * np.pi * far))
    return (np.copysign(y, x) if order else y).astype(float_dtype(x))


@op()
class i0e(Elementwise):
    """y = e^-|x| I0(x);    dx = dy (I1e(x) - sign(x) y)

    Why: I0' = I1, and e^-|x| brings -sign(x) of itself.
    Try: i0e(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        y = _scaled(x, 0)
        ctx.save(x, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        x, y = ctx.saved
        return dy * (i1e(x) - sign(x) * y)


@op()
class i1e(Elementwise):
    """y = e^-|x| I1(x);    dx = dy (I0e(x) - y (sign(x) + 1 / x)),  1/2 dy at 0

    Why: I1' = I0 - I1 / x, which is 1/2 at 0, and e^-|x| brings -sign(x) of itself.
    Try: i1e(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        y = _scaled(x, 1)
        ctx.save(x, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        x, y = ctx.saved
        zero = abs(x) < 1e-8  # I1(x) / x is 1/2 there to the last bit
        slope = i0e(x) - where(zero, 0.5, y / where(zero, 1.0, x))
        return dy * (slope - y * sign(x))


def _grown(x: Any, order: int) -> Any:
    """I_order(x): e^(|x| / 2) twice, as its square overflows where the function does not yet."""
    z = devices.as_array(x, np.float64)
    root = np.exp(np.abs(z) / 2)
    return (_scaled(z, order) * root * root).astype(float_dtype(x))


@op(method="i0", inplace=True)
class i0(Elementwise):
    """y = I0(x), the modified Bessel function of the first kind and order 0;    dx = dy I1(x)

    Why: I0(x) is the mean of e^(x cos t) over all angles t, its slope that of cos t e^(x cos t), which is I1(x).
    Try: i0(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return _grown(x, 0)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * i1(x)


@op()
class i1(Elementwise):
    """y = I1(x), the modified Bessel function of order 1;    dx = dy (I0(x) - I1(x) / x), 1/2 dy at 0

    Why: the recurrences I0 = I1' + I1 / x; I1(x) / x is 1/2 at 0.
    Try: i1(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        y = _grown(x, 1)
        ctx.save(x, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        x, y = ctx.saved
        zero = abs(x) < 1e-8
        return dy * (i0(x) - where(zero, 0.5, y / where(zero, 1.0, x)))
