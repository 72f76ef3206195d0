"""Dropout on a GPU: drop.cu makes the numbers that the CPU makes."""

from __future__ import annotations

from typing import Any

from ..cuda.launch import contiguous, cupy, kernel, spread


def dropout(x: Any, seed: int, stream: int, block: int, p: float) -> tuple[Any, Any]:
    (x,) = contiguous(x)
    y, mask = cupy().empty_like(x), cupy().empty(x.shape, bool)
    run = kernel("drop/drop.cu", "dropout", x.dtype)
    run(spread(-(-x.size // 4)), 256, x, y, mask, x.size, seed, stream, block, p, 1 / (1 - p))
    return y, mask


def mask_scale(x: Any, mask: Any, scale: float) -> Any:
    x, mask = contiguous(x, mask)
    y = cupy().empty_like(x)
    kernel("drop/drop.cu", "mask_scale", x.dtype)(spread(x.size), 256, x, mask, y, x.size, scale)
    return y
