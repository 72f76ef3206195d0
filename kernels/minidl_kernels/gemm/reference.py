"""The definition of right: sums in the next wider precision where there is one, rounded once at the end."""

from __future__ import annotations

import math
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


def linear_backward(
    dy: Array, x: Array, w: Array, needs: tuple[bool, bool, bool]
) -> tuple[Array | None, Array | None, Array | None]:
    wide = WIDER.get(x.dtype.name, x.dtype)
    count = math.prod(x.shape[:-1])
    rows, inputs = dy.astype(wide).reshape(count, dy.shape[-1]), x.astype(wide).reshape(count, x.shape[-1])
    with np.errstate(over="ignore", invalid="ignore"):
        dx = (rows @ w.astype(wide)).reshape(x.shape).astype(x.dtype) if needs[0] else None
        dw = (rows.T @ inputs).astype(x.dtype) if needs[1] else None
        return dx, dw, rows.sum(0).astype(x.dtype) if needs[2] else None


def linear(x: Array, w: Array, b: Array | None) -> Array:
    wide = WIDER.get(x.dtype.name, x.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        y = x.astype(wide) @ w.T.astype(wide)
        return (y if b is None else y + b).astype(x.dtype)
