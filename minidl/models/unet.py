"""A small U-Net that says what noise is in an image, for diffusion: Ho et al. 2020 (arXiv:2006.11239), appendix B.

Down to coarser places and up again, each level on the way up seeing what the same level on the way down had; the time
goes into every block. Residual blocks of GroupNorm, SiLU and 3x3 convolutions; attention where places are fewest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl import nn
from minidl.ops.joining import cat
from minidl.ops.trigonometry import cos, sin
from minidl.tensors import wrap

__all__ = ["TimeEmbedding", "UNet"]


class TimeEmbedding(nn.Module):
    """Times (N,), integers or floats -> (N, dim): sines and cosines of dim / 2 frequencies, then two linear layers."""

    def __init__(self, dim: int, longest: float = 10_000.0) -> None:
        super().__init__()
        if dim % 2:
            raise ValueError(f"TimeEmbedding: half of dim are sines, half cosines; got {dim}")
        self.rates = nn.Buffer(
            wrap(np.exp(-math.log(longest) * np.arange(dim // 2) / (dim // 2)).astype(np.float32)), persistent=False
        )
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, t: Any) -> Any:
        angles = t.to(self.rates.dtype).unsqueeze(1) * self.rates  # N, dim / 2
        return self.mlp(cat([sin(angles), cos(angles)], 1))


class _Residual(nn.Module):
    """x + conv(silu(norm( conv(silu(norm(x))) + time )))    (N, c, H, W), (N, dim) -> (N, k, H, W)"""

    def __init__(self, c: int, k: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(min(8, c // 4), c), nn.Conv2d(c, k, 3, padding=1)
        self.time = nn.Linear(dim, k)
        self.norm2, self.conv2 = nn.GroupNorm(min(8, k // 4), k), nn.Conv2d(k, k, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.around = nn.Conv2d(c, k, 1) if c != k else nn.Identity()
        nn.init.zeros_(self.conv2.weight)  # starts as the way around alone
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Any, time: Any) -> Any:
        h = self.conv1(nn.functional.silu(self.norm1(x)))
        h = h + self.time(nn.functional.silu(time)).unsqueeze(-1).unsqueeze(-1)
        return self.around(x) + self.conv2(self.dropout(nn.functional.silu(self.norm2(h))))


class _Attention(nn.Module):
    """x + attention of every place to every place.    N, c, H, W"""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(min(8, c // 4), c)
        self.attention = nn.MultiheadAttention(c, heads, batch_first=True)

    def forward(self, x: Any) -> Any:
        places = self.norm(x).flatten(2).transpose(1, 2)  # N, H W, c
        y, _ = self.attention(places, places, places, need_weights=False)
        return x + y.transpose(1, 2).reshape(tuple(x.shape))


class UNet(nn.Module):
    """Noisy images (N, C, H, W) and times (N,) -> the noise (N, C, H, W).

    Args:
        channels: C.
        width: channels at full size, a multiple of 4; level i has width * levels[i].
        levels: one for each size, each half the one before: edges must be multiples of 2^(levels - 1).
        dropout: in each block.

    >>> import minidl
    >>> net = UNet(width=8)
    >>> net(minidl.zeros(2, 1, 8, 8), minidl.tensor([0, 500])).shape
    minidl.Size([2, 1, 8, 8])
    """

    def __init__(
        self, channels: int = 1, width: int = 32, levels: Sequence[int] = (1, 2, 2), dropout: float = 0.0
    ) -> None:  # fmt: skip
        super().__init__()
        dim = 4 * width
        self.time = TimeEmbedding(dim)
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.down, self.up, self.smaller, self.larger = (nn.ModuleList() for _ in range(4))
        c, sizes = width, [width * level for level in levels]
        for i, k in enumerate(sizes):
            self.down.append(_Residual(c, k, dim, dropout))
            self.smaller.append(nn.Conv2d(k, k, 3, stride=2, padding=1) if i + 1 < len(sizes) else nn.Identity())
            c = k
        self.middle, self.attention = _Residual(c, c, dim, dropout), _Attention(c, 4)
        for i, k in enumerate(reversed(sizes)):
            self.larger.append(nn.Upsample(scale_factor=2) if i else nn.Identity())
            self.up.append(_Residual(c + k, k, dim, dropout))
            c = k
        self.norm, self.last = nn.GroupNorm(min(8, c // 4), c), nn.Conv2d(c, channels, 3, padding=1)
        self.fold = 2 ** (len(sizes) - 1)
        nn.init.zeros_(self.last.weight)  # the first guess is no noise
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Any, t: Any) -> Any:
        if x.shape[-1] % self.fold or x.shape[-2] % self.fold:
            raise ValueError(f"UNet: edges must be multiples of {self.fold}, got images of {tuple(x.shape)}")
        time, kept = self.time(t), []
        x = self.first(x)
        for block, smaller in zip(self.down, self.smaller):
            x = block(x, time)
            kept.append(x)
            x = smaller(x)
        x = self.attention(self.middle(x, time))
        for block, larger in zip(self.up, self.larger):
            x = block(cat([larger(x), kept.pop()], 1), time)
        return self.last(nn.functional.silu(self.norm(x)))
