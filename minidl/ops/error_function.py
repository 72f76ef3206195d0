"""erf: the integral of the bell curve; what is left of it to 1, and its inverse."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import op
from minidl.ops.common import Elementwise, float_dtype
from minidl.ops.exponentials import exp


def erf_array(x: Any, rest: bool = False) -> Any:
    """erf on an array, or with `rest` 1 - erf, to the last bits of its dtype.

    W. J. Cody, "Rational Chebyshev approximation for the error function", Math. Comp. 23 (1969): three rational
    approximations, on |x| <= 0.46875, up to 4, and beyond.
    """
    x64 = devices.as_array(x, np.float64)
    a = np.abs(x64)
    a = np.where(np.isnan(a), 0.0, a)
    small = np.minimum(a, 0.46875) ** 2
    inner = x64 * _horner(small, _ERF_P1) / _horner(small, _ERF_Q1)
    mid = np.clip(a, 0.46875, 4.0)
    erfc_mid = np.exp(-mid * mid) * _horner(mid, _ERF_P2) / _horner(mid, _ERF_Q2)
    big = np.clip(a, 4.0, 30.0)
    z = 1 / (big * big)
    tail = z * _horner(z, _ERF_P3) / _horner(z, _ERF_Q3)
    erfc_big = np.exp(-big * big) / big * (1 / math.sqrt(math.pi) + tail)
    far = np.where(a <= 4.0, erfc_mid, erfc_big)
    if rest:
        y = np.where(a <= 0.46875, 1 - inner, np.where(x64 < 0, 2 - far, far))
        return np.where(np.isnan(x64), np.nan, y).astype(float_dtype(x))
    y = np.where(a <= 0.46875, inner, np.sign(x64) * (1 - far))
    return y.astype(float_dtype(x))


def erfinv_array(y: Any) -> Any:
    """The x whose erf is y, infinite at -1 and 1, NaN beside.

    Winitzki's approximation (2008), good to 2 parts in 1000, then Halley's steps on erf(x) - y, or near the ends, where
    that cancels, on erfc(x) - (1 - y); each triples the number of right digits.
    """
    y64 = devices.as_array(y, np.float64)
    t = np.abs(y64)
    inside = t < 1
    p = np.where(inside, t, 0.0)
    a = 0.147
    half = 2 / (math.pi * a) + np.log1p(-p * p) / 2
    x = np.sqrt(np.maximum(np.sqrt(half * half - np.log1p(-p * p) / a) - half, 0.0))
    for _ in range(3):
        off = np.where(p < 0.5, erf_array(x) - p, (1 - p) - erf_array(x, rest=True))
        step = off / (2 / math.sqrt(math.pi) * np.exp(-x * x))
        x = x - step / (1 + x * step)
    found = np.copysign(np.where(inside, x, np.where(t == 1, np.inf, np.nan)), y64)
    return found.astype(float_dtype(y))


def _horner(x: Any, coefficients: tuple) -> Any:
    y: Any = coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y


_ERF_P1 = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
           3.20937758913846947e3)  # fmt: skip
_ERF_Q1 = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_ERF_P2 = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
           2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
           1.23033935479799725e3)  # fmt: skip
_ERF_Q2 = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
           3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip
_ERF_P3 = (-1.63153871373020978e-2, -3.05326634961232344e-1, -3.60344899949804439e-1, -1.25781726111229246e-1,
           -1.60837851487422766e-2, -6.58749161529837803e-4)  # fmt: skip
_ERF_Q3 = (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
           2.33520497626869185e-3)  # fmt: skip


@op(method="erf", inplace=True)
class erf(Elementwise):
    """y = 2/sqrt(pi) integral of e^(-t^2) from 0 to x;    dx = dy 2/sqrt(pi) e^(-x^2)

    Why: the slope of an integral at its upper end is the integrand there.
    Try: erf(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return erf_array(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * (2 / math.sqrt(math.pi)) * exp(-x * x)


@op(method="erfc", inplace=True)
class erfc(Elementwise):
    """y = 1 - erf(x), accurate where that is near 0;    dx = -dy 2/sqrt(pi) e^(-x^2)

    Why: erfc = 1 - erf, and erf' is the bell curve.
    Try: erfc(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return erf_array(x, rest=True)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * (-2 / math.sqrt(math.pi)) * exp(-x * x)


@op(method="erfinv", inplace=True)
class erfinv(Elementwise):
    """y with erf(y) = x: infinite at -1 and 1, NaN beside;    dx = dy sqrt(pi)/2 e^(y^2)

    Why: an inverse has the inverse slope: 1 / erf'(y).
    Try: erfinv(rand(3, 4) - 0.5)
    """

    def forward(ctx, x: Any) -> Any:
        y = erfinv_array(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy * (math.sqrt(math.pi) / 2) * exp(y * y)
