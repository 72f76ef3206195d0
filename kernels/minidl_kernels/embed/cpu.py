"""numpy.add.at goes from row to row, each with a price of its own; sorting makes long sums of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .reference import refuse

Array = NDArray[Any]


def scatter_rows(x: Array, index: Array, rows: int) -> Array:
    refuse(index, rows)
    y = np.zeros((rows, x.shape[1]), x.dtype)
    if x.size:
        order = np.argsort(index, kind="stable")
        at = index[order]
        starts = np.flatnonzero(np.concatenate(([True], at[1:] != at[:-1])))
        y[at[starts]] = np.add.reduceat(x[order], starts, axis=0, dtype=x.dtype)
    return y
