"""S1-4: pictures (N, 28, 28) for a convolution that wants channels.

The sample declared images of 28 x 28 x 1 and passed arrays of (60000, 28, 28). One library adds the missing axis
silently. A layer that takes (N, C, H, W) or one image (C, H, W) must not guess: here 5 images would be one image of 5
channels. The axis is added where the data is read (`ImageData.scaled` does), and the error says which sizes disagree.
"""

import minidl
from minidl.models import mnist_cnn


def broken():
    return mnist_cnn()(minidl.rand(5, 28, 28))


def fixed():
    return mnist_cnn()(minidl.rand(5, 28, 28).unsqueeze(1)).shape


def check(broken, fixed):
    assert isinstance(broken, RuntimeError)
    assert "channel" in str(broken)
    assert fixed == (5, 10)


if __name__ == "__main__":
    from clinic import show

    show(globals())
