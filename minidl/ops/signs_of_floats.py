"""The sign bit: copysign, signbit, sgn, positive; the step at 0; which infinity, which number is real."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, OpType, op, require
from minidl.ops.common import (
    Binary,
    Elementwise,
    meet,
    meet_float,
    need_arrays,
    of_tensors,
    unbroadcast,
    zeros_like_array,
)
from minidl.ops.logic import raw
from minidl.ops.signs import sign


def _test(name: str, doc: str, function: Any) -> Any:
    def forward(ctx: Any, x: Any) -> Any:
        return function(x)

    doc = f"""{doc}

    Why: the result is a truth value: it has no slope.
    Try: {name}(tensor([-1.0, 0.0, nan, inf]))
    """
    body = {"forward": forward, "promote": None, "differentiable": False, "__doc__": doc, "__module__": __name__}
    return op(method=name)(OpType(name, (Elementwise,), body))


def _infinite(x: Any, positive: bool) -> Any:
    if x.dtype.kind != "f":
        return np.zeros(x.shape, bool)
    return (np.isposinf if positive else np.isneginf)(x)


def _sign_bit(x: Any) -> Any:
    return np.zeros(x.shape, bool) if x.dtype == bool else np.signbit(x)


signbit = _test("signbit", "Whether x is below 0, -0 and negative NaN included", _sign_bit)
isposinf = _test("isposinf", "Whether x is positive infinity", lambda x: _infinite(x, True))
isneginf = _test("isneginf", "Whether x is negative infinity", lambda x: _infinite(x, False))
isreal = _test("isreal", "True: no Tensor holds a complex number", lambda x: np.ones(x.shape, bool))

sgn = sign
op(method="sgn", inplace=True)(sign)


@op(method="positive")
def positive(input: Any) -> Any:
    """input itself. Raises RuntimeError for bools.

    Try: positive(randn(3))
    """
    require(raw(input).dtype != bool, "positive: not defined for bools: convert to int or float first")
    return input


@op(method="copysign", inplace=True)
class copysign(Binary):
    """y = |a| with the sign of b;    da = dy y / a, 0 at 0;  the gradient for b is 0

    Why: |a| has the slope of the sign of a, and y takes the sign of b: together y / a; a sign jumps: no slope in
        b.
    Try: copysign(randn(3, 4), randn(4))
    """

    def promote(arrays: Any) -> Any:  # type: ignore[override]
        if not hasattr(arrays[0], "dtype"):
            raise TypeError(f"copysign(): the first argument must be a Tensor, not {type(arrays[0]).__name__}")
        return meet_float(arrays)

    def forward(ctx, a: Any, b: Any) -> Any:
        if not hasattr(a, "dtype"):
            raise TypeError(f"copysign(): the first argument must be a Tensor, not {type(a).__name__}")
        ctx.sizes(a, b)
        y = np.copysign(a, b)
        if ctx.recording:
            with np.errstate(all="ignore"):
                ctx.turned = np.where(a == 0, 0, y / a).astype(y.dtype, copy=False)
        return y

    def backward(ctx, dy: Any) -> Any:
        return ctx.wanted(
            lambda: unbroadcast(dy * ctx.turned, ctx.a_shape),
            lambda: unbroadcast(zeros_like_array(dy), ctx.b_shape),
        )


@op(method="heaviside", inplace=True)
class heaviside(Binary):
    """y = 0 where x < 0, 1 where x > 0, `values` at 0; no gradient, as in torch

    Raises RuntimeError when the dtypes differ.

    Why: a step has no slope.
    Try: heaviside(randn(3, 4), rand(4))
    """

    promote = staticmethod(of_tensors(None, "heaviside"))

    def forward(ctx, x: Any, values: Any) -> Any:
        need_arrays("heaviside", x, values)
        if x.dtype != values.dtype:
            raise RuntimeError(f"heaviside: the dtypes differ, {x.dtype} and {values.dtype}")
        return np.where(x == 0, values, (x > 0).astype(x.dtype))


class _Extreme(Binary):
    """What fmax and fmin share: NaN loses against a number; where both are equal a gets the gradient, as in torch."""

    first: Any

    def backward(ctx, dy: Any) -> Any:
        from minidl.ops.masks import cleared

        return ctx.wanted(
            lambda: unbroadcast(cleared(dy, ~ctx.first), ctx.a_shape),
            lambda: unbroadcast(cleared(dy, ctx.first), ctx.b_shape),
        )


@op(method="fmax")
class fmax(_Extreme):
    """y = max(a, b), the other one where one is NaN; both must be tensors

    Why: y is a where a is chosen and b elsewhere, so dy goes to the one that was.
    Try: fmax(randn(3, 4), randn(4))
    """

    promote = staticmethod(of_tensors(meet, "fmax"))

    def forward(ctx, a: Any, b: Any) -> Any:
        need_arrays("fmax", a, b)
        ctx.sizes(a, b)
        ctx.first = (a >= b) | (b != b)
        return np.fmax(a, b)


@op(method="fmin")
class fmin(_Extreme):
    """y = min(a, b), the other one where one is NaN; both must be tensors

    Why: y is a where a is chosen and b elsewhere, so dy goes to the one that was.
    Try: fmin(randn(3, 4), randn(4))
    """

    promote = staticmethod(of_tensors(meet, "fmin"))

    def forward(ctx, a: Any, b: Any) -> Any:
        need_arrays("fmin", a, b)
        ctx.sizes(a, b)
        ctx.first = (a <= b) | (b != b)
        return np.fmin(a, b)


@op(method="nextafter", inplace=True)
class nextafter(Binary):
    """The float next to a in the direction of b;    da = dy, 0 where a = b;  db = 0

    Why: y follows a at the distance of one rounding, and does not move with b.
    Try: nextafter(randn(3), randn(3))
    """

    promote = staticmethod(of_tensors(meet, "nextafter"))

    def forward(ctx, a: Any, b: Any) -> Any:
        need_arrays("nextafter", a, b)
        if a.dtype.kind != "f":
            raise NotImplementedError(f"nextafter is not defined for {a.dtype}")
        ctx.sizes(a, b)
        ctx.moved = a != b
        return np.nextafter(a, b)

    def backward(ctx, dy: Any) -> Any:
        return ctx.wanted(
            lambda: unbroadcast(dy * ctx.moved, ctx.a_shape), lambda: unbroadcast(zeros_like_array(dy), ctx.b_shape)
        )


@op()
class mantissa_and_exponent(Op):
    """x = m 2^e with 0.5 <= |m| < 1, e int32;    dx = dm / 2^e

    Why: where e stands still m = x / 2^e is a line in x; e is whole: no slope.
    Try: mantissa_and_exponent(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        if x.dtype.kind != "f":
            raise RuntimeError(f"torch.frexp() only supports floating-point dtypes, not {x.dtype}")
        m, e = np.frexp(x)
        ctx.exponent = e
        return devices.as_array(m), devices.as_array(e, np.int32)

    def backward(ctx, dm: Any, de: Any) -> Any:
        scale = np.ldexp(np.ones_like(ctx.exponent, np.float64), -ctx.exponent)
        return dm * scale.astype(dtypes.as_numpy(dm.dtype))
