"""Losses of a predicted distribution, and the triplet loss with a distance of one's own, as layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl.nn import functional as F
from minidl.nn.distances import PairwiseDistance
from minidl.nn.losses import _Loss
from minidl.nn.module import Module

__all__ = ["GaussianNLLLoss", "PoissonNLLLoss", "TripletMarginWithDistanceLoss"]


class GaussianNLLLoss(_Loss):
    """(ln var + (x - y)^2 / var) / 2 for predicted means and variances; `full` adds ln(2 pi) / 2.

    Try: GaussianNLLLoss()(randn(4, 3), randn(4, 3), rand(4, 3) + 0.5)
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean"):
        super().__init__(reduction)
        self.full, self.eps = full, eps

    def forward(self, input: Any, target: Any, var: Any) -> Any:
        """Means, values and variances -> a scalar, or their shape for "none"."""
        return F.gaussian_nll_loss(input, target, var, self.full, self.eps, self.reduction)


class PoissonNLLLoss(_Loss):
    """e^x - y x of predicted logarithms of rates, or x - y ln(x + eps) of rates; `full` adds Stirling's ln y!

    Try: PoissonNLLLoss()(randn(4, 3), rand(4, 3) + 0.5)
    """

    def __init__(self, log_input: bool = True, full: bool = False, *, eps: float = 1e-8, reduction: str = "mean"):
        super().__init__(reduction)
        self.log_input, self.full, self.eps = log_input, full, eps

    def forward(self, input: Any, target: Any) -> Any:
        """Two of the same shape -> a scalar, or that shape for "none"."""
        return F.poisson_nll_loss(
            input, target, log_input=self.log_input, full=self.full, eps=self.eps, reduction=self.reduction
        )


class TripletMarginWithDistanceLoss(_Loss):
    """max(0, d(a, p) - d(a, n) + margin) with any distance d, by default PairwiseDistance; see TripletMarginLoss.

    Try: TripletMarginWithDistanceLoss()(randn(4, 3), randn(4, 3), randn(4, 3))
    """

    def __init__(
        self, *, distance_function: Callable | None = None, margin: float = 1.0, swap: bool = False,
        reduction: str = "mean",
    ):  # fmt: skip
        super().__init__(reduction)
        if margin <= 0:
            raise ValueError(f"TripletMarginWithDistanceLoss: expected margin to be greater than 0, found {margin}")
        self.distance_function: Callable | Module = (
            PairwiseDistance() if distance_function is None else distance_function
        )
        self.margin, self.swap = margin, swap

    def forward(self, anchor: Any, positive: Any, negative: Any) -> Any:
        """Three of (N, D) -> a scalar, or (N,) for "none"."""
        return F.triplet_margin_with_distance_loss(
            anchor, positive, negative, distance_function=self.distance_function, margin=self.margin, swap=self.swap,
            reduction=self.reduction,
        )  # fmt: skip
