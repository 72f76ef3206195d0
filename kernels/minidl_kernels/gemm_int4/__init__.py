"""Linear layers with weights of 4 bits, in groups along K that have a scale each: weight-only, x stays float.

    int4_linear   x (..., K), w_q (N, K / 2) uint8, scale, zero (N, K / G), zero uint8 or None, b (N,) -> y (..., N)

    W[n, k] = (q[n, k] - zero[n, k // G]) * scale[n, k // G]  in float32, q in 0 .. 15, zero 8 where it is None
    y = x @ W.T + b

G is a multiple of 32 and divides K. Bytes hold two numbers: byte i of a run of 16 has q[k] in its low half and
q[k + 16] in its high half, k = 32 * run + i, so that whole vectors come out of whole vectors (as in llama.cpp's Q4_0).
`pack_int4` and `unpack_int4` are the way there and back.
"""

from __future__ import annotations

import math
from typing import Any

from .. import checks
from ..registry import REFERENCE, Op, Variant


def _single(x: Any, *rest: Any) -> bool:
    return x.dtype == "float32"


OPS = (
    Op(
        "int4_linear",
        check=checks.int4_linear,
        variants=(
            Variant(
                "reference",
                load="minidl_kernels.gemm_int4.reference:int4_linear",
                cost=REFERENCE,
                note="the definition: weights as floats, sums in float64",
            ),
            Variant(
                "blas",
                load="minidl_kernels.gemm_int4.reference:int4_linear_by_blas",
                cost=2.0,
                note="weights as floats by NumPy, then its BLAS",
            ),
            Variant(
                "vectors",
                load="minidl_kernels.gemm_int4.cpu:int4_linear",
                accepts=_single,
                needs="float32",
                note="weights become floats in registers; for many rows of x, in blocks before the tiled product",
            ),
            # Their costs are ranks, not measurements: no GPU was at hand.
            Variant(
                "warps",
                load="minidl_kernels.gemm_int4.cuda:warps",
                device="cuda",
                cost=lambda x, *rest: 0.5 if math.prod(x.shape[:-1]) <= 16 else 2.0,
                note="a warp for each output: weights are read once for 4 rows of x",
            ),
            Variant(
                "tiles",
                load="minidl_kernels.gemm_int4.cuda:tiles",
                device="cuda",
                note="register tiles: a weight becomes a float once for 64 rows of x",
            ),
        ),
    ),
)
