"""Order: sort, argsort, topk, kthvalue, median, unique. NaN counts as greater than every number.

All sorts are stable: equal elements keep their order, whatever `stable` says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import Op, op
from minidl.ops.common import one_dim
from minidl.ops.copies import cast
from minidl.ops.logic import like, raw
from minidl.ops.reduce import pair, squeeze_dim, sum
from minidl.tensors import Tensor


@op()
class pick_along(Op):
    """y_i = x_index_i on each line along dim, no element picked twice;    dx = dy put back where it came from

    Why: y copies elements of x, so dy goes back to their places.
    Try: pick_along(randn(2, 4), 1, tensor([[2, 0], [1, 3]]).array)
    """

    def forward(ctx, x: Any, dim: int, index: Any) -> Any:
        ctx.how, ctx.size = (dim, index), x.shape[dim]
        return np.take_along_axis(x, index, dim)

    def backward(ctx, dy: Any) -> Any:
        return place_along(dy, *ctx.how, ctx.size)


@op()
class place_along(Op):
    """y_index_i = x_i on each line along dim, zeros elsewhere, no place taken twice;    dx = dy picked

    Why: each x is copied to one place, so its gradient is read there.
    Try: place_along(randn(2, 2), 1, tensor([[2, 0], [1, 3]]).array, 4)
    """

    def forward(ctx, x: Any, dim: int, index: Any, size: int) -> Any:
        ctx.how = (dim, index)
        y = np.zeros_like(x, shape=(*x.shape[:dim], size, *x.shape[dim + 1 :]), order="C")
        np.put_along_axis(y, index, x, dim)
        return y

    def backward(ctx, dy: Any) -> Any:
        return pick_along(dy, *ctx.how)


def order_of(x: Any, dim: int, descending: bool = False) -> Any:
    """The indices that sort an array along dim, equal elements in their order; int64."""
    if not descending:
        return np.argsort(x, dim, kind="stable").astype(np.int64, copy=False)
    return x.shape[dim] - 1 - np.flip(np.argsort(np.flip(x, dim), dim, kind="stable"), dim).astype(np.int64, copy=False)


@op(method="sort")
def sort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """(values, indices): input in ascending order along `dim`, and where each element was.

    Try: sort(randn(3, 5))
    """
    x = raw(input)
    d = one_dim(dim, x.ndim)
    if not x.ndim:
        return pair("sort")(
            input.clone() if isinstance(input, Tensor) else x.copy(), like(input, np.zeros((), np.int64))
        )
    order = order_of(x, d, descending)
    return pair("sort")(pick_along(input, d, order), like(input, order))


@op(method="argsort")
def argsort(input: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    """The indices that sort input along `dim`, int64.

    Try: argsort(randn(3, 5))
    """
    x = raw(input)
    d = one_dim(dim, x.ndim)
    return like(input, order_of(x, d, descending) if x.ndim else np.zeros((), np.int64))


def _not_bools(name: str, x: Any) -> None:
    if x.dtype == bool:
        raise NotImplementedError(f"{name} is not defined for bools: convert to int or float first")


@op(method="topk")
def topk(input: Any, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """(values, indices) of the k greatest (or least) elements along `dim`, the best first.

    Of equal elements the first comes first, but which of them are left out at the end is not specified. Raises
    RuntimeError when there are fewer than k.

    Try: topk(randn(3, 5), 2)
    """
    x = raw(input)
    _not_bools("topk", x)
    d = one_dim(dim, x.ndim)
    n = x.shape[d] if x.ndim else 1
    if not 0 <= k <= n:
        raise RuntimeError(f"topk: selected index k out of range: k = {k}, dimension {d} of {tuple(x.shape)} has {n}")
    if not x.ndim:
        return pair("topk")(*sort(input))
    if n < 256 or k > n // 4 or k == 0:
        index = np.take(order_of(x, d, largest), range(k), d)
    else:  # find the k first, then sort only those
        at = np.argpartition(x, n - k if largest else k - 1, d)
        at = np.sort(np.take(at, range(n - k, n) if largest else range(k), d), d)
        index = np.take_along_axis(at, order_of(np.take_along_axis(x, at, d), d, largest), d)
    return pair("topk")(pick_along(input, d, index), like(input, index))


@op(method="kthvalue")
def kthvalue(input: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    """(values, indices) of the k-th smallest element along `dim`, k counted from 1.

    Raises RuntimeError when there is no such element.

    Try: kthvalue(randn(3, 5), 2)
    """
    x = raw(input)
    _not_bools("kthvalue", x)
    d = one_dim(dim, x.ndim)
    n = x.shape[d] if x.ndim else 1
    if not 1 <= k <= n:
        raise RuntimeError(f"kthvalue(): selected number k out of range for dimension {d}: k = {k} of {n}")
    return pair("kthvalue")(*_at_rank(input, d, k - 1, keepdim))


def _at_rank(input: Any, d: int, rank: Any, keepdim: bool) -> tuple:
    """The element of a rank (one for all lines, or one for each) along d, and where it is."""
    x = raw(input)
    if not x.ndim:
        return tuple(sort(input))
    if isinstance(rank, int) and x.shape[d] >= 256:  # find it, leave the rest unsorted
        order = np.argpartition(x, rank, d)
    else:
        order = order_of(x, d)
    lines = (*x.shape[:d], 1, *x.shape[d + 1 :])
    index = np.take_along_axis(order, np.broadcast_to(devices.array_module(x).asarray(rank, np.int64), lines), d)
    values, at = pick_along(input, d, index), like(input, index)
    return (values, at) if keepdim else (squeeze_dim(values, d), squeeze_dim(at, d))


@op()
class whole_median(Op):
    """y = the element of rank (n - 1) // 2 of all, NaN if there is one;    dx = dy shared evenly by those equal to y

    Why: y copies the middle element, so the gradient goes there, shared among equals.
    Try: whole_median(randn(3, 5))
    """

    def forward(ctx, x: Any) -> Any:
        if x.size == 0:
            if x.dtype.kind != "f":
                raise RuntimeError(f"median() of no elements has no value in {x.dtype}")
            y = np.asarray(np.nan, x.dtype)
        else:
            middle = (x.size - 1) // 2
            y = devices.as_array(np.partition(x.reshape(-1), middle)[middle])
            if x.dtype.kind == "f" and np.isnan(x).any():
                y = np.asarray(np.nan, x.dtype)
        ctx.save(x, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        x, y = ctx.saved
        hit = cast((x == y) | ((x != x) & (y != y)), dy.dtype)
        return dy / sum(hit) * hit


@op(method="median")
def median(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element, the lower of two; NaN where there is one.

    ``median(x)`` is over all elements; ``median(x, dim)`` gives (values, indices) along a dimension. Raises
    IndexError for a dimension of size 0.

    Try: median(randn(3, 5))
    """
    x = raw(input)
    if x.dtype == bool:
        raise NotImplementedError("median is not defined for bools: convert to int or float first")
    if dim is None:
        return whole_median(input)
    d = one_dim(dim, x.ndim)
    n = x.shape[d] if x.ndim else 1
    if n == 0:
        raise IndexError(f"median(): Expected reduction dim {d} to have non-zero size, the input is {tuple(x.shape)}")
    rank: Any = (n - 1) // 2
    if x.ndim and x.dtype.kind == "f":
        missing = np.isnan(x).sum(d, keepdims=True)
        if missing.any():
            rank = np.where(missing > 0, n - missing, rank)  # NaN stand at the end: the first of them
    return pair("median")(*_at_rank(input, d, rank, keepdim))


class _Found(Op):
    """y, which was picked out of x without an op; as torch, there is no derivative, and asking for one says so.

    Why: which elements are picked depends on which are equal, and torch defines no gradient for that.
    """

    def forward(ctx, x: Any, y: Any, name: str) -> Any:
        ctx.of = name
        return y

    def backward(ctx, dy: Any) -> Any:
        raise NotImplementedError(f"the derivative for '{ctx.of}' is not implemented, as in torch; detach() its input")


def picked(name: str, x: Any, found: list) -> Any:
    """The elements that were found, which hang on x, and the int64 arrays beside them; one alone without a tuple."""
    out = (_Found(x, found[0], name), *(like(x, a) for a in found[1:]))
    return out if len(out) > 1 else out[0]


@op(method="unique")
def unique(
    input: Any, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The different elements in ascending order, or the different slices along `dim`; without a derivative.

    With return_inverse also, for each element of input, which of them it is; with return_counts also how often each
    occurs; both int64.

    Try: unique(randint(0, 4, (3, 4)))
    """
    x = raw(input)
    d = None if dim is None else one_dim(dim, x.ndim)
    values, inverse, counts = np.unique(x, return_inverse=True, return_counts=True, axis=d, equal_nan=False)
    found = [values]
    if return_inverse:
        found.append(inverse.reshape(x.shape if d is None else -1).astype(np.int64, copy=False))
    if return_counts:
        found.append(counts.astype(np.int64, copy=False))
    return picked("unique", input, found)
