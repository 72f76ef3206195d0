"""Adafactor: Adam's scaling from one running mean for each row and each column of a matrix, so with little memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import devices
from minidl.optim.optimizer import Optimizer
from minidl.tensors import Tensor, wrap


class Adafactor(Optimizer):
    """Shazeer & Stern 2018 (arXiv:1804.04235), algorithms 4 and 5, without momentum, at step t = 1, 2, ...:

        b = 1 - t^beta2_decay
        r = b r + (1 - b) mean of g^2 over columns,    c = b c + (1 - b) mean of g^2 over rows
        v = r c / mean(r)        (for vectors v = b v + (1 - b) g^2)
        u = g / sqrt(v),    u /= max(1, rms(u) / d)
        w -= max(eps[1], rms(w)) min(lr, 1 / sqrt(t)) u

    eps[0], by default the dtype's epsilon, bounds sqrt(v) from below. Decay is decoupled: w *= 1 - lr weight_decay
    first. With `maximize` the step goes up the gradient. Raises ValueError for options out of range.
    """

    def __init__(
        self, params: Any, lr: float = 1e-2, beta2_decay: float = -0.8, eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0, weight_decay: float = 0.0, *, foreach: bool | None = None, maximize: bool = False,
    ):  # fmt: skip
        defaults = dict(lr=lr, beta2_decay=beta2_decay, eps=eps, d=d, weight_decay=weight_decay, foreach=foreach,
                        maximize=maximize)  # fmt: skip
        super().__init__(params, defaults)

    def check(self, group: dict[str, Any]) -> None:
        eps1, eps2 = group["eps"]
        for good, message in (
            (group["lr"] >= 0, f"Learning rate should be >= 0 but is: {group['lr']}"),
            (group["beta2_decay"] <= 0, f"beta2_decay should be <= 0 but is: {group['beta2_decay']}"),
            (eps1 is None or eps1 >= 0, f"epsilon1 should be >= 0 but is: {eps1}"),
            (eps2 >= 0, f"epsilon2 should be >= 0 but is: {eps2}"),
            (group["d"] >= 1, f"Clipping threshold d should be >= 1 but is: {group['d']}"),
            (group["weight_decay"] >= 0, f"weight_decay should be >= 0 but is: {group['weight_decay']}"),
        ):
            if not good:
                raise ValueError(message)

    def state_shape(self, name: str, p: Tensor) -> tuple[int, ...]:
        shape = list(p.shape)
        if name in ("row_var", "col_var"):
            shape[-1 if name == "row_var" else -2] = 1
        return tuple(shape)

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        w, lr, (eps1, eps2) = p.array, group["lr"], group["eps"]
        eps1 = float(np.finfo(w.dtype).eps) if eps1 is None else eps1
        t = self.count(state)
        new = t ** group["beta2_decay"]
        size = max(eps2, _rms(w)) * min(lr, 1 / math.sqrt(t))
        g = -g if group["maximize"] else g
        if group["weight_decay"]:
            w *= 1 - lr * group["weight_decay"]
        if not w.size:
            return
        square = g * g
        if g.ndim > 1:
            for name, dim in (("row_var", -1), ("col_var", -2)):
                if name not in state:
                    zeros = devices.array_module(w).zeros(self.state_shape(name, p), w.dtype)
                    state[name] = wrap(zeros)
                mean = state[name].array
                mean += new * (square.mean(dim, keepdims=True) - mean)
            rows, columns = state["row_var"].array, state["col_var"].array
            v = rows * columns / rows.mean(-2, keepdims=True).clip(eps1)
        else:
            mean = self.moment(state, "variance", p)
            mean += new * (square - mean)
            v = mean
        u = g / v.clip(eps1 * eps1) ** 0.5
        w -= size / max(1.0, _rms(u) / group["d"]) * u


def _rms(a: Any) -> float:
    """The root of the mean square."""
    flat = a.reshape(-1).astype(np.float64, copy=False)
    return math.sqrt(float(flat.dot(flat)) / flat.size) if flat.size else 0.0
