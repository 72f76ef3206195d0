"""Hinges over classes: the score of the right class, or of the right ones, above the others by a margin."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import op, require
from minidl.ops.activations import logsigmoid
from minidl.ops.indexing import getitem
from minidl.ops.masks import where
from minidl.ops.reduce import mean, sum
from minidl.ops.reduction import reduced, reduction_of
from minidl.ops.shapes import reshape, unsqueeze
from minidl.tensors import Tensor


def check_reduction(reduction: str) -> None:
    """Raise ValueError for what is no reduction."""
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction: none, mean or sum")


def _positive(gap: Any) -> Any:
    """The gap where it is above 0: NaN is not, and at 0 there is no slope."""
    return where(gap > 0, gap, 0.0)


def _classes(name: str, target: Any) -> np.ndarray:
    y = target.array if isinstance(target, Tensor) else np.asarray(target)
    if y.dtype.kind not in "iu":
        raise RuntimeError(f"{name}: expected integer classes, got {y.dtype}")
    return y


@op(namespace="nn.functional")
def multi_margin_loss(
    input: Any, target: Any, p: int = 1, margin: float = 1.0, weight: Any = None, size_average: Any = None,
    reduce: Any = None, reduction: str = "mean",
) -> Any:  # fmt: skip
    """sum over other classes c of w_t max(0, margin - x_t + x_c)^p, over C; Weston & Watkins 1999.

    input (N, C) or (C,), target (N,) or 0-d. Raises ValueError unless p is 1 or 2, RuntimeError for other shapes.

    Try: multi_margin_loss(randn(3, 4), randint(0, 4, (3,)))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if p not in (1, 2):
        raise ValueError("only p == 1 and p == 2 supported")
    check_reduction(reduction)
    if weight is not None and len(weight.shape) != 1:
        raise ValueError(f"multi_margin_loss: weight must be one-dimensional, got {tuple(weight.shape)}")
    y = _classes("multi_margin_loss", target)
    shape = tuple(input.shape) or (1,)
    single = len(shape) == 1
    rows = 1 if single else shape[0]
    require(
        len(shape) in (1, 2) and shape[-1] > 0 and y.size == rows and y.ndim <= 1,
        "multi_margin_loss: (N, C) with (N,) or (C,) with one class are expected, got {} and {}", shape, y.shape,
    )  # fmt: skip
    if weight is not None and tuple(weight.shape) != (shape[-1],):
        raise RuntimeError(
            f"multi_margin_loss: inconsistent weight size, expected {shape[-1]} but got {tuple(weight.shape)}"
        )
    result, xp = y.shape, devices.array_module(y)
    x, y = reshape(input, (rows, shape[-1])), y.reshape(-1)
    if y.size and (y.min() < 0 or y.max() >= shape[-1]):
        raise RuntimeError(f"multi_margin_loss: target {y} is out of range for {shape[-1]} classes")
    right = unsqueeze(getitem(x, (xp.arange(rows), y)), 1)
    gap = _positive(x - right + margin)
    gap = gap if p == 1 else gap * gap
    if weight is not None:
        gap = gap * unsqueeze(getitem(weight, y), 1)
    others = y[:, None] != xp.arange(shape[-1])
    loss = sum(where(others, gap, 0.0), 1) / shape[-1]
    return reduced(reshape(loss, result), reduction)


@op(namespace="nn.functional")
def multilabel_margin_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Any:
    """sum over right classes t and wrong ones c of max(0, 1 - x_t + x_c), over C.

    input (N, C) or (C,); target of its shape lists the right classes of an example, up to the first -1. Raises
    RuntimeError for other shapes or classes out of range.

    Try: multilabel_margin_loss(randn(2, 4), tensor([[1, 3, -1, 0], [2, -1, 0, 0]]))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    check_reduction(reduction)
    y = _classes("multilabel_margin_loss", target)
    y = y if len(input.shape) else y.reshape(-1)
    shape = tuple(input.shape) or (1,)
    require(
        len(shape) in (1, 2) and y.shape == shape, "multilabel_margin_loss: inconsistent target size {} for input {}",
        y.shape, shape,
    )  # fmt: skip
    classes = shape[-1]
    x, y = reshape(input, (-1, classes)), y.reshape(-1, classes)
    named = np.cumprod(y >= 0, 1).astype(bool)  # up to the first -1
    if (y[named] >= classes).any():
        raise RuntimeError(f"multilabel_margin_loss: a target is out of range for {classes} classes")
    xp = devices.array_module(y)
    at = xp.where(named, y, 0)
    wrong = xp.ones(y.shape, bool)
    wrong[xp.nonzero(named)[0], y[named]] = False
    right = getitem(x, (xp.arange(len(y))[:, None], at))  # N, C
    gap = _positive(1 - unsqueeze(right, 2) + unsqueeze(x, 1))
    loss = sum(where(named[:, :, None] & wrong[:, None, :], gap, 0.0), (1, 2)) / classes
    return reduced(reshape(loss, ()) if len(shape) == 1 else loss, reduction)


@op(namespace="nn.functional")
def multilabel_soft_margin_loss(
    input: Any, target: Any, weight: Any = None, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Any:
    """-(y ln sigmoid(x) + (1 - y) ln sigmoid(-x)), the mean over classes.    input, target (..., C)

    `weight` (C,) rescales the classes.

    Try: multilabel_soft_margin_loss(randn(3, 4), randint(0, 2, (3, 4)).float())
    """
    reduction = reduction_of(size_average, reduce, reduction)
    loss = -(target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    loss = loss if weight is None else loss * weight
    return reduced(mean(loss, -1), reduction)
