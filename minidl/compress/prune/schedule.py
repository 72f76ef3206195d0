"""Pruning over time: at once, in rounds, or a little after every few steps of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from minidl.compress.prune.choice import check_sparsity
from minidl.compress.prune.models import prune_


def rounds(final: float, n: int) -> list[float]:
    """The sparsities of n rounds of pruning and retraining, each of which drops the same share of what is left.

        s_k = 1 - (1 - final)^(k / n)

    One round is one-shot pruning. Han et al. 2015, arXiv:1506.02626; Frankle & Carbin 2019, arXiv:1803.03635. Raises
    ValueError for a sparsity outside [0, 1) and fewer rounds than one.

    >>> rounds(0.875, 3)
    [0.5, 0.75, 0.875]
    """
    check_sparsity(final)
    if n < 1:
        raise ValueError(f"rounds: at least one round, got {n}")
    return [*(1 - (1 - final) ** (k / n) for k in range(1, n)), final]


def cubic(step: int, start: int, end: int, final: float, initial: float = 0.0) -> float:
    """The sparsity at a step: `initial` before `start`, `final` from `end` on, fast at first and slowly in between.

        s = final + (initial - final) (1 - (step - start) / (end - start))^3

    Zhu & Gupta 2017, arXiv:1710.01878, equation 1: many weights are redundant, so the first can go quickly.

    >>> [round(cubic(t, 0, 4, 0.8), 4) for t in range(6)]
    [0.0, 0.4625, 0.7, 0.7875, 0.8, 0.8]
    """
    if not 0 <= start < end:
        raise ValueError(f"cubic: 0 <= start < end is wanted, got start {start}, end {end}")
    left = 1 - min(max((step - start) / (end - start), 0.0), 1.0)
    return final + (initial - final) * left**3


class Pruner:
    """Prunes a model while it trains: call `step` after each step of the optimizer.

    In `minidl.train.fit` the callback ``minidl.train.Prune(pruner)`` does that.

    Args:
        schedule: step -> sparsity, such as ``lambda t: cubic(t, 100, 1000, 0.9)``; steps count from 1.
        every: look at the schedule every so many steps only; between two looks the remaining weights can adapt.
        how: what `prune_` takes: scope, rule, skip, generator.

    Raises ValueError for `every` below 1.

    >>> from minidl import nn
    >>> from minidl.compress import sparsity
    >>> model = nn.Linear(10, 10)
    >>> pruner = Pruner(model, lambda t: cubic(t, 0, 4, 0.8), every=2)
    >>> for t in range(4):
    ...     pruner.step()
    ...     print(f"{sparsity(model):.2f}", end=" ")
    0.00 0.70 0.70 0.80
    """

    def __init__(self, model: Any, schedule: Callable[[int], float], every: int = 1, **how: Any) -> None:
        if every < 1:
            raise ValueError(f"Pruner: every must be at least 1, got {every}")
        self.model, self.schedule, self.every, self.how = model, schedule, every, how
        self.steps, self.target = 0, 0.0

    def step(self) -> None:
        """Another step of the training is done."""
        self.steps += 1
        if self.steps % self.every:
            return
        target = self.schedule(self.steps)
        if target > self.target:
            prune_(self.model, target, **self.how)
            self.target = target

    def state_dict(self) -> dict[str, Any]:
        """Where it is; the masks are the model's."""
        return {"steps": self.steps, "target": self.target}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`."""
        self.steps, self.target = state["steps"], state["target"]
