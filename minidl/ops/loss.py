"""Losses: how far predictions are from targets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import devices, dtypes
from minidl.autograd import Op, ShapeError, blame, op
from minidl.ops import hints
from minidl.ops.activations import softplus
from minidl.ops.axes import movedim
from minidl.ops.common import total
from minidl.ops.copies import cast
from minidl.ops.exponentials import exp, log, log1p, sigmoid
from minidl.ops.limits import clamp
from minidl.ops.log_odds import xlogy
from minidl.ops.masks import where
from minidl.ops.reduce import sum
from minidl.ops.reduction import reduced, reduction_of, weighted
from minidl.ops.shapes import reshape
from minidl.ops.signs import abs
from minidl.ops.softmax import log_softmax, softmax
from minidl.ops.softmax_loss import softmax_loss
from minidl.tensors import Tensor, wrap


def _same_shape(name: str, x: Any, y: Any) -> None:
    """Warn of shapes that will broadcast, as torch does."""
    try:
        if tuple(x.shape) == tuple(y.shape):
            return
    except AttributeError as error:
        raise _not_tensors(name, x, y) from error
    x_shape, y_shape = tuple(x.shape), tuple(y.shape)
    blame.warn(
        f"{name}{blame.scope()}: the target's shape {y_shape} differs from the input's {x_shape}"
        f"{blame.came_from(x)}. They will broadcast, which is usually a mistake: (N, 1) against (N,) gives N x N "
        f"differences. Likely fix: {hints.same_shape(x_shape, y_shape)}"
    )


def _must_match(name: str, x: Any, y: Any) -> None:
    """Raise ShapeError unless the target has the input's shape."""
    try:
        if tuple(x.shape) == tuple(y.shape):
            return
    except AttributeError as error:
        raise _not_tensors(name, x, y) from error
    x_shape, y_shape = tuple(x.shape), tuple(y.shape)
    raise ShapeError(
        f"{name}{blame.scope()}: target size {y_shape} must be the same as input size {x_shape}{blame.came_from(x)}; "
        f"{hints.same_shape(x_shape, y_shape)}"
    )


def _one_dtype(name: str, input: Any, target: Any) -> None:
    """Raise RuntimeError unless the target has the input's dtype."""
    if input.dtype != target.dtype:
        raise RuntimeError(
            f"{name}{blame.scope()}: Found dtype {target.dtype} but expected {input.dtype}; "
            "write target.to(input.dtype)"
        )


def _not_tensors(name: str, x: Any, y: Any) -> Exception:
    """What to raise for an input or a target that is no Tensor."""
    bad, word = (x, "input") if not hasattr(x, "shape") else (y, "target")
    return blame.NotATensor(blame.not_a_tensor(f"{name}{blame.scope()}", bad, word))


def _made_by_op(x: Any, kind: Any) -> bool:
    """Whether a recorded Tensor is the very output of an op of that kind."""
    return isinstance(x, Tensor) and type(x._node) is kind


@op(namespace="nn.functional")
def mse_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", weight: Any = None
) -> Any:
    """(x - y)^2, reduced. Warns when the shapes differ.

    weight: one for each element of the input; the mean is then over the summed weights. ValueError for another shape.

    Try: mse_loss(randn(3, 4), randn(3, 4))
    """
    _same_shape("mse_loss", input, target)
    d = input - target
    return weighted(d * d, weight, reduction_of(size_average, reduce, reduction))


@op(namespace="nn.functional")
def l1_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", weight: Any = None
) -> Any:
    """|x - y|, reduced. Warns when the shapes differ. weight: as in mse_loss.

    Try: l1_loss(randn(3, 4), randn(3, 4))
    """
    _same_shape("l1_loss", input, target)
    return weighted(abs(input - target), weight, reduction_of(size_average, reduce, reduction))


@op(namespace="nn.functional")
def huber_loss(input: Any, target: Any, reduction: str = "mean", delta: float = 1.0, weight: Any = None) -> Any:
    """d^2 / 2 where |d| < delta, else delta (|d| - delta / 2), d = x - y; reduced. RuntimeError for delta <= 0.

    weight: one for each element of the input; the mean is over the elements, as torch has it here. ValueError for
    another shape.

    Try: huber_loss(randn(3, 4), randn(3, 4))
    """
    if delta <= 0:
        raise RuntimeError(f"huber_loss does not support non-positive values for delta, got {delta}")
    _same_shape("huber_loss", input, target)
    _one_dtype("huber_loss", input, target)
    a = abs(input - target)
    low = clamp(a, max=delta)
    loss = low * (a - 0.5 * low)
    return reduced(loss if weight is None else weighted(loss, weight, "none"), reduction)


@op(namespace="nn.functional")
def smooth_l1_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean", beta: float = 1.0
) -> Any:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, d = x - y; reduced.

    Try: smooth_l1_loss(randn(3, 4), randn(3, 4))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    _same_shape("smooth_l1_loss", input, target)
    a = abs(input - target)
    low = clamp(a, max=beta)
    return reduced(low * (a - 0.5 * low) / beta, reduction)


@op()
class pick_class(Op):
    """y[n] = -w[t[n]] logp[n, t[n]], 0 where t is `ignore_index`;    dlogp = -w[t] dy at t

    logp (N, C), t (N,) int, w (C,) array or None -> y (N,)

    Why: y is -w times one of the log-probabilities: that one gets -w dy, the others 0.
    Try: pick_class(randn(3, 4), randint(0, 4, (3,)).array, None, -100)
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
    """y[n, at[n]] = -weight[n] x[n], zeros elsewhere;    dx = -weight dy at `at`

    Why: each x goes to one place with the factor -weight, so its gradient is read there with that factor.
    Try: spread_class(randn(3), randint(0, 4, (3,)).array, ones(3).array, 4)
    """

    def forward(ctx, x: Any, at: Any, weight: Any, classes: int) -> Any:
        ctx.at, ctx.weight = at, weight
        y = devices.array_module(x).zeros((len(at), classes), x.dtype)
        y[np.arange(len(at)), at] = np.where(weight == 0, 0, -weight * x)  # 0 for ignored targets, even of a NaN
        return y

    def backward(ctx, dy: Any) -> Any:
        return -ctx.weight * dy[np.arange(len(ctx.at)), ctx.at]


def _classes(input: Any, target: Any, weight: Any, ignore_index: int, name: str) -> np.ndarray:
    """The class indices as a checked array."""
    t = target.array if isinstance(target, Tensor) else devices.as_array(target)
    c = input.shape[1] if input.ndim > 1 else input.shape[0]
    want = (input.shape[0], *input.shape[2:]) if input.ndim > 1 else ()
    if t.dtype not in (np.int64, np.uint8):
        place = f"{name}{blame.scope()}"
        or_else = " (or probabilities of the input's shape)" if name == "cross_entropy" else ""
        squeeze = ".squeeze(-1)" if t.shape == (*want, 1) else ""
        raise RuntimeError(
            f"{place}: expected int64 class indices of shape {want}{or_else}, got {t.dtype} {t.shape}; "
            + (
                f"target{squeeze}.long() makes class indices"
                if t.shape in (want, (*want, 1))
                else hints.labels(tuple(input.shape), t.shape, want)
            )
        )
    if t.shape != want:
        raise ShapeError(
            f"{name}{blame.scope()}: the input {tuple(input.shape)}{blame.came_from(input)} wants targets of shape "
            f"{want}, got {t.shape}; {hints.labels(tuple(input.shape), t.shape, want)}"
        )
    if weight is not None and tuple(weight.shape) != (c,):
        raise ShapeError(
            f"{name}{blame.scope()}: weight must have one entry for each of {c} classes, got {tuple(weight.shape)}"
        )
    if devices.is_cuda_array(t):
        kernels.check_index(name, "target", t, c, ignore_index)  # only while debugging: the host would have to wait
        return t
    bad = (t != ignore_index) & ((t < 0) | (t >= c))
    if bad.any():
        seen = t[t != ignore_index]
        first, least, most = int(t[bad].flat[0]), int(seen.min()), int(seen.max())
        raise IndexError(
            f"{name}{blame.scope()}: target {first} is out of bounds: the input {tuple(input.shape)}"
            f"{blame.came_from(input)} has {c} classes, 0 .. {c - 1}; {hints.class_range(first, least, most, c)}"
        )
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

    Try: nll_loss(randn(4, 3), randint(0, 3, (4,)))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if _made_by_op(input, softmax):
        blame.warn(
            f"nll_loss{blame.scope()}: the input is the output of {blame.made_by(input)}, but log-probabilities are "
            "expected: use log_softmax in its place, or cross_entropy on what softmax was given"
        )
    return _nll(input, _classes(input, target, weight, ignore_index, "nll_loss"), weight, ignore_index, reduction)


def _nll(input: Any, t: np.ndarray, weight: Any, ignore_index: int, reduction: str) -> Any:
    """nll_loss of checked classes t."""
    w = weight.array if isinstance(weight, Tensor) else weight
    c = input.shape[1] if input.ndim > 1 else input.shape[0]
    logp = reshape(input if input.ndim <= 2 else movedim(input, 1, -1), (-1, c))
    loss = pick_class(logp, t.reshape(-1), w, ignore_index)
    if reduction == "mean":
        keep = t != ignore_index
        if devices.is_cuda_array(t):  # stays there, so that the host need not wait; 0 / 0 where nothing is kept
            counts = keep if w is None else np.where(keep, w[np.where(keep, t, 0)], 0)
            count = counts.sum().astype(dtypes.as_numpy(loss.dtype))
            return sum(loss) / (wrap(count) if isinstance(loss, Tensor) else count)
        weights = keep.sum() if w is None else total(w[np.where(keep, t, 0)][keep])
        return sum(loss) / (float(weights) if weights else float("nan"))
    loss = reshape(loss, t.shape)
    return reduced(loss, reduction)


def _is_plain(input: Any, weight: Any, reduction: str, label_smoothing: float) -> bool:
    """Whether cross entropy is the mean over a batch of scores (N, C) and nothing more."""
    a = input.array if isinstance(input, Tensor) else input
    known = type(a) is np.ndarray or devices.is_cuda_array(a)
    fits = known and a.ndim == 2 and a.size > 0 and a.dtype.kind == "f" and a.dtype.itemsize > 2
    return fits and weight is None and reduction == "mean" and not label_smoothing


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

    Try: cross_entropy(randn(4, 3), randint(0, 3, (4,)))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if _made_by_op(input, softmax):
        blame.warn(
            f"cross_entropy{blame.scope()}: the input is the output of {blame.made_by(input)}, and the loss applies "
            "softmax itself: twice flattens the gradients. Give it the scores before softmax"
        )
    try:
        dim = 1 if input.ndim > 1 else 0
        same = tuple(input.shape) == tuple(target.shape)
        if not same and _is_plain(input, weight, reduction, label_smoothing):
            t = _classes(input, target, None, ignore_index, "cross_entropy")
            return softmax_loss(input, t, ignore_index)
        logp = log_softmax(input, dim)
    except AttributeError as error:
        raise _not_tensors("cross_entropy", input, target) from error
    except NotImplementedError as error:
        error.add_note("cross_entropy takes the model's scores first, then the labels: were they swapped?")
        raise
    if same and dtypes.as_numpy(target.dtype).kind == "f":
        if ignore_index >= 0:
            raise RuntimeError(
                f"cross_entropy{blame.scope()}: ignore_index is not supported for floating point target, which are "
                f"probabilities here; got {ignore_index}"
            )
        c = input.shape[dim]
        p = target if not label_smoothing else target * (1 - label_smoothing) + label_smoothing / c
        if weight is not None:
            p = p * reshape(weight, (c,) + (1,) * (input.ndim - 1 - dim))
        loss = -sum(p * logp, dim)
        if reduction == "mean":
            return sum(loss) / math.prod(loss.shape)  # NaN without any, as in torch
        return reduced(loss, reduction)
    t = _classes(input, target, weight, ignore_index, "cross_entropy")
    loss = _nll(logp, t, weight, ignore_index, reduction)
    if not label_smoothing:
        return loss
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
    """-(y log s(x) + (1 - y) log(1 - s(x))) as (1 - y) x + log(1 + e^-x), which does not overflow.

    Try: binary_cross_entropy_with_logits(randn(3, 4), rand(3, 4))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    _must_match("binary_cross_entropy_with_logits", input, target)
    if _made_by_op(input, sigmoid):
        blame.warn(
            f"binary_cross_entropy_with_logits{blame.scope()}: the input is the output of {blame.made_by(input)}, and "
            "the loss applies sigmoid itself: give it the scores before sigmoid, or use binary_cross_entropy"
        )
    tail = softplus(-input, 1.0, float("inf"))  # log(1 + e^-x)
    positive = 1.0 if pos_weight is None else (pos_weight - 1) * target + 1
    loss = (1 - target) * input + positive * tail
    if target.dtype != loss.dtype:  # as torch, which adds up in the target's dtype
        if dtypes.as_numpy(target.dtype).kind != "f":
            raise RuntimeError(
                f"binary_cross_entropy_with_logits{blame.scope()}: result type {loss.dtype} can't be cast to the "
                f"desired output type {target.dtype}: write target.to(input.dtype)"
            )
        loss = cast(loss, dtypes.as_numpy(target.dtype))
    return reduced(loss if weight is None else loss * weight, reduction)


@op(namespace="nn.functional")
def binary_cross_entropy(
    input: Any, target: Any, weight: Any = None, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Any:
    """-(y log p + (1 - y) log(1 - p)) for probabilities p; the logarithms stop at -100, as in torch.

    Raises RuntimeError when an input is outside [0, 1].

    Try: binary_cross_entropy(0.1 + 0.8 * rand(3, 4), rand(3, 4))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    _must_match("binary_cross_entropy", input, target)
    _one_dtype("binary_cross_entropy", input, target)
    p = input.array if isinstance(input, Tensor) else input
    if p.size and not ((p >= 0) & (p <= 1)).all():
        raise RuntimeError(
            f"binary_cross_entropy{blame.scope()}: all elements of input should be between 0 and 1, but "
            f"{tuple(p.shape)} reaches from {p.min():g} to {p.max():g}{blame.came_from(input)}; for logits use "
            "binary_cross_entropy_with_logits (BCEWithLogitsLoss), or put a sigmoid after the last layer"
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
    """y (log y - x) for log-probabilities x (and log y, with log_target); -y x where y is 0. "batchmean" divides by N.

    Try: kl_div(log_softmax(randn(3, 4), 1), softmax(randn(3, 4), 1), reduction='batchmean')
    """
    reduction = reduction_of(size_average, reduce, reduction)
    if log_target:
        loss = exp(target) * (target - input)
    else:
        if dtypes.as_numpy(target.dtype).kind != "f":
            raise RuntimeError(f"kl_div{blame.scope()}: Integral inputs not supported; write target.to(input.dtype)")
        loss = xlogy(target, target) - target * input
    if reduction == "batchmean":
        return sum(loss) / (input.shape[0] if input.ndim else 1)
    return reduced(loss, reduction)
