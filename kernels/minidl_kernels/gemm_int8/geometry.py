"""A convolution's settings: pairs, borders, phases, the size of what comes out."""

from __future__ import annotations

Pair = int | tuple[int, int]
Border = int | tuple[int, int] | tuple[int, int, int, int]


def split(pair: Pair) -> tuple[int, int]:
    """(height, width)"""
    return pair if isinstance(pair, tuple) else (pair, pair)


def phases(taps: int, dilation: int, stride: int) -> list[int]:
    """The phases of the stride (pixels modulo the stride) that some tap reads."""
    return sorted({i * dilation % stride for i in range(taps)})


def sides(padding: Border) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of one number, (height, width), or all four."""
    if not isinstance(padding, tuple):
        return (padding,) * 4
    if len(padding) == 2:
        return padding[0], padding[0], padding[1], padding[1]
    return padding


def outputs(x: tuple[int, ...], window: tuple[int, int], stride: Pair, padding: Border, dilation: Pair) -> list[int]:
    """[P, Q]; not positive where the window does not fit."""
    edges, found = sides(padding), []
    for i in range(2):
        room = x[1 + i] + edges[2 * i] + edges[2 * i + 1] - split(dilation)[i] * (window[i] - 1) - 1
        found.append(room // split(stride)[i] + 1 if room >= 0 else 0)
    return found
