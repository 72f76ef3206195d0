"""Reshape: every example in another shape, as a layer."""

from __future__ import annotations

from typing import Any

from minidl.nn.module import Module

__all__ = ["Reshape"]


class Reshape(Module):
    """Every example in another shape.    (N, ...) -> (N, *shape); one -1 is worked out

    >>> import minidl
    >>> tuple(Reshape(3, -1)(minidl.zeros(2, 12)).shape)
    (2, 3, 4)

    Try: Reshape(2, 3)(randn(2, 6))
    """

    def __init__(self, *shape: Any):
        super().__init__()
        self.shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape

    def forward(self, x: Any) -> Any:
        """(N, ...) -> (N, *shape)"""
        return x.reshape(x.shape[0], *self.shape)

    def extra_repr(self) -> str:
        return ", ".join(str(n) for n in self.shape)
