"""Looking on while ops run: what anomaly mode, the traces and the profiler of minidl.inside are made of.

``with Watcher():`` is told of every op that runs in this thread, and of every step of a backward pass. Nobody pays for
it while nobody watches: the calls ask one question that they had to ask anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl.autograd.modes import state

__all__ = ["Watcher"]


class Watcher:
    """Base of those who look on. Inside a ``with`` block its methods are called, in this thread only.

    >>> import minidl
    >>> class Names(Watcher):
    ...     def ran(self, ctx, inputs, args, kwargs, out):
    ...         print("ran", ctx.name())
    ...     def stepped(self, node, slots, grads):
    ...         print("stepped", node.name())
    >>> x = minidl.tensor(2.0, requires_grad=True)
    >>> with Names():
    ...     (x * x).exp().backward()
    ran mul
    ran exp
    stepped exp
    stepped mul
    """

    looks_for: tuple[bool, bool] | None = None  # of anomaly mode: whether for NaN, and whether for Inf

    def ran(self, ctx: Any, inputs: Sequence[Any], args: tuple, kwargs: dict, out: Any) -> None:
        """An op ran on `inputs` (`args` are its arguments, among them these) and gave `out`; `ctx` is its node."""

    def stepped(self, node: Any, slots: Sequence[Any], grads: Sequence[Any]) -> None:
        """A node's backward was handed the gradients `slots` of its outputs and returned `grads` of its inputs."""

    def __enter__(self) -> Any:
        state.watch = (*state.watch, self)
        return self

    def __exit__(self, *_: Any) -> None:
        state.watch = tuple(w for w in state.watch if w is not self)
