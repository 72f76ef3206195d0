"""Modified Bessel functions of the first kind, orders 0 and 1: i0, i1, and e^-|x| times them, i0e, i1e.

Near 0 by their power series, whose terms are all of one sign; further out by their asymptotic series (Abramowitz &
Stegun 1964, 9.6.10 and 9.7.1). Computed in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import op
from minidl.ops.common import Elementwise, float_dtype
from minidl.ops.copies import cast
from minidl.ops.exponentials import exp
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


def _with_root(x: Any) -> tuple[Any, Any]:
    """x as floats, and e^(|x| / 2), whose square overflows where the functions do not yet."""
    x = x if dtypes.as_numpy(x.dtype).kind == "f" else cast(x, dtypes.default())
    return x, exp(abs(x) * 0.5)


@op(method="i0", inplace=True)
def i0(input: Any) -> Any:
    """I0(x), the modified Bessel function of the first kind and order 0.

    Try: i0(randn(3, 4))
    """
    x, root = _with_root(input)
    return i0e(x) * root * root


@op()
def i1(input: Any) -> Any:
    """I1(x), the modified Bessel function of the first kind and order 1.

    Try: i1(randn(3, 4))
    """
    x, root = _with_root(input)
    return i1e(x) * root * root
