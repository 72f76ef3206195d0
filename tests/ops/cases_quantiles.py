"""Cases of the table of ops: reductions that pass over NaN, quantiles, running extremes and sums."""

from __future__ import annotations

import numpy as np
from cases import Const, S, big, bools, case, distinct, ints, normal, reductions

import minidl

HOLES = np.array([[1.5, np.nan, -0.5, 2.5], [np.nan, np.nan, np.nan, np.nan], [0.25, 3.0, 1.0, np.nan]])
case(
    "nansum", *reductions(normal), S(ints(0, 9, 3, 4), 1), big(HOLES, 1), big(HOLES), S(normal(3), dtype=minidl.float32)
)
case("nanmean", *reductions(normal), big(HOLES[::2], 1), big(HOLES, 0, True), S(normal(3), dtype=minidl.float64))
case(
    "nanmedian",
    *[S(distinct(3, 5)), S(distinct(4)), S(distinct(3, 4), 0, True), S(distinct()), S(ints(0, 999, 6)), S(normal(0))],
    *[big(HOLES), big(HOLES[::2], 1), big(HOLES, 0), big(HOLES[1])],
)
for name in ("quantile", "nanquantile"):
    case(
        name,
        S(distinct(7), 0.3),
        S(distinct(3, 4), 0.5, 1),
        S(distinct(3, 4), Const(np.array([0.1, 0.9])), 0, True),
        S(distinct(3, 4), Const(np.array([0.0, 0.4, 1.0]))),
        *[S(distinct(2, 5), 0.35, 1, interpolation=how) for how in ("lower", "higher", "midpoint", "nearest")],
        S(distinct(), 0.5),
        big(HOLES, 0.6, 1),
        big(HOLES, Const(np.array([0.2, 0.8])), 0),
    )
for name in ("cummax", "cummin"):
    case(name, S(distinct(3, 5), 0), S(distinct(3, 5), -1), S(distinct(), 0), S(ints(0, 4, 9), 0), S(normal(0, 2), 0),
         big(HOLES, 1))  # fmt: skip
case(
    "logcumsumexp", S(normal(3, 4), 0), S(normal(3, 4), -1), S(normal(), 0), S(normal(0, 2), 0), big(300 * normal(5), 0)
)
case(
    "diff",
    S(normal(5)),
    S(normal(3, 4), 2, 0),
    S(normal(3, 4), 1, -1, normal(3, 1), normal(3, 2)),
    S(normal(3), 5),
    S(normal(3), 0),
    S(ints(0, 9, 4)),
    S(bools(5)),
)
