"""Dropout layers: in training, zeros at random; in evaluation, nothing."""

from __future__ import annotations

from typing import Any

from minidl.nn.module import Module
from minidl.ops import dropout as ops


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        if not 0 <= p <= 1:
            hint = f"; {p / 100:g} drops {p:g} %" if 1 < p <= 100 else ""
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}{hint}")
        self.p, self.inplace = p, inplace

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """Each element becomes 0 with probability p, the others grow by 1 / (1 - p); Srivastava et al. 2014.

    Try: Dropout()(randn(3, 4))
    """

    def forward(self, input: Any) -> Any:
        """The same shape."""
        return ops.dropout(input, self.p, self.training, self.inplace)


class Dropout2d(_Dropout):
    """Dropout of whole channels of (N, C, H, W); Tompson et al. 2015 (arXiv:1411.4280).

    Try: Dropout2d()(randn(2, 3, 2, 2))
    """

    def forward(self, input: Any) -> Any:
        """The same shape."""
        return ops.dropout2d(input, self.p, self.training, self.inplace)
