"""The gamma function's logarithm and its derivatives: lgamma, digamma, polygamma; mvlgamma.

On arrays in float64, rounded to the dtype at the end.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import attach, op, require
from minidl.ops.arithmetic import add
from minidl.ops.common import Elementwise, float_dtype
from minidl.ops.copies import cast

# Lanczos 1964, "A precision approximation of the gamma function", g = 7 with nine terms: relative error below 1e-14.
_LANCZOS = (
    0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313, -176.61502916214059,
    12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6, 1.5056327351493116e-7,
)  # fmt: skip
# B_2k / 2k of digamma's asymptotic series, and (2k)! / B_2k of Euler's and Maclaurin's sum for zeta.
_DIGAMMA = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
_ZETA = (
    12.0, -720.0, 30240.0, -1209600.0, 47900160.0, -1.8924375803183791606e9, 7.47242496e10, -2.950130727918164224e12,
    1.1646782814350067249e14, -4.5979787224074726105e15, 1.8152105401943546773e17, -7.1661652561756670113e18,
)  # fmt: skip


def _sin_pi(x: Any) -> Any:
    """sin(pi x), exact at integers."""
    near = np.rint(x)
    return np.sin(math.pi * (x - near)) * np.where(near % 2 == 0, 1.0, -1.0)


def lgamma_array(x: Any) -> Any:
    """log |Gamma(x)|: infinite at 0, -1, -2 ...; below 1/2 by Euler's reflection."""
    x64 = devices.as_array(x, np.float64)
    low = x64 < 0.5
    z = np.where(low, 1 - x64, x64) - 1
    total = np.full_like(z, _LANCZOS[0])
    for k, c in enumerate(_LANCZOS[1:], 1):
        total = total + c / (z + k)
    t = z + 7.5
    up = 0.5 * math.log(2 * math.pi) + (z + 0.5) * np.log(t) - t + np.log(total)
    y = np.where(low, math.log(math.pi) - np.log(np.abs(_sin_pi(x64))) - up, up)
    y = np.where((x64 == 1) | (x64 == 2), 0.0, y)
    return np.where(np.isinf(x64), np.inf, y).astype(float_dtype(x))


def digamma_array(x: Any) -> Any:
    """The derivative of lgamma: by its recurrence to 10, then the asymptotic series; reflected below 0."""
    x64 = devices.as_array(x, np.float64)
    low = x64 < 0
    z = np.where(low, 1 - x64, x64)
    shift = np.zeros_like(z)
    for _ in range(10):
        small = z < 10
        shift = shift - np.where(small, 1 / z, 0.0)
        z = np.where(small, z + 1, z)
    w = 1 / (z * z)
    series: Any = 0.0
    for c in reversed(_DIGAMMA):
        series = (series + c) * w
    y = np.where(np.isinf(z), np.inf, np.log(z) - 0.5 / z - series) + shift
    tan = np.tan(math.pi * (x64 - np.rint(x64)))
    y = np.where(low, np.where(np.rint(x64) == x64, np.nan, y - math.pi / tan), y)
    return np.where(x64 == 0, np.copysign(np.inf, -x64), y).astype(float_dtype(x))


def zeta_array(s: int, x: Any) -> Any:
    """Hurwitz's zeta, the sum over k of (x + k)^-s for a whole s > 1; infinite at 0, -1, -2 ..., NaN at -Inf.

    Below 0 it is the sum over all k, which the fraction of x decides, without those that come before x.
    """
    x64 = devices.as_array(x, np.float64)
    pole = (x64 <= 0) & (np.floor(x64) == x64) & np.isfinite(x64)
    z = np.where(pole | ~np.isfinite(x64), 1.0, x64)
    if (below := z < 0).any():
        t, sign = np.where(below, z - np.rint(z), 0.5), (-1.0) ** s  # exact, however near to a pole
        right, left = np.where(t > 0, t, 1 + t), np.where(t > 0, 1 - t, -t)
        low = zeta_array(s, right) + sign * (zeta_array(s, left) - zeta_array(s, np.where(below, 1 - z, 1.0)))
        high = zeta_array(s, np.where(below, 1.0, x64))
        return np.where(pole, np.inf, np.where(below, low, high))
    total = np.zeros_like(z)
    while (small := z < 10).any():
        total = total + np.where(small, z ** float(-s), 0.0)
        z = np.where(small, z + 1, z)
    total = total + z ** float(1 - s) / (s - 1) + 0.5 * z ** float(-s)
    factor, power = float(s), z ** float(-s - 1)
    for k, c in enumerate(_ZETA):
        total = total + factor * power / c
        factor *= (s + 2 * k + 1) * (s + 2 * k + 2)
        power = power / (z * z)
    total = np.where(np.isnan(x64) | (x64 == -np.inf), np.nan, np.where(x64 == np.inf, 0.0, total))
    return np.where(pole, np.inf, total)


@op(method="lgamma", inplace=True)
class lgamma(Elementwise):
    """y = log |Gamma(x)|;    dx = dy digamma(x)

    Why: digamma is by definition its derivative.
    Try: lgamma(rand(3, 4) + 0.5)
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return lgamma_array(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * digamma(x)


@op(method="digamma", inplace=True)
class digamma(Elementwise):
    """y = d log Gamma(x) / dx;    dx = dy polygamma(1, x)

    Why: polygamma(1, x) is by definition its derivative.
    Try: digamma(rand(3, 4) + 0.5)
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return digamma_array(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * derivative_of_digamma(x, 1)


@op()
class derivative_of_digamma(Elementwise):
    """y = the n-th derivative of digamma, (-1)^(n + 1) n! zeta(n + 1, x), x floats;    dx = dy times the next one

    Why: each is the derivative of the one before.
    Try: derivative_of_digamma(rand(3) + 0.5, 2)
    """

    promote = None

    def shape(x: Any, n: int) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, n: int) -> Any:
        ctx.n = n
        ctx.save(x)
        if n == 0:
            return digamma_array(x)
        return ((-1.0) ** (n + 1) * math.factorial(n) * zeta_array(n + 1, x)).astype(x.dtype)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * derivative_of_digamma(x, ctx.n + 1)


@op()
def polygamma(n: int, input: Any) -> Any:
    """The n-th derivative of digamma at input. Raises RuntimeError for n < 0.

    Try: polygamma(2, rand(3) + 0.5)
    """
    require(n >= 0, "polygamma(n, x) does not support negative n, got {}", n)
    kind = dtypes.as_numpy(input.dtype).kind
    return derivative_of_digamma(input if kind == "f" else cast(input, dtypes.default()), n)


@op(method="mvlgamma", inplace=True)
def mvlgamma(input: Any, p: int) -> Any:
    """The logarithm of the gamma function of p x p matrices: p (p - 1) / 4 log pi + sum of lgamma(x - j / 2), j < p.

    Raises RuntimeError for p < 1.

    Try: mvlgamma(rand(3) + 2.0, 3)
    """
    require(p >= 1, "p has to be greater than or equal to 1, got {}", p)
    y = p * (p - 1) / 4 * math.log(math.pi)
    for j in range(p):
        y = add(lgamma(input - j / 2), y)
    return y


def _polygamma(self: Any, n: int) -> Any:
    """The n-th derivative of digamma."""
    return polygamma(n, self)


attach("polygamma", _polygamma)
