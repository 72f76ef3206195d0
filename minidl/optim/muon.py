"""Muon: momentum whose matrix is made orthogonal before each step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import devices
from minidl.optim.optimizer import Optimizer
from minidl.tensors import Tensor

_ADJUST = (None, "original", "match_rms_adamw")


class Muon(Optimizer):
    """Jordan et al. 2024 (kellerjordan.github.io/posts/muon), for the weight matrices of hidden layers:

        m = momentum m + (1 - momentum) g
        u = momentum m + (1 - momentum) g  (nesterov),  or m
        w = (1 - lr weight_decay) w - lr adjust orthogonalize(u)

    `orthogonalize` is about U V^T of the singular value decomposition, see there. A weight (A, B) has
    adjust = sqrt(max(1, A / B)); with `adjust_lr_fn` "match_rms_adamw" it is 0.2 sqrt(max(A, B)), which suits rates and
    decay tuned for AdamW (Liu et al. 2025, arXiv:2502.16982).

    torch runs the iteration in bfloat16, which NumPy lacks; here it has the weights' own precision (float32 at least),
    so that paths agree with torch's up to bfloat16's rounding only. Raises ValueError for parameters that are no
    matrices (biases, embeddings and the last layer belong to another optimizer) and options out of range.
    """

    def __init__(
        self, params: Any, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95, nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315), eps: float = 1e-7, ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ):  # fmt: skip
        defaults = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov,
                        ns_coefficients=ns_coefficients, eps=eps, ns_steps=ns_steps,
                        adjust_lr_fn=adjust_lr_fn)  # fmt: skip
        super().__init__(params, defaults)

    def check(self, group: dict[str, Any]) -> None:
        super().check(group)
        if group["adjust_lr_fn"] not in _ADJUST:
            raise ValueError(f"Adjust learning rate function {group['adjust_lr_fn']} is not supported")
        if len(group["ns_coefficients"]) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")
        if not 0 <= group["ns_steps"] < 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
        for p in group["params"]:
            if p.ndim != 2:
                raise ValueError(
                    f"Muon only supports 2D parameters whereas we found a parameter with size: {tuple(p.shape)}"
                )

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        lr, mu = group["lr"], group["momentum"]
        m = self.moment(state, "momentum_buffer", p)
        m += (1 - mu) * (g - m)
        u = g + mu * (m - g) if group["nesterov"] else m
        direction = orthogonalize(u, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = p.array.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            lr_t = lr * 0.2 * math.sqrt(max(rows, columns))
        else:
            lr_t = lr * math.sqrt(max(1, rows / columns))
        p.array *= 1 - lr * group["weight_decay"]
        p.array -= (lr_t * direction).astype(p.array.dtype, copy=False)


def orthogonalize(
    x: Any, coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315), steps: int = 5, eps: float = 1e-7
) -> Any:
    """U S' V^T of a matrix U S V^T, with all of S' about 1: an array of the same shape, float32 or float64.

    Newton-Schulz: of x / |x| (Frobenius), `steps` times x = a x + (b G + c G^2) x with G = x x^T, which maps every
    singular value s to a s + b s^3 + c s^5. The default a, b, c do not converge: they bring small values up fastest
    and end between about 0.7 and 1.2.
    """
    xp = devices.array_module(x)
    a, b, c = coefficients
    x = x.astype(np.result_type(x.dtype, np.float32))
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / max(float(xp.sqrt((x * x).sum())), eps)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x
