"""Adamax: Adam with the greatest gradient seen lately in place of the root of the mean square."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.optim.adam import Adam
from minidl.tensors import Tensor


class Adamax(Adam):
    """Kingma & Ba 2015 (arXiv:1412.6980), section 7.1, at step t = 1, 2, ...:

        m = b1 m + (1 - b1) g
        u = max(b2 u, |g| + eps)
        w -= lr / (1 - b1^t) m / u

    Decay is added to the gradient; with `maximize` the step goes up the gradient. Raises ValueError for negative
    options or betas outside [0, 1).
    """

    def __init__(
        self, params: Any, lr: float = 2e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, foreach: bool | None = None, *, maximize: bool = False, differentiable: bool = False,
        capturable: bool = False,
    ):  # fmt: skip
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, foreach=foreach, maximize=maximize,
                        differentiable=differentiable, capturable=capturable)  # fmt: skip
        super(Adam, self).__init__(params, defaults)

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        b1, b2 = group["betas"]
        t = self.count(state)
        mean, greatest = self.moment(state, "exp_avg", p), self.moment(state, "exp_inf", p)
        lr_t = group["lr"] / (1 - b1**t)
        for w, d, m, u, a, b in self.blocks(p.array, g, mean, greatest):
            if group["maximize"]:
                d = np.negative(d, out=a)
            if group["weight_decay"]:
                np.multiply(w, group["weight_decay"], out=b)
                d = np.add(d, b, out=a)
            np.subtract(d, m, out=b)  # m + (1 - b1) (g - m)
            b *= 1 - b1
            m += b
            np.abs(d, out=a)
            a += group["eps"]
            u *= b2
            np.maximum(u, a, out=u)
            np.divide(m, u, out=b)
            b *= lr_t
            w -= b
