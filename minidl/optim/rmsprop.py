"""RMSprop: steps scaled by a running mean of the gradient's square."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.optim.optimizer import Optimizer
from minidl.tensors import Tensor


class RMSprop(Optimizer):
    """Tieleman & Hinton 2012 (Coursera, Neural Networks for Machine Learning, lecture 6.5):

        v = alpha v + (1 - alpha) g^2
        w -= lr g / (sqrt(v) + eps)

    `centered`: sqrt(v - a^2) with a the running mean of g itself, Graves 2013 (arXiv:1308.0850). With momentum
    m = momentum m + g / (...),  w -= lr m. Decay is added to the gradient; with `maximize` the step goes up the
    gradient. Raises ValueError for negative options.
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0,
        momentum: float = 0, centered: bool = False, capturable: bool = False, foreach: bool | None = None,
        maximize: bool = False, differentiable: bool = False,
    ):  # fmt: skip
        defaults = dict(lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum, centered=centered,
                        capturable=capturable, foreach=foreach, maximize=maximize,
                        differentiable=differentiable)  # fmt: skip
        super().__init__(params, defaults)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if not group["alpha"] >= 0:
            raise ValueError(f"Invalid alpha value: {group['alpha']}")

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        lr, alpha, eps, mu = group["lr"], group["alpha"], group["eps"], group["momentum"]
        self.count(state)
        square = self.moment(state, "square_avg", p)
        momentum = self.moment(state, "momentum_buffer", p) if mu > 0 else None
        average = self.moment(state, "grad_avg", p) if group["centered"] else None
        for w, d, v, m, c, a, b in self.blocks(p.array, g, square, momentum, average):
            if group["maximize"]:
                d = np.negative(d, out=a)
            if group["weight_decay"]:
                np.multiply(w, group["weight_decay"], out=b)
                d = np.add(d, b, out=a)
            np.multiply(d, d, out=b)
            b *= 1 - alpha
            v *= alpha
            v += b
            if c is None:
                np.sqrt(v, out=b)
            else:
                np.subtract(d, c, out=b)  # c + (1 - alpha) (g - c)
                b *= 1 - alpha
                c += b
                np.multiply(c, c, out=b)
                np.sqrt(np.subtract(v, b, out=b), out=b)
            b += eps
            np.divide(d, b, out=b)
            if m is not None:
                m *= mu
                m += b
                np.multiply(m, lr, out=b)
            else:
                b *= lr
            w -= b
