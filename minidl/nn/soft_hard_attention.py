"""Soft and hard attention with one query-key score: where to look, and how sharply.

Every layer takes query (..., T, Q), key (..., S, K) and value (..., S, V), the keys themselves unless given, and
returns y (..., T, V) and the weights (..., T, S). A mask, bool, broadcast to (..., T, S), is True where a query may
look, as in scaled_dot_product_attention; a query that may look nowhere gets zeros.

**Soft**: y is the mean of the values under weights softmax(score). Differentiable as it stands.

**Hard**: y is one value (or few). The weights are one-hot, so the scores need another way to learn:
StochasticAttention draws a place and learns by REINFORCE, GumbelAttention draws one and lets gradients straight
through, ArgmaxAttention and TopKAttention take the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl.autograd import ShapeError, require
from minidl.nn.linear import Linear
from minidl.nn.module import Module
from minidl.nn.parameter import Buffer
from minidl.ops.axes import transpose
from minidl.ops.create import zeros
from minidl.ops.exponentials import exp
from minidl.ops.gumbel import gumbel_noise, gumbel_softmax, largest, straight_through
from minidl.ops.linalg import matmul
from minidl.ops.masks import where
from minidl.ops.reduce import mean, sum
from minidl.ops.softmax import log_softmax, softmax
from minidl.ops.sorting import topk
from minidl.ops.trigonometry import tanh
from minidl.tensors import Tensor, wrap

__all__ = [
    "AdditiveAttention", "ArgmaxAttention", "BahdanauAttention", "DotProductAttention", "GumbelAttention",
    "ScaledDotProductAttention", "StochasticAttention", "TopKAttention",
]  # fmt: skip


class _Attention(Module):
    """The frame: scores, the mask, the weights that a subclass makes of them, the weighted mean."""

    def score(self, query: Any, key: Any) -> Any:
        """(..., T, Q), (..., S, K) -> (..., T, S)"""
        raise NotImplementedError(f"{type(self).__name__} defines no score")

    def weigh(self, scores: Any, seen: Any) -> Any:
        """Scores, -inf where nothing may be seen, -> weights of the same shape."""
        return softmax(scores, -1)

    def forward(self, query: Any, key: Any, value: Any = None, mask: Any = None) -> tuple[Any, Any]:
        """(y (..., T, V), weights (..., T, S))"""
        value = key if value is None else value
        require(
            key.shape[-2] == value.shape[-2], "key {} and value {} must have as many places", key.shape, value.shape
        )
        scores = self.score(query, key)
        if mask is None:
            weights = self.weigh(scores, None)
            return matmul(weights, value), weights
        seen = mask.array if isinstance(mask, Tensor) else np.asarray(mask)
        if seen.dtype != bool:
            raise TypeError(f"the mask must be bool, True where a query may look, got {seen.dtype}")
        seen = np.broadcast_to(seen, tuple(scores.shape))
        some = np.broadcast_to(seen.any(-1, keepdims=True), seen.shape)
        # A row that sees nothing gets equal scores, so that it stays finite, and then no weight.
        weights = self.weigh(where(seen, scores, np.where(some, -np.inf, 0.0).astype(scores.array.dtype)), seen)
        weights = where(some, weights, 0.0)
        return matmul(weights, value), weights


class DotProductAttention(_Attention):
    """Soft attention, score(q, k) = q . k; Luong et al. 2015 (arXiv:1508.04025). Q = K.

    Try: DotProductAttention()(randn(2, 3, 4), randn(2, 5, 4), randn(2, 5, 4))
    """

    def score(self, query: Any, key: Any) -> Any:
        """q k^T"""
        if query.shape[-1] != key.shape[-1]:
            raise ShapeError(f"query {tuple(query.shape)} and key {tuple(key.shape)} must have the same last size")
        return matmul(query, transpose(key, -2, -1))


class ScaledDotProductAttention(DotProductAttention):
    """Soft attention, score(q, k) = q . k / sqrt(K); Vaswani et al. 2017 (arXiv:1706.03762).

    Try: ScaledDotProductAttention()(randn(2, 3, 4), randn(2, 5, 4), randn(2, 5, 4))
    """

    def score(self, query: Any, key: Any) -> Any:
        """q k^T / sqrt(K)"""
        return super().score(query, key) * (1 / math.sqrt(key.shape[-1]))


class AdditiveAttention(_Attention):
    """Soft attention, score(q, k) = v . tanh(W q + U k); Bahdanau et al. 2015 (arXiv:1409.0473).

    W is query_proj, U key_proj, v score_proj; `hidden_dim` is their common size.

    >>> import minidl
    >>> y, weights = AdditiveAttention(3, 4, 8)(minidl.zeros(2, 5, 3), minidl.zeros(2, 7, 4))
    >>> tuple(y.shape), tuple(weights.shape)
    ((2, 5, 4), (2, 5, 7))

    Try: AdditiveAttention(4, 4, 3)(randn(2, 3, 4), randn(2, 5, 4))
    """

    def __init__(
        self, query_dim: int, key_dim: int, hidden_dim: int, bias: bool = True, device: Any = None, dtype: Any = None
    ):
        super().__init__()
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.query_proj = Linear(query_dim, hidden_dim, bias=False, **made)
        self.key_proj = Linear(key_dim, hidden_dim, bias=bias, **made)
        self.score_proj = Linear(hidden_dim, 1, bias=False, **made)

    def score(self, query: Any, key: Any) -> Any:
        """v . tanh(W q + U k)"""
        hidden = tanh(self.query_proj(query).unsqueeze(-2) + self.key_proj(key).unsqueeze(-3))  # ..., T, S, H
        return self.score_proj(hidden)[..., 0]


BahdanauAttention = AdditiveAttention


class _Hard(_Attention):
    """Hard attention by the score of a soft layer, or of any function of query and key."""

    def __init__(self, scorer: _Attention | Callable[[Any, Any], Any]):
        super().__init__()
        self.scorer = scorer

    def score(self, query: Any, key: Any) -> Any:
        """The scorer's."""
        return self.scorer.score(query, key) if isinstance(self.scorer, _Attention) else self.scorer(query, key)


class StochasticAttention(_Hard):
    """Hard attention that looks at one place, drawn from softmax(score), and learns by REINFORCE with a baseline.

    Xu et al. 2015 (arXiv:1502.03044), section 4.1; Williams 1992 (doi 10.1007/BF00992696). For a loss L that depends on
    the place s, drawn from p:

        d E[L] = E[dL] + E[(L - b) d log p(s)]

    for any b that does not depend on s; the nearer b is to the mean of L, the less noise. The first part flows through
    y. `reinforce(loss)` is a scalar whose gradient is the second: add it to the loss. The baseline b is the running
    mean of the losses, b = decay b + (1 - decay) mean(L), and is taken as it was before the draw. In evaluation the
    place of the largest score is taken.

    >>> import minidl
    >>> layer = StochasticAttention(AdditiveAttention(3, 4, 8))
    >>> y, weights = layer(minidl.zeros(2, 5, 3), minidl.zeros(2, 7, 4))
    >>> loss = (y**2).mean((1, 2))  # one for each example
    >>> (loss.mean() + layer.reinforce(loss)).backward()

    Try: StochasticAttention(DotProductAttention())(randn(2, 3, 4), randn(2, 5, 4), randn(2, 5, 4))
    """

    def __init__(self, scorer: _Attention | Callable[[Any, Any], Any], decay: float = 0.9):
        super().__init__(scorer)
        if not 0 <= decay <= 1:
            raise ValueError(f"StochasticAttention: decay must lie in [0, 1], got {decay}")
        self.decay = decay
        self.baseline: Any = Buffer(zeros(()))
        self.log_prob: Any = None  # of the last call's choices, (..., T)
        self.entropy: Any = None  # of the distributions that they were drawn from, (..., T)

    def weigh(self, scores: Any, seen: Any) -> Any:
        """One-hot at a drawn place, in evaluation at the largest score."""
        if not self.training:
            return wrap(largest(scores, scores.ndim - 1))
        noise = gumbel_noise(tuple(scores.shape), scores.array.dtype)
        chosen = largest(scores.array + noise, scores.ndim - 1)
        log_p = log_softmax(scores, -1)
        possible = scores.array > -np.inf
        self.log_prob = sum(where(chosen == 1, log_p, 0.0), -1)
        self.entropy = -sum(where(possible, exp(log_p) * where(possible, log_p, 0.0), 0.0), -1)
        return wrap(chosen)

    def reinforce(self, loss: Any, entropy_weight: float = 0.0) -> Any:
        """A scalar whose gradient is that of mean(loss) through the choices of the last call in training.

        loss: one for each example, (...), or one for each query, (..., T), if a choice has a part in that one only.
        entropy_weight: how much of the mean entropy to subtract, which keeps the choices from settling too soon. Raises
        RuntimeError without a call before, ShapeError for other shapes.
        """
        if self.log_prob is None:
            raise RuntimeError("StochasticAttention.reinforce: no choice was drawn; call the layer in training first")
        log_prob = self.log_prob
        shape, each = tuple(loss.shape), tuple(log_prob.shape)
        if shape == each[:-1]:
            log_prob = sum(log_prob, -1)
        elif shape != each:
            raise ShapeError(f"reinforce: the loss has shape {shape}, expected {each[:-1]} or {each}")
        loss = loss.detach()
        surrogate = mean((loss - self.baseline.detach().to(loss.dtype)) * log_prob)
        if entropy_weight:
            surrogate = surrogate - entropy_weight * mean(self.entropy)
        self.baseline.array[...] = self.decay * self.baseline.array + (1 - self.decay) * loss.array.mean()
        self.baseline.bump()
        self.log_prob = self.entropy = None
        return surrogate


class GumbelAttention(_Hard):
    """Hard attention that looks at one place, drawn from softmax(score), with gradients straight through.

    The weights are F.gumbel_softmax(score, tau, hard=True): values one-hot, gradients those of the soft ones (Jang et
    al. 2017, arXiv:1611.01144), which is biased, but less noisy than REINFORCE. In evaluation the place of the largest
    score is taken.

    Try: GumbelAttention(DotProductAttention())(randn(2, 3, 4), randn(2, 5, 4), randn(2, 5, 4))
    """

    def __init__(self, scorer: _Attention | Callable[[Any, Any], Any], tau: float = 1.0):
        super().__init__(scorer)
        if not tau > 0:
            raise ValueError(f"GumbelAttention: tau must be greater than 0, got {tau}")
        self.tau = tau

    def weigh(self, scores: Any, seen: Any) -> Any:
        """One-hot at a drawn place, in evaluation at the largest score."""
        if not self.training:
            return wrap(largest(scores, scores.ndim - 1))
        return gumbel_softmax(scores, self.tau, hard=True)

    def extra_repr(self) -> str:
        return f"tau={self.tau}"


class TopKAttention(_Hard):
    """Deterministic hard attention: the softmax of the k largest scores, 0 elsewhere.

    For k = 1 the weights are one-hot and the scores get no gradient, unless `straight_through`, which gives them that
    of the softmax of all scores. A query that sees fewer than k places looks at those.

    Try: TopKAttention(DotProductAttention(), 2)(randn(2, 3, 4), randn(2, 5, 4), randn(2, 5, 4))
    """

    def __init__(self, scorer: _Attention | Callable[[Any, Any], Any], k: int = 1, straight_through: bool = False):
        super().__init__(scorer)
        if k < 1:
            raise ValueError(f"TopKAttention: k must be at least 1, got {k}")
        self.k, self.straight_through = k, straight_through

    def weigh(self, scores: Any, seen: Any) -> Any:
        """Softmax of the k largest."""
        places = np.zeros(tuple(scores.shape), bool)
        best = topk(scores.detach(), min(self.k, scores.shape[-1]), -1)[1].array
        np.put_along_axis(places, best, True, -1)
        hard = softmax(where(places, scores, -np.inf), -1)
        return straight_through(softmax(scores, -1), hard.detach()) if self.straight_through else hard

    def extra_repr(self) -> str:
        return f"k={self.k}" + (", straight_through=True" if self.straight_through else "")


class ArgmaxAttention(TopKAttention):
    """Deterministic hard attention: the place of the largest score. As TopKAttention with k = 1.

    Try: ArgmaxAttention(DotProductAttention())(randn(2, 3, 4), randn(2, 5, 4), randn(2, 5, 4))
    """

    def __init__(self, scorer: _Attention | Callable[[Any, Any], Any], straight_through: bool = False):
        super().__init__(scorer, 1, straight_through)
