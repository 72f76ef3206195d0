"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.optim.optimizer import Optimizer
from minidl.tensors import Tensor, wrap

LEAST = 1 << 19  # elements of all parameters, from which on the compiled pass is faster than NumPy's few, measured


class SGD(Optimizer):
    """w -= lr (g + weight_decay w); with momentum the step follows a running sum of gradients.

        m = momentum m + (1 - dampening) g        (m = g at first)
        w -= lr m,    or, nesterov:   w -= lr (g + momentum m)

    Momentum: Polyak 1964; nesterov in the form of Sutskever et al. 2013 (proceedings.mlr.press/v28/sutskever13).
    With `maximize` the step goes up the gradient. Raises ValueError for negative options, and for nesterov without
    momentum or with dampening.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, momentum: float = 0, dampening: float = 0, weight_decay: float = 0,
        nesterov: bool = False, *, maximize: bool = False, foreach: bool | None = None, differentiable: bool = False,
        fused: bool | None = None,
    ):  # fmt: skip
        defaults = dict(lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
                        maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused)  # fmt: skip
        super().__init__(params, defaults)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def update_all(self, ready: list[tuple[Tensor, Any]], group: dict[str, Any]) -> None:
        if type(self).update is SGD.update and not (group["momentum"] and self._first(ready)):
            ready = self.by_kernel(ready, ("momentum_buffer",), LEAST, lambda some: self._step(some, group))
        super().update_all(ready, group)

    def _first(self, ready: list[tuple[Tensor, Any]]) -> bool:
        """Whether a buffer is missing: the first step, which makes it, sums nothing."""
        return any(self.state[p].get("momentum_buffer") is None for p, _ in ready)

    def _step(self, some: list[tuple[Tensor, Any]], group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        buffers = [self.state[p]["momentum_buffer"].array for p, _ in some] if momentum else None
        kernels.sgd_step(
            [p.array for p, _ in some], [g for _, g in some], buffers, group["lr"], momentum, group["dampening"],
            group["weight_decay"], bool(momentum) and group["nesterov"], group["maximize"],
            self.masks(some),
        )  # fmt: skip

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        lr, mu, decay = group["lr"], group["momentum"], group["weight_decay"]
        first = bool(mu) and state.get("momentum_buffer") is None
        if first:
            state["momentum_buffer"] = wrap(np.empty_like(p.array, order="C"))
        momentum = state["momentum_buffer"].array if mu else None
        for w, d, m, t, s in self.blocks(p.array, g, momentum):
            if group["maximize"]:
                d = np.negative(d, out=t)
            if decay:
                np.multiply(w, decay, out=s)
                d = np.add(d, s, out=t)
            if mu:
                if first:
                    m[...] = d
                else:
                    m *= mu
                    m += d if not group["dampening"] else np.multiply(d, 1 - group["dampening"], out=s)
                d = np.add(d, np.multiply(m, mu, out=s), out=t) if group["nesterov"] else m
            w -= np.multiply(d, lr, out=s)
