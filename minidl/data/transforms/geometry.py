"""Where pixels are: frames, cuts, mirrors, shifts. No pixel changes its value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.data.transforms.base import ArrayTransform, RandomTransform, pair, probability
from minidl.devices import array_module

__all__ = ["CenterCrop", "Pad", "RandomCrop", "RandomHorizontalFlip", "RandomShift", "RandomVerticalFlip"]

_MODES = {"constant": "constant", "edge": "edge", "reflect": "reflect", "symmetric": "symmetric"}


class Pad(ArrayTransform):
    """A frame around the image.

    Args: padding: one number for all sides, (left and right, top and bottom), or (left, top, right, bottom). fill: the
    value of a "constant" frame. padding_mode: "constant", "edge" (the last pixel again), "reflect" (mirrored at it) or
    "symmetric" (mirrored behind it).

    >>> Pad((1, 0))(np.array([[1, 2]])).tolist()
    [[0, 1, 2, 0]]
    """

    def __init__(self, padding: int | Sequence[int], fill: float = 0, padding_mode: str = "constant") -> None:
        self.padding, self.fill, self.padding_mode = _sides("Pad", padding), fill, padding_mode
        if padding_mode not in _MODES:
            raise ValueError(f"Pad: padding_mode must be one of {', '.join(_MODES)}, got {padding_mode!r}")

    def apply(self, x: Any) -> Any:
        left, above, right, below = self.padding
        widths = [(0, 0)] * (x.ndim - 2) + [(above, below), (left, right)]
        xp = array_module(x)
        if self.padding_mode == "constant":
            return xp.pad(x, widths, constant_values=self.fill)
        if self.padding_mode == "reflect" and (max(above, below) >= x.shape[-2] or max(left, right) >= x.shape[-1]):
            raise ValueError(f"Pad: cannot reflect {self.padding} pixels of an image of {x.shape[-2]} x {x.shape[-1]}")
        return xp.pad(x, widths, mode=self.padding_mode)


class CenterCrop(ArrayTransform):
    """The middle of the image, `size` = (height, width) or one number for both; zeros around one that is smaller.

    The upper left corner is at round((H - height) / 2), half to even, as in torchvision.

    >>> CenterCrop(1)(np.arange(9).reshape(3, 3)).tolist()
    [[4]]
    """

    def __init__(self, size: int | Sequence[int]) -> None:
        self.size = pair("CenterCrop", size)

    def apply(self, x: Any) -> Any:
        height, width = self.size
        h, w = x.shape[-2:]
        if height > h or width > w:
            dy, dx = max(height - h, 0), max(width - w, 0)
            x = Pad((dx // 2, dy // 2, (dx + 1) // 2, (dy + 1) // 2)).apply(x)
            h, w = x.shape[-2:]
        top, left = round((h - height) / 2), round((w - width) / 2)
        return x[..., top : top + height, left : left + width]


class RandomCrop(RandomTransform):
    """A cut of `size` at a random place, after padding.

    Args: size: (height, width) or one number for both. padding, fill, padding_mode: as for `Pad`. pad_if_needed: pad an
    image that is smaller, on both sides. Raises ValueError for one that is smaller otherwise.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        padding: int | Sequence[int] | None = None,
        pad_if_needed: bool = False,
        fill: float = 0,
        padding_mode: str = "constant",
        generator: random.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        self.size, self.pad_if_needed = pair("RandomCrop", size), pad_if_needed
        self.fill, self.padding_mode = fill, padding_mode
        self.padding = Pad(0 if padding is None else padding, fill, padding_mode)

    def one(self, x: Any) -> Any:
        height, width = self.size
        if any(self.padding.padding):
            x = self.padding.apply(x)
        h, w = x.shape[-2:]
        if self.pad_if_needed and (h < height or w < width):
            dy, dx = max(height - h, 0), max(width - w, 0)
            x = Pad((dx, dy), self.fill, self.padding_mode).apply(x)
            h, w = x.shape[-2:]
        if h < height or w < width:
            raise ValueError(f"RandomCrop: cannot cut {height} x {width} out of an image of {h} x {w}")
        top = int(self.draws().integers(0, h - height + 1))
        left = int(self.draws().integers(0, w - width + 1))
        return x[:, top : top + height, left : left + width]


class _RandomFlip(RandomTransform):
    """Mirror along one axis with probability `p`."""

    axis = -1

    def __init__(self, p: float = 0.5, generator: random.Generator | None = None) -> None:
        super().__init__(generator)
        self.p = probability(type(self).__name__, p)

    def apply(self, x: Any) -> Any:
        n = len(x) if x.ndim == 4 else 1
        flip = array_module(x).asarray(self.draws().bernoulli(self.p, n))
        flip = flip.reshape(-1, 1, 1, 1) if x.ndim == 4 else flip
        return array_module(x).where(flip, array_module(x).flip(x, self.axis), x)


class RandomHorizontalFlip(_RandomFlip):
    """Mirror left and right with probability `p`."""


class RandomVerticalFlip(_RandomFlip):
    """Mirror top and bottom with probability `p`."""

    axis = -2


class RandomShift(RandomTransform):
    """Move each image by up to `pixels` rows and columns, each amount equally likely; zeros come in from outside."""

    def __init__(self, pixels: int = 1, generator: random.Generator | None = None) -> None:
        super().__init__(generator)
        if pixels < 0:
            raise ValueError(f"RandomShift: pixels must not be negative, got {pixels}")
        self.pixels = pixels

    def apply(self, x: Any) -> Any:
        if x.ndim != 4:
            batch = x.reshape(1, -1, *x.shape[-2:])
            return self.apply(batch).reshape(x.shape)
        xp, p = array_module(x), self.pixels
        n, _, h, w = x.shape
        shift = self.draws().integers(0, 2 * p + 1, (n, 2))
        padded = xp.pad(x, ((0, 0), (0, 0), (p, p), (p, p)))
        rows = xp.asarray(shift[:, 0, None] + np.arange(h))  # N, H
        columns = xp.asarray(shift[:, 1, None] + np.arange(w))  # N, W
        images = xp.arange(n)[:, None, None]
        moved = padded.transpose(0, 2, 3, 1)[images, rows[:, :, None], columns[:, None, :]]  # N, H, W, C
        return xp.ascontiguousarray(moved.transpose(0, 3, 1, 2))


def _sides(name: str, padding: int | Sequence[int]) -> tuple[int, int, int, int]:
    values = (padding,) if isinstance(padding, int) else tuple(padding)
    if len(values) not in (1, 2, 4) or any(not isinstance(v, int) or v < 0 for v in values):
        raise ValueError(f"{name}: padding must be 1, 2 or 4 integers >= 0, got {padding!r}")
    left, above, right, below = values * (4 // len(values))
    return left, above, right, below
