"""Residual networks: He et al. 2015 (arXiv:1512.03385). torchvision's names, sizes and state_dict keys.

A block learns what to *add* to its input: y = relu(x + F(x)). The way around F carries signal and gradient unchanged
(dy/dx = 1 + F'), so depth does not hurt; without it (`skip=False`) the same stack of convolutions hardly trains once it
is deep. Where a block changes the size, a 1x1 convolution and a norm (`downsample`) bring x to the size of F(x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from minidl import nn

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "ResNet",
    "SqueezeExcitation",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet_cifar",
]


class SqueezeExcitation(nn.Module):
    """Each channel times a weight in 0 ... 1 that is made of all channels' means.    (N, C, H, W) -> (N, C, H, W)

        y = x * s,    s = sigmoid(W2 relu(W1 mean(x) + b1) + b2)    # N, C, 1, 1

    What spatial attention does with places, this does with channels: which of the features count is decided by the
    whole image. Hu et al. 2017 (arXiv:1709.01507), with torchvision's names.

    Args: input_channels: C. squeeze_channels: how many numbers the means are squeezed into.

    >>> import minidl
    >>> gate = SqueezeExcitation(32, 2)
    >>> gate(minidl.ones(1, 32, 4, 4)).shape, sum(p.numel() for p in gate.parameters())
    (minidl.Size([1, 32, 4, 4]), 162)
    """

    def __init__(self, input_channels: int, squeeze_channels: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(input_channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, input_channels, 1)

    def scale(self, x: Any) -> Any:
        """The weights.    (N, C, H, W) -> (N, C, 1, 1)"""
        return self.fc2(self.fc1(self.avgpool(x)).relu()).sigmoid()

    def forward(self, x: Any) -> Any:
        return x * self.scale(x)


class _Block(nn.Module):
    expansion = 1  # channels that come out, in units of `channels`
    last_norm = ""

    def around(self, in_channels: int, channels: int, stride: int, skip: bool, squeeze: int) -> None:
        """The way around: nothing if the sizes agree. And what weights the channels of F(x), if wanted."""
        self.skip, out = skip, channels * self.expansion
        self.se = SqueezeExcitation(out, max(1, out // squeeze)) if squeeze else None
        self.downsample = None
        if skip and (stride != 1 or in_channels != out):
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out, 1, stride=stride, bias=False), nn.BatchNorm2d(out)
            )

    def inside(self, x: Any) -> Any:
        """F(x), before the last relu."""
        raise NotImplementedError

    def forward(self, x: Any) -> Any:
        y = self.inside(x)
        if self.se is not None:
            y = self.se(y)
        if self.skip:
            y = y + (x if self.downsample is None else self.downsample(x))
        return y.relu()


class BasicBlock(_Block):
    """Two 3x3 convolutions: ResNet-18 and -34.    (N, in_channels, H, W) -> (N, channels, H / stride, W / stride)"""

    last_norm = "bn2"

    def __init__(self, in_channels: int, channels: int, stride: int = 1, skip: bool = True, squeeze: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.around(in_channels, channels, stride, skip, squeeze)

    def inside(self, x: Any) -> Any:
        x = self.bn1(self.conv1(x)).relu()
        return self.bn2(self.conv2(x))


class Bottleneck(_Block):
    """1x1 to fewer channels, 3x3, 1x1 to four times as many: ResNet-50. The stride is the 3x3's, as in torchvision."""

    expansion = 4
    last_norm = "bn3"

    def __init__(self, in_channels: int, channels: int, stride: int = 1, skip: bool = True, squeeze: int = 0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, 4 * channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * channels)
        self.around(in_channels, channels, stride, skip, squeeze)

    def inside(self, x: Any) -> Any:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.bn3(self.conv3(x))


class ResNet(nn.Module):
    """A stem, stages of residual blocks, the mean over all places, a linear layer.    (N, C, H, W) -> (N, num_classes)

    Args:
        block: BasicBlock or Bottleneck.
        layers: blocks in each stage; every stage but the first halves the edges.
        num_classes: logits.
        zero_init_residual: the last norm of each block starts at zero, so that the block starts as the identity.
        in_channels: of the images.
        widths: channels of each stage.
        small: for images of a few dozen pixels: a 3x3 stem that keeps the size, in place of 7x7 by 2 and a pool by 2.
        skip: False leaves out every way around, for comparison.
        squeeze: each block weights the channels of F(x), from as many of them divided by this (SqueezeExcitation; 16 in
            its paper); 0: no weights.

    >>> sum(p.numel() for p in ResNet(BasicBlock, [2, 2, 2, 2]).parameters())
    11689512
    >>> sum(p.numel() for p in ResNet(Bottleneck, [3, 4, 6, 3], squeeze=16).parameters())  # SE-ResNet-50
    28088024
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        layers: Sequence[int],
        num_classes: int = 1000,
        zero_init_residual: bool = False,
        in_channels: int = 3,
        widths: Sequence[int] = (64, 128, 256, 512),
        small: bool = False,
        skip: bool = True,
        squeeze: int = 0,
    ) -> None:
        super().__init__()
        if len(layers) != len(widths):
            raise ValueError(
                f"ResNet: {len(layers)} stages ({list(layers)}), but {len(widths)} widths ({list(widths)})"
            )
        channels, self.stages = widths[0], len(layers)
        size, stride, pad = (3, 1, 1) if small else (7, 2, 3)
        self.conv1 = nn.Conv2d(in_channels, channels, size, stride=stride, padding=pad, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        for stage, (width, blocks) in enumerate(zip(widths, layers)):
            row = nn.Sequential()
            for i in range(blocks):
                row.append(block(channels, width, 2 if stage and not i else 1, skip, *((squeeze,) if squeeze else ())))
                channels = width * block.expansion
            self.add_module(f"layer{stage + 1}", row)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(m, _Block) and zero_init_residual:
                nn.init.zeros_(m.get_submodule(m.last_norm).weight)

    def features(self, x: Any) -> Any:
        """What the linear layer sees.    N, widths[-1] * block.expansion"""
        x = self.maxpool(self.bn1(self.conv1(x)).relu())
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return self.avgpool(x).flatten(1)

    def forward(self, x: Any) -> Any:
        return self.fc(self.features(x))


def resnet18(**options: Any) -> ResNet:
    """ResNet-18: 11,689,512 parameters. Options are ResNet's."""
    return ResNet(BasicBlock, [2, 2, 2, 2], **options)


def resnet34(**options: Any) -> ResNet:
    """ResNet-34: 21,797,672 parameters. Options are ResNet's."""
    return ResNet(BasicBlock, [3, 4, 6, 3], **options)


def resnet50(**options: Any) -> ResNet:
    """ResNet-50: 25,557,032 parameters. Options are ResNet's."""
    return ResNet(Bottleneck, [3, 4, 6, 3], **options)


def resnet_cifar(depth: int = 20, num_classes: int = 10, width: int = 16, **options: Any) -> ResNet:
    """The small one of section 4.2, for images of a few dozen pixels: depth = 6 n + 2, three stages of n blocks.

    Where the paper pads with zeros on the way around, this has 1x1 convolutions (its option B). Raises ValueError for
    a depth that is not 6 n + 2. Further options are ResNet's.

    >>> sum(p.numel() for p in resnet_cifar(20).parameters())
    272474
    """
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1:
        raise ValueError(f"resnet_cifar: depth must be 6 n + 2 (8, 14, 20, 26, 32 ...), got {depth}")
    widths = (width, 2 * width, 4 * width)
    return ResNet(BasicBlock, [n] * 3, num_classes, widths=widths, small=True, **options)
