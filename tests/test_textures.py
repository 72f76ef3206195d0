"""Patches of photographs: none is in both halves, and what cannot be used is said."""

import importlib.util

import numpy as np
import pytest

from minidl.data import DataError, texture_patches


def write(path, pixels):
    from PIL import Image

    Image.fromarray(pixels).save(path)


def test_scikit_images_photographs():
    data = texture_patches()
    assert [a.shape for a in data] == [(540, 48, 48), (540,), (150, 48, 48), (150,)]
    assert data.x_train.dtype == np.uint8
    assert np.bincount(data.y_train).tolist() == [180] * 3
    assert np.bincount(data.y_test).tolist() == [50] * 3


def test_halves_do_not_share_a_pixel(tmp_path):
    """Photographs whose pixels say where they are from: column number and class."""
    for c in range(2):
        write(tmp_path / f"{c}.png", np.tile(np.arange(40, dtype=np.uint8) + 100 * c, (17, 1)))
    (tmp_path / "notes.txt").write_text("not a picture")
    data = texture_patches(tmp_path, size=8)
    assert [len(a) for a in data] == [24, 24, 8, 8]  # 3 x 4 and 2 x 2 of each
    for x, y, columns in ((data.x_train, data.y_train, range(20)), (data.x_test, data.y_test, range(20, 36))):
        assert set(np.unique(x - 100 * y[:, None, None].astype(np.uint8))) == set(columns)


def test_what_cannot_be_used(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="none: No such file"):
        texture_patches(tmp_path / "none")
    write(tmp_path / "a.png", np.zeros((20, 20), np.uint8))
    with pytest.raises(DataError, match="holds 1 pictures"):
        texture_patches(tmp_path)
    write(tmp_path / "b.png", np.zeros((20, 15), np.uint8))
    with pytest.raises(DataError, match=r"b\.png: 15 x 20 pixels are too few for patches of 8"):
        texture_patches(tmp_path, size=8)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-image"):
        texture_patches()
