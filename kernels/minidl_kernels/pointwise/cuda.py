"""Activations on a GPU: pointwise.cu, a thread for every few elements."""

from __future__ import annotations

from typing import Any

from ..checks import ACTIVATIONS as _KINDS  # as the .cu file counts them
from ..cuda.launch import contiguous, cupy, kernel, spread


def activation(x: Any, name: str) -> Any:
    (x,) = contiguous(x)
    y = cupy().empty_like(x)
    kernel("pointwise/pointwise.cu", "activation", x.dtype)(spread(x.size), 256, x, y, x.size, _KINDS.index(name))
    return y


def activation_backward(dy: Any, saved: Any, name: str) -> Any:
    dy, saved = contiguous(dy, saved)
    dx = cupy().empty_like(dy)
    run = kernel("pointwise/pointwise.cu", "activation_backward", dy.dtype)
    run(spread(dy.size), 256, dy, saved, dx, dy.size, _KINDS.index(name))
    return dx
