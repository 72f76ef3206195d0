"""Cases of the table of ops: sorting, running products, diagonals, selecting, tiling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cases import TABLE, Const, Index, S, big, bools, case, distinct, ints, method, normal, positive

import minidl

# -- sorting ----------------------------------------------------------------------------------------------------------

NAN = np.array([[1.5, np.nan, -2.0, np.nan, 0.5], [3.0, 1.0, -np.inf, np.inf, 2.0]])
ORDER = [((3, 5),), ((3, 5), 0), ((2, 3, 4), -2), ((5,),), ((),), ((0, 3),), ((3, 0),), ((1,), 0)]
TIES = ints(0, 3, 4, 9)


def stable(function: Any) -> Any:
    """torch's sorts, asked to be stable as ours always are."""
    return lambda x, dim=-1, descending=False: function(x, dim=dim, descending=descending, stable=True)


for name in ("sort", "argsort"):
    case(
        name,
        *[S(distinct(*shape), *dim) for shape, *dim in ORDER],
        *[S(distinct(3, 5), descending=True), S(distinct(3, 5), 0, True), S(TIES), S(TIES, descending=True)],
        *[big(NAN), big(NAN, descending=True), S(bools(2, 6)), S(ints(0, 9, 8, dtype=np.uint8), descending=True)],
        theirs=stable(getattr(torch, name)),
        smooth=name == "sort",
    )
case(
    "topk",
    S(distinct(3, 5), 2),
    S(distinct(3, 5), 2, 0),
    S(distinct(3, 5), 3, dim=-1, largest=False),
    S(distinct(3, 5), 5, sorted=True),
    S(distinct(3, 5), 0),
    S(distinct(5), 1),
    S(distinct(), 1),
    S(ints(0, 999, 7), 3),
    big(NAN[1:], 2),
    big(distinct(3, 300), 7),
    big(distinct(300, 3), 7, 0, False),
)
case("kthvalue", S(distinct(3, 5), 2), S(distinct(3, 5), 1, 0, True), S(distinct(5), 5, dim=-1), S(distinct(), 1))
case(
    "median",
    S(distinct(3, 5)),
    S(distinct(4)),
    S(distinct(3, 5), 1),
    S(distinct(3, 4), 0, True),
    S(distinct(2, 3, 4), dim=-2),
    S(distinct()),
    S(distinct(), 0),
    S(ints(0, 999, 6)),
    S(normal(0)),
    big(np.array([1.0, np.nan, 3.0])),
    big(np.array([[1.0, np.nan, 3.0], [5.0, 4.0, 6.0]]), 1),
    big(np.array([2.0, 1.0, 2.0, 3.0, 2.0])),
)
case("whole_median", S(distinct(3, 5)), S(distinct(4)), S(distinct()), theirs=torch.median)
PICKS = np.array([[2, 0], [1, 3]])
case(
    "pick_along",
    S(normal(2, 4), 1, Index(PICKS)),
    ours=lambda x, dim, i: TABLE["pick_along"](x, dim, i.index),
    theirs=lambda x, dim, i: torch.gather(x, dim, torch.tensor(i.index)),
)
case(
    "place_along",
    S(normal(2, 2), 1, Index(PICKS), 4),
    ours=lambda x, dim, i, n: TABLE["place_along"](x, dim, i.index, n),
    theirs=lambda x, dim, i, n: torch.zeros(2, n, dtype=x.dtype).scatter(dim, torch.tensor(i.index), x),
)
case(
    "unique",
    S(ints(0, 4, 3, 4)),
    S(np.array([2.0, -1.0, 2.0, np.nan, np.nan, np.inf])),
    S(ints(0, 4, 3, 4), return_inverse=True),
    S(ints(0, 4, 3, 4), True, True, True),
    S(ints(0, 4, 9), return_counts=True),
    S(ints(0, 2, 6, 2), dim=0),
    S(ints(0, 2, 2, 6), return_inverse=True, return_counts=True, dim=1),
    S(bools(4)),
    S(ints(0, 3, 0)),
    smooth=False,
)

# -- running products, diagonals --------------------------------------------------------------------------------------

case(
    "cumprod",
    S(normal(3, 5), 0),
    S(normal(3, 5), -1),
    S(normal(), 0),
    S(normal(0, 2), 0),
    S(normal(2, 0), 0),
    S(normal(1), 0),
    S(np.array([2.0, 0.0, 3.0, -1.0]), 0),
    S(np.array([[2.0, 0.0, 3.0, 0.0, 1.5], [0.0, 1.0, -2.0, 3.0, 4.0]]), 1),
    S(ints(0, 4, 5), dim=0),
    S(bools(5), 0),
    S(ints(0, 9, 5, dtype=np.uint8), 0, dtype=minidl.uint8),
    S(ints(0, 9, 5, dtype=np.int32), 0, dtype=minidl.float64),
)
DIAGONALS = [((3, 4), ()), ((3, 4), (1,)), ((4, 3), (-2,)), ((2, 3, 4), (0, 1, 2)), ((2, 3, 4), (1, -1, 0))]
case(
    "diagonal",
    *[S(normal(*shape), *how) for shape, how in DIAGONALS],
    S(normal(3, 3), offset=-3),
    S(normal(0, 3)),
    S(ints(0, 9, 3, 3)),
)
case(
    "place_diagonal",
    S(normal(3), (3, 4), 1, 0, 1),
    S(normal(2, 3), (3, 2, 4), -1, 2, 0),
    theirs=lambda x, size, *how: torch.diagonal_scatter(torch.zeros(size, dtype=x.dtype), x, *how),
)
case(
    "diag_embed",
    S(normal(3)),
    S(normal(2, 3)),
    S(normal(2, 3), 1),
    S(normal(2, 3), -1, 0, 2),
    S(normal(2, 3), 1, 2, 0),
    S(normal(0)),
)
case("diag", S(normal(3)), S(normal(3), 1), S(normal(3), -2), S(normal(3, 4)), S(normal(3, 4), diagonal=-1))
case("trace", S(positive(3, 3)), S(normal(2, 4)), S(ints(0, 9, 3, 3)), S(normal(0, 0)))

# -- selecting --------------------------------------------------------------------------------------------------------

case("select", S(normal(3, 4), 0, 1), S(normal(3, 4), -1, -2), S(normal(3), 0, 0), S(normal(0, 3), 1, 2))
case(
    "masked_select",
    S(normal(3, 4), bools(3, 4)),
    S(normal(3, 1), bools(4)),
    S(normal(4), bools(3, 1)),
    S(normal(), np.array(True)),
    S(normal(), bools(3)),
    S(normal(0), bools(0)),
    S(ints(0, 9, 5), bools(5)),
)
case(
    "index_add",
    S(normal(3, 4), 0, np.array([2, 0, 2]), normal(3, 4)),
    S(normal(3, 4), -1, np.array([1, 3]), normal(3, 2)),
    S(normal(3, 4), 1, np.array([1, 1], np.int32), normal(3, 2), alpha=-0.5),
    S(normal(5), 0, np.array([4, 4, 4]), normal(3)),
    S(normal(), 0, np.array([0]), normal()),
    S(Const(normal(3, 2)), 0, np.array([1]), normal(1, 2)),
    S(normal(3, 2), 0, np.zeros(0, np.int64), normal(0, 2)),
    S(ints(0, 9, 3), 0, np.array([0, 0]), ints(0, 9, 2)),
    S(bools(3), 0, np.array([0, 0, 2]), bools(3)),
)
ROWS = np.array([[2, 0, 1, 2], [0, 1, 2, 0]])  # no place twice
SCATTERS = [
    S(normal(3, 4), 0, ROWS, normal(2, 4)),
    S(normal(3, 4), 0, ROWS[:, :2], Const(normal(3, 4))),
    S(normal(3, 4), 1, np.array([[3, 0], [1, 2]]), normal(2, 2)),
    S(normal(5), -1, np.array([4, 1]), normal(2)),
    S(Const(np.zeros(4)), 0, np.array([3, 1]), Const(normal(3))),
]


def _torch_scatter(x: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: Any = None) -> Any:
    """torch.scatter, its `reduce` in the newer spelling that gives no warning."""
    src = value if src is None else src
    if reduce is None:
        return torch.scatter(x, dim, index, src)
    src = src if isinstance(src, torch.Tensor) else torch.full(index.shape, src, dtype=x.dtype)
    return torch.scatter_reduce(x, dim, index, src, {"add": "sum", "multiply": "prod"}[reduce])


case(
    "scatter",
    *SCATTERS,
    S(normal(3, 4), 0, ROWS, 1.5),
    S(normal(3, 4), 0, ROWS, value=2),
    S(normal(3, 4), 0, np.zeros((2, 0), np.int64), Const(normal(3, 4))),
    S(normal(), 0, np.array(0), normal()),
    S(ints(0, 9, 3, 4), 0, ROWS, ints(0, 9, 2, 4), reduce="add"),
    S(Const(normal(3, 4)), 0, np.zeros((2, 4), np.int64), Const(normal(2, 4)), reduce="add"),
    S(Const(normal(3, 4)), 0, np.zeros((2, 4), np.int64), Const(normal(2, 4)), reduce="multiply"),
    S(Const(normal(3, 4)), 0, ROWS, 2.0, reduce="multiply"),
    theirs=_torch_scatter,
)


def plain_scatter(name: str) -> Any:
    return lambda x, dim, at, b: TABLE[name](x, dim % x.ndim, at.array, b)


case("scatter_write", *SCATTERS, ours=plain_scatter("scatter_write"), theirs=torch.scatter)
case(
    "scatter_multiply",
    S(Const(normal(3, 4)), 0, np.zeros((2, 4), np.int64), Const(normal(2, 4))),
    ours=plain_scatter("scatter_multiply"),
    theirs=lambda *a: _torch_scatter(*a, reduce="multiply"),
    smooth=False,
)
case(
    "repeat_interleave",
    S(normal(3, 2), 2),
    S(normal(3, 2), 2, 0),
    S(normal(3, 2), np.array([1, 0, 2]), 0),
    S(normal(2, 3), np.array([2]), dim=-1),
    S(normal(), 3),
    S(normal(2, 3), 0, 1),
    S(np.array([2, 0, 3])),
    S(normal(3), np.array([1, 2, 3]), output_size=6),
    S(normal(0, 2), 3, 0),
)

# -- tiling -----------------------------------------------------------------------------------------------------------

case("ravel", S(normal(3, 4)), S(normal()), S(normal(0, 3)), S(normal(5)))
case("tile", S(normal(2, 3), (2,)), S(normal(2), (3, 2)), S(normal(), (2,)), S(normal(2, 3), (1, 0)), S(normal(2), ()))
case("tile_method", S(normal(2, 3), 2, 1), S(normal(2), 3), ours=method("tile"), theirs=method("tile"))
case(
    "meshgrid",
    S(normal(2), normal(3), indexing="ij"),
    S(normal(2), normal(3), indexing="xy"),
    S(normal(2), normal(), normal(3), indexing="xy"),
    S([normal(2), normal(3)], indexing="ij"),
    S(positive(3), indexing="xy"),
    S(normal(0), normal(2), indexing="ij"),
)
