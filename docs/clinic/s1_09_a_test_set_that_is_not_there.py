"""S1-9: a test set in the text, and none in the code.

"At last the model is evaluated on the test set", says the text; the code fits three sentences and ends. What a network
says of the examples that it was fitted to is no evidence: it learns random labels by heart as well.

Right: keep examples back that training never sees, and evaluate on those.
"""

import minidl
from minidl import nn, optim
from minidl.nn import functional as F
from minidl.train import evaluate, fit


def learned():
    """A network fitted to random labels, the examples that it saw, and others."""
    minidl.manual_seed(0)
    x, y = minidl.randn(400, 20), minidl.randint(0, 2, (400,))
    net = nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 2))
    fit(net, (x[:100], y[:100]), loss=F.cross_entropy, optimizer=optim.Adam(net.parameters(), lr=1e-2), epochs=30,
        batch_size=50, progress=False)  # fmt: skip
    return net, (x[:100], y[:100]), (x[100:], y[100:])


def accuracy(net, data):
    return evaluate(net, data, F.cross_entropy, metrics=["accuracy"]).accuracy


def broken():
    net, seen, _ = learned()
    return accuracy(net, seen)


def fixed():
    net, _, unseen = learned()
    return accuracy(net, unseen)


def check(broken, fixed):
    assert broken > 0.99
    assert 0.35 < fixed < 0.65  # 300 coins: heads 150 +- 9


if __name__ == "__main__":
    from clinic import show

    show(globals())
