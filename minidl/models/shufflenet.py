"""ShuffleNet V2: Ma et al. 2018 (arXiv:1807.11164). torchvision's names, sizes and state_dict keys.

Half of the channels goes through a block, the other half past it: fewer multiplications, and what is not touched costs
nothing. So that the halves meet, channels are shuffled after each block: (a0 a1 ... b0 b1 ...) -> (a0 b0 a1 b1 ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl import nn
from minidl.ops.joining import cat
from minidl.ops.shuffles import channel_shuffle
from minidl.ops.splitting import chunk

__all__ = ["ShuffleNetV2", "ShuffleUnit", "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"]


def _depthwise(c: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(c, c, 3, stride=stride, padding=1, groups=c, bias=False), nn.BatchNorm2d(c)]


def _pointwise(c: int, k: int) -> list[nn.Module]:
    return [nn.Conv2d(c, k, 1, bias=False), nn.BatchNorm2d(k), nn.ReLU()]


class ShuffleUnit(nn.Module):
    """(N, c, H, W) -> (N, k, H / stride, W / stride). With stride 2 both branches see all of x; with 1, c = k."""

    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        if k % 2 or (stride == 1 and c != k):
            raise ValueError(
                f"ShuffleUnit: {c} to {k} channels with stride {stride}: k must be even, and c with stride 1"
            )
        self.stride, half = stride, k // 2
        self.branch1 = nn.Sequential(*_depthwise(c, stride), *_pointwise(c, half)) if stride > 1 else nn.Sequential()
        self.branch2 = nn.Sequential(
            *_pointwise(c if stride > 1 else half, half), *_depthwise(half, stride), *_pointwise(half, half)
        )

    def forward(self, x: Any) -> Any:
        past, through = chunk(x, 2, 1) if self.stride == 1 else (x, x)
        return channel_shuffle(cat([self.branch1(past), self.branch2(through)], 1), 2)


class ShuffleNetV2(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes)

    Args:
        repeats: units in each of the three stages; the first of each halves the edges.
        channels: of the first convolution, the stages and the last convolution.
        stride: 2, or 1 for small images, which are then not pooled either.

    >>> sum(p.numel() for p in shufflenet_v2_x1_0().parameters())
    2278604
    """

    def __init__(
        self, repeats: Sequence[int], channels: Sequence[int], num_classes: int = 1000, in_channels: int = 3,
        stride: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        if len(repeats) != 3 or len(channels) != 5:
            raise ValueError(f"ShuffleNetV2 takes 3 repeats and 5 channels, got {list(repeats)} and {list(channels)}")
        c = channels[0]
        self.conv1 = nn.Sequential(
            nn.Conv2d(in_channels, c, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(c), nn.ReLU()
        )
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stride > 1 else nn.Identity()
        for stage, (n, k) in enumerate(zip(repeats, channels[1:]), start=2):
            units = [ShuffleUnit(c, k, 2), *(ShuffleUnit(k, k, 1) for _ in range(n - 1))]
            self.add_module(f"stage{stage}", nn.Sequential(*units))
            c = k
        self.conv5 = nn.Sequential(*_pointwise(c, channels[4]))
        self.fc = nn.Linear(channels[4], num_classes)

    def forward(self, x: Any) -> Any:
        x = self.maxpool(self.conv1(x))
        x = self.stage4(self.stage3(self.stage2(x)))
        return self.fc(self.conv5(x).mean((2, 3)))


def shufflenet_v2_x0_5(**options: Any) -> ShuffleNetV2:
    """Half the width: 1,366,792 parameters. Options are ShuffleNetV2's."""
    return ShuffleNetV2([4, 8, 4], [24, 48, 96, 192, 1024], **options)


def shufflenet_v2_x1_0(**options: Any) -> ShuffleNetV2:
    """2,278,604 parameters. Options are ShuffleNetV2's."""
    return ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024], **options)
