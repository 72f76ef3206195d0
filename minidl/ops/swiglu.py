"""SwiGLU: a gated linear unit whose gate is a silu."""

from __future__ import annotations

from typing import Any

from minidl.autograd import op, require
from minidl.ops.activations import silu
from minidl.ops.common import one_dim
from minidl.ops.splitting import chunk


@op(namespace="nn.functional")
def swiglu(input: Any, dim: int = -1) -> Any:
    """silu(a) b, the two halves of x along `dim`; Shazeer 2020 (arXiv:2002.05202). RuntimeError for an odd size.

    Try: swiglu(randn(3, 4))
    """
    require(len(input.shape) > 0, "swiglu does not support 0-dimensional tensors")
    d = one_dim(dim, len(input.shape))
    require(input.shape[d] % 2 == 0, "Halving dimension must be even, but dimension {} is size {}", d, input.shape[d])
    a, b = chunk(input, 2, d)
    return silu(a) * b
