"""S1-18: a generator whose first layer makes a row of numbers, and whose second wants an image.

The sample's generator went from a dense layer of 7 * 7 * 256 outputs straight to a transposed convolution. That takes
images (N, C, H, W), and was given rows (N, 12544). What was left out is the step that lays a row out as 256 channels of
7 x 7 places. Here with 2 x 2 places of 8 channels.
"""

import minidl
from minidl import nn


def broken():
    generator = nn.Sequential(
        nn.Linear(16, 2 * 2 * 8, bias=False), nn.BatchNorm1d(2 * 2 * 8), nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 5, stride=2, padding=2, output_padding=1), nn.Tanh(),
    )  # fmt: skip
    return generator(minidl.randn(3, 16)).shape


def fixed():
    generator = nn.Sequential(
        nn.Linear(16, 2 * 2 * 8, bias=False), nn.BatchNorm1d(2 * 2 * 8), nn.ReLU(),
        nn.Unflatten(1, (8, 2, 2)),  # N, 32 -> N, 8, 2, 2
        nn.ConvTranspose2d(8, 1, 5, stride=2, padding=2, output_padding=1), nn.Tanh(),
    )  # fmt: skip
    return generator(minidl.randn(3, 16)).shape


def check(broken, fixed):
    assert isinstance(broken, RuntimeError)
    assert "must be (N, C, H, W) or (C, H, W), got (3, 32)" in str(broken)
    assert fixed == (3, 1, 4, 4)


if __name__ == "__main__":
    from clinic import show

    show(globals())
