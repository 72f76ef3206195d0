"""Pixels to the numbers that a network takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.data.transforms.base import ArrayTransform, is_picture, pixels
from minidl.devices import array_module
from minidl.tensors import Tensor, wrap

__all__ = ["Normalize", "ToFloat", "ToTensor"]


class ToTensor:
    """A picture as a Tensor (C, H, W); uint8 becomes float32 in 0 ... 1, other dtypes stay.

    Takes Pillow's images and, by torchvision's rule, arrays (H, W, C) or (H, W). A Tensor's axes are left as they are:
    it comes from `ImageFolder` or another transform, with its channels in front. Raises TypeError for anything else,
    ValueError for arrays of other numbers of axes.

    >>> ToTensor()(np.full((4, 5, 3), 255, np.uint8)).array.shape
    (3, 4, 5)
    """

    works_on_batches = True  # of Tensors, which are what datasets give in batches

    def __call__(self, x: Any) -> Tensor:
        if isinstance(x, Tensor):
            array = x.array
        elif is_picture(x):
            array = pixels(x)
        elif isinstance(x, np.ndarray):
            if x.ndim not in (2, 3):
                raise ValueError(f"ToTensor: an array must be (H, W) or (H, W, C), got {x.shape}")
            array = x[None] if x.ndim == 2 else np.ascontiguousarray(x.transpose(2, 0, 1))
        else:
            raise TypeError(f"ToTensor: takes pictures, arrays and Tensors, not {type(x).__name__}")
        return wrap(array.astype(np.float32) / np.float32(255) if array.dtype == np.uint8 else array)


class ToFloat(ArrayTransform):
    """float32, divided by `top`, the value of a full pixel (default 255); not of images alone."""

    def __init__(self, top: float = 255.0) -> None:
        self.top = top

    def checked(self, x: Any) -> Any:
        return x if getattr(x, "ndim", None) in (0, 1) else super().checked(x)

    def apply(self, x: Any) -> Any:
        return x.astype(np.float32) / np.float32(self.top)


class Normalize(ArrayTransform):
    """(x - mean) / std by channel: mean, std of length C for images (..., C, H, W), or of length 1.

    Raises ValueError for a std that is not positive and for other numbers of channels, TypeError for integers.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (np.asarray(v, dtype=np.float32).reshape(-1, 1, 1) for v in (mean, std))
        if not (self.std > 0).all():
            raise ValueError(f"Normalize: std must be positive, got {std}")

    def apply(self, x: Any) -> Any:
        if x.dtype.kind != "f":
            raise TypeError(f"Normalize: the image is {x.dtype}; apply ToFloat or ToTensor first")
        channels = x.shape[-3] if x.ndim >= 3 else 1
        if any(len(v) not in (1, channels) for v in (self.mean, self.std)):
            raise ValueError(f"Normalize: {len(self.mean)} means and {len(self.std)} stds for {channels} channels")
        xp = array_module(x)
        mean, std = (xp.asarray(v if x.ndim >= 3 else v[0], dtype=x.dtype) for v in (self.mean, self.std))
        return (x - mean) / std
