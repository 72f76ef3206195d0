"""Vectors: the cross product, inner products, how often each number occurs; slices written at places."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import op, require
from minidl.autograd.out import takes_out
from minidl.ops.axes import roll
from minidl.ops.common import IndexRangeError, broadcast, number_for, one_dim
from minidl.ops.copies import clone
from minidl.ops.gather_scatter import _vector, scatter
from minidl.ops.indexing import getitem
from minidl.ops.logic import like, raw
from minidl.ops.masks import where
from minidl.ops.products import tensordot
from minidl.ops.shapes import reshape
from minidl.ops.tiling import broadcast_to


@takes_out
def linalg_cross(input: Any, other: Any, *, dim: int = -1) -> Any:
    """a x b of the vectors along `dim`, which has size 3; other dimensions broadcast.

    Raises RuntimeError for another size, or for different numbers of dimensions.
    """
    n = len(input.shape)
    require(
        n == len(other.shape), "linalg.cross: dimensions of {} and {} differ", tuple(input.shape), tuple(other.shape)
    )
    d = one_dim(dim, n)
    require(
        n > 0 and input.shape[d] == 3 and other.shape[d] == 3,
        "linalg.cross: inputs dimension {} must have length 3. Got {} and {}",
        dim,
        tuple(input.shape),
        tuple(other.shape),
    )
    shape = broadcast(tuple(input.shape), tuple(other.shape))
    a, b = broadcast_to(input, shape), broadcast_to(other, shape)
    return roll(a, -1, d) * roll(b, -2, d) - roll(a, -2, d) * roll(b, -1, d)


@op(method="cross")
def cross(input: Any, other: Any, dim: int | None = None) -> Any:
    """a x b of the vectors along `dim`, without one along the first dimension of size 3. Shapes broadcast.

    Try: cross(randn(2, 3), randn(2, 3))
    """
    if dim is None:
        shape = broadcast(tuple(input.shape), tuple(other.shape))
        require(3 in shape, "cross: no dimension of size 3 in {} and {}", tuple(input.shape), tuple(other.shape))
        dim = shape.index(3)
    return linalg_cross(input, other, dim=dim)


@op(method="inner")
def inner(input: Any, other: Any) -> Any:
    """The sums of products over the last dimensions: (..., K), (+++, K) -> (..., +++); a product with a 0-d tensor.

    Try: inner(randn(2, 3), randn(4, 3))
    """
    if not len(input.shape) or not len(other.shape):
        return input * other
    require(
        input.shape[-1] == other.shape[-1],
        "inner() the last dimension must match on both input tensors but got shapes {} and {}",
        tuple(input.shape),
        tuple(other.shape),
    )
    return tensordot(input, other, ([-1], [-1]))


@op(method="bincount")
def bincount(input: Any, weights: Any = None, minlength: int = 0) -> Any:
    """How often each of 0, 1, 2 ... occurs, int64, or the sums of the weights there; at least `minlength` places.

    Sums are float32 for float32 weights, else float64. No gradient. Raises RuntimeError unless input is a vector of
    integers from 0 on, the weights as many.

    Try: bincount(randint(0, 5, (9,)))
    """
    x, w = raw(input), raw(weights)
    if x.dtype.kind not in "iu":
        raise NotImplementedError(f"bincount is not defined for {x.dtype}: integers are counted")
    if minlength < 0:
        raise RuntimeError("minlength should be >= 0")
    require(x.ndim == 1 and (x.size == 0 or x.min() >= 0), "bincount: 1-d, non-negative ints expected, got {}", x.shape)
    require(w is None or w.shape == x.shape, "bincount: weights {} for {}", w is not None and w.shape, x.shape)
    if not x.size:
        return like(input, np.zeros(minlength, np.int64))
    y = np.bincount(x.astype(np.int64), w, minlength)
    return like(input, y.astype(np.float32) if w is not None and w.dtype == np.float32 else y)


@op(method="take")
def take(input: Any, index: Any) -> Any:
    """The elements of the flattened input at `index`, in its shape; negative ones count from the end.

    Raises RuntimeError unless the index is int64, IndexError out of range.

    Try: take(randn(3, 4), tensor([[0, 5], [5, 11]]))
    """
    at = raw(index)
    if at.dtype != np.int64:
        raise RuntimeError(f"take(): Expected a long tensor for index, but got {at.dtype}")
    flat = reshape(input, (-1,))
    n = flat.shape[0]
    if at.size and not (-n <= at.min() and at.max() < n):
        raise IndexRangeError(f"take(): index out of range for {n} elements")
    return getitem(flat, at) if at.ndim else reshape(getitem(flat, at.reshape(1)), ())


@op(method="index_fill", inplace=True)
def index_fill(input: Any, dim: int, index: Any, value: Any) -> Any:
    """input with `value`, a number or a 0-d tensor, in the slices at `index` along `dim`.

    Try: index_fill(randn(3, 4), 0, tensor([0, 2]), 2.5)
    """
    d = one_dim(dim, len(input.shape))
    require(getattr(value, "ndim", 0) == 0, "index_fill_ only supports a 0-dimensional value tensor")
    at = _vector("index_fill", index, True)
    n = input.shape[d] if len(input.shape) else 1
    if at.size and not (-n <= at.min() and at.max() < n):
        raise IndexRangeError(f"index_fill(): index out of range for dimension {d} of size {n}")
    hit = devices.array_module(raw(input)).zeros(n, bool)
    hit[at] = True
    hit = hit.reshape((n,) + (1,) * (len(input.shape) - 1 - d)) if len(input.shape) else hit.reshape(())
    dtype = dtypes.as_numpy(input.dtype)
    return where(hit, value if hasattr(value, "dtype") else number_for(value, dtype), input)


@op(method="index_copy", inplace=True)
def index_copy(input: Any, dim: int, index: Any, source: Any) -> Any:
    """input with the slices of `source` written at `index` along `dim`; of several for one place the last stays.

    Try: index_copy(randn(3, 4), 0, tensor([0, 2]), randn(2, 4))
    """
    d = one_dim(dim, len(input.shape))
    at = _vector("index_copy", index, True)
    if dtypes.as_numpy(input.dtype) != dtypes.as_numpy(source.dtype):
        raise RuntimeError(f"index_copy_(): input is {input.dtype}, source {source.dtype}: they must be the same")
    size = tuple(input.shape) or (1,)
    want = (*size[:d], at.size, *size[d + 1 :])
    got = tuple(source.shape)
    require(got == want or (got == () and want == (1,)), "index_copy_(): source {} where {} is wanted", got, want)
    if at.size and (at.min() < 0 or at.max() >= size[d]):
        raise IndexRangeError(f"index_copy_(): index out of range for dimension {d} of size {size[d]}")
    if not at.size:
        return clone(input)
    places = np.broadcast_to(at.reshape((-1,) + (1,) * (len(size) - 1 - d)), want)
    y = scatter(reshape(input, size), d, places.astype(np.int64), reshape(source, want))
    return y if len(input.shape) else reshape(y, ())
