"""The numbers of a convolution, worked out once per shape."""

from __future__ import annotations

import operator
from functools import lru_cache
from typing import NamedTuple

from .. import checks


class Geometry(NamedTuple):
    """Sizes under their one-letter names; pairs are (height, width)."""

    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    p: int
    q: int
    groups: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @property
    def x_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.c, self.h, self.w

    @property
    def w_shape(self) -> tuple[int, int, int, int]:
        return self.k, self.c // self.groups, self.r, self.s

    @property
    def y_shape(self) -> tuple[int, int, int, int]:
        return self.n, self.k, self.p, self.q


Pair = int | tuple[int, int]


@lru_cache(maxsize=1024)
def geometry(
    x_shape: tuple[int, ...], w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Geometry:
    """Geometry of conv2d(x, w, ...) for valid arguments."""
    _, k, p, q = checks.conv_geometry("conv2d", x_shape, w_shape, stride, padding, dilation, groups)
    (n, c, h, w), (r, s) = x_shape, w_shape[2:]
    return Geometry(n, c, h, w, k, r, s, p, q, operator.index(groups), _pair(stride), _pair(padding), _pair(dilation))


def _pair(value: Pair) -> tuple[int, int]:
    return checks.pair("conv2d", "value", value, 0)
