"""S1-27: a diffusion model that never meets its noise.

The sample added noise of one size at every time, drew the time from N(0, 1), so that half of the times were negative,
and put t log(output) into the loss, whose output may be negative as well: most losses were NaN. Its network said what
the image is, not what noise was in it, and the way back was defined and never called.

Right: t in 0 ... 1 says how much of the image is left, x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps; the loss is the mean
square of eps_theta(x_t, t) - eps. A network that says nothing has loss 1.
"""

import numpy as np

import minidl
from minidl import nn
from minidl.models import Diffusion


class Silent(nn.Module):
    def forward(self, x, t):
        return x * 0


def losses(of):
    """Of 40 images."""
    minidl.manual_seed(0)
    return np.array([of(minidl.rand(1, 64)).item() for _ in range(40)])


def broken():
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid())

    def loss(x):
        t, noisy = minidl.randn(1), x + minidl.randn(1, 64)
        guess = network(noisy) - t * (noisy + 1e-8).log()
        return ((guess - x) ** 2 + t * (guess + 1e-8).log()).mean()

    return losses(loss)


def fixed():
    model = Diffusion(Silent(), "linear")
    return losses(lambda x: (model(x) ** 2).mean())


def check(broken, fixed):
    assert np.isnan(broken).mean() > 0.8
    assert abs(fixed.mean() - 1) < 0.15  # the mean of 2,560 squares of N(0, 1): deviation 0.028


if __name__ == "__main__":
    from clinic import show

    show(globals())
