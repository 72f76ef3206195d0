"""Hinges over classes, as layers. ``reduction`` is "mean", "sum" or "none"."""

from __future__ import annotations

from typing import Any

from minidl.nn import functional as F
from minidl.nn.losses import _Loss

__all__ = ["MultiLabelMarginLoss", "MultiLabelSoftMarginLoss", "MultiMarginLoss"]


class MultiMarginLoss(_Loss):
    """sum over other classes c of w_t max(0, margin - x_t + x_c)^p, over C; Weston & Watkins 1999. p is 1 or 2.

    Try: MultiMarginLoss()(randn(3, 4), randint(0, 4, (3,)))
    """

    weight: Any

    def __init__(self, p: int = 1, margin: float = 1.0, weight: Any = None, *, reduction: str = "mean"):
        super().__init__(reduction)
        if p not in (1, 2):
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.ndim != 1:
            raise ValueError(f"MultiMarginLoss: expected weight to be None or 1D tensor, got {weight.ndim}D instead")
        self.p, self.margin = p, margin
        self._weight("weight", weight)

    def forward(self, input: Any, target: Any) -> Any:
        """(N, C), (N,) -> a scalar, or (N,) for "none"."""
        return F.multi_margin_loss(input, target, self.p, self.margin, self.weight, reduction=self.reduction)


class MultiLabelMarginLoss(_Loss):
    """sum over right classes t and wrong ones c of max(0, 1 - x_t + x_c), over C. Targets list classes, up to a -1.

    Try: MultiLabelMarginLoss()(randn(2, 4), tensor([[1, 3, -1, 0], [2, -1, 0, 0]]))
    """

    def __init__(self, *, reduction: str = "mean"):
        super().__init__(reduction)

    def forward(self, input: Any, target: Any) -> Any:
        """(N, C), (N, C) -> a scalar, or (N,) for "none"."""
        return F.multilabel_margin_loss(input, target, reduction=self.reduction)


class MultiLabelSoftMarginLoss(_Loss):
    """-(y ln sigmoid(x) + (1 - y) ln sigmoid(-x)), the mean over classes; `weight` (C,) rescales them.

    Try: MultiLabelSoftMarginLoss()(randn(3, 4), randint(0, 2, (3, 4)).float())
    """

    weight: Any

    def __init__(self, weight: Any = None, *, reduction: str = "mean"):
        super().__init__(reduction)
        self._weight("weight", weight)

    def forward(self, input: Any, target: Any) -> Any:
        """(N, C), (N, C) -> a scalar, or (N,) for "none"."""
        return F.multilabel_soft_margin_loss(input, target, self.weight, reduction=self.reduction)
