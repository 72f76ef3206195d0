"""A view and its base: what a tensor on another's memory remembers of it."""

from __future__ import annotations

from typing import Any

from minidl.autograd.modes import enable_grad, state
from minidl.tensors import Tensor


class View:
    """How a tensor views another: ``op(base, *args)``, made when the memory had changed `count` times.

    One made under no_grad stays outside the graph (`apart`), whatever becomes of its base.
    """

    __slots__ = ("apart", "args", "base", "count", "kwargs", "op")

    def __init__(self, base: Tensor, op: Any, args: tuple, kwargs: dict, count: int):
        self.base, self.op, self.args, self.kwargs, self.count = base, op, args, kwargs, count
        self.apart = not state.grad

    def stale(self) -> bool:
        """Whether the memory has changed since."""
        return not self.apart and self.base._changes.count != self.count  # type: ignore[union-attr]

    def refresh(self, view: Tensor) -> None:
        """Derive the view's place in the graph from its base again, after what lies between it and the root."""
        chain = [view]
        while chain[-1]._view.base._view is not None and chain[-1]._view.base._view.stale():
            chain.append(chain[-1]._view.base)
        for v in reversed(chain):
            v._view._derive(v)

    def _derive(self, view: Tensor) -> None:
        self.count = self.base._changes.count  # type: ignore[union-attr]
        if not self.base.requires_grad:
            return
        with enable_grad():
            again = self.op(self.base, *self.args, **self.kwargs)
        view._node, view.index, view._requires_grad = again._node, again.index, True
