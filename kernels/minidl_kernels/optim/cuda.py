"""Steps of optimizers on a GPU: step.cu, one pass over each parameter and its state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..cuda.launch import contiguous, kernel, spread


def sgd_step(
    params: Sequence[Any], grads: Sequence[Any], buffers: Sequence[Any] | None, lr: float, momentum: float,
    dampening: float, weight_decay: float, nesterov: bool, maximize: bool,
) -> None:  # fmt: skip
    how = (lr, momentum, 1 - dampening, weight_decay, nesterov, maximize)
    for i, (w, g) in enumerate(zip(params, contiguous(*grads))):
        m = None if buffers is None else buffers[i]
        kernel("optim/step.cu", "sgd", w.dtype)(spread(w.size), 256, w, g, m, w.size, *how)


def adam_step(
    params: Sequence[Any], grads: Sequence[Any], means: Sequence[Any], squares: Sequence[Any],
    greatest: Sequence[Any] | None, steps: Sequence[int], lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, decoupled: bool, maximize: bool,
) -> None:  # fmt: skip
    for i, (w, g, m, v, t) in enumerate(zip(params, contiguous(*grads), means, squares, steps)):
        numbers = (lr / (1 - beta1**t), 1 - beta1, beta2, 1 - beta2, math.sqrt(1 - beta2**t), eps)
        decay = (weight_decay, 1 - lr * weight_decay, decoupled, maximize)
        state = (w, g, m, v, None if greatest is None else greatest[i])
        kernel("optim/step.cu", "adam", w.dtype)(spread(w.size), 256, *state, w.size, *numbers, *decay)
