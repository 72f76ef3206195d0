"""Pools of powers, and normalisation across neighbouring channels."""

from __future__ import annotations

import math
from typing import Any

from minidl.autograd import op
from minidl.ops.common import pair
from minidl.ops.hard_activations import relu
from minidl.ops.padding import pad
from minidl.ops.pool import avg_pool1d, avg_pool2d, max_pool1d, max_pool2d
from minidl.ops.reduce import squeeze_dim
from minidl.ops.shapes import reshape
from minidl.ops.signs import abs, sign


def _power(x: Any, norm_type: float, count: int, average: Any, greatest: Any) -> Any:
    if math.isinf(norm_type):
        return greatest(abs(x)) if norm_type > 0 else -greatest(-abs(x))
    means = average(x**norm_type)
    means = sign(means) * relu(abs(means))  # the same numbers, but the gradient at 0 is 0, as torch's
    return (means * count) ** (1 / norm_type)


@op(namespace="nn.functional")
def lp_pool2d(input: Any, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False) -> Any:
    """(sum x^p)^(1/p) over each window of (N, C, H, W) or (C, H, W), p = norm_type; the greatest |x| for infinity.

    A sum below 0, of an odd p, gives NaN, as in torch.

    Try: lp_pool2d(rand(1, 2, 4, 4) + 0.1, 2.0, 2)
    """
    k = pair(kernel_size, "kernel_size")
    return _power(
        input, norm_type, k[0] * k[1], lambda x: avg_pool2d(x, k, stride, 0, ceil_mode),
        lambda x: max_pool2d(x, k, stride, 0, 1, ceil_mode),
    )  # fmt: skip


@op(namespace="nn.functional")
def lp_pool1d(input: Any, norm_type: float, kernel_size: int, stride: Any = None, ceil_mode: bool = False) -> Any:
    """As lp_pool2d, on (N, C, L) or (C, L).

    Try: lp_pool1d(rand(1, 2, 4) + 0.1, 2.0, 2)
    """
    k = kernel_size[0] if isinstance(kernel_size, (tuple, list)) else kernel_size
    return _power(
        input, norm_type, k, lambda x: avg_pool1d(x, k, stride, 0, ceil_mode),
        lambda x: max_pool1d(x, k, stride, 0, 1, ceil_mode),
    )  # fmt: skip


@op(namespace="nn.functional")
def local_response_norm(input: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Any:
    """x / (k + alpha mean of x^2 over `size` neighbouring channels)^beta; Krizhevsky et al. 2012.

    input (N, C, ...). Channels beyond the ends count as zeros. Raises ValueError for less than 3 dimensions.

    Try: local_response_norm(randn(1, 4, 3, 3), 2)
    """
    shape = tuple(input.shape)
    if len(shape) < 3:
        raise ValueError(f"Expected 3D or higher dimensionality input (got {len(shape)} dimensions)")
    if 0 in shape:
        return input
    squares = reshape(input * input, (shape[0], 1, shape[1], -1))
    squares = pad(squares, (0, 0, size // 2, (size - 1) // 2))
    means = reshape(squeeze_dim(avg_pool2d(squares, (size, 1), 1), 1), shape)
    return input / (means * alpha + k) ** beta
