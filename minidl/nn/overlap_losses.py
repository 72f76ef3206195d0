"""FocalLoss and DiceLoss: losses for rare classes and for masks, as layers."""

from __future__ import annotations

from typing import Any

from minidl.nn.losses import _Loss
from minidl.ops.overlap_losses import dice_loss, sigmoid_focal_loss

__all__ = ["DiceLoss", "FocalLoss"]


class FocalLoss(_Loss):
    """-a (1 - p)^gamma ln p of logits, p the probability of the right answer; Lin et al. 2017 (arXiv:1708.02002).

    a is alpha for targets of 1 and 1 - alpha for 0, left out when alpha is negative.

    Try: FocalLoss()(randn(3, 4), randint(0, 2, (3, 4)).float())
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, input: Any, target: Any) -> Any:
        """Logits and zeros and ones of their shape -> a scalar, or that shape for "none"."""
        return sigmoid_focal_loss(input, target, self.alpha, self.gamma, self.reduction)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, gamma={self.gamma}"


class DiceLoss(_Loss):
    """1 - (2 sum p y + eps) / (sum p + sum y + eps) for each example, of probabilities; Milletari et al. 2016
    (arXiv:1606.04797).

    Try: DiceLoss()(randn(3, 4), rand(3, 4))
    """

    def __init__(self, eps: float = 1e-7, *, reduction: str = "mean"):
        super().__init__(reduction)
        self.eps = eps

    def forward(self, input: Any, target: Any) -> Any:
        """(N, ...), (N, ...) -> a scalar, or (N,) for "none"."""
        return dice_loss(input, target, self.eps, self.reduction)

    def extra_repr(self) -> str:
        return f"eps={self.eps}"
