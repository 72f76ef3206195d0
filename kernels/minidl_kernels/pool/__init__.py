"""Max pooling, and moving values between planes and places in them: its gradient, and the gradient's gradient.

    max_pool2d     x (N, C, H, W) -> y (N, C, P, Q), index (N, C, P, Q) int64, flat in the H x W plane
    scatter_plane  x (..., L), index (..., L) -> y (..., `width`): y[..., index[..., i]] += x[..., i], in order of i
    gather_plane   x (..., W), index (..., L) -> y (..., L): y[..., i] = x[..., index[..., i]]

Every tap of a window that lies outside x is skipped; of equal elements the first wins, and NaN wins over numbers, the
last NaN over those before it (as in torch). Repeated places of scatter_plane are summed in x's dtype.
An index outside the plane raises IndexError; nothing is written there.
"""

from __future__ import annotations

from .. import checks
from ..registry import REFERENCE, Op, Variant


def _floats(x: object, *rest: object) -> bool:
    return x.dtype.name in checks.FLOATS  # type: ignore[attr-defined]


OPS = tuple(
    Op(
        name,
        check=check,
        variants=(
            Variant("reference", load=f"minidl_kernels.pool.reference:{name}", cost=REFERENCE, note=idea),
            Variant(
                "loops",
                load=f"minidl_kernels.pool.cpu:{name}",
                accepts=_floats,
                needs="float32 or float64",
                cost=1.0,
                note="one pass over each plane, planes shared among the threads",
            ),
            Variant(
                "places",
                load=f"minidl_kernels.pool.cuda:{name}",
                device="cuda",
                accepts=_floats,
                needs="float32 or float64",
                note="a thread for each place that is written",
            ),
        ),
    )
    for name, check, idea in (
        ("max_pool2d", checks.max_pool2d, "the maximum over shifted copies, one per tap of the window"),
        ("scatter_plane", checks.scatter_plane, "numpy.add.at"),
        ("gather_plane", checks.gather_plane, "numpy.take_along_axis"),
    )
)
