"""Linear layers whose weights are mostly zeros: only the others are stored, read and multiplied.

    csr_linear      x (..., K), values, indices (Z,), indptr (N + 1,), b (N,) -> y (..., N)      y = x @ W.T + b
    csr_linear_dx   dy (..., N), values, indices, indptr, k -> dx (..., K)                      dx = dy @ W

W (N, K) lies in compressed sparse rows: row n holds values[indptr[n]:indptr[n + 1]], in the columns that `indices`
names in the same places (uint16 or int32, in any order, and a column named twice counts twice). What is not stored
takes no part, so an infinite x beside it gives no NaN. `pack_csr` and `unpack_csr` are the way to and from dense.

Sums are taken in the precision of x, in the order in which a row is stored.
"""

from __future__ import annotations

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
