"""S1-34: a method that initializes the weights, and no line that calls it.

The sample defined `_initialize_weights` (He's normal distribution for convolutions) and never used it, so it ran with
the layers' defaults. Those, uniform within 1 / sqrt(fan_in), have a third of the variance 1 / fan_in, where a rectifier
needs 2 / fan_in: six times too little, in every layer. Without norms between them, ten layers shrink a signal by
6^(10 / 2) = 7776.
"""

import minidl
from minidl import nn


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.layers = nn.Sequential(
            *(m for _ in range(10) for m in (nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.ReLU()))
        )
        if call:
            self._initialize_weights()

    def _initialize_weights(self):
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        return self.layers(x)


def size_of_the_output(call):
    minidl.manual_seed(0)
    return Net(call)(minidl.randn(8, 16, 12, 12)).std().item()


def broken():
    return size_of_the_output(call=False)


def fixed():
    return size_of_the_output(call=True)


def check(broken, fixed):
    assert broken < 1e-3
    assert 0.1 < fixed < 10


if __name__ == "__main__":
    from clinic import show

    show(globals())
