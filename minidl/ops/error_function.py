"""erf: the integral of the bell curve."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.autograd import op
from minidl.ops.common import Elementwise
from minidl.ops.exponentials import exp


def erf_array(x: Any) -> Any:
    """erf on an array, to the last bits of its dtype.

    W. J. Cody, "Rational Chebyshev approximation for the error function", Math. Comp. 23 (1969): three rational
    approximations, on |x| <= 0.46875, up to 4, and beyond.
    """
    x64 = np.asarray(x, np.float64) if not hasattr(x, "get") else x.astype(np.float64)
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
    y = np.where(a <= 0.46875, inner, np.sign(x64) * (1 - np.where(a <= 4.0, erfc_mid, erfc_big)))
    return y.astype(x.dtype)


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
