"""Samplers, under torch's names: in which order a loader asks for items, and how it groups them.

An order that is random follows from one 64-bit seed, so that a loader can save where it is as a seed and a count.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.tensors import Tensor

__all__ = [
    "BatchSampler",
    "RandomSampler",
    "Sampler",
    "SeededSampler",
    "SequentialSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
]


class Sampler:
    """An iterable of indices; iterating it again starts the next epoch. To derive from: define `__iter__`, and
    `__len__` where the length is known.
    """

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} defines no __iter__")


class SequentialSampler(Sampler):
    """0, 1, 2, ..."""

    def __init__(self, data_source: Any) -> None:
        self.data_source = data_source

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self.data_source)))

    def __len__(self) -> int:
        return len(self.data_source)


class SeededSampler(Sampler):
    """A sampler whose epoch follows from one seed: `order(seed)` gives the indices, int64.

    Each iteration draws its seed from `generator`, by default minidl's (so `minidl.manual_seed` decides the order).
    """

    def __init__(self, generator: random.Generator | None) -> None:
        self.generator = generator

    def draw_seed(self) -> int:
        """The seed of the next epoch."""
        return int((self.generator or random.default_generator).integers(0, 2**63))

    def order(self, seed: int) -> np.ndarray:
        """The indices of the epoch with this seed."""
        raise NotImplementedError(f"{type(self).__name__} defines no order")

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.draw_seed()).tolist())


class RandomSampler(SeededSampler):
    """A random order of all items, or `num_samples` independent draws with replacement.

    Without replacement, more samples than items come as one random order after another. Raises TypeError for a
    `replacement` that is no bool, ValueError for a `num_samples` that is no positive integer, and, at once, for draws
    with replacement from nothing.

    >>> sorted(RandomSampler(range(4))), len(RandomSampler(range(4), replacement=True, num_samples=9))
    ([0, 1, 2, 3], 9)
    """

    def __init__(
        self,
        data_source: Any,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: random.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        if not isinstance(replacement, bool):
            raise TypeError(f"RandomSampler: replacement must be True or False, got {replacement!r}")
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = None if num_samples is None else _positive("num_samples", num_samples)

    @property
    def num_samples(self) -> int:
        """How many indices an epoch has."""
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __len__(self) -> int:
        return self.num_samples

    def order(self, seed: int) -> np.ndarray:
        n, g = len(self.data_source), random.Generator(seed)
        if not n and self._num_samples is not None:
            raise ValueError(f"RandomSampler: {self.num_samples} samples of a dataset without items")
        if self.replacement:
            return g.integers(0, n, self.num_samples) if n else np.empty(0, np.int64)
        rounds = -(-self.num_samples // n) if n else 0
        return np.concatenate([np.empty(0, np.int64), *(g.permutation(n) for _ in range(rounds))])[: self.num_samples]


class SubsetRandomSampler(SeededSampler):
    """The given indices in a random order."""

    def __init__(self, indices: Sequence[int], generator: random.Generator | None = None) -> None:
        super().__init__(generator)
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def order(self, seed: int) -> np.ndarray:
        return random.Generator(seed).permutation(np.asarray(self.indices, dtype=np.int64).reshape(-1))


class WeightedRandomSampler(SeededSampler):
    """`num_samples` indices drawn with probability proportional to `weights`, float (N,).

    Without replacement, an item's chance at each draw is its share of the weights that are left (Efraimidis and
    Spirakis 2006: the largest keys u ** (1 / w)). Raises ValueError for negative or all-zero weights, and if more items
    are wanted than have a weight.
    """

    def __init__(
        self, weights: Any, num_samples: int, replacement: bool = True, generator: random.Generator | None = None
    ) -> None:
        super().__init__(generator)
        self.weights = np.asarray(weights.array if isinstance(weights, Tensor) else weights, dtype=np.float64)
        self.num_samples = _positive("num_samples", num_samples)
        if not isinstance(replacement, bool):
            raise ValueError(f"WeightedRandomSampler: replacement must be True or False, got {replacement!r}")
        self.replacement = replacement
        if (
            self.weights.ndim != 1
            or not (np.isfinite(self.weights) & (self.weights >= 0)).all()
            or not self.weights.any()
        ):
            raise ValueError("weights must be a vector of finite numbers >= 0, not all zero")
        if not replacement and self.num_samples > np.count_nonzero(self.weights):
            raise ValueError(f"cannot draw {num_samples} of {np.count_nonzero(self.weights)} items without replacement")

    def __len__(self) -> int:
        return self.num_samples

    def order(self, seed: int) -> np.ndarray:
        g = random.Generator(seed)
        if self.replacement:
            edges = np.cumsum(self.weights)
            u = g.uniform(self.num_samples, dtype=np.float64) * edges[-1]
            last = np.flatnonzero(self.weights)[-1]  # if rounding carried u onto the last edge
            return np.minimum(np.searchsorted(edges, u, side="right"), last)
        with np.errstate(divide="ignore"):
            keys = g.exponential(len(self.weights), dtype=np.float64) / self.weights
        return np.argsort(keys, kind="stable")[: self.num_samples]


class BatchSampler(Sampler):
    """Lists of `batch_size` indices from another sampler; the last may be shorter unless `drop_last`.

    >>> list(BatchSampler(SequentialSampler(range(5)), 2, drop_last=False))
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, sampler: Iterable[Any], batch_size: int, drop_last: bool) -> None:
        self.sampler = sampler
        self.batch_size = _positive("batch_size", batch_size)
        if not isinstance(drop_last, bool):
            raise ValueError(f"drop_last must be True or False, got {drop_last!r}")
        self.drop_last = drop_last

    def __iter__(self) -> Iterator[list[Any]]:
        indices = iter(self.sampler)
        while batch := list(itertools.islice(indices, self.batch_size)):
            if len(batch) < self.batch_size and self.drop_last:
                break
            yield batch

    def __len__(self) -> int:
        n: int = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value <= 0:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return operator.index(value)
