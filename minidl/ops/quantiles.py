"""Reductions that pass over NaN, and quantiles."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import op, require
from minidl.ops.axes import movedim
from minidl.ops.common import many_dims, one_dim
from minidl.ops.gather_scatter import take_along_dim
from minidl.ops.logic import isnan, raw
from minidl.ops.masks import where
from minidl.ops.reduce import pair, sum
from minidl.ops.shapes import reshape
from minidl.ops.sorting import _at_rank, order_of, whole_median
from minidl.tensors import Tensor


@op(method="nansum")
def nansum(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The sum over `dim`, NaN taken for 0.

    Try: nansum(randn(3, 4))
    """
    if dtypes.as_numpy(input.dtype).kind == "f":
        input = where(isnan(input), 0.0, input)
    return sum(input, dim, keepdim, dtype=dtype)


@op(method="nanmean")
def nanmean(input: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The mean over `dim` of what is not NaN; NaN where there is nothing else.

    Try: nanmean(randn(3, 4))
    """
    if dtypes.as_numpy(input.dtype).kind != "f":
        raise RuntimeError(f"nanmean(): expected input to have floating point dtype but got {input.dtype}")
    count = (~np.isnan(raw(input))).sum(many_dims(dim, len(input.shape)), keepdims=keepdim)
    y = nansum(input, dim, keepdim, dtype=dtype)
    return y / devices.as_array(count, dtypes.as_numpy(y.dtype))


@op(method="nanmedian")
def nanmedian(input: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    """The middle element of those that are not NaN, the lower of two; NaN where there is nothing else.

    ``nanmedian(x)`` is over all elements; ``nanmedian(x, dim)`` gives (values, indices) along a dimension.

    Try: nanmedian(randn(3, 5))
    """
    x = raw(input)
    if x.dtype == bool:
        raise NotImplementedError("nanmedian is not defined for bools: convert to int or float first")
    if dim is None:
        known = input[~np.isnan(x)] if x.ndim and x.dtype.kind == "f" else input
        return whole_median(known if 0 not in known.shape else input)
    d = one_dim(dim, x.ndim)
    n = x.shape[d] if x.ndim else 1
    if n == 0:
        raise IndexError(f"nanmedian(): Expected reduction dim {d} to have non-zero size, the input is {x.shape}")
    rank: Any = (n - 1) // 2
    if x.ndim and x.dtype.kind == "f":
        rank = np.maximum(n - np.isnan(x).sum(d, keepdims=True) - 1, 0) // 2
    return pair("nanmedian")(*_at_rank(input, d, rank, keepdim))


_INTERPOLATIONS = ("linear", "lower", "higher", "midpoint", "nearest")


def _quantile(name: str, input: Any, q: Any, dim: Any, keepdim: bool, interpolation: str, pass_over: bool) -> Any:
    x = raw(input)
    if x.dtype not in (np.float32, np.float64):
        raise RuntimeError(f"{name}() input tensor must be either float or double dtype, not {x.dtype}")
    if interpolation not in _INTERPOLATIONS:
        raise RuntimeError(f"{name}() interpolation must be one of {', '.join(_INTERPOLATIONS)}, got {interpolation}")
    at = raw(q)
    if hasattr(at, "dtype") and at.dtype != x.dtype:
        raise RuntimeError(f"{name}() q tensor must be same dtype as the input tensor, {x.dtype}, not {at.dtype}")
    at = devices.move(devices.as_array(at, x.dtype), devices.device_of(x))
    require(at.ndim <= 1, "{}() q must be a scalar or 1D tensor, got {}", name, at.shape)
    if not ((at >= 0) & (at <= 1)).all():
        raise RuntimeError(f"{name}() q values must be in the range [0, 1]")
    require(x.size > 0, "{}() input tensor must be non-empty, got {}", name, x.shape)
    reduced = [1] * x.ndim
    if dim is None:
        rows = reshape(input, (-1,))
    else:
        d = one_dim(dim, x.ndim)
        reduced = [1 if i == d else n for i, n in enumerate(x.shape)]
        rows = movedim(input, d, -1) if x.ndim else reshape(input, (1,))
    values = raw(rows)
    n, missing = values.shape[-1], np.isnan(values).sum(-1, keepdims=True)
    order = order_of(values, values.ndim - 1)
    last = np.maximum(n - missing - 1, 0) if pass_over else np.full_like(missing, n - 1)
    rank = at.reshape(-1) * last.astype(x.dtype)
    if not pass_over:
        rank = np.where(missing > 0, n - 1, rank).astype(x.dtype)  # NaN stand at the end
    if interpolation in ("lower", "higher", "nearest"):
        rank = {"lower": np.floor, "higher": np.ceil, "nearest": np.rint}[interpolation](rank)
    low = np.floor(rank)
    y = pick(rows, order, low.astype(np.int64))
    if interpolation in ("linear", "midpoint"):
        high = pick(rows, order, np.ceil(rank).astype(np.int64))
        share: Any = (rank - low).astype(x.dtype) if interpolation == "linear" else np.full_like(rank, 0.5)
        if interpolation == "linear" and isinstance(q, Tensor) and q.requires_grad:
            share = where(
                devices.array_module(x).full(rank.shape, False) if pass_over else missing > 0,
                share,
                reshape(q, (-1,)) * last.astype(x.dtype) - low,
            )
        # from the nearer end, as torch's lerp
        y = where(raw(share) < 0.5, y + (high - y) * share, high - (high - y) * (1 - share))
    y = movedim(y, -1, 0)  # Q, ...
    tail = tuple(reduced) if keepdim else tuple(y.shape[1:]) if dim is None or x.ndim else ()
    return reshape(y, (*at.shape, *tail))


def pick(rows: Any, order: np.ndarray, rank: np.ndarray) -> Any:
    """The elements of the given ranks on each row; several ranks may be the same."""
    index = np.take_along_axis(order, rank, -1)
    return take_along_dim(rows, index, -1)


@op(method="quantile")
def quantile(
    input: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """The q-th quantiles along `dim`, or of all elements: a number q, or several, which make a first dimension.

    Between two elements `interpolation` is "linear", "lower", "higher", "midpoint" or "nearest". NaN where there is
    one. Raises RuntimeError for a q outside [0, 1], for other dtypes than float32 and float64, for no elements.

    Try: quantile(randn(7), 0.3)
    """
    return _quantile("quantile", input, q, dim, keepdim, interpolation, False)


@op(method="nanquantile")
def nanquantile(
    input: Any, q: Any, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Any:
    """As :func:`quantile`, of what is not NaN.

    Try: nanquantile(randn(7), 0.3)
    """
    return _quantile("nanquantile", input, q, dim, keepdim, interpolation, True)
