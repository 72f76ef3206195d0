"""Adam and AdamW: steps scaled by running means of the gradient and of its square."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.optim.optimizer import Optimizer
from minidl.tensors import Tensor

_STATE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
LEAST = 1 << 15  # elements of all parameters, from which on the compiled pass is faster than NumPy's, measured


class Adam(Optimizer):
    """Kingma & Ba 2015 (arXiv:1412.6980), at step t = 1, 2, ...:

        m = b1 m + (1 - b1) g
        v = b2 v + (1 - b2) g^2
        w -= lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)

    Decay is added to the gradient (g + weight_decay w); with `decoupled_weight_decay` the weights shrink by themselves,
    see AdamW. With `amsgrad` the greatest v so far is used (Reddi et al. 2018, arXiv:1904.09237). With `maximize` the
    step goes up the gradient. Raises ValueError for negative options or betas outside [0, 1).
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0, amsgrad: bool = False, *, foreach: bool | None = None, maximize: bool = False,
        capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ):  # fmt: skip
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
                        foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused,
                        decoupled_weight_decay=decoupled_weight_decay)  # fmt: skip
        super().__init__(params, defaults)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        for i, beta in enumerate(group["betas"]):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
        tensors = [isinstance(beta, Tensor) for beta in group["betas"]]
        if any(tensors) and not all(tensors):
            raise ValueError("betas must be either both floats or both Tensors")
        if any(tensors) and group.get("foreach"):
            raise ValueError("betas[0] as a Tensor is not supported for capturable=False and foreach=True")

    def update_all(self, ready: list[tuple[Tensor, Any]], group: dict[str, Any]) -> None:
        if type(self).update is Adam.update:  # no other formula
            ready = self.by_kernel(ready, _STATE, LEAST, lambda some: self._step(some, group))
        super().update_all(ready, group)

    def _step(self, some: list[tuple[Tensor, Any]], group: dict[str, Any]) -> None:
        states = [self.state[p] for p, _ in some]
        steps = [self.count(s) for s in states]
        moments: list[Any] = [
            [self.moment(s, name, p) for s, (p, _) in zip(states, some, strict=True)]
            for name in (_STATE if group["amsgrad"] else _STATE[:2])
        ]
        mean, square, most = (*moments, None)[:3]
        beta1, beta2 = group["betas"]
        kernels.adam_step(
            [p.array for p, _ in some], [g for _, g in some], mean, square, most, steps, group["lr"], beta1, beta2,
            group["eps"], group["weight_decay"], group.get("decoupled_weight_decay", False), group["maximize"],
            self.masks(some),
        )  # fmt: skip

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        b1, b2 = group["betas"]
        lr, eps, decay = group["lr"], group["eps"], group["weight_decay"]
        decoupled = group.get("decoupled_weight_decay", False)
        t = self.count(state)
        mean, square = self.moment(state, "exp_avg", p), self.moment(state, "exp_avg_sq", p)
        most = self.moment(state, "max_exp_avg_sq", p) if group["amsgrad"] else None
        lr_t, root_t = lr / (1 - b1**t), math.sqrt(1 - b2**t)
        for w, d, m, v, top, a, b in self.blocks(p.array, g, mean, square, most):
            if group["maximize"]:
                d = np.negative(d, out=a)
            if decay and decoupled:
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
            if top is not None:
                v = np.maximum(top, v, out=top)
            np.sqrt(v, out=b)
            b /= root_t
            b += eps
            np.divide(m, b, out=b)
            b *= lr_t
            w -= b


class AdamW(Adam):
    """Adam with decoupled decay: w *= 1 - lr weight_decay before each step; Loshchilov & Hutter 2019
    (arXiv:1711.05101). Arguments and errors as Adam's.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False, *, maximize: bool = False, foreach: bool | None = None,
        capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
    ):  # fmt: skip
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize, capturable=capturable,
            differentiable=differentiable, fused=fused, decoupled_weight_decay=True,
        )  # fmt: skip
