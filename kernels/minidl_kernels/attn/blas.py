"""The definition, with its products on one BLAS thread: the shortest way where there are few queries.

One thread, because BLAS rounds differently for each number of threads and kernels promise the same bits for any.
"""

from __future__ import annotations

from typing import Any

from ..cpu.threads import blas_threads
from . import reference


def attention(*args: Any) -> Any:
    """As reference.attention."""
    with blas_threads(1):
        return reference.attention(*args)


def attention_backward(*args: Any) -> Any:
    """As reference.attention_backward."""
    with blas_threads(1):
        return reference.attention_backward(*args)
