"""What the schedules share: the count of steps, the rates of the groups, state, and the warning on the order."""

from __future__ import annotations

import warnings
from typing import Any

from minidl.optim.optimizer import Optimizer

EPOCH_WARNING = (
    "The epoch parameter in `scheduler.step()` was not necessary and is being deprecated where possible. Please use "
    "`scheduler.step()` to step the scheduler, and `scheduler.jump(epoch)` to go to a given one."
)


class LRScheduler:
    """Base of the schedules. A subclass defines ``get_lr()``: the rates, one per group, at ``self.last_epoch``.

    Args:
        optimizer: whose rates are set.
        last_epoch: t of the last step taken, to resume without a state_dict; -1 starts afresh.

    Raises TypeError for what is no optimizer, KeyError when resuming with groups that have no ``initial_lr``.
    """

    _is_initial = False
    _last_lr: list[float]

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1):
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", group["lr"])
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming scheduler with "
                    "last_epoch >= 0: load the optimizer's state first"
                )
        self.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
        self.last_epoch = last_epoch
        self.start()

    def start(self) -> None:
        """Set the rates of the first step."""
        self._step_count = 0
        self._is_initial = True
        try:
            self.step()
        finally:
            self._is_initial = False

    def get_lr(self) -> list[float]:
        """The rates at t = ``self.last_epoch``, given those before in the groups."""
        raise NotImplementedError

    def closed_form(self) -> list[float]:
        """The rates at t = ``self.last_epoch`` from those at the start alone."""
        return self.get_lr()

    def get_last_lr(self) -> list[float]:
        """The rates set last, one per group."""
        return self._last_lr

    def step(self, epoch: int | None = None) -> None:
        """Go on to the next t and set the rates. Warns when the optimizer has not stepped at all by the second call.

        `epoch` is torch's old way to jump there, and warns: see `jump`.
        """
        if self._step_count == 1 and not self.optimizer.steps_taken:
            warnings.warn(
                "Detected call of `lr_scheduler.step()` before `optimizer.step()`: the first rate of the schedule was "
                "never used. Call optimizer.step() first, then lr_scheduler.step().",
                UserWarning,
                stacklevel=2,
            )
        self._step_count += 1
        if epoch is not None:
            warnings.warn(EPOCH_WARNING, UserWarning, stacklevel=2)
            self.jump(epoch)
            return
        self.last_epoch += 1
        self._set(self.get_lr())

    def jump(self, epoch: int) -> None:
        """Go to t = `epoch` at once."""
        self.last_epoch = epoch
        self._set(self.closed_form())

    def _set(self, rates: list[float]) -> None:
        for group, lr in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = lr
        self._last_lr = self.current

    @property
    def current(self) -> list[float]:
        """The groups' rates as they are."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """Everything but the optimizer, in torch's layout."""
        return {k: v for k, v in self.__dict__.items() if k != "optimizer"}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state_dict(). Load the optimizer's own, too: the current rates are there."""
        self.__dict__.update(state_dict)


def per_group(name: str, optimizer: Optimizer, value: Any) -> list[Any]:
    """One value for each group, from one or from a list. Raises ValueError for a list of another length."""
    n = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        return [value] * n
    if len(value) != n:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. {name} has {len(value)} values, "
            f"param_groups has {n}."
        )
    return list(value)
