"""Products of matrices.

    matmul   (..., M, K) @ (..., K, N) -> (..., M, N)        leading axes broadcast
    linear   x (..., K), w (N, K), b (N,) -> y (..., N)      y = x @ w.T + b

Every variant takes any strides (transposed, sliced, reversed, broadcast, unaligned). M, N or K = 0 is legal: an empty
sum is zero. float32 and float64 are summed in their own precision, in the order of k within stretches that do not
depend on the number of threads; float16 is computed in float32 and rounded once; integers wrap and bool is or-ed, as
NumPy's matmul does.
"""

from __future__ import annotations

import math
from typing import Any

from .. import checks
from ..registry import REFERENCE, Op, Variant


def _floats(a: Any, *rest: Any) -> bool:
    return a.dtype in ("float32", "float64")


def _some_float(a: Any, *rest: Any) -> bool:
    return a.dtype.kind == "f"


def _short_float(a: Any, *rest: Any) -> bool:
    return a.dtype in ("float16", "float32", "float64")


def tiled_is_faster(batch: int, m: int, n: int, k: int) -> bool:
    """Measured on Zen 4 (AVX-512) with 1 and 2 threads against OpenBLAS; `benchmarks` measures it again.

    Below about 2^18 multiply-adds NumPy's way into BLAS is shorter (a few microseconds), and BLAS takes one thread;
    with fewer than
    4 rows or columns the tile would mostly multiply padding.
    """
    return min(m, n) >= 4 and batch * m * n * k >= 1 << 18


def _matmul_cost(a: Any, b: Any) -> float:
    batch = math.prod(a.shape[:-2]) if a.ndim >= b.ndim else math.prod(b.shape[:-2])
    return 1.0 if tiled_is_faster(batch, a.shape[-2], b.shape[-1], a.shape[-1]) else 3.0


def _linear_cost(x: Any, w: Any, b: Any) -> float:
    return 1.0 if tiled_is_faster(1, math.prod(x.shape[:-1]), *w.shape) else 3.0


OPS = (
    Op(
        "matmul",
        check=checks.matmul,
        variants=(
            Variant(
                "reference",
                load="minidl_kernels.gemm.reference:matmul",
                cost=REFERENCE,
                note="the definition, with sums in the next wider precision",
            ),
            Variant(
                "naive",
                load="minidl_kernels.gemm.ladder:naive",
                accepts=_floats,
                needs="float32 or float64",
                cost=1e6,
                note="three loops, as on the blackboard",
            ),
            Variant(
                "blocked",
                load="minidl_kernels.gemm.ladder:blocked",
                accepts=_floats,
                needs="float32 or float64",
                cost=1e5,
                note="the loops reordered and cut into blocks that stay in the caches",
            ),
            Variant(
                "blas",
                load="minidl_kernels.gemm.blas:matmul",
                accepts=_some_float,
                needs="floats",
                cost=2.0,
                note="NumPy's BLAS",
            ),
            Variant(
                "tiled",
                load="minidl_kernels.gemm.cpu:matmul",
                accepts=_short_float,
                needs="float16, float32 or float64",
                cost=_matmul_cost,
                note="packed panels and a tile in registers",
            ),
        ),
    ),
    Op(
        "linear",
        check=checks.linear,
        variants=(
            Variant("reference", load="minidl_kernels.gemm.reference:linear", cost=REFERENCE, note="the definition"),
            Variant("blas", load="minidl_kernels.gemm.blas:linear", cost=2.0, note="NumPy's BLAS, then the bias"),
            Variant(
                "tiled",
                load="minidl_kernels.gemm.cpu:linear",
                cost=_linear_cost,
                note="packed panels and a tile in registers that starts from the bias",
            ),
        ),
    ),
)
