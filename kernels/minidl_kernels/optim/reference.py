"""The formulas in NumPy, one parameter after the other, in place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arrays = Sequence[Array]


def masked(w: Array, mask: Array | None) -> None:
    """Pruned weights become 0, in place, and -0 becomes 0."""
    if mask is not None:
        w += 0
        np.copyto(w, 0, where=~mask)


def sgd_step(
    params: Arrays, grads: Arrays, buffers: Arrays | None, lr: float, momentum: float, dampening: float,
    weight_decay: float, nesterov: bool, maximize: bool, masks: Sequence[Array | None] | None,
) -> None:  # fmt: skip
    """w and m move on."""
    for i, (w, g) in enumerate(zip(params, grads)):
        d = -g if maximize else g
        if weight_decay:
            d = d + w * weight_decay
        if buffers is not None:
            m = buffers[i]
            m *= momentum
            m += d * (1 - dampening)
            d = d + m * momentum if nesterov else m
        w -= d * lr
        masked(w, None if masks is None else masks[i])


def adam_step(
    params: Arrays, grads: Arrays, means: Arrays, squares: Arrays, greatest: Arrays | None, steps: Sequence[int],
    lr: float, beta1: float, beta2: float, eps: float, weight_decay: float, decoupled: bool, maximize: bool,
    masks: Sequence[Array | None] | None,
) -> None:  # fmt: skip
    """w, m, v and the greatest v move on."""
    for i, (w, g, m, v, t) in enumerate(zip(params, grads, means, squares, steps)):
        d = -g if maximize else g
        if decoupled:
            w *= 1 - lr * weight_decay
        elif weight_decay:
            d = d + w * weight_decay
        v *= beta2
        v += d * d * (1 - beta2)
        m += (d - m) * (1 - beta1)
        u = v if greatest is None else np.maximum(greatest[i], v, out=greatest[i])
        w -= m / (np.sqrt(u) / math.sqrt(1 - beta2**t) + eps) * (lr / (1 - beta1**t))
        masked(w, None if masks is None else masks[i])
