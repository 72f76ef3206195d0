"""S1-32: a residual network that asks its block for something that the block does not have.

A network of blocks must know how many channels come out of each, so it multiplied by `block.expansion`, which the
sample's block did not define: AttributeError before the first layer. (What looked like its other fault is none: an
empty Sequential is false in `if self.downsample`, since it has length 0. None says it better.)
"""

import minidl
from minidl import nn
from minidl.models import BasicBlock, ResNet


class Block(nn.Module):
    def __init__(self, in_channels, channels, stride=1, skip=True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1)
        self.downsample = nn.Sequential()

    def forward(self, x):
        return x + self.conv(self.downsample(x) if self.downsample else x)


def broken():
    return ResNet(Block, [1], widths=[4], num_classes=2, small=True)(minidl.zeros(1, 3, 8, 8)).shape


def fixed():
    return ResNet(BasicBlock, [1], widths=[4], num_classes=2, small=True)(minidl.zeros(1, 3, 8, 8)).shape


def check(broken, fixed):
    assert isinstance(broken, AttributeError)
    assert "expansion" in str(broken)
    assert fixed == (1, 2)
    assert not nn.Sequential()


if __name__ == "__main__":
    from clinic import show

    show(globals())
