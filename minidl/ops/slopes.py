"""The slope of sampled values: gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import op, require
from minidl.ops.common import many_dims
from minidl.ops.copies import cast
from minidl.ops.joining import cat
from minidl.ops.logic import raw
from minidl.ops.splitting import narrow


@op()
def gradient(input: Any, *, spacing: Any = None, dim: Any = None, edge_order: int = 1) -> list:
    """The slope along each of `dim` (all by default), by differences to both neighbours, one-sided at the ends.

    spacing: the distance of samples, 1 by default, for all dimensions or one for each; or for each a vector of their
    places, whose differences may vary (then weighted as in numpy.gradient). edge_order 2 fits a parabola at the ends.
    Raises RuntimeError for fewer than edge_order + 1 samples.

    Try: gradient(randn(5))
    """
    dims = many_dims(None if dim is None else dim, len(input.shape))
    require(edge_order in (1, 2), "torch.gradient only supports edge_order=1 and edge_order=2, got {}", edge_order)
    spacing = 1.0 if spacing is None else spacing
    given = list(spacing) if isinstance(spacing, (tuple, list)) else [spacing] * len(dims)
    require(len(given) == len(dims), "gradient: {} spacings for {} dimensions", len(given), len(dims))
    if dtypes.as_numpy(input.dtype).kind != "f":
        input = cast(input, dtypes.default())
    return [_along(input, d, h, edge_order) for d, h in zip(dims, given, strict=True)]


def _along(y: Any, d: int, spacing: Any, edge_order: int) -> Any:
    n = y.shape[d]
    require(
        n > edge_order, "gradient: at least {} samples along dimension {} are expected, got {}", edge_order + 1, d, n
    )
    at = lambda i, count=1: narrow(y, d, i % n, count)
    left: Any
    right: Any
    if hasattr(spacing, "shape") and len(spacing.shape):
        require(tuple(spacing.shape) == (n,), "gradient: {} places for {} samples", tuple(spacing.shape), n)
        h = np.diff(np.asarray(raw(spacing)).astype(dtypes.as_numpy(y.dtype)))
        left, right = (a.reshape((-1,) + (1,) * (len(y.shape) - 1 - d)) for a in (h[:-1], h[1:]))
        first, second, last, before = (float(h[i]) for i in (0, min(1, n - 2), -1, max(-2, 1 - n)))
    else:
        left = right = first = second = last = before = float(spacing)
    steps: tuple = ((1, first, second, (0, 1, 2)), (-1, last, before, (-1, -2, -3)))
    ends = []
    for sign, a, b, (i, j, k) in steps:
        if edge_order == 1:
            ends.append((at(j) - at(i)) / (sign * a))
        else:
            ends.append(
                (at(j) * ((a + b) / (a * b)) - at(i) * ((2 * a + b) / (a * (a + b))) - at(k) * (a / (b * (a + b))))
                * sign
            )
    if n == 2:
        return cat(ends, d)
    low, here, high = at(0, n - 2), at(1, n - 2), at(2, n - 2)
    if left is right:
        middle = (high - low) / (2 * left)
    else:
        middle = (left * left * high + (right * right - left * left) * here - right * right * low) / (
            left * right * (left + right)
        )
    return cat([ends[0], middle, ends[1]], d)
