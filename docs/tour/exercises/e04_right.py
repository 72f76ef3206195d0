"""Chapter 4: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""

import math

import numpy as np


def slope(f, x, h=1e-5):
    """The slope of f at x, by central differences."""
    return (f(x + h) - f(x - h)) / (2 * h)


def check_slope(f):
    for function, x, right in [(math.sin, 1.0, math.cos(1.0)), (math.exp, 0.5, math.exp(0.5)), (abs, -3.0, -1.0)]:
        found = f(function, x)
        assert abs(found - right) < 1e-8, f"{function.__name__} at {x}: {found}, not {right}"


def numerical_gradient(f, x, h=1e-5):
    """The gradient of f, which makes one number of an array, at x; x is left as it was."""
    x, found = x.copy(), np.zeros_like(x)
    for i in np.ndindex(x.shape):
        before = x[i]
        x[i] = before + h
        up = f(x)
        x[i] = before - h
        found[i] = (up - f(x)) / (2 * h)
        x[i] = before
    return found


def check_numerical_gradient(f):
    x = np.array([[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]])
    before = x.copy()
    found = f(lambda a: np.sum(a**3) + a[0, 0] * a[1, 2], x)
    right = 3 * before**2
    right[0, 0] += before[1, 2]
    right[1, 2] += before[0, 0]
    assert np.array_equal(x, before), "x was changed"
    assert np.allclose(found, right, atol=1e-7), f"{found}, not {right}"


def logsumexp(x):
    """log(sum of e^x) of a vector, for numbers of any size."""
    top = x.max()
    return top + np.log(np.exp(x - top).sum())


def check_logsumexp(f):
    for x in ([0.0, 0.0], [1.0, 2.0, 3.0], [1000.0, 1001.0], [-1000.0, -1001.0]):
        with np.errstate(all="ignore"):
            found = f(np.array(x))
        right = max(x) + math.log(sum(math.exp(v - max(x)) for v in x))
        assert abs(found - right) < 1e-9, f"{x}: {found}, not {right}"


WRONG = {
    "slope": [lambda f, x, h=1e-5: (f(x + h) - f(x)) / h, lambda f, x, h=1e-5: (f(x + h) - f(x - h)) / h],
    "numerical_gradient": [lambda f, x, h=1e-5: np.full_like(x, (f(x + h) - f(x - h)) / (2 * h))],
    "logsumexp": [lambda x: np.log(np.exp(x).sum()), lambda x: x.max()],
}
