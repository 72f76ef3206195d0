"""From what the user calls data to batches of (inputs, target, number of samples)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from minidl.data import DataLoader, Dataset, IterableDataset, TensorDataset
from minidl.ops.create import as_tensor
from minidl.tensors import Tensor

__all__ = ["Batch", "as_loader", "check_model", "describe", "length", "modes_kept", "moved", "split"]


class Batch(NamedTuple):
    """What the model is called with, what its output is compared with, and how many samples these are."""

    inputs: tuple[Any, ...]
    target: Any
    size: int


def as_loader(data: Any, model: Any, batch_size: int, shuffle: bool, name: str) -> Any:
    """Something that can be iterated over once per epoch and gives batches.

    data: a tuple of arrays or Tensors of equal length, the last of them the target; a Dataset; or a DataLoader or any
    other iterable of batches, which is used as it is. NumPy arrays of floats in the tuple are brought to the dtype of
    the model's parameters; Tensors are left as they are.

    Raises ValueError for an empty data set, TypeError for anything else.
    """
    if isinstance(data, tuple):
        if len(data) < 2 or not all(hasattr(part, "shape") or isinstance(part, list) for part in data):
            kinds = ", ".join(type(part).__name__ for part in data)
            raise TypeError(
                f"{name}: expected (x, y), arrays or Tensors, or a Dataset or DataLoader; got a tuple of ({kinds})"
            )
        data = TensorDataset(*(_like_model(part, model) for part in data))
    if isinstance(data, (Dataset, DataLoader)) and length(_dataset(data)) == 0:
        raise ValueError(f"{name}: the data set is empty")
    if isinstance(data, Dataset):
        return DataLoader(data, batch_size=batch_size, shuffle=shuffle and not isinstance(data, IterableDataset))
    if isinstance(data, (Tensor, np.ndarray)):
        raise TypeError(f"{name}: expected (x, y), got one array of shape {tuple(data.shape)}; where is the target?")
    if not isinstance(data, Iterable):
        raise TypeError(f"{name}: expected (x, y), a Dataset, a DataLoader or an iterable of batches, got {data!r}")
    if not isinstance(data, DataLoader) and iter(data) is data:  # iterating a loader would begin its epoch
        raise TypeError(f"{name}: an iterator lasts for one epoch only; pass something that can be iterated again")
    if length(data) == 0:
        why = ""
        if isinstance(data, DataLoader) and data.drop_last:
            why = f": drop_last leaves out its only batch, of {len(data.dataset)} samples"
        raise ValueError(f"{name}: there is no batch{why}")
    return data


def length(data: Any) -> int | None:
    """How many items or batches there are; None for a stream, of which that is not known."""
    try:
        return len(data)
    except TypeError:
        return None


def _dataset(data: Any) -> Any:
    return data.dataset if isinstance(data, DataLoader) else data


def _like_model(part: Any, model: Any) -> Any:
    """An array or list as an array whose floats have the model's dtype."""
    if isinstance(part, Tensor):
        return part
    array = part if hasattr(part, "dtype") else np.asarray(part)
    if array.dtype.kind != "f":
        return array
    for p in model.parameters():
        if p.array.dtype.kind == "f":
            return array.astype(p.array.dtype, copy=False)
    return array


def split(batch: Any, device: Any = None) -> Batch:
    """A batch taken apart: (x, y), or (x1, x2, ..., y) for a model of several inputs.

    Raises TypeError for another structure and ValueError for a batch without samples.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise TypeError(
            f"a batch must be (inputs, target), got {describe(batch)}; let the DataLoader's collate_fn return pairs"
        )
    *inputs, target = (moved(part, device) for part in batch)
    size = next((p.shape[0] for p in (target, *inputs) if isinstance(p, Tensor) and p.ndim), 1)
    if size == 0:
        raise ValueError(f"the batch is empty: {describe(batch)}")
    return Batch(tuple(inputs), target, size)


def moved(part: Any, device: Any) -> Any:
    """An array as a Tensor on the model's device; what is neither array nor Tensor as it is."""
    if not isinstance(part, Tensor):
        if not hasattr(part, "dtype"):
            return part
        part = as_tensor(part)
    return part if device is None or part.device == device else part.to(device)


def describe(batch: Any) -> str:
    """The shapes and dtypes in a batch, for messages.

    >>> describe((np.zeros((2, 3)), [np.arange(2), "abc"]))
    '(float64 (2, 3), [int64 (2,), str])'
    """
    if isinstance(batch, (tuple, list)):
        inner = ", ".join(map(describe, batch))
        return f"({inner})" if isinstance(batch, tuple) else f"[{inner}]"
    if isinstance(batch, Tensor):
        return f"{batch.array.dtype} {tuple(batch.shape)}"
    if hasattr(batch, "dtype") and hasattr(batch, "shape"):
        return f"{batch.dtype} {tuple(batch.shape)}"
    return type(batch).__name__


def check_model(model: Any, name: str) -> None:
    """Raises TypeError unless `model` can be called, has parameters and can switch modes, as a Module does."""
    missing = [m for m in ("parameters", "modules", "train", "eval") if not callable(getattr(model, m, None))]
    if missing or not callable(model):
        raise TypeError(f"{name}: model must be a minidl.nn.Module, not {type(model).__name__}")


@contextmanager
def modes_kept(model: Any) -> Any:
    """Afterwards every module of the model is in training or evaluation mode again as it was, whatever happens."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
