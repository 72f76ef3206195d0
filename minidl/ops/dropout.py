"""Dropout: zero each element with probability p, scale the rest by 1 / (1 - p)."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import devices, random
from minidl.autograd import Op, op, state
from minidl.autograd.anomaly import check_training
from minidl.inplace import write
from minidl.ops.common import compiled
from minidl.tensors import Tensor


@op()
class mask_scale(Op):
    """y = x mask scale;    dx = dy mask scale

    Why: each x is multiplied by a constant, 0 or scale, and so is its gradient.
    Try: mask_scale(randn(3, 4), (rand(3, 4) > 0.5).array, 1.25)
    """

    def forward(ctx, x: Any, mask: Any, scale: float) -> Any:
        ctx.mask, ctx.scale = mask, scale
        if mask.shape == x.shape and compiled(x):
            return kernels.mask_scale(x, mask, scale)
        return np.where(mask, x * x.dtype.type(scale), x.dtype.type(0))

    def backward(ctx, dy: Any) -> Any:
        return mask_scale(dy, ctx.mask, ctx.scale)


class draw_and_scale(Op):
    """mask_scale with a mask drawn on the way: True where a uniform number of `generator` is at least p

    Why: each x is multiplied by a constant that was drawn, 0 or scale, and so is its gradient.
    """

    def forward(ctx, x: Any, p: float, generator: random.Generator) -> Any:
        ctx.scale = 1 / (1 - p)
        y, ctx.mask = kernels.dropout(x, *generator.take(-(-x.size // 4)), p)
        return y

    def again(ctx, x: Any, p: float, generator: random.Generator) -> Any:
        return mask_scale(x, ctx.mask, ctx.scale)

    def backward(ctx, dy: Any) -> Any:
        return mask_scale(dy, ctx.mask, ctx.scale)


def finish(x: Any, y: Any, inplace: bool) -> Any:
    """y, written into x if wanted."""
    return write(x, y) if inplace and y is not x else y


def _drop(x: Any, p: float, training: bool, shape: tuple[int, ...]) -> Any:
    if not 0.0 <= p <= 1.0:
        hint = f"; {p / 100:g} drops {p:g} %" if 1.0 < p <= 100.0 else ""
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}{hint}")
    if not training or p == 0.0:
        return x
    if state.anomaly:
        check_training("dropout")
    if p < 1.0 and shape == tuple(x.shape) and compiled(x.array if isinstance(x, Tensor) else x):
        return draw_and_scale(x, p, random.default_generator)
    keep = random.default_generator.uniform(shape) >= p if p < 1.0 else np.zeros(shape, bool)
    array = x.array if isinstance(x, Tensor) else x
    return mask_scale(x, devices.move(keep, devices.device_of(array)), 1 / (1 - p) if p < 1.0 else 0.0)


@op(namespace="nn.functional")
def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Srivastava et al. 2014; x itself unless training. Raises ValueError for a p outside [0, 1].

    Try: dropout(randn(3, 4), 0.4)
    """
    return finish(input, _drop(input, p, training, tuple(input.shape)), inplace)


@op(namespace="nn.functional")
def dropout2d(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Dropout of whole channels of (N, C, ...); Tompson et al. 2015.

    Try: dropout2d(randn(2, 3, 2, 2), 0.4)
    """
    return finish(input, _drop(input, p, training, (*input.shape[:2], *(1,) * (input.ndim - 2))), inplace)
