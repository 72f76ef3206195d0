"""Transfer learning whose pretrained model changes.

The sample builds a second network, puts the first one's layer into it (`self.layer1 = pretrained.layer1`) and trains.
Assigning a layer shares it: both networks hold the same `Parameter` objects, so fine-tuning rewrites the pretrained
model. It also stacks two dense layers without an activation, which is one dense layer.

Right: a copy of the body, frozen, a new head; what was pretrained is the same afterwards, to the bit.
"""

import copy

import numpy as np

import minidl
from minidl import nn, optim
from minidl.compress import freeze_, new_head_


def pretrained():
    minidl.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def fine_tune(model):
    x, y = minidl.randn(32, 4), minidl.randint(0, 2, (32,))
    sgd = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(10):
        sgd.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        sgd.step()


def changed(model, before):
    """How far the pretrained body has moved."""
    return float(np.abs(model[0].weight.array - before).max())


def broken():
    first = pretrained()
    before = first[0].weight.array.copy()
    fine_tune(nn.Sequential(first[0], nn.Linear(8, 2)))
    return changed(first, before)


def fixed():
    first = pretrained()
    before = first[0].weight.array.copy()
    second = copy.deepcopy(first)
    new_head_(second, 2)
    freeze_(second, "0")
    fine_tune(second)
    return max(changed(first, before), changed(second, before))


def check(broken, fixed):
    assert broken > 0.01
    assert fixed == 0.0


if __name__ == "__main__":
    from clinic import show

    show(globals())
