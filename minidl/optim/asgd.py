"""Averaged stochastic gradient descent: the steps shrink, and the mean of the weights along the way is kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.optim.optimizer import Optimizer
from minidl.tensors import Tensor, wrap


class ASGD(Optimizer):
    """Polyak & Juditsky 1992 (doi 10.1137/0330046), in Bottou's form, at step t = 1, 2, ...:

        w = (1 - lambd eta) w - eta g
        ax += mu (w - ax)
        eta = lr / (1 + lambd lr t)^alpha,    mu = 1 / max(1, t - t0)

    From step t0 on, ``state[p]["ax"]`` is the mean of the weights. Decay is added to the gradient; with `maximize` the
    step goes up the gradient. Raises ValueError for a negative lr or weight_decay.
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, lambd: float = 1e-4, alpha: float = 0.75, t0: float = 1e6,
        weight_decay: float = 0, foreach: bool | None = None, maximize: bool = False, differentiable: bool = False,
        capturable: bool = False,
    ):  # fmt: skip
        defaults = dict(lr=lr, lambd=lambd, alpha=alpha, t0=t0, weight_decay=weight_decay, foreach=foreach,
                        maximize=maximize, differentiable=differentiable, capturable=capturable)  # fmt: skip
        super().__init__(params, defaults)

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        t = self.count(state)
        if "eta" not in state:
            state["eta"] = wrap(np.asarray(group["lr"], np.float32))
            state["mu"] = wrap(np.ones((), np.float32))
        mean = self.moment(state, "ax", p)
        eta, mu = float(state["eta"].array), float(state["mu"].array)
        lr, lambd, decay = group["lr"], group["lambd"], group["weight_decay"]
        for w, d, ax, a, b in self.blocks(p.array, g, mean):
            if group["maximize"]:
                d = np.negative(d, out=a)
            if decay:
                np.multiply(w, decay, out=b)
                d = np.add(d, b, out=a)
            np.multiply(d, eta, out=b)
            w *= 1 - lambd * eta
            w -= b
            if mu == 1:
                ax[...] = w
            else:
                np.subtract(w, ax, out=b)
                b *= mu
                ax += b
        state["eta"].array[...] = lr / (1 + lambd * lr * t) ** group["alpha"]
        state["mu"].array[...] = 1 / max(1, t - group["t0"])
