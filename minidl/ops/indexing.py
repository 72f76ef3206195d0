"""x[...] and x[...] = y: slices, None, ..., integers, integer and bool arrays."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import devices
from minidl.autograd import Op, ShapeError, attach, op, state
from minidl.ops.common import broadcast, number_for, shape_of, unbroadcast
from minidl.ops.copies import cast, clone
from minidl.ops.masks import where
from minidl.ops.shapes import reshape
from minidl.tensors import Tensor


def plain_index(index: Any) -> Any:
    """An index with Tensors and lists turned into arrays, as NumPy takes it."""
    if isinstance(index, tuple):
        return tuple(plain_index(i) for i in index)
    if isinstance(index, Tensor):
        index = index.array
    elif isinstance(index, list):
        index = np.asarray([i.array if isinstance(i, Tensor) else i for i in index])
        if index.size == 0:
            index = index.astype(np.int64)
    if isinstance(index, np.ndarray):
        if index.dtype.kind not in "biu":
            raise IndexError(f"tensors used as indices must be long, int, uint8 or bool tensors, not {index.dtype}")
        if index.dtype == np.uint8:
            warnings.warn(
                "indexing with uint8 is deprecated: it is taken as a mask, as in torch; use a bool or int64 tensor",
                UserWarning,
                stacklevel=4,
            )
            index = index.astype(bool)
        if index.ndim == 0:
            return int(index) if index.dtype.kind != "b" else bool(index)
    return index


def _is_basic(index: Any) -> bool:
    """Whether NumPy answers with a view."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(
        i is None or i is Ellipsis or (isinstance(i, (slice, int, np.integer)) and not isinstance(i, bool))
        for i in parts
    )


def _range(index: Any, size: tuple[int, ...]) -> tuple[int, int, int] | None:
    """(axis, start, stop) of an index that takes one range of one axis and all of the others; else None."""
    found, axis = None, 0
    parts = index if isinstance(index, tuple) else (index,)
    if any(i is None for i in parts):
        return None
    for i in parts:
        if i is Ellipsis:
            axis += len(size) - (len(parts) - 1)
            continue
        n = size[axis]
        if isinstance(i, slice):
            start, stop, step = i.indices(n)
            if step != 1:
                return None
            stop = max(start, stop)  # x[3:1] is empty
        else:
            start = i + n if i < 0 else i
            stop = start + 1
        if stop - start != n or not isinstance(i, slice):
            if found is not None:
                return None
            found = (axis, int(start), int(stop))
        axis += 1
    return found


def _split_index(index: Any) -> Any:
    """torch's meaning of ``x[0, :, [1, 2]]``: first the integers, then the arrays on what is left, as two indices.

    NumPy takes an integer beside arrays for one of the arrays, which moves dimensions. None where the two agree.
    """
    if not isinstance(index, tuple):
        return None
    whole = [isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in index]
    if not any(whole) or not any(isinstance(i, (np.ndarray, bool)) for i in index):
        return None
    first: list[Any] = []
    for i, integer in zip(index, whole, strict=True):
        if integer or i is Ellipsis:
            first.append(i)
        elif i is not None and not isinstance(i, bool):
            first += [slice(None)] * (i.ndim if isinstance(i, np.ndarray) and i.dtype.kind == "b" else 1)
    return tuple(first), tuple(i for i, integer in zip(index, whole, strict=True) if not integer)


class _GetItem(Op):
    """y = x[index];    dx = zeros with dy added at index

    Why: y copies elements of x, so each dy goes back to the place it was read from, added where one was read twice.
    Try: getitem(randn(3, 4), 1)
    """

    is_view = True

    def forward(ctx, x: Any, index: Any) -> Any:
        ctx.size, ctx.index = x.shape, index
        for i in index if isinstance(index, tuple) else (index,):
            if isinstance(i, slice) and i.step is not None and i.step <= 0:
                raise ValueError("step must be greater than zero: use flip() for a reversed order")
        y = x[index]
        if type(index) not in (int, slice) and not _is_basic(index):
            y = devices.contiguous(y) if y.ndim else y  # NumPy puts an array's dimensions outermost in memory
        elif isinstance(y, np.generic):  # NumPy copies a single element; with ... it gives a view, as torch does
            y = x[(*index, ...) if isinstance(index, tuple) else (index, ...)]
        return y

    def backward(ctx, dy: Any) -> Any:
        return put(dy, ctx.index, ctx.size)

    def is_part(ctx) -> bool:
        """Whether y is some of x, each element once."""
        return _is_basic(ctx.index)

    @staticmethod
    def join(parts: list) -> Any:
        """dx of several y = x[index] together; where they are all of x, side by side, without zeros in between."""
        ctx, dy = parts[0]
        if len(parts) == 1:
            return put(dy, ctx.index, ctx.size)
        xp, size = devices.array_module(dy), ctx.size
        ranges = [_range(node.index, size) for node, _ in parts]
        found = sorted((*r, i) for i, r in enumerate(ranges) if r is not None)  # axis, start, stop, number of the part
        ends = [0, *(stop for _, _, stop, _ in found)]
        if (
            len(found) == len(parts)
            and found[0][0] == found[-1][0]
            and ends[:-1] == [start for _, start, _, _ in found]
        ):
            axis = found[0][0]
            lead, rest = size[:axis], size[axis + 1 :]
            pieces = [parts[i][1].reshape((*lead, stop - start, *rest)) for _, start, stop, i in found]
            if ends[-1] == size[axis]:
                return xp.concatenate(pieces, axis, out=xp.empty(size, dy.dtype))
        dx = xp.zeros(size, dy.dtype)
        for node, dy in parts:
            dx[node.index] += dy
        return dx


_GetItem.__name__ = "getitem"
getitem = op()(_GetItem)


@op()
class put(Op):
    """y = zeros of `size` with x added at `index` (repeated places add up);    dx = dy[index]

    Why: each x is added at one place of y, so its gradient is read there; put and getitem are each other's transpose.
    Try: put(randn(2, 4), [2, 0], (3, 4))
    """

    def forward(ctx, x: Any, index: Any, size: Any) -> Any:
        ctx.index = index
        if devices.is_cuda_array(x) and not _is_basic(index):
            return _put_on_device(x, index, size)
        if isinstance(index, np.ndarray) and index.dtype.kind != "b" and x.dtype.kind in "iuf":
            return _put_rows(x, index.reshape(-1), size, 1)
        y = np.zeros_like(x, shape=size, order="C")
        if _is_basic(index):
            y[index] = x
        else:
            np.add.at(y, index, x)
        return y

    def backward(ctx, dy: Any) -> Any:
        return getitem(dy, ctx.index)


def _put_on_device(x: Any, index: Any, size: Any) -> Any:
    """`put` on a GPU, where rows of one place are added in an order that does not depend on chance. Boolean masks are
    made indices first, which waits.
    """
    xp, lead = devices.array_module(x), []
    for i in index if isinstance(index, tuple) else (index,):
        lead += [xp.asarray(i)] if i.dtype.kind != "b" else list(xp.nonzero(xp.asarray(i)))
    flat: Any = 0
    for i, n in zip(lead, size):
        flat = flat * n + xp.where(i < 0, i + n, i)
    wide = x.astype("float32" if x.dtype.kind == "f" else "int64") if x.itemsize < 4 else x
    return _put_rows(wide, flat.reshape(-1), size, len(lead)).astype(x.dtype, copy=False)


def _put_rows(x: Any, index: Any, size: Any, lead: int) -> Any:
    """x added at places that one number names among the first `lead` axes of `size`."""
    places, width = math.prod(size[:lead]), math.prod(size[lead:])
    index = devices.array_module(index).where(index < 0, index + places, index)
    return kernels.scatter_rows(x.reshape(index.size, width), index, places).reshape(size)


def _getitem_method(self: Tensor, index: Any) -> Tensor:
    index = plain_index(index)
    parts = _split_index(index) if type(index) is tuple else None
    return getitem(self, index) if parts is None else getitem(getitem(self, parts[0]), parts[1])


def _setitem_method(self: Tensor, index: Any, value: Any) -> None:
    from minidl.autograd import caller
    from minidl.inplace import check_writable, place_of, take_place

    index = plain_index(index)
    parts = _split_index(index)
    if parts is not None:
        self[parts[0]][parts[1]] = value
        return
    wants = isinstance(value, Tensor) and value.requires_grad
    check_writable(self, wants)
    new = value.array if isinstance(value, Tensor) else value
    if new is None or isinstance(new, (str, dict)):
        raise TypeError(f"can't assign a {type(new).__name__} to a {self.dtype} tensor")
    if isinstance(value, Tensor) and new.dtype != self.array.dtype and not _is_basic(index):
        raise RuntimeError(
            f"Index put requires the source and destination dtypes match, got {self.dtype} for the destination and "
            f"{value.dtype} for the source: write x[index] = value.to(x.dtype)"
        )
    if type(new) in (int, float) and self.array.dtype.kind in "iu":
        new = number_for(new, self.array.dtype)
    place = self.array[index]
    if isinstance(new, np.ndarray) or np.isscalar(new):
        shape = shape_of(new)
        if broadcast_or_none(shape, np.shape(place)) != np.shape(place):
            raise ShapeError(
                f"shape mismatch: value of shape {shape} cannot be put into x[...] of shape {np.shape(place)}"
            )
    if isinstance(new, np.ndarray) and new.ndim > np.ndim(place):
        new = new.reshape(new.shape[new.ndim - np.ndim(place) :])  # leading 1s
    self.array[index] = new
    self.bump(caller())
    if not state.grad:
        if self._view is not None:
            self._view.count = self.version.count
        return
    if self.requires_grad or wants:
        take_place(
            self, index_put_done(place_of(self), value if isinstance(value, Tensor) else None, index, self.array)
        )


class index_put_done(Op):
    """x after ``x[index] = value``; `memory` holds the result already.    dx = dy with 0 at index, dvalue =
    dy[index]

    Why: what was overwritten no longer reaches y; the value is copied to its place.
    """

    def forward(ctx, x: Any, value: Any, index: Any, memory: Any) -> Any:
        ctx.index, ctx.size, ctx.value_shape = index, memory.shape, shape_of(value)
        ctx.xp = devices.array_module(memory)
        ctx.value_dtype = getattr(value, "dtype", memory.dtype)
        return memory

    def again(ctx, x: Any, value: Any, index: Any, memory: Any) -> Any:
        y = clone(x)
        y[ctx.index] = memory[ctx.index] if value is None else value
        return y

    def backward(ctx, dy: Any) -> Any:
        def dx() -> Any:
            keep = ctx.xp.ones(ctx.size, bool)
            keep[ctx.index] = False
            return where(keep, dy, 0.0)

        return ctx.wanted(dx, lambda: cast(_fold(getitem(dy, ctx.index), ctx.value_shape), ctx.value_dtype))


def _fold(dy: Any, shape: tuple[int, ...]) -> Any:
    extra = len(shape) - len(dy.shape)  # NumPy lets a value have leading 1s
    return reshape(unbroadcast(dy, shape[extra:]), shape) if extra > 0 else unbroadcast(dy, shape)


def broadcast_or_none(*shapes: tuple[int, ...]) -> tuple[int, ...] | None:
    """The common shape, or None; a value's surplus leading 1s are dropped."""
    value, place = shapes
    while len(value) > len(place) and value[0] == 1:
        value = value[1:]
    try:
        return broadcast(value, place)
    except ShapeError:
        return None


attach("__getitem__", _getitem_method)
attach("__setitem__", _setitem_method)


def _iter(self: Tensor) -> Any:
    if self.ndim == 0:
        raise TypeError("iteration over a 0-d tensor")
    return (self[i] for i in range(self.shape[0]))


attach("__iter__", _iter)
