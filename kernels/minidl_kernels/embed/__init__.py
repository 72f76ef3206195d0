"""Rows of a table added up: the gradient of an embedding.

    scatter_rows   x (L, D), index (L,), rows -> y (rows, D)      y[index[i]] += x[i], from zeros, for every i

Rows of one place are added in an order that depends on nothing but `index`: the same bits in every run, which atomic
additions on a GPU would not give. An index outside 0 ... rows - 1 raises IndexError on the CPU; on a GPU, where the
host would have to wait for it, such a row is left out.
"""

from __future__ import annotations

from typing import Any

from .. import checks
from ..registry import REFERENCE, Op, Variant


def _wide(x: Any, *rest: Any) -> bool:
    return x.dtype in ("float32", "float64", "int32", "int64")


def _known(x: Any, *rest: Any) -> bool:
    return x.itemsize <= 8


OPS = (
    Op(
        "scatter_rows",
        check=checks.scatter_rows,
        variants=(
            Variant(
                "reference",
                load="minidl_kernels.embed.reference:scatter_rows",
                cost=REFERENCE,
                note="row after row, by numpy.add.at",
            ),
            Variant(
                "columns",
                load="minidl_kernels.embed.cpu:scatter_rows",
                accepts=_known,
                needs="numbers of at most 8 bytes",
                note="row after row, a share of the columns for each thread",
            ),
            Variant(
                "sorted",
                load="minidl_kernels.embed.cuda:scatter_rows",
                device="cuda",
                accepts=_wide,
                needs="float32, float64, int32 or int64",
                note="places sorted, then a warp for 32 columns of each place: no atomics, the same bits in every run",
            ),
        ),
    ),
)
