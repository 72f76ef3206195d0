"""Linear layers with many zeros among their weights: only the others are stored and read.

    csr_linear      x (..., K), values, indices (Z,), indptr (N + 1,), b (N,) -> y (..., N)      y = x @ W.T + b
    csr_linear_dx   dy (..., N), values, indices, indptr, k -> dx (..., K)                      dx = dy @ W
    nm_linear       x (..., K), values (N, G, n), indices (N, R), m, b (N,) -> y (..., N)       y = x @ W.T + b

W (N, K) lies in compressed sparse rows: row n holds values[indptr[n]:indptr[n + 1]], in the columns that `indices`
names in the same places (uint16 or int32, in any order, and a column named twice counts twice). What is not stored
takes no part, so an infinite x beside it gives no NaN. `pack_csr` and `unpack_csr` are the way to and from dense.

For `nm_linear` n of every m neighbours in a row of W are stored, for all G = ceil(K / m) groups, and with each its
place in the group, 1, 2 or 4 bits of uint8 (`pack_nm`). A zero that fills a group up is a weight like others here.

Sums are taken in the precision of x, in the order in which a row is stored.
"""

from __future__ import annotations

import math
from typing import Any

from .. import checks
from ..cpu import machine
from ..registry import REFERENCE, Op, Variant

OPS: tuple[Op, ...] = tuple(
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


_UNPACKED_FROM = 256  # rows of x; 2:4, 1024 x 1024 and 4096 x 1024, with AMX


def _unpacked_cost(x: Any, values: Any, indices: Any, m: Any, b: Any) -> float:
    """Below the panels (1) where a dense product on the tile unit outruns half of the multiply-adds."""
    return 0.5 if x.dtype == "float32" and math.prod(x.shape[:-1]) > _UNPACKED_FROM and machine.tier() == "amx" else 2.0


def _few(x: Any, *rest: Any) -> float:
    """Of `warps`, where `tiles` costs 1: a rank, not a measurement, as no GPU was at hand."""
    return 0.5 if math.prod(x.shape[:-1]) <= 16 else 2.0


def _two_of_four(x: Any, values: Any, indices: Any, m: Any, b: Any) -> bool:
    return m == 4 and values.shape[2] == 2 and x.shape[-1] % 8 == 0


OPS += (
    Op(
        "nm_linear",
        check=checks.nm_linear,
        variants=(
            Variant("reference", load="minidl_kernels.sparse.reference:nm_linear", cost=REFERENCE, note="row by row"),
            Variant(
                "panels",
                load="minidl_kernels.sparse.groups:nm_linear",
                note="a weight times a column of x, of two rows of W, in stretches that the first cache holds",
            ),
            Variant(
                "unpacked",
                load="minidl_kernels.sparse.groups:nm_linear_unpacked",
                cost=_unpacked_cost,
                note="W made dense, and the dense product",
            ),
            Variant(
                "warps",
                load="minidl_kernels.sparse.nm_cuda:warps",
                device="cuda",
                accepts=_two_of_four,
                needs="2:4 and K a multiple of 8",
                cost=_few,
                note="a warp for each output: weights are read once for 4 rows of x, and half of them only",
            ),
            Variant(
                "tiles",
                load="minidl_kernels.sparse.nm_cuda:tiles",
                device="cuda",
                accepts=_two_of_four,
                needs="2:4 and K a multiple of 8",
                note="register tiles, zeros put back in shared memory",
            ),
        ),
    ),
)
