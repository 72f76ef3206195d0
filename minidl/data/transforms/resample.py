"""Images on another grid: resized, turned, moved, sheared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.data.transforms.base import ArrayTransform, RandomTransform, pair, rounded

__all__ = ["RandomAffine", "RandomRotation", "Resize"]

_WAYS = ("nearest", "bilinear")


class Resize(ArrayTransform):
    """The image at another size.

    Args: size: (height, width), or one number for the shorter side, the other in proportion (rounded down).
    interpolation: "bilinear" or "nearest". antialias: let the "bilinear" filter widen as the image shrinks, so that
    every pixel counts; without, it looks at two by two of them.

    Pixels are squares: the one at i covers i ... i + 1, so output i looks at (i + 1/2) s - 1/2 of the input, s being
    the input's size over the output's. Integers are rounded half to even. Each axis is one product with a matrix of
    weights, triangles of half-width max(s, 1): Pillow's definition, and torch's `interpolate(antialias=True)`.

    >>> Resize((1, 2))(np.array([[0.0, 2.0, 4.0, 6.0]])).round(4).tolist()
    [[1.4286, 4.5714]]
    """

    def __init__(self, size: int | Sequence[int], interpolation: str = "bilinear", antialias: bool = True) -> None:
        if interpolation not in _WAYS:
            raise ValueError(f"Resize: interpolation must be 'nearest' or 'bilinear', got {interpolation!r}")
        self.shorter = size if isinstance(size, int) else None
        self.size = pair("Resize", size)
        self.interpolation, self.antialias = interpolation, antialias

    def apply(self, x: Any) -> Any:
        h, w = x.shape[-2:]
        if not h or not w:
            raise ValueError(f"Resize: the image has no pixels, {tuple(x.shape)}")
        height, width = self.size
        if self.shorter is not None:
            height, width = (
                (self.shorter, int(self.shorter * w / h)) if h <= w else (int(self.shorter * h / w), self.shorter)
            )
        if (height, width) == (h, w):
            return x
        if self.interpolation == "nearest":
            rows, columns = (
                np.minimum(np.floor(np.arange(m) * (n / m)).astype(int), n - 1) for m, n in ((height, h), (width, w))
            )
            return x[..., rows[:, None], columns]
        kind = x.dtype if x.dtype.kind == "f" and x.dtype.itemsize > 2 else np.float32
        y = (
            weights(height, h, self.antialias).astype(kind)
            @ x.astype(kind)
            @ weights(width, w, self.antialias).astype(kind).T
        )
        return rounded(y, x.dtype)


def weights(m: int, n: int, antialias: bool) -> np.ndarray:
    """What each of m outputs takes from each of n inputs along one axis.    M, N"""
    scale = n / m
    half = max(scale, 1.0) if antialias else 1.0
    centre = (np.arange(m) + 0.5) * scale - 0.5
    if not antialias:
        centre = np.clip(centre, 0, n - 1)
    w = np.maximum(0, 1 - np.abs(np.arange(n) - centre[:, None]) / half)
    return w / w.sum(axis=1, keepdims=True)


class RandomAffine(RandomTransform):
    """Turn, move, scale and shear each image at random about its centre.

    Args:
        degrees: (low, high), or one number for (-degrees, degrees).
        translate: the most to move, as fractions (of the width, of the height), either way.
        scale: (low, high) of the size.
        shear: (low, high) in degrees, along x; one number for (-shear, shear); or four numbers, for x and y.
        interpolation: "nearest" or "bilinear" (between the four pixels around a place).
        fill: what comes in from outside.

    Each is drawn evenly; offsets are rounded to whole pixels. The matrix is torchvision's: rotation times shear times
    scale, and like there positive angles are clockwise here, but counter-clockwise in `RandomRotation`.
    """

    clockwise = 1

    def __init__(
        self,
        degrees: float | Sequence[float],
        translate: Sequence[float] | None = None,
        scale: Sequence[float] | None = None,
        shear: float | Sequence[float] | None = None,
        interpolation: str = "nearest",
        fill: float = 0,
        generator: random.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        name = type(self).__name__
        self.degrees = _range(name, "degrees", degrees)
        self.translate = None if translate is None else tuple(translate)
        if self.translate is not None and (len(self.translate) != 2 or not all(0 <= t <= 1 for t in self.translate)):
            raise ValueError(f"{name}: translate must be two fractions in [0, 1], got {translate}")
        self.scale = None if scale is None else _range(name, "scale", scale)
        if self.scale is not None and self.scale[0] <= 0:
            raise ValueError(f"{name}: scale must be positive, got {scale}")
        sheared = (0.0, 0.0) if shear is None else (shear,) if isinstance(shear, (int, float)) else tuple(shear)
        self.shear_x = _range(name, "shear", sheared[0] if len(sheared) == 1 else sheared[:2])
        self.shear_y = _range(name, "shear", sheared[2:] if len(sheared) > 2 else (0.0, 0.0))
        if interpolation not in _WAYS:
            raise ValueError(f"{name}: interpolation must be 'nearest' or 'bilinear', got {interpolation!r}")
        self.interpolation, self.fill = interpolation, fill

    def one(self, x: Any) -> Any:
        h, w = x.shape[-2:]
        angle = self.clockwise * self.uniform(*self.degrees)
        dx = dy = 0
        if self.translate is not None:
            most_x, most_y = self.translate[0] * w, self.translate[1] * h
            dx, dy = round(self.uniform(-most_x, most_x)), round(self.uniform(-most_y, most_y))
        scale = 1.0 if self.scale is None else self.uniform(*self.scale)
        shear = self.uniform(*self.shear_x), self.uniform(*self.shear_y)
        return affine(x, angle, (dx, dy), scale, shear, self.interpolation, self.fill)


class RandomRotation(RandomAffine):
    """Turn each image by an angle drawn evenly from `degrees`: (low, high), or one number for (-degrees, degrees).

    Counter-clockwise, about the centre, at the same size; `interpolation` and `fill` as for `RandomAffine`.
    """

    clockwise = -1

    def __init__(
        self,
        degrees: float | Sequence[float],
        interpolation: str = "nearest",
        fill: float = 0,
        generator: random.Generator | None = None,
    ) -> None:
        super().__init__(degrees, interpolation=interpolation, fill=fill, generator=generator)


def affine(
    x: Any,
    angle: float,
    translate: Sequence[float],
    scale: float,
    shear: Sequence[float],
    interpolation: str,
    fill: float,
) -> Any:
    """An image turned by `angle` degrees clockwise about its centre, sheared, scaled, then moved.    C, H, W

    Output pixel p comes from M^-1 (p - c - t) + c, M = R(angle) Y(shear_y) X(shear_x) scale.
    """
    h, w = x.shape[-2:]
    a, sx, sy = (math.radians(v) for v in (angle, *shear))  # y points down, so that this is clockwise
    turn = np.array([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]])
    slant = np.array([[1.0, 0.0], [-math.tan(sy), 1.0]]) @ np.array([[1.0, -math.tan(sx)], [0.0, 1.0]])
    back = np.linalg.inv(scale * turn @ slant)
    cx, cy = (w - 1) / 2, (h - 1) / 2
    py, px = np.meshgrid(np.arange(h) - cy - translate[1], np.arange(w) - cx - translate[0], indexing="ij")
    u = back[0, 0] * px + back[0, 1] * py + cx  # H, W
    v = back[1, 0] * px + back[1, 1] * py + cy
    if interpolation == "nearest":
        # A place halfway between two pixels must not depend on the last bit of the product.
        return _at(x, np.rint(np.round(v, 9)).astype(int), np.rint(np.round(u, 9)).astype(int), fill)
    kind = x.dtype if x.dtype.kind == "f" and x.dtype.itemsize > 2 else np.float32
    row, column = np.floor(v).astype(int), np.floor(u).astype(int)
    y = np.zeros(x.shape, kind)
    for i in (0, 1):
        for j in (0, 1):
            share = (v - row if i else 1 - (v - row)) * (u - column if j else 1 - (u - column))
            y += share.astype(kind) * _at(x, row + i, column + j, fill)
    return rounded(y, x.dtype)


def _at(x: Any, rows: np.ndarray, columns: np.ndarray, fill: float) -> Any:
    """The pixels at these places, `fill` outside."""
    h, w = x.shape[-2:]
    inside = (rows >= 0) & (rows < h) & (columns >= 0) & (columns < w)
    found = x[:, np.clip(rows, 0, h - 1), np.clip(columns, 0, w - 1)]
    return np.where(inside, found, np.asarray(fill, x.dtype))


def _range(name: str, what: str, value: float | Sequence[float]) -> tuple[float, float]:
    low, high = (-value, value) if isinstance(value, (int, float)) else tuple(value)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{name}: {what} must be a number >= 0 or (low, high), got {value}")
    return float(low), float(high)
