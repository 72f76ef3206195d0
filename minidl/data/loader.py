"""DataLoader, under torch's name and options; its workers are threads (`minidl.data.workers`).

**Where an epoch is** takes a few numbers to say: the seed of its order, the stream that its items draw random numbers
from, and how many batches were handed out. A training that was killed goes on with the very batch that was next
(`DataLoader.state_dict`).

**Batch n is the same whoever makes it.** While a batch is made, all that is drawn from minidl's default generator (by a
transform, by `minidl.rand` in a dataset) comes from a stretch of random numbers that belongs to batch n of this epoch.
So neither the number of workers nor their order changes a bit, and loading ahead leaves the training's own random
numbers alone.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from minidl import random
from minidl.data.collate import default_collate, default_convert
from minidl.data.datasets import IterableDataset, can_take
from minidl.data.samplers import BatchSampler, RandomSampler, SeededSampler, SequentialSampler
from minidl.data.workers import Job, Workers, get_worker_info

__all__ = ["DataLoader"]

_END = object()  # instead of a batch: a stream has no more items
_PART = 32  # each batch has 2**32 blocks of its epoch's random numbers for itself


class DataLoader:
    """Iterates over a dataset in batches; each `for` loop is one epoch.

    Args:
        dataset: a `Dataset`, or anything with a length and items; or an `IterableDataset`.
        batch_size: items per batch. None: no batches, each item as it is (`default_convert`).
        shuffle: a new random order each epoch, instead of 0, 1, 2, ...
        sampler: yields indices in an order of its own; excludes `shuffle`.
        batch_sampler: yields lists of indices; excludes `batch_size`, `shuffle`, `sampler`, `drop_last`.
        num_workers: how many threads make batches ahead of the loop; 0: each is made when it is asked for. Batches and
            their order are the same for any number, bit for bit. Several threads then use the dataset at once. An
            `IterableDataset` is read by one thread, however many are asked for, so each item comes once.
        collate_fn: list of items -> batch; by default `default_collate`, and if the dataset has `take`, that.
        pin_memory, pin_memory_device: taken for torch's sake, without effect: a batch lies in the ordinary memory of
            this process, which is where the training reads it.
        drop_last: leave out a last batch that is shorter.
        timeout: the most seconds to wait for a worker's batch; 0: for ever.
        worker_init_fn: called with the worker's number in each worker before its first batch.
        multiprocessing_context: None; there are no processes.
        generator: what the orders and the items' random numbers are drawn from; by default minidl's, so that
            `minidl.manual_seed` decides them.
        prefetch_factor: batches ahead for each worker (2).
        persistent_workers: keep the threads from one epoch to the next.
        in_order: batches always come in order, whatever this says.

    An error in the dataset or `collate_fn` is raised in the loop, whoever met it, with a note that names the item and
    the batch. Leaving the loop early ends the workers. Their batches do not depend on a `fork` of the process: the
    child goes on with workers of its own.

    Raises ValueError for options that exclude each other or are not offered; RuntimeError after `timeout` seconds.

    >>> loader = DataLoader(list(range(5)), batch_size=2)
    >>> [batch.tolist() for batch in loader], len(loader)
    ([[0, 1], [2, 3], [4]], 3)
    >>> ahead = DataLoader(list(range(5)), batch_size=2, num_workers=3)
    >>> [batch.tolist() for batch in ahead]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int | None = 1,
        shuffle: bool | None = None,
        sampler: Iterable[Any] | None = None,
        batch_sampler: Iterable[Any] | None = None,
        num_workers: int = 0,
        collate_fn: Callable[[Any], Any] | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        timeout: float = 0,
        worker_init_fn: Callable[[int], Any] | None = None,
        multiprocessing_context: None = None,
        generator: random.Generator | None = None,
        *,
        prefetch_factor: int | None = None,
        persistent_workers: bool = False,
        pin_memory_device: str = "",
        in_order: bool = True,
    ) -> None:
        _check_workers(
            num_workers, prefetch_factor, persistent_workers, timeout, worker_init_fn, multiprocessing_context
        )
        streams = isinstance(dataset, IterableDataset)
        for name, value in (("shuffle", shuffle), ("sampler", sampler), ("batch_sampler", batch_sampler)):
            if streams and (value if name == "shuffle" else value is not None):
                raise ValueError(f"DataLoader: an IterableDataset has an order of its own, so {name} must be left out")
        if sampler is not None and shuffle:
            raise ValueError("DataLoader: sampler and shuffle exclude each other")
        if batch_sampler is not None and (batch_size != 1 or shuffle or sampler is not None or drop_last):
            raise ValueError("DataLoader: batch_sampler excludes batch_size, shuffle, sampler and drop_last")
        if batch_size is None and drop_last:
            raise ValueError("DataLoader: batch_size=None makes no batches, so drop_last must be left out")
        self.dataset = dataset
        self.num_workers = num_workers
        self.prefetch_factor = 2 if num_workers and prefetch_factor is None else prefetch_factor
        self.persistent_workers = persistent_workers
        self.timeout = timeout
        self.worker_init_fn = worker_init_fn
        self.pin_memory, self.pin_memory_device = pin_memory, pin_memory_device
        self.in_order = in_order
        self.generator = generator
        self.drop_last = drop_last
        self._given_batches = batch_sampler is not None
        if sampler is None and not streams:
            sampler = RandomSampler(dataset, generator=generator) if shuffle else SequentialSampler(dataset)
        self.batch_size = None if self._given_batches else batch_size
        if batch_sampler is None and batch_size is not None:
            if streams:
                BatchSampler((), batch_size, drop_last)  # for its checks
            else:
                batch_sampler = BatchSampler(sampler, batch_size, drop_last)  # type: ignore[arg-type]
        self.sampler = sampler
        self.batch_sampler = batch_sampler
        if collate_fn is None:
            collate_fn = default_collate if self._batches else default_convert
        self.collate_fn = collate_fn
        self._workers: Workers | None = None  # those that persist
        # the epoch under way: seed of its order, its stream of random numbers, batches handed out
        self._seed: int | None = None
        self._stream: random.Generator | None = None
        self._given = 0
        self._resumed = False

    @property
    def _batches(self) -> bool:
        """Whether items are put together to batches."""
        return self.batch_size is not None or self._given_batches

    @property
    def _seeded_sampler(self) -> Any:
        """The sampler, if an epoch's whole order follows from a seed that the loader can keep; else None."""
        return None if self._given_batches or not isinstance(self.sampler, SeededSampler) else self.sampler

    def __len__(self) -> int:
        """Batches in an epoch. TypeError if that is not known: of an `IterableDataset` without a length, say."""
        if not isinstance(self.dataset, IterableDataset):
            return len(self.batch_sampler if self._batches else self.sampler)  # type: ignore[arg-type]
        n = len(self.dataset)  # type: ignore[arg-type]
        if self.batch_size is None:
            return n
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        seeded = self._seeded_sampler
        if not self._resumed:
            self._seed = None if seeded is None else seeded.draw_seed()
            self._stream = (self.generator or random.default_generator).fork()
            self._given = 0
        self._resumed = False
        stream = self._stream
        assert stream is not None
        return self._epoch(self._requests(seeded, stream), _Maker(self, stream))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_workers": None}  # a copy starts threads of its own

    # -- one epoch -------------------------------------------------------------------------------------------

    def _requests(self, seeded: Any, stream: random.Generator) -> Iterator[tuple[int, Any]]:
        """Which batch, and what it is made of: indices, one index, or None for what comes next in a stream."""
        first, size = self._given, self.batch_size
        if isinstance(self.dataset, IterableDataset):
            return ((n, None) for n in itertools.count(first))
        if seeded is None:
            return _sampled(self.batch_sampler if self._batches else self.sampler, first, stream)
        order = seeded.order(self._seed)
        if size is None:
            return enumerate(order[first:].tolist(), first)
        n = len(order) // size if self.drop_last else -(-len(order) // size)
        return ((i, order[i * size : (i + 1) * size].tolist()) for i in range(first, n))

    def _epoch(self, requests: Iterator[tuple[int, Any]], make: _Maker) -> Iterator[Any]:
        batches = self._ahead(requests, make) if self.num_workers else itertools.starmap(make, requests)
        try:
            for batch in batches:
                if batch is _END:
                    break
                self._given += 1
                yield batch
        finally:
            if self.num_workers:
                batches.close()  # type: ignore[attr-defined]
        self._seed, self._stream, self._given = None, None, 0

    def _ahead(self, requests: Iterator[tuple[int, Any]], make: _Maker) -> Iterator[Any]:
        """The batches in their order, made by workers: always so many requested, the first of them waited for."""
        assert self.prefetch_factor is not None
        workers = self._start(make.stream)
        waiting: deque[tuple[tuple[int, Any], Job]] = deque()
        hangs = False
        try:
            while True:
                if not workers.alive:
                    workers, waiting = self._restart(make, waiting)
                want = self.prefetch_factor * self.num_workers - len(waiting)
                for request in itertools.islice(requests, want):
                    waiting.append((request, workers.submit(partial(make, *request))))
                if not waiting:
                    return
                _, job = waiting.popleft()
                try:
                    yield job.get(self.timeout or None)
                except TimeoutError:
                    hangs = not job.done.is_set()  # else it is the dataset's own
                    if not hangs:
                        raise
                    raise RuntimeError(f"DataLoader timed out after {self.timeout} seconds") from None
        finally:
            for _, job in waiting:
                job.cancelled = True
            if hangs:
                self._workers = None
            if hangs or not self.persistent_workers:
                workers.close(wait=not hangs)

    def _start(self, stream: random.Generator) -> Workers:
        if self._workers is not None and self._workers.alive:
            return self._workers
        # One thread reads a stream. The seed comes from a substream, which no batch draws from.
        n = 1 if isinstance(self.dataset, IterableDataset) else self.num_workers
        seed = int(stream.clone().fork().integers(0, 2**62))
        workers = Workers(n, self.dataset, seed, self.worker_init_fn)
        self._workers = workers if self.persistent_workers else None
        return workers

    def _restart(self, make: _Maker, waiting: deque) -> tuple[Workers, deque]:
        """In a process that was forked off amid an epoch: new threads, which are given the same requests again."""
        if isinstance(self.dataset, IterableDataset):
            raise RuntimeError(
                "DataLoader: the process was forked while a worker read this IterableDataset; start a new loop"
            )
        workers = self._start(make.stream)
        return workers, deque((request, workers.submit(partial(make, *request))) for request, _ in waiting)

    # -- resuming --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Where in the epoch the loader is, to go on from with `load_state_dict`; plain numbers, and small.

        Counts the batches handed out, not those that workers have made ahead: taken while a batch is being worked on,
        it points to the one after. Includes the state of the loader's own `generator`; if it draws from minidl's
        default one, save that with the training (`minidl.random.get_state`).
        """
        return {
            "seed": self._seed,
            "stream": _numbers(self._stream),
            "batches": self._given,
            "length": _length(self),
            "samples": _length(self.dataset),
            "generator": _numbers(self.generator),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next epoch the rest of the saved one: the same batches in the same order, those done left out.

        With a sampler of your own, that sampler must give the same order again (it does if it draws from minidl's
        default generator); so must an `IterableDataset`, whose first items are read again. Raises ValueError if the
        state belongs to a loader over another number of samples or batches.
        """
        try:
            seed, batches, generator = state["seed"], operator.index(state["batches"]), state["generator"]
            here = {"samples": _length(self.dataset), "length": _length(self)}
            there = {name: state[name] for name in here}
            stream = state["stream"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a DataLoader's state ({error!r})") from None
        if here != there:
            raise ValueError(
                f"the state is of a loader with {there['samples']} samples in {there['length']} batches, this one has "
                f"{here['samples']} in {here['length']}"
            )
        if not 0 <= batches <= (math.inf if here["length"] is None else here["length"]):
            raise ValueError(f"not a DataLoader's state: batch {batches} of {here['length']}")
        if (generator is None) != (self.generator is None):
            raise ValueError("the loader's own generator: either the state has one or the loader, but not both")
        if self._seeded_sampler is not None and batches and not isinstance(seed, int):
            raise ValueError(f"not a DataLoader's state: seed {seed!r}")
        if batches and stream is None:
            raise ValueError("not a DataLoader's state: no stream of random numbers")
        if self.generator is not None:
            self.generator.set_state(np.array(generator, dtype=np.uint64))
        self._stream = None if stream is None else _generator(stream)
        self._seed, self._given, self._resumed = seed, batches, batches > 0


class _Maker:
    """Makes batch n of one epoch; holds all that this takes but the loader, so that workers do not keep that alive."""

    def __init__(self, loader: DataLoader, stream: random.Generator) -> None:
        self.dataset, self.collate_fn, self.stream = loader.dataset, loader.collate_fn, stream
        self.size, self.drop_last, self.batches = loader.batch_size, loader.drop_last, loader._batches
        self.items: Iterator[Any] | None = None  # of a stream
        self.streams = isinstance(self.dataset, IterableDataset)
        self.next = 0  # the batch that a stream comes to next
        self.whole = self.batches and self.collate_fn is default_collate and can_take(self.dataset)
        many = getattr(self.dataset, "__getitems__", None)
        self.many: Callable[[list], Any] | None = many if callable(many) else None

    def __call__(self, n: int, wanted: Any) -> Any:
        try:
            if self.streams:
                return self.from_stream(n)
            with random.using(_part(self.stream, n + 1)):
                return self.from_items(wanted)
        except StopIteration as stop:  # would end the loop as if the data had ended
            raise RuntimeError(f"DataLoader: the dataset raised StopIteration, in batch {n}{_where()}") from stop
        except Exception as error:
            error.add_note(f"DataLoader: while making batch {n}{_where()}")
            raise

    def from_items(self, wanted: Any) -> Any:
        if not self.batches:
            return self.collate_fn(self.item(wanted))
        if self.whole:
            return self.dataset.take(np.asarray(wanted, dtype=np.int64))
        if self.many is not None:
            items = self.many(wanted)
            if len(items) != len(wanted):
                raise ValueError(f"DataLoader: __getitems__ gave {len(items)} items for {len(wanted)} indices")
        else:
            items = [self.item(i) for i in wanted]
        try:
            return self.collate_fn(items)
        except Exception as error:
            error.add_note(f"DataLoader: while collating the items {_shown(wanted)}")
            raise

    def item(self, i: Any) -> Any:
        try:
            return self.dataset[i]
        except Exception as error:
            error.add_note(f"DataLoader: raised for item {i!r} of the dataset")
            raise

    def from_stream(self, n: int) -> Any:
        while True:
            with random.using(_part(self.stream, self.next + 1)):
                if self.items is None:
                    self.items = iter(self.dataset)
                items = list(itertools.islice(self.items, self.size if self.batches else 1))
                self.next += 1
                short = self.batches and len(items) < self.size  # type: ignore[operator]
                if short:
                    self.items = iter(())
                if not items or (short and self.drop_last):
                    return _END
                if self.next > n:  # not one that was done before the loader was resumed
                    return self.collate_fn(items if self.batches else items[0])


def _sampled(sampler: Any, first: int, stream: random.Generator) -> Iterator[tuple[int, Any]]:
    """What a sampler of one's own yields, from number `first` on. What it draws belongs to the epoch's stream."""
    draws = _part(stream, 0)
    with random.using(draws):
        indices = iter(sampler)
    n = 0
    while True:
        with random.using(draws):
            found = next(indices, _END)
        if found is _END:
            return
        if n >= first:
            yield n, found
        n += 1


def _part(stream: random.Generator, n: int) -> random.Generator:
    """Part n of a stream of random numbers, and of its substreams."""
    return stream.at(n << _PART)


def _generator(numbers: Any) -> random.Generator:
    g = random.Generator()
    g.set_state(np.array(numbers, dtype=np.uint64))
    return g


def _numbers(generator: random.Generator | None) -> list[int] | None:
    return None if generator is None else [int(v) for v in generator.get_state()]


def _length(x: Any) -> int | None:
    try:
        return len(x)
    except (TypeError, NotImplementedError):
        return None


def _where() -> str:
    info = get_worker_info()
    return "" if info is None else f", in worker {info.id}"


def _shown(indices: Any) -> str:
    return ", ".join(map(repr, indices[:8])) + (f", ... ({len(indices)} in all)" if len(indices) > 8 else "")


def _check_workers(
    num_workers: Any, prefetch_factor: Any, persistent: Any, timeout: Any, init: Any, context: Any
) -> None:
    """The options about workers fit together. Raises ValueError, as torch does."""
    if isinstance(num_workers, bool) or not isinstance(num_workers, (int, np.integer)) or num_workers < 0:
        raise ValueError(f"DataLoader: num_workers must be an integer >= 0, got {num_workers!r}")
    if not timeout >= 0:
        raise ValueError(f"DataLoader: timeout must be a number of seconds >= 0, got {timeout!r}")
    if context is not None:
        raise ValueError("DataLoader: workers are threads, so there is no multiprocessing_context; leave it out")
    if not num_workers:
        for name, given in (
            ("prefetch_factor", prefetch_factor is not None),
            ("persistent_workers", persistent),
            ("timeout", timeout),
        ):
            if given:
                raise ValueError(f"DataLoader: {name} needs workers: num_workers > 0")
    if prefetch_factor is not None and (not isinstance(prefetch_factor, int) or prefetch_factor < 1):
        raise ValueError(f"DataLoader: prefetch_factor must be a positive integer, got {prefetch_factor!r}")
    if init is not None and not callable(init):
        raise ValueError(f"DataLoader: worker_init_fn must be callable, got {init!r}")
