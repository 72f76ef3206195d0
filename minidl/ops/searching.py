"""Looking for values: searchsorted, bucketize, isin; the most frequent one, runs of equal ones, histograms. No gradient
but mode's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import op, require
from minidl.ops.common import accumulated, one_dim
from minidl.ops.gather_scatter import take_along_dim
from minidl.ops.logic import like, raw
from minidl.ops.reduce import named, pair
from minidl.ops.shapes import reshape, squeeze
from minidl.ops.sorting import picked

_Histogram = named("histogram", "hist", "bin_edges")


@op()
def searchsorted(
    sorted_sequence: Any,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """Where in an ascending sequence each value of input would go: before equal ones, or with `right` behind them.

    The sequence is a vector (S,), for input of any shape, or (..., S) with a row for each row of input (..., N). int64,
    or int32 with out_int32. `sorter` holds the indices that sort the sequence. Raises RuntimeError for other shapes.

    Try: searchsorted(sort(randn(3))[0], randn(4))
    """
    edges, x = raw(sorted_sequence), raw(input)
    xp = devices.array_module(edges)
    x = x if hasattr(x, "dtype") else xp.asarray(x)
    require(side in (None, "left", "right"), "side must be 'left' or 'right', got {}", side)
    require(not (right and side == "left"), "side and right can't be set to opposites")
    require(edges.ndim > 0, "the boundary tensor must have a dimension, it is 0-d")
    require(
        edges.ndim == 1 or edges.shape[:-1] == x.shape[:-1],
        "searchsorted: rows of the sequence {} and of the input {} do not match",
        edges.shape,
        x.shape,
    )
    if sorter is not None:
        order = raw(sorter)
        require(order.shape == edges.shape and order.dtype == np.int64, "sorter must be int64, of the sequence's shape")
        edges = np.take_along_axis(edges, order, -1)
    how: Any = "right" if right or side == "right" else "left"
    if edges.ndim == 1:
        found = xp.searchsorted(edges, x, how)
    else:
        found = xp.zeros(x.shape, np.int64)
        for row in np.ndindex(edges.shape[:-1]):
            found[row] = xp.searchsorted(edges[row], x[row], how)
    return like(sorted_sequence, xp.asarray(found, np.int32 if out_int32 else np.int64))


@op()
def bucketize(input: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    """Which of the buckets between ascending `boundaries` (S,) each value is in: 0 to S.

    A value on a boundary belongs to the bucket below it, or with `right` to the one above.

    Try: bucketize(randn(4), sort(randn(3))[0])
    """
    require(len(boundaries.shape) == 1, "boundaries tensor must be 1 dimension, but got dim({})", len(boundaries.shape))
    return searchsorted(boundaries, input, out_int32=out_int32, right=right)


@op()
def isin(elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False) -> Any:
    """Whether each element is one of test_elements, or with `invert` none of them; either may be a number.

    Try: isin(randint(0, 9, (5,)), tensor([1, 2, 3]))
    """
    if not (hasattr(elements, "dtype") or hasattr(test_elements, "dtype")):
        raise TypeError("isin(): one of the arguments must be a Tensor")
    one = elements if hasattr(elements, "dtype") else test_elements
    xp = devices.array_module(raw(one))
    a, b = (xp.asarray(raw(v)) for v in (elements, test_elements))
    return like(one, xp.asarray(xp.isin(a, b, assume_unique=assume_unique, invert=invert)))


@op(method="mode")
def mode(input: Any, dim: int = -1, keepdim: bool = False) -> Any:
    """(values, indices): the most frequent value along `dim`, the least of several, and where its last one stands.

    Try: mode(randint(0, 3, (2, 5)))
    """
    x = raw(input)
    d = one_dim(dim, x.ndim)
    line = reshape(input, (1,)) if not x.ndim else input
    a = raw(line)
    if a.shape[d] == 0:
        raise IndexError(f"mode(): Expected reduction dim {d} to have non-zero size, the input is {x.shape}")
    lines = np.moveaxis(a, d, -1)
    xp = devices.array_module(a)
    order = xp.argsort(lines, -1, kind="stable")
    ordered = xp.take_along_axis(lines, order, -1)
    n = lines.shape[-1]
    place = xp.arange(n)
    new = xp.concatenate([xp.ones((*ordered.shape[:-1], 1), bool), ordered[..., 1:] != ordered[..., :-1]], -1)
    length = place - accumulated(np.maximum, xp.where(new, place, 0), -1)  # of the run of equal values so far
    best = xp.argmax(length, -1)[..., None]
    index = xp.moveaxis(xp.take_along_axis(order, best, -1), -1, d).astype(np.int64)
    values, at = take_along_dim(line, index, d), like(input, xp.ascontiguousarray(index))
    if not x.ndim:
        return pair("mode")(reshape(values, ()), reshape(at, ()))
    return pair("mode")(values, at) if keepdim else pair("mode")(squeeze(values, d), squeeze(at, d))


@op(method="unique_consecutive")
def unique_consecutive(
    input: Any, return_inverse: bool = False, return_counts: bool = False, dim: int | None = None
) -> Any:
    """The elements, flattened, or the slices along `dim`, without those that equal their predecessor.

    With return_inverse also which of them each element is; with return_counts also how many it stands for; int64.

    Try: unique_consecutive(tensor([1, 1, 2, 2, 1]))
    """
    x = raw(input)
    d = None if dim is None else one_dim(dim, x.ndim)
    xp = devices.array_module(x)
    rows = x.reshape(-1) if d is None else xp.moveaxis(x, d, 0)
    n = rows.shape[0]
    flat = rows.reshape(n, -1) if rows.size else xp.zeros((n, 1), x.dtype)
    new = xp.ones(n, bool)
    new[1:] = (flat[1:] != flat[:-1]).any(1)
    starts = xp.flatnonzero(new)
    kept = rows[starts]
    found = [kept if d is None else xp.ascontiguousarray(xp.moveaxis(kept, 0, d))]
    if return_inverse:
        inverse = xp.cumsum(new) - 1
        found.append((inverse.reshape(x.shape) if d is None else inverse).astype(np.int64))
    if return_counts:
        ends = xp.concatenate([starts[1:], xp.full(min(len(starts), 1), n, starts.dtype)])
        found.append((ends - starts).astype(np.int64))
    return picked("unique_consecutive", input, found)


def _edges(x: Any, low: float, high: float, name: str, around: float) -> tuple[float, float]:
    """The range of a histogram: the data's own where low = high, `around` to each side of a single value."""
    if low == high and x.size:
        low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise RuntimeError(f"{name}: range of [{low}, {high}] is not finite")
    require(low <= high, "{}: max must be larger than min, got {} and {}", name, low, high)
    return (low - around, high + around) if low == high else (low, high)


@op(method="histc")
def histc(input: Any, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    """How many elements fall into each of `bins` equal parts of [min, max], in input's float dtype.

    min = max stands for the range of the data; what is beside the range is not counted. Raises RuntimeError for bins
    that are not positive, a range that is not finite, and integers.

    Try: histc(randn(20), 5)
    """
    x = raw(input).reshape(-1)
    if x.dtype.kind != "f":
        raise NotImplementedError(f"histc is not defined for {x.dtype}; convert with .float()")
    require(bins > 0, "bins must be > 0, got {}", bins)
    low, high = _edges(x, float(min), float(max), "histc", 1.0)
    inside = x[(x >= low) & (x <= high)]
    kind = x.dtype.type
    at = ((inside - kind(low)) / (kind(high) - kind(low)) * kind(bins)).astype(np.int64)
    count = np.bincount(np.minimum(at, bins - 1), minlength=bins)
    return like(input, count.astype(x.dtype))


@op(method="histogram")
def histogram(input: Any, bins: Any = 100, *, range: Any = None, weight: Any = None, density: bool = False) -> Any:
    """(hist, bin_edges): the sums of weights (1 by default) in each bin, as a density if so asked.

    bins is how many there are between the ends of `range` (the data's own by default), or the ascending edges.

    Try: histogram(randn(20), 5)
    """
    x = raw(input)
    xp = devices.array_module(x)
    if x.dtype.kind != "f":
        raise NotImplementedError(f"histogram is not defined for {x.dtype}; convert with .float()")
    if hasattr(bins, "dtype"):
        require(raw(bins).dtype == x.dtype, "histogram: bins are {}, the input is {}", raw(bins).dtype, x.dtype)
        require(raw(bins).ndim == 1 and raw(bins).size > 0, "histogram: bins must be a vector, got {}", raw(bins).shape)
        edges = raw(bins)
    else:
        require(bins > 0, "histogram: bins must be > 0, got {}", bins)
        low, high = range or ((0.0, 0.0) if x.size else (0.0, 1.0))
        low, high = _edges(x, low, high, "histogram", 0.5)
        edges = xp.linspace(low, high, bins + 1).astype(x.dtype)
    flat = x.reshape(-1)
    w = None if weight is None else raw(weight).reshape(-1)
    require(w is None or (w.size == flat.size and w.dtype == x.dtype), "histogram: one weight of x's dtype for each x")
    at = xp.searchsorted(edges, flat, "right") - 1
    at = xp.where(flat == edges[-1], edges.size - 2, at)
    inside = (at >= 0) & (at < edges.size - 1) & ~xp.isnan(flat)
    hist = xp.bincount(at[inside], None if w is None else w[inside], minlength=edges.size - 1).astype(x.dtype)
    if density:
        hist = hist / (hist.sum() * (edges[1:] - edges[:-1]))
    return _Histogram(like(input, hist), like(input, edges.astype(dtypes.as_numpy(x.dtype))))
