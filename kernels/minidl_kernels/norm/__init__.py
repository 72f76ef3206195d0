"""Normalisations: zero mean and unit variance, or unit mean square, then times w plus b where they are given.

    layer_norm           x (..., D), w and b (D,) -> y, mean and var (...): over each row
    layer_norm_backward  dy, x, w, mean, var -> dx, dw and db (D,)
    rms_norm             x (..., D), w (D,) -> y, square (...), the mean of x^2: over each row, no mean taken off
    rms_norm_backward    dy, x, w, square -> dx, dw (D,)
    batch_norm           x (N, C, ...), w and b (C,) -> y, mean and var (C,): over each channel
    batch_norm_backward  dy, x, w, mean, var -> dx, dw and db (C,)
    channel_affine       x (N, C, ...), scale and shift (C,), f -> f(x scale + shift): batch norm by known statistics
                         (in evaluation), and "relu", "relu6" or nothing ("") behind it
    group_norm           x (N, C, ...), w and b (C,) -> y, mean and var (N, groups): over C / groups channels of one n
    group_norm_backward  dy, x, groups, w, mean, var -> dx, dw and db (C,)

With r = 1 / sqrt(var + eps), xhat = (x - mean) r, g = dy w and h the mean over what was normalised together:

    y = xhat w + b,   dx = r (g - h(g) - xhat h(g xhat)),   dw = sum dy xhat,   db = sum dy

and without h(g) in rms_norm. var is the mean of (x - mean)^2. dw and db come out whether or not w was given.
"""

from __future__ import annotations

from .. import checks
from ..registry import REFERENCE, Op, Variant

_ROWS = "each row stays in the cache between its passes, rows shared among the threads"
_SEGMENTS = "mean and square sum of each channel of each example in one reading, then put together"
_GIVEN = "one reading and one writing, the activation among them"

OPS = tuple(
    Op(
        name,
        check=getattr(checks, name),
        variants=(
            Variant("reference", load=f"minidl_kernels.norm.reference:{name}", cost=REFERENCE, note="the formula"),
            Variant("vectors", load=f"minidl_kernels.norm.cpu:{name}", note=idea),
            Variant(
                "stretches",
                load=f"minidl_kernels.norm.cuda:{name}",
                device="cuda",
                note="a thread steps over elements"
                if idea == _GIVEN
                else "a block of threads for each stretch that is normalised together",
            ),
        ),
    )
    for name, idea in (
        ("layer_norm", _ROWS),
        ("layer_norm_backward", _ROWS),
        ("rms_norm", _ROWS),
        ("rms_norm_backward", _ROWS),
        ("batch_norm", _SEGMENTS),
        ("batch_norm_backward", _SEGMENTS),
        ("channel_affine", _GIVEN),
        ("group_norm", _SEGMENTS),
        ("group_norm_backward", _SEGMENTS),
    )
)
