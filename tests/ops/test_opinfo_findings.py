"""Corners of single ops, found by running torch's own sample inputs over them; each against torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import minidl
import minidl.nn.functional as MF


def both(f: Any) -> tuple[np.ndarray, np.ndarray]:
    """f(library, its nn.functional) under minidl and torch, as arrays; dtypes, shapes and exact values agree."""
    ours, theirs = f(minidl, MF).detach().numpy(), f(torch, TF).detach().numpy()
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    return ours, theirs


EXACT = {
    "all_uint8": lambda L, F: L.tensor([2, 0, 1], dtype=L.uint8).all(),
    "any_uint8_dim": lambda L, F: L.tensor([[2, 0], [0, 0]], dtype=L.uint8).any(1),
    "all_int32": lambda L, F: L.tensor([2, 0, 1], dtype=L.int32).all(),
    "prod_bool": lambda L, F: L.prod(L.tensor([[True, True], [True, False]]), 1, dtype=L.bool),
    "prod_uint8_wraps": lambda L, F: L.prod(L.tensor([100, 3], dtype=L.uint8), dtype=L.uint8),
    "prod_truncates_first": lambda L, F: L.prod(L.tensor([2.5, 2.0]), dtype=L.int64),
}


@pytest.mark.parametrize("name", EXACT)
def test_values_are_torch_s(name: str) -> None:
    ours, theirs = both(EXACT[name])
    np.testing.assert_array_equal(ours, theirs)


WITH_DTYPE = {
    "softmax": lambda L, x, d: L.softmax(x, 1, dtype=d),
    "log_softmax": lambda L, x, d: L.log_softmax(x, 1, dtype=d),
    "prod": lambda L, x, d: L.prod(x, 1, dtype=d),
    "sum": lambda L, x, d: L.sum(x, 1, dtype=d),
    "mean": lambda L, x, d: L.mean(x, 1, dtype=d),
    "cumsum": lambda L, x, d: L.cumsum(x, 1, dtype=d),
}


@pytest.mark.parametrize("wide", ["float32", "float64"])
@pytest.mark.parametrize("name", WITH_DTYPE)
def test_the_gradient_has_the_input_s_dtype(name: str, wide: str) -> None:
    """Also where dtype= is that of the input already, and in a gradient that is itself differentiated."""
    x = np.array([[0.5, 1.5, -2.0], [3.0, 0.25, 1.0]], np.float32)
    grads = []
    for lib in (minidl, torch):
        leaf = lib.tensor(x, requires_grad=True)
        y = WITH_DTYPE[name](lib, leaf, getattr(lib, wide))
        grad = lib.autograd.grad
        (dx,) = grad((y * y * y).sum(), leaf, create_graph=True)
        (ddx,) = grad((dx * dx).sum(), leaf)
        grads.append((dx.detach().numpy(), ddx.numpy()))
    for ours, theirs in zip(*grads, strict=True):
        assert ours.dtype == theirs.dtype == np.float32
        # a few dozen roundings of 2^-24 each stay below 1e-5 of the value
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


ERRORS = {
    "huber_loss_delta": lambda L, F: F.huber_loss(L.ones(2), L.zeros(2), delta=0),
    "amax_of_nothing": lambda L, F: L.zeros(0, 3).amax(),
    "amin_of_an_empty_dim": lambda L, F: L.zeros(0, 3).amin(0),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_of_torch_s_type(name: str) -> None:
    with pytest.raises(Exception) as theirs:
        ERRORS[name](torch, TF)
    with pytest.raises(theirs.type):
        ERRORS[name](minidl, MF)
