"""Pruning as `fit` trains: a callback that carries a `Pruner` through it, and through a resumed training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minidl.train.loop import Callback, Run

__all__ = ["Prune"]


class Prune(Callback):
    """Calls a `minidl.compress.Pruner` after each update of the weights.

    Raises ValueError when the training starts if the pruner is another model's.

    >>> import minidl
    >>> from minidl import nn, optim
    >>> from minidl.compress import Pruner, cubic, sparsity
    >>> from minidl.train import fit
    >>> model, x = nn.Linear(10, 1), minidl.randn(64, 10)
    >>> pruner = Pruner(model, lambda t: cubic(t, 2, 6, 0.5))
    >>> history = fit(model, (x, x.sum(1, keepdim=True)), loss=nn.functional.mse_loss,
    ...               optimizer=optim.SGD(model.parameters(), lr=0.1), epochs=4, callbacks=[Prune(pruner)])
    >>> sparsity(model)
    0.5
    """

    def __init__(self, pruner: Any) -> None:
        self.pruner = pruner

    def on_start(self, run: Run) -> None:
        if self.pruner.model is not run.model:
            raise ValueError("Prune: the pruner was made for another model than the one that fit trains")

    def on_step(self, run: Run) -> None:
        self.pruner.step()

    def state_dict(self) -> dict[str, Any]:
        return self.pruner.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pruner.load_state_dict(state)
