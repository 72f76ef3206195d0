"""0 or 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.distributions.base import Distribution, check, parameters
from minidl.ops.create import bernoulli
from minidl.ops.exponentials import log, log1p, sigmoid
from minidl.ops.loss import binary_cross_entropy_with_logits
from minidl.ops.tiling import broadcast_to
from minidl.tensors import Tensor, wrap


class Bernoulli(Distribution):
    """1 with probability probs, or sigmoid(logits), else 0; draws have the parameter's dtype.

    Raises ValueError unless exactly one of the two is given, for probabilities outside [0, 1], and for a value in
    log_prob that is neither 0 nor 1.
    """

    def __init__(self, probs: Any = None, logits: Any = None, validate_args: bool | None = None) -> None:
        if (probs is None) == (logits is None):
            raise ValueError("Either `probs` or `logits` must be specified, but not both.")
        if probs is not None:
            (self.probs,) = parameters(probs)
            eps = float(np.finfo(self.probs.array.dtype).eps)
            p = self.probs.clamp(eps, 1 - eps)
            self.logits = log(p) - log1p(-p)
        else:
            (self.logits,) = parameters(logits)
            self.probs = sigmoid(self.logits)
        super().__init__(self.probs.shape, (), validate_args)
        if self._checks:
            a = self.probs.array
            check(self, "probs must lie within [0, 1]", self.probs, (a >= 0) & (a <= 1))

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """probs."""
        return self.probs

    @property
    def mode(self) -> Tensor:
        """The more probable value, NaN where both are."""
        a = self.probs.array
        return wrap(np.where(a == 0.5, np.nan, a >= 0.5).astype(a.dtype))

    @property
    def variance(self) -> Tensor:  # type: ignore[override]
        """p (1 - p)."""
        return self.probs * (1 - self.probs)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Zeros and ones of shape sample_shape + batch_shape."""
        return bernoulli(broadcast_to(self.probs.detach(), self._extended(sample_shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of a value's probability."""
        if self._checks:
            check(self, "a value must be 0 or 1", value, (value.array == 0) | (value.array == 1))
        shape = np.broadcast_shapes(tuple(value.shape), tuple(self.batch_shape))
        logits, value = broadcast_to(self.logits, shape), broadcast_to(value, shape).to(self.logits.dtype)
        return -binary_cross_entropy_with_logits(logits, value, reduction="none")

    def entropy(self) -> Tensor:
        """-p log p - (1 - p) log(1 - p)."""
        return binary_cross_entropy_with_logits(self.logits, self.probs, reduction="none")
