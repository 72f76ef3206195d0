"""Losses under torch's older arguments size_average and reduce, and with a weight for each element."""

import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as G

import minidl
import minidl.nn.functional as F

OLD = [name for name in F.__all__ if "size_average" in getattr(inspect.signature(getattr(F, name)), "parameters", {})]


def _inputs(name):
    rng = np.random.default_rng(0)
    x, y = rng.random((5, 4)) * 0.8 + 0.1, rng.random((5, 4)) * 0.8 + 0.1
    classes, signs = rng.integers(0, 4, 5), rng.choice([-1.0, 1.0], 5)
    if name in ("nll_loss", "cross_entropy", "multi_margin_loss"):
        return x, classes
    if name == "multilabel_margin_loss":
        return x, np.tile([2, 0, -1, 1], (5, 1))
    if name in ("margin_ranking_loss", "cosine_embedding_loss"):
        return (x[:, 0], y[:, 0], signs) if name == "margin_ranking_loss" else (x, y, signs)
    if name in ("soft_margin_loss", "hinge_embedding_loss"):
        return x, np.sign(y - 0.5)
    if name == "triplet_margin_loss":
        return x, y, x[::-1].copy()
    return x, y


def test_the_losses_with_older_arguments_are_known():
    assert {"mse_loss", "l1_loss", "nll_loss", "cross_entropy", "kl_div", "triplet_margin_loss"} <= set(OLD)


@pytest.mark.parametrize("old", [{"size_average": False}, {"size_average": True}, {"reduce": False}, {"reduce": True}])
@pytest.mark.parametrize("name", OLD)
def test_older_arguments_say_the_reduction(name, old):
    inputs = _inputs(name)
    with pytest.warns(UserWarning, match="size_average and reduce args"):
        want = getattr(G, name)(*map(torch.from_numpy, inputs), **old)
    with pytest.warns(UserWarning, match="size_average and reduce args"):
        got = getattr(F, name)(*map(minidl.tensor, inputs), **old)
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss"])
def test_weights_of_elements(name, reduction):
    x, y = _inputs(name)
    weight = np.random.default_rng(1).random(x.shape)
    grads = []
    for tensor, loss in ((minidl.tensor, getattr(F, name)), (torch.tensor, getattr(G, name))):
        a, w = tensor(x, requires_grad=True), tensor(weight, requires_grad=True)
        out = loss(a, tensor(y), reduction=reduction, weight=w)
        out.sum().backward()
        grads.append([v.numpy() for v in (out.detach(), a.grad, w.grad)])
    for got, want in zip(*grads):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match="same size"):
        getattr(F, name)(minidl.tensor(x), minidl.tensor(y), weight=minidl.tensor(weight[0]))
