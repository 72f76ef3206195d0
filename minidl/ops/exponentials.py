"""Exponentials and logarithms, to other bases too, and those that stay accurate near 0 or far from it; sigmoid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.autograd import op
from minidl.ops.common import Binary, Elementwise, compiled, meet, need_arrays, of_tensors, unbroadcast


@op(method="exp", inplace=True)
class exp(Elementwise):
    """y = e^x;    dx = dy y

    Why: e^(x + h) = e^x e^h, and (e^h - 1) / h -> 1: the slope of e^x is e^x, which forward has already.
    Try: exp(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        y = kernels.activation(x, "exp") if compiled(x, least=1 << 16) else np.exp(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy * y


@op(method="log", inplace=True)
class log(Elementwise):
    """y = ln x;    dx = dy / x

    Why: x = e^y, so 1 = e^y dy/dx = x dy/dx.
    Try: log(rand(3, 4) + 0.5)
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.log(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy / x


@op(method="log1p", inplace=True)
class log1p(Elementwise):
    """y = ln(1 + x), accurate near 0;    dx = dy / (1 + x)

    Why: ln u has the slope 1 / u, and u = 1 + x moves as x does.
    Try: log1p(rand(3, 4) + 0.5)
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.log1p(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy / (x + 1)


@op(method="expm1", inplace=True)
class expm1(Elementwise):
    """y = e^x - 1, accurate near 0;    dx = dy (y + 1)

    Why: the 1 is constant, so the slope is that of e^x, which is y + 1.
    Try: expm1(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        y = np.expm1(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy * (y + 1)


@op(method="exp2", inplace=True)
class exp2(Elementwise):
    """y = 2^x;    dx = dy y ln 2

    Why: 2^x = e^(x ln 2): the chain rule brings the factor ln 2.
    Try: exp2(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        y = np.exp2(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy * (y * math.log(2))


@op(method="log2", inplace=True)
class log2(Elementwise):
    """y = log x to base 2;    dx = dy / (x ln 2)

    Why: log_2 x = ln x / ln 2.
    Try: log2(rand(3, 4) + 0.5)
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.log2(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy / (x * math.log(2))


@op(method="log10", inplace=True)
class log10(Elementwise):
    """y = log x to base 10;    dx = dy / (x ln 10)

    Why: log_10 x = ln x / ln 10.
    Try: log10(rand(3, 4) + 0.5)
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.log10(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy / (x * math.log(10))


@op(method="logaddexp")
class logaddexp(Binary):
    """y = ln(e^a + e^b), as max(a, b) + ln(1 + e^-|a - b|);    da = dy sigmoid(a - b),  db = dy sigmoid(b - a)

    Why: dy/da = e^a / (e^a + e^b) = 1 / (1 + e^(b - a)) = sigmoid(a - b), and the two slopes sum to 1.
    Try: logaddexp(randn(3, 4), randn(3, 4))
    """

    promote = staticmethod(of_tensors(meet, "logaddexp"))

    def forward(ctx, a: Any, b: Any) -> Any:
        need_arrays("logaddexp", a, b)
        if a.dtype.kind != "f":
            raise NotImplementedError(f"logaddexp needs floating point numbers, got {a.dtype}; convert with .float()")
        ctx.sizes(a, b)
        ctx.save(a, b)
        return np.logaddexp(a, b)

    def backward(ctx, dy: Any) -> Any:
        a, b = ctx.saved
        return ctx.wanted(
            lambda: unbroadcast(dy * sigmoid(a - b), ctx.a_shape), lambda: unbroadcast(dy * sigmoid(b - a), ctx.b_shape)
        )


@op(method="sigmoid", inplace=True)
class sigmoid(Elementwise):
    """y = 1 / (1 + e^-x);    dx = dy y (1 - y)

    Why: with u = 1 + e^-x: dy/dx = e^-x / u^2 = (1 / u) (1 - 1 / u) = y (1 - y).
    Try: sigmoid(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        y = kernels.activation(x, "sigmoid") if compiled(x) else stable_sigmoid(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        if compiled(dy, y):
            return kernels.activation_backward(dy, y, "sigmoid")
        return dy * (y * (1 - y))


def stable_sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) on arrays, computed from e^-|x| so that nothing overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)
