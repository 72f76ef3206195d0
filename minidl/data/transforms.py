"""Transforms of images: one image (C, H, W) or (H, W), or a batch (N, C, H, W), as array or Tensor; the result
likewise.

Random ones draw per image, from `generator` or minidl's default one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.devices import array_module
from minidl.tensors import Tensor, wrap

__all__ = ["Compose", "Normalize", "RandomHorizontalFlip", "RandomShift", "ToFloat"]


class Compose:
    """Several transforms, one after the other.

    >>> prepare = Compose([ToFloat(), Normalize([0.5], [0.5])])
    >>> prepare(np.full((1, 2, 2), 255, np.uint8)).tolist()
    [[[1.0, 1.0], [1.0, 1.0]]]
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    @property
    def works_on_batches(self) -> bool:
        return all(getattr(t, "works_on_batches", False) for t in self.transforms)

    def __call__(self, x: Any) -> Any:
        for transform in self.transforms:
            x = transform(x)
        return x


class ArrayTransform:
    """A transform defined by what it does to an array; Tensors are unwrapped and wrapped again."""

    works_on_batches = True

    def __call__(self, x: Any) -> Any:
        return wrap(self.apply(x.array)) if isinstance(x, Tensor) else self.apply(x)

    def apply(self, x: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no apply")


class ToFloat(ArrayTransform):
    """float32, divided by `top`, the value of a full pixel (default 255)."""

    def __init__(self, top: float = 255.0) -> None:
        self.top = top

    def apply(self, x: Any) -> Any:
        return x.astype(np.float32) / np.float32(self.top)


class Normalize(ArrayTransform):
    """(x - mean) / std by channel: mean, std of length C for images (..., C, H, W), or of length 1."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (np.asarray(v, dtype=np.float32).reshape(-1, 1, 1) for v in (mean, std))
        if not (self.std > 0).all():
            raise ValueError(f"Normalize: std must be positive, got {std}")

    def apply(self, x: Any) -> Any:
        if x.dtype.kind != "f":
            raise TypeError(f"Normalize: the image is {x.dtype}; apply ToFloat first")
        channels = x.shape[-3] if x.ndim >= 3 else 1
        if any(len(v) not in (1, channels) for v in (self.mean, self.std)):
            raise ValueError(f"Normalize: {len(self.mean)} means and {len(self.std)} stds for {channels} channels")
        xp = array_module(x)
        mean, std = (xp.asarray(v if x.ndim >= 3 else v[0], dtype=x.dtype) for v in (self.mean, self.std))
        return (x - mean) / std


class RandomTransform(ArrayTransform):
    """A transform with a draw for each image."""

    def __init__(self, generator: random.Generator | None = None) -> None:
        self.generator = generator

    def draws(self) -> random.Generator:
        return self.generator or random.default_generator


class RandomHorizontalFlip(RandomTransform):
    """Mirror left and right with probability `p`."""

    def __init__(self, p: float = 0.5, generator: random.Generator | None = None) -> None:
        super().__init__(generator)
        if not 0 <= p <= 1:
            raise ValueError(f"RandomHorizontalFlip: p must lie in [0, 1], got {p}")
        self.p = p

    def apply(self, x: Any) -> Any:
        n = len(x) if x.ndim == 4 else 1
        flip = array_module(x).asarray(self.draws().bernoulli(self.p, n))
        flip = flip.reshape(-1, 1, 1, 1) if x.ndim == 4 else flip
        return array_module(x).where(flip, x[..., ::-1], x)


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
