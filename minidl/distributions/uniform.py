"""The uniform distribution."""

from __future__ import annotations

from typing import Any

from minidl.distributions.base import Distribution, check, parameters
from minidl.ops.create import rand
from minidl.ops.exponentials import log
from minidl.tensors import Tensor


class Uniform(Distribution):
    """Uniform on [low, high). Raises ValueError unless low < high, and for a value outside in log_prob."""

    def __init__(self, low: Any, high: Any, validate_args: bool | None = None) -> None:
        self.low, self.high = parameters(low, high)
        super().__init__(self.low.shape, (), validate_args)
        if self._checks:
            check(self, "low must be below high", self.low, self.low.array < self.high.array)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """The middle."""
        return (self.high + self.low) / 2

    @property
    def variance(self) -> Tensor:  # type: ignore[override]
        """(high - low)^2 / 12."""
        return (self.high - self.low) ** 2 / 12

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """low + u (high - low)."""
        u = rand(self._extended(sample_shape), dtype=self.low.dtype, device=self.low.device)
        return self.low + u * (self.high - self.low)

    def log_prob(self, value: Tensor) -> Tensor:
        """-log(high - low) inside, -inf at high."""
        a = value.array
        if self._checks:
            check(self, "a value outside", value, (a >= self.low.array) & (a <= self.high.array))
        inside = ((a >= self.low.array) & (a < self.high.array)).astype(self.low.array.dtype)
        return log(Tensor(inside, dtype=self.low.dtype)) - log(self.high - self.low)

    def cdf(self, value: Tensor) -> Tensor:
        """The probability of a smaller value."""
        return ((value - self.low) / (self.high - self.low)).clamp(0, 1)

    def entropy(self) -> Tensor:
        """log(high - low)."""
        return log(self.high - self.low)
