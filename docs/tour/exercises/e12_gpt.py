"""Chapter 12: each exercise is a function with its answer, a check, and wrong answers that the check must refuse."""

import math

import numpy as np


def attention(q, k, v, causal):
    """softmax(q k^T / sqrt(D)) v of one head: q, k, v (T, D)"""
    scores = q @ k.T / math.sqrt(q.shape[1])
    if causal:
        scores = np.where(np.tri(len(q), dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True) @ v


def check_attention(f):
    import minidl

    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 5, 8))
    q *= 30  # sharp: e to these scores would overflow
    for causal in (False, True):
        args = (minidl.tensor(a[None, None]) for a in (q, k, v))
        right = minidl.nn.functional.scaled_dot_product_attention(*args, is_causal=causal).numpy()[0, 0]
        with np.errstate(all="ignore"):
            found = f(q, k, v, causal)
        assert np.allclose(found, right, atol=1e-8), f"causal={causal}: off by {np.abs(found - right).max():.3g}"


def windows(ids, length):
    """(inputs, targets), both (N, length): windows that begin at each multiple of `length`; a rest is left out."""
    n = (len(ids) - 1) // length
    return ids[: n * length].reshape(n, length), ids[1 : n * length + 1].reshape(n, length)


def check_windows(f):
    for count, length in [(11, 5), (10, 5), (7, 1), (4, 6)]:
        ids = np.arange(100, 100 + count)
        x, y = f(ids, length)
        n = (count - 1) // length
        assert x.shape == y.shape == (n, length), f"{count} tokens by {length}: {(n, length)}, not {x.shape}, {y.shape}"
        assert (y == x + 1).all(), "the target is the token after the input's"
        assert n == 0 or (x[:, 0] == ids[: n * length : length]).all(), "where the windows begin"


def probabilities(logits, temperature, top_k):
    """softmax(logits / temperature) of the top_k likeliest tokens, 0 for the others; temperature > 0."""
    z = np.where(logits >= np.sort(logits)[-top_k], logits, -np.inf) / temperature
    p = np.exp(z - z.max())
    return p / p.sum()


def check_probabilities(f):
    logits = np.array([1.0, 3.0, 2.0, -1.0])
    for temperature in (0.5, 1.0, 2.0):
        for top_k in (1, 2, 4):
            found = np.asarray(f(logits, temperature, top_k))
            case = f"temperature {temperature}, top_k {top_k}"
            assert abs(found.sum() - 1) < 1e-12, f"{case}: they add up to {found.sum()}"
            assert (found > 0).sum() == top_k, f"{case}: {(found > 0).sum()} tokens are left"
            if top_k > 1:
                ratio = math.exp(1 / temperature)
                assert math.isclose(found[1] / found[2], ratio), f"{case}: p[1] / p[2] is not e^(1 / temperature)"


WRONG = {
    "attention": [
        lambda q, k, v, causal: attention(q * math.sqrt(q.shape[1]), k, v, causal),
        lambda q, k, v, causal: attention(q, k, v, False),
    ],
    "windows": [lambda ids, n: (ids[: len(ids) // n * n].reshape(-1, n), ids[: len(ids) // n * n].reshape(-1, n))],
    "probabilities": [
        lambda logits, temperature, top_k: probabilities(logits * temperature**2, temperature, top_k),
        lambda logits, temperature, top_k: probabilities(logits, temperature, len(logits)),
    ],
}
