"""The gamma distribution's share below and above x: igamma, the regularized lower incomplete gamma function, igammac.

By the series below a + 1, by the continued fraction above (Abramowitz & Stegun 1964, 6.5.29 and 6.5.31; modified
Lentz); for a large a near x by Temme's expansion (DLMF 8.12), as those take about sqrt(a) terms. Computed in float64,
until every element stands still.
"""

from __future__ import annotations

import math
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import op
from minidl.ops.common import Binary, need_arrays, unbroadcast
from minidl.ops.error_function import erf_array
from minidl.ops.exponentials import exp, log
from minidl.ops.gamma import lgamma, lgamma_array, zeta_array
from minidl.ops.masks import where

_TINY, _MOST = 1e-300, 2_000
_LARGE = 200.0  # of a: from here on eight terms in 1 / a give 15 digits


def _lower(a: Any, x: Any) -> Any:
    """sum over n of x^n / (a (a + 1) ... (a + n))."""
    term = total = 1 / a
    for n in range(1, _MOST):
        term = term * x / (a + n)
        total = total + term
        if not (np.abs(term) > 1e-17 * np.abs(total)).any():
            break
    return total


def _upper(a: Any, x: Any) -> Any:
    """1 / (x + 1 - a - 1 (1 - a) / (x + 3 - a - ...))."""
    b = x + 1 - a
    c, d = np.full_like(b, 1 / _TINY), 1 / np.where(b == 0, _TINY, b)
    h = d
    for n in range(1, _MOST):
        b = b + 2
        d, c = b - n * (n - a) * d, b - n * (n - a) / c
        d, c = 1 / np.where(d == 0, _TINY, d), np.where(c == 0, _TINY, c)
        moving = np.abs(d * c - 1) > 1e-15
        if not moving.any():
            break
        h = np.where(moving, h * (d * c), h)
    return h


def _upper_of_few(a: Any, x: Any) -> Any:
    """1 - x^a / Gamma(1 + a) (1 + a sum over n > 0 of (-x)^n / (n! (a + n))) for a and x about 1 at most.

    The 1 cancels before anything is rounded to it: for a small a the share above x is about a itself.
    """
    small = np.abs(a) < 0.5
    z = np.where(small, a, 0.0)
    series = np.zeros_like(z)  # of log Gamma(1 + a), DLMF 5.7.3
    for k in range(56, 1, -1):
        series = (-1) ** k * zeta_array(k, 1.0) / k + series * z
    power = a * np.log(x) - np.where(small, (series * z - np.euler_gamma) * z, lgamma_array(1 + a))
    term, total = np.ones_like(a), np.zeros_like(a)
    for n in range(1, 30):
        term = term * -x / n
        total = total + term / (a + n)
    return -np.expm1(power) - np.exp(power) * a * total


@cache
def _temme(rows: int = 8, columns: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """c[k, n], the series in eta of c_k(eta) in DLMF 8.12.7, and g[k] of Stirling's Gamma(a) ~ sqrt(2 pi / a) (a / e)^a
    sum of g_k / a^k (5.11.3), in exact fractions.

    mu(eta) solves eta^2 / 2 = mu - log(1 + mu), so mu mu' = eta (1 + mu), which gives its coefficients one by one.
    c_0 = 1 / mu - 1 / eta, and c_k = c_(k-1)' / eta + (-1)^k g_k / mu, where the poles at 0 cancel: that gives g_k.
    """
    most = columns + 2 * rows
    mu = [Fraction(0), Fraction(1)]
    for n in range(2, most + 2):  # the coefficient of eta^n in mu mu' is that of mu at n - 1
        known = sum((i * mu[i] * mu[n + 1 - i] for i in range(2, n)), Fraction(0))
        mu.append((mu[n - 1] - known) / (n + 1))
    inverse = [Fraction(1)]  # of mu / eta
    for n in range(1, most + 1):
        inverse.append(-sum((mu[i + 1] * inverse[n - i] for i in range(1, n + 1)), Fraction(0)))
    first = inverse[1:]
    table, stirling, row = [first], [Fraction(1)], first
    for k in range(1, rows):
        g = -row[1]  # times (-1)^k
        row = [(n + 2) * row[n + 2] + g * first[n] for n in range(len(row) - 2)]
        table.append(row)
        stirling.append(g * (-1) ** k)
    c = np.array([[float(v) for v in row[:columns]] for row in table])
    return c, np.array([float(g) for g in stirling])


def _log_loss(m: Any) -> Any:
    """m - log(1 + m), by its series where the two are almost equal."""
    near = np.abs(m) < 0.3
    z = np.where(near, m, 0.0)
    y = np.zeros_like(z)
    for n in range(36, 1, -1):
        y = (-1) ** n / n + y * z
    return np.where(near, y * z * z, m - np.log1p(m))


def _scale(a: Any, x: Any) -> Any:
    """x^a e^-x / Gamma(a); of a large a by Stirling's series, where logarithms as large as a log(x) would cancel."""
    large = a >= _LARGE
    p = np.where(large, a, _LARGE)
    stirling: Any = 0.0
    for g in _temme()[1][::-1]:
        stirling = stirling / p + g
    wide = np.sqrt(p / (2 * math.pi)) * np.exp(-p * _log_loss(np.where(large, x, p) / p - 1)) / stirling
    a, x = np.where(large, 1.0, a), np.where(large, 1.0, x)
    return np.where(large, wide, np.exp(a * np.log(x) - x - lgamma_array(a)))


def _near(a: Any, x: Any, above: bool) -> Any:
    """Either share for a >= 200 and x within 0.3 a of it: erfc(+-eta sqrt(a / 2)) / 2 +- R_a(eta), DLMF 8.12.3 to 7."""
    m = (x - a) / a
    loss = _log_loss(m)
    eta = np.copysign(np.sqrt(2 * loss), m)
    total: Any = 0.0
    for row in _temme()[0][::-1]:
        c: Any = 0.0
        for d in row[::-1]:
            c = c * eta + d
        total = total / a + c
    rest = np.exp(-a * loss) / np.sqrt(2 * math.pi * a) * total
    side = 1.0 if above else -1.0
    return 0.5 * erf_array(side * eta * np.sqrt(a / 2), rest=True) + side * rest


def _share(a: Any, x: Any, above: bool) -> Any:
    xp = devices.array_module(a)
    a64, x64 = xp.broadcast_arrays(xp.asarray(a, np.float64), xp.asarray(x, np.float64))
    fine = (a64 > 0) & (x64 > 0) & np.isfinite(a64) & np.isfinite(x64)
    p, z = np.where(fine, a64, 1.0), np.where(fine, x64, 1.0)
    near = (p >= _LARGE) & (np.abs(z - p) < 0.3 * p)
    small = z < p + 1
    low = ~near & small
    high = ~near & ~small
    scale = _scale(np.where(near, 1.0, p), np.where(near, 1.0, z))
    below_x = scale * _lower(np.where(low, p, 1.0), np.where(low, z, 1.0))
    above_x = scale * _upper(np.where(high, p, 1.0), np.where(high, z, 3.0))
    y = np.where(small, 1 - below_x if above else below_x, above_x if above else 1 - above_x)
    few = (p < np.where(z < 0.5, -0.4 / np.log(np.minimum(z, 0.5)), 1.1 * z)) & (z < 1.1)
    if above and few.any():
        y = np.where(few, _upper_of_few(np.where(few, p, 1.0), np.where(few, z, 1.0)), y)
    if near.any():
        y = np.where(near, _near(np.where(near, p, _LARGE), np.where(near, z, _LARGE), above), y)
    none, every = (1.0, 0.0) if above else (0.0, 1.0)
    y = np.where(np.isnan(a64) | np.isnan(x64), np.nan, y)  # unless one end decides, asked in torch's order:
    y = np.where(x64 == np.inf, every, y)
    y = np.where(a64 == np.inf, np.where(x64 == np.inf, np.nan, none), y)
    y = np.where(x64 == 0, none, y)
    y = np.where(a64 == 0, np.where(x64 > 0, every, np.nan), y)
    return np.where((a64 < 0) | (x64 < 0), np.nan, y).astype(a.dtype)


class _Share(Binary):
    """What both share: the density is the slope in b; torch has none in a, and neither has minidl."""

    above = False

    def forward(ctx, a: Any, b: Any) -> Any:
        need_arrays(type(ctx).__name__, a, b)
        if a.dtype.kind != "f":
            raise NotImplementedError(f"{type(ctx).__name__} needs floating point numbers, got {a.dtype}")
        ctx.sizes(a, b)
        ctx.save(a, b)
        return _share(a, b, ctx.above)

    def backward(ctx, dy: Any) -> Any:
        a, x = ctx.saved

        def da() -> Any:
            raise NotImplementedError(f"{type(ctx).__name__} has no derivative in its first argument, as in torch")

        def dx() -> Any:
            away = x <= 0
            z = where(away, 1.0, x)
            density = where(away, 0.0, exp((a - 1) * log(z) - z - lgamma(a)))
            return unbroadcast(dy * (-density if ctx.above else density), ctx.b_shape)

        return ctx.wanted(da, dx)


@op(method="igamma", inplace=True)
class igamma(_Share):
    """y = integral from 0 to b of t^(a-1) e^-t dt / Gamma(a);    db = dy b^(a-1) e^-b / Gamma(a)

    Why: the slope of an integral in its upper bound is what is integrated.
    Try: igamma(rand(3) + 0.5, (rand(3) + 0.5).requires_grad_())
    """


@op(method="igammac", inplace=True)
class igammac(_Share):
    """y = 1 - igamma(a, b);    db = -dy b^(a-1) e^-b / Gamma(a)

    Why: the slope of an integral in its lower bound is the negative of what is integrated.
    Try: igammac(rand(3) + 0.5, (rand(3) + 0.5).requires_grad_())
    """

    above = True
