"""Dropout of channels of signals and volumes, dropout for self-normalising networks, and random slopes, as layers."""

from __future__ import annotations

from typing import Any

from minidl.nn.dropout import _Dropout
from minidl.nn.module import Module
from minidl.ops import alpha_dropout as ops

__all__ = ["AlphaDropout", "Dropout1d", "Dropout3d", "FeatureAlphaDropout", "RReLU"]


class Dropout1d(_Dropout):
    """Dropout of whole channels of (N, C, L) or (C, L); Tompson et al. 2015 (arXiv:1411.4280).

    Try: Dropout1d()(randn(2, 3, 4))
    """

    def forward(self, x: Any) -> Any:
        """The same shape."""
        return ops.dropout1d(x, self.p, self.training, self.inplace)


class Dropout3d(_Dropout):
    """Dropout of whole channels of (N, C, D, H, W) or (C, D, H, W); Tompson et al. 2015 (arXiv:1411.4280).

    Try: Dropout3d()(randn(2, 3, 2, 2, 2))
    """

    def forward(self, x: Any) -> Any:
        """The same shape."""
        return ops.dropout3d(x, self.p, self.training, self.inplace)


class AlphaDropout(_Dropout):
    """Dropout that keeps mean 0 and variance 1, to go with SELU; Klambauer et al. 2017 (arXiv:1706.02515).

    Try: AlphaDropout()(randn(3, 4))
    """

    def forward(self, x: Any) -> Any:
        """The same shape."""
        return ops.alpha_dropout(x, self.p, self.training, self.inplace)


class FeatureAlphaDropout(_Dropout):
    """AlphaDropout of whole channels of (N, C, ...).

    Try: FeatureAlphaDropout()(randn(2, 3, 4))
    """

    def forward(self, x: Any) -> Any:
        """The same shape."""
        return ops.feature_alpha_dropout(x, self.p, self.training, self.inplace)


class RReLU(Module):
    """x where x > 0, else s x, s uniform on [lower, upper) in training and their middle in evaluation; Xu et al. 2015
    (arXiv:1505.00853).

    Try: RReLU()(randn(3, 4))
    """

    def __init__(self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False):
        super().__init__()
        self.lower, self.upper, self.inplace = lower, upper, inplace

    def forward(self, x: Any) -> Any:
        """Elementwise."""
        return ops.rrelu(x, self.lower, self.upper, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"lower={self.lower}, upper={self.upper}" + (", inplace=True" if self.inplace else "")
