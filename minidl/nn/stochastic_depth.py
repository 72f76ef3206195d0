"""DropPath and GaussianNoise: layers that disturb training and do nothing in evaluation."""

from __future__ import annotations

from typing import Any

from minidl.nn.module import Module
from minidl.ops import stochastic_depth as ops

__all__ = ["DropPath", "GaussianNoise", "StochasticDepth"]


class StochasticDepth(Module):
    """Zero whole examples ("row"), or the whole batch, with probability p; the rest grows by 1 / (1 - p).

    Stands at the end of a residual branch: x + drop(branch(x)). Huang et al. 2016 (arXiv:1603.09382); torchvision's
    name and arguments. ValueError for a p outside [0, 1] or another mode.

    Try: StochasticDepth(0.3, 'row')(randn(4, 3))
    """

    def __init__(self, p: float, mode: str):
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"drop probability has to be between 0 and 1, but got {p}")
        if mode not in ("batch", "row"):
            raise ValueError(f"mode has to be either 'batch' or 'row', but got {mode}")
        self.p, self.mode = p, mode

    def forward(self, x: Any) -> Any:
        """(N, ...) -> the same shape"""
        return ops.stochastic_depth(x, self.p, self.mode, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}, mode={self.mode}"


class DropPath(StochasticDepth):
    """StochasticDepth of single examples, under the name and with the argument that vision transformers use.

    Try: DropPath(0.3)(randn(4, 3))
    """

    def __init__(self, drop_prob: float = 0.0):
        super().__init__(drop_prob, "row")
        self.drop_prob = drop_prob

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob}"


class GaussianNoise(Module):
    """x + std n, n standard normal, in training; Bishop 1995 (doi 10.1162/neco.1995.7.1.108). ValueError: std < 0.

    Try: GaussianNoise()(randn(3, 4))
    """

    def __init__(self, std: float = 0.1):
        super().__init__()
        if not std >= 0:
            raise ValueError(f"GaussianNoise: std must not be negative, got {std}")
        self.std = std

    def forward(self, x: Any) -> Any:
        """The same shape."""
        return ops.gaussian_noise(x, self.std, self.training)

    def extra_repr(self) -> str:
        return f"std={self.std}"
