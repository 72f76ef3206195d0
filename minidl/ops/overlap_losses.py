"""Losses for rare classes and for masks: focal loss, Dice loss."""

from __future__ import annotations

from typing import Any

from minidl.autograd import op, require
from minidl.ops.exponentials import sigmoid
from minidl.ops.loss import binary_cross_entropy_with_logits
from minidl.ops.reduce import sum
from minidl.ops.reduction import reduced


@op(namespace="nn.functional")
def sigmoid_focal_loss(
    inputs: Any, targets: Any, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Any:
    """-a (1 - p)^gamma ln p, p the probability of the right answer: easy examples count less; Lin et al. 2017
    (arXiv:1708.02002).

    inputs are logits, targets 0 or 1 of their shape; a is alpha for 1 and 1 - alpha for 0, left out when alpha is
    negative. torchvision's name and defaults.

    Try: sigmoid_focal_loss(randn(3, 4), randint(0, 2, (3, 4)).float())
    """
    p = sigmoid(inputs)
    loss = binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    wrong = p + targets - 2 * (p * targets)  # 1 - p for a 1, p for a 0
    loss = loss * wrong**gamma
    if alpha >= 0:
        loss = loss * (alpha * targets + (1 - alpha) * (1 - targets))
    return reduced(loss, reduction)


@op(namespace="nn.functional")
def dice_loss(input: Any, target: Any, eps: float = 1e-7, reduction: str = "mean") -> Any:
    """1 - (2 sum p y + eps) / (sum p + sum y + eps) for each example; Milletari et al. 2016 (arXiv:1606.04797).

    input (N, ...) probabilities, target of the same shape; "none" gives (N,). Raises RuntimeError for other shapes.

    Try: dice_loss(randn(3, 4), rand(3, 4))
    """
    require(
        tuple(input.shape) == tuple(target.shape) and len(input.shape) > 0,
        "dice_loss: (N, ...) and targets of the same shape are expected, got {} and {}",
        tuple(input.shape),
        tuple(target.shape),
    )
    dims = tuple(range(1, len(input.shape)))
    if not dims:
        return dice_loss(input.reshape(1, -1), target.reshape(1, -1), eps, reduction)
    overlap, both = sum(input * target, dims), sum(input, dims) + sum(target, dims)
    return reduced(1 - (2 * overlap + eps) / (both + eps), reduction)
