"""Tensors put together and taken apart as NumPy has it: atleast_2d, dstack, column_stack, block_diag; products of sets;
tensor_split, hsplit, vsplit, dsplit; quarter turns.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import op, require
from minidl.ops.axes import flip, transpose
from minidl.ops.common import broadcast, one_dim
from minidl.ops.copies import clone
from minidl.ops.create import zeros
from minidl.ops.diagonals import diag
from minidl.ops.indexing import getitem
from minidl.ops.joining import cat, hstack, stack, vstack
from minidl.ops.logic import raw
from minidl.ops.shapes import reshape
from minidl.ops.splitting import narrow
from minidl.ops.tiling import broadcast_to, meshgrid
from minidl.tensors import Shape


def _each(f: Any, tensors: tuple) -> Any:
    """f of one tensor, or of each of several, given singly or as a sequence."""
    if len(tensors) == 1:
        return tuple(f(x) for x in tensors[0]) if isinstance(tensors[0], (tuple, list)) else f(tensors[0])
    return tuple(f(x) for x in tensors)


@op()
def atleast_1d(*tensors: Any) -> Any:
    """0-d tensors as vectors of one; of several tensors a tuple.

    Try: atleast_1d(randn())
    """
    return _each(lambda x: reshape(x, (1,)) if not len(x.shape) else x, tensors)


@op()
def atleast_2d(*tensors: Any) -> Any:
    """Vectors (N,) as (1, N), 0-d tensors as (1, 1); of several tensors a tuple.

    Try: atleast_2d(randn(3))
    """
    return _each(lambda x: reshape(x, (1, *x.shape) if len(x.shape) else (1, 1)) if len(x.shape) < 2 else x, tensors)


@op()
def atleast_3d(*tensors: Any) -> Any:
    """Matrices (M, N) as (M, N, 1), vectors (N,) as (1, N, 1), 0-d tensors as (1, 1, 1); of several tensors a tuple.

    Try: atleast_3d(randn(2, 3))
    """

    def three(x: Any) -> Any:
        shape = tuple(x.shape)
        return x if len(shape) > 2 else reshape(x, [(1, 1, 1), (1, *shape, 1), (*shape, 1)][len(shape)])

    return _each(three, tensors)


@op()
def dstack(tensors: Any) -> Any:
    """The tensors one behind the other, along dimension 2, after atleast_3d.

    Try: dstack([randn(3), randn(3)])
    """
    require(len(tensors) > 0, "dstack expects a non-empty list of tensors")
    return cat([atleast_3d(x) for x in tensors], 2)


@op()
def column_stack(tensors: Any) -> Any:
    """Vectors as columns, and matrices, side by side.

    Try: column_stack([randn(3), randn(3, 2)])
    """
    require(len(tensors) > 0, "column_stack expects a non-empty list of tensors")
    return hstack([x if len(x.shape) > 1 else reshape(x, (-1, 1)) for x in tensors])


@op()
def row_stack(tensors: Any) -> Any:
    """The tensors, as rows or matrices, one below the other: :func:`vstack`.

    Try: row_stack([randn(3), randn(2, 3)])
    """
    return vstack(tensors)


@op()
def block_diag(*tensors: Any) -> Any:
    """A matrix with the given matrices along its diagonal and zeros elsewhere; vectors count as rows.

    Try: block_diag(randn(2, 2), randn(1, 3))
    """
    if not tensors:
        return zeros(1, 0)
    for x in tensors:
        require(len(x.shape) <= 2, "block_diag: Input tensors must have 2 or fewer dimensions, got {}", tuple(x.shape))
    blocks = [atleast_2d(x) for x in tensors]
    width, left, rows = sum(b.shape[1] for b in blocks), 0, []
    for b in blocks:
        h, w = b.shape
        kind, xp = dtypes.as_numpy(b.dtype), devices.array_module(raw(b))
        rows.append(cat([xp.zeros((h, left), kind), b, xp.zeros((h, width - left - w), kind)], 1))
        left += w
    return cat(rows, 0)


@op()
def broadcast_tensors(*tensors: Any) -> tuple:
    """The tensors as views of one common shape.

    Try: broadcast_tensors(randn(2, 1), randn(3))
    """
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    shape = broadcast(*(tuple(x.shape) for x in tensors))
    return tuple(broadcast_to(x, shape) for x in tensors)


def broadcast_shapes(*shapes: Any) -> Shape:
    """The common shape of several, given as tuples or numbers. Raises ShapeError, a RuntimeError, if there is none."""
    return Shape(broadcast(*((s,) if isinstance(s, int) else tuple(s) for s in shapes)))


@op()
def cartesian_prod(*tensors: Any) -> Any:
    """All tuples of an element of each vector, (N M ..., count), the last vector varying fastest; of one, itself.

    Try: cartesian_prod(randn(2), randn(3))
    """
    for x in tensors:
        require(len(x.shape) == 1, "cartesian_prod: Expect a 1D vector, but got shape {}", tuple(x.shape))
    if len(tensors) == 1:
        return tensors[0]
    return stack([reshape(g, (-1,)) for g in meshgrid(*tensors, indexing="ij")], 1)


@op()
def combinations(input: Any, r: int = 2, with_replacement: bool = False) -> Any:
    """All choices of r elements of a vector in their order, (count, r); with_replacement each may come again.

    Try: combinations(randn(4), 2)
    """
    require(len(input.shape) == 1, "Expect a 1D vector, but got shape {}", tuple(input.shape))
    require(r >= 0, "Expect a non-negative number, but got {}", r)
    if r == 0:
        return getitem(input, np.zeros(0, np.int64))
    choose = itertools.combinations_with_replacement if with_replacement else itertools.combinations
    rows = np.array(list(choose(range(input.shape[0]), r)), np.int64).reshape(-1, r)
    return getitem(input, rows)


def _split_at(x: Any, sections: Any, dim: int) -> tuple:
    n = x.shape[dim]
    if isinstance(sections, int):
        require(sections > 0, "number of sections must be larger than 0, got {}", sections)
        small, extra = divmod(n, sections)
        ends = list(itertools.accumulate(small + (i < extra) for i in range(sections)))[:-1]
    else:
        ends = [min(max(i + n if i < 0 else i, 0), n) for i in sections]
    starts = [0, *ends]
    return tuple(narrow(x, dim, a, max(b - a, 0)) for a, b in zip(starts, [*ends, n], strict=True))


def _sections(name: str, value: Any) -> Any:
    """A number or a list of indices, either perhaps as a tensor."""
    if hasattr(value, "dtype"):
        value = raw(value)
        require(value.dtype == np.int64 and value.ndim < 2, "{}: int64 indices or sections expected", name)
    return [int(i) for i in value] if np.ndim(value) else int(value)


@op(method="tensor_split")
def tensor_split(
    input: Any, indices_or_sections: Any = None, dim: int = 0, *, sections: Any = None, indices: Any = None
) -> tuple:
    """Views along `dim`: pieces of nearly equal size (the first ones larger), or cut before the given indices.

    Try: tensor_split(randn(7), 3)
    """
    where = next((v for v in (indices_or_sections, sections, indices) if v is not None), None)
    if where is None:
        raise TypeError("tensor_split() needs a number of sections or a list of indices")
    require(len(input.shape) > 0, "tensor_split expected at least a 1-dimensional tensor, got a 0-d one")
    return _split_at(input, _sections("tensor_split", where), one_dim(dim, len(input.shape)))


def _evenly(name: str, least: int, dim: int, input: Any, value: Any) -> tuple:
    require(
        len(input.shape) >= least,
        "{} requires a tensor with at least {} dimension, got {}",
        name,
        least,
        len(input.shape),
    )
    if isinstance(value, int):
        n = input.shape[dim]
        require(value > 0 and n % value == 0, "{}: dimension {} of size {} is not divisible by {}", name, dim, n, value)
    return _split_at(input, value if isinstance(value, int) else list(value), dim)


@op(method="hsplit")
def hsplit(input: Any, indices_or_sections: Any) -> tuple:
    """Views side by side: dimension 1, of a vector 0, into equal sections or cut before the given indices.

    Try: hsplit(randn(2, 4), 2)
    """
    return _evenly("hsplit", 1, 0 if len(input.shape) == 1 else 1, input, indices_or_sections)


@op(method="vsplit")
def vsplit(input: Any, indices_or_sections: Any) -> tuple:
    """Views one below the other: dimension 0 into equal sections or cut before the given indices.

    Try: vsplit(randn(4, 2), 2)
    """
    return _evenly("vsplit", 2, 0, input, indices_or_sections)


@op(method="dsplit")
def dsplit(input: Any, indices_or_sections: Any) -> tuple:
    """Views one behind the other: dimension 2 into equal sections or cut before the given indices.

    Try: dsplit(randn(2, 1, 4), 2)
    """
    return _evenly("dsplit", 3, 2, input, indices_or_sections)


@op(method="rot90")
def rot90(input: Any, k: int = 1, dims: Any = (0, 1)) -> Any:
    """input turned k quarters in the plane of two dimensions, from the first towards the second.

    Try: rot90(randn(2, 3))
    """
    n = len(input.shape)
    require(len(dims) == 2, "expected total rotation dims == 2, but got dims = {}", len(dims))
    require(n >= 2, "expected total dims >= 2, but got total dims = {}", n)
    a, b = one_dim(dims[0], n), one_dim(dims[1], n)
    require(a != b, "expected rotation dims to be different, but got dim0 = {} and dim1 = {}", *dims)
    k %= 4
    if k == 0:
        return clone(input)
    if k == 2:
        return flip(input, (a, b))
    return clone(transpose(flip(input, (b,)), a, b)) if k == 1 else clone(flip(transpose(input, a, b), (b,)))


@op(method="diagflat")
def diagflat(input: Any, offset: int = 0) -> Any:
    """A matrix with all elements of input on a diagonal.

    Try: diagflat(randn(3))
    """
    return diag(reshape(input, (-1,)), offset)
