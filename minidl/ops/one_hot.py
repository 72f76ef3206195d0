"""one_hot: class numbers as rows of 0 and 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices
from minidl.autograd import Op, op


@op(namespace="nn.functional")
class one_hot(Op):
    """y[..., c] = 1 where x[...] = c, else 0; int64

    Why: whole numbers jump: they have no slope.
    Try: one_hot(randint(0, 4, (5,)), 4)
    """

    differentiable = False

    def forward(ctx, x: Any, num_classes: int = -1) -> Any:
        if x.dtype.kind not in "iu":
            raise RuntimeError(f"one_hot is only applicable to index tensors, got {x.dtype}")
        if x.size and x.min() < 0:
            raise RuntimeError("Class values must be non-negative.")
        if x.size == 0 and num_classes <= 0:
            raise RuntimeError("Can not infer total number of classes from empty tensor.")
        n = int(x.max()) + 1 if num_classes == -1 else num_classes
        if x.size and x.max() >= n:
            raise RuntimeError(f"Class values must be smaller than num_classes: {int(x.max())} with {n} classes.")
        return (x[..., None] == devices.array_module(x).arange(n)).astype(np.int64)
