"""Activations beyond relu, gelu and silu: exponential, hard (piecewise linear), gated and shrinking ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import op, require
from minidl.inplace import write
from minidl.ops.common import Elementwise, one_dim
from minidl.ops.indexing import where
from minidl.ops.movement import cast, clone, reshape
from minidl.ops.pointwise import abs, exp, sigmoid, softplus, tanh
from minidl.ops.softmax import softmax


def floating(name: str, x: Any) -> None:
    """Raise NotImplementedError unless x holds floating point numbers."""
    dtype = dtypes.as_numpy(x.dtype)
    if dtype.kind != "f":
        raise NotImplementedError(f"{name} needs floating point numbers, got {dtype}; convert with .float()")


def finish(x: Any, y: Any, inplace: bool) -> Any:
    """y, written into x if wanted."""
    return write(x, y) if inplace else y


# -- exponential below 0 ----------------------------------------------------------------------------------------------


@op()
class exponential_unit(Elementwise):
    """y = scale x where x > 0, else scale alpha (e^(slope x) - 1)

    dx = scale dy where x > 0, else scale alpha slope e^(slope x) dy
    """

    promote = None

    def shape(x: Any, *_: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, alpha: float = 1.0, scale: float = 1.0, slope: float = 1.0) -> Any:
        ctx.save(x)
        ctx.how = (alpha, scale, slope)
        below = np.expm1(np.minimum(x, 0) * slope) * (scale * alpha)
        return np.where(x > 0, x * scale, below).astype(x.dtype, copy=False)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        alpha, scale, slope = ctx.how
        below = x <= 0
        return dy * where(below, exp(where(below, x, 0.0) * slope) * (scale * alpha * slope), scale)


@op(namespace="nn.functional")
def elu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """x where x > 0, else alpha (e^x - 1); Clevert, Unterthiner & Hochreiter 2016 (arXiv:1511.07289)."""
    floating("elu", input)
    return finish(input, exponential_unit(input, alpha), inplace)


@op(namespace="nn.functional")
def celu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """x where x > 0, else alpha (e^(x / alpha) - 1), smooth for any alpha; Barron 2017 (arXiv:1704.07483).

    Raises RuntimeError for alpha = 0.
    """
    floating("celu", input)
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return finish(input, exponential_unit(input, alpha, 1.0, 1.0 / alpha), inplace)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@op(namespace="nn.functional")
def selu(input: Any, inplace: bool = False) -> Any:
    """scale elu(x, alpha), which keeps mean 0 and variance 1; Klambauer et al. 2017 (arXiv:1706.02515)."""
    floating("selu", input)
    return finish(input, exponential_unit(input, _SELU_ALPHA, _SELU_SCALE), inplace)


@op(namespace="nn.functional")
class logsigmoid(Elementwise):
    """y = ln sigmoid(x) = min(x, 0) - ln(1 + e^-|x|);    dx = dy sigmoid(-x)"""

    promote = None

    def forward(ctx, x: Any) -> Any:
        floating("logsigmoid", x)
        ctx.save(x)
        return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x)))

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        return dy * sigmoid(-x)


@op(namespace="nn.functional")
def mish(input: Any, inplace: bool = False) -> Any:
    """x tanh(ln(1 + e^x)); Misra 2019 (arXiv:1908.08681)."""
    floating("mish", input)
    x = clone(input) if inplace else input
    return finish(input, x * tanh(softplus(x)), inplace)


# -- piecewise linear -------------------------------------------------------------------------------------------------


@op()
class hard_range(Elementwise):
    """y = min(max(x, low), high);    dx = dy where low < x < high, else 0 (also at the corners, unlike clamp)"""

    promote = None

    def shape(x: Any, *_: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, low: float, high: float) -> Any:
        ctx.outside = (x <= low) | (x >= high)
        return np.clip(x, x.dtype.type(low), x.dtype.type(high))

    def backward(ctx, dy: Any) -> Any:
        return where(ctx.outside, 0.0, dy)


@op(namespace="nn.functional")
def hardtanh(input: Any, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Any:
    """x, no less than min_val and no more than max_val; the gradient is 0 at both. Raises ValueError if they cross."""
    if min_val > max_val:
        raise ValueError(f"min_val cannot be greater than max_val: {min_val} > {max_val}")
    if dtypes.as_numpy(input.dtype).kind == "b":
        raise NotImplementedError("hardtanh is not defined for bools: convert to int or float first")
    return finish(input, hard_range(input, min_val, max_val), inplace)


@op(namespace="nn.functional")
def relu6(input: Any, inplace: bool = False) -> Any:
    """min(max(x, 0), 6), which fits fixed point numbers; Howard et al. 2017 (arXiv:1704.04861)."""
    return hardtanh(input, 0.0, 6.0, inplace)


@op(namespace="nn.functional")
def hardsigmoid(input: Any, inplace: bool = False) -> Any:
    """x / 6 + 1/2, from 0 at -3 to 1 at 3; Howard et al. 2019 (arXiv:1905.02244)."""
    floating("hardsigmoid", input)
    return finish(input, hard_range(input, -3.0, 3.0) / 6 + 0.5, inplace)


@op(namespace="nn.functional")
def hardswish(input: Any, inplace: bool = False) -> Any:
    """x hardsigmoid(x); Howard et al. 2019 (arXiv:1905.02244)."""
    floating("hardswish", input)
    return finish(input, input * hardsigmoid(input), inplace)


@op(method="prelu", namespace="nn.functional")
def prelu(input: Any, weight: Any) -> Any:
    """x where x > 0, else w x, with one learned w or one for each channel (dimension 1); He et al. 2015
    (arXiv:1502.01852).

    Raises ShapeError when the weight has another size, RuntimeError when its dtype is not the input's.
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


@op(namespace="nn.functional")
def threshold(input: Any, threshold: float, value: float, inplace: bool = False) -> Any:
    """x where x > threshold, else `value`."""
    return finish(input, where(input <= threshold, value, input), inplace)


# -- gates and shrinkage ----------------------------------------------------------------------------------------------


@op(namespace="nn.functional")
def glu(input: Any, dim: int = -1) -> Any:
    """a sigmoid(b), a and b the two halves of x along `dim`; Dauphin et al. 2017 (arXiv:1612.08083).

    Raises RuntimeError for a 0-d input, ShapeError for an odd size.
    """
    floating("glu", input)
    if not len(input.shape):
        raise RuntimeError("glu does not support 0-dimensional tensors")
    d = one_dim(dim, len(input.shape))
    n = input.shape[d]
    require(n % 2 == 0, "glu: halving dimension {} of {} needs an even size, it is {}", d, tuple(input.shape), n)
    before = (slice(None),) * d
    return input[(*before, slice(0, n // 2))] * sigmoid(input[(*before, slice(n // 2, n))])


@op(namespace="nn.functional")
def softmin(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """softmax(-x) along `dim`: the least element gets the greatest weight."""
    if dim is None:
        raise ValueError("softmin: which dimension is to sum to 1? pass dim=...")
    return softmax(-input if dtype is None else cast(-input, dtypes.as_numpy(dtype)), dim)


@op(namespace="nn.functional")
def softsign(input: Any) -> Any:
    """x / (1 + |x|)."""
    return input / (abs(input) + 1)


@op(namespace="nn.functional")
def tanhshrink(input: Any) -> Any:
    """x - tanh x."""
    return input - tanh(input)


@op(namespace="nn.functional")
def hardshrink(input: Any, lambd: float = 0.5) -> Any:
    """x where |x| > lambd, else 0."""
    floating("hardshrink", input)
    return where((input >= -lambd) & (input <= lambd), 0.0, input)


@op(namespace="nn.functional")
def softshrink(input: Any, lambd: float = 0.5) -> Any:
    """x moved towards 0 by lambd, and 0 where |x| <= lambd. Raises RuntimeError for a negative lambd."""
    floating("softshrink", input)
    if lambd < 0:
        raise RuntimeError(f"lambda must be greater or equal to 0, but found to be {lambd}")
    inside = (input >= -lambd) & (input <= lambd)
    return where(inside, input * 0, where(input > lambd, input - lambd, input + lambd))
