"""The definition, with its products on one BLAS thread: the shortest way where there are few queries.

One thread, because BLAS rounds differently for each number of threads and kernels promise the same bits for any.
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ..cpu.threads import one_blas_thread
from . import reference

Array = NDArray[Any]


def attention(
    q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float | None
) -> tuple[Array, Array]:
    """out, lse"""
    with one_blas_thread:
        return reference.attention(q, k, v, mask, causal, scale)


def attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    mask: Array | None,
    causal: bool,
    scale: float | None,
) -> tuple[Array, Array, Array]:
    """dq, dk, dv"""
    with one_blas_thread:
        return reference.attention_backward(dout, q, k, v, out, lse, mask, causal, scale)
