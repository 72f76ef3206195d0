"""The bilinear form of two vectors."""

from __future__ import annotations

from typing import Any

from minidl.autograd import op, require
from minidl.ops.linalg import linear
from minidl.ops.reduce import sum
from minidl.ops.shapes import reshape, unflatten, unsqueeze


@op(namespace="nn.functional")
def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """y_n = x1^T A_n x2 + b_n.    x1 (..., I), x2 (..., J), weight A (N, I, J), bias (N,) -> (..., N)

    Raises RuntimeError for sizes that do not fit.

    Try: bilinear(randn(3, 2), randn(3, 4), randn(2, 2, 4), randn(2))
    """
    require(
        len(weight.shape) == 3 and tuple(input1.shape[:-1]) == tuple(input2.shape[:-1])
        and (input1.shape[-1], input2.shape[-1]) == tuple(weight.shape[1:]),
        "bilinear: (..., I), (..., J) and (N, I, J) are expected, got {}, {} and {}", tuple(input1.shape),
        tuple(input2.shape), tuple(weight.shape),
    )  # fmt: skip
    n, i, j = weight.shape
    half = linear(input2, reshape(weight, (n * i, j)))  # (..., N I): A x2
    y = sum(unflatten(half, -1, (n, i)) * unsqueeze(input1, -2), -1, dtype=weight.dtype)
    return y if bias is None else y + bias
