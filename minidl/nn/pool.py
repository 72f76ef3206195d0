"""Pooling layers: the greatest or the mean of each window. Signals (N, C, L), images (N, C, H, W)."""

from __future__ import annotations

from typing import Any

from minidl.nn.module import Module
from minidl.ops import pool


class _MaxPool(Module):
    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1, return_indices: bool = False,
        ceil_mode: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def _how(self) -> tuple:
        return self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """The greatest of each window of a signal; stride is kernel_size unless given.    (N, C, L) -> (N, C, M)

    Try: MaxPool1d(2)(randn(1, 2, 6))
    """

    def forward(self, input: Any) -> Any:
        """(N, C, L) -> (N, C, M), with return_indices also where"""
        return pool.max_pool1d(input, *self._how())


class MaxPool2d(_MaxPool):
    """The greatest of each window of an image; stride is kernel_size unless given.    (N, C, H, W) -> (N, C, P, Q)

    Try: MaxPool2d(2)(randn(1, 2, 4, 6))
    """

    def forward(self, input: Any) -> Any:
        """(N, C, H, W) -> (N, C, P, Q), with return_indices also where, flat in H x W"""
        return pool.max_pool2d(input, *self._how())


class AvgPool1d(Module):
    """The mean of each window of a signal; stride is kernel_size unless given.    (N, C, L) -> (N, C, M)

    Try: AvgPool1d(2)(randn(1, 2, 6))
    """

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ):  # fmt: skip
        super().__init__()
        one = lambda v: tuple(v) if isinstance(v, (tuple, list)) else (v,)
        self.kernel_size, self.padding = one(kernel_size), one(padding)
        self.stride = self.kernel_size if stride is None else one(stride)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, input: Any) -> Any:
        """(N, C, L) -> (N, C, M)"""
        return pool.avg_pool1d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool2d(Module):
    """The mean of each window of an image; stride is kernel_size unless given.    (N, C, H, W) -> (N, C, P, Q)

    Try: AvgPool2d(2)(randn(1, 2, 4, 6))
    """

    def __init__(
        self, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ):  # fmt: skip
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def forward(self, input: Any) -> Any:
        """(N, C, H, W) -> (N, C, P, Q)"""
        return pool.avg_pool2d(
            input, self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad,
            self.divisor_override,
        )  # fmt: skip

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class _Adaptive(Module):
    def __init__(self, output_size: Any):
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(_Adaptive):
    """The mean of each of output_size regions of a signal.    (N, C, L) -> (N, C, output_size)

    Try: AdaptiveAvgPool1d(2)(randn(1, 2, 5))
    """

    def forward(self, input: Any) -> Any:
        """(N, C, L) -> (N, C, output_size)"""
        return pool.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(_Adaptive):
    """The mean of each of P x Q regions of an image; None keeps a size.    (N, C, H, W) -> (N, C, P, Q)

    Try: AdaptiveAvgPool2d(2)(randn(1, 2, 5, 4))
    """

    def forward(self, input: Any) -> Any:
        """(N, C, H, W) -> (N, C, P, Q)"""
        return pool.adaptive_avg_pool2d(input, self.output_size)
