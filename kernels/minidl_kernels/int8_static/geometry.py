"""Images with channels last, their borders and their windows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..gemm_int8.geometry import Border, Pair, outputs, sides, split

__all__ = ["Border", "Pair", "outputs", "sides", "split", "surrounded", "windows"]

Array = NDArray[Any]


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
