"""The definition of right: sums in the next wider precision where there is one, rounded once at the end."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WIDER = {"float16": "float32", "float32": "float64"}


def matmul(a: Array, b: Array) -> Array:
    wide = WIDER.get(a.dtype.name)
    if wide is None:
        return np.matmul(a, b)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.matmul(a.astype(wide), b.astype(wide)).astype(a.dtype)


def linear(x: Array, w: Array, b: Array | None) -> Array:
    wide = WIDER.get(x.dtype.name, x.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        y = x.astype(wide) @ w.T.astype(wide)
        return (y if b is None else y + b).astype(x.dtype)
