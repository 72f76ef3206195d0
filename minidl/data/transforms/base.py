"""What transforms are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.tensors import Tensor, wrap

__all__ = ["ArrayTransform", "Compose", "Lambda", "RandomApply", "RandomTransform", "is_picture", "pixels"]


class Compose:
    """Several transforms, one after the other.

    >>> from minidl.data.transforms import Normalize, ToFloat
    >>> prepare = Compose([ToFloat(), Normalize([0.5], [0.5])])
    >>> prepare(np.full((1, 2, 2), 255, np.uint8)).tolist()
    [[[1.0, 1.0], [1.0, 1.0]]]
    """

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    @property
    def works_on_batches(self) -> bool:
        """Whether a batch may be given at once: if each of the transforms says so."""
        return all(getattr(t, "works_on_batches", False) for t in self.transforms)

    def __call__(self, x: Any) -> Any:
        for transform in self.transforms:
            x = transform(x)
        return x


class Lambda:
    """A function of one's own as a transform. TypeError for what cannot be called.

    >>> Lambda(lambda x: 255 - x)(np.array([[0, 5]]))
    array([[255, 250]])
    """

    def __init__(self, lambd: Callable[[Any], Any]) -> None:
        if not callable(lambd):
            raise TypeError(f"Lambda: {type(lambd).__name__} is no function")
        self.lambd = lambd

    def __call__(self, x: Any) -> Any:
        return self.lambd(x)


class ArrayTransform:
    """A transform defined by what it does to an array; Tensors, and pictures of Pillow's, are unwrapped and wrapped."""

    works_on_batches = True

    def __call__(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return wrap(self.apply(self.checked(x.array)))
        if is_picture(x):
            return wrap(self.apply(pixels(x)))
        return self.apply(self.checked(x))

    def checked(self, x: Any) -> Any:
        """An array with the axes of an image or a batch. TypeError, ValueError for anything else."""
        if not hasattr(x, "dtype") or not hasattr(x, "shape"):
            raise TypeError(f"{type(self).__name__}: takes Tensors, arrays and pictures, not {type(x).__name__}")
        if not 2 <= x.ndim <= 4:
            raise ValueError(
                f"{type(self).__name__}: takes images (H, W), (C, H, W) or batches (N, C, H, W), not {tuple(x.shape)}"
            )
        return x

    def apply(self, x: Any) -> Any:
        """The transform of an array."""
        raise NotImplementedError(f"{type(self).__name__} defines no apply")


class RandomTransform(ArrayTransform):
    """A transform with draws for each image: `one` image (C, H, W) at a time."""

    def __init__(self, generator: random.Generator | None = None) -> None:
        self.generator = generator

    def draws(self) -> random.Generator:
        """Where random numbers come from."""
        return self.generator or random.default_generator

    def uniform(self, low: float, high: float) -> float:
        """One number on [low, high), in double precision."""
        return float(self.draws().uniform((), low, high, dtype=np.float64))

    def apply(self, x: Any) -> Any:
        if x.ndim == 4:
            return np.stack([self.one(image) for image in x]) if len(x) else self.none(x)
        y = self.one(x[None] if x.ndim == 2 else x)
        return y[0] if x.ndim == 2 and len(y) == 1 else y

    def none(self, x: Any) -> Any:
        """The transform of a batch without images."""
        return np.empty((0, *self.one(np.zeros(x.shape[1:], x.dtype)).shape), x.dtype)

    def one(self, x: Any) -> Any:
        """The transform of one image.    C, H, W"""
        raise NotImplementedError(f"{type(self).__name__} defines no one")


class RandomApply(RandomTransform):
    """Each image transformed by all of `transforms`, one after the other, with probability `p`, else left as it is.

    The result must have the shape and dtype of the image where a batch is given at once.
    """

    def __init__(
        self, transforms: Sequence[Callable[[Any], Any]], p: float = 0.5, generator: random.Generator | None = None
    ) -> None:
        super().__init__(generator)
        self.transforms, self.p = list(transforms), probability("RandomApply", p)

    @property
    def works_on_batches(self) -> bool:  # type: ignore[override]
        """Whether a batch may be given at once: if each of the transforms says so."""
        return Compose(self.transforms).works_on_batches

    def one(self, x: Any) -> Any:
        if bool(self.draws().bernoulli(self.p, ())):
            for transform in self.transforms:
                x = transform(x)
        return x


def is_picture(x: Any) -> bool:
    """Whether this is an image of Pillow's."""
    return hasattr(x, "getbands") and hasattr(x, "mode") and hasattr(x, "convert")


def pixels(picture: Any) -> np.ndarray:
    """The pixels of an image of Pillow's, (C, H, W): palettes resolved, black and white as 0 and 255."""
    if picture.mode in ("1", "P"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    array = np.array(picture)
    return np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))


def probability(name: str, p: float) -> float:
    """`p`, checked. Raises ValueError outside [0, 1]."""
    if not 0 <= p <= 1:
        raise ValueError(f"{name}: p must lie in [0, 1], got {p}")
    return p


def top(x: Any) -> float:
    """The value of a full pixel: 1 for floats, the largest value for integers."""
    return 1.0 if x.dtype.kind == "f" else float(np.iinfo(x.dtype).max)


def rounded(y: Any, dtype: Any) -> Any:
    """Floats as pixels of a dtype: integers are rounded half to even and cut to their range."""
    if np.dtype(dtype).kind == "f":
        return y.astype(dtype, copy=False)
    info = np.iinfo(dtype)
    return np.clip(np.rint(y), info.min, info.max).astype(dtype)


def pair(name: str, size: Any) -> tuple[int, int]:
    """A size as (height, width): one integer stands for both. Raises ValueError."""
    values = (size, size) if isinstance(size, int) else tuple(size)
    if len(values) == 1:
        values *= 2
    if len(values) != 2 or any(not isinstance(v, int) or v <= 0 for v in values):
        raise ValueError(f"{name}: size must be a positive integer or (height, width), got {size!r}")
    return values[0], values[1]
