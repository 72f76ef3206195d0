"""Activations by definition, in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_C = math.sqrt(2 / math.pi)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _normal(x: Array) -> tuple[Array, Array]:
    """Phi(x) and phi(x). NumPy has no error function; Python's takes one number at a time."""
    wide = x.astype(np.float64)
    phi = np.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    cumulative = np.array([0.5 * math.erfc(-v * math.sqrt(0.5)) for v in wide.ravel().tolist()])
    return cumulative.reshape(x.shape).astype(x.dtype), phi.astype(x.dtype)


def _slope(x: Array) -> tuple[Array, Array]:
    """s(2 u) and 2 u' of gelu_tanh."""
    return _sigmoid(2 * _C * (x + 0.044715 * x * x * x)), 2 * _C * (1 + 3 * 0.044715 * x * x)


def activation(x: Array, name: str) -> Array:
    with np.errstate(all="ignore"):
        if name == "relu":
            y = np.maximum(x, 0)
        elif name == "exp":
            y = np.exp(x)
        elif name == "tanh":
            y = np.tanh(x)
        elif name == "sigmoid":
            y = _sigmoid(x)
        elif name == "silu":
            y = x * _sigmoid(x)
        elif name == "gelu":
            y = x * _normal(x)[0]
        elif name == "relu6":
            y = np.clip(x, 0, 6)
        else:
            y = x * _slope(x)[0]
    return np.ascontiguousarray(y).reshape(x.shape)


def activation_backward(dy: Array, saved: Array, name: str) -> Array:
    with np.errstate(all="ignore"):
        if name == "relu":
            dx = np.where(saved <= 0, dy.dtype.type(0), dy)
        elif name == "exp":
            dx = dy * saved
        elif name == "tanh":
            dx = dy * (1 - saved * saved)
        elif name == "sigmoid":
            dx = dy * (saved * (1 - saved))
        elif name == "silu":
            s = _sigmoid(saved)
            dx = dy * (s * (1 + saved * (1 - s)))
        elif name == "gelu":
            cumulative, density = _normal(saved)
            dx = dy * (cumulative + saved * density)
        elif name == "relu6":
            dx = np.where((saved <= 0) | (saved >= 6), dy.dtype.type(0), dy)
        else:
            s, slope = _slope(saved)
            dx = dy * (s + saved * (s * (1 - s)) * slope)
    return np.ascontiguousarray(dx).reshape(saved.shape)
