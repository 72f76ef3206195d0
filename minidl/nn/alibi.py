"""ALiBi: attention that prefers what is near, by a bias on the scores in place of positions in the inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl.devices import move
from minidl.nn.module import Module
from minidl.tensors import Tensor, wrap

__all__ = ["ALiBi"]


def _slopes(heads: int) -> np.ndarray:
    """2^(-8 i / n), i = 1 .. n for a power of two n; for other numbers of heads, those of the next lower power and then
    every other one of the next higher: the authors' rule (github.com/ofirpress/attention_with_linear_biases).
    """
    n = 2 ** math.floor(math.log2(heads))
    slopes = 2.0 ** (-8 / n * np.arange(1, n + 1))
    between = 2.0 ** (-4 / n * np.arange(1, 2 * n + 1, 2))
    return np.concatenate([slopes, between[: heads - n]])


class ALiBi(Module):
    """The bias -m_h |i - j| for query i and key j, a slope m_h for each head; Press et al. 2022 (arXiv:2108.12409).

    Goes to attention as its float mask. No parameters, no longest length: a model trained on short texts reads longer
    ones. With `causal` what comes after the query is -inf. ValueError for less than one head.

    >>> ALiBi(8)(1, 3).tolist()[0]
    [[-1.0, -0.5, 0.0]]

    Try: ALiBi(2)(3, 3)
    """

    def __init__(self, num_heads: int, causal: bool = False):
        super().__init__()
        if num_heads < 1:
            raise ValueError(f"ALiBi needs at least one head, got {num_heads}")
        self.num_heads, self.causal = num_heads, causal

    def forward(self, queries: int, keys: int | None = None, dtype: Any = np.float32, device: Any = "cpu") -> Tensor:
        """(T queries, S keys) -> (H, T, S); the last query stands at the last key, as it does with a cache of keys."""
        keys = queries if keys is None else keys
        ahead = np.arange(keys) - np.arange(keys - queries, keys)[:, None]  # T, S
        bias = -np.abs(ahead) * _slopes(self.num_heads)[:, None, None]
        if self.causal:
            bias[:, ahead > 0] = -np.inf
        return wrap(move(bias.astype(dtype), device))

    def extra_repr(self) -> str:
        return f"{self.num_heads}" + (", causal=True" if self.causal else "")
