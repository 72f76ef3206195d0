"""S1-13: a hundred series of fifty numbers, laid out as one step of fifty features.

The sample declared an LSTM for series of any length with one number per step, and gave it data of shape (100, 1, 50):
one step with fifty numbers each. The comment said "length 50", the axes said otherwise, and the layer refused. A series
is (N, T, features): (100, 50, 1). Then it trains; here on sines, of which it foretells the next value.
"""

import minidl
from minidl import nn, optim
from minidl.models import Forecaster


def series():
    """100 sines of random phase, 50 values each, and the value that follows.    (N, 50), (N, 1)"""
    minidl.manual_seed(0)
    phase = minidl.rand(100, 1) * 6.28
    wave = (minidl.arange(51) * 0.3 + phase).sin()  # N, 51
    return wave[:, :50], wave[:, 50:]


def train(x, y, steps=30):
    """The mean squared error before and after."""
    model = Forecaster()
    adam = optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(steps):
        loss = nn.functional.mse_loss(model(x), y)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses[0], losses[-1]


def broken():
    x, y = series()
    return train(x.unsqueeze(1), y)  # N, 1, 50


def fixed():
    x, y = series()
    return train(x.unsqueeze(2), y)  # N, 50, 1


def check(broken, fixed):
    assert isinstance(broken, RuntimeError)
    assert "50" in str(broken)
    before, after = fixed
    assert after < 0.1 * before


if __name__ == "__main__":
    from clinic import show

    show(globals())
