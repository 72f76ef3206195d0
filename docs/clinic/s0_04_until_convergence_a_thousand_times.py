"""Until convergence, which is a thousand times.

The steps say "repeat until convergence", the code says `for i in range(1000)`. On its own example that is enough. Where
one direction is flatter than the other, a thousand steps of the same rate are not, and nothing says so.

Right: look at the gradient (or the loss), stop when it is small, and say so if that never happens. `fit` does it with
`early_stop=Converged(...)`.
"""

import minidl

CURVATURE = minidl.tensor([1.0, 0.05])
LR, SMALL, MOST = 0.01, 1e-3, 100_000


def gradient(theta):
    """Of the sum of curvature * theta^2."""
    loss = (CURVATURE * theta * theta).sum()
    return minidl.autograd.grad(loss, theta)[0]


def descend(enough):
    """(steps, length of the gradient at the end)"""
    theta = minidl.tensor([1.0, 1.0], requires_grad=True)
    for step in range(MOST):
        g = gradient(theta)
        if enough(step, g.norm().item()):
            return step, g.norm().item()
        with minidl.no_grad():
            theta -= LR * g
    raise RuntimeError(f"not converged after {MOST} steps")


def broken():
    return descend(lambda step, length: step == 1000)


def fixed():
    return descend(lambda step, length: length < SMALL)


def check(broken, fixed):
    assert broken[0] == 1000
    assert broken[1] > 10 * SMALL
    assert fixed[0] > 1000
    assert fixed[1] < SMALL


if __name__ == "__main__":
    from clinic import show

    show(globals())
