"""Stochastic depth: whole examples skip a residual branch at random. And noise, added in training."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, random
from minidl.autograd import op
from minidl.ops.dropout import mask_scale
from minidl.tensors import Tensor, wrap


@op(namespace="nn.functional")
def stochastic_depth(input: Any, p: float, mode: str, training: bool = True) -> Any:
    """Zero each example with probability p, or all of them together, and scale the rest by 1 / (1 - p); Huang et al.
    2016 (arXiv:1603.09382). torchvision's name and arguments.

    input (N, ...); mode "row" decides for each example, "batch" once for all. x itself unless training. Raises
    ValueError for a p outside [0, 1] or another mode.

    Try: stochastic_depth(randn(4, 3), 0.5, 'row')
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"drop probability has to be between 0 and 1, but got {p}")
    if mode not in ("batch", "row"):
        raise ValueError(f"mode has to be either 'batch' or 'row', but got {mode}")
    if not training or p == 0.0:
        return input
    shape = ((input.shape[0] if mode == "row" else 1), *(1,) * (input.ndim - 1))
    keep = random.default_generator.uniform(shape) >= p if p < 1.0 else np.zeros(shape, bool)
    return mask_scale(input, keep, 1 / (1 - p) if p < 1.0 else 0.0)


@op(namespace="nn.functional")
def gaussian_noise(input: Any, std: float = 0.1, training: bool = True) -> Any:
    """x + std n with n standard normal, in training; x itself otherwise. Bishop 1995 (doi 10.1162/neco.1995.7.1.108):
    for small std this is Tikhonov regularisation. Raises ValueError for a negative std.

    Try: gaussian_noise(randn(3, 4), 0.1)
    """
    if not std >= 0:
        raise ValueError(f"gaussian_noise: std must not be negative, got {std}")
    if not training or std == 0:
        return input
    dtype = np.dtype(input.dtype)
    noise = random.default_generator.normal(
        tuple(input.shape), 0.0, std, np.float64 if dtype == np.float64 else np.float32
    )
    noise = noise.astype(dtype, copy=False)
    return input + (wrap(devices.move(noise, input.device)) if isinstance(input, Tensor) else noise)
