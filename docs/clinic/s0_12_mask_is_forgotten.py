"""A pruned network that is neither trained nor, after a step of training, pruned.

The sample prunes `Net()`, a fresh network that has learned nothing, and multiplies the weights by the mask once. If
it is then retrained, the optimizer brings the weights back: with momentum from before the pruning even those whose
gradient is masked. Nothing is evaluated.

Right: prune the trained network, keep the mask on the parameter, where the optimizer applies it after every update,
and measure before, after and after retraining.
"""

import minidl
from minidl import nn, optim
from minidl.compress import magnitude_mask, prune_, sparsity
from minidl.data import load_images
from minidl.train import evaluate, fit

LOSS = nn.functional.cross_entropy


def digits():
    data = load_images().scaled()
    flat = lambda x: x.reshape(len(x), -1)
    return (flat(data.x_train), data.y_train), (flat(data.x_test), data.y_test)


def net():
    minidl.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def train(model, data, epochs):
    sgd = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    fit(model, data, loss=LOSS, optimizer=sgd, epochs=epochs, progress=False)


def broken():
    train_data, test = digits()
    pruned = net()
    for p in pruned.parameters():
        if p.ndim == 2:
            p.array *= magnitude_mask(p.array, 0.9)
    untrained = evaluate(pruned, test, LOSS, metrics=["accuracy"]).accuracy
    train(pruned, train_data, 1)
    return {"accuracy of the pruned net": round(untrained, 3), "sparsity after one epoch": round(sparsity(pruned), 3)}


def fixed():
    train_data, test = digits()
    model, accuracy = net(), []
    measure = lambda: accuracy.append(round(evaluate(model, test, LOSS, metrics=["accuracy"]).accuracy, 3))
    train(model, train_data, 6)
    measure()
    prune_(model, 0.9)
    measure()
    train(model, train_data, 10)
    measure()
    return {"accuracy trained, pruned, retrained": accuracy, "sparsity": round(sparsity(model), 3)}


def check(broken, fixed):
    assert broken["accuracy of the pruned net"] < 0.3
    assert broken["sparsity after one epoch"] < 0.5
    trained, pruned, retrained = fixed["accuracy trained, pruned, retrained"]
    assert fixed["sparsity"] == 0.9
    assert retrained > pruned
    assert retrained > trained - 0.03


if __name__ == "__main__":
    from clinic import show

    show(globals())
