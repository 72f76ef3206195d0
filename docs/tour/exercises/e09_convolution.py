"""Chapter 9: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""

import numpy as np


def places(n, k, stride=1, padding=0, dilation=1):
    """How many places a window of k takes along n pixels."""
    return (n + 2 * padding - dilation * (k - 1) - 1) // stride + 1


def check_places(f):
    import minidl

    for n, k, s, p, d in [(28, 3, 1, 0, 1), (28, 3, 1, 1, 1), (224, 7, 2, 3, 1), (9, 3, 2, 0, 2), (8, 2, 3, 1, 1)]:
        w = minidl.zeros(1, 1, 1, k)
        y = minidl.nn.functional.conv2d(minidl.zeros(1, 1, 1, n), w, None, (1, s), (0, p), (1, d))
        assert f(n, k, s, p, d) == y.shape[3], f"n={n}, k={k}, stride={s}, padding={p}, dilation={d}: {y.shape[3]}"


def conv2d(x, w):
    """The convolution of x (C, H, W) with filters w (K, C, R, S): (K, H - R + 1, W - S + 1)"""
    k, _, r, s = w.shape
    y = np.zeros((k, x.shape[1] - r + 1, x.shape[2] - s + 1))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            y[:, i, j] = (w * x[:, i : i + r, j : j + s]).sum((1, 2, 3))
    return y


def check_conv2d(f):
    import minidl

    rng = np.random.default_rng(0)
    for c, h, w, k, r, s in [(1, 5, 5, 1, 1, 2), (3, 6, 7, 4, 3, 3), (2, 4, 4, 2, 4, 1)]:
        x, filters = rng.integers(-4, 5, (c, h, w)).astype(float), rng.integers(-4, 5, (k, c, r, s)).astype(float)
        right = minidl.nn.functional.conv2d(minidl.tensor(x[None]), minidl.tensor(filters))[0].numpy()
        found = f(x, filters)
        assert np.shape(found) == right.shape, f"the shape is {right.shape}, not {np.shape(found)}"
        assert np.allclose(found, right), "the numbers are wrong: is the filter turned round, or a channel left out?"


def max_pool(x, dy):
    """(y, dx) of max pooling 2 x 2: x (H, W), dy (H / 2, W / 2). The first of equals gets the gradient."""
    h, w = x.shape
    parts = x.reshape(h // 2, 2, w // 2, 2).swapaxes(1, 2).reshape(h // 2, w // 2, 4)
    dparts = np.zeros_like(parts)
    np.put_along_axis(dparts, parts.argmax(2)[..., None], dy[..., None], 2)
    return parts.max(2), dparts.reshape(h // 2, w // 2, 2, 2).swapaxes(1, 2).reshape(h, w)


def check_max_pool(f):
    import minidl

    x = np.array([[1.0, 5.0, 2.0, 2.0], [3.0, 4.0, 0.0, 1.0], [0.0, -1.0, 7.0, 8.0], [-2.0, -3.0, 9.0, 6.0]])
    dy = np.array([[1.0, 2.0], [3.0, 4.0]])
    leaf = minidl.tensor(x[None, None], requires_grad=True)
    right = minidl.nn.functional.max_pool2d(leaf, 2)
    right.backward(minidl.tensor(dy[None, None]))
    y, dx = f(x.copy(), dy)
    assert np.array_equal(y, right.detach().numpy()[0, 0]), f"y is {y}"
    assert np.array_equal(dx, leaf.grad.numpy()[0, 0]), f"dx is {dx}"


WRONG = {
    "places": [lambda n, k, stride=1, padding=0, dilation=1: (n + 2 * padding - k) // stride + 1],
    "conv2d": [lambda x, w: conv2d(x, w[:, :, ::-1, ::-1]), lambda x, w: conv2d(x[:1], w[:, :1])],
    "max_pool": [lambda x, dy: (max_pool(x, dy)[0], np.kron(dy, np.ones((2, 2))) / 4)],
}
