"""NAdam: Adam that looks one step of its momentum ahead, as Nesterov's does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.optim.adam import Adam
from minidl.tensors import Tensor, wrap


class NAdam(Adam):
    """Dozat 2016 (openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ), at step t = 1, 2, ..., with Adam's m and v:

        mu_t = b1 (1 - 0.96^(t momentum_decay) / 2),   P_t = mu_1 ... mu_t
        w -= lr ((1 - mu_t) / (1 - P_t) g + mu_{t+1} / (1 - P_{t+1}) m) / (sqrt(v / (1 - b2^t)) + eps)

    Decay is added to the gradient; with `decoupled_weight_decay` w *= 1 - lr weight_decay before each step. With
    `maximize` the step goes up the gradient. Raises ValueError for negative options or betas outside [0, 1).
    """

    def __init__(
        self, params: Any, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False, *,
        foreach: bool | None = None, maximize: bool = False, capturable: bool = False, differentiable: bool = False,
    ):  # fmt: skip
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, momentum_decay=momentum_decay,
                        decoupled_weight_decay=decoupled_weight_decay, maximize=maximize, foreach=foreach,
                        capturable=capturable, differentiable=differentiable)  # fmt: skip
        super(Adam, self).__init__(params, defaults)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if not group["momentum_decay"] >= 0:
            raise ValueError(f"Invalid momentum_decay value: {group['momentum_decay']}")

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        b1, b2 = group["betas"]
        lr, decay, slowing = group["lr"], group["weight_decay"], group["momentum_decay"]
        t = self.count(state)
        mu = b1 * (1 - 0.5 * 0.96 ** (t * slowing))
        mu_next = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * slowing))
        if "mu_product" not in state:
            state["mu_product"] = wrap(np.ones((), np.float32))
        state["mu_product"].array *= mu
        product = float(state["mu_product"].array)
        of_gradient, of_mean = lr * (1 - mu) / (1 - product), lr * mu_next / (1 - product * mu_next)
        root_t = math.sqrt(1 - b2**t)
        mean, square = self.moment(state, "exp_avg", p), self.moment(state, "exp_avg_sq", p)
        for w, d, m, v, a, b in self.blocks(p.array, g, mean, square):
            if group["maximize"]:
                d = np.negative(d, out=a)
            if decay and group["decoupled_weight_decay"]:
                w *= 1 - lr * decay
            elif decay:
                np.multiply(w, decay, out=b)
                d = np.add(d, b, out=a)
            np.multiply(d, d, out=b)
            b *= 1 - b2
            v *= b2
            v += b
            np.subtract(d, m, out=b)  # m + (1 - b1) (g - m)
            b *= 1 - b1
            m += b
            np.sqrt(v, out=b)
            b /= root_t
            b += group["eps"]
            np.multiply(d, of_gradient, out=a)
            a /= b
            w -= a
            np.multiply(m, of_mean, out=a)
            a /= b
            w -= a
