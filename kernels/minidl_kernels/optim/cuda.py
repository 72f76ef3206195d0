"""Steps of optimizers on a GPU: step.cu, one launch for all parameters, which a table of addresses names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..cuda.launch import ceil_div, contiguous, cupy, kernel

_CHUNK = 2048  # elements of a block, as in step.cu


def _run(name: str, lists: Sequence[Sequence[Any] | None], numbers: Sequence[Sequence[float]], *how: Any) -> None:
    """The kernel on every parameter that has elements; `lists` in the order of its table: parameters first."""
    lines, first = [], 0
    for i, w in enumerate(lists[0]):  # type: ignore[arg-type]
        if w.size:
            mine = [None if some is None else some[i] for some in lists]
            bits = np.array(numbers[i] if numbers else (), np.float64).view(np.uint64).tolist()
            lines.append([w.size, first, *(0 if a is None else a.data.ptr for a in mine), *bits])
            first += ceil_div(w.size, _CHUNK)
    if lines:
        table = cupy().asarray(np.array(lines, np.uint64))  # a copy to the device, which does not wait for it
        kernel("optim/step.cu", name, lists[0][0].dtype)(first, 256, table, len(lines), *how)  # type: ignore[index]


def sgd_step(
    params: Sequence[Any], grads: Sequence[Any], buffers: Sequence[Any] | None, lr: float, momentum: float,
    dampening: float, weight_decay: float, nesterov: bool, maximize: bool, masks: Sequence[Any] | None,
) -> None:  # fmt: skip
    grads, masks = contiguous(*grads), None if masks is None else contiguous(*masks)
    _run("sgd", (params, grads, buffers, masks), (), lr, momentum, 1 - dampening, weight_decay, nesterov, maximize)


def adam_step(
    params: Sequence[Any], grads: Sequence[Any], means: Sequence[Any], squares: Sequence[Any],
    greatest: Sequence[Any] | None, steps: Sequence[int], lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, decoupled: bool, maximize: bool, masks: Sequence[Any] | None,
) -> None:  # fmt: skip
    grads, masks = contiguous(*grads), None if masks is None else contiguous(*masks)
    numbers = [(lr / (1 - beta1**t), math.sqrt(1 - beta2**t)) for t in steps]
    how = (1 - beta1, beta2, 1 - beta2, eps, weight_decay, 1 - lr * weight_decay, decoupled, maximize)
    _run("adam", (params, grads, means, squares, greatest, masks), numbers, *how)
