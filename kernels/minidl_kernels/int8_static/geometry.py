"""Images with channels last, their borders and their windows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Pair = int | tuple[int, int]
Border = int | tuple[int, int] | tuple[int, int, int, int]


def split(value: Pair) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


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


def surrounded(x: Array, padding: Border, border: int) -> Array:
    """The images with a border of one code; x itself where it has none."""
    top, bottom, left, right = sides(padding)
    if not (top or bottom or left or right):
        return x
    b, h, w, c = x.shape
    wide = np.full((b, h + top + bottom, w + left + right, c), border, np.int8)
    wide[:, top : top + h, left : left + w] = x
    return wide


def windows(x: Array, window: Any, stride: Pair, padding: Border, dilation: Pair, border: int) -> Array:
    """What each output sees, a view of the surrounded images.    x (B, H, W, C) -> (B, P, Q, R, S, C)"""
    (r, s), (sh, sw), (dh, dw) = window, split(stride), split(dilation)
    wide = surrounded(x, padding, border)
    view = np.lib.stride_tricks.sliding_window_view(wide, (dh * (r - 1) + 1, dw * (s - 1) + 1), (1, 2))
    return view[:, ::sh, ::sw, :, ::dh, ::dw].transpose(0, 1, 2, 4, 5, 3)
