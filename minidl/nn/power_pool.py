"""LPPool1d, LPPool2d and LocalResponseNorm: pools of powers, and normalisation across neighbouring channels."""

from __future__ import annotations

from typing import Any

from minidl.nn import functional as F
from minidl.nn.module import Module

__all__ = ["LPPool1d", "LPPool2d", "LocalResponseNorm"]


class _LPPool(Module):
    def __init__(self, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False):
        super().__init__()
        self.norm_type, self.kernel_size, self.stride, self.ceil_mode = norm_type, kernel_size, stride, ceil_mode

    def extra_repr(self) -> str:
        return (
            f"norm_type={self.norm_type}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"ceil_mode={self.ceil_mode}"
        )


class LPPool1d(_LPPool):
    """(sum x^p)^(1/p) over each window of a signal.    (N, C, L) -> (N, C, M)

    Try: LPPool1d(2.0, 2)(rand(1, 2, 4) + 0.1)
    """

    def forward(self, x: Any) -> Any:
        """(N, C, L) -> (N, C, M)"""
        return F.lp_pool1d(x, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class LPPool2d(_LPPool):
    """(sum x^p)^(1/p) over each window of an image.    (N, C, H, W) -> (N, C, P, Q)

    Try: LPPool2d(2.0, 2)(rand(1, 2, 4, 4) + 0.1)
    """

    def forward(self, x: Any) -> Any:
        """(N, C, H, W) -> (N, C, P, Q)"""
        return F.lp_pool2d(x, float(self.norm_type), self.kernel_size, self.stride, self.ceil_mode)


class LocalResponseNorm(Module):
    """x / (k + alpha mean of x^2 over `size` neighbouring channels)^beta; Krizhevsky et al. 2012.

    Try: LocalResponseNorm(2)(randn(1, 4, 3, 3))
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0):
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Any) -> Any:
        """(N, C, ...) -> the same shape"""
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
