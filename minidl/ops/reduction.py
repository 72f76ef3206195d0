"""What a loss makes of its elements: their mean, their sum, or the elements themselves."""

from __future__ import annotations

from typing import Any

from minidl.autograd import blame
from minidl.ops.reduce import mean, sum


def reduction_of(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """`reduction`, unless torch's older arguments are given: those say the same, and have a warning."""
    if size_average is None and reduce is None:
        return reduction
    if reduce is not None and not reduce:
        reduction = "none"
    else:
        reduction = "sum" if size_average is not None and not size_average else "mean"
    blame.warn(f"size_average and reduce args will be deprecated, please use reduction='{reduction}' instead.")
    return reduction


def reduced(loss: Any, reduction: str) -> Any:
    """The mean or the sum of a loss, or the loss itself ("none"). Raises ValueError for another word."""
    if reduction == "mean":
        return mean(loss)
    if reduction == "sum":
        return sum(loss)
    if reduction == "none":
        return loss
    raise ValueError(f"{reduction} is not a valid value for reduction: none, mean or sum")


def weighted(loss: Any, weight: Any, reduction: str) -> Any:
    """The same of weight * loss, the mean over the summed weights. ValueError for a weight of another shape."""
    if weight is None:
        return reduced(loss, reduction)
    if tuple(weight.shape) != tuple(loss.shape):
        raise ValueError(
            f"Weights and input must have the same size, got {tuple(weight.shape)} and {tuple(loss.shape)}"
        )
    total = reduced(weight * loss, "sum" if reduction == "mean" else reduction)
    return total / sum(weight) if reduction == "mean" else total
