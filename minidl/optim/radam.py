"""RAdam: Adam whose first steps do not trust a variance that few gradients have shown."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.optim.adam import Adam
from minidl.tensors import Tensor


class RAdam(Adam):
    """Liu et al. 2020 (arXiv:1908.03265), at step t = 1, 2, ..., with Adam's m and v:

        rho_inf = 2 / (1 - b2) - 1,   rho_t = rho_inf - 2 t b2^t / (1 - b2^t)
        r_t = sqrt((rho_t - 4) (rho_t - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_t))
        w -= lr m / (1 - b1^t) r_t sqrt(1 - b2^t) / (sqrt(v) + eps)     if rho_t > 5
        w -= lr m / (1 - b1^t)                                          before

    Decay is added to the gradient; with `decoupled_weight_decay` w *= 1 - lr weight_decay before each step. With
    `maximize` the step goes up the gradient. Raises ValueError for negative options or betas outside [0, 1).
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, decoupled_weight_decay: bool = False, *, foreach: bool | None = None,
        maximize: bool = False, capturable: bool = False, differentiable: bool = False,
    ):  # fmt: skip
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize, foreach=foreach,
                        capturable=capturable, decoupled_weight_decay=decoupled_weight_decay,
                        differentiable=differentiable)  # fmt: skip
        super(Adam, self).__init__(params, defaults)

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        b1, b2 = group["betas"]
        lr, decay = group["lr"], group["weight_decay"]
        t = self.count(state)
        mean, square = self.moment(state, "exp_avg", p), self.moment(state, "exp_avg_sq", p)
        lr_t, seen = lr / (1 - b1**t), 1 - b2**t
        longest = 2 / (1 - b2) - 1
        length = longest - 2 * t * b2**t / seen
        rectified = length > 5
        if rectified:
            parts = (length - 4) * (length - 2) * longest, (longest - 4) * (longest - 2) * length
            lr_t *= math.sqrt(parts[0] / parts[1] * seen)
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
            np.subtract(d, m, out=a)  # m + (1 - b1) (g - m)
            a *= 1 - b1
            m += a
            np.multiply(m, lr_t, out=a)
            if rectified:
                np.sqrt(v, out=b)
                b += group["eps"]
                a /= b
            w -= a
