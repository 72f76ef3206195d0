"""Losses that are the negative logarithm of a density: Gaussian with its own variance, Poisson."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.autograd import op
from minidl.ops.exponentials import exp, log
from minidl.ops.masks import where
from minidl.ops.reduction import reduced, reduction_of
from minidl.ops.shapes import unsqueeze
from minidl.tensors import Tensor


@op(namespace="nn.functional")
def gaussian_nll_loss(
    input: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Any:
    """(ln v + (x - y)^2 / v) / 2 for a predicted variance v >= 0, at least eps; with full also ln(2 pi) / 2.

    var has input's shape, 1 in place of one size, or no last dimension, or is a number. Raises ValueError for another
    shape or a negative variance. Nix & Weigend 1994.

    Try: gaussian_nll_loss(randn(4, 3), randn(4, 3), rand(4, 3) + 0.5)
    """
    if isinstance(var, (int, float)):
        if var < 0:
            raise ValueError("var has negative entry/entries")
        v: Any = input * 0 + max(float(var), eps)
    else:
        shape, have = tuple(input.shape), tuple(var.shape)
        if have != shape:
            if shape[:-1] == have:
                var = unsqueeze(var, -1)
            elif len(shape) != len(have) or [b for a, b in zip(shape, have, strict=True) if a != b] != [1]:
                raise ValueError(f"var is of incorrect size: {have} for an input of {shape}")
        a = var.array if isinstance(var, Tensor) else var
        if (a < 0).any():
            raise ValueError("var has negative entry/entries")
        v = var + np.maximum(eps - a, 0).astype(a.dtype)  # torch's clamp, which passes the gradient on
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not valid")
    d = input - target
    loss = 0.5 * (log(v) + d * d / v)
    return reduced(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction)


@op(namespace="nn.functional")
def poisson_nll_loss(
    input: Any, target: Any, log_input: bool = True, full: bool = False, size_average: Any = None, eps: float = 1e-8,
    reduce: Any = None, reduction: str = "mean",
) -> Any:  # fmt: skip
    """e^x - y x for the logarithm x of a rate, or x - y ln(x + eps) for the rate itself.

    With full also Stirling's y ln y - y + ln(2 pi y) / 2 for ln y!, where y > 1.

    Try: poisson_nll_loss(randn(4, 3), rand(4, 3) + 0.5)
    """
    reduction = reduction_of(size_average, reduce, reduction)
    loss = exp(input) - target * input if log_input else input - target * log(input + eps)
    if full:
        loss = loss + where(target > 1, target * log(target) - target + 0.5 * log(2 * math.pi * target), 0.0)
    return reduced(loss, reduction)
