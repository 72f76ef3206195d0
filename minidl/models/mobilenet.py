"""MobileNets: Howard et al. 2017 (arXiv:1704.04861) and Sandler et al. 2018 (arXiv:1801.04381).

A 3x3 convolution from C to K channels takes 9 C K multiplications a place. Depthwise separable, 3x3 in each channel by
itself and then 1x1 across the channels, it takes 9 C + C K: about a ninth. V1 is a stack of those; V2 widens first, and
then narrows without an activation (the "linear bottleneck"), with a way around between the narrow ends. All widths are
scaled by `width_mult`. V2 has torchvision's names, sizes and state_dict keys.
"""

from __future__ import annotations

from typing import Any

from minidl import nn

__all__ = ["InvertedResidual", "MobileNetV1", "MobileNetV2", "divisible"]

V1 = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]  # K, stride
V2 = [  # expansion, K, blocks, stride of the first
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
]  # fmt: skip


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of `by`, at least `by` and never more than 10 % below `channels`.

    >>> [divisible(c) for c in (3, 16.8, 24 * 0.5, 11.9)]
    [8, 16, 16, 16]
    """
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


def conv_norm(c: int, k: int, size: int = 3, stride: int = 1, groups: int = 1, act: type = nn.ReLU6) -> nn.Sequential:
    """A convolution without bias, a norm and an activation."""
    return nn.Sequential(
        nn.Conv2d(c, k, size, stride=stride, padding=size // 2, groups=groups, bias=False), nn.BatchNorm2d(k), act()
    )


def _initialize(model: nn.Module) -> None:
    for m in model.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out")
        elif isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, 0.0, 0.01)
            nn.init.zeros_(m.bias)


class _MobileNet(nn.Module):
    """`features`, the mean over all places, `classifier`."""

    features: Any
    classifier: Any

    def pooled(self, x: Any) -> Any:
        """What the classifier sees.    N, channels"""
        return self.features(x).mean((2, 3))

    def forward(self, x: Any) -> Any:
        return self.classifier(self.pooled(x))


class MobileNetV1(_MobileNet):
    """Thirteen depthwise separable convolutions.    (N, in_channels, H, W) -> (N, num_classes)

    `stride` is that of the first convolution: 2, or 1 for small images. 4,231,976 parameters, 4,253,864 with the
    running statistics of the norms.

    >>> sum(p.numel() for p in MobileNetV1().parameters())
    4231976
    """

    def __init__(
        self, num_classes: int = 1000, width_mult: float = 1.0, in_channels: int = 3, dropout: float = 0.0,
        stride: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        c = divisible(32 * width_mult)
        self.features = nn.Sequential(conv_norm(in_channels, c, stride=stride, act=nn.ReLU))
        for channels, step in V1:
            k = divisible(channels * width_mult)
            self.features.append(
                nn.Sequential(
                    conv_norm(c, c, stride=step, groups=c, act=nn.ReLU),  # depthwise: a filter for each channel
                    conv_norm(c, k, size=1, act=nn.ReLU),  # pointwise: mixes the channels
                )
            )
            c = k
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(c, num_classes))
        _initialize(self)


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times as many channels, 3x3 depthwise, 1x1 back down, and around it x if the sizes agree."""

    def __init__(self, c: int, k: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c * expansion
        self.around = stride == 1 and c == k
        self.conv = nn.Sequential(
            *([conv_norm(c, wide, size=1)] if expansion != 1 else []),
            conv_norm(wide, wide, stride=stride, groups=wide),
            nn.Conv2d(wide, k, 1, bias=False),  # no activation: relu would destroy what few channels hold
            nn.BatchNorm2d(k),
        )

    def forward(self, x: Any) -> Any:
        return x + self.conv(x) if self.around else self.conv(x)


class MobileNetV2(_MobileNet):
    """Inverted residuals.    (N, in_channels, H, W) -> (N, num_classes)

    Arguments as MobileNetV1's. 3,504,872 parameters.

    >>> sum(p.numel() for p in MobileNetV2().parameters())
    3504872
    """

    def __init__(
        self, num_classes: int = 1000, width_mult: float = 1.0, in_channels: int = 3, dropout: float = 0.2,
        stride: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        c, last = divisible(32 * width_mult), divisible(1280 * max(1.0, width_mult))
        self.features = nn.Sequential(conv_norm(in_channels, c, stride=stride))
        for expansion, channels, blocks, step in V2:
            k = divisible(channels * width_mult)
            for i in range(blocks):
                self.features.append(InvertedResidual(c, k, 1 if i else step, expansion))
                c = k
        self.features.append(conv_norm(c, last, size=1))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(last, num_classes))
        _initialize(self)
