"""Readers of labelled images: the shipped digits, idx files (MNIST's format), npz archives and folders of pictures.
None of them is trusted.

Every reader raises `DataError`, naming the file and what is wrong with it, for files that are missing, truncated,
damaged, of the wrong kind, or that declare more than they hold or than `max_bytes`; nothing in a file is ever executed.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from typing import IO, NamedTuple

import numpy as np

from minidl.data.cifar import find_cifar
from minidl.data.errors import DataError
from minidl.data.image_folder import ImageFolder
from minidl.data.splits import train_test_split
from minidl.io.npz import array_from_bytes, open_regular, read_npz, read_up_to

__all__ = ["DataError", "ImageData", "digits", "load_idx", "load_images", "load_npz"]

MAX_BYTES = 2 * 2**30  # what one file may unpack to, unless the caller says otherwise; MNIST's largest has 47 MB
MAX_CLASSES = 2**16

Path = str | os.PathLike[str]

_IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_PARTS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
_SPLIT_KEYS = ("x_train", "y_train", "x_test", "y_test")
_WHOLE_KEYS = (("x", "y"), ("images", "labels"))
_IDX_NAMES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


class ImageData(NamedTuple):
    """Labelled images in a training and a test part: images (N, H, W) or (N, C, H, W) as stored, labels int64 (N,)."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    @property
    def num_classes(self) -> int:
        """One more than the largest label."""
        return int(max(self.y_train.max(), self.y_test.max())) + 1

    def scaled(self) -> ImageData:
        """Images as float32 (N, C, H, W), divided by the largest magnitude in the training images."""
        top = float(np.abs(self.x_train.astype(np.float64, copy=False)).max()) or 1.0

        def scale(x: np.ndarray) -> np.ndarray:
            y = np.divide(x, top, dtype=np.float32, casting="unsafe")
            return y[:, None] if y.ndim == 3 else y

        return ImageData(scale(self.x_train), self.y_train, scale(self.x_test), self.y_test)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """The shipped handwritten digits: images uint8 (1797, 8, 8) in 0 ... 16, labels int64 (1797,) in 0 ... 9.

    Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI 1998, CC BY 4.0 (see digits.md beside the
    file).

    >>> images, labels = digits()
    >>> images.shape, images.max(), labels[:10].tolist()
    ((1797, 8, 8), np.uint8(16), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    arrays = load_npz(os.path.join(os.path.dirname(__file__), "digits.npz"))
    return arrays["x"], arrays["y"].astype(np.int64)


# -- single files --------------------------------------------------------------------------------------------


def load_idx(path: Path, max_bytes: int = MAX_BYTES) -> np.ndarray:
    """An idx file, plain or gzipped, as an array in the machine's byte order.

    The format (http://yann.lecun.com/exdb/mnist): two zero bytes, a byte for the type, a byte for the number of axes,
    each axis as a big-endian uint32, the elements. Raises DataError, also when elements are missing or bytes are left
    over.
    """
    with open_regular(path, DataError) as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            if packed:
                with gzip.GzipFile(fileobj=raw) as file:
                    return _parse_idx(file, path, max_bytes)
            return _parse_idx(raw, path, max_bytes)
        except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
            raise DataError(f"{path}: the gzip file is truncated or damaged ({problem})") from problem
        except OSError as problem:
            raise DataError(f"{path}: {problem.strerror or problem}") from problem


def _parse_idx(file: IO[bytes] | gzip.GzipFile, path: Path, max_bytes: int) -> np.ndarray:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _IDX_DTYPES or not 1 <= magic[3] <= 8:
        raise DataError(f"{path}: not an idx file (it starts with {magic.hex(' ') or 'nothing'})")
    dtype, ndim = np.dtype(_IDX_DTYPES[magic[2]]), magic[3]
    sizes = file.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise DataError(f"{path}: truncated within the header")
    shape = tuple(int.from_bytes(sizes[4 * i : 4 * i + 4], "big") for i in range(ndim))
    need = math.prod(shape) * dtype.itemsize
    if need > max_bytes:
        raise DataError(f"{path}: declares {need} bytes (shape {shape}), more than the limit of {max_bytes}")
    data = read_up_to(file, need + 1)
    if len(data) != need:
        held = "more" if len(data) > need else f"only {len(data)}"
        raise DataError(f"{path}: declares {need} bytes of elements (shape {shape}) but holds {held}")
    return array_from_bytes(data, dtype, shape, False, lambda reason: DataError(f"{path}: {reason}"))


def load_npz(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, np.ndarray]:
    """The labelled arrays of an npz archive, as a dict with keys x, y or x_train, y_train, x_test, y_test.

    In the archive they are called that, or images and labels; other members are left alone. Raises DataError.
    """

    def choose(names: list[str]) -> tuple[str, ...]:
        for keys in (_SPLIT_KEYS, *_WHOLE_KEYS):
            if set(keys) <= set(names):
                return keys
        wanted = "; ".join(", ".join(keys) for keys in (_SPLIT_KEYS, *_WHOLE_KEYS))
        raise DataError(
            f"{path}: holds {', '.join(sorted(names)[:10]) or 'nothing'}, but needs one of these sets: {wanted}"
        )

    arrays = read_npz(path, DataError, choose, max_bytes)
    return {{"images": "x", "labels": "y"}.get(name, name): array for name, array in arrays.items()}


# -- a file or a folder, checked -----------------------------------------------------------------------------


def load_images(
    path: Path | None = None,
    test_size: float | int = 0.2,
    seed: int = 0,
    num_classes: int | None = None,
    max_bytes: int = MAX_BYTES,
) -> ImageData:
    """Labelled images from the user's file or folder, checked, in a training and a test part.

    Args:
        path: an npz archive (see `load_npz`); a folder with MNIST's idx files (train-images-idx3-ubyte,
            train-labels-idx1-ubyte, t10k-..., each also with .gz); an idx file of images, whose labels lie beside it
            under the name with "labels" for "images"; a folder with the binary files of CIFAR-10 or CIFAR-100
            (`load_cifar`); a folder of pictures of one size, with a folder for each class (`ImageFolder`), or with such
            folders in train and test; None for the shipped digits.
        test_size, seed: for data without a test part of its own, how to split one off, by class (`train_test_split`).
        num_classes: labels must lie below it (default: any below 65,536).
        max_bytes: what any one file, or all pictures of a part, may unpack to.

    Images may be (N, H, W), (N, C, H, W) or (N, H, W, C), C = 1, 3 or 4, of integers or finite floats; channels are
    moved to the front. Pictures come as uint8 (N, H, W) if all are grey, else as (N, 3, H, W). Raises DataError for
    everything else.

    >>> data = load_images()
    >>> data.x_train.shape, data.x_test.shape, data.num_classes
    ((1438, 8, 8), (359, 8, 8), 10)
    """
    if path is None:
        where, arrays = "digits", dict(zip("xy", digits()))
    else:
        where, arrays = os.fspath(path), _find_arrays(path, max_bytes)
    parts = [("x_train", "y_train"), ("x_test", "y_test")] if "x_train" in arrays else [("x", "y")]
    limit = MAX_CLASSES if num_classes is None else num_classes
    checked: list[np.ndarray] = []
    for x, y in parts:
        checked += _check(arrays[x], arrays[y], f"{where}: {x}", f"{where}: {y}", limit)
    if len(checked) == 2:
        try:
            x_train, x_test, y_train, y_test = train_test_split(checked[0], checked[1], test_size, seed)
        except ValueError as problem:
            raise DataError(f"{where}: {problem}") from problem
        return ImageData(x_train, y_train, x_test, y_test)
    data = ImageData(*checked)
    if data.x_train.shape[1:] != data.x_test.shape[1:]:
        raise DataError(
            f"{where}: training images are {data.x_train.shape[1:]}, test images are {data.x_test.shape[1:]}"
        )
    unknown = np.setdiff1d(data.y_test, data.y_train)
    if unknown.size:
        raise DataError(f"{where}: the test labels {unknown[:10].tolist()} never occur in training")
    return data


def _find_arrays(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    """Decide by content what the path holds, and read it: keys as of `load_npz`."""
    if os.path.isdir(path):
        return _read_folder(path, max_bytes)
    with open_regular(path, DataError) as file:
        start = file.read(4)
    if start[:2] == b"PK":
        return load_npz(path, max_bytes)
    if start[:2] in (b"\0\0", b"\x1f\x8b"):
        folder, name = os.path.split(os.fspath(path))
        if "images" not in name:
            raise DataError(f"{path}: to find the labels beside it, a file of images must have 'images' in its name")
        other = name.replace("images", "labels").replace("idx3", "idx1")
        labels = _existing(folder, other.removesuffix(".gz"))
        if labels is None:
            raise DataError(f"{path}: its labels, {other}, are not beside it")
        return {"x": load_idx(path, max_bytes), "y": load_idx(labels, max_bytes)}
    raise DataError(f"{path}: neither an npz archive, an idx file (plain or .gz), nor a folder of idx files")


def _read_folder(folder: Path, max_bytes: int) -> dict[str, np.ndarray]:
    found = {key: file for key, name in _IDX_NAMES.items() if (file := _existing(folder, name)) is not None}
    for x, y in (("x_train", "y_train"), ("x_test", "y_test")):
        if (x in found) != (y in found):
            missing = _IDX_NAMES[y if x in found else x]
            raise DataError(f"{folder}: {missing} is missing")
    if not found and (cifar := find_cifar(folder, max_bytes)) is not None:
        return cifar
    if not found:
        folders = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        if folders:
            return _read_pictures(os.fspath(folder), folders, max_bytes)
        raise DataError(
            f"{folder}: holds none of {', '.join(_IDX_NAMES.values())} (each may end in .gz), nor CIFAR's binary "
            "files, nor folders of pictures"
        )
    arrays = {key: load_idx(file, max_bytes) for key, file in found.items()}
    if len(arrays) == 2:  # only one of the two parts: split it
        return {key[0]: array for key, array in arrays.items()}
    return arrays


def _read_pictures(folder: str, inside: list[str], max_bytes: int) -> dict[str, np.ndarray]:
    """Pictures in a folder for each class, all at once; or such folders in one for training and one for testing."""
    parts = {key: next((name for name in inside if name.lower() in names), None) for key, names in _PARTS.items()}
    if not (parts["train"] and parts["test"]):
        return dict(zip("xy", _stacked(ImageFolder(folder), max_bytes)))
    train, test = (ImageFolder(os.path.join(folder, str(parts[key]))) for key in ("train", "test"))
    new = sorted(set(test.classes) - set(train.classes))
    if new:
        raise DataError(f"{test.root}: the class {new[0]!r} is not in {train.root}")
    test.samples = [(path, train.class_to_idx[test.classes[number]]) for path, number in test.samples]
    arrays = [*_stacked(train, max_bytes), *_stacked(test, max_bytes)]
    if arrays[0].ndim != arrays[2].ndim:  # only one of the parts is all grey
        for i in (0, 2):
            if arrays[i].ndim == 3:
                arrays[i] = np.repeat(arrays[i][:, None], 3, axis=1)
    return dict(zip(_SPLIT_KEYS, arrays))


def _stacked(pictures: ImageFolder, max_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """All pictures, uint8 (N, H, W) if every one is grey, else (N, 3, H, W), and their classes (N,)."""
    x: np.ndarray | None = None
    for i, (path, _) in enumerate(pictures.samples):
        image = pictures[i][0].array
        if x is None:
            need = len(pictures) * image.nbytes
            if need > max_bytes:
                raise DataError(f"{pictures.root}: its pictures take {need} bytes, more than the limit of {max_bytes}")
            x = np.empty((len(pictures), *image.shape), np.uint8)
        if image.shape != x.shape[1:]:
            raise DataError(
                f"{path}: is {image.shape[1]} x {image.shape[2]} pixels high and wide, {pictures.samples[0][0]} is "
                f"{x.shape[2]} x {x.shape[3]}; use ImageFolder with transforms.Resize"
            )
        x[i] = image
    assert x is not None
    grey = bool((x[:, :1] == x).all())
    return (x[:, 0].copy() if grey else x), np.array([number for _, number in pictures.samples], np.int64)


def _existing(folder: Path, name: str) -> str | None:
    """The file of this name in the folder: plain, gzipped, or in the spelling with a dot (train-images.idx3-ubyte)."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            path = os.path.join(folder, spelling + suffix)
            if os.path.exists(path):
                return path
    return None


def _check(x: np.ndarray, y: np.ndarray, x_name: str, y_name: str, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels that fit each other, channels in front, labels int64. Raises DataError."""
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DataError(f"{y_name}: labels must be integers of shape (N,), got {y.dtype} of shape {y.shape}")
    if x.ndim not in (3, 4):
        raise DataError(f"{x_name}: images must be (N, H, W), (N, C, H, W) or (N, H, W, C), got shape {x.shape}")
    if len(x) != len(y):
        raise DataError(f"{x_name}: {len(x)} images, but {len(y)} labels")
    if x.size == 0:
        raise DataError(f"{x_name}: no images (shape {x.shape})")
    if x.ndim == 4 and x.shape[1] not in (1, 3, 4):
        if x.shape[3] not in (1, 3, 4):
            raise DataError(f"{x_name}: images of shape {x.shape} have no axis of 1, 3 or 4 channels")
        x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        bad = int(np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))[0])
        raise DataError(f"{x_name}: image {bad} has NaN or infinite pixels")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= num_classes:
        bad = int(np.flatnonzero((y < 0) | (y >= num_classes))[0])
        raise DataError(f"{y_name}: label {y[bad]} of item {bad} is outside 0 ... {num_classes - 1}")
    return x, y.astype(np.int64)
