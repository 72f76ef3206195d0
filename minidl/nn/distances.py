"""Distances and similarities of pairs of vectors, and the windows of images, as layers."""

from __future__ import annotations

from typing import Any

from minidl.nn import functional as F
from minidl.nn.module import Module

__all__ = ["CosineSimilarity", "Fold", "PairwiseDistance", "Unfold"]


class PairwiseDistance(Module):
    """(sum |x1 - x2 + eps|^p)^(1/p) over the last dimension.    (N, D), (N, D) -> (N,)

    Try: PairwiseDistance()(randn(3, 4), randn(3, 4))
    """

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False):
        super().__init__()
        self.norm, self.eps, self.keepdim = p, eps, keepdim

    def forward(self, x1: Any, x2: Any) -> Any:
        """(N, D), (N, D) -> (N,), or (N, 1) with `keepdim`"""
        return F.pairwise_distance(x1, x2, self.norm, self.eps, self.keepdim)


class CosineSimilarity(Module):
    """x1 . x2 / (max(|x1|, eps) max(|x2|, eps)) along `dim`

    Try: CosineSimilarity()(randn(3, 4), randn(3, 4))
    """

    def __init__(self, dim: int = 1, eps: float = 1e-8):
        super().__init__()
        self.dim, self.eps = dim, eps

    def forward(self, x1: Any, x2: Any) -> Any:
        """Two of one shape, or that broadcast -> the same without `dim`"""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class Unfold(Module):
    """The windows of an image as columns (im2col).    (N, C, H, W) -> (N, C R S, P Q)

    Try: Unfold(2)(randn(1, 2, 4, 3))
    """

    def __init__(self, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1):
        super().__init__()
        self.kernel_size, self.dilation, self.padding, self.stride = kernel_size, dilation, padding, stride

    def forward(self, x: Any) -> Any:
        """(N, C, H, W) -> (N, C R S, P Q)"""
        return F.unfold(x, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, stride={self.stride}"


class Fold(Unfold):
    """Columns laid back as windows of an image of `output_size`, overlaps added.    (N, C R S, P Q) -> (N, C, H, W)

    Try: Fold((4, 3), 2)(randn(1, 8, 6))
    """

    def __init__(self, output_size: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1):
        super().__init__(kernel_size, dilation, padding, stride)
        self.output_size = output_size

    def forward(self, x: Any) -> Any:
        """(N, C R S, P Q) -> (N, C, H, W)"""
        return F.fold(x, self.output_size, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, {super().extra_repr()}"
