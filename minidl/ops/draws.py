"""Draws from named distributions: as functions, and into a tensor's own memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import dtypes, random
from minidl.autograd import attach
from minidl.autograd.out import creates_out
from minidl.ops.create import _fill_method, _finish, _generator, _size, multinomial, randint
from minidl.tensors import Tensor


def _wide(dtype: Any) -> Any:
    return np.float32 if dtype == np.float16 else dtype


@creates_out
def normal(
    mean: Any = 0.0, std: Any = 1.0, size: Any = None, *, generator: Any = None, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """Normal draws: of a shape for two numbers and a size, else one for each element of `mean` and `std` (broadcast).

    Raises RuntimeError for a negative std.
    """
    tensors = [t for t in (mean, std) if isinstance(t, Tensor)]
    a, b = (np.asarray(t.array if isinstance(t, Tensor) else t) for t in (mean, std))
    if (b < 0).any():
        raise RuntimeError(f"normal expects all elements of std >= 0.0, but found {b.min()}")
    if not tensors and size is None:
        raise TypeError("normal() of two numbers needs a size: normal(0.0, 1.0, (2, 3))")
    if tensors and size is not None:
        raise TypeError("normal() of Tensors has their shape: leave the size out")
    kind = dtypes.as_numpy(dtype) if dtype is not None else tensors[0].array.dtype if tensors else dtypes.default()
    shape = np.broadcast_shapes(a.shape, b.shape) if tensors else _size((size,))
    values = _generator(generator).normal(shape, dtype=_wide(kind)) * b + a
    return _finish(values.astype(kind), device, requires_grad)


def randint_like(
    input: Tensor, low: int, high: Any = None, *, generator: Any = None, dtype: Any = None, device: Any = None,
    requires_grad: bool = False,
) -> Tensor:  # fmt: skip
    """randint() in the shape, dtype and on the device of another tensor."""
    low, high = (0, low) if high is None else (low, high)
    kind = input.dtype if dtype is None else dtype
    where = input.device if device is None else device
    return randint(
        low, high, tuple(input.shape), generator=generator, dtype=kind, device=where, requires_grad=requires_grad
    )


def _whole(t: Tensor, from_: int = 0, to: int | None = None, *, generator: random.Generator | None = None) -> Any:
    if to is None:
        from_, to = 0, from_
    kind = t.array.dtype
    if to == 0:  # neither was given: all that the dtype holds exactly
        to = 2 ** (np.finfo(kind).nmant + 1) + 1 if kind.kind == "f" else 2 if kind.kind == "b" else np.iinfo(kind).max
    if to <= from_:
        raise RuntimeError(f"random_ expects 'from' to be less than 'to', but got from={from_} >= to={to}")
    return _generator(generator).integers(from_, int(to), t.array.shape)


_fill_method(
    "random_",
    "Draw every element from the integers in [from_, to), or [0, to), or from all that the dtype holds exactly.",
    _whole,
)
_fill_method(
    "exponential_",
    "Draw every element from an exponential distribution of rate lambd.",
    lambda t, lambd=1.0, *, generator=None: _generator(generator).exponential(
        t.array.shape, dtype=_wide(t.array.dtype)
    ) / lambd,
)  # fmt: skip


def _multinomial(self: Tensor, num_samples: int, replacement: bool = False, *, generator: Any = None) -> Tensor:
    """Indices drawn with probability proportional to the last dimension, see minidl.multinomial."""
    return multinomial(self, num_samples, replacement, generator=generator)


attach("multinomial", _multinomial)


def indices_below(row: int, col: int, offset: int, lower: bool) -> Any:
    """Rows and columns of one triangle of a matrix, row by row."""
    i, j = np.arange(row)[:, None], np.arange(col)[None, :]
    return np.stack(np.nonzero(j - i <= offset if lower else j - i >= offset))


def tril_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Where the lower triangle of a row x col matrix is, (2, n): rows and columns, row by row."""
    return _finish(
        indices_below(row, col, offset, True).astype(np.int64 if dtype is None else dtypes.as_numpy(dtype)),
        device,
        False,
    )


def triu_indices(row: int, col: int, offset: int = 0, *, dtype: Any = None, device: Any = None) -> Tensor:
    """Where the upper triangle of a row x col matrix is, (2, n): rows and columns, row by row."""
    return _finish(
        indices_below(row, col, offset, False).astype(np.int64 if dtype is None else dtypes.as_numpy(dtype)),
        device,
        False,
    )


# -- tensors beside another -------------------------------------------------------------------------------------------


def _new(name: str, make: Any, doc: str) -> None:
    def new(self: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
        kind, where = self.dtype if dtype is None else dtype, self.device if device is None else device
        return _finish(make(_size(size), dtypes.as_numpy(kind)), where, requires_grad)

    new.__name__, new.__doc__ = name, doc
    attach(name, new)


_new("new_zeros", np.zeros, "Zeros of a shape, in this tensor's dtype and on its device.")
_new("new_ones", np.ones, "Ones of a shape, in this tensor's dtype and on its device.")
_new("new_empty", np.empty, "Uninitialised memory of a shape, in this tensor's dtype and on its device.")


def _new_full(
    self: Tensor, size: Any, fill_value: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False
) -> Tensor:
    """One value everywhere, in this tensor's dtype and on its device."""
    kind, where = self.dtype if dtype is None else dtype, self.device if device is None else device
    return _finish(np.full(_size((size,)), fill_value, dtypes.as_numpy(kind)), where, requires_grad)


def _new_tensor(self: Tensor, data: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False) -> Tensor:
    """A copy of data, in this tensor's dtype and on its device."""
    kind, where = self.dtype if dtype is None else dtype, self.device if device is None else device
    values = np.array(data.detach().cpu().array if isinstance(data, Tensor) else data)
    return _finish(values.astype(dtypes.as_numpy(kind)), where, requires_grad)


attach("new_full", _new_full)
attach("new_tensor", _new_tensor)


def _pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """This tensor: its memory needs no pinning."""
    return self


attach("pin_memory", _pin_memory)
