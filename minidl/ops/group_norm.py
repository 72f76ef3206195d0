"""Normalisation within one example: over groups of channels (group_norm) or over each channel (instance_norm)."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.autograd import Op, op, require
from minidl.ops.common import compiled, prod
from minidl.ops.norm import batch_norm, standardize
from minidl.ops.shapes import reshape
from minidl.tensors import Tensor, wrap


def _per_channel(name: str, t: Any, channels: int, ndim: int) -> Any:
    """A vector with one entry for each channel, shaped to broadcast along dimension 1."""
    require(tuple(t.shape) == (channels,), "the {} must have shape ({},), got {}", name, channels, tuple(t.shape))
    return reshape(t, (1, channels) + (1,) * (ndim - 2))


def _scale_and_shift(y: Any, weight: Any, bias: Any) -> Any:
    channels, ndim = y.shape[1], len(y.shape)
    if weight is not None:
        y = y * _per_channel("weight", weight, channels, ndim)
    return y if bias is None else y + _per_channel("bias", bias, channels, ndim)


@op()
class group_standardize(Op):
    """group_norm in one pass: y = xhat w + b; w and b (C,) or None, x (N, C, ...)

    With g = dy w, h the mean over a group, r = 1 / sqrt(var + eps) and xhat = (x - mean) r:
    dx = r (g - h(g) - xhat h(g xhat)),   dw = sum dy xhat,   db = sum dy

    Why: as for any standardised set of numbers: from g its mean and its part along xhat are taken away, then divide by
         the deviation.
    Try: group_standardize(randn(2, 4, 5), None, None, 2, 1e-05)
    """

    def forward(ctx, x: Any, w: Any, b: Any, num_groups: int, eps: float) -> Any:
        y, *ctx.found = kernels.group_norm(x, num_groups, w, b, eps)
        ctx.how = (num_groups, eps)
        ctx.save(x, w)
        return y

    def backward(ctx, dy: Any) -> Any:
        x, w = ctx.saved
        num_groups, eps = ctx.how
        mean, var = ctx.found
        found = kernels.group_norm_backward(dy, x, num_groups, w, mean, var, eps)
        return tuple(d if need else None for d, need in zip(found, ctx.needs))

    def definition(x: Any, w: Any, b: Any, num_groups: int, eps: float) -> Any:  # type: ignore[override]
        groups = reshape(x, (x.shape[0], num_groups, -1))
        return _scale_and_shift(reshape(standardize(groups, None, None, (2,), eps), tuple(x.shape)), w, b)


@op(namespace="nn.functional")
def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalise each group of C / num_groups channels of (N, C, ...) over itself; Wu & He 2018 (arXiv:1803.08494).

    Raises RuntimeError when the groups do not divide the channels or weight and bias are not (C,).

    Try: group_norm(randn(2, 4, 3), 2)
    """
    shape = tuple(input.shape)
    require(len(shape) >= 2, "group_norm: at least (N, C) is expected, got {}", shape)
    require(num_groups > 0, "group_norm: num_groups must be positive, got {}", num_groups)
    n, c = shape[:2]
    require(c % num_groups == 0, "group_norm: {} channels are not divisible by num_groups={}", c, num_groups)
    if n * prod(shape[1:]) == num_groups:  # as torch counts them
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {shape}")
    parts = [a.array if isinstance(a, Tensor) else a for a in (input, weight, bias)]
    if compiled(*parts) and prod(shape[2:]) >= 4 and all(a is None or a.shape == (c,) for a in parts[1:]):
        return group_standardize(input, weight, bias, num_groups, eps)
    groups = reshape(input, (n, num_groups, prod(shape[1:]) // num_groups))
    return _scale_and_shift(reshape(standardize(groups, None, None, (2,), eps), shape), weight, bias)


@op(namespace="nn.functional")
def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """Normalise each channel of each example of (N, C, ...) over its own elements; Ulyanov et al. 2016
    (arXiv:1607.08022).

    Running statistics, where given, move towards the examples' averages by `momentum`; they are used instead without
    use_input_stats. Raises ValueError when a channel has a single element to be normalised.

    Try: instance_norm(randn(2, 3, 4))
    """
    shape = tuple(input.shape)
    require(len(shape) >= 2, "instance_norm: at least (N, C) is expected, got {}", shape)
    n, c, *size = shape
    if not use_input_stats:
        if running_mean is None or running_var is None:
            raise RuntimeError("Expected running_mean and running_var to be defined when use_input_stats=False")
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if prod(size) == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {shape}")
    each = [None if t is None else wrap(np.tile(t.array, n)) for t in (running_mean, running_var)]
    y = batch_norm(reshape(input, (1, n * c, *size)), each[0], each[1], None, None, True, momentum, eps)
    for running, found in zip((running_mean, running_var), each):
        if running is not None and found is not None:
            running.array[...] = found.array.reshape(n, c).mean(0)
            running.bump()
    return _scale_and_shift(reshape(y, shape), weight, bias)
