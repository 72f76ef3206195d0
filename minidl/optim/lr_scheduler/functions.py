"""Rates by a function of one's own."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

from minidl.optim.lr_scheduler.base import LRScheduler, per_group
from minidl.optim.optimizer import Optimizer


class LambdaLR(LRScheduler):
    """lr_0 f(t), for a function f or a list of one per group. Raises ValueError for a list of another length.

    Functions are not part of the state_dict; an object with ``__call__`` is, by its attributes.
    """

    def __init__(
        self, optimizer: Optimizer, lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ):  # fmt: skip
        self.lr_lambdas = per_group("lr_lambda", optimizer, lr_lambda)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float]:
        return [lr * f(self.last_epoch) for lr, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        plain = (types.FunctionType, types.BuiltinFunctionType)
        state["lr_lambdas"] = [None if isinstance(f, plain) else dict(f.__dict__) for f in self.lr_lambdas]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "lr_lambdas"})
        for f, attributes in zip(self.lr_lambdas, state_dict["lr_lambdas"], strict=True):
            if attributes is not None:
                f.__dict__.update(attributes)


class MultiplicativeLR(LambdaLR):
    """lr_0 f(1) f(2) ... f(t), for a function f or a list of one per group. Errors and state as LambdaLR's."""

    def get_lr(self) -> list[float]:
        if self._is_initial:
            return self.current
        return [lr * f(self.last_epoch) for lr, f in zip(self.current, self.lr_lambdas, strict=True)]

    def closed_form(self) -> list[float]:
        steps = range(1, self.last_epoch + 1)
        return [lr * math.prod(f(t) for t in steps) for lr, f in zip(self.base_lrs, self.lr_lambdas, strict=True)]
