"""Chapter 8: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""

import numpy as np


def cross_entropy(logits, right):
    """(loss, gradient) of one row of logits, `right` being the number of the right class."""
    z = logits - logits.max()
    p = np.exp(z) / np.exp(z).sum()
    gradient = p.copy()
    gradient[right] -= 1
    return np.log(np.exp(z).sum()) - z[right], gradient


def check_cross_entropy(f):
    import minidl

    for logits, right in [([2.0, 0.0, 1.0], 1), ([0.0, 0.0], 0), ([500.0, -500.0, 499.0], 2)]:
        x = minidl.tensor([logits], dtype=minidl.float64, requires_grad=True)
        loss = minidl.nn.functional.cross_entropy(x, minidl.tensor([right]))
        loss.backward()
        with np.errstate(all="ignore"):
            found, gradient = f(np.array(logits), right)
        assert abs(found - loss.item()) < 1e-9, f"{logits}: the loss is {loss.item():.6g}, not {found}"
        assert np.allclose(gradient, x.grad.numpy()[0], atol=1e-12), f"{logits}: {x.grad.numpy()[0]}, not {gradient}"


def momentum_step(w, g, running, lr, mu):
    """(w, running sum) after a step of SGD with momentum mu."""
    running = mu * running + g
    return w - lr * running, running


def check_momentum_step(f):
    from minidl import nn, optim, tensor

    p = nn.Parameter(tensor([1.0, -2.0]))
    optimizer = optim.SGD([p], lr=0.1, momentum=0.9)
    w, running = np.array([1.0, -2.0]), np.zeros(2)
    for g in ([1.0, 2.0], [0.5, -1.0], [0.0, 0.0]):
        p.grad = tensor(g)
        optimizer.step()
        w, running = f(w, np.array(g), running, 0.1, 0.9)
        assert np.allclose(w, p.detach().numpy(), rtol=1e-6), f"after the gradient {g}: {p.detach().numpy()}, not {w}"


def adam_step(w, g, m, v, t, lr=1e-3, b1=0.9, b2=0.999, eps=1e-8):
    """(w, m, v) after step t = 1, 2, ... of Adam."""
    m = b1 * m + (1 - b1) * g
    v = b2 * v + (1 - b2) * g**2
    return w - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps), m, v


def check_adam_step(f):
    from minidl import nn, optim, tensor

    p = nn.Parameter(tensor([1.0, -2.0]))
    optimizer = optim.Adam([p], lr=0.1)
    w, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t, g in enumerate(([1.0, 2.0], [0.5, -1.0], [0.0, 0.1]), 1):
        p.grad = tensor(g)
        optimizer.step()
        w, m, v = f(w, np.array(g), m, v, t, lr=0.1)
        assert np.allclose(w, p.detach().numpy(), rtol=1e-5), f"step {t}: {p.detach().numpy()}, not {w}"


def _unbiased(w, g, m, v, t, lr=1e-3, b1=0.9, b2=0.999, eps=1e-8):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    return w - lr * m / (np.sqrt(v) + eps), m, v


WRONG = {
    "cross_entropy": [lambda z, c: (np.log(np.exp(z).sum()) - z[c], np.exp(z) / np.exp(z).sum())],
    "momentum_step": [
        lambda w, g, running, lr, mu: (w - lr * g, running),
        lambda w, g, running, lr, mu: (w - lr * (mu * running + (1 - mu) * g), mu * running + (1 - mu) * g),
    ],
    "adam_step": [_unbiased],
}
