"""What pixels are worth: grey, brightness, contrast, saturation, patches rubbed out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.data.transforms.base import ArrayTransform, RandomTransform, probability, top
from minidl.devices import array_module

__all__ = ["ColorJitter", "Grayscale", "RandomErasing"]

_LUMA = (0.2989, 0.587, 0.114)  # torchvision's digits of ITU-R BT.601


class Grayscale(ArrayTransform):
    """0.2989 R + 0.587 G + 0.114 B, as 1 or 3 equal channels; integers are cut off to whole ones.

    Takes (..., 3, H, W), or grey already (..., 1, H, W). Raises ValueError for other numbers of channels.

    >>> Grayscale()(np.full((3, 1, 1), 0.5)).round(6).tolist()
    [[[0.49995]]]
    """

    def __init__(self, num_output_channels: int = 1) -> None:
        if num_output_channels not in (1, 3):
            raise ValueError(f"Grayscale: num_output_channels must be 1 or 3, got {num_output_channels}")
        self.num_output_channels = num_output_channels

    def apply(self, x: Any) -> Any:
        grey = x if x.ndim == 2 else luma("Grayscale", x)
        if self.num_output_channels == 1:
            return grey
        xp = array_module(x)
        return xp.repeat(grey[None] if grey.ndim == 2 else grey, 3, axis=-3)


def luma(name: str, x: Any) -> Any:
    """The grey of an image with 3 channels, or the image itself with 1.    (..., C, H, W) -> (..., 1, H, W)"""
    if x.shape[-3] == 1:
        return x
    if x.shape[-3] != 3:
        raise ValueError(f"{name}: takes images of 1 or 3 channels, got {tuple(x.shape)}")
    r, g, b = (x[..., i : i + 1, :, :].astype(_float(x)) for i in range(3))
    return (_LUMA[0] * r + _LUMA[1] * g + _LUMA[2] * b).astype(x.dtype)


class ColorJitter(RandomTransform):
    """Change brightness, contrast and saturation of each image by random factors, in a random order.

    Each option is (low, high) of its factor, or one number v for (max(0, 1 - v), 1 + v). The image is mixed with black,
    with its mean grey, or with its own grey: factor f gives f x + (1 - f) other, cut to 0 ... 1 or the integers' range,
    integers cut off to whole ones. Saturation leaves an image of one channel as it is.
    """

    def __init__(
        self,
        brightness: float | Sequence[float] = 0,
        contrast: float | Sequence[float] = 0,
        saturation: float | Sequence[float] = 0,
        generator: random.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        self.factors = {
            name: _factors(name, value)
            for name, value in (("brightness", brightness), ("contrast", contrast), ("saturation", saturation))
        }

    def one(self, x: Any) -> Any:
        names = list(self.factors)
        for i in self.draws().permutation(3).tolist():
            low, high = self.factors[names[i]]
            if (low, high) != (1, 1):
                x = adjusted(x, names[i], self.uniform(low, high))
        return x


def adjusted(x: Any, name: str, factor: float) -> Any:
    """An image with its brightness, contrast or saturation changed by a factor.    C, H, W"""
    if name == "brightness":
        other: Any = 0.0
    else:
        grey = luma("ColorJitter", x).astype(_float(x))
        other = grey.mean() if name == "contrast" else grey
        if name == "saturation" and len(x) == 1:
            return x
    kind = _float(x)
    mixed = x.astype(kind) * kind.type(factor) + other * kind.type(1 - factor)
    return np.clip(mixed, 0, top(x)).astype(x.dtype)


class RandomErasing(RandomTransform):
    """With probability `p`, rub out a rectangle of each image; Zhong et al. 2017 (arXiv:1708.04896).

    Args: scale: (low, high) of its area, as a share of the image's. ratio: (low, high) of height over width, drawn
    evenly in the logarithm. value: what is put there: a number, one for each channel, or "random" for normal numbers.
    If no rectangle fits in ten draws, the image stays.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: Sequence[float] = (0.02, 0.33),
        ratio: Sequence[float] = (0.3, 3.3),
        value: float | str | Sequence[float] = 0,
        generator: random.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        self.p = probability("RandomErasing", p)
        self.scale, self.ratio, self.value = tuple(scale), tuple(ratio), value
        if len(self.scale) != 2 or not 0 <= self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"RandomErasing: scale must be (low, high) within [0, 1], got {scale}")
        if len(self.ratio) != 2 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"RandomErasing: ratio must be positive (low, high), got {ratio}")
        if isinstance(value, str) and value != "random":
            raise ValueError(f"RandomErasing: value must be a number, numbers or 'random', got {value!r}")

    def one(self, x: Any) -> Any:
        if not bool(self.draws().bernoulli(self.p, ())):
            return x
        c, h, w = x.shape
        for _ in range(10):
            area = h * w * self.uniform(*self.scale)
            ratio = math.exp(self.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            eh, ew = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if not (eh < h and ew < w):
                continue
            if isinstance(self.value, str):
                patch = self.draws().normal((c, eh, ew)).astype(x.dtype)
            else:
                patch = np.asarray(self.value, dtype=x.dtype).reshape(-1, 1, 1)
                if len(patch) not in (1, c):
                    raise ValueError(f"RandomErasing: {len(patch)} values for {c} channels")
            above, left = (int(self.draws().integers(0, n + 1)) for n in (h - eh, w - ew))
            y = x.copy()
            y[:, above : above + eh, left : left + ew] = patch
            return y
        return x


def _factors(name: str, value: float | Sequence[float]) -> tuple[float, float]:
    low, high = (max(0.0, 1.0 - value), 1.0 + value) if isinstance(value, (int, float)) else tuple(value)
    if not (0 <= low <= high < math.inf) or (isinstance(value, (int, float)) and value < 0):
        raise ValueError(f"ColorJitter: {name} must be a number >= 0 or (low, high) of these, got {value}")
    return float(low), float(high)


def _float(x: Any) -> np.dtype:
    return x.dtype if x.dtype.kind == "f" and x.dtype.itemsize > 2 else np.dtype(np.float32)
