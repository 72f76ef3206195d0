"""Datasets: things with a length and items, under torch's names, and ways to split them."""

from __future__ import annotations

import bisect
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.devices import array_module
from minidl.dtypes import dtype_of
from minidl.tensors import Tensor, wrap

__all__ = [
    "ConcatDataset",
    "Dataset",
    "Subset",
    "TensorDataset",
    "TransformedDataset",
    "random_split",
    "train_test_split",
]


class Dataset:
    """Something with `len(d)` and items `d[0] ... d[len(d) - 1]`: derive from it and define both.

    A dataset that can give many items at once may also define `take(indices)`, int64 (B,) -> the finished batch, which
    a DataLoader without a `collate_fn` of its own then calls instead of collecting item by item.
    """

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no __getitem__")

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} defines no __len__")

    def __add__(self, other: Dataset) -> ConcatDataset:
        return ConcatDataset([self, other])


def can_take(dataset: Any) -> bool:
    """Whether `take` gives a whole batch at once; wrappers can when what they wrap can."""
    return callable(getattr(dataset, "take", None)) and getattr(dataset, "can_take", True)


class TensorDataset(Dataset):
    """Tensors or arrays of equal length; item i is the tuple of their i-th entries.

    Raises ValueError if the lengths differ or a tensor has no first axis, TypeError for dtypes that Tensors do not
    hold.

    >>> d = TensorDataset(np.arange(6.0).reshape(3, 2), np.array([0, 1, 1]))
    >>> len(d), [t.tolist() for t in d[1]], [t.tolist() for t in d.take(np.array([2, 0]))]
    (3, [[2.0, 3.0], 1], [[[4.0, 5.0], [0.0, 1.0]], [1, 0]])
    """

    def __init__(self, *tensors: Any) -> None:
        if not tensors:
            raise ValueError("TensorDataset needs at least one tensor")
        self.tensors = tuple(_as_tensor(t) for t in tensors)
        if any(t.ndim == 0 for t in self.tensors):
            raise ValueError("TensorDataset: a 0-d tensor has no items")
        lengths = [len(t) for t in self.tensors]
        if len(set(lengths)) != 1:
            raise ValueError(f"TensorDataset: the tensors have different lengths {lengths}")

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: Any) -> tuple[Any, ...]:
        if not isinstance(index, slice):
            index = _index(index, len(self))
        return tuple(wrap(array_module(t.array).asarray(t.array[index])) for t in self.tensors)

    def take(self, indices: np.ndarray) -> list[Any]:
        """The batch of these items: a list of Tensors, one gather each."""
        return [wrap(t.array[array_module(t.array).asarray(indices)]) for t in self.tensors]


class Subset(Dataset):
    """The items of `dataset` at `indices`, in that order."""

    def __init__(self, dataset: Any, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = indices
        self._indices = np.asarray(indices, dtype=np.int64).reshape(-1)

    @property
    def can_take(self) -> bool:
        return can_take(self.dataset)

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[int(self._indices[_index(index, len(self))])]

    def take(self, indices: np.ndarray) -> Any:
        return self.dataset.take(self._indices[indices])


class ConcatDataset(Dataset):
    """Datasets one after the other (torch's rule: also the result of `a + b`)."""

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one dataset")
        self.cumulative_sizes = list(itertools.accumulate(len(d) for d in self.datasets))

    def __len__(self) -> int:
        return self.cumulative_sizes[-1]

    def __getitem__(self, index: Any) -> Any:
        i = _index(index, len(self))
        which = bisect.bisect_right(self.cumulative_sizes, i)
        return self.datasets[which][i - (self.cumulative_sizes[which - 1] if which else 0)]


class TransformedDataset(Dataset):
    """`dataset` with `transform` applied to the first entry of each item (or to the item itself if it is no tuple).

    The transforms of `minidl.data` work on one image and on a batch alike, so whole batches still come at once.
    """

    def __init__(self, dataset: Any, transform: Callable[[Any], Any]) -> None:
        self.dataset = dataset
        self.transform = transform

    @property
    def can_take(self) -> bool:
        return can_take(self.dataset) and getattr(self.transform, "works_on_batches", False)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        item = self.dataset[index]
        return (self.transform(item[0]), *item[1:]) if isinstance(item, tuple) else self.transform(item)

    def take(self, indices: np.ndarray) -> Any:
        batch = self.dataset.take(indices)
        return [self.transform(batch[0]), *batch[1:]] if isinstance(batch, list) else self.transform(batch)


# -- splitting -----------------------------------------------------------------------------------------------


def random_split(
    dataset: Any, lengths: Sequence[int | float], generator: random.Generator | None = None
) -> list[Subset]:
    """Split at random into non-overlapping subsets of the given lengths, or fractions that sum to 1 (torch's rule).

    Fractions are rounded down, and the items left over go to the first subsets, one each. Raises ValueError if the
    lengths do not add up.

    >>> [len(part) for part in random_split(range(10), [0.5, 0.25, 0.25])]
    [6, 2, 2]
    """
    n = len(dataset)
    if any(not (0 <= f < math.inf) for f in lengths):
        raise ValueError(f"random_split: lengths must not be negative, got {list(lengths)}")
    if math.isclose(sum(lengths), 1) and sum(lengths) <= 1 + 1e-9 and any(isinstance(f, float) for f in lengths):
        sizes = [math.floor(n * f) for f in lengths]
        for i in range(n - sum(sizes)):
            sizes[i % len(sizes)] += 1
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


def _as_tensor(t: Any) -> Tensor:
    if isinstance(t, Tensor):
        return t.detach()
    array = t if hasattr(t, "dtype") and hasattr(t, "shape") else np.asarray(t)
    dtype_of(array.dtype)  # TypeError for what a Tensor does not hold
    return wrap(array)


def _index(index: Any, n: int) -> int:
    """A position in 0 ... n - 1 from an index that may count from the end. Raises IndexError outside."""
    i = operator.index(index)
    if not -n <= i < n:
        raise IndexError(f"index {i} is out of range for a dataset of {n} items")
    return i % n
