"""Activations in vectors: every array is read once and written once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numpy.typing import NDArray

from ..cpu.gather import name as dtype_of
from ..cpu.mathfn import choose, const, exp, normal, sigmoid, tanh
from ..cpu.product import address
from ..cpu.simd import Vectors
from ..cpu.sweep import Values, elementwise

Array = NDArray[Any]

_C = math.sqrt(2 / math.pi)


def _argument(v: Vectors, x: ir.Value) -> tuple[ir.Value, ir.Value]:
    """2 u and 2 u' of gelu_tanh."""
    b = v.builder
    square = b.fmul(x, x)
    cubic = v.multiply_add(square, const(v, 2 * _C * 0.044715), const(v, 2 * _C))
    slope = v.multiply_add(square, const(v, 6 * _C * 0.044715), const(v, 2 * _C))
    return b.fmul(x, cubic), slope


def _relu(v: Vectors, xs: Values, _: Values) -> Values:
    return [choose(v, xs[0], "<", v.zero(), v.zero(), xs[0])]


def _exp(v: Vectors, xs: Values, _: Values) -> Values:
    return [exp(v, xs[0])]


def _tanh(v: Vectors, xs: Values, _: Values) -> Values:
    return [tanh(v, xs[0])]


def _sigmoid(v: Vectors, xs: Values, _: Values) -> Values:
    return [sigmoid(v, xs[0])]


def _silu(v: Vectors, xs: Values, _: Values) -> Values:
    return [v.builder.fmul(xs[0], sigmoid(v, xs[0]))]


def _gelu(v: Vectors, xs: Values, _: Values) -> Values:
    return [v.builder.fmul(xs[0], normal(v, xs[0])[0])]


def _gelu_tanh(v: Vectors, xs: Values, _: Values) -> Values:
    return [v.builder.fmul(xs[0], sigmoid(v, _argument(v, xs[0])[0]))]


def _relu6(v: Vectors, xs: Values, _: Values) -> Values:
    x = choose(v, xs[0], "<", v.zero(), v.zero(), xs[0])
    return [choose(v, x, ">", const(v, 6.0), const(v, 6.0), x)]


def _d_relu(v: Vectors, xs: Values, _: Values) -> Values:
    dy, y = xs
    return [choose(v, y, "<=", v.zero(), v.zero(), dy)]


def _d_exp(v: Vectors, xs: Values, _: Values) -> Values:
    return [v.builder.fmul(*xs)]


def _d_tanh(v: Vectors, xs: Values, _: Values) -> Values:
    dy, y = xs
    return [v.builder.fmul(dy, v.multiply_add(v.builder.fneg(y), y, const(v, 1.0)))]


def _d_sigmoid(v: Vectors, xs: Values, _: Values) -> Values:
    b, (dy, y) = v.builder, xs
    return [b.fmul(dy, b.fmul(y, b.fsub(const(v, 1.0), y)))]


def _d_silu(v: Vectors, xs: Values, _: Values) -> Values:
    b, (dy, x) = v.builder, xs
    s = sigmoid(v, x)
    return [b.fmul(dy, b.fmul(s, v.multiply_add(x, b.fsub(const(v, 1.0), s), const(v, 1.0))))]


def _d_gelu(v: Vectors, xs: Values, _: Values) -> Values:
    b, (dy, x) = v.builder, xs
    cumulative, bell = normal(v, x)
    return [b.fmul(dy, v.multiply_add(b.fmul(x, const(v, 1 / math.sqrt(2 * math.pi))), bell, cumulative))]


def _d_gelu_tanh(v: Vectors, xs: Values, _: Values) -> Values:
    b, (dy, x) = v.builder, xs
    u, slope = _argument(v, x)
    s = sigmoid(v, u)
    inner = b.fmul(b.fmul(x, b.fmul(s, b.fsub(const(v, 1.0), s))), slope)
    return [b.fmul(dy, b.fadd(s, inner))]


def _d_relu6(v: Vectors, xs: Values, _: Values) -> Values:
    dy, y = xs
    return [choose(v, y, "<=", v.zero(), v.zero(), choose(v, y, ">=", const(v, 6.0), v.zero(), dy))]


FORWARD = {
    "relu": _relu, "exp": _exp, "tanh": _tanh, "sigmoid": _sigmoid, "silu": _silu, "gelu": _gelu,
    "gelu_tanh": _gelu_tanh, "relu6": _relu6,
}  # fmt: skip
BACKWARD = {
    "relu": _d_relu, "exp": _d_exp, "tanh": _d_tanh, "sigmoid": _d_sigmoid, "silu": _d_silu, "gelu": _d_gelu,
    "gelu_tanh": _d_gelu_tanh, "relu6": _d_relu6,
}  # fmt: skip


def activation(x: Array, name: str) -> Array:
    """f(x), one pass."""
    y = np.empty(x.shape, x.dtype)
    if y.size:
        x = np.ascontiguousarray(x)
        elementwise(name, FORWARD[name], dtype_of(y), y.size, (address(x),), (address(y),))
    return y


def activation_backward(dy: Array, saved: Array, name: str) -> Array:
    """dy f'(x), one pass over dy and what was saved."""
    dx = np.empty(saved.shape, saved.dtype)
    if dx.size:
        dy, saved = np.ascontiguousarray(dy), np.ascontiguousarray(saved)
        kernel = BACKWARD[name]
        elementwise(f"d {name}", kernel, dtype_of(dx), dx.size, (address(dy), address(saved)), (address(dx),))
    return dx
