"""Cases of the table of ops: products, einsum, norms and distances."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from cases import Const, S, big, case, distinct, ints, normal, positive

import minidl.linalg

# -- products ---------------------------------------------------------------------------------------------------------

case("mv", S(normal(2, 3), normal(3)), S(normal(0, 3), normal(3)), S(normal(2, 0), normal(0)))
case(
    "addmm",
    S(normal(2, 4), normal(2, 3), normal(3, 4)),
    S(normal(4), normal(2, 3), normal(3, 4)),
    S(normal(2, 1), normal(2, 3), normal(3, 4), beta=0.5, alpha=-2),
    S(normal(), normal(2, 3), normal(3, 4), alpha=0.3),
    S(Const(normal(2, 4) * math.nan), normal(2, 3), normal(3, 4), beta=0),
    S(normal(2, 4), normal(2, 0), normal(0, 4)),
    S(ints(0, 5, 4), ints(0, 5, 2, 3), ints(0, 5, 3, 4), alpha=2),
)
case("addmv", S(normal(2), normal(2, 3), normal(3)), S(normal(1), normal(2, 3), normal(3), beta=2, alpha=0.5))
case(
    "baddbmm",
    S(normal(2, 2, 2), normal(2, 2, 3), normal(2, 3, 2)),
    S(normal(2), normal(2, 2, 3), normal(2, 3, 2), beta=2, alpha=0.5),
)
case(
    "tensordot",
    S(normal(2, 3, 4), normal(3, 4, 2)),
    S(normal(2, 3), normal(3, 2), 1),
    S(normal(2), normal(3), dims=0),
    S(normal(2, 3, 4), normal(4, 2), ([2, 0], [0, 1])),
    S(normal(2, 3), normal(3, 2), dims=([-1], [-2])),
    S(normal(2, 1), normal(3, 2), dims=([1], [0])),
    S(normal(2, 0), normal(0, 3), 1),
)
case(
    "einsum",
    S("ij,jk->ik", normal(2, 3), normal(3, 2)),
    S("ii->i", normal(3, 3)),
    S("ij->ji", normal(2, 3)),
    S("...ij,...jk->...ik", normal(2, 2, 3), normal(3, 2)),
    S("i,j,k->ijk", normal(2), normal(2), normal(2)),
)

# -- norms and distances ----------------------------------------------------------------------------------------------

ORDERS = (2, 1, 3, 2.5, 0.5, -1, -2.5, math.inf, -math.inf, 0)


def torch_length(x: Any, p: float, dim: Any = None, keepdim: bool = False) -> Any:
    return torch.linalg.vector_norm(x, p, dim, keepdim)


case(
    "vector_length",
    *[S(distinct(3, 4), float(p), 1) for p in ORDERS],
    S(distinct(2, 3), 2.0, (0, 1), True),
    S(distinct(), 2.0),
    S(normal(2, 0), 2.0, 1),
    big(normal(3, 2) * 0, 2.0, 1),
    theirs=torch_length,
)
case("singular_values", S(normal(3, 2)), S(normal(2, 2, 3)), S(normal(3, 3)), theirs=torch.linalg.svdvals)


def product_of_svd(x: Any) -> Any:
    """What does not depend on the signs of the singular vectors."""
    library = minidl if isinstance(x, minidl.Tensor) else torch
    u, s, vt = library.linalg.svd(x, full_matrices=False)
    return u @ (s[..., None] ** 2 * vt), s


case(
    "reduced_svd",
    S(normal(3, 2)),
    S(normal(2, 3)),
    S(normal(2, 3, 3)),
    ours=product_of_svd,
    theirs=product_of_svd,
)
case(
    "linalg_norm",
    S(distinct(3, 4)),
    S(distinct(2, 3, 4), dim=-1),
    S(distinct(2, 3, 4), dim=(0, 2), keepdim=True),
    S(distinct(4), 3),
    S(distinct(2, 3, 2), 1, 1),
    *[S(distinct(3, 4), ord) for ord in ("fro", "nuc", math.inf, -math.inf, 1, -1, 2, -2)],
    *[S(distinct(2, 3, 4), ord, (2, 0), True) for ord in ("fro", "nuc", math.inf, -1, 2)],
    S(normal(3), dtype=minidl.float64),
    S(Const(normal(0, 3)), math.inf, (0, 1)),
    S(normal(0, 3), "nuc"),
    theirs=torch.linalg.norm,
)
case(
    "norm",
    S(distinct(3, 4)),
    S(distinct(3, 4), 1),
    S(distinct(3, 4), 3, 1),
    S(distinct(3, 4), "fro", (0, 1), True),
    S(distinct(3, 4), "nuc"),
    S(distinct(3, 4), dim=0),
    S(distinct(3, 4), p=math.inf, dim=1, keepdim=True),
    S(distinct()),
    S(normal(0)),
    S(normal(3), dtype=minidl.float64),
)
case(
    "normalize",
    S(normal(3, 4)),
    S(normal(3, 4), 1.0, 0),
    S(normal(2, 3, 2), p=3.0, dim=-1),
    S(normal(3), dim=0),
    big(normal(2, 3) * 0),
    theirs=F.normalize,
)
case(
    "cosine_similarity",
    S(normal(3, 4), normal(3, 4)),
    S(normal(3, 4), normal(4), 1),
    S(normal(2, 3, 2), normal(2, 1, 2), dim=0),
    S(normal(4), normal(4), dim=-1, eps=0.1),
    S(Const(normal(4)), normal(4), 0),
    theirs=F.cosine_similarity,
)
case(
    "pairwise_distance",
    S(normal(3, 4), normal(3, 4)),
    S(normal(3, 4), normal(4), 1.0),
    S(normal(4), normal(4), p=3.0, eps=0.1, keepdim=True),
    S(positive(3, 4), normal(1, 4)),
    theirs=F.pairwise_distance,
)
