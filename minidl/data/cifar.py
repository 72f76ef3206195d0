"""CIFAR-10 and CIFAR-100 in their binary form: records of labels and 32 x 32 pixels, plane after plane.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The form made for Python is a pickle, which
would be executed in reading; it is refused with that reason.
"""

from __future__ import annotations

import os

import numpy as np

from minidl.data.errors import DataError
from minidl.io.npz import open_regular, read_up_to

__all__ = ["load_cifar"]

PIXELS = 3 * 32 * 32
TRAINING, TEST = [f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin"  # CIFAR-10
LARGE = ("train.bin", "test.bin")  # CIFAR-100


def load_cifar(
    path: str | os.PathLike[str], labels: int = 1, max_bytes: int = 2 * 2**30
) -> tuple[np.ndarray, np.ndarray]:
    """One binary file: images uint8 (N, 3, 32, 32) and labels int64 (N,).

    `labels` is the number of label bytes in front of each image, 1 in CIFAR-10 and 2 in CIFAR-100; the last of them,
    the finer class, is given. Raises DataError for a file that is not whole records, or is larger than `max_bytes`,
    ValueError for other `labels`.
    """
    if labels not in (1, 2):
        raise ValueError(f"load_cifar: labels must be 1 (CIFAR-10) or 2 (CIFAR-100), got {labels!r}")
    with open_regular(path, DataError) as file:
        data = read_up_to(file, max_bytes + 1)
    record = labels + PIXELS
    if data[:1] == b"\x80" and len(data) % record:
        raise DataError(f"{path}: a pickle, which would be executed in reading; take the binary version (.bin)")
    if len(data) > max_bytes:
        raise DataError(f"{path}: more than the limit of {max_bytes} bytes")
    if not data or len(data) % record:
        raise DataError(f"{path}: {len(data)} bytes are not whole records of {record}, {labels} for labels")
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    return rows[:, labels:].reshape(-1, 3, 32, 32).copy(), rows[:, labels - 1].astype(np.int64)


def find_cifar(folder: str | os.PathLike[str], max_bytes: int) -> dict[str, np.ndarray] | None:
    """Both parts of CIFAR-10 or CIFAR-100 in a folder, with the keys of `load_npz`; None if neither is there. As many
    of CIFAR-10's five files of training images as there are. Raises DataError.
    """
    there = lambda names: [path for name in names if os.path.exists(path := os.path.join(folder, name))]
    if training := there(TRAINING):
        test, labels = there([TEST]), 1
    elif training := there(LARGE[:1]):
        test, labels = there(LARGE[1:]), 2
    else:
        return None
    if not test:
        raise DataError(f"{folder}: {TEST if labels == 1 else LARGE[1]} is missing")
    parts = [load_cifar(path, labels, max_bytes) for path in training]
    x_test, y_test = load_cifar(test[0], labels, max_bytes)
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}
