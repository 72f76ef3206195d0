"""Gradient descent: walk downhill, against the slope. By hand, by autograd, by optimizer; then seven optimizers race.

We minimise f(theta) = |theta|^2. Its slope is f'(theta) = 2 theta, so the step

    theta <- theta - lr f'(theta)

multiplies theta by 1 - 2 lr. With lr = 0.01, n steps give theta = 0.98^n theta_0 exactly: something to check against.

That valley is round. Real ones are long and bent, like Rosenbrock's (1960, doi:10.1093/comjnl/3.3.175), whose floor is
a parabola and whose minimum 0 lies at (1, 1):

    r(a, b) = (1 - a)^2 + 100 (b - a^2)^2

Down there plain gradient descent crawls; momentum, adapted rates and curvature are answers to that. The race gives each
optimizer the rate that serves it best of several, the same starts, and the same number of gradients.
"""

import numpy as np

import minidl
from minidl import nn, optim
from minidl.examples import figure, picture, run
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


# -- the race ----------------------------------------------------------------------------------------------------------

RATES = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]
RACERS = {
    "SGD": lambda p, lr: optim.SGD(p, lr=lr),
    "SGD, momentum": lambda p, lr: optim.SGD(p, lr=lr, momentum=0.9),
    "SGD, Nesterov": lambda p, lr: optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    "Adagrad": lambda p, lr: optim.Adagrad(p, lr=lr),
    "RMSprop": lambda p, lr: optim.RMSprop(p, lr=lr),
    "Adam": lambda p, lr: optim.Adam(p, lr=lr),
    "LBFGS": lambda p, lr: optim.LBFGS(p, lr=lr, max_iter=1, line_search_fn=None),
}


def rosenbrock(theta):
    a, b = theta[..., 0], theta[..., 1]
    return ((1 - a) ** 2 + 100 * (b - a**2) ** 2).sum()


def race(make, lr, start, steps):
    """The places visited, one more than steps; fewer if the walk runs off."""
    theta = minidl.tensor(start, requires_grad=True)
    optimizer = make([theta], lr)

    def loss():
        optimizer.zero_grad()
        value = rosenbrock(theta)
        value.backward()
        return value

    path = [start]
    for _ in range(steps):
        optimizer.step(loss)
        path.append(theta.detach().numpy().copy())
        if not np.isfinite(path[-1]).all() or np.abs(path[-1]).max() > 1e3:
            break
    return np.array(path)


def height(path):
    """r where a walk ended; a walk that ran off ends infinitely high."""
    end = float(rosenbrock(minidl.tensor(path[-1])))
    return end if np.isfinite(end) and np.abs(path[-1]).max() <= 1e3 else np.inf


def main(args):
    steps = 100 if args.quick else 1000
    generator = minidl.Generator(args.seed)
    start = generator.uniform(3, low=-5, high=5, dtype=np.float64)
    exact = (1 - 2 * LR) ** steps * start
    print(f"f(theta) = |theta|^2 from theta = {start} with lr = {LR}")
    print(f"after {steps} steps: {1 - 2 * LR}^{steps} theta_0 = {exact}")
    errors = []
    for name, walk in (("by hand", by_hand), ("autograd", by_autograd), ("optimizer", by_optimizer)):
        path = np.array(walk(start, steps))
        errors.append(np.abs(path[-1] / exact - 1).max())
        print(f"  {name:9}  relative error {errors[-1]:.1e}")
    # each of the 1000 steps rounds a few times by at most 2^-53 = 1.1e-16
    assert max(errors) < 1e-12

    tol = 1e-3 if args.quick else 1e-9
    history = until_it_converges(start, tol)
    print(f"until f changes by less than {tol:g}: {history.epochs} steps, f = {history['loss'][-1]:.2e}")

    race_steps = steps if args.quick else 500
    starts = generator.uniform((1 if args.quick else 3, 2), low=-1.5, high=1.5, dtype=np.float64)
    print(f"\nRosenbrock's valley: after {race_steps} gradients, median of {len(starts)} starts")
    paths, medians = {}, {}
    for name, make in RACERS.items():
        found = []
        for lr in RATES[::2] if args.quick else RATES:
            walks = [race(make, lr, s, race_steps) for s in starts]
            middle = sorted(walks, key=height)[len(walks) // 2]
            found.append((height(middle), lr, middle))
        medians[name], lr, paths[name] = min(found, key=lambda one: one[:2])
        print(f"  {name:14} r = {medians[name]:.1e}   with lr = {lr:g}")
    best = min(medians, key=lambda name: medians[name])
    print(f"{best} comes lowest here; with another valley and another number of steps it may be another")
    figure("relative error of autograd", errors[1], by_hand=errors[0])

    if args.plot:
        with picture(args.plot, 1, 2, (11, 4.4)) as (left, right):
            draw_descent(left, path)
            draw_race(right, paths)


def draw_descent(axes, path):
    axes.plot(np.abs(path), label=[f"theta_{i}" for i in range(3)])
    axes.set(yscale="log", xlabel="step", ylabel="|theta_i|", title="each number shrinks by the same factor a step")
    axes.legend(frameon=False)


def draw_race(axes, paths):
    for name, path in paths.items():
        a, b = path.T
        axes.plot((1 - a) ** 2 + 100 * (b - a**2) ** 2, linewidth=1.1, label=name)
    axes.set(yscale="log", ylim=(1e-17, 1e4), xlabel="gradients", ylabel="r(a, b)")
    axes.set_title("Rosenbrock's valley: best rates, median starts")
    axes.legend(frameon=False, fontsize=8, loc="lower right", ncols=2)


if __name__ == "__main__":
    run(main, __doc__, quick="100 steps instead of 1000, fewer starts and rates", save=None, resume=None)
