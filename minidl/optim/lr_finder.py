"""Which learning rate? A short run with a rate that grows, and the loss at each: the range test."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from minidl.nn.module import Module
from minidl.optim.optimizer import Optimizer

__all__ = ["LRFinding", "find_lr"]


@dataclass(frozen=True)
class LRFinding:
    """What `find_lr` saw: the rates, the loss before each step at that rate, the same smoothed, and a suggestion.

    The suggestion is the rate where the smoothed loss falls most steeply against log(rate), None if it never falls.
    """

    lrs: list[float]
    losses: list[float]
    smoothed: list[float]
    suggestion: float | None


def find_lr(
    optimizer: Optimizer, step: Callable[[], Any], model: Module | None = None, start_lr: float = 1e-7,
    end_lr: float = 10.0, num_iter: int = 100, mode: str = "exp", beta: float = 0.9, diverge: float = 4.0,
) -> LRFinding:  # fmt: skip
    """The learning rate range test; Smith 2017 (arXiv:1506.01186, section 3.3).

    Args:
        optimizer: its groups keep the ratio of their rates; the first one's goes from start_lr to end_lr.
        step: trains on one batch (zero_grad, loss, backward, ``optimizer.step()``) and returns the loss.
        model: whose buffers, such as running statistics, are put back as well as the parameters.
        num_iter: steps from start_lr to end_lr: equal ratios in `mode` "exp", equal differences in "linear".
        beta: smoothing, s = beta s + (1 - beta) loss, corrected for its start at 0.
        diverge: stop when the smoothed loss exceeds the least so far (of losses above 0) by this factor, or is NaN.

    Parameters, optimizer state and rates are afterwards what they were; random numbers and data stay consumed. Raises
    ValueError for rates, num_iter, mode or beta out of range.

    >>> import minidl
    >>> from minidl import nn, optim
    >>> w = nn.Parameter(minidl.tensor([4.0]))
    >>> sgd = optim.SGD([w], lr=0.1)
    >>> def step():
    ...     sgd.zero_grad()
    ...     loss = (w * w).sum()
    ...     loss.backward()
    ...     sgd.step()
    ...     return loss
    >>> found = find_lr(sgd, step)
    >>> 0.01 < found.suggestion < 1, w.item(), sgd.param_groups[0]["lr"]
    (True, 4.0, 0.1)
    """
    if not 0 < start_lr < end_lr:
        raise ValueError(f"find_lr: 0 < start_lr < end_lr must hold, got {start_lr} and {end_lr}")
    if num_iter < 2:
        raise ValueError(f"find_lr: num_iter must be at least 2, got {num_iter}")
    if mode not in ("exp", "linear"):
        raise ValueError(f"find_lr: mode must be 'exp' or 'linear', got {mode!r}")
    if not 0 <= beta < 1:
        raise ValueError(f"find_lr: beta must lie in [0, 1), got {beta}")
    params = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [(t, t.array.copy()) for t in [*params, *(model.buffers() if model is not None else ())]]
    grads = [p.grad for p in params]
    state, taken = deepcopy(optimizer.state_dict()), optimizer.steps_taken
    first = optimizer.param_groups[0]["lr"]
    ratios = [group["lr"] / first if first else 1.0 for group in optimizer.param_groups]
    lrs: list[float] = []
    losses: list[float] = []
    smoothed: list[float] = []
    mean = 0.0
    try:
        for i in range(num_iter):
            part = i / (num_iter - 1)
            lr = start_lr * (end_lr / start_lr) ** part if mode == "exp" else start_lr + part * (end_lr - start_lr)
            for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
                group["lr"] = lr * ratio
            loss = float(step())
            mean = beta * mean + (1 - beta) * loss
            lrs.append(lr)
            losses.append(loss)
            smoothed.append(mean / (1 - beta ** (i + 1)))
            least = min(smoothed)
            if not math.isfinite(loss) or (least > 0 and smoothed[-1] > diverge * least):
                break
    finally:
        for t, array in kept:
            t.array[...] = array
            t.bump()
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        optimizer.load_state_dict(state)
        optimizer.steps_taken = taken
    return LRFinding(lrs, losses, smoothed, _steepest(lrs, smoothed))


def _steepest(lrs: list[float], losses: list[float]) -> float | None:
    """The rate at the middle of the steepest fall of the loss against log(rate)."""
    size = max((abs(y) for y in losses if math.isfinite(y)), default=0.0)
    least, best = -1e-9 * size, None  # less is rounding, not a fall
    for (x, y), (next_x, next_y) in zip(zip(lrs, losses), zip(lrs[1:], losses[1:])):
        slope = (next_y - y) / math.log(next_x / x)
        if slope < least:
            least, best = slope, math.sqrt(x * next_x)
    return best
