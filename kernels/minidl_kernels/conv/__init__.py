"""Two-dimensional convolution and its two gradients.

    x (N, C, H, W), w (K, C / groups, R, S), b (K,) -> y (N, K, P, Q)

float32 and float64; sums are taken in the dtype of the arrays. x counts as zero outside its borders, so an infinite weight beside the border
gives NaN, as 0 * inf does; in conv2d_dx only the taps that touched x take part. N = 0, C = 0 and K = 0 are legal.
Every variant takes (x, w, b, stride, padding, dilation, groups), (dy, w, x_shape, ...) or (dy, x, w_shape, ...), all positional.
"""

from __future__ import annotations

from .. import checks
from ..registry import REFERENCE, Op, Variant

OPS = tuple(
    Op(
        name,
        check=check,
        variants=(
            Variant(
                "reference",
                load=f"minidl_kernels.conv.reference:{name}",
                cost=REFERENCE,
                note="the definition: one product per tap of the window",
            ),
            Variant(
                "im2col",
                load=f"minidl_kernels.conv.im2col:{name}",
                cost=2.0,
                note="NumPy's way: windows copied into a matrix, one BLAS product",
            ),
        ),
    )
    for name, check in (("conv2d", checks.conv2d), ("conv2d_dx", checks.conv2d_dx), ("conv2d_dw", checks.conv2d_dw))
)
