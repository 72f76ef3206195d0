"""Items to a batch, by torch's rules."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from minidl.autograd import ShapeError
from minidl.devices import array_module
from minidl.dtypes import get_default_dtype
from minidl.tensors import Tensor, wrap

__all__ = ["default_collate", "default_convert"]


def default_collate(batch: Sequence[Any]) -> Any:
    """A list of items to one batch, by torch's rules.

    Tensors, arrays and NumPy numbers are stacked into a Tensor (B, ...); Python floats become float64, ints int64,
    bools bool; text stays a list; dicts, named tuples, tuples and lists are collated entry by entry (a tuple gives a
    list; a mapping one of its own kind).

    Raises ShapeError (RuntimeError and ValueError) if shapes or lengths differ within the batch, KeyError for a key
    that an item lacks, TypeError for items of another kind, None among them: each with where in the item it is.

    >>> default_collate([(np.zeros(3), 1, "a"), (np.ones(3), 0, "b")])[1].tolist()
    [1, 0]
    >>> default_collate([{"x": 1.0}, {"x": 2.0}])["x"].tolist()
    [1.0, 2.0]
    """
    if not len(batch):
        raise ValueError("default_collate: no items")
    return _collate(batch, "")


def _collate(batch: Sequence[Any], at: str) -> Any:
    first = batch[0]
    odd = next((item for item in batch if item is None), first)
    if odd is None and first is not None:
        raise TypeError(f"default_collate: None among the items{_at(at)}; leave those out, or pass a collate_fn")
    if isinstance(first, Tensor) or hasattr(first, "__array__"):
        return _stack(batch, at)
    if isinstance(first, (bool, int, float)):
        numbers = [_number(item, at) for item in batch]
        if isinstance(first, float):
            kind: Any = np.float64
        elif all(isinstance(n, bool) for n in numbers):
            kind = bool
        elif any(isinstance(n, float) for n in numbers):
            kind = get_default_dtype()  # as torch.tensor of such a list
        else:
            kind = np.int64
        return wrap(np.array(numbers, dtype=kind))
    if isinstance(first, (str, bytes)):
        return list(batch)
    if isinstance(first, Mapping):
        entries = {}
        for key in first:
            lacking = next((n for n, item in enumerate(batch) if key not in item), None)
            if lacking is not None:
                raise KeyError(f"default_collate: item {lacking} of the batch has no {key!r}{_at(at)}")
            entries[key] = _collate([item[key] for item in batch], f"{at}[{key!r}]")
        return _like(first, entries)
    if isinstance(first, Sequence):
        if any(len(item) != len(first) for item in batch):
            lengths = sorted({len(item) for item in batch})
            raise ShapeError(
                f"default_collate: items of one batch have different numbers of entries, {lengths}{_at(at)}; pass a "
                "collate_fn, for example one that pads (minidl.data.pad_sequences)"
            )
        columns = [_collate(column, f"{at}[{n}]") for n, column in enumerate(zip(*batch))]
        return _like(first, columns)
    raise TypeError(
        f"default_collate: batches are made of tensors, arrays, numbers, text, tuples, lists and dicts, not "
        f"{type(first).__name__}{_at(at)}; pass a collate_fn"
    )


def _stack(batch: Sequence[Any], at: str) -> Tensor:
    arrays = []
    for item in batch:
        if not (isinstance(item, Tensor) or hasattr(item, "__array__")):
            raise TypeError(f"default_collate: a {type(item).__name__} among tensors or arrays{_at(at)}")
        arrays.append(item.array if isinstance(item, Tensor) else _plain(np.asarray(item)))
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        raise ShapeError(
            f"default_collate: items of one batch have different shapes {sorted(shapes)}{_at(at)}; bring them to one "
            "shape, or pass a collate_fn"
        )
    if arrays[0].dtype.kind in "SUOVMm":
        raise TypeError(f"default_collate: arrays of {arrays[0].dtype} are no numbers{_at(at)}; pass a collate_fn")
    return wrap(array_module(arrays[0]).stack(arrays))


def _number(item: Any, at: str) -> Any:
    if isinstance(item, (bool, int, float, np.generic)):
        return item
    raise TypeError(f"default_collate: a {type(item).__name__} among numbers{_at(at)}")


def default_convert(data: Any) -> Any:
    """An item with its arrays and NumPy numbers as Tensors, and everything else as it is, by torch's rules.

    What a DataLoader with ``batch_size=None`` does with each item. Text, Python numbers and objects stay; a tuple gives
    a list.

    >>> default_convert({"x": np.arange(3), "name": "three"})["x"].tolist()
    [0, 1, 2]
    """
    if isinstance(data, (Tensor, str, bytes)):
        return data
    if isinstance(data, (np.ndarray, np.generic)):
        return data if data.dtype.kind in "SUOVMm" else wrap(np.asarray(data))
    if isinstance(data, Mapping):
        return _like(data, {key: default_convert(value) for key, value in data.items()})
    if isinstance(data, Sequence):
        return _like(data, [default_convert(value) for value in data])
    return data


def _like(first: Any, entries: Any) -> Any:
    """Entries in a container of the kind of `first`; as torch has it, a list instead of a tuple without names."""
    if type(first) in (dict, list, tuple):
        return entries
    if hasattr(first, "_fields"):
        return type(first)(*entries)
    if isinstance(first, MutableMapping):
        same = copy.copy(first)  # with what else it has, such as the default of a defaultdict
        same.update(entries)
        return same
    try:
        return type(first)(entries)
    except TypeError:  # a kind that cannot be built so, such as range
        return entries


def _plain(array: np.ndarray) -> np.ndarray:
    """In the machine's byte order, as Tensors are."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _at(at: str) -> str:
    return f", at {at} of the item" if at else ""
