"""What a training shows while it runs: a bar per epoch on a terminal, a line per epoch in a log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["Progress", "line"]


def line(epoch: int, epochs: int, values: Mapping[str, Any], seconds: float) -> str:
    """One epoch in words and numbers.

    >>> line(3, 10, {"loss": 0.251234, "accuracy": 0.9, "recall": [0.5, 1.0]}, 1.26)
    'epoch  3/10  loss 0.2512  accuracy 0.9  1.3 s'
    """
    shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if not np.ndim(value))
    return f"epoch {epoch:{len(str(epochs))}}/{epochs}  {shown}  {seconds:.1f} s"


class Progress:
    """Writes to stderr. show: None is a bar on a terminal, else nothing; True a bar, or lines if it is no terminal."""

    def __init__(self, show: bool | None, epochs: int, batches: int | None) -> None:
        terminal = sys.stderr.isatty()
        self._bars = terminal and show is not False
        self._lines = bool(show) and not terminal
        self._epochs, self._batches = epochs, batches
        self._bar: Any = None

    def start_epoch(self, epoch: int, done: int) -> None:
        """Epoch `epoch` (from 1) begins, with `done` batches behind it when it is resumed."""
        if self._bars:
            from tqdm.std import tqdm

            name = f"epoch {epoch:{len(str(self._epochs))}}/{self._epochs}"
            self._bar = tqdm(
                desc=name, total=self._batches, initial=done, file=sys.stderr, dynamic_ncols=True, unit="batch"
            )

    def batch(self, loss: float) -> None:
        """A batch is done."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            self._bar.update()

    def end_epoch(self, epoch: int, values: Mapping[str, Any], seconds: float) -> None:
        """An epoch is done, validation included."""
        if self._bar is not None:
            shown = ", ".join(f"{n} {v:.4g}" for n, v in values.items() if n != "lr" and not np.ndim(v))
            self._bar.set_postfix_str(shown)
            self.close()
        if self._lines:
            print(line(epoch, self._epochs, values, seconds), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A message between the bars or lines."""
        if self._bars:
            from tqdm.std import tqdm

            tqdm.write(text, file=sys.stderr)
        elif self._lines:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the terminal tidy."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
