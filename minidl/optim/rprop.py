"""Rprop: every weight has a step size of its own, and of the gradient only the sign counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices
from minidl.optim.optimizer import Optimizer
from minidl.tensors import Tensor, wrap


class Rprop(Optimizer):
    """Riedmiller & Braun 1993 (doi 10.1109/ICNN.1993.298623), without backtracking; for full batches:

        s = clip(s etas[1], step_sizes)    where g agrees in sign with the gradient before
        s = clip(s etas[0], step_sizes)    where it disagrees; g = 0 there, this time
        w -= s sign(g)

    The step sizes s start at lr. With `maximize` the step goes up the gradient. Raises ValueError for a negative lr or
    unless 0 < etas[0] < 1 < etas[1].
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50), *, capturable: bool = False, foreach: bool | None = None,
        maximize: bool = False, differentiable: bool = False,
    ):  # fmt: skip
        defaults = dict(lr=lr, etas=etas, step_sizes=step_sizes, foreach=foreach, maximize=maximize,
                        differentiable=differentiable, capturable=capturable)  # fmt: skip
        super().__init__(params, defaults)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if not 0 < group["etas"][0] < 1 < group["etas"][1]:
            raise ValueError(f"Invalid eta values: {group['etas'][0]}, {group['etas'][1]}")

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        self.count(state)
        if "step_size" not in state:
            state["step_size"] = wrap(devices.array_module(p.array).full_like(p.array, group["lr"], order="C"))
        before, steps = self.moment(state, "prev", p), state["step_size"].array
        (slower, faster), (least, most) = group["etas"], group["step_sizes"]
        for w, d, old, s, a, b in self.blocks(p.array, g, before, steps):
            if group["maximize"]:
                d = np.negative(d, out=a)
            np.multiply(d, old, out=b)
            turned = b < 0
            s *= np.where(turned, slower, np.where(b > 0, faster, 1.0)).astype(s.dtype, copy=False)
            np.clip(s, least, most, out=s)
            old[...] = d
            old[turned] = 0
            np.sign(old, out=b)
            b *= s
            w -= b
