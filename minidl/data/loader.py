"""DataLoader and samplers, under torch's names; loading happens in the calling thread.

An epoch's order is drawn from one 64-bit seed, so "where am I" is that seed and the number of batches already given
out: a training that was killed goes on with the very batch that was next (`DataLoader.state_dict`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from minidl import random
from minidl.data.datasets import can_take
from minidl.devices import array_module
from minidl.tensors import Tensor, wrap

__all__ = [
    "BatchSampler",
    "DataLoader",
    "RandomSampler",
    "Sampler",
    "SequentialSampler",
    "SubsetRandomSampler",
    "WeightedRandomSampler",
    "default_collate",
]

# -- samplers: in which order --------------------------------------------------------------------------------


class Sampler:
    """An iterable of indices with a length; iterating it again starts the next epoch. To derive from, defining both."""

    def __iter__(self) -> Iterator[Any]:
        raise NotImplementedError(f"{type(self).__name__} defines no __iter__")

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} defines no __len__")


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
        return int((self.generator or random.default_generator).integers(0, 2**63))

    def order(self, seed: int) -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} defines no order")

    def __iter__(self) -> Iterator[int]:
        return iter(self.order(self.draw_seed()).tolist())


class RandomSampler(SeededSampler):
    """A random order of all items, or `num_samples` independent draws with replacement."""

    def __init__(
        self,
        data_source: Any,
        replacement: bool = False,
        num_samples: int | None = None,
        generator: random.Generator | None = None,
    ) -> None:
        super().__init__(generator)
        self.data_source = data_source
        self.replacement = replacement
        self._num_samples = num_samples
        if num_samples is not None and num_samples <= 0:
            raise ValueError(f"num_samples must be positive, got {num_samples}")

    @property
    def num_samples(self) -> int:
        return len(self.data_source) if self._num_samples is None else self._num_samples

    def __len__(self) -> int:
        return self.num_samples

    def order(self, seed: int) -> np.ndarray:
        n, g = len(self.data_source), random.Generator(seed)
        if self.replacement:
            return g.integers(0, n, self.num_samples)
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
        self.num_samples = operator.index(num_samples)
        self.replacement = replacement
        if (
            self.weights.ndim != 1
            or not (np.isfinite(self.weights) & (self.weights >= 0)).all()
            or not self.weights.any()
        ):
            raise ValueError("weights must be a vector of finite numbers >= 0, not all zero")
        if self.num_samples <= 0:
            raise ValueError(f"num_samples must be positive, got {num_samples}")
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
    """Lists of `batch_size` indices from another sampler; the last may be shorter unless `drop_last`."""

    def __init__(self, sampler: Iterable[Any], batch_size: int, drop_last: bool = False) -> None:
        self.sampler = sampler
        self.batch_size = _batch_size(batch_size)
        self.drop_last = bool(drop_last)

    def __iter__(self) -> Iterator[list[Any]]:
        batch: list[Any] = []
        for i in self.sampler:
            batch.append(i)
            if len(batch) == self.batch_size:
                yield batch
                batch = []
        if batch and not self.drop_last:
            yield batch

    def __len__(self) -> int:
        n: int = len(self.sampler)  # type: ignore[arg-type]
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)


# -- collating: items to a batch -----------------------------------------------------------------------------


def default_collate(batch: Sequence[Any]) -> Any:
    """A list of items to one batch, by torch's rules.

    Tensors, arrays and NumPy numbers are stacked into a Tensor (B, ...); Python floats become float64, ints int64,
    bools bool; text stays a list; dicts, named tuples, tuples and lists are collated entry by entry (a tuple gives a
    list).

    Raises ValueError if shapes or lengths differ within the batch, TypeError for items of another kind.

    >>> default_collate([(np.zeros(3), 1, "a"), (np.ones(3), 0, "b")])[1].tolist()
    [1, 0]
    """
    first = batch[0]
    if isinstance(first, Tensor) or hasattr(first, "__array__"):
        arrays = [item.array if isinstance(item, Tensor) else np.asarray(item) for item in batch]
        shapes = {a.shape for a in arrays}
        if len(shapes) > 1:
            raise ValueError(
                f"default_collate: items of one batch have different shapes {sorted(shapes)}; pass a collate_fn"
            )
        return wrap(array_module(arrays[0]).stack(arrays))
    if isinstance(first, bool):
        return wrap(np.array(batch, dtype=bool))
    if isinstance(first, float):
        return wrap(np.array(batch, dtype=np.float64))
    if isinstance(first, int):
        return wrap(np.array(batch, dtype=np.int64))
    if isinstance(first, (str, bytes)):
        return list(batch)
    if isinstance(first, Mapping):
        return {key: default_collate([item[key] for item in batch]) for key in first}
    if isinstance(first, (tuple, list)):
        if any(len(item) != len(first) for item in batch):
            raise ValueError("default_collate: items of one batch have different numbers of entries")
        entries = [default_collate(entry) for entry in zip(*batch)]
        return type(first)(*entries) if hasattr(first, "_fields") else entries
    raise TypeError(
        f"default_collate: batches are made of tensors, arrays, numbers, text, tuples, lists and dicts, not "
        f"{type(first).__name__}; pass a collate_fn"
    )


# -- the loader ----------------------------------------------------------------------------------------------


class DataLoader:
    """Iterates over a dataset in batches; each `for` loop is one epoch.

    Args:
        dataset: a `Dataset`, or anything with a length and items.
        batch_size: items per batch.
        shuffle: a new random order each epoch, instead of 0, 1, 2, ...
        sampler: yields indices in an order of its own; excludes `shuffle`.
        batch_sampler: yields lists of indices; excludes `batch_size`, `shuffle`, `sampler`, `drop_last`.
        num_workers: 0, the only way here: batches are made in the calling thread.
        collate_fn: list of items -> batch; by default `default_collate`, and if the dataset has `take`, that.
        drop_last: leave out a last batch that is shorter.
        generator: what the orders are drawn from; by default minidl's, so that `minidl.manual_seed` decides them.

    Raises ValueError for options that exclude each other or are not offered.

    >>> loader = DataLoader(list(range(5)), batch_size=2)
    >>> [batch.tolist() for batch in loader], len(loader)
    ([[0, 1], [2, 3], [4]], 3)
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        drop_last: bool = False,
        generator: random.Generator | None = None,
    ) -> None:
        if num_workers != 0:
            raise ValueError(
                f"DataLoader: num_workers={num_workers} is not offered; batches are made in the calling thread (use 0)"
            )
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: sampler and shuffle exclude each other")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError("DataLoader: batch_sampler excludes batch_size, shuffle, sampler and drop_last")
        self.dataset = dataset
        self.generator = generator
        self.num_workers = 0
        self.drop_last = drop_last
        self.batch_size: int | None = None
        if batch_sampler is None:
            self.batch_size = _batch_size(batch_size)
            if sampler is None:
                sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
            batch_sampler = BatchSampler(sampler, self.batch_size, drop_last)
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        self.collate_fn = default_collate if collate_fn is None else collate_fn
        self._seed: int | None = None  # of the epoch under way
        self._given = 0  # batches of it handed out
        self._resumed = False

    def __len__(self) -> int:
        return len(self.batch_sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        sampler, size = self._seeded_sampler, self.batch_size
        if not self._resumed:
            self._seed, self._given = (None if sampler is None else sampler.draw_seed()), 0
        self._resumed = False
        if sampler is None or size is None:
            batches = iter(self.batch_sampler)
            for _ in range(self._given):
                next(batches, None)
        else:
            order = sampler.order(self._seed)
            batches = (order[i * size : (i + 1) * size].tolist() for i in range(self._given, len(self)))
        return self._epoch(batches)

    def _epoch(self, batches: Iterator[Any]) -> Iterator[Any]:
        whole = self.collate_fn is default_collate and can_take(self.dataset)
        for indices in batches:
            if whole:
                batch = self.dataset.take(np.asarray(indices, dtype=np.int64))
            else:
                batch = self.collate_fn([self.dataset[i] for i in indices])
            self._given += 1
            yield batch
        self._seed, self._given = None, 0

    @property
    def _seeded_sampler(self) -> Any:
        """The sampler, if an epoch's whole order follows from a seed that the loader can keep; else None."""
        return self.sampler if self.batch_size is not None and isinstance(self.sampler, SeededSampler) else None

    # -- resuming --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where in the epoch the loader is, to go on from with `load_state_dict`; plain numbers, and small.

        Counts the batches handed out: taken while a batch is being worked on, it points to the one after. Includes the
        state of the loader's own `generator`; if it draws from minidl's default one, save that with the training
        (`minidl.random.get_state`).
        """
        return {
            "seed": self._seed,
            "batches": self._given,
            "length": len(self),
            "samples": len(self.dataset),
            "generator": None if self.generator is None else [int(v) for v in self.generator.get_state()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next epoch the rest of the saved one: the same batches in the same order, those done left out.

        With a sampler of your own, that sampler must give the same order again. Raises ValueError if the state belongs
        to a loader over another number of samples or batches.
        """
        try:
            seed, batches, generator = state["seed"], operator.index(state["batches"]), state["generator"]
            here = {"samples": len(self.dataset), "length": len(self)}
            there = {name: state[name] for name in here}
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a DataLoader's state ({error!r})") from None
        if here != there:
            raise ValueError(
                f"the state is of a loader with {there['samples']} samples in {there['length']} batches, this one has "
                f"{here['samples']} in {here['length']}"
            )
        if not 0 <= batches <= len(self):
            raise ValueError(f"not a DataLoader's state: batch {batches} of {len(self)}")
        if (generator is None) != (self.generator is None):
            raise ValueError("the loader's own generator: either the state has one or the loader, but not both")
        if self._seeded_sampler is not None and batches and not isinstance(seed, int):
            raise ValueError(f"not a DataLoader's state: seed {seed!r}")
        if self.generator is not None:
            self.generator.set_state(np.array(generator, dtype=np.uint64))
        self._seed, self._given, self._resumed = seed, batches, batches > 0


def _batch_size(batch_size: Any) -> int:
    if isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size <= 0:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}")
    return int(batch_size)
