"""Datasets under torch's names: things with a length and items, and streams of items."""

from __future__ import annotations

import bisect
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minidl.devices import array_module
from minidl.dtypes import dtype_of
from minidl.tensors import Tensor, wrap

__all__ = [
    "ChainDataset",
    "ConcatDataset",
    "Dataset",
    "IterableDataset",
    "NextTokenDataset",
    "StackDataset",
    "Subset",
    "TensorDataset",
    "TransformedDataset",
]


class Dataset:
    """Something with `len(d)` and items `d[0] ... d[len(d) - 1]`: derive from it and define both.

    A dataset that can give many items at once may also define `take(indices)`, int64 (B,) -> the finished batch, which
    a DataLoader without a `collate_fn` of its own then calls instead of collecting item by item; or, as in torch,
    `__getitems__(indices)`, a list -> the list of those items.
    """

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} defines no __getitem__")

    def __add__(self, other: Dataset) -> ConcatDataset:
        return ConcatDataset([self, other])


class IterableDataset(Dataset):
    """A stream: items that can only be read one after the other. Derive from it and define `__iter__`.

    Each epoch iterates anew. Define `__len__` only if the number of items is known.

    >>> class Lines(IterableDataset):
    ...     def __iter__(self):
    ...         return iter(["one", "two"])
    >>> list(Lines() + Lines())
    ['one', 'two', 'one', 'two']
    """

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} defines no __iter__")

    def __add__(self, other: Dataset) -> ChainDataset:  # type: ignore[override]
        return ChainDataset([self, other])


class ChainDataset(IterableDataset):
    """Streams one after the other (torch's rule: also the result of `a + b`). TypeError for what is no stream."""

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        for d in self.datasets:
            if not isinstance(d, IterableDataset):
                raise TypeError(f"ChainDataset: {type(d).__name__} is no IterableDataset; use ConcatDataset for those")

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.datasets)

    def __len__(self) -> int:
        return sum(len(d) for d in self.datasets)


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

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """The items at several places, at once if the dataset can."""
        at = self._indices[np.asarray(indices, dtype=np.int64)].tolist()
        many = getattr(self.dataset, "__getitems__", None)
        return list(many(at)) if callable(many) else [self.dataset[i] for i in at]

    def take(self, indices: np.ndarray) -> Any:
        """The batch of the items at several places."""
        return self.dataset.take(self._indices[indices])


class StackDataset(Dataset):
    """Datasets of equal length side by side: item i is the tuple of their items i, or a dict for keywords.

    Raises ValueError for no datasets, for both kinds of arguments, and if the lengths differ.

    >>> StackDataset(["a", "b"], [1, 2])[1], StackDataset(text=["a", "b"], label=[1, 2])[0]
    (('b', 2), {'text': 'a', 'label': 1})
    """

    datasets: tuple[Any, ...] | dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if bool(args) == bool(kwargs):
            raise ValueError("StackDataset: pass datasets one after the other, or all by keyword; at least one")
        self.datasets = args or kwargs
        parts = args or tuple(kwargs.values())
        lengths = [len(d) for d in parts]
        if len(set(lengths)) > 1:
            raise ValueError(f"StackDataset: the datasets have different lengths {lengths}")
        self._length = lengths[0]

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        if isinstance(self.datasets, dict):
            return {name: d[index] for name, d in self.datasets.items()}
        return tuple(d[index] for d in self.datasets)


class ConcatDataset(Dataset):
    """Datasets one after the other (torch's rule: also the result of `a + b`)."""

    def __init__(self, datasets: Iterable[Any]) -> None:
        self.datasets = list(datasets)
        if not self.datasets:
            raise ValueError("ConcatDataset needs at least one dataset")
        for d in self.datasets:
            if isinstance(d, IterableDataset):
                raise TypeError(f"ConcatDataset: {type(d).__name__} is a stream without items; use ChainDataset")
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


class NextTokenDataset(Dataset):
    """Windows of a long sequence of tokens, for learning to say what comes next.    item: x (T,), y (T,)

    Item i begins at token i * stride: x is the window of `length` tokens, and y the same shifted by one, so that y[t]
    is what follows x[t]. Raises ValueError for a sequence too short for one window.

    Args: ids: (N,) integers, a list, array or Tensor. length: T. stride: tokens from one window to the next; with
    ``stride=length`` no token is a target twice.

    >>> d = NextTokenDataset([5, 6, 7, 8, 9], length=2, stride=2)
    >>> len(d), [[t.tolist() for t in item] for item in d]
    (2, [[[5, 6], [6, 7]], [[7, 8], [8, 9]]])
    """

    def __init__(self, ids: Any, length: int, stride: int = 1) -> None:
        self.ids = np.asarray(ids.array if isinstance(ids, Tensor) else ids)
        if self.ids.ndim != 1 or self.ids.dtype.kind not in "iu":
            raise ValueError(
                f"NextTokenDataset: ids must be integers of shape (N,), got {self.ids.dtype} of shape {self.ids.shape}"
            )
        if length < 1 or stride < 1:
            raise ValueError(f"NextTokenDataset: length {length} and stride {stride} must be positive")
        if len(self.ids) <= length:
            raise ValueError(
                f"NextTokenDataset: {len(self.ids)} tokens are too few for windows of {length} and a next one"
            )
        self.ids = self.ids.astype(np.int64)
        self.length, self.stride = length, stride

    def __len__(self) -> int:
        return (len(self.ids) - self.length - 1) // self.stride + 1

    def __getitem__(self, index: Any) -> tuple[Tensor, Tensor]:
        start = _index(index, len(self)) * self.stride
        window = self.ids[start : start + self.length + 1]
        return wrap(window[:-1].copy()), wrap(window[1:].copy())

    def take(self, indices: np.ndarray) -> list[Tensor]:
        """The batch of these windows: [x (B, T), y (B, T)]."""
        windows = self.ids[np.asarray(indices)[:, None] * self.stride + np.arange(self.length + 1)]
        return [wrap(np.ascontiguousarray(windows[:, :-1])), wrap(np.ascontiguousarray(windows[:, 1:]))]


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
