"""Positions for attention, which by itself does not see order: sinusoidal, learned, rotary."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import require
from minidl.devices import move
from minidl.nn import init
from minidl.nn.module import Module
from minidl.nn.parameter import Parameter
from minidl.ops.create import empty
from minidl.ops.joining import cat, stack
from minidl.ops.shapes import reshape
from minidl.tensors import wrap

__all__ = ["LearnedPositions", "RotaryPositions", "SinusoidalPositions"]


def _angles(start: int, end: int, dim: int, base: float) -> np.ndarray:
    """p base^(-2 i / dim) for positions p from start to end and i < dim / 2, float64 (T, dim / 2 rounded up)."""
    return np.arange(start, end)[:, None] * base ** (-np.arange(0, dim, 2) / dim)


def _at_positions(x: Any, table: Any, batch_first: bool) -> Any:
    """x + table (T, E), the positions of x being dimension -2 or, for (T, B, E), 0."""
    return x + (table if batch_first or x.ndim == 2 else table.unsqueeze(1))


def _time(x: Any, batch_first: bool, dim: int) -> int:
    require(x.ndim in (2, 3) and x.shape[-1] == dim, "positions: x must be (..., T, {}), got {}", dim, tuple(x.shape))
    return x.shape[-2] if batch_first or x.ndim == 2 else x.shape[0]


class SinusoidalPositions(Module):
    """y = x + P with P[p, 2 i] = sin(p / base^(2 i / E)), P[p, 2 i + 1] = cos(p / base^(2 i / E)).

    Vaswani et al. 2017 (arXiv:1706.03762), section 3.5. x (B, T, E), or (T, B, E) with ``batch_first=False``, or (T,
    E). It has no parameters and no longest length. The table is made in float64 and rounded once to x's dtype.

    Try: SinusoidalPositions(4)(randn(2, 3, 4))
    """

    def __init__(self, embed_dim: int, base: float = 10000.0, batch_first: bool = True):
        super().__init__()
        self.embed_dim, self.base, self.batch_first = embed_dim, base, batch_first

    def forward(self, x: Any, offset: int = 0) -> Any:
        """The same shape; the first row is position `offset`."""
        time = _time(x, self.batch_first, self.embed_dim)
        angles = _angles(offset, offset + time, self.embed_dim, self.base)
        table = np.stack([np.sin(angles), np.cos(angles)], -1).reshape(time, -1)[:, : self.embed_dim]
        return _at_positions(x, wrap(move(table.astype(x.array.dtype), x.device)), self.batch_first)

    def extra_repr(self) -> str:
        return f"{self.embed_dim}"


class LearnedPositions(Module):
    """y = x + weight[position], a learned vector (E,) for each position (Gehring et al. 2017, arXiv:1705.03122).

    weight (max_len, E) starts normal with deviation 0.02 (Radford et al. 2019). Layouts as SinusoidalPositions. Raises
    ShapeError for positions from max_len on.

    Try: LearnedPositions(6, 4)(randn(2, 3, 4))
    """

    def __init__(
        self, max_len: int, embed_dim: int, batch_first: bool = True, device: Any = None, dtype: Any = None
    ):  # fmt: skip
        super().__init__()
        self.max_len, self.embed_dim, self.batch_first = max_len, embed_dim, batch_first
        self.weight = Parameter(empty(max_len, embed_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw initial values again."""
        init.normal_(self.weight, 0.0, 0.02)

    def forward(self, x: Any, offset: int = 0) -> Any:
        """The same shape; the first row is position `offset`."""
        time = _time(x, self.batch_first, self.embed_dim)
        require(
            offset >= 0 and offset + time <= self.max_len,
            "LearnedPositions: positions {} to {} are asked for, there are {}", offset, offset + time, self.max_len,
        )  # fmt: skip
        return _at_positions(x, self.weight[offset : offset + time], self.batch_first)

    def extra_repr(self) -> str:
        return f"{self.max_len}, {self.embed_dim}"


class RotaryPositions(Module):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864): queries and keys are turned, not added to.

        (x_a, x_b) -> (x_a cos - x_b sin, x_a sin + x_b cos),    angle of pair i at position p: p base^(-2 i / D)

    so that the product of a query at m and a key at n depends on m - n only. Pairs are (i, i + D / 2), or with
    `interleaved` (2 i, 2 i + 1), the paper's. x (..., T, D), D even. Raises ValueError for an odd D.

    Try: RotaryPositions(4)(randn(1, 2, 3, 4))
    """

    def __init__(self, dim: int, base: float = 10000.0, interleaved: bool = False):
        super().__init__()
        if dim % 2:
            raise ValueError(f"RotaryPositions turns pairs of numbers: dim must be even, got {dim}")
        self.dim, self.base, self.interleaved = dim, base, interleaved

    def forward(self, x: Any, offset: int = 0) -> Any:
        """The same shape; the first row of dimension -2 is position `offset`."""
        require(x.ndim >= 2 and x.shape[-1] == self.dim, "positions: x must be (..., T, {}), got {}", self.dim, x.shape)
        angles = _angles(offset, offset + x.shape[-2], self.dim, self.base)  # T, D / 2
        cos, sin = (wrap(move(f(angles).astype(x.array.dtype), x.device)) for f in (np.cos, np.sin))
        if self.interleaved:
            a, b = x[..., ::2], x[..., 1::2]
            return reshape(stack([a * cos - b * sin, a * sin + b * cos], -1), tuple(x.shape))
        a, b = x[..., : self.dim // 2], x[..., self.dim // 2 :]
        return cat([a * cos - b * sin, a * sin + b * cos], -1)

    def extra_repr(self) -> str:
        return f"{self.dim}" + (", interleaved=True" if self.interleaved else "")
