"""Instance normalisation: each channel of each example by its own mean and variance."""

from __future__ import annotations

from typing import Any

from minidl.nn import functional as F
from minidl.nn.norm import _BatchNorm

__all__ = ["InstanceNorm1d", "InstanceNorm2d"]


class _InstanceNorm(_BatchNorm):
    """InstanceNorm1d and InstanceNorm2d; the arguments are BatchNorm's with other defaults."""

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = False,
        track_running_stats: bool = False, device: Any = None, dtype: Any = None, *, bias: bool = True,
    ):  # fmt: skip
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Any) -> Any:
        """(N, C, ...) or (C, ...) -> the same shape"""
        if input.ndim not in self.ranks:
            raise ValueError(f"expected {self.ranks[0]}D or {self.ranks[1]}D input (got {input.ndim}D input)")
        if input.ndim == self.ranks[0]:
            return self.forward(input.unsqueeze(0))[0]
        if input.shape[1] != self.num_features and self.affine:
            raise ValueError(
                f"expected input's size at dim=1 to match num_features ({self.num_features}), but got: {input.shape[1]}"
            )
        own = self.training or not self.track_running_stats
        amount = 0.0 if self.momentum is None else self.momentum
        return F.instance_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, own, amount, self.eps
        )


class InstanceNorm1d(_InstanceNorm):
    """Instance normalisation of (N, C, L) or (C, L); Ulyanov et al. 2016 (arXiv:1607.08022).

    Try: InstanceNorm1d(3)(randn(2, 3, 4))
    """

    ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Instance normalisation of (N, C, H, W) or (C, H, W), as InstanceNorm1d.

    Try: InstanceNorm2d(3)(randn(2, 3, 3, 2))
    """

    ranks = (3, 4)
