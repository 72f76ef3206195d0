"""Two operands, element by element: + - * / ** and their kin. Shapes broadcast as NumPy's, dtypes meet as torch's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import OpType, attach, op
from minidl.ops.common import (
    Binary,
    Elementwise,
    broadcast,
    meet,
    meet_float,
    number_for,
    of_tensors,
    shape_of,
    unbroadcast,
    zeros_like_array,
)
from minidl.tensors import Tensor


def _scaled(b: Any, alpha: Any, like: Any) -> Any:
    """alpha b in the dtype that b and its partner met in: a negative alpha wraps around in unsigned integers.

    Raises RuntimeError for a fractional alpha of integers, as torch.
    """
    kind = _kind(b, like)
    if type(alpha) is bool and kind != "b":
        raise RuntimeError("Boolean alpha only supported for Boolean results.")
    if kind not in "biu":
        return alpha * b
    if isinstance(alpha, (float, np.floating)):
        raise RuntimeError("For integral input tensors, argument alpha must not be a floating point number.")
    if hasattr(b, "dtype"):
        return number_for(alpha, b.dtype) * b
    return number_for(alpha * b, like.dtype)


@op(method="add", operator="add", inplace=True)
class add(Binary):
    """y = a + alpha b

    Why: y moves one for one with a, and alpha for one with b.
    Try: add(randn(3, 4), randn(3, 4))
    """

    alpha: Any = 1

    def forward(ctx, a: Any, b: Any, *, alpha: Any = 1) -> Any:
        if ctx.recording:
            ctx.sizes(a, b)
        if alpha == 1 and alpha is not True:
            return a + b
        ctx.alpha = alpha
        return a + _scaled(b, alpha, a)

    def backward(ctx, dy: Any) -> Any:
        return ctx.wanted(
            lambda: unbroadcast(dy, ctx.a_shape),
            lambda: unbroadcast(dy if ctx.alpha == 1 else ctx.alpha * dy, ctx.b_shape),
        )


@op(method="sub", operator="sub", inplace=True)
class sub(Binary):
    """y = a - alpha b

    Why: y moves one for one with a, and by -alpha with b.
    Try: sub(randn(3, 4), randn(3, 4))
    """

    def promote(arrays: Any) -> Any:  # type: ignore[override]
        for x in arrays[:2]:
            if type(x) is bool or getattr(x, "dtype", None) == np.bool_:
                raise RuntimeError("subtraction of bools is not supported: use logical_not or ^, or convert to int")
        return meet(arrays)

    def forward(ctx, a: Any, b: Any, *, alpha: Any = 1) -> Any:
        if ctx.recording:
            ctx.sizes(a, b)
            ctx.alpha = alpha
        return a - (b if alpha == 1 and alpha is not True else _scaled(b, alpha, a))

    def backward(ctx, dy: Any) -> Any:
        return ctx.wanted(lambda: unbroadcast(dy, ctx.a_shape), lambda: unbroadcast(-dy * ctx.alpha, ctx.b_shape))


@op(method="mul", operator="mul", inplace=True)
class mul(Binary):
    """y = a b

    Why: (a + h) b = a b + h b: the slope in a is b, in b it is a.
    Try: mul(randn(3, 4), randn(3, 4))
    """

    def forward(ctx, a: Any, b: Any) -> Any:
        if ctx.recording:
            ctx.sizes(a, b)
            ctx.save(None if ctx.parents[1] is None else a, None if ctx.parents[0] is None else b)
        return a * b

    def backward(ctx, dy: Any) -> Any:
        a, b = ctx.saved
        return ctx.wanted(lambda: unbroadcast(dy * b, ctx.a_shape), lambda: unbroadcast(dy * a, ctx.b_shape))


@op(operator="truediv")
class true_divide(Binary):
    """y = a / b;    da = dy / b,    db = -dy y / b

    Why: y b = a, so dy b + y db = da: dy/da = 1 / b and dy/db = -y / b.
    Try: true_divide(randn(3, 4), rand(3, 4) + 0.5)
    """

    promote = staticmethod(meet_float)

    def forward(ctx, a: Any, b: Any) -> Any:
        y = np.true_divide(a, b)
        if ctx.recording:
            ctx.sizes(a, b)
            ctx.save(b, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        b, y = ctx.saved
        return ctx.wanted(lambda: unbroadcast(dy / b, ctx.a_shape), lambda: unbroadcast(-dy * y / b, ctx.b_shape))


@op()
class rounded_divide(Binary):
    """y = a / b rounded down ("floor") or towards 0 ("trunc"), integers staying integers; its gradient is 0

    Why: a rounded quotient is constant between its jumps: its slope is 0.
    Try: rounded_divide(randn(2, 3), rand(3) + 0.5, 'floor')
    """

    def forward(ctx, a: Any, b: Any, rounding_mode: str) -> Any:
        ctx.sizes(a, b)
        _no_zero_division(a, b)
        if rounding_mode == "floor":
            return np.floor_divide(a, b)
        if rounding_mode != "trunc":
            raise RuntimeError(f"div: rounding_mode must be None, 'trunc' or 'floor', not {rounding_mode!r}")
        if _kind(a, b) == "f":
            return np.trunc(np.true_divide(a, b))
        q, r = np.divmod(a, b)
        return q + ((r != 0) & (q < 0))

    def shape(a: Any, b: Any, *_: Any) -> Any:  # type: ignore[override]
        return broadcast(a, b)

    def backward(ctx, dy: Any) -> Any:
        return ctx.wanted(
            lambda: unbroadcast(zeros_like_array(dy), ctx.a_shape),
            lambda: unbroadcast(zeros_like_array(dy), ctx.b_shape),
        )


@op(method="div", inplace=True)
def div(a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    """a / b; with ``rounding_mode`` "floor" or "trunc" the rounded quotient, whose gradient is 0.

    Try: div(randn(3, 4), rand(3, 4) + 0.5)
    """
    return true_divide(a, b) if rounding_mode is None else rounded_divide(a, b, rounding_mode)


@op(method="pow", operator="pow", inplace=True)
class pow(Binary):
    """y = a^b;    da = dy b a^(b-1),    db = dy y log a    (0 where b = 0, and where a = 0 and b >= 0)

    Why: a^b = e^(b ln a): in a the slope is a^b b / a, in b it is a^b ln a.
    Try: pow(rand(3, 4) + 0.5, randn(3, 4))
    """

    def promote(arrays: Any) -> Any:  # type: ignore[override]
        a, b = arrays[:2]
        if isinstance(b, int) and b < 0 and getattr(getattr(a, "dtype", None), "kind", "") in ("i", "u"):
            raise RuntimeError("Integers to negative integer powers are not allowed: convert to a float type first")
        return meet(arrays)

    def forward(ctx, a: Any, b: Any) -> Any:
        _no_bool(a, b)
        if isinstance(b, (int, float)):
            y = a * a if b == 2 else np.power(a, b)
        else:
            whole = isinstance(a, int) or (not isinstance(a, float) and a.dtype.kind in "iu")
            y = _integer_power(a, b) if whole and b.dtype.kind == "i" else np.power(a, b)
        if ctx.recording:
            ctx.sizes(a, b)
            ctx.save(a, b, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        from minidl.ops.exponentials import log
        from minidl.ops.masks import where

        a, b, y = ctx.saved

        def da() -> Any:
            if isinstance(b, (int, float)):
                return zeros_like_array(dy) if b == 0 else dy * (b * (a if b == 2 else pow(a, b - 1)))
            return unbroadcast(where(b == 0, 0.0, dy * (b * pow(a, where(b == 0, 1.0, b - 1)))), ctx.a_shape)

        def db() -> Any:
            if isinstance(a, (int, float)):
                if a == 0:
                    return where(b >= 0, 0.0, dy * (y * -math.inf))
                return dy * (y * (math.log(a) if a > 0 else math.nan))
            zero = (a == 0) & (b >= 0)
            return unbroadcast(where(zero, 0.0, dy * (y * log(where(zero, 1.0, a)))), ctx.b_shape)

        return ctx.wanted(da, db)


for _name, _page in (("subtract", sub), ("multiply", mul), ("divide", div), ("true_divide", div)):
    op(method=_name, inplace=True)(_page)


def _integer_power(a: Any, b: Any) -> Any:
    """a^b of integers, where a negative power is rounded towards 0: 0 unless a is 1 or -1 (0 for 0 too, as torch)."""
    negative = b < 0
    if not negative.any():
        return np.power(a, b)
    inverse = np.where(np.abs(a) == 1, np.where(b % 2 == 0, a * a, a), 0)
    return np.where(negative, inverse, np.power(a, np.abs(b))).astype(b.dtype, copy=False)


@op(method="maximum")
class maximum(Binary):
    """y = max(a, b); NaN wins; where a = b each gets half of the gradient (as torch). Both must be tensors.

    Why: y copies the greater of the two, so dy goes there; at a tie it bends, and each gets half.
    Try: maximum(randn(3, 4), randn(3, 4))
    """

    promote = staticmethod(of_tensors(meet, "maximum"))

    def forward(ctx, a: Any, b: Any) -> Any:
        if ctx.recording:
            ctx.sizes(a, b)
            ctx.a_loses, ctx.b_loses, ctx.tie = a < b, a > b, a == b
        y = np.maximum(a, b)
        return y if type(y) is np.ndarray else _of_arrays(y, a, b)

    def backward(ctx, dy: Any) -> Any:
        from minidl.ops.masks import cleared, where

        dy = where(ctx.tie, dy * 0.5, dy)
        return ctx.wanted(
            lambda: unbroadcast(cleared(dy, ctx.a_loses), ctx.a_shape),
            lambda: unbroadcast(cleared(dy, ctx.b_loses), ctx.b_shape),
        )


@op(method="minimum")
class minimum(maximum):  # type: ignore[misc, valid-type]
    """y = min(a, b); NaN wins; where a = b each gets half of the gradient (as torch). Both must be tensors.

    Why: y copies the lesser of the two, so dy goes there; at a tie it bends, and each gets half.
    Try: minimum(randn(3, 4), randn(3, 4))
    """

    promote = staticmethod(of_tensors(meet, "minimum"))

    def forward(ctx, a: Any, b: Any) -> Any:
        if ctx.recording:
            ctx.sizes(a, b)
            ctx.a_loses, ctx.b_loses, ctx.tie = a > b, a < b, a == b
        y = np.minimum(a, b)
        return y if type(y) is np.ndarray else _of_arrays(y, a, b)


@op(method="remainder", operator="mod", inplace=True)
class remainder(Binary):
    """y = a - b floor(a / b), with the sign of b; a zero has that of a

    Why: floor(a / b) is constant between its jumps, so y is a line in a of slope 1 and in b of slope -floor(a / b).
    Try: remainder(randn(3, 4), rand(3, 4) + 0.5)
    """

    def forward(ctx, a: Any, b: Any) -> Any:
        _no_zero_division(a, b)
        ctx.sizes(a, b)
        y = np.remainder(a, b)
        if y.dtype.kind == "f":
            y = np.where(y == 0, np.copysign(y, a), y)
        if ctx.recording:
            ctx.quotient = np.floor_divide(a, b)
        return y

    def backward(ctx, dy: Any) -> Any:
        return ctx.wanted(lambda: unbroadcast(dy, ctx.a_shape), lambda: unbroadcast(-dy * ctx.quotient, ctx.b_shape))


@op(method="floor_divide", operator="floordiv", inplace=True)
class floor_divide(Binary):
    """y = floor(a / b); no gradient, as in torch: div(a, b, rounding_mode="floor") has 0

    Why: a rounded quotient is constant between its jumps: its slope is 0 wherever it has one.
    Try: floor_divide(randn(3, 4), rand(3, 4) + 0.5)
    """

    def forward(ctx, a: Any, b: Any) -> Any:
        _no_zero_division(a, b)
        return np.floor_divide(a, b)


def _kind(a: Any, b: Any) -> str:
    """The kind of an op's operands, which have met already unless one is a Python number. TypeError for two of them."""
    a_or_b = a if hasattr(a, "dtype") else b
    if not hasattr(a_or_b, "dtype"):
        raise TypeError(f"one of the arguments must be a Tensor, not {type(a).__name__} and {type(b).__name__}")
    return a_or_b.dtype.kind


def _of_arrays(y: Any, a: Any, b: Any) -> Any:
    """y, a single element; TypeError where it was made of two Python numbers."""
    _kind(a, b)
    return y


def _no_zero_division(a: Any, b: Any) -> None:
    _no_bool(a, b)
    if _kind(a, b) in "iu" and np.any(devices.as_array(b) == 0) and 0 not in (*shape_of(a), *shape_of(b)):
        raise RuntimeError("ZeroDivisionError: integer division or remainder by zero")


def _no_bool(a: Any, b: Any) -> None:
    if _kind(a, b) == "b":
        raise NotImplementedError("not defined for bools: convert to int or float first")


class _Compare(Binary):
    differentiable = False


def _comparison(name: str, operator: str, symbol: str, function: Any) -> Any:
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        y = function(a, b)
        return y if type(y) is np.ndarray else _of_arrays(y, a, b)

    doc = f"""y = (a {symbol} b), bool

    Why: the result is a truth value: it has no slope.
    Try: {name}(randn(3, 4), randn(3, 4))
    """
    page = OpType(name, (_Compare,), {"forward": forward, "__doc__": doc, "__module__": __name__})
    return op(method=name, operator=operator)(page)


eq = _comparison("eq", "eq", "==", np.equal)
ne = _comparison("ne", "ne", "!=", np.not_equal)
lt = _comparison("lt", "lt", "<", np.less)
le = _comparison("le", "le", "<=", np.less_equal)
gt = _comparison("gt", "gt", ">", np.greater)
ge = _comparison("ge", "ge", ">=", np.greater_equal)


def _bitwise(name: str, operator: str, symbol: str, function: Any) -> Any:
    def forward(ctx: Any, a: Any, b: Any) -> Any:
        if _kind(a, b) == "f":
            raise NotImplementedError(f"{name} is not defined for floating point numbers")
        return function(a, b)

    doc = f"""y = a {symbol} b, on bits

    Why: bits jump: they have no slope.
    Try: {name}(randint(0, 99, (3, 4)), randint(0, 99, (4,)))
    """
    page = OpType(name, (_Compare,), {"forward": forward, "__doc__": doc, "__module__": __name__})
    return op(method=name, operator=operator, inplace=True)(page)


bitwise_and = _bitwise("bitwise_and", "and", "&", np.bitwise_and)
bitwise_or = _bitwise("bitwise_or", "or", "|", np.bitwise_or)
bitwise_xor = _bitwise("bitwise_xor", "xor", "^", np.bitwise_xor)


@op(method="fmod", inplace=True)
class fmod(Binary):
    """y = a - b trunc(a / b), with the sign of a;    da = dy,  db = -dy trunc(a / b)

    Raises RuntimeError for an integer division by 0.

    Why: trunc(a / b) is constant between its jumps, so y is a line in a of slope 1 and in b of slope -trunc(a / b).
    Try: fmod(randn(3, 4), rand(3, 4) + 0.5)
    """

    def forward(ctx, a: Any, b: Any) -> Any:
        if not hasattr(a, "dtype"):
            raise TypeError(f"fmod(): the first argument must be a Tensor, not {type(a).__name__}")
        kind = a.dtype.kind
        if kind == "b":
            raise NotImplementedError("fmod is not defined for bools: convert to int or float first")
        _no_zero_division(a, b)
        ctx.sizes(a, b)
        if ctx.recording:
            ctx.quotient = np.trunc(np.true_divide(a, b))
        return np.fmod(a, b)

    def backward(ctx, dy: Any) -> Any:
        return ctx.wanted(lambda: unbroadcast(dy, ctx.a_shape), lambda: unbroadcast(-dy * ctx.quotient, ctx.b_shape))


def _invert(self: Tensor) -> Any:
    if self.array.dtype.kind == "f":
        raise TypeError("~ (operator.invert) is only implemented on integer and Boolean-type tensors")
    return bitwise_not(self)


@op(method="bitwise_not", inplace=True)
class bitwise_not(Elementwise):
    """y = ~x: every bit flipped; for bool, not x

    Why: bits and truth values jump: they have no slope.
    Try: bitwise_not(rand(3) > 0.5)
    """

    promote = None
    differentiable = False

    def forward(ctx, x: Any) -> Any:
        return np.invert(x)


attach("__invert__", _invert)
