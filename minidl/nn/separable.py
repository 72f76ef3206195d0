"""Depthwise separable convolutions: one filter for each channel, then a mix of the channels in each place."""

from __future__ import annotations

from typing import Any

from minidl.nn.conv import Conv1d, Conv2d
from minidl.nn.module import Module

__all__ = ["SeparableConv1d", "SeparableConv2d"]


class _Separable(Module):
    convolution: Any = None

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        dilation: Any = 1, depth_multiplier: int = 1, bias: bool = True, padding_mode: str = "zeros",
        device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        super().__init__()
        inner, make, where = in_channels * depth_multiplier, type(self).convolution, {"device": device, "dtype": dtype}
        self.depthwise = make(
            in_channels, inner, kernel_size, stride, padding, dilation, in_channels, False, padding_mode, **where
        )
        self.pointwise = make(inner, out_channels, 1, bias=bias, **where)

    def forward(self, x: Any) -> Any:
        """(N, in_channels, ...) -> (N, out_channels, ...)"""
        return self.pointwise(self.depthwise(x))


class SeparableConv2d(_Separable):
    """A depthwise convolution, then a 1 x 1 one; Sifre 2014, Chollet 2017 (arXiv:1610.02357), Howard et al. 2017
    (arXiv:1704.04861).    (N, in_channels, H, W) -> (N, out_channels, P, Q)

    in R S + in out multiplications a place, where a full convolution takes in out R S. Each channel gets
    `depth_multiplier` filters; the bias is the second convolution's. Other arguments and errors as Conv2d's.

    >>> import minidl
    >>> layer = SeparableConv2d(3, 8, 3, padding="same")
    >>> [(name, tuple(p.shape)) for name, p in layer.named_parameters()]
    [('depthwise.weight', (3, 1, 3, 3)), ('pointwise.weight', (8, 3, 1, 1)), ('pointwise.bias', (8,))]
    >>> tuple(layer(minidl.zeros(2, 3, 5, 5)).shape)
    (2, 8, 5, 5)

    Try: SeparableConv2d(2, 3, 3)(randn(1, 2, 5, 5))
    """

    convolution = Conv2d


class SeparableConv1d(_Separable):
    """SeparableConv2d for signals.    (N, in_channels, L) -> (N, out_channels, M)

    Try: SeparableConv1d(2, 3, 3)(randn(1, 2, 6))
    """

    convolution = Conv1d
