"""Choices that gradients can pass: the Gumbel-softmax and the straight-through estimator."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, random
from minidl.autograd import Op, op, require
from minidl.ops.common import one_dim
from minidl.ops.softmax import softmax
from minidl.tensors import Tensor, wrap


@op()
class straight_through(Op):
    """y = hard, exactly;    dsoft = dy, as if y were soft    (Bengio, Leonard & Courville 2013, arXiv:1308.3432)

    Why: the rounded choice has slope 0, which teaches nothing; the soft one's gradient stands in for it, on purpose.
    Try: straight_through(rand(4), tensor([0.0, 1.0, 0.0, 0.0]))
    """

    stands_in = "straight through: the gradient of the soft values"

    def shape(soft: Any, hard: Any) -> Any:  # type: ignore[override]
        require(tuple(soft) == tuple(hard), "soft {} and hard {} must have the same shape", soft, hard)
        return soft

    def forward(ctx, soft: Any, hard: Any) -> Any:
        straight_through.shape(soft.shape, hard.shape)
        return hard.astype(soft.dtype)

    def backward(ctx, dy: Any) -> Any:
        return dy, None


def gumbel_noise(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """-log(-log u), u uniform: the noise whose argmax, added to logits, is a draw from their softmax."""
    wide = np.float64 if dtype == np.float64 else np.float32
    e = random.default_generator.exponential(shape, dtype=wide)
    return -np.log(np.maximum(e, np.finfo(wide).tiny)).astype(dtype)


def largest(x: Any, dim: int) -> Any:
    """1 at the (first) largest element along `dim`, 0 elsewhere; an array of x's dtype."""
    x = x.array if isinstance(x, Tensor) else x
    xp = devices.array_module(x)
    places = xp.arange(x.shape[dim]).reshape([-1 if d == dim else 1 for d in range(x.ndim)])
    return (places == xp.expand_dims(x.argmax(dim), dim)).astype(x.dtype)


@op(namespace="nn.functional")
def gumbel_softmax(logits: Any, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Any:
    """softmax((logits + g) / tau) with Gumbel noise g: a soft draw from softmax(logits); Jang et al. 2017
    (arXiv:1611.01144), Maddison et al. 2017 (arXiv:1611.00712).

    hard: one-hot values, exactly 0 and 1, with the gradient of the soft ones (straight through). The lower tau, the
    nearer the soft values are to one-hot, and the larger is the variance of gradients. eps is not used, as in torch.
    Raises ValueError unless tau > 0.

    Try: gumbel_softmax(randn(3, 4))
    """
    if not tau > 0:
        raise ValueError(f"gumbel_softmax: tau must be greater than 0, got {tau}")
    d = one_dim(dim, logits.ndim)
    array = logits.array if isinstance(logits, Tensor) else logits
    noise = devices.move(gumbel_noise(tuple(array.shape), array.dtype), devices.device_of(array))
    y = softmax((logits + (wrap(noise) if isinstance(logits, Tensor) else noise)) / tau, d)
    if not hard:
        return y
    one_hot = largest(y, d)
    return straight_through(y, wrap(one_hot) if isinstance(y, Tensor) else one_hot)
