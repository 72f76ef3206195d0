"""S1-19: a sigmoid at the end of the network, and another one in the loss.

The sample's discriminator ended in a sigmoid, and its loss was told that it gets logits (`from_logits=True`), so it
took the sigmoid of a probability. A probability p in 0 ... 1 becomes one in 0.5 ... 0.73: the best that can be said of
something real is -log sigmoid(1) = 0.313, however right the network is, and the gradient never rests. The network
should end in the logit itself; the loss then needs one sigmoid, in a form that does not overflow.
"""

import minidl
from minidl import nn

LOGIT = 50.0  # as sure as one can be that this is real


def broken():
    probability = minidl.tensor([LOGIT]).sigmoid()
    return nn.BCEWithLogitsLoss()(probability, minidl.ones(1)).item()


def fixed():
    return nn.BCEWithLogitsLoss()(minidl.tensor([LOGIT]), minidl.ones(1)).item()


def check(broken, fixed):
    assert abs(broken - 0.3133) < 1e-4
    assert fixed < 1e-20


if __name__ == "__main__":
    from clinic import show

    show(globals())
