"""Neurons that are deleted in the text, and covered in the code.

The steps say: compute importance, delete unimportant neurons and weights. The code multiplies weights by a mask: the
network has as many numbers as before, and computes with all of them.

Right: if whole neurons are to go, remove their rows, the columns of the layer after that read them, and their biases.
What is left is an ordinary smaller network, which gives the same as the covered one.
"""

import copy

import numpy as np

import minidl
from minidl import nn
from minidl.compress import prune_channels_, slim


def parts():
    """A network with half of its hidden neurons covered, and an input."""
    minidl.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4)).eval()
    x = minidl.randn(5, 8)
    return prune_channels_(net, 0.5, x), x


def size(net):
    return sum(p.numel() for p in net.parameters())


def broken():
    covered, _ = parts()
    return {"numbers": size(covered)}


def fixed():
    covered, x = parts()
    small = slim(copy.deepcopy(covered), x)
    off = float(np.abs((small(x) - covered(x)).detach().numpy()).max())
    return {"numbers": size(small), "off by": off}


def check(broken, fixed):
    assert broken["numbers"] == 8 * 64 + 64 + 64 * 4 + 4
    assert fixed["numbers"] == 8 * 32 + 32 + 32 * 4 + 4
    assert fixed["off by"] < 1e-5


if __name__ == "__main__":
    from clinic import show

    show(globals())
