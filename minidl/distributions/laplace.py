"""The Laplace distribution."""

from __future__ import annotations

import math
from typing import Any

from minidl.distributions.base import Distribution, check, parameters
from minidl.ops.create import rand
from minidl.ops.exponentials import exp, log, log1p
from minidl.ops.signs import abs, sign
from minidl.tensors import Tensor


class Laplace(Distribution):
    """Exponential to both sides of loc. Raises ValueError for scale <= 0 or NaN.

    log p(x) = -|x - loc| / scale - log(2 scale)
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
    def variance(self) -> Tensor:  # type: ignore[override]
        """2 scale^2."""
        return 2 * self.scale**2

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """loc - scale sign(u) log(1 - 2 |u|), u uniform on [-1/2, 1/2)."""
        u = rand(self._extended(sample_shape), dtype=self.loc.dtype, device=self.loc.device) - 0.5
        tiny = float(2.0**-24)  # at u = -1/2 itself the logarithm would be infinite
        return self.loc - self.scale * (sign(u) * log1p(-2 * abs(u).clamp(max=0.5 - tiny)))

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the density."""
        return -log(2 * self.scale) - abs(value - self.loc) / self.scale

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of a smaller value."""
        d = value - self.loc
        return 0.5 - 0.5 * sign(d) * (exp(-abs(d) / self.scale) - 1)

    def entropy(self) -> Tensor:
        """1 + log(2 scale)."""
        return 1 + math.log(2) + log(self.scale)
