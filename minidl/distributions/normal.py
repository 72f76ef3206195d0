"""The normal distribution."""

from __future__ import annotations

import math
from typing import Any

from minidl.distributions.base import Distribution, check, parameters
from minidl.ops.create import randn
from minidl.ops.error_function import erf
from minidl.ops.exponentials import log
from minidl.tensors import Tensor


class Normal(Distribution):
    """N(loc, scale^2), of the shape to which loc and scale broadcast. Raises ValueError for scale <= 0 or NaN.

    log p(x) = -(x - loc)^2 / (2 scale^2) - log scale - log(2 pi) / 2
    """

    def __init__(self, loc: Any, scale: Any, validate_args: bool | None = None) -> None:
        self.loc, self.scale = parameters(loc, scale)
        super().__init__(self.loc.shape, (), validate_args)
        if self._checks:
            check(self, "loc must be a number", self.loc, self.loc.array == self.loc.array)
            check(self, "scale must be above 0", self.scale, self.scale.array > 0)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """loc."""
        return self.loc

    @property
    def mode(self) -> Tensor:
        """loc."""
        return self.loc

    @property
    def stddev(self) -> Tensor:
        """scale."""
        return self.scale

    @property
    def variance(self) -> Tensor:  # type: ignore[override]
        """scale squared."""
        return self.scale**2

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """loc + scale * eps, eps standard normal (Kingma and Welling 2014, arXiv:1312.6114)."""
        eps = randn(self._extended(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + eps * self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the density."""
        return -((value - self.loc) ** 2) / (2 * self.variance) - log(self.scale) - math.log(math.sqrt(2 * math.pi))

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of a smaller value."""
        return 0.5 * (1 + erf((value - self.loc) / (self.scale * math.sqrt(2))))

    def entropy(self) -> Tensor:
        """1/2 + log(2 pi) / 2 + log scale."""
        return 0.5 + 0.5 * math.log(2 * math.pi) + log(self.scale)
