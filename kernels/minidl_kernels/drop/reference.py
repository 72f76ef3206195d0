"""Dropout by definition, in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # golden ratio, sqrt(3) - 1
_LOW = np.uint64(0xFFFFFFFF)


def words(seed: int, stream: int, block: int, n: int) -> Array:
    """The first n words from `block` on, uint32."""
    count = np.arange(-(-n // 4), dtype=np.uint64) + np.uint64(block)
    half = np.uint64(32)
    c = [count & _LOW, count >> half, np.full_like(count, stream & 0xFFFFFFFF), np.full_like(count, stream >> 32)]
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        p, q = np.uint64(MULTIPLIERS[0]) * c[0], np.uint64(MULTIPLIERS[1]) * c[2]
        c = [q >> half ^ c[1] ^ np.uint64(key[0]), q & _LOW, p >> half ^ c[3] ^ np.uint64(key[1]), p & _LOW]
        key = [(k + w) & 0xFFFFFFFF for k, w in zip(key, WEYL)]
    return np.stack(c, -1).astype(np.uint32).reshape(-1)[:n]


def dropout(x: Array, seed: int, stream: int, block: int, p: float) -> tuple[Array, Array]:
    u = (words(seed, stream, block, x.size) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    mask = (u >= np.float32(p)).reshape(x.shape)
    return mask_scale(x, mask, 1 / (1 - p)), mask


def mask_scale(x: Array, mask: Array, scale: float) -> Array:
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(np.where(mask, x * x.dtype.type(scale), x.dtype.type(0))).reshape(x.shape)
