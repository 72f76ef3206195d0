"""A quantized model that nobody has run.

"Train and evaluate the quantized model" is where the sample stops. Whether few bits cost accuracy is a question of
measuring: here for 8, 4, 3 and 2 bits of each weight, a network that was trained on the digits, on images not seen.

Right: evaluate before and after, weights only, dynamic, static; where it costs too
much, train on what will be deployed (`minidl examples 12`).
"""

import copy

import numpy as np

import minidl
from minidl import nn, optim
from minidl.compress import quantize_, quantize_static
from minidl.data import digits
from minidl.nn import functional as F


def trained():
    x, y = digits()
    x = x.reshape(len(x), 1, 8, 8).astype(np.float32) / 16
    minidl.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 10)
    )
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for step in range(150):
        rows = np.arange(step * 64, step * 64 + 64) % 1200
        loss = F.cross_entropy(model(minidl.tensor(x[rows])), minidl.tensor(y[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), x[:1200], (minidl.tensor(x[1200:]), y[1200:])


def accuracy(model, data):
    with minidl.no_grad():
        return round(float((model(data[0]).numpy().argmax(1) == data[1]).mean()), 3)


def broken():
    model, _, _ = trained()
    quantize_(model, 2)
    return {"accuracy": None}  # the sample's last line is "..."


def fixed():
    model, x, test = trained()
    found = {"float": accuracy(model, test)}
    for bits in (8, 4, 3, 2):
        found[f"{bits} bits"] = accuracy(quantize_(copy.deepcopy(model), bits, weight_only=True), test)
    found["8 bits, dynamic"] = accuracy(quantize_(copy.deepcopy(model)), test)
    found["8 bits, static"] = accuracy(quantize_static(model, x[:256]), test)
    return found


def check(broken, fixed):
    assert broken["accuracy"] is None
    assert fixed["float"] > 0.9
    for name in ("8 bits", "8 bits, dynamic", "8 bits, static"):
        assert abs(fixed[name] - fixed["float"]) <= 0.01
    assert fixed["2 bits"] < fixed["float"] - 0.02


if __name__ == "__main__":
    from clinic import show

    show(globals())
