"""Logarithms of chances, and their like: logit, xlogy, logaddexp2; powers in float64, powers of two."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import op
from minidl.ops.arithmetic import mul, pow
from minidl.ops.common import Binary, Elementwise, meet, meet_float, need_arrays, of_tensors, unbroadcast
from minidl.ops.copies import cast
from minidl.ops.exponentials import log, sigmoid
from minidl.ops.masks import where


@op(method="logit", inplace=True)
class logit(Elementwise):
    """y = log(x / (1 - x)), the inverse of sigmoid; with `eps`, x clamped to [eps, 1 - eps];    dx = dy / (x (1 - x))

    Beside [0, 1] y is NaN, and so is dx; where eps clamps, dx is 0.

    Why: log(x / (1 - x)) = log x - log(1 - x), with slopes 1 / x and 1 / (1 - x), in sum 1 / (x (1 - x)).
    Try: logit(rand(3, 4) * 0.8 + 0.1)
    """

    def shape(x: Any, *_: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, eps: float | None = None) -> Any:
        ctx.eps = eps
        ctx.save(x)
        if eps is not None:
            x = np.minimum(np.maximum(x, x.dtype.type(eps)), x.dtype.type(1 - eps))
        return np.log(x / (1 - x))

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        low, high, beside = (0.0, 1.0, math.nan) if ctx.eps is None else (ctx.eps, 1 - ctx.eps, 0.0)
        inside = (x >= low) & (x <= high)
        return where(inside, dy / (x * (1 - x)), beside)


@op(method="xlogy", inplace=True)
class xlogy(Binary):
    """y = a log b, 0 where a = 0 unless b is NaN;    da = dy log b, 0 where a = 0 and b <= 0,  db = dy a / b

    Why: y is a line in a of slope log b, and (log b)' = 1 / b.
    Try: xlogy(rand(3, 4), rand(4) + 0.5)
    """

    promote = staticmethod(meet_float)

    def forward(ctx, a: Any, b: Any) -> Any:
        if not (hasattr(a, "dtype") or hasattr(b, "dtype")):
            raise TypeError("xlogy(): one of the arguments must be a Tensor")
        ctx.sizes(a, b)
        ctx.numbers = [None if hasattr(v, "dtype") else v for v in (a, b)]
        ctx.save(a if hasattr(a, "dtype") else None, b if hasattr(b, "dtype") else None)
        dtype = (a if hasattr(a, "dtype") else b).dtype
        y = np.where(a == 0, 0, a * np.log(b))
        return np.where(np.isnan(b), np.nan, y).astype(dtype, copy=False)

    def backward(ctx, dy: Any) -> Any:
        a: Any
        b: Any
        a, b = (v if v is not None else n for v, n in zip(ctx.saved, ctx.numbers, strict=True))

        def da() -> Any:
            slope = log(b) if hasattr(b, "dtype") else math.log(b) if b > 0 else math.nan if b < 0 else -math.inf
            return unbroadcast(where((a == 0) & (b <= 0), 0.0, dy * slope), ctx.a_shape)

        return ctx.wanted(da, lambda: unbroadcast(dy * a / b, ctx.b_shape))


@op(method="logaddexp2")
class logaddexp2(Binary):
    """y = log2(2^a + 2^b);    da = dy / (1 + 2^(b - a)),  db = dy / (1 + 2^(a - b))

    Why: (log2 u)' = 1 / (u ln 2) and (2^a)' = 2^a ln 2: the share of 2^a in the sum.
    Try: logaddexp2(randn(3, 4), randn(4))
    """

    promote = staticmethod(of_tensors(meet, "logaddexp2"))

    def forward(ctx, a: Any, b: Any) -> Any:
        need_arrays("logaddexp2", a, b)
        if a.dtype.kind != "f":
            raise NotImplementedError(f"logaddexp2 needs floating point numbers, got {a.dtype}; convert with .float()")
        ctx.sizes(a, b)
        ctx.save(a, b)
        return np.logaddexp2(a, b)

    def backward(ctx, dy: Any) -> Any:
        a, b = ctx.saved
        two = math.log(2)
        return ctx.wanted(
            lambda: unbroadcast(dy * sigmoid((a - b) * two), ctx.a_shape),
            lambda: unbroadcast(dy * sigmoid((b - a) * two), ctx.b_shape),
        )


@op(method="float_power")
def float_power(input: Any, exponent: Any) -> Any:
    """input to the power of exponent, computed in float64 whatever they are; one of them may be a number.

    Try: float_power(rand(3) + 0.5, 3)
    """
    if not (hasattr(input, "dtype") or hasattr(exponent, "dtype")):
        raise TypeError("float_power(): one of the arguments must be a Tensor")

    def wide(x: Any) -> Any:
        return cast(x, np.dtype(np.float64)) if hasattr(x, "dtype") else float(x)

    return pow(wide(input), wide(exponent))


@op(method="ldexp", inplace=True)
def ldexp(input: Any, other: Any) -> Any:
    """input times 2 to the power of other; integers become floats.

    Try: ldexp(randn(3), randint(0, 3, (3,)))
    """
    need_arrays("ldexp", input, other)
    kind, own = dtypes.as_numpy(other.dtype), dtypes.as_numpy(input.dtype)
    power = other if kind.kind == "f" else cast(other, own if own.kind == "f" else dtypes.default())
    return mul(input, pow(2.0, power))
