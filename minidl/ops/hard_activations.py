"""Activations of straight pieces: relu and its leaky, hard and shrinking relatives."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import dtypes
from minidl.autograd import op, require
from minidl.ops.activations import finish, floating
from minidl.ops.common import Elementwise, compiled, number_for
from minidl.ops.masks import cleared, where
from minidl.ops.shapes import reshape
from minidl.ops.signs import not_bool


@op(method="relu", inplace=True)
class relu(Elementwise):
    """y = max(x, 0);    dx = 0 where y = 0, else dy

    Why: a line of slope 1 on the right of 0, constant on its left; at 0 it bends, and 0 is taken.
    Try: relu(randn(3, 4))
    """

    promote = None

    def forward(ctx, x: Any) -> Any:
        not_bool(x)
        y = kernels.activation(x, "relu") if compiled(x, least=1 << 14) else np.maximum(x, 0)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        if compiled(dy, y, least=1 << 14):
            return kernels.activation_backward(dy, y, "relu")
        return cleared(dy, y <= 0)


@op(namespace="nn.functional")
class leaky_relu(Elementwise):
    """y = x where x > 0, else negative_slope x

    Why: two lines that meet at 0: slope 1 on the right, negative_slope on the left (taken at 0, too).
    Try: leaky_relu(randn(3, 4))
    """

    promote = None

    def forward(ctx, x: Any, negative_slope: float = 0.01) -> Any:
        ctx.slope = np.where(x > 0, 1, negative_slope).astype(x.dtype)
        return x * ctx.slope

    def backward(ctx, dy: Any) -> Any:
        return dy * ctx.slope


@op(method="prelu", namespace="nn.functional")
def prelu(input: Any, weight: Any) -> Any:
    """x where x > 0, else w x, with one learned w or one for each channel (dimension 1); He et al. 2015
    (arXiv:1502.01852).

    Raises ShapeError when the weight has another size, RuntimeError when its dtype is not the input's.

    Try: prelu(randn(3, 4), rand(4) + 0.5)
    """
    if dtypes.as_numpy(input.dtype) != dtypes.as_numpy(weight.dtype):
        raise RuntimeError(f"prelu: the input is {input.dtype} and the weight {weight.dtype}: they must be the same")
    require(len(weight.shape) <= 1, "prelu: the weight must be a scalar or a vector, got {}", tuple(weight.shape))
    n = weight.shape[0] if len(weight.shape) else 1
    channels = input.shape[1] if len(input.shape) > 1 else 1
    require(n in (1, channels), "prelu: {} weights for {} channels of an input {}", n, channels, tuple(input.shape))
    w = reshape(weight, (n,) + (1,) * (len(input.shape) - 2) if len(input.shape) > 1 else ())
    positive = input > 0
    return where(positive, input, w * where(positive, 0.0, input))


def relu_or_write(input: Any, inplace: bool = False) -> Any:
    """max(x, 0), written into x itself if wanted. See :class:`relu`."""
    return finish(input, relu(input), inplace)


def leaky_relu_or_write(input: Any, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    """x where x > 0, else negative_slope x, written into x itself if wanted."""
    return finish(input, leaky_relu(input, negative_slope), inplace)


@op()
class hard_range(Elementwise):
    """y = min(max(x, low), high);    dx = dy where low < x < high, else 0 (also at the corners, unlike clamp)

    Why: a line between two constants; at the corners it bends, and 0 is taken.
    Try: hard_range(randn(3, 4), -1, 2.5)
    """

    promote = None

    def shape(x: Any, *_: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, low: float, high: float) -> Any:
        ctx.kernel = low == 0 and high == 6 and compiled(x)
        if ctx.kernel:
            y = kernels.activation(x, "relu6")
            ctx.save(y)
            return y
        ctx.outside = (x <= low) | (x >= high)
        return np.clip(x, x.dtype.type(low), x.dtype.type(high))

    def backward(ctx, dy: Any) -> Any:
        if ctx.kernel:
            (y,) = ctx.saved
            if compiled(dy, y):
                return kernels.activation_backward(dy, y, "relu6")
            return cleared(dy, (y <= 0) | (y >= 6))
        return where(ctx.outside, 0.0, dy)


@op(namespace="nn.functional")
def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    """x, no less than min_val and no more than max_val; the gradient is 0 at both. Raises ValueError if they cross.

    Try: hardtanh(randn(3, 4))
    """
    if min_val > max_val:
        raise ValueError(f"min_val cannot be greater than max_val: {min_val} > {max_val}")
    if dtypes.as_numpy(input.dtype).kind == "b":
        raise NotImplementedError("hardtanh is not defined for bools: convert to int or float first")
    return finish(input, hard_range(input, min_val, max_val), inplace)


@op(namespace="nn.functional")
def relu6(input: Any, inplace: bool = False) -> Any:
    """min(max(x, 0), 6), which fits fixed point numbers; Howard et al. 2017 (arXiv:1704.04861).

    Try: relu6(randn(3, 4))
    """
    return hardtanh(input, 0.0, 6.0, inplace)


@op(namespace="nn.functional")
def hardsigmoid(input: Any, inplace: bool = False) -> Any:
    """x / 6 + 1/2, from 0 at -3 to 1 at 3; Howard et al. 2019 (arXiv:1905.02244).

    Try: hardsigmoid(randn(3, 4))
    """
    floating("hardsigmoid", input)
    return finish(input, hard_range(input, -3.0, 3.0) / 6 + 0.5, inplace)


@op(namespace="nn.functional")
def hardswish(input: Any, inplace: bool = False) -> Any:
    """x hardsigmoid(x); Howard et al. 2019 (arXiv:1905.02244).

    Try: hardswish(randn(3, 4))
    """
    floating("hardswish", input)
    return finish(input, input * hardsigmoid(input), inplace)


@op(namespace="nn.functional")
def threshold(input: Any, threshold: float, value: float, inplace: bool = False) -> Any:
    """x where x > threshold, else `value`.

    Try: threshold(randn(3, 4), 0.5, 7.0)
    """
    return finish(input, where(input <= threshold, number_for(value, dtypes.as_numpy(input.dtype)), input), inplace)


@op(namespace="nn.functional")
def hardshrink(input: Any, lambd: float = 0.5) -> Any:
    """x where |x| > lambd, else 0.

    Try: hardshrink(randn(3, 4))
    """
    floating("hardshrink", input)
    return where((input >= -lambd) & (input <= lambd), 0.0, input)


@op(namespace="nn.functional")
def softshrink(input: Any, lambd: float = 0.5) -> Any:
    """x moved towards 0 by lambd, and 0 where |x| <= lambd. Raises RuntimeError for a negative lambd.

    Try: softshrink(randn(3, 4))
    """
    floating("softshrink", input)
    if lambd < 0:
        raise RuntimeError(f"lambda must be greater or equal to 0, but found to be {lambd}")
    inside = (input >= -lambd) & (input <= lambd)
    return where(inside, input * 0, where(input > lambd, input - lambd, input + lambd))
