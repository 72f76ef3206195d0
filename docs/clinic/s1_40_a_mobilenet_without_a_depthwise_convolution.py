"""S1-40: a "MobileNet" of ordinary convolutions, each stage of which expects 64 channels.

The sample's stages were built for 64 channels of input, whatever the stage before gave: the third stops with an error.
With that mended, its last layer wants 512 * 4 * 4 numbers, and gets 512 from the pool before it. With that mended, too,
it runs, and is no MobileNet: not one of its convolutions is depthwise, and it has 17.2 million parameters. MobileNetV1
has 13 depthwise ones and 4.2 million.
"""

import minidl
from minidl import nn
from minidl.models import MobileNetV1

STAGES = ((64, 1, 1), (128, 2, 2), (256, 3, 2), (512, 4, 2))  # channels, layers, stride


def conv(c, k, stride):
    return [nn.Conv2d(c, k, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(k), nn.ReLU()]


def network(channels_into_a_stage, width):
    """The sample's plan, at 1 / width of its widths."""
    layers = [*conv(3, 32 // width, 2), *conv(32 // width, 64 // width, 1)]
    before = 64 // width
    for k, n, stride in STAGES:
        k //= width
        layers += conv(channels_into_a_stage(before), k, stride)
        for _ in range(n - 1):
            layers += conv(k, k, 1)
        before = k
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512 // width, 1000))


def depthwise(model):
    return sum(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in model.modules())


def broken():
    return network(lambda before: 64 // 8, width=8)(minidl.zeros(1, 3, 32, 32)).shape


def fixed():
    model = MobileNetV1(width_mult=1 / 8).eval()
    return model(minidl.zeros(1, 3, 32, 32)).shape, depthwise(model), depthwise(network(lambda before: before, width=8))


def check(broken, fixed):
    assert isinstance(broken, RuntimeError)
    shape, separable, mended = fixed
    assert shape == (1, 1000)
    assert (separable, mended) == (13, 0)


if __name__ == "__main__":
    from clinic import show

    show(globals())
