"""Layers that change the resolution of images and signals, or shuffle channels."""

from __future__ import annotations

from typing import Any

from minidl.nn import functional as F
from minidl.nn.conv import _Conv, ntuple
from minidl.nn.module import Module

__all__ = [
    "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "ChannelShuffle", "ConvTranspose1d", "PixelShuffle", "PixelUnshuffle",
    "Upsample",
]  # fmt: skip


class Upsample(Module):
    """F.interpolate as a layer: to a `size`, or by a `scale_factor`, by "nearest", "linear", "bilinear" ...

    Try: Upsample(scale_factor=2)(randn(1, 2, 3, 3))
    """

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest", align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ):  # fmt: skip
        super().__init__()
        self.size, self.mode, self.align_corners = size, mode, align_corners
        many = isinstance(scale_factor, (tuple, list))
        self.scale_factor = tuple(float(s) for s in scale_factor) if many else scale_factor and float(scale_factor)
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: Any) -> Any:
        """(N, C, ...) -> (N, C, ...)"""
        return F.interpolate(
            input, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )

    def extra_repr(self) -> str:
        how = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{how}, mode={self.mode!r}"


class PixelShuffle(Module):
    """(N, C r^2, H, W) -> (N, C, r H, r W); Shi et al. 2016 (arXiv:1609.05158)

    Try: PixelShuffle(2)(randn(1, 8, 2, 3))
    """

    def __init__(self, upscale_factor: int):
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Any) -> Any:
        """(N, C r^2, H, W) -> (N, C, r H, r W)"""
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(N, C, r H, r W) -> (N, C r^2, H, W): the inverse of PixelShuffle.

    Try: PixelUnshuffle(2)(randn(1, 2, 4, 6))
    """

    def __init__(self, downscale_factor: int):
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Any) -> Any:
        """(N, C, r H, r W) -> (N, C r^2, H, W)"""
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class ChannelShuffle(Module):
    """Channel i of group g becomes channel g of group i; Zhang et al. 2018 (arXiv:1707.01083)

    Try: ChannelShuffle(3)(randn(1, 6, 2, 2))
    """

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, input: Any) -> Any:
        """(N, C, ...) -> the same shape"""
        return F.channel_shuffle(input, self.groups)

    def extra_repr(self) -> str:
        return f"groups={self.groups}"


class _AdaptiveMax(Module):
    def __init__(self, output_size: Any, return_indices: bool = False):
        super().__init__()
        self.output_size, self.return_indices = output_size, return_indices

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptiveMax):
    """The largest of each of output_size regions of a signal.    (N, C, L) -> (N, C, output_size)

    Try: AdaptiveMaxPool1d(2)(randn(1, 2, 5))
    """

    def forward(self, input: Any) -> Any:
        """(N, C, L) -> (N, C, output_size), and the places if `return_indices`"""
        return F.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(_AdaptiveMax):
    """The largest of each of P x Q regions of an image; None keeps a size.    (N, C, H, W) -> (N, C, P, Q)

    Try: AdaptiveMaxPool2d(2)(randn(1, 2, 5, 4))
    """

    def forward(self, input: Any) -> Any:
        """(N, C, H, W) -> (N, C, P, Q), and the places if `return_indices`"""
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class ConvTranspose1d(_Conv):
    """The gradient of a Conv1d as a layer: it makes signals longer.    (N, in_channels, L) -> (N, out_channels, M)

    M = (L - 1) stride - 2 padding + dilation (kernel_size - 1) + output_padding + 1; weight (in, out / groups, K).

    Try: ConvTranspose1d(2, 3, 2)(randn(1, 2, 4))
    """

    dims = 1
    transposed = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any = 1, padding: Any = 0,
        output_padding: Any = 0, groups: int = 1, bias: bool = True, dilation: Any = 1, padding_mode: str = "zeros",
        device: Any = None, dtype: Any = None,
    ):  # fmt: skip
        if isinstance(padding, str):
            raise ValueError(f"ConvTranspose1d takes padding as numbers, not {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                         output_padding, device, dtype)  # fmt: skip

    def forward(self, input: Any, output_size: Any = None) -> Any:
        """(N, C, L) -> (N, K, M). `output_size` (M,) picks among the sizes that stride leaves open."""
        extra = self.output_padding
        if output_size is not None:
            (want,) = ntuple(output_size if isinstance(output_size, int) else tuple(output_size)[-1:], 1, "output_size")
            (stride,), (padding,), (dilation,), (size,) = self.stride, self.padding, self.dilation, self.kernel_size
            least = (input.shape[-1] - 1) * stride - 2 * padding + dilation * (size - 1) + 1
            if not least <= want < least + stride:
                raise ValueError(
                    f"requested an output size of {want}, but an input of {tuple(input.shape)} can only become "
                    f"{least} .. {least + stride - 1}"
                )
            extra = (want - least,)
        return F.conv_transpose1d(
            input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation
        )
