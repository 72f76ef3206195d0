"""Functions of one tensor, element by element: exp, log, tanh, and the activations."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import Op, OpType, attach, op
from minidl.ops.common import Elementwise, broadcast, shape_of, unbroadcast, zeros_like_array
from minidl.ops.indexing import cleared, where
from minidl.tensors import Tensor


def not_bool(x: Any) -> None:
    """Raise NotImplementedError for a bool array."""
    if x.dtype == bool:
        raise NotImplementedError("not defined for bools: convert to int or float first")


@op(method="neg", inplace=True)
class neg(Elementwise):
    """y = -x"""

    promote = None

    def forward(ctx, x: Any) -> Any:
        if x.dtype == bool:
            raise RuntimeError("negation of a bool tensor is not supported: use logical_not")
        return -x

    def backward(ctx, dy: Any) -> Any:
        return -dy


@op(method="abs", inplace=True)
class abs(Elementwise):
    """y = |x|;    dx = dy sign(x), 0 at 0"""

    promote = None

    def forward(ctx, x: Any) -> Any:
        not_bool(x)
        ctx.save(x)
        return np.abs(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * sign(x)


@op(method="sign", inplace=True)
class sign(Elementwise):
    """y = -1, 0 or 1, and 0 for NaN (as torch); its gradient is 0"""

    promote = None

    def forward(ctx, x: Any) -> Any:
        return x.copy() if x.dtype == bool else (x > 0).astype(x.dtype) - (x < 0).astype(x.dtype)

    def backward(ctx, dy: Any) -> Any:
        return zeros_like_array(dy)


@op(method="exp", inplace=True)
class exp(Elementwise):
    """y = e^x;    dx = dy y"""

    def forward(ctx, x: Any) -> Any:
        y = np.exp(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy * y


@op(method="log", inplace=True)
class log(Elementwise):
    """y = ln x;    dx = dy / x"""

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.log(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy / x


@op(method="log1p", inplace=True)
class log1p(Elementwise):
    """y = ln(1 + x), accurate near 0;    dx = dy / (1 + x)"""

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.log1p(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy / (x + 1)


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


@op(method="sin", inplace=True)
class sin(Elementwise):
    """y = sin x;    dx = dy cos x"""

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.sin(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * cos(x)


@op(method="cos", inplace=True)
class cos(Elementwise):
    """y = cos x;    dx = -dy sin x"""

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return np.cos(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return -dy * sin(x)


@op(method="tanh", inplace=True)
class tanh(Elementwise):
    """y = tanh x;    dx = dy (1 - y^2)"""

    def forward(ctx, x: Any) -> Any:
        y = np.tanh(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy * (1 - y * y)


@op(method="sigmoid", inplace=True)
class sigmoid(Elementwise):
    """y = 1 / (1 + e^-x);    dx = dy y (1 - y)"""

    def forward(ctx, x: Any) -> Any:
        y = stable_sigmoid(x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return dy * (y * (1 - y))


def stable_sigmoid(x: Any) -> Any:
    """1 / (1 + e^-x) on arrays, computed from e^-|x| so that nothing overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


@op(method="relu", inplace=True)
class relu(Elementwise):
    """y = max(x, 0);    dx = 0 where y = 0, else dy"""

    promote = None

    def forward(ctx, x: Any) -> Any:
        not_bool(x)
        y = np.maximum(x, 0)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return cleared(dy, y <= 0)


@op(namespace="nn.functional")
class leaky_relu(Elementwise):
    """y = x where x > 0, else negative_slope x"""

    promote = None

    def forward(ctx, x: Any, negative_slope: float = 0.01) -> Any:
        ctx.slope = np.where(x > 0, 1, negative_slope).astype(x.dtype)
        return x * ctx.slope

    def backward(ctx, dy: Any) -> Any:
        return dy * ctx.slope


_erf: Any = None


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
    """y = 2/sqrt(pi) integral of e^(-t^2) from 0 to x;    dx = dy 2/sqrt(pi) e^(-x^2)"""

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return erf_array(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * (2 / math.sqrt(math.pi)) * exp(-x * x)


@op(namespace="nn.functional")
class gelu(Elementwise):
    """y = x Phi(x), Phi the normal distribution function; ``approximate="tanh"`` as in GPT-2 (Hendrycks & Gimpel 2016)

    dx = dy (Phi(x) + x phi(x))
    """

    def forward(ctx, x: Any, approximate: str = "none") -> Any:
        if approximate not in ("none", "tanh"):
            raise RuntimeError(f"approximate argument must be either none or tanh, not {approximate!r}")
        ctx.save(x)
        ctx.approximate = approximate
        if approximate == "tanh":
            return 0.5 * x * (1 + np.tanh(_GELU_C * (x + 0.044715 * x * x * x)))
        return x * (0.5 * (1 + erf_array(x * _SQRT_HALF)))

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        if ctx.approximate == "tanh":
            t = tanh(_GELU_C * (x + 0.044715 * x * x * x))
            return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (_GELU_C * (1 + 0.134145 * x * x)))
        return dy * (0.5 * (1 + erf(x * _SQRT_HALF)) + x * exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi)))


_GELU_C = math.sqrt(2 / math.pi)
_SQRT_HALF = math.sqrt(0.5)


@op(namespace="nn.functional")
class silu(Elementwise):
    """y = x sigmoid(x);    dx = dy s (1 + x (1 - s)),  s = sigmoid(x)"""

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return x * stable_sigmoid(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        s = sigmoid(x)
        return dy * (s * (1 + x * (1 - s)))


@op(namespace="nn.functional")
class softplus(Elementwise):
    """y = ln(1 + e^(beta x)) / beta, and x itself where beta x > threshold;    dx = dy sigmoid(beta x)"""

    def forward(ctx, x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
        ctx.save(x)
        ctx.beta, ctx.threshold = beta, threshold
        z = beta * x
        return np.where(z > threshold, x, np.logaddexp(0, z) / beta).astype(x.dtype)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        z = ctx.beta * x
        return where(z > ctx.threshold, dy, dy * sigmoid(z))


@op(method="clamp", inplace=True)
class clamp(Op):
    """y = min(max(x, low), high);    dx = dy where low <= x <= high

    The bounds are numbers or tensors, which broadcast; a tensor gets dy where it is what y was clamped to.
    """

    def promote(arrays: Any) -> Any:  # type: ignore[override]
        given = [a for a in arrays if a is not None]
        meet = dtypes.result_type(*given)
        return None if all(getattr(a, "dtype", meet) == meet for a in given) else meet

    def forward(ctx, x: Any, min: Any = None, max: Any = None) -> Any:
        if min is None and max is None:
            raise RuntimeError("clamp: at least one of 'min' or 'max' must not be None")
        y: Any = x
        ctx.shapes = (x.shape, shape_of(min), shape_of(max))
        inside: Any = np.ones((), bool)
        ctx.below = ctx.above = np.zeros((), bool)
        if min is not None:
            y, inside, ctx.below = np.maximum(y, min), x >= min, x < min
        if max is not None:
            y, inside, ctx.above = np.minimum(y, max), inside & (x <= max), x > max
        if min is not None and max is not None:
            ctx.above = ctx.above | (np.asarray(max) < min)
            ctx.below = ctx.below & ~(np.asarray(max) < min)
        ctx.inside = inside
        return y

    def shape(x: Any, min: Any = None, max: Any = None) -> Any:  # type: ignore[override]
        return broadcast(x, *(s for s in (min, max) if isinstance(s, tuple)))

    def backward(ctx, dy: Any) -> Any:
        masks = zip((ctx.inside, ctx.below, ctx.above), ctx.shapes, strict=True)
        return ctx.wanted(*[lambda m=m, s=s: unbroadcast(where(m, dy, 0.0), s) for m, s in masks])


def _rounding(name: str, doc: str, function: Any) -> Any:
    def forward(ctx: Any, x: Any) -> Any:
        not_bool(x)
        return function(x) if x.dtype.kind == "f" else x.copy()

    def backward(ctx: Any, dy: Any) -> Any:
        return zeros_like_array(dy)

    body = {"forward": forward, "backward": backward, "promote": None, "__doc__": doc, "__module__": __name__}
    return op(method=name, inplace=True)(OpType(name, (Elementwise,), body))


floor = _rounding("floor", "The greatest integer not above x; its gradient is 0", np.floor)
ceil = _rounding("ceil", "The least integer not below x; its gradient is 0", np.ceil)
trunc = _rounding("trunc", "The integer part of x; its gradient is 0", np.trunc)


@op(method="round", inplace=True)
class round(Elementwise):
    """The nearest integer, halves to even (or the nearest multiple of 10^-decimals); its gradient is 0"""

    promote = None

    def forward(ctx, x: Any, *, decimals: int = 0) -> Any:
        not_bool(x)
        if x.dtype.kind != "f":
            return x.copy()
        if decimals == 0:
            return np.rint(x)
        scale = x.dtype.type(10.0 ** builtins.abs(decimals))
        return np.rint(x * scale) / scale if decimals > 0 else np.rint(x / scale) * scale

    def backward(ctx, dy: Any) -> Any:
        return zeros_like_array(dy)


def _test(name: str, doc: str, function: Any) -> Any:
    def forward(ctx: Any, x: Any) -> Any:
        return function(x)

    body = {"forward": forward, "promote": None, "differentiable": False, "__doc__": doc, "__module__": __name__}
    return op(method=name)(OpType(name, (Elementwise,), body))


isnan = _test("isnan", "Whether x is not a number", np.isnan)
isinf = _test("isinf", "Whether x is infinite", np.isinf)
isfinite = _test("isfinite", "Whether x is a finite number", np.isfinite)
logical_not = _test("logical_not", "Whether x is 0 or False", np.logical_not)


def _invert(self: Tensor) -> Any:
    if self.array.dtype.kind == "f":
        raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
    return bitwise_not(self)


@op(method="bitwise_not")
class bitwise_not(Elementwise):
    """y = ~x: every bit flipped; for bool, not x"""

    promote = None
    differentiable = False

    def forward(ctx, x: Any) -> Any:
        return np.invert(x)


attach("__neg__", lambda self: neg(self))
attach("__pos__", lambda self: self)
attach("__abs__", lambda self: abs(self))
attach("__invert__", _invert)
