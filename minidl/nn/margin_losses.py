"""Losses on distances and rankings, as layers. ``reduction`` is "mean", "sum" or "none"."""

from __future__ import annotations

from typing import Any

from minidl.nn import functional as F
from minidl.nn.losses import _Loss, reduction_of

__all__ = ["CosineEmbeddingLoss", "HingeEmbeddingLoss", "MarginRankingLoss", "SoftMarginLoss", "TripletMarginLoss"]


class HingeEmbeddingLoss(_Loss):
    """x where y = 1, max(0, margin - x) where y = -1

    Try: HingeEmbeddingLoss()(randn(3, 4), sign(randn(3, 4)))
    """

    def __init__(self, margin: float = 1.0, size_average: Any = None, reduce: Any = None, reduction: str = "mean"):
        super().__init__(reduction_of(size_average, reduce, reduction))
        self.margin = margin

    def forward(self, input: Any, target: Any) -> Any:
        """Two of the same shape -> a scalar, or that shape for "none"."""
        return F.hinge_embedding_loss(input, target, self.margin, reduction=self.reduction)


class SoftMarginLoss(_Loss):
    """ln(1 + e^(-y x))

    Try: SoftMarginLoss()(randn(3, 4), sign(randn(3, 4)))
    """

    def __init__(self, size_average: Any = None, reduce: Any = None, reduction: str = "mean"):
        super().__init__(reduction_of(size_average, reduce, reduction))

    def forward(self, input: Any, target: Any) -> Any:
        """Two of the same shape -> a scalar, or that shape for "none"."""
        return F.soft_margin_loss(input, target, reduction=self.reduction)


class MarginRankingLoss(_Loss):
    """max(0, -y (x1 - x2) + margin), y = 1 if x1 should be the larger, else -1

    Try: MarginRankingLoss()(randn(5), randn(5), sign(randn(5)))
    """

    def __init__(self, margin: float = 0.0, size_average: Any = None, reduce: Any = None, reduction: str = "mean"):
        super().__init__(reduction_of(size_average, reduce, reduction))
        self.margin = margin

    def forward(self, input1: Any, input2: Any, target: Any) -> Any:
        """Three of the same shape -> a scalar, or that shape for "none"."""
        return F.margin_ranking_loss(input1, input2, target, self.margin, reduction=self.reduction)


class CosineEmbeddingLoss(_Loss):
    """1 - cos(x1, x2) where y = 1, max(0, cos(x1, x2) - margin) where y = -1

    Try: CosineEmbeddingLoss()(randn(4, 3), randn(4, 3), sign(randn(4)))
    """

    def __init__(self, margin: float = 0.0, size_average: Any = None, reduce: Any = None, reduction: str = "mean"):
        super().__init__(reduction_of(size_average, reduce, reduction))
        self.margin = margin

    def forward(self, input1: Any, input2: Any, target: Any) -> Any:
        """(N, D), (N, D), (N,) -> a scalar, or (N,) for "none"."""
        return F.cosine_embedding_loss(input1, input2, target, self.margin, reduction=self.reduction)


class TripletMarginLoss(_Loss):
    """max(0, |a - p| - |a - n| + margin): the positive nearer to the anchor than the negative; Schroff et al. 2015
    (arXiv:1503.03832). `swap`: the distance of positive and negative counts if it is less (Balntas et al. 2016).

    Try: TripletMarginLoss()(randn(4, 3), randn(4, 3), randn(4, 3))
    """

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: Any = None,
        reduce: Any = None,
        reduction: str = "mean",
    ):
        super().__init__(reduction_of(size_average, reduce, reduction))
        if margin <= 0:
            raise ValueError(f"TripletMarginLoss: expected margin to be greater than 0, found {margin} instead")
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor: Any, positive: Any, negative: Any) -> Any:
        """Three of (N, D) -> a scalar, or (N,) for "none"."""
        return F.triplet_margin_loss(
            anchor, positive, negative, self.margin, self.p, self.eps, self.swap, reduction=self.reduction
        )
