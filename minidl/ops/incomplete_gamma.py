"""The gamma distribution's share below and above x: igamma, the regularized lower incomplete gamma function, igammac.

By the series below a + 1, by the continued fraction above (Abramowitz & Stegun 1964, 6.5.29 and 6.5.31; modified
Lentz). Computed in float64, until every element stands still.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import op
from minidl.ops.common import Binary, need_arrays, unbroadcast
from minidl.ops.exponentials import exp, log
from minidl.ops.gamma import lgamma, lgamma_array
from minidl.ops.masks import where

_TINY, _MOST = 1e-300, 20_000


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
        h = h * (d * c)
        if not (np.abs(d * c - 1) > 1e-16).any():
            break
    return h


def _share(a: Any, x: Any, above: bool) -> Any:
    xp = devices.array_module(a)
    a64, x64 = xp.broadcast_arrays(xp.asarray(a, np.float64), xp.asarray(x, np.float64))
    fine = (a64 > 0) & (x64 > 0) & np.isfinite(a64) & np.isfinite(x64)
    p, z = np.where(fine, a64, 1.0), np.where(fine, x64, 1.0)
    small = z < p + 1
    scale = np.exp(p * np.log(z) - z - lgamma_array(p))
    low = scale * _lower(np.where(small, p, 1.0), np.where(small, z, 1.0))
    high = scale * _upper(np.where(small, 1.0, p), np.where(small, 3.0, z))
    y = np.where(small, 1 - low if above else low, high if above else 1 - high)
    none, every = (1.0, 0.0) if above else (0.0, 1.0)
    y = np.where((x64 == 0) & (a64 > 0) | ((a64 == np.inf) & (x64 >= 0) & np.isfinite(x64)), none, y)
    y = np.where(((a64 == 0) & (x64 > 0)) | ((x64 == np.inf) & (a64 >= 0) & np.isfinite(a64)), every, y)
    odd = (a64 < 0) | (x64 < 0) | ((a64 == 0) & (x64 == 0)) | ((a64 == np.inf) & (x64 == np.inf))
    return np.where(odd | np.isnan(a64) | np.isnan(x64), np.nan, y).astype(a.dtype)


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
