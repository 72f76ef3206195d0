"""S1-12: an LSTM whose equations are missing.

"The model is given by the following equations", and then come none, only what the letters mean. Without them nobody
can tell which rows of the weights belong to which gate, and the obvious guess, in the order in which the text lists the
gates (input, forget, output, then the cell), is not what the libraries store.

Right, in torch's order of rows, i f g o:

    i, f, o = sigmoid(W x + U h + b),  g = tanh(W x + U h + b),  c = f c + i g,  h = o tanh(c)
"""

import numpy as np

import minidl
from minidl import nn


def off(order):
    """How far h is from the layer's own after five steps, if the rows are read in this order of gates."""
    minidl.manual_seed(0)
    layer, xs = nn.LSTM(3, 4, batch_first=True), minidl.randn(1, 5, 3)
    right = layer(xs)[0][0, -1].detach().numpy()
    w, u, b, d = (p.detach().numpy() for p in layer.parameters())
    h, c = np.zeros(4), np.zeros(4)
    for x in xs[0].numpy():
        z = dict(zip(order, np.split(w @ x + u @ h + b + d, 4)))
        i, f, o = (1 / (1 + np.exp(-z[k])) for k in "ifo")
        c = f * c + i * np.tanh(z["g"])
        h = o * np.tanh(c)
    return float(np.abs(h - right).max())


def broken():
    return off("ifog")


def fixed():
    return off("ifgo")


def check(broken, fixed):
    assert broken > 0.01
    assert fixed < 1e-6


if __name__ == "__main__":
    from clinic import show

    show(globals())
