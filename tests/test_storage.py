"""Packed storage: what it says of itself, and what it refuses."""

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.storage import Int8, PackedError


def packed(**kw):
    return Int8(np.int8([[1, -127], [0, 3]]), np.float32([0.5, 2.0]), **kw)


def test_it_stands_for_the_float_array():
    w = packed()
    assert (w.shape, w.ndim, w.size, w.dtype) == ((2, 2), 2, 4, np.float32)
    assert w.nbytes == 4 + 8
    assert packed(x_scale=0.25).nbytes == 4 + 8 + 4
    assert w.dequantize().tolist() == [[0.5, -63.5], [0, 6]]
    assert w.dequantize().dtype == np.float32


def test_the_product_by_hand():
    x = np.float32([[127, 0], [0, -127]])  # scale 1 for each row
    assert packed().linear(x, None).tolist() == [[63.5, 0.0], [8064.5, -762.0]]
    # a static scale of 2 rounds 127/2 = 63.5 to even and multiplies by 2 again
    assert packed(x_scale=2.0).linear(x, np.float32([1, 1])).tolist() == [[65.0, 1.0], [8129.0, -767.0]]


def test_anything_else_is_refused_with_advice():
    w = packed()
    for use in (
        lambda: w + 1,
        lambda: 1 - w,
        lambda: np.ones((2, 2), np.float32) * w,
        lambda: w @ np.ones((2, 2), np.float32),
        lambda: np.asarray(w),
        lambda: w[0],
        lambda: w.sum(),
        lambda: w.T,
        lambda: minidl.relu(nn.Parameter(w)),
    ):
        with pytest.raises(TypeError, match=r"int8.*dequantize"):
            use()
    assert not hasattr(w, "strides")
    with pytest.raises(PackedError):
        w.astype(np.float32)


def test_a_parameter_of_it_wants_no_gradient():
    p = nn.Parameter(packed())
    assert not p.requires_grad
    with pytest.raises(RuntimeError, match="cannot require gradients"):
        p.requires_grad_()
    assert "Int8(shape=(2, 2)" in repr(p)


def test_copies_do_not_share():
    w = packed(x_scale=0.5, mask=np.bool_([[1, 1], [0, 1]]))
    twin = w.copy()
    with pytest.raises(ValueError, match="read-only"):  # what kernels made of the codes stays true
        twin.q[0, 0] = 9
    assert twin.q is not w.q
    twin.scale[0] = 9
    twin.mask[0, 0] = False
    assert w.scale[0] != 9
    assert w.mask[0, 0]
    assert twin.x_scale == 0.5


def test_codes_are_a_copy_unless_nobody_can_write_them():
    q = np.int8([[1, 2], [3, 4]])
    w = Int8(q, np.ones(2, np.float32))
    q[:] = 0
    assert w.q.tolist() == [[1, 2], [3, 4]]
    assert Int8(w.q, w.scale).q is w.q


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 2), np.int16), np.ones(2, np.float32)), "takes q int8"),
        ((np.zeros((2, 2), np.int8), np.ones(3, np.float32)), "takes q int8"),
        ((np.zeros((2, 2), np.int8), np.float32([1, 0])), "positive and finite"),
        ((np.zeros((2, 2), np.int8), np.float32([1, np.nan])), "positive and finite"),
        ((np.zeros((2, 2), np.int8), np.ones(2, np.float32), 0.0), "x_scale must be positive"),
        ((np.zeros((2, 2), np.int8), np.ones(2, np.float32), float("inf")), "x_scale must be positive"),
        ((np.full((2, 2), -128, np.int8), np.ones(2, np.float32)), "symmetric"),
    ],
)
def test_what_it_does_not_hold(arguments, message):
    with pytest.raises(ValueError, match=message):
        Int8(*arguments)
