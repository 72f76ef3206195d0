"""The schedule of stochastic weight averaging: to a rate that stays, while the weights are averaged."""

from __future__ import annotations

import math
from typing import Any

from minidl.optim.lr_scheduler.base import LRScheduler, per_group
from minidl.optim.optimizer import Optimizer


class SWALR(LRScheduler):
    """From lr_0 to `swa_lr` in `anneal_epochs` steps, then constant; Izmailov et al. 2018 (arXiv:1803.05407).

        u = min(1, t / anneal_epochs),    a = u ("linear") or (1 - cos(pi u)) / 2 ("cos")
        lr_t = (1 - a) lr_0 + a swa_lr

    Args:
        swa_lr: a number, or one for each group.
        last_epoch: as LRScheduler's.

    Raises ValueError for another strategy, a negative or fractional anneal_epochs, or a wrong number of rates.
    """

    def __init__(
        self, optimizer: Optimizer, swa_lr: Any, anneal_epochs: int = 10, anneal_strategy: str = "cos",
        last_epoch: int = -1,
    ):  # fmt: skip
        for rate, group in zip(per_group("swa_lr", optimizer, swa_lr), optimizer.param_groups, strict=True):
            group["swa_lr"] = rate
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}")
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self.anneal_epochs, self._anneal_strategy = anneal_epochs, anneal_strategy
        super().__init__(optimizer, last_epoch)

    def _share(self, t: int) -> float:
        u = max(0.0, min(1.0, t / max(1, self.anneal_epochs)))
        return u if self._anneal_strategy == "linear" else (1 - math.cos(math.pi * u)) / 2

    def get_lr(self) -> list[float]:
        """From the present rates, so that another schedule may act on them too."""
        t = self._step_count - 1
        t = max(1, t) if self.anneal_epochs == 0 else t
        before, now = self._share(t - 1), self._share(t)
        rates = []
        for group in self.optimizer.param_groups:
            lr, end = group["lr"], group["swa_lr"]
            start = end if before == 1 else (lr - before * end) / (1 - before)
            rates.append(end * now + start * (1 - now))
        return rates
