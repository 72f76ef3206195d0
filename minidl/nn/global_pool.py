"""Global pooling: one number for each channel, whatever the size of the image."""

from __future__ import annotations

from typing import Any

from minidl.autograd import require
from minidl.nn.module import Module

__all__ = ["GlobalAvgPool", "GlobalMaxPool"]


class _Global(Module):
    def __init__(self, keepdim: bool = False):
        super().__init__()
        self.keepdim = keepdim

    def _places(self, x: Any) -> tuple[int, ...]:
        require(x.ndim >= 3, "global pooling takes (N, C, ...), got {}", tuple(x.shape))
        return tuple(range(2, x.ndim))

    def extra_repr(self) -> str:
        return "keepdim=True" if self.keepdim else ""


class GlobalAvgPool(_Global):
    """The mean of each channel over all places; Lin et al. 2014 (arXiv:1312.4400).    (N, C, ...) -> (N, C)

    With `keepdim` (N, C, 1, ...), as AdaptiveAvgPool2d(1) gives.

    Try: GlobalAvgPool()(randn(2, 3, 4, 4))
    """

    def forward(self, x: Any) -> Any:
        """(N, C, ...) -> (N, C)"""
        return x.mean(self._places(x), self.keepdim)


class GlobalMaxPool(_Global):
    """The greatest value of each channel.    (N, C, ...) -> (N, C), or with `keepdim` (N, C, 1, ...)

    Try: GlobalMaxPool()(randn(2, 3, 4, 4))
    """

    def forward(self, x: Any) -> Any:
        """(N, C, ...) -> (N, C)"""
        return x.amax(self._places(x), self.keepdim)
