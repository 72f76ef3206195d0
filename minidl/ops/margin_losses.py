"""Losses of pairs and triples: how far apart what should differ is, and how near what should agree."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from minidl import dtypes
from minidl.autograd import op, require
from minidl.ops.activations import logsigmoid
from minidl.ops.arithmetic import minimum
from minidl.ops.common import broadcast
from minidl.ops.copies import cast
from minidl.ops.distances import pairwise_distance
from minidl.ops.limits import clamp
from minidl.ops.masks import where
from minidl.ops.powers import sqrt
from minidl.ops.reduce import sum
from minidl.ops.reduction import reduced, reduction_of


@op(namespace="nn.functional")
def margin_ranking_loss(
    input1: Any, input2: Any, target: Any, margin: float = 0, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Any:  # fmt: skip
    """max(0, margin - y (a - b)): y = 1 wants a above b, y = -1 below, by the margin.

    Try: margin_ranking_loss(randn(5), randn(5), sign(randn(5)))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    require(
        len(input1.shape) == len(input2.shape) == len(target.shape),
        "margin_ranking_loss: all must have the same number of dimensions, got {}, {} and {}",
        tuple(input1.shape),
        tuple(input2.shape),
        tuple(target.shape),
    )
    return reduced(clamp(-target * (input1 - input2) + float(margin), min=0), reduction)


@op(namespace="nn.functional")
def hinge_embedding_loss(
    input: Any, target: Any, margin: float = 1.0, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Any:
    """x where y = 1, max(0, margin - x) where y = -1, for distances x.

    Try: hinge_embedding_loss(randn(3, 4), sign(randn(3, 4)))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    far = where(target == 1, 0, clamp(margin - input, min=0))
    near = where(target == -1, 0, input)
    return reduced(near + far, reduction)


@op(namespace="nn.functional")
def cosine_embedding_loss(
    input1: Any, input2: Any, target: Any, margin: float = 0, size_average: Any = None, reduce: Any = None,
    reduction: str = "mean",
) -> Any:  # fmt: skip
    """1 - cos(a, b) where y = 1, max(0, cos(a, b) - margin) where y = -1.

    a, b (N, D) with y (N,), or (D,) with a 0-d y. Raises RuntimeError for other shapes.

    Try: cosine_embedding_loss(randn(4, 3), randn(4, 3), sign(randn(4)))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    n = len(target.shape)
    require(
        n in (0, 1)
        and len(input1.shape) == len(input2.shape) == n + 1
        and broadcast(tuple(input1.shape[:-1]), tuple(target.shape)) is not None,
        "cosine_embedding_loss: (D,) with 0-d targets or (N, D) with (N,) are expected, got {}, {} and {}",
        tuple(input1.shape),
        tuple(input2.shape),
        tuple(target.shape),
    )
    tiny = 1e-12  # as in torch: added to the squares, so that the root has a slope
    square1, square2 = sum(input1 * input1, -1) + tiny, sum(input2 * input2, -1) + tiny
    cosine = sum(input1 * input2, -1) / sqrt(square1 * square2)
    near = where(target == 1, 1 - cosine, 0.0)
    far = where(target == -1, clamp(cosine - margin, min=0), 0.0)
    return reduced(near + far, reduction)


@op(namespace="nn.functional")
def triplet_margin_loss(
    anchor: Any, positive: Any, negative: Any, margin: float = 1.0, p: float = 2, eps: float = 1e-6, swap: bool = False,
    size_average: Any = None, reduce: Any = None, reduction: str = "mean",
) -> Any:  # fmt: skip
    """max(0, |a - p| - |a - n| + margin): an anchor is nearer to its own kind than to another; Schroff et al. 2015
    (arXiv:1503.03832).

    With swap the smaller of |a - n| and |p - n| counts.

    Try: triplet_margin_loss(randn(4, 3), randn(4, 3), randn(4, 3))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    return triplet_margin_with_distance_loss(
        anchor, positive, negative, distance_function=lambda a, b: pairwise_distance(a, b, p, eps), margin=margin,
        swap=swap, reduction=reduction,
    )  # fmt: skip


@op(namespace="nn.functional")
def triplet_margin_with_distance_loss(
    anchor: Any, positive: Any, negative: Any, *, distance_function: Callable | None = None, margin: float = 1.0,
    swap: bool = False, reduction: str = "mean",
) -> Any:  # fmt: skip
    """max(0, d(a, p) - d(a, n) + margin) for any distance; the Euclidean one by default.

    Try: triplet_margin_with_distance_loss(randn(4, 3), randn(4, 3), randn(4, 3))
    """
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    require(
        len(anchor.shape) == len(positive.shape) == len(negative.shape),
        "triplet_margin_loss: anchor, positive and negative must have as many dimensions, got {}, {} and {}",
        tuple(anchor.shape),
        tuple(positive.shape),
        tuple(negative.shape),
    )
    distance = pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = minimum(far, distance(positive, negative))
    return reduced(clamp(near - far + margin, min=0), reduction)


@op(namespace="nn.functional")
def soft_margin_loss(
    input: Any, target: Any, size_average: Any = None, reduce: Any = None, reduction: str = "mean"
) -> Any:
    """ln(1 + e^(-y x)), y = 1 or -1.

    Try: soft_margin_loss(randn(3, 4), sign(randn(3, 4)))
    """
    reduction = reduction_of(size_average, reduce, reduction)
    loss = -logsigmoid(target * input)
    kind = dtypes.as_numpy(input.dtype)  # of the loss too, whatever the target's
    return reduced(cast(loss, kind) if kind.kind == "f" and kind != dtypes.as_numpy(loss.dtype) else loss, reduction)
