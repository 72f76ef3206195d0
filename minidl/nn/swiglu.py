"""SwiGLU as a layer."""

from __future__ import annotations

from typing import Any

from minidl.nn.module import Module
from minidl.ops.swiglu import swiglu

__all__ = ["SwiGLU"]


class SwiGLU(Module):
    """y = silu(a) b, the two halves of x along `dim`; Shazeer 2020 (arXiv:2002.05202)

    Try: SwiGLU()(randn(2, 4))
    """

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, x: Any) -> Any:
        """Half the size along `dim`."""
        return swiglu(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"
