"""History: what a training recorded, per epoch and per step."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["History"]


class History(Mapping[str, list]):
    """A mapping from "loss", "val_loss", each metric and "lr" to the list of their values, one per epoch.

    Attributes:
        steps: the same per update of the weights: "loss", "lr", and with `clip_norm` "grad_norm" before clipping.
        seconds: of each epoch, validation included.
        stopped: why the training ended before its last epoch, or None.

    >>> history = History()
    >>> history.add({"loss": 0.5, "accuracy": 0.75}, seconds=1.0)
    >>> history.add({"loss": 0.25, "accuracy": 0.875}, seconds=1.0)
    >>> history["loss"], history.last["accuracy"]
    ([0.5, 0.25], 0.875)
    >>> history
    epoch  loss  accuracy
        1   0.5      0.75
        2  0.25     0.875
    """

    def __init__(self) -> None:
        self._epochs: dict[str, list[Any]] = {}
        self._steps_at: list[int] = []  # number of steps at the end of each epoch
        self.steps: dict[str, list[float]] = {}
        self.seconds: list[float] = []
        self.stopped: str | None = None

    # -- reading ---------------------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self._epochs:
            raise KeyError(f"the history has no {name!r}; it has {', '.join(self._epochs) or 'no epoch yet'}")
        return self._epochs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._epochs)

    def __len__(self) -> int:
        return len(self._epochs)

    @property
    def epochs(self) -> int:
        """How many epochs are recorded."""
        return len(self.seconds)

    @property
    def last(self) -> dict[str, Any]:
        """The values of the last epoch by name."""
        return {name: values[-1] for name, values in self._epochs.items()}

    def __repr__(self) -> str:
        if not self.epochs:
            return "History of no epoch"
        columns = {"epoch": [str(i + 1) for i in range(self.epochs)]}
        for name, values in self._epochs.items():
            columns[name] = _column(values)
        rows = list(range(self.epochs))
        gap = rows[:12] + rows[-12:] if len(rows) > 25 else rows
        widths = {name: max(map(len, [name, *cells])) for name, cells in columns.items()}
        lines = ["  ".join(name.rjust(widths[name]) for name in columns)]
        for before, i in itertools.pairwise([-1, *gap]):
            if i > before + 1:
                lines.append("...")
            lines.append("  ".join(cells[i].rjust(widths[name]) for name, cells in columns.items()))
        if self.stopped:
            lines.append(f"stopped: {self.stopped}")
        return "\n".join(lines)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the curves into an image file, whose kind follows from its suffix: a panel each for loss and metrics.

        Raises ImportError, saying how to install it, without Matplotlib, and ValueError if there is no epoch yet.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("History.plot needs Matplotlib: pip install 'minidl[plot]'") from error
        if not self.epochs:
            raise ValueError("History.plot: there is no epoch to draw")
        panels = [name for name in self._epochs if not name.startswith("val_")]
        if len(set(self._epochs.get("lr", ()))) <= 1:
            panels = [name for name in panels if name != "lr"]
        figure = Figure(figsize=(4.5 * len(panels), 3.4), layout="constrained")
        x = np.arange(1, self.epochs + 1)
        mark = "o" if self.epochs < 30 else ""
        for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
            if name == "loss" and self.steps.get("loss"):
                ends = np.array([0, *self._steps_at])
                at = np.interp(np.arange(1, len(self.steps["loss"]) + 1), ends, np.arange(len(ends)))
                axes.plot(at, self.steps["loss"], color="0.8", linewidth=0.8, label="each step")
            for key, label, color in ((name, "training", "C0"), (f"val_{name}", "validation", "C1")):
                if key in self._epochs:
                    values = np.array(self._epochs[key], dtype=float)
                    thin = 0.4 if values.ndim > 1 else 1.0  # a line per class
                    lines = axes.plot(x, values, color=color, marker=mark, markersize=3, alpha=thin)
                    lines[0].set_label(label)
            axes.set(xlabel="epoch", title=name)
            axes.legend()
            axes.grid(alpha=0.3)
        figure.savefig(path)

    # -- writing ---------------------------------------------------------------------------------------------

    def add(self, values: Mapping[str, Any], seconds: float) -> None:
        """Record an epoch; arrays (a value per class) as lists."""
        for name, value in values.items():
            self._epochs.setdefault(name, []).append(value.tolist() if hasattr(value, "tolist") else value)
        self._steps_at.append(len(self.steps.get("loss", ())))
        self.seconds.append(seconds)

    def add_step(self, values: Mapping[str, float]) -> None:
        """Record an update of the weights."""
        for name, value in values.items():
            self.steps.setdefault(name, []).append(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as plain data and arrays."""
        return {
            "epochs": {name: list(values) for name, values in self._epochs.items()},
            "steps": {name: np.array(values, dtype=np.float64) for name, values in self.steps.items()},
            "steps_at": list(self._steps_at),
            "seconds": list(self.seconds),
            "stopped": self.stopped,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become the history of a `state_dict()`."""
        self._epochs = {name: list(values) for name, values in state["epochs"].items()}
        self.steps = {name: np.asarray(values).tolist() for name, values in state["steps"].items()}
        self._steps_at = list(state["steps_at"])
        self.seconds = list(state["seconds"])
        self.stopped = state["stopped"]


def _column(values: list[Any]) -> list[str]:
    """Numbers to four significant digits; lists, which have a value per class, as their range."""
    cells = []
    for v in values:
        if isinstance(v, list):
            flat = np.array(v, dtype=float)
            known = flat[~np.isnan(flat)]
            cells.append(f"{known.min():.3g} ... {known.max():.3g}" if known.size else "nan")
        else:
            cells.append(f"{v:.4g}")
    return cells
