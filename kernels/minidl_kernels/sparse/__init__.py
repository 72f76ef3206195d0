"""Linear layers with many zeros among their weights: only the others are stored and read.

    csr_linear      x (..., K), values, indices (Z,), indptr (N + 1,), b (N,) -> y (..., N)      y = x @ W.T + b
    csr_linear_dx   dy (..., N), values, indices, indptr, k -> dx (..., K)                      dx = dy @ W
    nm_linear       x (..., K), values (N, K / 2), where (N, K / 8) uint8, b (N,) -> y (..., N) y = x @ W.T + b

W (N, K) lies in compressed sparse rows: row n holds values[indptr[n]:indptr[n + 1]], in the columns that `indices`
names in the same places (uint16 or int32, in any order, and a column named twice counts twice). What is not stored
takes no part, so an infinite x beside it gives no NaN. `pack_csr` and `unpack_csr` are the way to and from dense.

For nm_linear, two of every four neighbours in a row of W are stored: values, and their places among the four, 2 bits
each, two groups in a byte; `pack_nm` and `unpack_nm` are the way to and from dense. About half the memory.

Sums are taken in the precision of x; csr's in the order in which a row is stored.
"""

from __future__ import annotations

import math
from typing import Any

from .. import checks
from ..registry import REFERENCE, Op, Variant

OPS = tuple(
    Op(
        name,
        check=getattr(checks, name),
        variants=(
            Variant("reference", load=f"minidl_kernels.sparse.reference:{name}", cost=REFERENCE, note="row by row"),
            Variant("panels", load=f"minidl_kernels.sparse.cpu:{name}", note=idea),
            Variant("warps", load=f"minidl_kernels.sparse.cuda:{name}", device="cuda", note="a warp for each result"),
        ),
    )
    for name, idea in (
        ("csr_linear", "a weight times a column of x, all rows of x side by side in vectors"),
        ("csr_linear_dx", "the same with a weight times a column of dy, added to a column of dx"),
    )
)


def _few(x: Any, *rest: Any) -> float:
    """Of `warps`, where `tiles` costs 1: a rank, not a measurement, as no GPU was at hand."""
    return 0.5 if math.prod(x.shape[:-1]) <= 16 else 2.0


OPS += (
    Op(
        "nm_linear",
        check=checks.nm_linear,
        variants=(
            Variant("reference", load="minidl_kernels.sparse.nm:nm_linear", cost=REFERENCE, note="row by row"),
            Variant("blas", load="minidl_kernels.sparse.nm:nm_linear_by_blas", note="zeros put back, NumPy's BLAS"),
            Variant(
                "warps",
                load="minidl_kernels.sparse.nm_cuda:warps",
                device="cuda",
                cost=_few,
                note="a warp for each output: weights are read once for 4 rows of x, and half of them only",
            ),
            Variant(
                "tiles",
                load="minidl_kernels.sparse.nm_cuda:tiles",
                device="cuda",
                note="register tiles, zeros put back in shared memory",
            ),
        ),
    ),
)
