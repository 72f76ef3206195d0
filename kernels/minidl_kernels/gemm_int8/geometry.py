"""Pairs and phases of a convolution's settings."""

from __future__ import annotations

Pair = int | tuple[int, int]


def split(pair: Pair) -> tuple[int, int]:
    """(height, width)"""
    return pair if isinstance(pair, tuple) else (pair, pair)


def phases(taps: int, dilation: int, stride: int) -> list[int]:
    """The phases of the stride (pixels modulo the stride) that some tap reads."""
    return sorted({i * dilation % stride for i in range(taps)})
