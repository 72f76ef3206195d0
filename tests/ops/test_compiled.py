"""Ops that give large arrays to compiled kernels: there, too, values and both orders of gradients are torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import minidl
import minidl.nn.functional as F
import minidl_kernels
from minidl_kernels import registry

T = torch.nn.functional
IMAGES, VECTOR = (3, 8, 20, 20), (8,)
CLASSES = np.random.default_rng(1).integers(0, 50, 64)
CASES = {
    "relu": (minidl.relu, torch.relu, [(130, 130)]),
    "exp": (minidl.exp, torch.exp, [(260, 260)]),
    "tanh": (minidl.tanh, torch.tanh, [(260, 260)]),
    "sigmoid": (minidl.sigmoid, torch.sigmoid, [IMAGES]),
    "silu": (F.silu, T.silu, [IMAGES]),
    "gelu": (F.gelu, T.gelu, [IMAGES]),
    "gelu, tanh": (lambda x: F.gelu(x, approximate="tanh"), lambda x: T.gelu(x, approximate="tanh"), [IMAGES]),
    "softmax": (lambda x: F.softmax(x, -1), lambda x: T.softmax(x, -1), [IMAGES]),
    "log_softmax": (lambda x: F.log_softmax(x, 1), lambda x: T.log_softmax(x, 1), [(96, 100)]),
    "cross_entropy": (
        lambda x: F.cross_entropy(x, minidl.tensor(CLASSES), ignore_index=3),
        lambda x: T.cross_entropy(x, torch.tensor(CLASSES), ignore_index=3),
        [(64, 50)],
    ),
    "layer_norm": (
        lambda x, w, b: F.layer_norm(x, (20, 20), w, b),
        lambda x, w, b: T.layer_norm(x, (20, 20), w, b),
        [IMAGES, (20, 20), (20, 20)],
    ),
    "layer_norm, plain": (lambda x: F.layer_norm(x, (20,)), lambda x: T.layer_norm(x, (20,)), [IMAGES]),
    "rms_norm": (lambda x, w: F.rms_norm(x, (20,), w), lambda x, w: T.rms_norm(x, (20,), w), [IMAGES, (20,)]),
    "batch_norm": (
        lambda x, w, b: F.batch_norm(x, None, None, w, b, True),
        lambda x, w, b: T.batch_norm(x, None, None, w, b, True),
        [IMAGES, VECTOR, VECTOR],
    ),
    "batch_norm of vectors": (
        lambda x, w: F.batch_norm(x, None, None, w, None, True),
        lambda x, w: T.batch_norm(x, None, None, w, None, True),
        [(90, 100), (100,)],
    ),
    "group_norm": (
        lambda x, w, b: F.group_norm(x, 4, w, b),
        lambda x, w, b: T.group_norm(x, 4, w, b),
        [IMAGES, VECTOR, VECTOR],
    ),
}


@pytest.fixture
def kernels_run(monkeypatch):
    """The names of the kernels that were called."""
    names = []
    real = registry.call

    def call(name, args):
        names.append(name)
        return real(name, args)

    monkeypatch.setattr(minidl_kernels, "call", call)
    return names


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("layout", ["plain", "transposed"])
def test_values_and_gradients_are_torchs(name, layout, kernels_run):
    ours, theirs, shapes = CASES[name]
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in shapes]
    a = [minidl.tensor(x, requires_grad=True) for x in arrays]
    b = [torch.tensor(x, requires_grad=True) for x in arrays]
    if layout == "transposed":
        arrays[0] = np.ascontiguousarray(np.swapaxes(arrays[0], 0, 1))
        a[0] = minidl.tensor(arrays[0], requires_grad=True)
        b[0] = torch.tensor(arrays[0], requires_grad=True)
        x, z = a[0].transpose(0, 1), b[0].transpose(0, 1)
    else:
        x, z = a[0], b[0]
    y, want = ours(x, *a[1:]), theirs(z, *b[1:])
    dy = rng.standard_normal(tuple(want.shape))
    # float64 on both sides; sums of at most 1200 terms of size 5.
    close = dict(rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(y.detach().numpy(), want.detach().numpy(), **close)
    assert kernels_run, "no compiled kernel ran forward"
    kernels_run.clear()
    found = minidl.autograd.grad(y, a, minidl.tensor(dy), retain_graph=True)
    expected = torch.autograd.grad(want, b, torch.tensor(dy), create_graph=True)
    for f, e in zip(found, expected):
        np.testing.assert_allclose(f.numpy(), e.detach().numpy(), **close)
    assert kernels_run or name == "exp", "no compiled kernel ran backward"
    twice = minidl.autograd.grad(y, a, minidl.tensor(dy), create_graph=True)
    for f, e in zip(twice, expected):
        np.testing.assert_allclose(f.detach().numpy(), e.detach().numpy(), **close)
    if name == "relu":  # of straight pieces
        return
    second = minidl.autograd.grad(sum((g * g).sum() for g in twice), a, materialize_grads=True)
    want_second = torch.autograd.grad(sum((g * g).sum() for g in expected), b, materialize_grads=True)
    for f, e in zip(second, want_second):
        np.testing.assert_allclose(f.numpy(), e.numpy(), rtol=1e-8, atol=1e-8)


def test_running_statistics_are_torchs():
    x = np.random.default_rng(0).standard_normal(IMAGES) * 3 + 1
    ours, theirs = minidl.nn.BatchNorm2d(8).double(), torch.nn.BatchNorm2d(8).double()
    for _ in range(3):
        ours(minidl.tensor(x))
        theirs(torch.tensor(x))
    np.testing.assert_allclose(ours.running_mean.numpy(), theirs.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours.running_var.numpy(), theirs.running_var.numpy(), rtol=1e-12)


@pytest.mark.parametrize("dtype", [minidl.float32, minidl.float64])
def test_dropout_draws_what_it_always_drew(dtype):
    """The same elements and the same state as a uniform draw compared with p, whatever the size."""
    for shape in ((5, 7), (91, 101)):
        x = minidl.ones(*shape, dtype=dtype).requires_grad_()
        minidl.manual_seed(3)
        kept = minidl.random.uniform(shape) >= 0.3
        state = minidl.random.get_state()
        minidl.manual_seed(3)
        y = F.dropout(x, 0.3)
        assert np.array_equal(minidl.random.get_state(), state)
        np.testing.assert_allclose(y.detach().numpy(), kept / 0.7, rtol=1e-6)
        (dx,) = minidl.autograd.grad(y, [x], minidl.ones(*shape, dtype=dtype), create_graph=True)
        np.testing.assert_allclose(dx.detach().numpy(), kept / 0.7, rtol=1e-6)


def test_half_precision_stays_with_numpy(kernels_run):
    x = minidl.randn(100, 100).half()
    assert minidl.tanh(x).dtype == minidl.float16
    assert F.softmax(x, -1).dtype == minidl.float16
    assert not kernels_run


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(9000, 5), (64, 64, 8, 8), (3, 5, 7, 900), (2, 1, 40000), (40000, 2, 1)])
def test_sums_over_all_but_the_last_dimension_or_the_channels(shape, dtype):
    """Large ones are products with ones; in other layouts they are NumPy's."""
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    dims = (0, *range(2, x.ndim))
    for given in (x, x[::-1], x.swapaxes(0, -1).copy().swapaxes(0, -1)):
        for keep in (False, True):
            found = minidl.tensor(given).sum(dims, keepdim=keep).numpy()
            right = given.sum(dims, dtype=np.longdouble, keepdims=keep)
            assert found.shape == right.shape
            assert found.dtype == x.dtype
            length = x.size // right.size
            bound = length * np.finfo(dtype).eps * abs(given).sum(dims, keepdims=keep)
            assert (abs(found - right) <= bound).all()
