"""Losses as layers. ``reduction`` is "mean", "sum" or "none"; torch's older size_average and reduce say the same."""

from __future__ import annotations

from typing import Any

from minidl.nn.module import Module
from minidl.ops import loss
from minidl.ops import reduction as reductions
from minidl.tensors import Tensor


def reduction_of(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """`reduction` of a layer, which is made without tensors."""
    if isinstance(size_average, Tensor) or isinstance(reduce, Tensor):
        raise RuntimeError(
            "a loss layer is made first, then called: nn.MSELoss()(prediction, target), and not given the tensors when "
            "it is made; without a layer it is nn.functional.mse_loss(prediction, target)"
        )
    return reductions.reduction_of(size_average, reduce, reduction)


class _Loss(Module):
    reductions: tuple[str, ...] = ("none", "mean", "sum")

    def __init__(self, reduction: str):
        super().__init__()
        if reduction not in self.reductions:
            raise ValueError(f"{reduction} is not a valid value for reduction: one of {self.reductions}")
        self.reduction = reduction

    def _weight(self, name: str, value: Any) -> None:
        """A constant that moves with the module and is saved with it."""
        self.register_buffer(name, value if value is None or isinstance(value, Tensor) else Tensor(value))


class MSELoss(_Loss):
    """(x - y)^2

    Try: MSELoss()(randn(3, 4), randn(3, 4))
    """

    def __init__(self, size_average: Any = None, reduce: Any = None, reduction: str = "mean"):
        super().__init__(reduction_of(size_average, reduce, reduction))

    def forward(self, input: Any, target: Any) -> Any:
        """Two of the same shape -> a scalar, or that shape for "none"."""
        return loss.mse_loss(input, target, reduction=self.reduction)


class L1Loss(_Loss):
    """|x - y|

    Try: L1Loss()(randn(3, 4), randn(3, 4))
    """

    def __init__(self, size_average: Any = None, reduce: Any = None, reduction: str = "mean"):
        super().__init__(reduction_of(size_average, reduce, reduction))

    def forward(self, input: Any, target: Any) -> Any:
        """Two of the same shape -> a scalar, or that shape for "none"."""
        return loss.l1_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, d = x - y; Girshick 2015 (arXiv:1504.08083)

    Try: SmoothL1Loss()(randn(3, 4), randn(3, 4))
    """

    def __init__(self, size_average: Any = None, reduce: Any = None, reduction: str = "mean", beta: float = 1.0):
        super().__init__(reduction_of(size_average, reduce, reduction))
        self.beta = beta

    def forward(self, input: Any, target: Any) -> Any:
        """Two of the same shape -> a scalar, or that shape for "none"."""
        return loss.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(_Loss):
    """d^2 / 2 where |d| < delta, else delta (|d| - delta / 2), d = x - y; Huber 1964

    Try: HuberLoss()(randn(3, 4), randn(3, 4))
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0):
        super().__init__(reduction)
        if delta <= 0:
            raise ValueError(f"huber_loss does not support non-positive values for delta, got {delta}")
        self.delta = delta

    def forward(self, input: Any, target: Any) -> Any:
        """Two of the same shape -> a scalar, or that shape for "none"."""
        return loss.huber_loss(input, target, self.reduction, self.delta)


class CrossEntropyLoss(_Loss):
    """-log softmax(x)[t], of logits x (N, C, ...) and classes t (N, ...), or probabilities t of x's shape.

    Args:
        weight: a weight for each class (C,).
        ignore_index: targets of this value do not count.
        label_smoothing: s in [0, 1]: the target is (1 - s) onehot + s / C.

    Raises IndexError for a class out of range, RuntimeError for shapes that do not fit.

    Try: CrossEntropyLoss()(randn(4, 3), randint(0, 3, (4,)))
    """

    weight: Any

    def __init__(
        self, weight: Any = None, size_average: Any = None, ignore_index: int = -100, reduce: Any = None,
        reduction: str = "mean", label_smoothing: float = 0.0,
    ):  # fmt: skip
        super().__init__(reduction_of(size_average, reduce, reduction))
        self._weight("weight", weight)
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, input: Any, target: Any) -> Any:
        """(N, C, ...), (N, ...) -> a scalar, or (N, ...) for "none"."""
        return loss.cross_entropy(
            input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )  # fmt: skip


class NLLLoss(_Loss):
    """-w[t] logp[t], of log-probabilities (N, C, ...) and classes t (N, ...). Arguments as CrossEntropyLoss's.

    Try: NLLLoss()(randn(4, 3), randint(0, 3, (4,)))
    """

    weight: Any

    def __init__(
        self, weight: Any = None, size_average: Any = None, ignore_index: int = -100, reduce: Any = None,
        reduction: str = "mean",
    ):  # fmt: skip
        super().__init__(reduction_of(size_average, reduce, reduction))
        self._weight("weight", weight)
        self.ignore_index = ignore_index

    def forward(self, input: Any, target: Any) -> Any:
        """(N, C, ...), (N, ...) -> a scalar, or (N, ...) for "none"."""
        return loss.nll_loss(input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class BCELoss(_Loss):
    """-(y log p + (1 - y) log(1 - p)) of probabilities p; logarithms stop at -100. `weight` rescales the elements.

    Try: BCELoss()(0.1 + 0.8 * rand(3, 4), rand(3, 4))
    """

    weight: Any

    def __init__(self, weight: Any = None, size_average: Any = None, reduce: Any = None, reduction: str = "mean"):
        super().__init__(reduction_of(size_average, reduce, reduction))
        self._weight("weight", weight)

    def forward(self, input: Any, target: Any) -> Any:
        """Two of the same shape -> a scalar, or that shape for "none"."""
        return loss.binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """BCELoss of sigmoid(x), computed so that it does not overflow. `pos_weight` multiplies the term of the ones.

    Try: BCEWithLogitsLoss()(randn(3, 4), rand(3, 4))
    """

    weight: Any
    pos_weight: Any

    def __init__(
        self, weight: Any = None, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
        pos_weight: Any = None,
    ):  # fmt: skip
        super().__init__(reduction_of(size_average, reduce, reduction))
        self._weight("weight", weight)
        self._weight("pos_weight", pos_weight)

    def forward(self, input: Any, target: Any) -> Any:
        """Two of the same shape -> a scalar, or that shape for "none"."""
        return loss.binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class KLDivLoss(_Loss):
    """y (log y - x) of log-probabilities x and probabilities y (or their logarithms, with log_target).

    "batchmean" divides the sum by N: that is the divergence; "mean" divides by all elements.

    Try: KLDivLoss(reduction='batchmean')(log_softmax(randn(3, 4), 1), softmax(randn(3, 4), 1))
    """

    reductions = ("none", "mean", "sum", "batchmean")

    def __init__(self, size_average: Any = None, reduce: Any = None, reduction: str = "mean", log_target: bool = False):
        super().__init__(reduction_of(size_average, reduce, reduction))
        self.log_target = log_target

    def forward(self, input: Any, target: Any) -> Any:
        """Two of the same shape -> a scalar, or that shape for "none"."""
        return loss.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)
