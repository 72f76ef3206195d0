"""Layers for images that are another layer with its arguments fixed: Softmax2d, the two old upsamplings."""

from __future__ import annotations

from typing import Any

from minidl.nn import functional as F
from minidl.nn.module import Module
from minidl.nn.resampling import Upsample

__all__ = ["Softmax2d", "UpsamplingBilinear2d", "UpsamplingNearest2d"]


class Softmax2d(Module):
    """Softmax over the channels of each place.    (N, C, H, W) or (C, H, W) -> the same shape

    Try: Softmax2d()(randn(1, 3, 2, 2))
    """

    def forward(self, x: Any) -> Any:
        """(N, C, H, W) -> (N, C, H, W)"""
        if x.ndim not in (3, 4):
            raise ValueError(f"Softmax2d: expected input to be 3D or 4D, got {x.ndim}D instead")
        return F.softmax(x, -3)


class UpsamplingNearest2d(Upsample):
    """Upsample to the nearest pixel.    (N, C, H, W) -> (N, C, P, Q)

    Try: UpsamplingNearest2d(scale_factor=2)(randn(1, 2, 3, 3))
    """

    def __init__(self, size: Any = None, scale_factor: Any = None):
        super().__init__(size, scale_factor, "nearest")


class UpsamplingBilinear2d(Upsample):
    """Upsample by bilinear interpolation between corners that stay in place.    (N, C, H, W) -> (N, C, P, Q)

    Try: UpsamplingBilinear2d(scale_factor=2)(randn(1, 2, 3, 3))
    """

    def __init__(self, size: Any = None, scale_factor: Any = None):
        super().__init__(size, scale_factor, "bilinear", align_corners=True)
