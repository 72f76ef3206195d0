"""Adadelta: steps scaled by the running size of the steps before, over that of the gradients."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.optim.optimizer import Optimizer
from minidl.tensors import Tensor


class Adadelta(Optimizer):
    """Zeiler 2012 (arXiv:1212.5701):

        v = rho v + (1 - rho) g^2
        d = sqrt(u + eps) / sqrt(v + eps) g
        u = rho u + (1 - rho) d^2
        w -= lr d

    Decay is added to the gradient; with `maximize` the step goes up the gradient. Raises ValueError for negative
    options or rho outside [0, 1].
    """

    def __init__(
        self, params: Any, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0,
        foreach: bool | None = None, *, capturable: bool = False, maximize: bool = False, differentiable: bool = False,
    ):  # fmt: skip
        defaults = dict(lr=lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize, capturable=capturable,
                        foreach=foreach, differentiable=differentiable)  # fmt: skip
        super().__init__(params, defaults)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if not 0 <= group["rho"] <= 1:
            raise ValueError(f"Invalid rho value: {group['rho']}")

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        rho, eps = group["rho"], group["eps"]
        self.count(state)
        square, steps = self.moment(state, "square_avg", p), self.moment(state, "acc_delta", p)
        for w, d, v, u, a, b in self.blocks(p.array, g, square, steps):
            if group["maximize"]:
                d = np.negative(d, out=a)
            if group["weight_decay"]:
                np.multiply(w, group["weight_decay"], out=b)
                d = np.add(d, b, out=a)
            np.multiply(d, d, out=b)
            b *= 1 - rho
            v *= rho
            v += b
            np.add(v, eps, out=b)
            np.sqrt(b, out=b)
            d = np.divide(d, b, out=a)
            np.add(u, eps, out=b)
            np.sqrt(b, out=b)
            d *= b
            np.multiply(d, d, out=b)
            b *= 1 - rho
            u *= rho
            u += b
            d *= group["lr"]
            w -= d
