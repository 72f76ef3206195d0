"""Photographs of surfaces, cut into patches: what is it made of?"""

from __future__ import annotations

import importlib.util
import os

import numpy as np

from minidl.data.errors import DataError
from minidl.data.image_folder import IMG_EXTENSIONS, load_picture
from minidl.data.readers import ImageData

__all__ = ["texture_patches"]

SHIPPED = ("brick.png", "grass.png", "gravel.png")  # photographs of 512 x 512 pixels, CC0 from cc0textures.com


def texture_patches(folder: str | os.PathLike[str] | None = None, size: int = 48) -> ImageData:
    """Grey patches, uint8 (N, size, size), of photographs of one surface each: the photograph is the class.

    Training patches are from the left half of each photograph and overlap by half; test patches are from the right half
    and do not overlap, so that no pixel is in both. Without a `folder` of photographs, they are scikit-image's brick,
    grass and gravel.

    Raises DataError if a photograph is too small or cannot be read, or if there are fewer than two;
    ModuleNotFoundError, with the command that installs it, without scikit-image.
    """
    if folder is None:
        found = importlib.util.find_spec("skimage")
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError(
                "the photographs come with scikit-image: pip install scikit-image, or name a folder of your own",
                name="skimage",
            )
        place = os.path.join(found.submodule_search_locations[0], "data")
        paths = [os.path.join(place, name) for name in SHIPPED]
    else:
        try:
            names = sorted(name for name in os.listdir(folder) if name.lower().endswith(IMG_EXTENSIONS))
        except OSError as problem:
            raise DataError(f"{os.fspath(folder)}: {problem.strerror or problem}") from problem
        paths = [os.path.join(folder, name) for name in names]
        if len(paths) < 2:
            raise DataError(f"{os.fspath(folder)}: holds {len(paths)} pictures; there must be two or more, one a class")
    parts: list[list[np.ndarray]] = [[], [], [], []]  # x_train, y_train, x_test, y_test
    for label, path in enumerate(paths):
        photo = load_picture(path, "L").array[0]
        half = photo.shape[1] // 2
        if min(photo.shape[0], half) < size:
            height, width = photo.shape
            raise DataError(f"{path}: {width} x {height} pixels are too few for patches of {size} in either half")
        for part, columns, step in ((0, photo[:, :half], size // 2), (2, photo[:, half:], size)):
            windows = np.lib.stride_tricks.sliding_window_view(columns, (size, size))[::step, ::step]
            patches = windows.reshape(-1, size, size)
            parts[part].append(patches)
            parts[part + 1].append(np.full(len(patches), label))
    return ImageData(*(np.concatenate(part) for part in parts))
