"""Chapter 3: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""

import numpy as np


def unbroadcast(dy, shape):
    """Sum dy over the axes along which an input of this shape was stretched. NumPy only."""
    dy = dy.sum(axis=tuple(range(dy.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and dy.shape[i] != 1)
    return dy.sum(axis=stretched, keepdims=True)


def check_unbroadcast(f):
    for shape, whole in [((4,), (3, 4)), ((3, 1), (3, 4)), ((), (2, 3)), ((1, 4), (5, 3, 4)), ((3, 4), (3, 4))]:
        dy = np.arange(np.prod(whole), dtype=float).reshape(whole)
        found = f(dy, shape)
        assert np.shape(found) == shape, f"from {whole} to {shape}: the shape is {np.shape(found)}"
        ones = np.ones(shape)
        # <stretched ones, dy> = <ones, unbroadcast(dy)>: stretching and summing are each other's transpose
        assert np.sum(np.broadcast_to(ones, whole) * dy) == np.sum(ones * found), f"from {whole} to {shape}: the sum"
        if shape == (4,):
            assert np.array_equal(found, [12, 15, 18, 21]), f"the columns' sums, not {found}"


def softplus(x):
    """log(1 + e^x) of an array, for x of any size."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def check_softplus(f):
    x = np.array([-1000.0, -30.0, -1.0, 0.0, 2.0, 1000.0])
    with np.errstate(all="ignore"):
        found = f(x)
    right = np.array([0.0, np.exp(-30.0), np.log1p(np.exp(-1.0)), np.log(2.0), np.log1p(np.exp(2.0)), 1000.0])
    assert np.allclose(found, right, rtol=1e-12, atol=0), f"{found}, not {right}"


def softplus_backward(dy, x):
    """dx for y = softplus(x)."""
    small = np.exp(-np.abs(x))
    return dy * np.where(x >= 0, 1, small) / (1 + small)


def check_softplus_backward(f):
    import minidl

    x, dy = np.array([-800.0, -2.0, 0.0, 3.0, 800.0]), np.array([1.0, 2.0, -1.0, 0.5, 3.0])
    leaf = minidl.tensor(x, requires_grad=True)
    minidl.nn.functional.softplus(leaf).backward(minidl.tensor(dy))
    with np.errstate(all="ignore"):
        found = f(dy, x)
    assert np.allclose(found, leaf.grad.numpy(), rtol=1e-6), f"{found}, not {leaf.grad.numpy()}"


WRONG = {
    "unbroadcast": [lambda dy, shape: np.broadcast_to(dy.sum(), shape), lambda dy, shape: dy],
    "softplus": [lambda x: np.log(1 + np.exp(x)), lambda x: np.maximum(x, 0)],
    "softplus_backward": [lambda dy, x: dy * np.exp(x) / (1 + np.exp(x)), lambda dy, x: 1 / (1 + np.exp(-x))],
}
