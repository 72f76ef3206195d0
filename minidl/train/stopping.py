"""When to stop: no improvement for a while, or a value that no longer changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from minidl.train.checkpoint import restore, snapshot

__all__ = ["Converged", "EarlyStop", "StopRule", "as_rules"]

# Larger is better for these, so mode="auto" looks for them in the name of what is monitored.
_LARGER_IS_BETTER = ("acc", "recall", "precision", "f1", "top_k")


class StopRule:
    """Looks at the values of each epoch and may say why to stop.

    Args: monitor: a name in the history; None stands for "val_loss", or "loss" if there is no validation.
    """

    def __init__(self, monitor: str | None) -> None:
        self.monitor = monitor
        self.name = monitor or "loss"

    def start(self, names: list[str]) -> None:
        """Begin a training whose history has these names. Raises ValueError if the monitored one is not among them."""
        self.name = self.monitor or ("val_loss" if "val_loss" in names else "loss")
        if self.name not in names:
            known = ", ".join(names)
            raise ValueError(f"{type(self).__name__}: there is no {self.name!r} to monitor; there are {known}")

    def update(self, values: Mapping[str, Any], epoch: int, model: Any) -> str | None:
        """Take in an epoch (counted from 1); the reason to stop, or None."""
        raise NotImplementedError(f"{type(self).__name__} defines no update")

    def finish(self, model: Any) -> None:
        """The training is over."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training must know."""
        raise NotImplementedError(f"{type(self).__name__} defines no state_dict")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict()`."""
        raise NotImplementedError(f"{type(self).__name__} defines no load_state_dict")

    def _value(self, values: Mapping[str, Any]) -> float:
        value = values[self.name]
        if isinstance(value, list) or np.ndim(value):
            raise ValueError(f"{type(self).__name__}: {self.name!r} has a value per class; monitor one number")
        return float(value)


class EarlyStop(StopRule):
    """Stop after `patience` epochs without an improvement by more than `min_delta`.

    Args:
        monitor: a name in the history; by default "val_loss", or "loss" without validation.
        patience: how many epochs in a row may pass without improvement; the next one stops. At least 1.
        min_delta: improvements up to this do not count.
        mode: "min", "max", or "auto": "max" if the name speaks of accuracy, recall, precision, f1 or top_k.
        restore_best: at the end, however it comes, give the model the weights of its best epoch.

    A NaN is no improvement. Attributes after training: `best` (value), `best_epoch` (from 1).
    """

    def __init__(
        self,
        monitor: str | None = None,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "auto",
        restore_best: bool = True,
    ) -> None:
        super().__init__(monitor)
        _check_patience(patience)
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"EarlyStop: mode must be 'auto', 'min' or 'max', got {mode!r}")
        if not min_delta >= 0:
            raise ValueError(f"EarlyStop: min_delta must not be negative, got {min_delta}")
        self.patience, self.min_delta, self.mode, self.restore_best = patience, min_delta, mode, restore_best
        self.best, self.best_epoch = math.nan, 0
        self._best_weights: dict[str, Any] | None = None

    def start(self, names: list[str]) -> None:
        super().start(names)
        self.best, self.best_epoch, self._best_weights = math.nan, 0, None

    def update(self, values: Mapping[str, Any], epoch: int, model: Any) -> str | None:
        value = self._value(values)
        larger = self.mode == "max" or (self.mode == "auto" and any(w in self.name for w in _LARGER_IS_BETTER))
        gain = value - self.best if larger else self.best - value
        if not math.isnan(value) and (math.isnan(self.best) or gain > self.min_delta):
            self.best, self.best_epoch = value, epoch
            if self.restore_best:
                self._best_weights = snapshot(model)
            return None
        if epoch - self.best_epoch < self.patience:
            return None
        if not self.best_epoch:
            return f"{self.name} was NaN in all of {epoch} epochs"
        return f"{self.name} did not improve on {self.best:.4g}, of epoch {self.best_epoch}, for {self.patience} epochs"

    def finish(self, model: Any) -> None:
        if self._best_weights is not None:
            restore(model, self._best_weights)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "weights": self._best_weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch, self._best_weights = state["best"], state["best_epoch"], state["weights"]


class Converged(StopRule):
    """Stop when the loss has changed by less than `tol` from epoch to epoch, `patience` times in a row.

    Args: tol: > 0, in units of what is monitored. patience: at least 1. monitor: by default the training loss.
    """

    def __init__(self, tol: float = 1e-6, patience: int = 1, monitor: str = "loss") -> None:
        super().__init__(monitor)
        _check_patience(patience)
        if not tol > 0:
            raise ValueError(f"Converged: tol must be positive, got {tol}")
        self.tol, self.patience = tol, patience
        self._last, self._quiet = math.nan, 0

    def start(self, names: list[str]) -> None:
        super().start(names)
        self._last, self._quiet = math.nan, 0

    def update(self, values: Mapping[str, Any], epoch: int, model: Any) -> str | None:
        value = self._value(values)
        self._quiet = self._quiet + 1 if abs(value - self._last) < self.tol else 0
        self._last = value
        if self._quiet < self.patience:
            return None
        return f"converged: {self.name} changed by less than {self.tol:g} for {self.patience} epochs"

    def state_dict(self) -> dict[str, Any]:
        return {"last": self._last, "quiet": self._quiet}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._last, self._quiet = state["last"], state["quiet"]


def as_rules(early_stop: Any) -> list[StopRule]:
    """Rules from None, a patience, a rule or several. Raises TypeError for anything else."""
    if early_stop is None:
        return []
    if isinstance(early_stop, (list, tuple)):
        return [rule for item in early_stop for rule in as_rules(item)]
    if isinstance(early_stop, int) and not isinstance(early_stop, bool):
        return [EarlyStop(patience=early_stop)]
    if isinstance(early_stop, StopRule):
        return [early_stop]
    raise TypeError(f"early_stop must be a patience, EarlyStop, Converged or a list of them, not {early_stop!r}")


def _check_patience(patience: Any) -> None:
    if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
        raise ValueError(f"patience must be a whole number of epochs, at least 1, got {patience!r}")
