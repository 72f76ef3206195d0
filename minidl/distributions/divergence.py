"""Kullback-Leibler divergence between two distributions of a kind."""

from __future__ import annotations

from minidl.distributions.base import Distribution, Independent
from minidl.distributions.bernoulli import Bernoulli
from minidl.distributions.categorical import Categorical
from minidl.distributions.exponential import Exponential
from minidl.distributions.laplace import Laplace
from minidl.distributions.normal import Normal
from minidl.ops.activations import softplus
from minidl.ops.exponentials import exp, log
from minidl.ops.masks import where
from minidl.ops.signs import abs
from minidl.tensors import Tensor


def kl_divergence(p: Distribution, q: Distribution) -> Tensor:
    """E_p[log p - log q] in nats, of the batch's shape, in closed form. NotImplementedError for other pairs than two
    Normal, two Exponential, two Laplace, two Categorical, two Bernoulli, or two Independent of those."""
    if isinstance(p, Independent) and isinstance(q, Independent):
        if p.reinterpreted_batch_ndims != q.reinterpreted_batch_ndims:
            raise NotImplementedError("kl_divergence of Independent distributions with events of different dimensions")
        return p._summed(kl_divergence(p.base_dist, q.base_dist))
    if isinstance(p, Normal) and isinstance(q, Normal):
        ratio = (p.scale / q.scale) ** 2
        return 0.5 * (ratio + ((p.loc - q.loc) / q.scale) ** 2 - 1 - log(ratio))
    if isinstance(p, Exponential) and isinstance(q, Exponential):
        ratio = q.rate / p.rate
        return ratio - log(ratio) - 1
    if isinstance(p, Laplace) and isinstance(q, Laplace):
        ratio, gap = p.scale / q.scale, abs(p.loc - q.loc)
        return -log(ratio) + gap / q.scale + ratio * exp(-gap / p.scale) - 1
    if isinstance(p, Categorical) and isinstance(q, Categorical):
        t = p.probs * (p.logits - q.logits)
        t = where(q.probs == 0, float("inf"), t)
        return where(p.probs == 0, 0.0, t).sum(-1)
    if isinstance(p, Bernoulli) and isinstance(q, Bernoulli):
        t1 = p.probs * (softplus(-q.logits) - softplus(-p.logits))
        t0 = (1 - p.probs) * (softplus(q.logits) - softplus(p.logits))
        t1 = where(p.probs == 0, 0.0, where(q.probs == 0, float("inf"), t1))
        t0 = where(p.probs == 1, 0.0, where(q.probs == 1, float("inf"), t0))
        return t1 + t0
    raise NotImplementedError(
        f"no closed form of KL({type(p).__name__} || {type(q).__name__}) here: estimate it by the mean of "
        "p.log_prob(x) - q.log_prob(x) over x = p.sample((n,))"
    )
