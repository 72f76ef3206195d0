"""Products of matrices.

    matmul   (..., M, K) @ (..., K, N) -> (..., M, N)        leading axes broadcast
    linear   x (..., K), w (N, K), b (N,) -> y (..., N)      y = x @ w.T + b
    linear_backward   dy (..., N), x, w -> dx, dw, db        dx = dy @ w, dw = dy.T @ x, db = sum of dy

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


# Measured on Zen 4 (AVX-512) against OpenBLAS with 2 threads. Below, NumPy's shorter way into BLAS wins (one
# microsecond instead of three); it takes one thread there. `minidl bench matmul` measures it again.
_TILED_FROM = 1 << 19  # multiply-adds
_VECTOR_FROM = 1 << 18  # the same where one side is a vector


def _tiled_cost(batch: int, m: int, n: int, k: int) -> float:
    """Below BLAS (2) where the compiled kernel is faster."""
    return 1.0 if batch * m * n * k >= (_TILED_FROM if min(m, n) > 1 else _VECTOR_FROM) else 3.0


def _matmul_tiled_cost(a: Any, b: Any) -> float:
    batch = math.prod(a.shape[:-2]) if a.ndim >= b.ndim else math.prod(b.shape[:-2])
    return _tiled_cost(batch, a.shape[-2], b.shape[-1], a.shape[-1])


def _linear_backward_cost(dy: Any, x: Any, w: Any, needs: Any) -> float:
    return _tiled_cost(1, math.prod(x.shape[:-1]), *w.shape)


def _linear_tiled_cost(x: Any, w: Any, b: Any) -> float:
    return _tiled_cost(1, math.prod(x.shape[:-1]), *w.shape)


def _float32(a: Any, *rest: Any) -> bool:
    return a.dtype == "float32"


def _float16(a: Any, *rest: Any) -> bool:
    return a.dtype == "float16"


def _cuda(op: str) -> tuple[Variant, ...]:
    """The ladder on a GPU. Its costs are ranks, not measurements: no GPU was at hand. Variants that round the operands
    run only where they are asked for."""

    def row(name: str, cost: float, note: str, accepts: Any = _float32, needs: str = "float32") -> Variant:
        load = f"minidl_kernels.gemm.cuda:{op}_{name}"
        return Variant(name, load, device="cuda", accepts=accepts, needs=needs, cost=cost, note=note)

    floats = (_floats, "float32 or float64")
    return (
        row("naive", 1e6, "a thread for each result", *floats),
        row("shared_tiles", 1e5, "squares of 16 x 16 in shared memory", *floats),
        row("register_tiles", 1.0, "64 x 64 by a block, 4 x 4 in the registers of each thread", *floats),
        row("async_tiles", 1.5, "the same, the next tile copied (cp.async) while this one is summed", *floats),
        row("tf32x3", 2.0, "tensor cores: float32 from three products in tf32"),
        row("tf32", 1e8, "tensor cores, operands rounded to 11 bits: only where asked for"),
        row("bf16", 1e8, "tensor cores, operands rounded to 8 bits: only where asked for"),
    )


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
                cost=_matmul_tiled_cost,
                note="packed panels and a tile in registers",
            ),
            *_cuda("matmul"),
            Variant(
                "f16",
                load="minidl_kernels.gemm.cuda:matmul_f16",
                device="cuda",
                accepts=_float16,
                needs="float16",
                note="tensor cores, sums in float32",
            ),
            Variant(
                "library",
                load="minidl_kernels.gemm.cuda:matmul_library",
                device="cuda",
                cost=3.0,
                note="CuPy's own, cuBLAS for floats: what runs for integers",
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
                cost=_linear_tiled_cost,
                note="packed panels and a tile in registers that starts from the bias",
            ),
            *_cuda("linear"),
        ),
    ),
    Op(
        "linear_backward",
        check=checks.linear_backward,
        variants=(
            Variant(
                "reference",
                load="minidl_kernels.gemm.reference:linear_backward",
                cost=REFERENCE,
                note="the definition",
            ),
            Variant("blas", load="minidl_kernels.gemm.backward:blas", cost=2.0, note="NumPy's BLAS"),
            Variant(
                "tiled",
                load="minidl_kernels.gemm.backward:tiled",
                cost=_linear_backward_cost,
                note="packed panels and a tile in registers",
            ),
        ),
    ),
)
