"""Fine-tuning that climbs.

The formula is printed as theta_fine = theta_pre + beta * gradient. The gradient points to where the loss grows
fastest, so a step along it makes the loss larger.

Right: theta_fine = theta_pre - beta * gradient.
"""

import minidl
from minidl import nn


def losses(sign):
    """The loss before and after 20 steps."""
    minidl.manual_seed(0)
    model, x = nn.Linear(3, 1), minidl.randn(64, 3)
    y = x.sum(1, keepdim=True)
    found = []
    for _ in range(21):
        loss = nn.functional.mse_loss(model(x), y)
        found.append(loss.item())
        model.zero_grad()
        loss.backward()
        with minidl.no_grad():
            for p in model.parameters():
                p += sign * 0.05 * p.grad
    return found[0], found[-1]


def broken():
    return losses(+1)


def fixed():
    return losses(-1)


def check(broken, fixed):
    assert broken[1] > 2 * broken[0]
    assert fixed[1] < 0.1 * fixed[0]


if __name__ == "__main__":
    from clinic import show

    show(globals())
