"""Chapter 10: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""

import numpy as np


def magnitude_mask(w, share):
    """True where a weight is kept: the round(share * n) smallest in size go."""
    keep = np.ones(w.size, bool)
    keep[np.argsort(np.abs(w).ravel(), kind="stable")[: round(share * w.size)]] = False
    return keep.reshape(w.shape)


def check_magnitude_mask(f):
    rng = np.random.default_rng(0)
    for w in (rng.normal(size=(6, 5)), np.array([[-3.0, 0.5], [0.25, -1.0]]), np.ones(10)):
        for share in (0.0, 0.5, 0.9, 1.0):
            mask = f(w, share)
            assert mask.shape == w.shape, f"the mask has the shape {mask.shape}, the weight {w.shape}"
            gone = round(share * w.size)
            assert (~mask).sum() == gone, f"{(~mask).sum()} of {w.size} weights went, not {gone}"
            if 0 < gone < w.size:
                assert np.abs(w[~mask]).max() <= np.abs(w[mask]).min(), "a larger weight went before a smaller one"


def masked_step(w, g, running, mask, lr, mu):
    """(w, running sum) after a step of SGD with momentum, the masked weights zero."""
    running = mu * running + g
    return (w - lr * running) * mask, running


def check_masked_step(f):
    w, mask = np.array([1.0, 0.0, -2.0]), np.array([True, False, True])
    g, running = np.array([0.5, 3.0, -1.0]), np.array([0.0, 7.0, 1.0])  # momentum from before the pruning
    new, total = f(w, g, running, mask, 0.1, 0.9)
    assert new[1] == 0, f"the masked weight is {new[1]}"
    assert np.allclose(new, [0.95, 0.0, -1.99]), f"w is {new}"
    assert np.allclose(np.asarray(total)[[0, 2]], [0.5, -0.1]), f"the running sum is {total}"


def least_bytes(n, kept):
    """The least of three ways to store n float32 weights of which `kept` are not zero."""
    return min(4 * n, -(-n // 8) + 4 * kept, 6 * kept)


def check_least_bytes(f):
    for n, kept, right in [(1000, 1000, 4000), (1000, 500, 2125), (1000, 10, 60), (9, 8, 34), (64, 0, 0)]:
        assert f(n, kept) == right, f"{kept} of {n}: {right} bytes, not {f(n, kept)}"


WRONG = {
    "magnitude_mask": [
        lambda w, share: np.abs(w) > np.quantile(np.abs(w), share),
        lambda w, share: ~magnitude_mask(w, 1 - share),
    ],
    "masked_step": [lambda w, g, running, mask, lr, mu: (w - lr * (mu * running + g * mask), mu * running + g * mask)],
    "least_bytes": [lambda n, kept: 4 * kept, lambda n, kept: min(4 * n, n // 8 + 4 * kept, 6 * kept)],
}
