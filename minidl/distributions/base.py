"""What every distribution has: shapes of batches and events, checks, and draws."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import no_grad
from minidl.ops.create import tensor
from minidl.ops.exponentials import exp
from minidl.ops.powers import sqrt
from minidl.ops.tiling import broadcast_to
from minidl.tensors import Shape, Tensor


def parameters(*values: Any) -> list[Tensor]:
    """Tensors of one shape: numbers take the dtype of the Tensors beside them, else the default one."""
    kinds = [v.dtype for v in values if isinstance(v, Tensor)]
    kind = kinds[0] if kinds else dtypes.get_default_dtype()
    found = [v if isinstance(v, Tensor) else tensor(v, dtype=kind) for v in values]
    shape = np.broadcast_shapes(*[tuple(t.shape) for t in found])
    return [broadcast_to(t, shape) for t in found]


def check(distribution: Any, what: str, values: Tensor, fine: Any) -> None:
    """Raise ValueError if a parameter or value is not where it has to be; `fine` is an array of bools."""
    if not bool(fine.all()):
        found = f", found {values.array[~fine].tolist()[:5]}" if fine.shape == values.shape else ""
        raise ValueError(f"{type(distribution).__name__}: {what}{found}")


class Distribution:
    """Base of the distributions: `batch_shape` independent draws, each of `event_shape`."""

    batch_shape: Shape
    event_shape: Shape
    mean: Tensor
    variance: Tensor

    def __init__(self, batch_shape: Any = (), event_shape: Any = (), validate_args: bool | None = None) -> None:
        self.batch_shape, self.event_shape = Shape(batch_shape), Shape(event_shape)
        self._checks = validate_args is not False

    @property
    def stddev(self) -> Tensor:
        """The square root of the variance."""
        return sqrt(self.variance)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A draw of shape sample_shape + batch_shape + event_shape, without a gradient."""
        with no_grad():
            return self.rsample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A draw through which gradients flow to the parameters. NotImplementedError where there is no such thing."""
        raise NotImplementedError(
            f"{type(self).__name__} has no rsample: its values jump, so no gradient goes through a draw. Use sample() "
            "and the gradient of log_prob (REINFORCE)"
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """The logarithm of the density or probability of a value."""
        raise NotImplementedError(f"{type(self).__name__} has no log_prob")

    def entropy(self) -> Tensor:
        """The entropy in nats, of batch_shape."""
        raise NotImplementedError(f"{type(self).__name__} has no entropy")

    def perplexity(self) -> Tensor:
        """exp of the entropy."""
        return exp(self.entropy())

    def _extended(self, sample_shape: Any) -> tuple[int, ...]:
        return (*tuple(sample_shape), *self.batch_shape, *self.event_shape)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_shape={tuple(self.batch_shape)}, event_shape={tuple(self.event_shape)})"


class Independent(Distribution):
    """A distribution whose last `reinterpreted_batch_ndims` batch dimensions make one event: log_prob sums over them.

    Raises ValueError for more dimensions than the batch has.
    """

    def __init__(
        self, base_distribution: Distribution, reinterpreted_batch_ndims: int, validate_args: bool | None = None
    ) -> None:
        n, batch = reinterpreted_batch_ndims, tuple(base_distribution.batch_shape)
        if n > len(batch):
            raise ValueError(
                f"Expected reinterpreted_batch_ndims <= len(base_distribution.batch_shape), but {n} vs {len(batch)}"
            )
        self.base_dist, self.reinterpreted_batch_ndims = base_distribution, n
        at = len(batch) - n
        super().__init__(batch[:at], batch[at:] + tuple(base_distribution.event_shape), validate_args)

    @property
    def mean(self) -> Tensor:  # type: ignore[override]
        """The mean of the base."""
        return self.base_dist.mean

    @property
    def variance(self) -> Tensor:  # type: ignore[override]
        """The variance of the base."""
        return self.base_dist.variance

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """A draw of the base."""
        return self.base_dist.sample(sample_shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A draw of the base, with its gradient."""
        return self.base_dist.rsample(sample_shape)

    def _summed(self, x: Tensor) -> Tensor:
        n = self.reinterpreted_batch_ndims
        return x.sum(tuple(range(-n, 0))) if n else x

    def log_prob(self, value: Tensor) -> Tensor:
        """The base's, summed over the event."""
        return self._summed(self.base_dist.log_prob(value))

    def entropy(self) -> Tensor:
        """The base's, summed over the event."""
        return self._summed(self.base_dist.entropy())
