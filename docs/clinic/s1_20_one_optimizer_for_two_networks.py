"""S1-20: one Adam for both networks of a GAN.

The sample made one optimizer and gave it the generator's gradients and then the discriminator's. An optimizer keeps
moments of each parameter, so it belongs to the parameters that it was made for: the sample stopped with an error, since
the second network's were unknown to it. Given the parameters of both, it would not stop, and be wrong: its step moves
both networks, while the loss of one of them wants the other one to stay. Each network has an optimizer of its own.
"""

import numpy as np

import minidl
from minidl import nn, optim
from minidl.nn.functional import softplus


def one_step_of_the_discriminator(parameters_of):
    """How far the generator moved, though it was the discriminator's turn."""
    minidl.manual_seed(0)
    generator, discriminator = nn.Linear(4, 2), nn.Linear(2, 1)
    optimizer = optim.Adam(parameters_of(generator, discriminator), lr=0.1)
    before = generator.weight.detach().numpy().copy()
    loss = softplus(discriminator(generator(minidl.randn(8, 4)))).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(np.abs(generator.weight.detach().numpy() - before).max())


def broken():
    return one_step_of_the_discriminator(lambda g, d: [*g.parameters(), *d.parameters()])


def fixed():
    return one_step_of_the_discriminator(lambda g, d: d.parameters())


def check(broken, fixed):
    assert broken > 0.09  # Adam's first step is lr for each weight: it made the fakes worse
    assert fixed == 0


if __name__ == "__main__":
    from clinic import show

    show(globals())
