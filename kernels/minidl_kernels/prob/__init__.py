"""Softmax, its logarithm and the cross-entropy, along rows: the last axis.

    softmax                 x (..., C) -> y = e^(x - m) / sum e^(x - m), m the greatest of the row
    softmax_backward        dy, y -> dx = y (dy - sum dy y)
    log_softmax             x (..., C) -> y = x - m - ln sum e^(x - m)
    log_softmax_backward    dy, y -> dx = dy - e^y sum dy
    cross_entropy           x (N, C), t (N,) classes, w (C,) or None -> loss, lse (N,)
    cross_entropy_backward  dy (N,), what went in, lse as it came out -> dx (N, C)

With lse = m + ln sum e^(x - m), s the smoothing and w = 1 where there are none, a row's loss is

    (1 - s) w_t (lse - x_t) + s / C sum_c w_c (lse - x_c)

and 0 where t is `ignore_index`. Its gradient, p being the softmax, is dy times

    p_c ((1 - s) w_t + s / C sum w) - s / C w_c - [c = t] (1 - s) w_t

A row with NaN or +Inf, or of -Inf only, gives NaN everywhere. A class outside 0 .. C - 1 raises IndexError.
"""

from __future__ import annotations

from .. import checks
from ..registry import REFERENCE, Op, Variant

OPS = tuple(
    Op(
        name,
        check=getattr(checks, name),
        variants=(
            Variant("reference", load=f"minidl_kernels.prob.reference:{name}", cost=REFERENCE, note="the formula"),
            Variant("vectors", load=f"minidl_kernels.prob.cpu:{name}", note=idea),
            Variant(
                "rows", load=f"minidl_kernels.prob.cuda:{name}", device="cuda", note="a block of threads for each row"
            ),
        ),
    )
    for name, idea in (
        ("softmax", "three passes over a row that stays in the cache, rows shared among the threads"),
        ("softmax_backward", "two passes over a row that stays in the cache"),
        ("log_softmax", "three passes over a row that stays in the cache; exponentials are not stored"),
        ("log_softmax_backward", "two passes over a row that stays in the cache"),
        ("cross_entropy", "the probabilities are never stored"),
        ("cross_entropy_backward", "the probabilities again, from the scores and lse"),
    )
)
