"""Losses: how far predictions are from targets."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import Op, op, require
from minidl.ops.activations import softplus
from minidl.ops.axes import movedim
from minidl.ops.common import total
from minidl.ops.exponentials import exp, log, log1p
from minidl.ops.limits import clamp
from minidl.ops.masks import where
from minidl.ops.reduce import mean, sum
from minidl.ops.shapes import reshape
from minidl.ops.signs import abs
from minidl.ops.softmax import log_softmax
from minidl.tensors import Tensor


def reduced(loss: Any, reduction: str) -> Any:
    """The mean or the sum of a loss, or the loss itself ("none"). Raises ValueError for another word."""
    if reduction == "mean":
        return mean(loss)
    if reduction == "sum":
        return sum(loss)
    if reduction == "none":
        return loss
    raise ValueError(f"{reduction} is not a valid value for reduction: none, mean or sum")


def _same_shape(name: str, x: Any, y: Any) -> None:
    if tuple(x.shape) != tuple(y.shape):
        warnings.warn(
            f"{name}: the target's shape {tuple(y.shape)} differs from the input's {tuple(x.shape)}. They will "
            f"broadcast, "
            "which is usually a mistake: (N, 1) against (N,) gives N x N differences. Make them the same with "
            "reshape or "
            "squeeze.",
            UserWarning,
            stacklevel=4,
        )


@op(namespace="nn.functional")
def mse_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """(x - y)^2, reduced. Warns when the shapes differ."""
    _same_shape("mse_loss", input, target)
    d = input - target
    return reduced(d * d, reduction)


@op(namespace="nn.functional")
def l1_loss(input: Any, target: Any, reduction: str = "mean") -> Any:
    """|x - y|, reduced. Warns when the shapes differ."""
    _same_shape("l1_loss", input, target)
    return reduced(abs(input - target), reduction)


@op(namespace="nn.functional")
def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """d^2 / 2 where |d| < delta, else delta (|d| - delta / 2), d = x - y; reduced. RuntimeError for delta <= 0."""
    if delta <= 0:
        raise RuntimeError(f"huber_loss does not support non-positive values for delta, got {delta}")
    _same_shape("huber_loss", input, target)
    a = abs(input - target)
    low = clamp(a, max=delta)
    return reduced(low * (a - 0.5 * low), reduction)


@op(namespace="nn.functional")
def smooth_l1_loss(input: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, d = x - y; reduced."""
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    if beta == 0:
        return l1_loss(input, target, reduction)
    _same_shape("smooth_l1_loss", input, target)
    a = abs(input - target)
    low = clamp(a, max=beta)
    return reduced(low * (a - 0.5 * low) / beta, reduction)


@op()
class pick_class(Op):
    """y[n] = -w[t[n]] logp[n, t[n]], 0 where t is `ignore_index`;    dlogp = -w[t] dy at t

    logp (N, C), t (N,) int, w (C,) array or None -> y (N,)
    """

    def forward(ctx, logp: Any, t: Any, w: Any, ignore_index: int) -> Any:
        keep = t != ignore_index
        at = np.where(keep, t, 0)
        ctx.at, ctx.classes = at, logp.shape[1]
        ctx.weight = keep.astype(logp.dtype) if w is None else np.where(keep, w[at], 0).astype(logp.dtype)
        picked = logp[np.arange(len(at)), at]
        return np.where(keep, -ctx.weight * picked, 0).astype(logp.dtype, copy=False)

    def backward(ctx, dy: Any) -> Any:
        return spread_class(dy, ctx.at, ctx.weight, ctx.classes)


@op()
class spread_class(Op):
    """y[n, at[n]] = -weight[n] x[n], zeros elsewhere;    dx = -weight dy at `at`"""

    def forward(ctx, x: Any, at: Any, weight: Any, classes: int) -> Any:
        ctx.at, ctx.weight = at, weight
        y = np.zeros((len(at), classes), x.dtype)
        y[np.arange(len(at)), at] = np.where(weight == 0, 0, -weight * x)  # 0 for ignored targets, even of a NaN
        return y

    def backward(ctx, dy: Any) -> Any:
        return -ctx.weight * dy[np.arange(len(ctx.at)), ctx.at]


def _classes(input: Any, target: Any, weight: Any, ignore_index: int, name: str) -> np.ndarray:
    """The class indices as a checked array."""
    t = target.array if isinstance(target, Tensor) else np.asarray(target)
    if t.dtype.kind not in "iu":
        raise RuntimeError(
            f"{name}: expected int64 class indices (or probabilities of the input's shape), got {t.dtype} {t.shape}"
        )
    c = input.shape[1] if input.ndim > 1 else input.shape[0]
    want = (input.shape[0], *input.shape[2:]) if input.ndim > 1 else ()
    require(
        tuple(t.shape) == tuple(want),
        "{}: the input {} wants targets of shape {}, got {}",
        name,
        tuple(input.shape),
        tuple(want),
        t.shape,
    )
    require(
        weight is None or tuple(weight.shape) == (c,), "{}: weight must have one entry for each of {} classes", name, c
    )
    bad = (t != ignore_index) & ((t < 0) | (t >= c))
    if bad.any():
        raise IndexError(f"{name}: target {int(t[bad].flat[0])} is out of bounds: there are {c} classes, 0 .. {c - 1}")
    return t


@op(namespace="nn.functional")
def nll_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
) -> Any:
    """-w[t] logp[t]; the mean is over the summed weights.

    input (N, C, ...) log-probabilities or (C,), target (N, ...) class indices. Raises IndexError for a class out
    of range.
    """
    t = _classes(input, target, weight, ignore_index, "nll_loss")
    w = weight.array if isinstance(weight, Tensor) else weight
    c = input.shape[1] if input.ndim > 1 else input.shape[0]
    logp = reshape(input if input.ndim <= 2 else movedim(input, 1, -1), (-1, c))
    loss = pick_class(logp, t.reshape(-1), w, ignore_index)
    if reduction == "mean":
        keep = t != ignore_index
        weights = keep.sum() if w is None else total(w[np.where(keep, t, 0)][keep])
        return sum(loss) / (float(weights) if weights else float("nan"))
    loss = reshape(loss, t.shape)
    return reduced(loss, reduction)


@op(namespace="nn.functional")
def cross_entropy(
    input: Any,
    target: Any,
    weight: Any = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Any:
    """-log softmax(x)[t]: negative log likelihood of the targets under logits x.

    input (N, C, ...) or (C,); target class indices (N, ...), or probabilities of the input's shape. With smoothing
    s the target is (1 - s) onehot + s / C. Raises IndexError for a class out of range, RuntimeError for shapes that do
    not fit.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    dim = 1 if input.ndim > 1 else 0
    logp = log_softmax(input, dim)
    if tuple(input.shape) == tuple(target.shape) and dtypes.as_numpy(target.dtype).kind == "f":
        c = input.shape[dim]
        p = target if not label_smoothing else target * (1 - label_smoothing) + label_smoothing / c
        if weight is not None:
            p = p * reshape(weight, (c,) + (1,) * (input.ndim - 1 - dim))
        loss = -sum(p * logp, dim)
        if reduction == "mean":
            return sum(loss) / max(1, loss.numel() if isinstance(loss, Tensor) else loss.size)
        return reduced(loss, reduction)
    loss = nll_loss(logp, target, weight, ignore_index=ignore_index, reduction=reduction)
    if not label_smoothing:
        return loss
    t = _classes(input, target, weight, ignore_index, "cross_entropy")
    w = weight.array if isinstance(weight, Tensor) else weight
    keep = t != ignore_index
    weighted = logp if w is None else logp * w.reshape((-1,) + (1,) * (input.ndim - 1 - dim))
    smooth = where(keep, -sum(weighted, dim), 0.0)
    if reduction == "mean":
        weights = keep.sum() if w is None else total(w[np.where(keep, t, 0)][keep])
        smooth = sum(smooth) / float(weights)
    else:
        smooth = reduced(smooth, reduction)
    c = input.shape[dim]
    return loss * (1 - label_smoothing) + smooth * (label_smoothing / c)


@op(namespace="nn.functional")
def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, size_average: Any = None, reduce: Any = None, reduction: str = "mean",
    pos_weight: Any = None,
) -> Any:  # fmt: skip
    """-(y log s(x) + (1 - y) log(1 - s(x))) as (1 - y) x + log(1 + e^-x), which does not overflow."""
    require(
        tuple(input.shape) == tuple(target.shape),
        "Target size {} must be the same as input size {}",
        tuple(target.shape),
        tuple(input.shape),
    )
    tail = softplus(-input, 1.0, float("inf"))  # log(1 + e^-x)
    positive = 1.0 if pos_weight is None else (pos_weight - 1) * target + 1
    loss = (1 - target) * input + positive * tail
    return reduced(loss if weight is None else loss * weight, reduction)


@op(namespace="nn.functional")
def binary_cross_entropy(
    input: Any, target: Any, weight: Any = None, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Any:
    """-(y log p + (1 - y) log(1 - p)) for probabilities p; the logarithms stop at -100, as in torch.

    Raises RuntimeError when an input is outside [0, 1].
    """
    require(
        tuple(input.shape) == tuple(target.shape),
        "target size {} differs from input size {}",
        tuple(target.shape),
        tuple(input.shape),
    )
    p = input.array if isinstance(input, Tensor) else input
    if p.size and not ((p >= 0) & (p <= 1)).all():
        raise RuntimeError(
            "binary_cross_entropy: all elements of input should be between 0 and 1 (logits? use ..._with_logits)"
        )
    loss = -(target * clamp(log(input), -100.0) + (1 - target) * clamp(log1p(-input), -100.0))
    return reduced(loss if weight is None else loss * weight, reduction)


@op(namespace="nn.functional")
def kl_div(
    input: Any,
    target: Any,
    size_average: Any = None,
    reduce: Any = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Any:
    """y (log y - x) for log-probabilities x (and log y, with log_target); 0 where y is 0. "batchmean" divides by N."""
    if log_target:
        loss = exp(target) * (target - input)
    else:
        zero = target == 0
        loss = where(zero, 0.0, target * (log(where(zero, 1.0, target)) - input))
    if reduction == "batchmean":
        return sum(loss) / input.shape[0]
    return reduced(loss, reduction)
