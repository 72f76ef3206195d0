"""The definition of right: one row after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def refuse(index: Array, rows: int) -> None:
    """IndexError for a place that does not exist."""
    if index.size and (index.min() < 0 or index.max() >= rows):
        bad = index.min() if index.min() < 0 else index.max()
        raise IndexError(f"scatter_rows: index {bad} is out of bounds: there are {rows} rows")


def scatter_rows(x: Array, index: Array, rows: int) -> Array:
    refuse(index, rows)
    y = np.zeros((rows, x.shape[1]), x.dtype)
    np.add.at(y, index, x)
    return y
