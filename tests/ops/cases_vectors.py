"""Cases of the table of ops: second names, vectors, slices at places."""

from __future__ import annotations

import numpy as np
import torch
from cases import Const, S, case, distinct, ints, normal

case("clamp_min", S(distinct(3, 4), -0.5), S(distinct(3, 4), Const(np.full(4, 0.1))), S(ints(-5, 5, 6), 1))
case("clamp_max", S(distinct(3, 4), 0.5), S(distinct(3, 4), Const(np.full(4, 0.1))), S(ints(-5, 5, 6), 1))
case("swapdims", S(normal(2, 3, 4), 0, -1), S(normal(2, 3), 1, 0))
case("moveaxis", S(normal(2, 3, 4), 0, 2), S(normal(2, 3, 4), (0, 1), (1, 2)))
case("flipud", S(normal(3, 2)), S(normal(3)), S(ints(0, 9, 4)))
case("fliplr", S(normal(3, 2)), S(normal(2, 3, 2)))
case("msort", S(distinct(4, 3)), S(distinct(5)), S(ints(0, 9, 5)))
case("cross", S(normal(2, 3), normal(2, 3)), S(normal(3, 2), normal(3, 1), 0), S(normal(2, 3), normal(1, 3), -1),
     theirs=lambda a, b, dim=-1: torch.linalg.cross(a, b, dim=dim))  # fmt: skip
case(
    "inner",
    S(normal(2, 3), normal(4, 3)),
    S(normal(3), normal(3)),
    S(normal(2, 3), normal()),
    S(normal(0, 3), normal(3)),
)
case("bincount", S(ints(0, 5, 9)), S(ints(0, 5, 9), minlength=8), S(ints(0, 5, 9), Const(normal(9))), S(ints(0, 5, 0)),
     smooth=False)  # fmt: skip
case(
    "take", S(normal(3, 4), np.array([[0, -1], [5, 5]])), S(normal(4), np.array(2)), S(normal(3), np.zeros(0, np.int64))
)
AT = np.array([2, 0])
case("index_fill", S(normal(3, 4), 0, AT, 2.5), S(normal(2, 3), -1, AT, normal()), S(ints(0, 9, 4), 0, AT, 7))
case("index_copy", S(normal(3, 4), 0, AT, normal(2, 4)), S(normal(2, 3), -1, AT, Const(normal(2, 2))),
     S(normal(3), 0, np.zeros(0, np.int64), Const(normal(0))), S(ints(0, 9, 4), 0, AT, ints(0, 9, 2)))  # fmt: skip
