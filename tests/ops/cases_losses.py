"""Cases of the table of ops: losses of pairs and triples, of densities, of overlaps; group and instance norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cases import TABLE, Const, S, big, bools, case, fresh, ints, normal, positive, unit

# -- pairs and triples ------------------------------------------------------------------------------------------------


def signs(*shape: int) -> Const:
    return Const(np.where(bools(*shape), 1.0, -1.0))


REDUCTIONS = ("mean", "sum", "none")
case(
    "margin_ranking_loss",
    *[S(normal(5), normal(5), signs(5), reduction=r) for r in REDUCTIONS],
    S(normal(3, 4), normal(3, 4), signs(3, 1), 0.5),
    S(normal(0), normal(0), signs(0)),
    theirs=F.margin_ranking_loss,
)
case(
    "hinge_embedding_loss",
    *[S(normal(3, 4), signs(3, 4), reduction=r) for r in REDUCTIONS],
    S(normal(4), signs(4), 0.4),
    S(normal(5), Const(np.array([1.0, -1.0, 0.0, 1.0, -1.0]))),
    theirs=F.hinge_embedding_loss,
)
case(
    "cosine_embedding_loss",
    *[S(normal(4, 3), normal(4, 3), signs(4), reduction=r) for r in REDUCTIONS],
    S(normal(4, 3), normal(4, 3), signs(4), 0.3),
    S(normal(3), normal(3), signs()),
    theirs=F.cosine_embedding_loss,
)
case(
    "triplet_margin_loss",
    *[S(normal(4, 3), normal(4, 3), normal(4, 3), reduction=r) for r in REDUCTIONS],
    S(normal(4, 3), normal(4, 3), normal(4, 3), 2.0, 1.0),
    S(normal(3), normal(3), normal(3), margin=0.5, p=3, eps=0.1, swap=True),
    theirs=F.triplet_margin_loss,
)


def square_distance(a: Any, b: Any) -> Any:
    return ((a - b) ** 2).sum(-1)


case(
    "triplet_margin_with_distance_loss",
    S(normal(4, 3), normal(4, 3), normal(4, 3)),
    S(normal(4, 3), normal(4, 3), normal(4, 3), distance_function=square_distance, margin=3.0, swap=True),
    S(normal(4, 3), normal(4, 3), normal(4, 3), reduction="none"),
    theirs=F.triplet_margin_with_distance_loss,
)
case(
    "soft_margin_loss",
    *[S(normal(3, 4), signs(3, 4), reduction=r) for r in REDUCTIONS],
    S(normal(0), signs(0), reduction="sum"),
    theirs=F.soft_margin_loss,
)

# -- densities --------------------------------------------------------------------------------------------------------

case(
    "gaussian_nll_loss",
    *[S(normal(4, 3), normal(4, 3), positive(4, 3), reduction=r) for r in REDUCTIONS],
    S(normal(4, 3), normal(4, 3), positive(4), full=True),
    S(normal(4, 3), normal(4, 3), positive(4, 1), eps=1e-3),
    S(normal(4, 3), normal(4, 3), 0.7),
    theirs=F.gaussian_nll_loss,
)
case(
    "poisson_nll_loss",
    *[S(normal(4, 3), positive(4, 3), reduction=r) for r in REDUCTIONS],
    S(positive(4, 3), positive(4, 3), log_input=False),
    S(normal(4, 3), Const(ints(0, 5, 4, 3).astype(np.float64)), full=True),
    S(positive(4), Const(4 * positive(4)), False, True, eps=1e-3),
    theirs=F.poisson_nll_loss,
)

# -- overlaps: formulas written out, torch has neither ----------------------------------------------------------------


def _focal(x: Any, y: Any, alpha: float = 0.25, gamma: float = 2, reduction: str = "none") -> Any:
    p = torch.sigmoid(x)
    right = torch.where(y == 1, p, 1 - p)
    weight = alpha * y + (1 - alpha) * (1 - y) if alpha >= 0 else 1.0
    loss = -weight * (1 - right) ** gamma * torch.log(right)
    return loss if reduction == "none" else getattr(loss, reduction)()


def zeros_and_ones(*shape: int) -> Const:
    return Const(bools(*shape).astype(np.float64))


case(
    "sigmoid_focal_loss",
    *[S(normal(3, 4), zeros_and_ones(3, 4), reduction=r) for r in REDUCTIONS],
    S(normal(5), zeros_and_ones(5), 0.6, 1.5),
    S(normal(5), zeros_and_ones(5), alpha=-1),
    theirs=_focal,
)


def _dice(p: Any, y: Any, eps: float = 1e-7, reduction: str = "mean") -> Any:
    losses = [1 - (2 * (a * b).sum() + eps) / (a.sum() + b.sum() + eps) for a, b in zip(p, y)]
    loss = torch.stack(losses)
    return loss if reduction == "none" else getattr(loss, reduction)()


case(
    "dice_loss",
    *[S(unit(3, 4), zeros_and_ones(3, 4), reduction=r) for r in REDUCTIONS],
    S(unit(2, 3, 2), unit(2, 3, 2), 0.1),
    theirs=_dice,
)

# -- group and instance norm ------------------------------------------------------------------------------------------

case(
    "group_norm",
    S(normal(2, 4, 3), 2),
    S(normal(2, 4), 2, normal(4), normal(4)),
    S(normal(1, 6, 2, 2), 3, normal(6)),
    S(normal(2, 3, 2), 1, None, Const(normal(3)), 0.1),
    theirs=F.group_norm,
)


def _fresh_stats(f: Any) -> Any:
    def run(x: Any, m: Any = None, v: Any = None, *a: Any, **k: Any) -> Any:
        m, v = fresh(m), fresh(v)
        y = f(x, m, v, *a, **k)
        return y if m is None else (y, m, v)

    return run


case(
    "instance_norm",
    S(normal(2, 3, 4)),
    S(normal(2, 3, 2, 2), None, None, normal(3), normal(3)),
    big(normal(2, 3, 4), Const(normal(3)), Const(positive(3)), normal(3), normal(3), momentum=0.3),
    S(normal(2, 3, 4), Const(normal(3)), Const(positive(3)), use_input_stats=False, eps=0.1),
    ours=_fresh_stats(TABLE["instance_norm"]),
    theirs=_fresh_stats(F.instance_norm),
)
