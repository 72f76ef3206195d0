"""Products of 8-bit integers, exact, and the layers made of them.

    int8_matmul   a (..., M, K) int8 @ b (K, N) int8 -> (..., M, N) int32, exact for every int8, -128 included
    int8_linear   x (..., K) float, w_q (N, K) int8, w_scale (N,), b (N,) -> y (..., N)
    int8_conv2d   x (N, C, H, W) float, w_q (K, C / groups, R, S) int8, w_scale (K,), b (K,) -> y (N, K, P, Q)

A layer has three stages, each with one definition (quantize.py), the same bits in every variant:

    1. x becomes int8, symmetric: q = clip(rint(x / s), -127, 127), half to even, s = max|x| / 127 of the row (linear)
    or image
       (conv2d), 1 where that is 0; or the static `x_scale`. In float32 (float64 is rounded to it first).
    2. acc = q @ w_q in int32, exact: no order of summation, no thread count, no instruction can change it.
    3. y = float32(acc) * (s * w_scale) + b, in float32, each operation rounded; then x's dtype.

NaN or Inf in x: its row (image) comes out as NaN or Inf where s is dynamic; a NaN counts as 0 where x_scale is given.
Weights of layers that nobody can write (`minidl_kernels.frozen`) are packed once and kept while they live.
K (for conv2d C / groups * R * S) stays below 2^17, so that K * 128 * 128 < 2^31.
"""

from __future__ import annotations

import math
from typing import Any

from .. import checks
from ..registry import REFERENCE, Op, Variant


def _product_cost(a: Any, b: Any) -> float:
    return _cost(math.prod(a.shape[:-1]) * math.prod(b.shape))


def _linear_cost(x: Any, w_q: Any, w_scale: Any, b: Any, x_scale: Any) -> float:
    return _cost(math.prod(x.shape[:-1]) * w_q.size)


def _cost(work: int) -> float:
    """Measured: below some thousand multiply-adds NumPy's few calls are shorter than the way into a kernel."""
    return 1.0 if work >= 1 << 12 else 3.0


def _cuda(op: str) -> tuple[Variant, ...]:
    """Costs are ranks, not measurements: no GPU was at hand."""
    ways = (("dp4a", 2.0, "four products of bytes in an instruction"), ("mma", 1.0, "tensor cores"))
    return tuple(
        Variant(way, load=f"minidl_kernels.gemm_int8.cuda:{op[5:]}_{way}", device="cuda", cost=cost, note=note)
        for way, cost, note in ways
        if (op, way) != ("int8_conv2d", "dp4a")
    )


def _op(name: str, check: Any, cost: Any) -> Op:
    return Op(
        name,
        check=check,
        variants=(
            Variant(
                "reference",
                load=f"minidl_kernels.gemm_int8.reference:{name}",
                cost=REFERENCE,
                note="the definition: int32 by NumPy",
            ),
            Variant(
                "blas",
                load=f"minidl_kernels.gemm_int8.blas:{name}",
                cost=2.0,
                note="exact sums by float32 BLAS, 1024 products at a time",
            ),
            Variant(
                "tiled",
                load=f"minidl_kernels.gemm_int8.{'conv' if name == 'int8_conv2d' else 'cpu'}:{name}",
                cost=cost,
                note="the register tile with the CPU's integer dot product",
            ),
            *_cuda(name),
        ),
    )


OPS = (
    _op("int8_matmul", checks.int8_matmul, _product_cost),
    _op("int8_linear", checks.int8_linear, _linear_cost),
    _op("int8_conv2d", checks.int8_conv2d, 1.0),
)
