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
    "arange_int64_rounds_all_first": lambda L, F: L.arange(0.1, -7.9, -4.0, dtype=L.int64),
    "arange_int64_rounds_the_end": lambda L, F: L.arange(0.0, -8.000001, -4.0, dtype=L.int64),
    "arange_int32_counts_first": lambda L, F: L.arange(0.5, 5.5, 1.5, dtype=L.int32),
    "arange_int32_step_0": lambda L, F: L.arange(0, 5, 0.5, dtype=L.int32),
    "linspace_int64": lambda L, F: L.linspace(4.3, -3, 50, dtype=L.int64),
    "linspace_int64_one": lambda L, F: L.linspace(4, 7, 1, dtype=L.int64),
    "linspace_uint8": lambda L, F: L.linspace(-9, 2, 4, dtype=L.uint8),
    "linspace_of_tensors": lambda L, F: L.linspace(L.tensor(1), L.tensor(5.5), 4),
    "full_like_uint8": lambda L, F: L.full_like(L.ones(2, dtype=L.uint8), -9),
    "full_of_a_fraction": lambda L, F: L.full((2,), -2.7, dtype=L.int64),
    "add_alpha_uint8": lambda L, F: L.add(L.arange(4).to(L.uint8), L.arange(4).to(L.uint8), alpha=-3),
    "add_alpha_number": lambda L, F: L.add(L.arange(4).to(L.uint8), 2, alpha=-3),
    "sub_alpha_uint8": lambda L, F: L.sub(L.arange(4).to(L.uint8), L.arange(4).to(L.uint8), alpha=-3),
    "rsub_alpha_uint8": lambda L, F: L.rsub(L.arange(4).to(L.uint8), L.arange(4).to(L.uint8), alpha=-3),
    "add_alpha_bool": lambda L, F: L.add(L.tensor([True, False]), L.tensor([True, True]), alpha=2),
    "masked_fill_bool": lambda L, F: L.tensor([True, False]).masked_fill(L.tensor([False, True]), 10),
    "masked_fill_int": lambda L, F: L.tensor([1, 2]).masked_fill(L.tensor([False, True]), 1.5),
    "masked_fill_uint8": lambda L, F: L.ones(2, dtype=L.uint8).masked_fill(L.tensor([False, True]), -1),
    "masked_fill_by_a_tensor": lambda L, F: L.tensor([1, 2]).masked_fill(L.tensor([False, True]), L.tensor(2.5)),
    "gather_at_nothing": lambda L, F: L.zeros(5).gather(0, L.zeros(2, 0, dtype=L.int64)),
    "gather_of_a_number": lambda L, F: L.tensor(3.0).gather(0, L.tensor([0])),
    "gather_at_a_number": lambda L, F: L.tensor([3.0, 4.0]).gather(0, L.tensor(1)),
    "index_select_of_a_number": lambda L, F: L.tensor(3.0).index_select(0, L.tensor([0])),
    "take_along_dim_from_the_end": lambda L, F: L.take_along_dim(
        L.arange(6).reshape(2, 3), L.tensor([[-1, 0], [-3, 2]]), 1
    ),
    "avg_pool2d_int64": lambda L, F: F.avg_pool2d(-L.arange(18).reshape(1, 2, 3, 3), 2, 1, 1, count_include_pad=False),
    "avg_pool2d_int64_divisor": lambda L, F: F.avg_pool2d(L.arange(18).reshape(2, 3, 3), 2, divisor_override=-3),
    "avg_pool1d_int64": lambda L, F: F.avg_pool1d(L.arange(9).reshape(1, 9) - 4, 3),
    "adaptive_avg_pool2d_to_nothing": lambda L, F: F.adaptive_avg_pool2d(L.ones(2, 3, 4), (0, 2)),
    "adaptive_avg_pool2d_of_nothing": lambda L, F: F.adaptive_avg_pool2d(L.ones(0, 2, 3, 4), (2, 3)),
    "roll_flat": lambda L, F: L.arange(6).reshape(2, 3).roll(1, ()),
    "a_column_of_columns_as_a_vector": lambda L, F: L.arange(6).reshape(2, 3)[:, [0, 2]].view(-1),
    "a_mask_of_columns_as_a_vector": lambda L, F: L.arange(6).reshape(2, 3)[:, L.tensor([True, False, True])].view(-1),
    "index_select_as_a_vector": lambda L, F: L.arange(6).reshape(2, 3).index_select(1, L.tensor([2, 0])).view(-1),
    "resized_as_a_vector": lambda L, F: F.interpolate(L.arange(4.0).reshape(1, 1, 2, 2), scale_factor=2).view(-1),
    "resized_bilinear_as_a_vector": lambda L, F: F.interpolate(L.ones(1, 1, 2, 2), size=(4, 4), mode="bilinear").view(
        -1
    ),
    "reflected_as_a_vector": lambda L, F: F.pad(L.arange(4.0).reshape(1, 2, 2), (1, 1), mode="reflect").view(-1),
    "steps_of_a_new_dimension": lambda L, F: L.tensor(L.ones(3, 4)[None, :, None].stride()),
    "flip_of_several": lambda L, F: L.arange(6).reshape(2, 3).flip(0, 1),
    "where_of_a_condition": lambda L, F: L.stack(L.where(L.tensor([[0, 1], [2, 0]]))),
    "elements_of_part_of_a_shape": lambda L, F: L.tensor((L.ones(2, 3, 4).shape[1:] + L.Size([5])).numel()),
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
    "arange_to_infinity": lambda L, F: L.arange(0, float("inf"), 2),
    "arange_from_infinity": lambda L, F: L.arange(-float("inf"), 1, 2),
    "arange_int64_step_0": lambda L, F: L.arange(0, 64, 0.5, dtype=L.int64),
    "linspace_of_a_vector": lambda L, F: L.linspace(L.tensor([1, 2]), 1, 3),
    "full_overflow": lambda L, F: L.full((2,), 300, dtype=L.uint8),
    "full_overflow_float16": lambda L, F: L.full((2,), 1e9, dtype=L.float16),
    "full_infinite_integer": lambda L, F: L.full((2,), float("inf"), dtype=L.int64),
    "add_alpha_fraction": lambda L, F: L.add(L.tensor([1]), L.tensor([1]), alpha=1.5),
    "masked_fill_overflow": lambda L, F: L.ones(2, dtype=L.uint8).masked_fill(L.tensor([False, True]), 300),
    "masked_fill_by_a_vector": lambda L, F: L.ones(2).masked_fill(L.tensor([False, True]), L.ones(1)),
    "gather_range": lambda L, F: L.zeros(2, 2).gather(1, L.tensor([[0, 23]])),
    "scatter_range": lambda L, F: L.zeros(2).scatter(0, L.tensor([34]), L.ones(1)),
    "scatter_add_range": lambda L, F: L.zeros(2).scatter_add(0, L.tensor([-1]), L.ones(1)),
    "scatter_add_dtype": lambda L, F: L.zeros(2).scatter_add(0, L.tensor([1]), L.ones(1, dtype=L.float64)),
    "scatter_add_dimensions": lambda L, F: L.zeros(2).scatter_add(0, L.tensor([1]), L.ones(1, 1)),
    "scatter_add_short_src": lambda L, F: L.zeros(2).scatter_add(0, L.tensor([1, 0]), L.ones(1)),
    "index_select_of_a_number_twice": lambda L, F: L.tensor(3.0).index_select(0, L.tensor([0, 0])),
    "maximum_of_a_number": lambda L, F: L.maximum(L.zeros(2), 2),
    "minimum_with_a_number_first": lambda L, F: L.minimum(2, L.zeros(2)),
    "avg_pool2d_int32": lambda L, F: F.avg_pool2d(L.ones(1, 2, 2, dtype=L.int32), 2),
    "adaptive_avg_pool2d_int64": lambda L, F: F.adaptive_avg_pool2d(L.ones(1, 4, 4, dtype=L.int64), 2),
    "adaptive_avg_pool2d_negative": lambda L, F: F.adaptive_avg_pool2d(L.ones(1, 1, 1, 1), (-1, 0)),
    "adaptive_avg_pool2d_no_size": lambda L, F: F.adaptive_avg_pool2d(L.ones(1, 1, 1, 1), []),
    "adaptive_avg_pool2d_of_no_rows": lambda L, F: F.adaptive_avg_pool2d(L.ones(2, 1, 0, 2), (1, 2)),
    "adaptive_avg_pool1d_no_size": lambda L, F: F.adaptive_avg_pool1d(L.ones(1, 2, 3), []),
    "roll_by_nothing": lambda L, F: L.zeros(3).roll(()),
    "roll_shifts_and_dims": lambda L, F: L.zeros(3, 3).roll((1, 2), (0,)),
    "rms_norm_over_nothing": lambda L, F: F.rms_norm(L.zeros(3), []),
    "sizes_are_integers": lambda L, F: L.zeros(2.0),
    "a_tensor_of_none": lambda L, F: L.tensor([1, None]),
    "an_element_of_none": lambda L, F: L.zeros(3).__setitem__(1, None),
    "elements_of_another_dtype": lambda L, F: L.zeros(3).__setitem__([0, 1], L.zeros(2, dtype=L.float64)),
    "a_product_of_bools": lambda L, F: L.tensor([[True]]) @ L.tensor([[True]]),
    "labels_of_int32": lambda L, F: F.cross_entropy(L.ones(1, 2), L.tensor([1], dtype=L.int32)),
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


GATHERED = {
    "of_a_number": (np.asarray(3.0), np.array([0])),
    "at_a_number": (np.array([3.0, 4.0]), np.asarray(1)),
    "at_nothing": (np.array([[3.0, 4.0]]), np.zeros(0, np.int64)),
}


@pytest.mark.parametrize("name", GATHERED)
def test_the_gradient_of_gather_where_dimensions_differ(name: str) -> None:
    x, index = GATHERED[name]

    def run(lib: Any, _: Any) -> Any:
        leaf = lib.tensor(x, requires_grad=True)
        y = leaf.gather(0, lib.tensor(index))
        (dx,) = lib.autograd.grad((y * y).sum(), leaf)
        return dx

    np.testing.assert_array_equal(*both(run))


def test_an_index_out_of_range_is_an_index_error_too() -> None:
    with pytest.raises(IndexError, match="23 is out of bounds for dimension 1 with size 2"):
        minidl.zeros(2, 2).gather(1, minidl.tensor([[0, 23]]))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_adaptive_avg_pool2d_keeps_nan_and_inf_in_their_regions(bad: float) -> None:
    """5 x 7 to 3 x 4: regions overlap. Forward, and in backward a bad gradient of one region."""
    x = np.arange(2 * 5 * 7, dtype=np.float64).reshape(1, 2, 5, 7)
    x[0, 0, 0, 0] = x[0, 1, 3, 5] = bad
    dy = np.ones((1, 2, 3, 4))
    dy[0, 0, 1, 2] = bad

    def run(lib: Any, F: Any) -> tuple[np.ndarray, np.ndarray]:
        leaf = lib.tensor(x, requires_grad=True)
        y = F.adaptive_avg_pool2d(leaf, (3, 4))
        y.backward(lib.tensor(dy))
        return y.detach().numpy(), leaf.grad.numpy()

    for ours, theirs in zip(run(minidl, MF), run(torch, TF), strict=True):
        # at most 9 terms below 70, in another order: 9 roundings of 2^-53 each
        np.testing.assert_allclose(ours, theirs, rtol=9 * 2.0**-53)


def test_adaptive_avg_pool2d_is_differentiated_twice() -> None:
    x = minidl.tensor(np.random.default_rng(5).standard_normal((1, 2, 5, 7)), requires_grad=True)
    assert minidl.gradcheck(lambda t: MF.adaptive_avg_pool2d(t, (3, 4)) ** 3, (x,))
    assert minidl.gradgradcheck(lambda t: MF.adaptive_avg_pool2d(t, (3, 4)) ** 3, (x,))


def test_adaptive_avg_pool2d_of_float16_adds_up_in_float32() -> None:
    x = np.full((1, 1, 5, 7), 60000, np.float16)
    ours, theirs = both(lambda L, F: F.adaptive_avg_pool2d(L.tensor(x), (2, 3)))
    np.testing.assert_allclose(ours, theirs, rtol=2**-10)  # a rounding to float16 for each dimension
