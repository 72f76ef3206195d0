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
    "squeeze_no_dim": lambda L, F: L.ones(1, 2, 1).squeeze([]),
    "circular_crops_then_wraps": lambda L, F: F.pad(
        L.arange(32.0).reshape(1, 2, 4, 4), (-1, 1, -2, 1), mode="circular"
    ),
    "circular_crops_at_the_end": lambda L, F: F.pad(L.arange(8.0).reshape(1, 2, 4), (2, -1), mode="circular"),
    "batch_norm_of_nothing": lambda L, F: F.batch_norm(
        L.zeros(0, 3, 2), None, None, L.ones(3), L.ones(3), training=True
    ),
    "batch_norm_of_no_channels": lambda L, F: F.batch_norm(L.zeros(2, 0, 4), None, None),
    "batch_norm_of_a_vector": lambda L, F: F.batch_norm(L.zeros(0), L.zeros(0), L.zeros(0), training=True),
    "narrow_at_the_end": lambda L, F: L.arange(4).narrow(0, 4, 0),
    "roll_flat": lambda L, F: L.arange(6).reshape(2, 3).roll(1, ()),
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
    "roll_by_nothing": lambda L, F: L.zeros(3).roll(()),
    "roll_shifts_and_dims": lambda L, F: L.zeros(3, 3).roll((1, 2), (0,)),
    "rms_norm_over_nothing": lambda L, F: F.rms_norm(L.zeros(3), []),
    "narrow_start": lambda L, F: L.zeros(3).narrow(0, 4, 0),
    "narrow_start_negative": lambda L, F: L.zeros(3).narrow(0, -4, 0),
    "narrow_length": lambda L, F: L.zeros(3).narrow(0, 1, 5),
    "narrow_of_a_number": lambda L, F: L.tensor(1.0).narrow(0, 0, 1),
    "amax_of_nothing": lambda L, F: L.zeros(0, 3).amax(),
    "amin_of_an_empty_dim": lambda L, F: L.zeros(0, 3).amin(0),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_of_torch_s_type(name: str) -> None:
    with pytest.raises(Exception) as theirs:
        ERRORS[name](torch, TF)
    with pytest.raises(theirs.type):
        ERRORS[name](minidl, MF)


def test_rms_norm_of_float16_squares_in_float32() -> None:
    x = np.array([[300.0, -1000.0, 4.0], [60000.0, 3.0, 1.0]], np.float16)
    w = np.array([1.0, 2.0, 3.0], np.float16)
    ours, theirs = both(lambda L, F: F.rms_norm(L.tensor(x), [3], L.tensor(w), 0.5))
    np.testing.assert_allclose(ours, theirs, rtol=2**-10)  # one rounding to float16 each


def test_an_empty_batch_gives_batch_norm_s_parameters_gradients_of_zero() -> None:
    w, b = minidl.ones(3, requires_grad=True), minidl.ones(3, requires_grad=True)
    MF.batch_norm(minidl.zeros(0, 3, 2), None, None, w, b, training=True).sum().backward()
    assert w.grad is not None
    assert b.grad is not None
    np.testing.assert_array_equal(w.grad.numpy(), np.zeros(3))
    np.testing.assert_array_equal(b.grad.numpy(), np.zeros(3))


@pytest.mark.parametrize("padding", [(1, 2), (0, 0), (1, 4)])
def test_conv_transpose2d_padded_by_more_than_the_stride(padding: tuple[int, int]) -> None:
    """output_padding may reach the dilation; more of it than padding took away is 0 plus the bias."""
    rng = np.random.default_rng(3)
    arrays = [rng.integers(-4, 5, shape).astype(np.float64) for shape in ((2, 2, 4, 4), (2, 2, 4, 5), (4,))]

    def run(lib: Any, F: Any) -> list[np.ndarray]:
        leaves = [lib.tensor(a, requires_grad=True) for a in arrays]
        y = F.conv_transpose2d(*leaves, (3, 2), padding, (2, 3), 2, (4, 4))
        (y * y).sum().backward()
        return [y.detach().numpy(), *(leaf.grad.numpy() for leaf in leaves)]

    for ours, theirs in zip(run(minidl, MF), run(torch, TF), strict=True):
        np.testing.assert_array_equal(ours, theirs)  # small integers: exact
