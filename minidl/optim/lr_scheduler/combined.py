"""Schedules made of schedules: several at once, or one after the other."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from minidl.optim.lr_scheduler.base import LRScheduler
from minidl.optim.lr_scheduler.plateau import ReduceLROnPlateau
from minidl.optim.optimizer import Optimizer


class ChainedScheduler(LRScheduler):
    """Several schedules at once, stepped together: for those that compute a rate from the current one, the product.

    Raises ValueError for an empty list, ReduceLROnPlateau (its step takes a metric), and schedules of several
    optimizers.
    """

    def __init__(self, schedulers: list[LRScheduler], optimizer: Optimizer | None = None):
        if not schedulers:
            raise ValueError("ChainedScheduler expects at least one scheduler to be chained, but got no scheduler.")
        self.optimizer = optimizer or schedulers[0].optimizer
        for i, scheduler in enumerate(schedulers):
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(f"ChainedScheduler cannot hold ReduceLROnPlateau (index {i}): its step takes a metric")
            if scheduler.optimizer is not self.optimizer:
                raise ValueError(
                    "ChainedScheduler expects all schedulers to belong to the same optimizer, but the one at index "
                    f"{i}, {type(scheduler).__name__}, has another"
                )
        self._schedulers = list(schedulers)
        self._last_lr = self.current

    def step(self) -> None:  # type: ignore[override]
        """Step every schedule, in order."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = self.current

    def state_dict(self) -> dict[str, Any]:
        return {"_last_lr": self._last_lr, "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._last_lr = state_dict["_last_lr"]
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)


class SequentialLR(LRScheduler):
    """schedulers[0] until t = milestones[0], then schedulers[1] from its own start, and so on.

    Raises ValueError unless there is one milestone fewer than schedulers, and all belong to this optimizer.
    """

    def __init__(
        self, optimizer: Optimizer, schedulers: list[LRScheduler], milestones: list[int], last_epoch: int = -1
    ):
        if not schedulers:
            raise ValueError("SequentialLR expects at least one scheduler to be chained, but got no scheduler.")
        for i, scheduler in enumerate(schedulers):
            if isinstance(scheduler, ReduceLROnPlateau):
                raise ValueError(f"SequentialLR cannot hold ReduceLROnPlateau (index {i}): its step takes a metric")
            if isinstance(scheduler, ChainedScheduler):
                raise ValueError(
                    f"SequentialLR cannot hold ChainedScheduler (index {i}): it has no start to go back to"
                )
            if scheduler.optimizer is not optimizer:
                raise ValueError(
                    f"SequentialLR expects all schedulers to belong to the same optimizer, but the one at index {i}, "
                    f"{type(scheduler).__name__}, has another"
                )
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more than the number of "
                f"milestone points, but got number of schedulers {len(schedulers)} and the number of milestones to be "
                f"equal to {len(milestones)}"
            )
        self._schedulers, self._milestones = list(schedulers), list(milestones)
        self.optimizer = optimizer
        # each scheduler set its first rate when it was made: take those back, and let the first one start alone
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"]
        rewind(self)
        self.start()
        self.last_epoch = last_epoch + 1

    def start(self) -> None:
        self.last_epoch = 0
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first.start()
        self._last_lr = first.get_last_lr()

    def step(self) -> None:  # type: ignore[override]
        """Go on to the next t and let the scheduler of that time set the rates."""
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[i]
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            scheduler.jump(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()

    def jump(self, epoch: int) -> None:
        """Go back to the start, the only place that a sequence can jump to."""
        if epoch != 0:
            raise ValueError(f"a sequence of schedules can only start again, not jump to {epoch}")
        self.last_epoch = 0
        first = self._schedulers[bisect_right(self._milestones, 0)]
        first.jump(0)
        self._last_lr = first.get_last_lr()

    def state_dict(self) -> dict[str, Any]:
        state = {k: v for k, v in self.__dict__.items() if k not in ("optimizer", "_schedulers")}
        return {**state, "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.__dict__.update({k: v for k, v in state_dict.items() if k != "_schedulers"})
        for scheduler, state in zip(self._schedulers, state_dict["_schedulers"], strict=True):
            scheduler.load_state_dict(state)


def rewind(scheduler: LRScheduler) -> None:
    if isinstance(scheduler, SequentialLR):
        for inner in scheduler._schedulers:
            rewind(inner)
    else:
        scheduler.last_epoch -= 1
