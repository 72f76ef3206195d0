"""Max pooling to a given size: the regions follow from the sizes of input and output."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import op, require
from minidl.ops.common import prod
from minidl.ops.pool import gather_plane, max_pool2d
from minidl.ops.reduce import squeeze_dim
from minidl.ops.shapes import reshape, unsqueeze
from minidl.tensors import Tensor, wrap


def _regions(n: int, parts: int) -> np.ndarray:
    """(parts, longest): row i counts through region i, floor(i n / parts) to ceil((i + 1) n / parts), and then stays
    at its end."""
    i = np.arange(parts)
    first, end = i * n // parts, -(-(i + 1) * n // parts)
    longest = int((end - first).max()) if parts else 0
    return np.minimum(first[:, None] + np.arange(longest), end[:, None] - 1)


@op()
def adaptive_max_pool2d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """The greatest element of each of P x Q regions that cover the input, (N, C, H, W) or (C, H, W).

    Region i along a dimension is from floor(i H / P) to ceil((i + 1) H / P), so regions may overlap. A None in
    output_size keeps that size. With return_indices also where, flat in H x W. The gradient goes to that element.

    Try: adaptive_max_pool2d(randn(1, 2, 4, 4), 2)
    """
    shape = tuple(input.shape)
    require(len(shape) in (3, 4), "adaptive_max_pool2d: (N, C, H, W) or (C, H, W) is expected, got {}", shape)
    require(0 not in shape[-3:], "adaptive_max_pool2d: channels, height and width must not be 0, got {}", shape)
    *lead, h, w = shape
    size = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    require(len(size) == 2, "adaptive_max_pool2d: output_size must be a number or two, got {}", output_size)
    p, q = (n if o is None else int(o) for o, n in zip(size, (h, w)))
    require(p >= 0 and q >= 0, "adaptive_max_pool2d: output_size must not be negative, got {}", size)
    if p and q and h % p == 0 and w % q == 0:
        return max_pool2d(input, (h // p, w // q), return_indices=return_indices)
    x = input.array if isinstance(input, Tensor) else input
    rows, columns = _regions(h, p), _regions(w, q)
    places = rows[:, None, :, None] * w + columns[None, :, None, :]  # P, Q, longest row region, longest column region
    places = places.reshape(p, q, -1)
    flat = x.reshape(*lead, h * w)
    if p and q and x.size:
        best = flat[..., places].argmax(-1)  # the first of equals; NaN before numbers
        index = np.take_along_axis(np.broadcast_to(places, (*lead, *places.shape)), best[..., None], -1)[..., 0]
    else:
        index = np.zeros((*lead, p, q), np.int64)
    index = np.ascontiguousarray(index, np.int64)
    planes = prod(lead)
    y = gather_plane(reshape(input, (1, planes, h * w)), index.reshape(1, planes, p * q))
    y = reshape(y, (*lead, p, q))
    return (y, wrap(index) if isinstance(input, Tensor) else index) if return_indices else y


@op()
def adaptive_max_pool1d(input: Any, output_size: Any, return_indices: bool = False) -> Any:
    """As adaptive_max_pool2d, on (N, C, L) or (C, L).

    Try: adaptive_max_pool1d(randn(1, 2, 4), 2)
    """
    require(
        len(input.shape) in (2, 3), "adaptive_max_pool1d: (N, C, L) or (C, L) is expected, got {}", tuple(input.shape)
    )
    require(
        not isinstance(output_size, (tuple, list)) or len(output_size) == 1,
        "adaptive_max_pool1d: output_size must be one number, got {}",
        output_size,
    )
    size = output_size[0] if isinstance(output_size, (tuple, list)) else output_size
    y, index = adaptive_max_pool2d(unsqueeze(input, -2), (1, size), True)
    y, index = (squeeze_dim(t, len(t.shape) - 2) for t in (y, index))
    return (y, index) if return_indices else y
