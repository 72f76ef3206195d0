"""Gradient descent: walk downhill, against the slope. By hand, with autograd, with an optimizer, with fit.

We minimise f(theta) = theta^2. Its slope is f'(theta) = 2 theta, so the step

    theta <- theta - lr f'(theta)

multiplies theta by 1 - 2 lr. With lr = 0.01, n steps give theta = 0.98^n theta_0 exactly: something to check against.
"""

import argparse

import numpy as np

import minidl
from minidl import nn, optim
from minidl.train import Converged, fit

LR = 0.01


def f(theta):
    return (theta**2).sum()


def by_hand(theta, steps):
    path = [theta]
    for _ in range(steps):
        theta = theta - LR * (2 * theta)  # we worked the slope out ourselves
        path.append(theta)
    return path


def by_autograd(theta, steps):
    theta = minidl.tensor(theta, requires_grad=True)
    path = [theta.detach().numpy().copy()]
    for _ in range(steps):
        theta.grad = None
        f(theta).backward()  # minidl works it out
        with minidl.no_grad():
            theta -= LR * theta.grad
        path.append(theta.detach().numpy().copy())
    return path


def by_optimizer(theta, steps):
    theta = minidl.tensor(theta, requires_grad=True)
    sgd = optim.SGD([theta], lr=LR)
    path = [theta.detach().numpy().copy()]
    for _ in range(steps):
        sgd.zero_grad()
        f(theta).backward()
        sgd.step()  # the same line for any number of parameters
        path.append(theta.detach().numpy().copy())
    return path


class Point(nn.Module):
    """A model that is nothing but its parameter theta."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(minidl.tensor(theta))

    def forward(self, x):
        return self.theta


def until_it_converges(theta, tol):
    """ "Repeat until convergence": fit stops when the loss changes by less than tol from one step to the next."""
    model, nothing = Point(theta), np.zeros((1, 1))
    sgd, loss = optim.SGD(model.parameters(), lr=LR), lambda theta, _: f(theta)
    return fit(model, (nothing, nothing), loss=loss, optimizer=sgd, epochs=10**6, early_stop=Converged(tol))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 steps instead of 1000")
    parser.add_argument("--seed", type=int, default=0, help="draws the starting point (default: %(default)s)")
    parser.add_argument("--plot", metavar="FILE", help="draw the way down into an image file")
    args = parser.parse_args()

    steps = 100 if args.quick else 1000
    start = minidl.Generator(args.seed).uniform(3, low=-5, high=5, dtype=np.float64)
    exact = (1 - 2 * LR) ** steps * start
    print(f"f(theta) = |theta|^2 from theta = {start} with lr = {LR}")
    print(f"after {steps} steps: {1 - 2 * LR}^{steps} theta_0 = {exact}")
    for name, walk in (("by hand", by_hand), ("autograd", by_autograd), ("optimizer", by_optimizer)):
        path = np.array(walk(start, steps))
        error = np.abs(path[-1] / exact - 1).max()
        print(f"  {name:9}  relative error {error:.1e}")
        # each of the 1000 steps rounds a few times by at most 2^-53 = 1.1e-16
        assert error < 1e-12, f"{name}: {path[-1]} is not {exact}"

    tol = 1e-3 if args.quick else 1e-9
    history = until_it_converges(start, tol)
    print(f"until f changes by less than {tol:g}: {history.epochs} steps, f = {history['loss'][-1]:.2e}")

    if args.plot:
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        axes = figure.subplots()
        axes.plot(np.abs(path), label=[f"theta_{i}" for i in range(3)])
        axes.set(yscale="log", xlabel="step", ylabel="|theta|", title="Gradient descent on |theta|^2")
        axes.legend()
        figure.savefig(args.plot)


if __name__ == "__main__":
    main()
