"""LAMB: Adam's direction, with a step in proportion to the size of each layer's weights, for very large batches."""

from __future__ import annotations

import math
from typing import Any

from minidl.optim.adam import Adam
from minidl.tensors import Tensor


class LAMB(Adam):
    """You et al. 2020 (arXiv:1904.00962), algorithm 2, at step t = 1, 2, ...:

        m = b1 m + (1 - b1) g,    v = b2 v + (1 - b2) g^2
        r = m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + weight_decay w
        w -= lr |w| / |r| r        (lr r where |w| or |r| is 0)

    torch has no LAMB; the names are the paper's, the state is Adam's. With `maximize` the step goes up the gradient.
    Raises ValueError for negative options or betas outside [0, 1).
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6,
        weight_decay: float = 0.01, *, maximize: bool = False,
    ):  # fmt: skip
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize)
        super(Adam, self).__init__(params, defaults)

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        b1, b2 = group["betas"]
        t = self.count(state)
        m, v, w = self.moment(state, "exp_avg", p), self.moment(state, "exp_avg_sq", p), p.array
        g = -g if group["maximize"] else g
        m += (1 - b1) * (g - m)
        v *= b2
        v += (1 - b2) * (g * g)
        r = m / (1 - b1**t) / ((v / (1 - b2**t)) ** 0.5 + group["eps"])
        if group["weight_decay"]:
            r += group["weight_decay"] * w
        sizes = [math.sqrt(float((a * a).sum())) for a in (w, r)]
        w -= group["lr"] * (sizes[0] / sizes[1] if all(sizes) else 1.0) * r
