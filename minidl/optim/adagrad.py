"""Adagrad: steps that shrink with the sum of the squared gradients so far."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.optim.optimizer import Optimizer
from minidl.tensors import Tensor, wrap


class Adagrad(Optimizer):
    """Duchi, Hazan & Singer 2011 (jmlr.org/papers/v12/duchi11a.html), at step t = 1, 2, ...:

        s += g^2        (initial_accumulator_value at first)
        w -= lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)

    Decay is added to the gradient; with `maximize` the step goes up the gradient. Raises ValueError for negative
    options.
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
        initial_accumulator_value: float = 0, eps: float = 1e-10, foreach: bool | None = None, *,
        maximize: bool = False, differentiable: bool = False, fused: bool | None = None,
    ):  # fmt: skip
        defaults = dict(lr=lr, lr_decay=lr_decay, eps=eps, weight_decay=weight_decay,
                        initial_accumulator_value=initial_accumulator_value, foreach=foreach, maximize=maximize,
                        differentiable=differentiable, fused=fused)  # fmt: skip
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        for p in self.param_groups[-1]["params"]:  # the state is there before the first step, as torch's
            state = self.state[p]
            state["step"] = wrap(np.zeros((), np.float32))
            total = self.moment(state, "sum", p)
            total += self.param_groups[-1]["initial_accumulator_value"]

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if not group["initial_accumulator_value"] >= 0:
            raise ValueError(f"Invalid initial_accumulator_value value: {group['initial_accumulator_value']}")

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        t = self.count(state)
        total = self.moment(state, "sum", p)
        lr_t = group["lr"] / (1 + (t - 1) * group["lr_decay"])
        for w, d, s, a, b in self.blocks(p.array, g, total):
            if group["maximize"]:
                d = np.negative(d, out=a)
            if group["weight_decay"]:
                np.multiply(w, group["weight_decay"], out=b)
                d = np.add(d, b, out=a)
            np.multiply(d, d, out=b)
            s += b
            np.sqrt(s, out=b)
            b += group["eps"]
            np.divide(d, b, out=b)
            b *= lr_t
            w -= b
