"""Lion: steps of one size, in the direction of the momentum's sign."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.optim.adam import Adam
from minidl.tensors import Tensor


class Lion(Adam):
    """Chen et al. 2023 (arXiv:2302.06675), found by program search:

        w -= lr (sign(b1 m + (1 - b1) g) + weight_decay w)
        m = b2 m + (1 - b2) g

    Every weight moves by lr, so lr is to be 3 to 10 times smaller, and weight_decay as much greater, than AdamW's
    (section 5 of the paper). torch has no Lion; names, defaults and the state (``exp_avg``) are those of the authors'
    (github.com/google/automl, lion). With `maximize` the step goes up the gradient. Raises ValueError for negative
    options or betas outside [0, 1).
    """

    def __init__(
        self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0, *,
        maximize: bool = False,
    ):  # fmt: skip
        super(Adam, self).__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize))

    def update(self, p: Tensor, g: Any, state: dict[str, Any], group: dict[str, Any]) -> None:
        b1, b2 = group["betas"]
        lr, decay = group["lr"], group["weight_decay"]
        mean = self.moment(state, "exp_avg", p)
        sign = -1.0 if group["maximize"] else 1.0
        for w, d, m, a, b in self.blocks(p.array, g, mean):
            np.multiply(m, b1, out=b)
            np.multiply(d, sign * (1 - b1), out=a)
            b += a
            m *= b2
            np.multiply(d, sign * (1 - b2), out=a)
            m += a
            if decay:
                w *= 1 - lr * decay
            np.sign(b, out=b)
            b *= lr
            w -= b
