"""The exponential distribution."""

from __future__ import annotations

from typing import Any

from minidl.distributions.base import Distribution, check, parameters
from minidl.ops.create import rand
from minidl.ops.exponentials import exp, log, log1p
from minidl.tensors import Tensor


class Exponential(Distribution):
    """The waiting time for an event that comes `rate` times per unit. Raises ValueError for rate <= 0, or a value < 0.

    log p(x) = log rate - rate x
    """

    def __init__(self, rate: Any, validate_args: bool | None = None) -> None:
        (self.rate,) = parameters(rate)
        super().__init__(self.rate.shape, (), validate_args)
        if self._checks:
            check(self, "rate must be above 0", self.rate, self.rate.array > 0)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """1 / rate."""
        return 1.0 / self.rate

    @property
    def variance(self) -> Tensor:  # type: ignore[override]
        """1 / rate^2."""
        return self.rate**-2

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """-log(1 - u) / rate, u uniform."""
        u = rand(self._extended(sample_shape), dtype=self.rate.dtype, device=self.rate.device)
        return -log1p(-u) / self.rate

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the density."""
        if self._checks:
            check(self, "a value must not be below 0", value, value.array >= 0)
        return log(self.rate) - self.rate * value

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of a smaller value, 1 - exp(-rate x)."""
        return 1 - exp(-self.rate * value)

    def entropy(self) -> Tensor:
        """1 - log rate."""
        return 1.0 - log(self.rate)
