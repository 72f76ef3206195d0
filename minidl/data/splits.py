"""Splitting data at random, by counts, by fractions, and class by class."""

from __future__ import annotations

import itertools
import math
import operator
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.data.datasets import Subset
from minidl.devices import array_module
from minidl.tensors import Tensor, wrap

__all__ = ["random_split", "train_test_split"]


def random_split(
    dataset: Any, lengths: Sequence[int | float], generator: random.Generator | None = None
) -> list[Subset]:
    """Split at random into non-overlapping subsets of the given lengths, or fractions that sum to 1 (torch's rule).

    Fractions are rounded down, and the items left over go to the first subsets, one each; a part that gets none is
    warned of. Raises ValueError if the lengths do not add up.

    >>> [len(part) for part in random_split(range(10), [0.5, 0.25, 0.25])]
    [6, 2, 2]
    """
    n = len(dataset)
    if any(not (0 <= f < math.inf) for f in lengths):
        raise ValueError(f"random_split: lengths must not be negative, got {list(lengths)}")
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1 + 1e-9:
        sizes = [math.floor(n * f) for f in lengths]
        for i in range(n - sum(sizes)):
            sizes[i % len(sizes)] += 1
        for i, size in enumerate(sizes):
            if not size:
                warnings.warn(f"random_split: part {i} of {n} items has none", stacklevel=2)
    else:
        sizes = [operator.index(size) if not isinstance(size, float) else -1 for size in lengths]
        if sum(sizes) != n or min(sizes, default=0) < 0:
            raise ValueError(f"random_split: the lengths {list(lengths)} do not sum to the dataset's {n} (nor to 1)")
    order = (generator or random.default_generator).permutation(n).tolist()
    ends = list(itertools.accumulate(sizes))
    return [Subset(dataset, order[end - size : end]) for end, size in zip(ends, sizes)]


def train_test_split(
    x: Any, y: Any, test_size: float | int = 0.25, seed: int = 0, stratify: bool = True
) -> tuple[Any, Any, Any, Any]:
    """Split arrays or Tensors at random: (x_train, x_test, y_train, y_test), the order of scikit-learn's function.

    Args: x: (N, ...), anything indexed by an integer array. y: (N,) integer labels (any (N, ...) without `stratify`).
    test_size: a fraction in (0, 1), rounded to the nearest item, or a number of items. seed: of the split; the same
    seed gives the same split everywhere. stratify: give the test part each class in its share (largest remainders), and
    leave every class at least one item to train on.

    Raises ValueError if the lengths differ or a part would be empty.
    """
    n = len(x)
    if len(y) != n:
        raise ValueError(f"train_test_split: x has {n} items, y has {len(y)}")
    count = round(n * test_size) if isinstance(test_size, float) else operator.index(test_size)
    if not 0 < count < n:
        raise ValueError(f"train_test_split: test_size {test_size} of {n} items leaves a part empty")
    order = random.Generator(seed).permutation(n)
    if stratify:
        labels = np.asarray(y.array if isinstance(y, Tensor) else y)
        if labels.ndim != 1 or labels.dtype.kind not in "biu":
            raise ValueError(
                f"train_test_split: stratify needs integer labels of shape (N,), got {labels.dtype} {labels.shape}"
            )
        test = _stratified(labels, order, count)
    else:
        test = np.zeros(n, dtype=bool)
        test[order[:count]] = True
    train_at, test_at = order[~test[order]], order[test[order]]
    return _pick(x, train_at), _pick(x, test_at), _pick(y, train_at), _pick(y, test_at)


def _stratified(labels: np.ndarray, order: np.ndarray, count: int) -> np.ndarray:
    """Which items to test on, bool (N,): each class's share of `count` by largest remainders, the first in `order`."""
    classes, sizes = np.unique(labels, return_counts=True)
    if count > len(labels) - len(classes):
        raise ValueError(
            f"train_test_split: {count} of {len(labels)} items for testing leave none to train on for some of the "
            f"{len(classes)} classes; use a smaller test_size or stratify=False"
        )
    quota = sizes * (count / len(labels))
    take = np.minimum(np.floor(quota).astype(np.int64), sizes - 1)
    while take.sum() < count:
        short = np.where(take < sizes - 1, quota - take, -np.inf)
        take[np.argmax(short)] += 1
    test = np.zeros(len(labels), dtype=bool)
    for label, k in zip(classes, take):
        members = order[labels[order] == label]
        test[members[:k]] = True
    return test


def _pick(x: Any, indices: np.ndarray) -> Any:
    if isinstance(x, Tensor):
        return wrap(x.array[array_module(x.array).asarray(indices)])
    return x[indices] if isinstance(x, np.ndarray) or hasattr(x, "dtype") else np.asarray(x)[indices]
