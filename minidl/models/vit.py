"""A vision transformer: Dosovitskiy et al. 2020 (arXiv:2010.11929). torchvision's names, sizes and state_dict keys.

The image is cut into patches, each of which becomes a token by one linear map (a convolution whose stride is its size);
a class token is put before them, positions are added, a transformer's encoder reads them all, and the class token's
output is classified. `vit_tiny` is sized for digits.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Any

from minidl import nn
from minidl.ops.create import empty, zeros
from minidl.ops.joining import cat
from minidl.ops.tiling import broadcast_to

__all__ = ["VisionTransformer", "vit_tiny"]


class _EncoderBlock(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).    N, T, E"""

    def __init__(self, heads: int, hidden_dim: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(hidden_dim, heads, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(hidden_dim, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(hidden_dim, mlp_dim), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(mlp_dim, hidden_dim), nn.Dropout(dropout),
        )  # fmt: skip
        for layer in (self.mlp[0], self.mlp[3]):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, 0.0, 1e-6)

    def forward(self, x: Any) -> Any:
        y = self.ln_1(x)
        x = x + self.dropout(self.self_attention(y, y, y, need_weights=False)[0])
        return x + self.mlp(self.ln_2(x))


class _Encoder(nn.Module):
    """Positions, the blocks, a last norm.    N, T, E"""

    def __init__(self, tokens: int, layers: int, heads: int, hidden_dim: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(nn.init.normal_(empty(1, tokens, hidden_dim), 0.0, 0.02))
        self.dropout = nn.Dropout(dropout)
        blocks = [(f"encoder_layer_{i}", _EncoderBlock(heads, hidden_dim, mlp_dim, dropout)) for i in range(layers)]
        self.layers = nn.Sequential(OrderedDict(blocks))
        self.ln = nn.LayerNorm(hidden_dim, eps=1e-6)

    def forward(self, x: Any) -> Any:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class VisionTransformer(nn.Module):
    """(N, in_channels, image_size, image_size) -> (N, num_classes)

    >>> vit = VisionTransformer(224, 16, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=128)
    >>> tuple(vit.encoder.pos_embedding.shape)  # 14 x 14 patches and the class token
    (1, 197, 64)
    """

    def __init__(
        self, image_size: int, patch_size: int, num_layers: int, num_heads: int, hidden_dim: int, mlp_dim: int,
        dropout: float = 0.0, num_classes: int = 1000, in_channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"VisionTransformer: images of {image_size} do not divide into patches of {patch_size}")
        self.image_size = image_size
        self.class_token = nn.Parameter(zeros(1, 1, hidden_dim))
        self.conv_proj = nn.Conv2d(in_channels, hidden_dim, patch_size, stride=patch_size)
        tokens = (image_size // patch_size) ** 2 + 1
        self.encoder = _Encoder(tokens, num_layers, num_heads, hidden_dim, mlp_dim, dropout)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(hidden_dim, num_classes)))
        nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (in_channels * patch_size**2)))
        for zero in (self.conv_proj.bias, self.heads.head.weight, self.heads.head.bias):
            nn.init.zeros_(zero)

    def forward(self, x: Any) -> Any:
        if tuple(x.shape[-2:]) != (self.image_size, self.image_size):
            raise ValueError(f"VisionTransformer: made for images of {self.image_size} pixels, got {tuple(x.shape)}")
        x = self.conv_proj(x).flatten(2).transpose(1, 2)  # N, T - 1, E
        x = cat([broadcast_to(self.class_token, (len(x), 1, x.shape[-1])), x], 1)  # N, T, E
        return self.heads(self.encoder(x)[:, 0])


def vit_tiny(
    image_size: int = 8, patch_size: int = 2, num_classes: int = 10, in_channels: int = 1
) -> VisionTransformer:
    """Four blocks of 64 features and 4 heads, for digits: 136,138 parameters."""
    return VisionTransformer(image_size, patch_size, 4, 4, 64, 128, num_classes=num_classes, in_channels=in_channels)
