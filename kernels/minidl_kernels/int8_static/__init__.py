"""Layers that stay in 8-bit integers: int8 activations in, int8 activations out, scales known beforehand.

    requantize      acc (..., N) int32 -> y (..., N) int8: the output pipeline
    static_linear   x (..., K), w (N, K) -> y (..., N), all int8
    static_conv2d   x (B, H, W, C), w (K, R, S, C / groups) -> y (B, P, Q, K), all int8, channels last
    static_add      a, b int8 of one shape -> y int8: a residual sum

An activation stands for x = s (q - z): a scale, a zero point, and codes -128 ... 127. A layer has two stages, each with
one definition (pipeline.py), the same bits in every variant:

    1. acc = x_q @ w_q in int32, exact: no order of summation, no thread count, no instruction can change it. Where a
       convolution looks over the edge it sees the code `border`, z of x, which stands for 0.
    2. y = clip(rint(float32(acc + bias) * multiplier) + zero, low, high), half to even. bias is int32 and holds what
       the zero point of x adds, -z sum(w_q), beside the layer's own bias in units of s_x s_w; multiplier is float32,
       s_x s_w / s_y of that output; low and high are a relu's or relu6's bounds as codes, which costs nothing.

Weights that nobody can write (`minidl_kernels.frozen`) are packed once and kept while they live; others at each call.

acc + bias wraps modulo 2^32; whoever makes the bias keeps it below 2^30 and K * 128 * 128 below that, too: K < 2^16.
`static_add`: clip(rint(float32(a - z_a) * r_a + float32(b - z_b) * r_b) + zero, low, high), r = s / s_y in float32,
each product and the sum rounded.
"""

from __future__ import annotations

from typing import Any

from .. import checks
from ..registry import REFERENCE, Op, Variant


def _op(name: str, check: Any, products: bool) -> Op:
    variants = [
        Variant(
            "reference",
            load=f"minidl_kernels.int8_static.reference:{name}",
            cost=REFERENCE,
            note="the definition: int32 by NumPy, then the pipeline",
        )
    ]
    if products:
        variants.append(
            Variant(
                "blas",
                load=f"minidl_kernels.int8_static.blas:{name}",
                cost=2.0,
                note="exact sums by float32 BLAS, then the pipeline",
            )
        )
    variants.append(
        Variant(
            "compiled",
            load=f"minidl_kernels.int8_static.cpu:{name}",
            cost=1.0,
            note="the tile reads images where they lie, the pipeline while its sums are near"
            if products
            else "one pass over memory",
        )
    )
    variants.append(
        Variant(
            "mma" if products else "elements",
            load=f"minidl_kernels.int8_static.cuda:{name}",
            device="cuda",
            note="tensor cores, the pipeline in the last step; depthwise a thread for each output"
            if products
            else "one pass over memory",
        )
    )
    return Op(name, check=check, variants=tuple(variants))


OPS = (
    _op("requantize", checks.requantize, False),
    _op("static_linear", checks.static_linear, True),
    _op("static_conv2d", checks.static_conv2d, True),
    _op("static_add", checks.static_add, False),
)
