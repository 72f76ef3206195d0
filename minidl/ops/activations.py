"""Smooth activations: gelu, silu, softplus, the exponential units, gates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import dtypes
from minidl.autograd import op, require
from minidl.inplace import write
from minidl.ops.common import Elementwise, compiled, one_dim
from minidl.ops.copies import cast, clone
from minidl.ops.error_function import erf, erf_array
from minidl.ops.exponentials import exp, sigmoid, stable_sigmoid
from minidl.ops.masks import where
from minidl.ops.signs import abs
from minidl.ops.softmax import softmax
from minidl.ops.trigonometry import tanh


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

    Why: a line of slope `scale` on the right; on the left scale alpha slope e^(slope x), by the chain rule.
    Try: exponential_unit(randn(3, 4))
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
    """x where x > 0, else alpha (e^x - 1); Clevert, Unterthiner & Hochreiter 2016 (arXiv:1511.07289).

    Try: elu(randn(3, 4))
    """
    floating("elu", input)
    return finish(input, exponential_unit(input, alpha), inplace)


@op(namespace="nn.functional")
def celu(input: Any, alpha: float = 1.0, inplace: bool = False) -> Any:
    """x where x > 0, else alpha (e^(x / alpha) - 1), smooth for any alpha; Barron 2017 (arXiv:1704.07483).

    Raises RuntimeError for alpha = 0.

    Try: celu(randn(3, 4))
    """
    floating("celu", input)
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return finish(input, exponential_unit(input, alpha, 1.0, 1.0 / alpha), inplace)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946


@op(namespace="nn.functional")
def selu(input: Any, inplace: bool = False) -> Any:
    """scale elu(x, alpha), which keeps mean 0 and variance 1; Klambauer et al. 2017 (arXiv:1706.02515).

    Try: selu(randn(3, 4))
    """
    floating("selu", input)
    return finish(input, exponential_unit(input, _SELU_ALPHA, _SELU_SCALE), inplace)


@op(namespace="nn.functional")
class logsigmoid(Elementwise):
    """y = ln sigmoid(x) = min(x, 0) - ln(1 + e^-|x|);    dx = dy sigmoid(-x)

    Why: ln u has the slope 1 / u, and u = s has s (1 - s): together 1 - s = sigmoid(-x).
    Try: logsigmoid(randn(3, 4))
    """

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
    """x tanh(ln(1 + e^x)); Misra 2019 (arXiv:1908.08681).

    Try: mish(randn(3, 4))
    """
    floating("mish", input)
    x = clone(input) if inplace else input
    return finish(input, x * tanh(softplus(x)), inplace)


@op(namespace="nn.functional")
class gelu(Elementwise):
    """y = x Phi(x), Phi the normal distribution function; ``approximate="tanh"`` as in GPT-2 (Hendrycks & Gimpel 2016)

    dx = dy (Phi(x) + x phi(x))

    Why: the product rule: Phi(x) + x phi(x), phi = Phi' the normal density; by tanh the same with its approximation.
    Try: gelu(randn(3, 4))
    """

    def forward(ctx, x: Any, approximate: str = "none") -> Any:
        if approximate not in ("none", "tanh"):
            raise RuntimeError(f"approximate argument must be either none or tanh, not {approximate!r}")
        ctx.save(x)
        ctx.approximate = approximate
        if compiled(x, least=1 << 11):  # NumPy has no error function: many passes
            return kernels.activation(x, _GELU[approximate])
        if approximate == "tanh":
            return 0.5 * x * (1 + np.tanh(_GELU_C * (x + 0.044715 * x * x * x)))
        return x * (0.5 * (1 + erf_array(x * _SQRT_HALF)))

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        if compiled(dy, x, least=1 << 11):
            return kernels.activation_backward(dy, x, _GELU[ctx.approximate])
        if ctx.approximate == "tanh":
            t = tanh(_GELU_C * (x + 0.044715 * x * x * x))
            return dy * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (_GELU_C * (1 + 0.134145 * x * x)))
        return dy * (0.5 * (1 + erf(x * _SQRT_HALF)) + x * exp(-0.5 * x * x) * (1 / math.sqrt(2 * math.pi)))


_GELU_C = math.sqrt(2 / math.pi)
_GELU = {"none": "gelu", "tanh": "gelu_tanh"}  # the kernels' names


@op(namespace="nn.functional")
class silu(Elementwise):
    """y = x sigmoid(x);    dx = dy s (1 + x (1 - s)),  s = sigmoid(x)

    Why: the product rule on x s, with s' = s (1 - s): s + x s (1 - s) = s (1 + x (1 - s)).
    Try: silu(randn(3, 4))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        return kernels.activation(x, "silu") if compiled(x) else x * stable_sigmoid(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        if compiled(dy, x):
            return kernels.activation_backward(dy, x, "silu")
        s = sigmoid(x)
        return dy * (s * (1 + x * (1 - s)))


def silu_or_write(input: Any, inplace: bool = False) -> Any:
    """x sigmoid(x), written into x itself if wanted. See :class:`silu`."""
    return finish(input, silu(clone(input) if inplace else input), inplace)


@op(namespace="nn.functional")
class softplus(Elementwise):
    """y = ln(1 + e^(beta x)) / beta, and x itself where beta x > threshold;    dx = dy sigmoid(beta x)

    Why: e^(bx) b / ((1 + e^(bx)) b) = sigmoid(b x), and 1 where y = x.
    Try: softplus(randn(3, 4))
    """

    def forward(ctx, x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
        ctx.save(x)
        ctx.beta, ctx.threshold = beta, threshold
        z = beta * x
        return np.where(z > threshold, x, np.logaddexp(0, z) / beta).astype(x.dtype)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        z = ctx.beta * x
        return where(z > ctx.threshold, dy, dy * sigmoid(z))


_SQRT_HALF = math.sqrt(0.5)


# -- gates and shrinkage ----------------------------------------------------------------------------------------------


@op(namespace="nn.functional")
def glu(input: Any, dim: int = -1) -> Any:
    """a sigmoid(b), a and b the two halves of x along `dim`; Dauphin et al. 2017 (arXiv:1612.08083).

    Raises RuntimeError for a 0-d input, ShapeError for an odd size.

    Try: glu(randn(2, 4))
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
    """softmax(-x) along `dim`: the least element gets the greatest weight.

    Try: softmin(randn(3, 4), 1)
    """
    if dim is None:
        raise ValueError("softmin: which dimension is to sum to 1? pass dim=...")
    return softmax(-input if dtype is None else cast(-input, dtypes.as_numpy(dtype)), dim)


@op(namespace="nn.functional")
def softsign(input: Any) -> Any:
    """x / (1 + |x|).

    Try: softsign(randn(3, 4))
    """
    return input / (abs(input) + 1)


@op(namespace="nn.functional")
def tanhshrink(input: Any) -> Any:
    """x - tanh x.

    Try: tanhshrink(randn(3, 4))
    """
    return input - tanh(input)
