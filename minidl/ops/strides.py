"""Memory and places by number: as_strided, resize_, unravel_index, put."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, attach, op, require
from minidl.ops.common import IndexRangeError
from minidl.ops.indexing import put as added_at
from minidl.ops.logic import like, raw
from minidl.ops.scatter_reductions import index_put
from minidl.ops.shapes import _sizes, reshape
from minidl.tensors import Tensor


class _Strided(Op):
    """y[i, j, ...] = x.reshape(-1)[start + i stride[0] + j stride[1] ...], a view of x, whose elements lie in rows

    Why: each y is one element of x: every dy is added at the place it was read from.
    Try: strided(randn(6), (2, 3), (1, 2), 0)
    """

    is_view = True

    def forward(ctx, x: Any, size: tuple, stride: tuple, start: int) -> Any:
        ctx.how, ctx.size = (size, stride, start), x.shape
        x = devices.contiguous(x)  # a gradient's elements may lie otherwise
        step = x.itemsize
        if devices.is_cuda_array(x):
            strided = devices.array_module(x).lib.stride_tricks.as_strided
            return strided(x.reshape(-1)[start:], size, tuple(s * step for s in stride))
        return np.ndarray(
            size,
            x.dtype,
            x.base if isinstance(x.base, np.ndarray) else x,
            _first(x) + start * step,
            tuple(s * step for s in stride),
        )

    def backward(ctx, dy: Any) -> Any:
        size, stride, start = ctx.how
        xp = devices.array_module(raw(dy))
        at = xp.full(size, start, np.int64)
        for d, s in enumerate(stride):
            at += s * xp.arange(size[d]).reshape((-1,) + (1,) * (len(size) - 1 - d))
        return reshape(added_at(reshape(dy, (at.size,)), at.reshape(-1), (math.prod(ctx.size),)), ctx.size)


def _first(x: Any) -> int:
    """Bytes from the beginning of the memory's owner to the first element of x."""
    if devices.is_cuda_array(x):
        return 0 if x.base is None else x.data.ptr - x.base.data.ptr
    return x.ctypes.data - x.base.ctypes.data if isinstance(x.base, np.ndarray) else 0


_Strided.__name__ = "strided"
op()(_Strided)


@op(method="as_strided")
def as_strided(input: Any, size: Any, stride: Any, storage_offset: int | None = None) -> Any:
    """A view of input's memory in another shape, by steps counted in elements. Elements may be seen several times.

    `storage_offset` counts from the beginning of the memory that input may itself be a view of; input's own first
    element without it. Raises RuntimeError where the view would leave input, or unless input's elements lie in rows.

    Try: as_strided(randn(6), (2, 3), (1, 2))
    """
    x = raw(input)
    size, stride = tuple(int(n) for n in size), tuple(int(s) for s in stride)
    require(len(size) == len(stride), "mismatch in length of strides and shape: {} and {}", stride, size)
    require(
        min((*size, *stride), default=0) >= 0, "as_strided: sizes {} and strides {} must not be negative", size, stride
    )
    if not x.flags.c_contiguous:
        raise RuntimeError("as_strided: a tensor whose elements lie in rows is expected; see contiguous()")
    start = 0 if storage_offset is None else int(storage_offset) - _first(x) // x.itemsize
    last = start + sum(s * (n - 1) for s, n in zip(stride, size, strict=True))
    require(
        0 in size or 0 <= start <= last < x.size,
        "as_strided: elements {} to {} are asked for, the input has {}", start, last, x.size,
    )  # fmt: skip
    return _Strided(input, size, stride, start)


def _resize(self: Tensor, *sizes: Any) -> Tensor:
    """Another shape, in place: the same elements in their order, cut off, or with uninitialised ones at the end.

    Raises RuntimeError for a tensor that requires gradients.
    """
    if self.requires_grad:
        raise RuntimeError("cannot resize variables that require grad")
    shape = _sizes(sizes)
    old, n = self.array.reshape(-1), math.prod(shape)
    if n > old.size:
        new = np.empty_like(old, shape=n)
        new[: old.size] = old
        old = new
    self.array, self._view = old[:n].reshape(shape), None
    return self


attach("resize_", _resize)


def _resize_as(self: Tensor, the_template: Tensor) -> Tensor:
    """The shape of another tensor, as by resize_."""
    return _resize(self, *the_template.shape)


attach("resize_as_", _resize_as)


@op()
def unravel_index(indices: Any, shape: Any) -> tuple:
    """Numbers of elements, counted row by row, as one index tensor for each dimension of `shape`; int64.

    Raises ValueError for an index beyond the shape.

    Try: unravel_index(tensor([0, 5, 11]), (3, 4))
    """
    at = raw(indices)
    if at.dtype.kind not in "iu":
        raise TypeError(f"expected 'indices' to be an integer dtype, but got {at.dtype}")
    size = (int(shape),) if isinstance(shape, int) else tuple(int(n) for n in shape)
    n = math.prod(size)
    if at.size and not 0 <= at.min() <= at.max() < n:
        raise ValueError(f"unravel_index: indices from {at.min()} to {at.max()} for the {n} elements of {size}")
    at, found = at.astype(np.int64), []
    for k in reversed(size):
        found.append(like(indices, at % max(k, 1)))
        at = at // max(k, 1)
    return tuple(reversed(found))


@op(method="put", inplace=True)
def put_elements(input: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    """input with the elements of `source` written, or with `accumulate` added, at `index` in the flattened input.

    Raises RuntimeError unless the index is int64 and the dtypes and numbers of elements agree; IndexError out of range.

    Try: put_elements(randn(3, 4), tensor([0, 5]), randn(2))
    """
    at, n = raw(index), math.prod(input.shape)
    if at.dtype != np.int64:
        raise IndexRangeError(f"put_(): Expected a long tensor for index, but got {at.dtype}")
    if dtypes.as_numpy(source.dtype) != dtypes.as_numpy(input.dtype):
        raise RuntimeError(f"put_(): self ({input.dtype}) and source ({source.dtype}) must have the same dtype")
    require(at.size == math.prod(source.shape), "put_(): {} places for a source of {}", at.shape, tuple(source.shape))
    if at.size and not (-n <= at.min() and at.max() < n):
        raise IndexRangeError(f"put_(): index out of range for {n} elements")
    flat = index_put(reshape(input, (-1,)), (like(index, at.reshape(-1)),), reshape(source, (-1,)), accumulate)
    return reshape(flat, tuple(input.shape))


put = put_elements  # torch's name; the table has `put` for the gradient of indexing
