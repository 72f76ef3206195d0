"""Normalisation within one example: over groups of channels (group_norm) or over each channel (instance_norm)."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import op, require
from minidl.ops.common import prod
from minidl.ops.norm import batch_norm, standardize
from minidl.ops.shapes import reshape
from minidl.tensors import wrap


def _per_channel(name: str, t: Any, channels: int, ndim: int) -> Any:
    """A vector with one entry for each channel, shaped to broadcast along dimension 1."""
    require(tuple(t.shape) == (channels,), "the {} must have shape ({},), got {}", name, channels, tuple(t.shape))
    return reshape(t, (1, channels) + (1,) * (ndim - 2))


def _scale_and_shift(y: Any, weight: Any, bias: Any) -> Any:
    channels, ndim = y.shape[1], len(y.shape)
    if weight is not None:
        y = y * _per_channel("weight", weight, channels, ndim)
    return y if bias is None else y + _per_channel("bias", bias, channels, ndim)


@op(namespace="nn.functional")
def group_norm(input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Normalise each group of C / num_groups channels of (N, C, ...) over itself; Wu & He 2018 (arXiv:1803.08494).

    Raises RuntimeError when the groups do not divide the channels or weight and bias are not (C,).
    """
    shape = tuple(input.shape)
    require(len(shape) >= 2, "group_norm: at least (N, C) is expected, got {}", shape)
    require(num_groups > 0, "group_norm: num_groups must be positive, got {}", num_groups)
    n, c = shape[:2]
    require(c % num_groups == 0, "group_norm: {} channels are not divisible by num_groups={}", c, num_groups)
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
