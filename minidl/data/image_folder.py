"""Folders of pictures, one folder per class, read with Pillow as they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from minidl.data.datasets import Dataset
from minidl.data.errors import DataError
from minidl.io.npz import open_regular
from minidl.tensors import Tensor, wrap

__all__ = ["IMG_EXTENSIONS", "DatasetFolder", "ImageFolder", "load_picture"]

Path = str | os.PathLike[str]

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Only formats that Pillow decodes itself: others, such as EPS, start programs.
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
_MAX_PIXELS = 100_000_000


def load_picture(path: Path, mode: str = "RGB") -> Tensor:
    """A picture file as a Tensor, uint8 (C, H, W).

    `mode`: "RGB" (C = 3), "L" for grey (C = 1; 0.299 R + 0.587 G + 0.114 B), or "RGBA" (C = 4). Palettes are resolved;
    transparency is dropped unless asked for. Raises DataError, naming the file, if it is missing, truncated, damaged,
    no picture (JPEG, PNG, PPM, BMP, TIFF, WebP, GIF), of more than 8 bits a channel or 100 million pixels; ImportError
    without Pillow.
    """
    if mode not in ("RGB", "L", "RGBA"):
        raise ValueError(f"load_picture: mode must be 'RGB', 'L' or 'RGBA', got {mode!r}")
    try:
        from PIL import Image
    except ImportError as problem:
        raise ImportError("pictures are read with Pillow: pip install 'minidl[images]'") from problem

    with open_regular(path, DataError) as file:
        try:
            with Image.open(file, formats=_FORMATS) as picture:
                width, height = picture.size
                if width * height > _MAX_PIXELS:
                    raise DataError(f"{path}: {width} x {height} pixels are more than the limit of {_MAX_PIXELS}")
                if picture.mode.startswith(("I", "F")):
                    raise DataError(f"{path}: its pixels have more than 8 bits ({picture.mode}); convert it to 8 first")
                shown = picture.convert("RGBA") if "transparency" in picture.info else picture
                array = np.array(shown.convert(mode))
        except DataError:
            raise
        except Exception as problem:  # whatever a damaged picture provokes in a decoder
            raise DataError(f"{path}: not a whole picture ({type(problem).__name__}: {problem})") from problem
    return wrap(np.ascontiguousarray(array[None] if array.ndim == 2 else array.transpose(2, 0, 1)))


class DatasetFolder(Dataset):
    """Files in one folder per class: `root/CLASS/...`, at any depth.    item: (sample, class)

    Attributes: `classes`, the folders' names in sorted order; `class_to_idx`, their numbers; `samples`, the list of
    (path, class) in sorted order; `targets`, the classes alone; as torchvision's.

    Args:
        root: the folder of folders.
        loader: path -> sample; called each time an item is asked for.
        extensions: endings of the names to take, in any case; or else
        is_valid_file: path -> whether to take it.
        transform, target_transform: applied to sample and class.
        allow_empty: let classes be without files.

    Raises DataError if there are no class folders, or a class without files.
    """

    def __init__(
        self,
        root: Path,
        loader: Callable[[str], Any],
        extensions: Sequence[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:
        if (extensions is None) == (is_valid_file is None):
            raise ValueError(f"{type(self).__name__}: give either extensions or is_valid_file")
        self.root, self.loader, self.extensions = os.fspath(root), loader, extensions
        self.transform, self.target_transform = transform, target_transform
        self.classes, self.class_to_idx = self.find_classes(self.root)
        endings = tuple(e.lower() for e in extensions or ())
        valid = is_valid_file or (lambda path: path.lower().endswith(endings))
        self.samples = [
            (path, number)
            for name, number in self.class_to_idx.items()
            for path in _files(self.root, name)
            if valid(path)
        ]
        self.targets = [number for _, number in self.samples]
        present = set(self.targets)
        empty = [name for name, number in self.class_to_idx.items() if number not in present]
        if empty and not allow_empty:
            wanted = f" (names ending in {', '.join(endings)})" if endings else ""
            raise DataError(
                f"{self.root}: no files{wanted} for the class {empty[0]!r}; pass allow_empty=True to allow it"
            )

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The classes of a folder, and their numbers. To override for another layout."""
        try:
            classes = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())
        except OSError as problem:
            raise DataError(f"{directory}: {problem.strerror or problem}") from problem
        if not classes:
            raise DataError(f"{directory}: holds no folders; there must be one for each class")
        return classes, {name: i for i, name in enumerate(classes)}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        path, target = self.samples[index]
        sample = self.loader(path)
        if self.transform is not None:
            sample = self.transform(sample)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return sample, target


class ImageFolder(DatasetFolder):
    """Pictures in one folder per class, read when they are asked for.    item: (uint8 (C, H, W), class)

    torchvision's class, but the loader gives a Tensor, uint8 (C, H, W), which is what `minidl.data.transforms` work on;
    with ``loader=PIL.Image.open`` they get Pillow's image. `mode` is "RGB", or "L" for grey. A picture that cannot be
    read raises DataError, naming the file, when its item is asked for.

    >>> import tempfile, pathlib
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("cat", "dog"):
    ...     (root / name).mkdir()
    ...     _ = (root / name / "0.pgm").write_bytes(b"P5 2 1 255 " + bytes([0, 200]))
    >>> folder = ImageFolder(root, mode="L")
    >>> folder.classes, folder[1][0].tolist(), folder[1][1]
    (['cat', 'dog'], [[[0, 200]]], 1)
    """

    def __init__(
        self,
        root: Path,
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        loader: Callable[[str], Any] | None = None,
        is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
        *,
        mode: str = "RGB",
    ) -> None:
        super().__init__(
            root,
            (lambda path: load_picture(path, mode)) if loader is None else loader,
            IMG_EXTENSIONS if is_valid_file is None else None,
            transform,
            target_transform,
            is_valid_file,
            allow_empty,
        )
        self.imgs = self.samples


def _files(root: str, name: str) -> Iterator[str]:
    """The files below a class's folder, in torchvision's order."""
    for folder, _, files in sorted(os.walk(os.path.join(root, name), followlinks=True)):
        for file in sorted(files):
            yield os.path.join(folder, file)
