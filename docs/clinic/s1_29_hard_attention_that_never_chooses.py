"""S1-29: "hard attention" that multiplies everything by its weight.

The sample returned input * weights: all places, dimmer. Nothing is chosen, nothing is summed up, nothing is saved; for
a sequence (B, T, D) with weights (B, T) its reshape did not even fit. Hard attention takes one place: its weights are
0 but for a single 1. Choosing by the largest weight has no gradient, so the choice is drawn and learns by REINFORCE.
"""

import numpy as np

import minidl
from minidl import nn


def sequences():
    minidl.manual_seed(0)
    return minidl.randn(2, 1, 4), minidl.randn(2, 6, 4)  # query, keys: B, T, D


def broken():
    query, x = sequences()
    weights = (query @ x.mT).softmax(-1)[:, 0]  # B, T
    return (x * weights.view(-1, 4)).shape


def fixed():
    query, x = sequences()
    attention = nn.StochasticAttention(nn.ScaledDotProductAttention())
    score = nn.Parameter(query)
    y, weights = attention(score, x)
    loss = (y[:, 0] ** 2).sum(1)  # of each sequence
    attention.reinforce(loss).backward()
    return y.detach().numpy(), weights.detach().numpy(), x.numpy(), np.abs(score.grad.numpy()).max()


def check(broken, fixed):
    assert isinstance(broken, RuntimeError)
    y, weights, x, gradient = fixed
    assert np.isin(weights, (0, 1)).all()
    assert (weights.sum(-1) == 1).all()
    assert all((y[i, 0] == x[i, weights[i, 0].argmax()]).all() for i in range(2))
    assert gradient > 0


if __name__ == "__main__":
    from clinic import show

    show(globals())
