"""Sums of products in one op: addcmul, addcdiv, lerp; and the operand order turned round: rsub, __rdiv__."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import Op, attach, op
from minidl.ops.arithmetic import sub, true_divide
from minidl.ops.common import broadcast, shape_of, unbroadcast
from minidl.tensors import Tensor


class _Three(Op):
    """Three tensors, element by element; shapes broadcast, dtypes meet."""

    def promote(arrays: Any) -> Any:  # type: ignore[override]
        dtype = dtypes.result_type(*arrays[:3])
        return None if all(getattr(a, "dtype", None) == dtype for a in arrays[:3]) else dtype

    def shape(x: Any, a: Any, b: Any, **_: Any) -> Any:  # type: ignore[override]
        return broadcast(x, a, b)

    def begin(ctx, x: Any, a: Any, b: Any, value: Any) -> None:
        """Remember what backward needs. Raises NotImplementedError for bools."""
        if x.dtype == bool:
            raise NotImplementedError("not defined for bools: convert to int or float first")
        ctx.shapes, ctx.value = (shape_of(x), shape_of(a), shape_of(b)), value
        ctx.save(a, b)


@op(method="addcmul", inplace=True)
class addcmul(_Three):
    """y = x + value a b;    dx = dy,  da = value dy b,  db = value dy a

    Why: a sum of x and a product: 1 for x, value b for a, value a for b.
    Try: addcmul(randn(2, 3), randn(2, 3), randn(2, 3))
    """

    def forward(ctx, x: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
        ctx.begin(x, tensor1, tensor2, value)
        return x + (tensor1 if value == 1 else x.dtype.type(value) * tensor1) * tensor2

    def backward(ctx, dy: Any) -> Any:
        a, b = ctx.saved
        return ctx.wanted(
            lambda: unbroadcast(dy, ctx.shapes[0]),
            lambda: unbroadcast(dy * (b * ctx.value), ctx.shapes[1]),
            lambda: unbroadcast(dy * (a * ctx.value), ctx.shapes[2]),
        )


@op(method="addcdiv", inplace=True)
class addcdiv(_Three):
    """y = x + value a / b;    dx = dy,  da = value dy / b,  db = -value dy a / b^2

    Raises RuntimeError when a and b are both integers.

    Why: a sum of x and a quotient: 1 for x, value / b for a, -value a / b^2 for b.
    Try: addcdiv(randn(2, 3), randn(2, 3), rand(2, 3) + 0.5)
    """

    def promote(arrays: Any) -> Any:  # type: ignore[override]
        if all(getattr(a, "dtype", None) is not None and a.dtype.kind != "f" for a in arrays[1:3]):
            raise RuntimeError("Integer division with addcdiv is not supported: convert tensor1 or tensor2 to floats")
        return _Three.promote(arrays)

    def forward(ctx, x: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
        ctx.begin(x, tensor1, tensor2, value)
        return x + (tensor1 if value == 1 else x.dtype.type(value) * tensor1) / tensor2

    def backward(ctx, dy: Any) -> Any:
        a, b = ctx.saved
        return ctx.wanted(
            lambda: unbroadcast(dy, ctx.shapes[0]),
            lambda: unbroadcast(dy * (ctx.value / b), ctx.shapes[1]),
            lambda: unbroadcast(-dy * (a * ctx.value / (b * b)), ctx.shapes[2]),
        )


@op(method="lerp", inplace=True)
class lerp(Op):
    """y = a + w (b - a), a at w = 0 and b at w = 1;    da = (1 - w) dy,  db = w dy,  dw = dy (b - a)

    Raises RuntimeError when the dtypes differ, NotImplementedError for integers.

    Why: y is a weighted sum with weights 1 - w and w; a step of w moves it by b - a.
    Try: lerp(randn(2, 3), randn(2, 3), rand(2, 3))
    """

    def shape(a: Any, end: Any, weight: Any) -> Any:  # type: ignore[override]
        return broadcast(a, end, *([weight] if isinstance(weight, tuple) else []))

    def forward(ctx, a: Any, end: Any, weight: Any) -> Any:
        if a.dtype.kind != "f":
            raise NotImplementedError(f"lerp needs floating point numbers, got {a.dtype}; convert with .float()")
        for name, t in (("end", end), ("weight", weight)):
            if hasattr(t, "dtype") and t.dtype != a.dtype:
                raise RuntimeError(f"expected dtype {a.dtype} for `{name}` but got dtype {t.dtype}")
        ctx.shapes = (shape_of(a), shape_of(end), shape_of(weight))
        ctx.save(a, end, weight if hasattr(weight, "dtype") else None)
        ctx.number = None if hasattr(weight, "dtype") else weight
        near = np.abs(weight) < 0.5  # from the nearer end, so that both ends are met exactly
        return np.where(near, a + weight * (end - a), end - (end - a) * (1 - weight)).astype(a.dtype, copy=False)

    def backward(ctx, dy: Any) -> Any:
        a, end, weight = ctx.saved
        w: Any = ctx.number if weight is None else weight
        return ctx.wanted(
            lambda: unbroadcast(dy * (1 - w), ctx.shapes[0]),
            lambda: unbroadcast(dy * w, ctx.shapes[1]),
            lambda: unbroadcast(dy * (end - a), ctx.shapes[2]),
        )


@op()
def rsub(input: Any, other: Any, *, alpha: Any = 1) -> Any:
    """other - alpha input.

    Try: rsub(randn(3, 4), randn(3, 4))
    """
    if not hasattr(input, "shape"):
        raise TypeError(f"rsub(): the first argument must be a Tensor, not {type(input).__name__}")
    return sub(other, input, alpha=alpha)


def _rdiv(self: Tensor, other: Any) -> Any:
    return true_divide(other, self)


attach("__rdiv__", _rdiv)
