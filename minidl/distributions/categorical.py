"""One of C classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.distributions.base import Distribution, check
from minidl.ops.create import multinomial
from minidl.ops.exponentials import log
from minidl.ops.gather_scatter import gather
from minidl.ops.softmax import logsumexp, softmax
from minidl.ops.tiling import broadcast_to
from minidl.tensors import Tensor, wrap


class Categorical(Distribution):
    """Class i with probability probs[..., i] / sum, or softmax(logits)[..., i]; draws are int64.

    Raises ValueError unless exactly one of `probs` and `logits` is given, and for weights that are negative or not
    finite, a row of zeros, or a value in log_prob that is no class.
    """

    def __init__(
        self, probs: Tensor | None = None, logits: Tensor | None = None, validate_args: bool | None = None
    ) -> None:
        if (probs is None) == (logits is None):
            raise ValueError("Either `probs` or `logits` must be specified, but not both.")
        given: Any = probs if probs is not None else logits
        if given.ndim < 1:
            raise ValueError(f"`{'logits' if probs is None else 'probs'}` parameter must be at least one-dimensional.")
        super().__init__(given.shape[:-1], (), validate_args)
        if probs is not None:
            if self._checks:
                a = probs.array
                check(self, "probs must be at least 0 and finite", probs, (a >= 0) & np.isfinite(a))
                check(self, "each row of probs must sum to more than 0", probs, a.sum(-1) > 0)
            self.probs = probs / probs.sum(-1, keepdim=True)
            eps = float(np.finfo(probs.array.dtype).eps)
            self.logits = log(self.probs.clamp(eps, 1 - eps))
        else:
            assert logits is not None
            if self._checks:
                check(self, "logits must be numbers", logits, logits.array == logits.array)
            self.logits = logits - logsumexp(logits, -1, keepdim=True)
            self.probs = softmax(self.logits, -1)

    @property
    def param_shape(self) -> Any:
        """The shape of probs."""
        return self.probs.shape

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """NaN: classes have no mean."""
        return wrap(np.full(self.batch_shape, np.nan, self.probs.array.dtype))

    variance = mean  # type: ignore[assignment]

    @property
    def mode(self) -> Tensor:
        """The most probable class."""
        return self.probs.argmax(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Classes, int64, of shape sample_shape + batch_shape."""
        n, rows = int(np.prod(tuple(sample_shape), dtype=int)), self.probs.detach().reshape(-1, self.probs.shape[-1])
        drawn = multinomial(rows, n, True) if n and rows.shape[0] else wrap(np.zeros((rows.shape[0], n), np.int64))
        return drawn.T.reshape(self._extended(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of a class's probability; `value` broadcasts with the batch."""
        a = value.array
        if self._checks:
            inside = (a >= 0) & (a < self.probs.shape[-1]) & (a == np.floor(a))
            check(self, f"a value must be one of the {self.probs.shape[-1]} classes", value, inside)
        index = value.long().unsqueeze(-1)
        shape = np.broadcast_shapes(tuple(index.shape)[:-1], tuple(self.batch_shape))
        logits = broadcast_to(self.logits, (*shape, self.logits.shape[-1]))
        return gather(logits, -1, broadcast_to(index, (*shape, 1))).squeeze(-1)

    def entropy(self) -> Tensor:
        """-sum p log p, with 0 log 0 = 0."""
        lowest = float(np.finfo(self.logits.array.dtype).min)
        return -(self.logits.clamp(min=lowest) * self.probs).sum(-1)
