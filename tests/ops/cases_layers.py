"""Cases of the table of ops: what layers beyond the common ones are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cases import TABLE, Const, S, big, case, distinct, normal, positive

# -- embeddings -------------------------------------------------------------------------------------------------------

WORDS = np.array([3, 1, 1, 0, 4, 1, 2])
STARTS = np.array([0, 2, 2, 6])


def _lookup(x: Any, w: Any, padding_idx: Any = None, by_freq: bool = False) -> Any:
    return F.embedding(x, w, padding_idx, scale_grad_by_freq=by_freq)


case(
    "lookup",
    S(WORDS, normal(5, 2)),
    S(np.array([[0, 3], [2, 1]]), normal(5, 2)),
    big(WORDS, normal(5, 2), 1),
    big(WORDS, normal(5, 2), None, True),
    S(np.zeros((2, 0), np.int64), normal(3, 2)),
    theirs=_lookup,
)


def _bag_sum(x: Any, sizes: Any) -> Any:
    return torch.stack([part.sum(0) for part in torch.split(x, list(sizes))])


case(
    "bag_sum",
    S(normal(7, 2), (3, 0, 4)),
    S(normal(1, 2), (1,)),
    ours=lambda x, sizes: TABLE["bag_sum"](x, np.array(sizes)),
    theirs=_bag_sum,
)


case(
    "embedding_bag",
    *[S(np.array([[0, 3, 3], [2, 1, 4]]), normal(5, 2), mode=mode) for mode in ("sum", "mean", "max")],
    *[S(WORDS, normal(5, 2), STARTS, mode=mode) for mode in ("sum", "mean", "max")],
    *[S(WORDS, normal(5, 2), np.append(STARTS, 7), mode=mode, include_last_offset=True) for mode in ("sum", "mean")],
    *[big(WORDS, normal(5, 2), STARTS, mode=mode, padding_idx=-4) for mode in ("sum", "mean", "max")],
    S(WORDS, normal(5, 2), STARTS, mode="sum", per_sample_weights=normal(7)),
    S(WORDS[:6].reshape(2, 3), normal(5, 2), mode="sum", per_sample_weights=normal(2, 3), padding_idx=4),
    S(np.zeros(0, np.int64), normal(5, 2), np.zeros(2, np.int64), mode="max"),
    theirs=F.embedding_bag,
)

# -- dropouts: in evaluation nothing, in training tested on their own (tests/test_nn_stochastic_layers.py) -------------

for name in ("dropout1d", "alpha_dropout", "feature_alpha_dropout"):
    case(name, S(normal(2, 3, 2), 0.3, False), S(normal(2, 3, 2), 0.0, True), theirs=getattr(F, name))
case("dropout3d", S(normal(2, 1, 2, 1, 2), 0.3, False), S(normal(2, 1, 2, 1, 2), 0.0, True), theirs=F.dropout3d)
case("rrelu", S(distinct(3, 4)), S(distinct(5), 0.3, 0.5), S(distinct(5), 0.25, 0.25, True), theirs=F.rrelu)
case(
    "stochastic_depth",
    S(normal(2, 3), 0.3, "row", False),
    S(normal(2, 3), 0.0, "batch"),
    theirs=lambda x, p, mode, training=True: x.view_as(x),
)
case(
    "gaussian_noise",
    S(normal(2, 3), 0.3, False),
    S(normal(2, 3), 0.0),
    theirs=lambda x, std, training=True: x.view_as(x),
)
case(
    "swiglu",
    S(normal(3, 4)),
    S(normal(4, 3), 0),
    S(normal(2, 6, 1), dim=-2),
    theirs=lambda x, dim=-1: F.silu(x.chunk(2, dim)[0]) * x.chunk(2, dim)[1],
)

# -- hinges over classes, pools of powers ------------------------------------------------------------------------------

REDUCTIONS = ("mean", "sum", "none")
case(
    "multi_margin_loss",
    *[S(distinct(3, 4), np.array([2, 0, 3]), reduction=r) for r in REDUCTIONS],
    S(distinct(3, 4), np.array([2, 0, 3]), 2, 0.5),
    S(distinct(3, 4), np.array([2, 0, 3]), 2, 1.5, Const(np.array([0.5, 1.0, 2.0, 3.0]))),
    S(distinct(4), np.array(1), reduction="none"),
    S(distinct(4), np.array([1]), reduction="none"),
    theirs=F.multi_margin_loss,
)
case(
    "multilabel_margin_loss",
    *[S(distinct(3, 4), np.array([[2, 0, -1, 1], [-1, 2, 2, 2], [3, 1, 2, 0]]), reduction=r) for r in REDUCTIONS],
    S(distinct(4), np.array([1, 3, -1, -1]), reduction="none"),
    theirs=F.multilabel_margin_loss,
)
case(
    "multilabel_soft_margin_loss",
    *[S(normal(3, 4), Const(np.array([[1.0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 1, 1]])), reduction=r) for r in REDUCTIONS],
    S(normal(3, 4), Const(positive(3, 4)), Const(positive(4))),
    theirs=F.multilabel_soft_margin_loss,
)
case(
    "lp_pool1d",
    S(positive(2, 3, 6), 2, 3),
    S(positive(3, 7), 3.0, 2, 1, True),
    S(distinct(1, 2, 5), float("inf"), 2),
    S(distinct(1, 2, 5), 2.0, 2),
    theirs=F.lp_pool1d,
)
case(
    "lp_pool2d",
    S(positive(2, 1, 4, 5), 2, 2),
    S(positive(1, 2, 5, 4), 1.5, (3, 2), (2, 1), True),
    S(distinct(2, 4, 4), float("inf"), 2),
    theirs=F.lp_pool2d,
)
case(
    "local_response_norm",
    S(normal(2, 4, 3), 2),
    S(normal(1, 5, 2, 2), 3, 0.5, 0.6, 2.0),
    S(normal(1, 3, 1, 2, 2), 4, alpha=0.1),
    S(normal(0, 3, 2), 2),
    theirs=F.local_response_norm,
)

# -- unpooling, bilinear forms -----------------------------------------------------------------------------------------

PLACES = np.array([[[0, 3, 5], [1, 2, 4]]])
case(
    "place_plane",
    S(normal(1, 2, 3), PLACES, 7),
    ours=lambda x, at, width: TABLE["place_plane"](x, at.array, width),
    theirs=lambda x, at, width: torch.zeros(1, 2, width, dtype=x.dtype).scatter(2, at, x),
)
case(
    "max_unpool1d",
    S(normal(1, 2, 3), PLACES, 2),
    S(normal(2, 3), PLACES[0], 3, 2, 1, output_size=[6]),
    S(normal(1, 2, 3), PLACES, 2, output_size=[1, 2, 7]),
    theirs=F.max_unpool1d,
)
case(
    "max_unpool2d",
    S(normal(1, 2, 3, 1), PLACES[..., None], (2, 1)),
    S(normal(2, 3, 1), PLACES[0][..., None], 2, output_size=(5, 3)),
    theirs=F.max_unpool2d,
)
case(
    "bilinear",
    S(normal(2, 3), normal(2, 4), normal(5, 3, 4), normal(5)),
    S(normal(2, 1, 3), normal(2, 1, 2), normal(1, 3, 2)),
    S(normal(3), normal(2), normal(2, 3, 2), None),
    theirs=F.bilinear,
)
