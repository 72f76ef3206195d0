"""Names beside the usual one, and what custom code may call."""

import inspect

import numpy as np
import pytest
import torch

import minidl
import minidl.func
import minidl.optim


def test_second_names_are_the_same_function() -> None:
    assert minidl.func.jacobian is minidl.func.jacrev
    assert minidl.subtract is minidl.sub
    assert minidl.multiply is minidl.mul
    assert minidl.divide is minidl.true_divide is minidl.div


def test_divide_in_place() -> None:
    x = minidl.tensor([1.0, 4.0])
    assert x.divide_(minidl.tensor([2.0, 2.0])) is x
    assert x.tolist() == [0.5, 2.0]
    assert x.true_divide_(0.5).tolist() == [1.0, 4.0]


def test_bump_tells_backward_that_the_array_was_written() -> None:
    x, w = minidl.ones(3, requires_grad=True), minidl.ones(3)
    y = (x * w).sum()
    w.array[:] = np.float32(2)
    w.bump()
    with pytest.raises(RuntimeError, match="in-place"):
        y.backward()


@pytest.mark.parametrize("inplace", [False, True])
def test_functions_of_layers_write_into_their_input_if_told(inplace: bool) -> None:
    F = minidl.nn.functional
    for f in (F.relu, F.silu, F.leaky_relu):
        leaf = minidl.tensor([-1.0, 0.5, 2.0], requires_grad=True)
        x = leaf * 1
        y = f(x, inplace=inplace)
        assert (y is x) == inplace
        y.sum().backward()
        other = leaf.detach().requires_grad_()
        want = f(other)
        want.sum().backward()
        np.testing.assert_array_equal(y.detach().numpy(), want.detach().numpy())
        np.testing.assert_array_equal(leaf.grad.numpy(), other.grad.numpy())


def test_split_by_torchs_keywords() -> None:
    x = minidl.arange(5)
    for parts in (minidl.split(tensor=x, split_size_or_sections=2), x.split(split_size=2), x.split([2, 2, 1])):
        assert [p.tolist() for p in parts] == [[0, 1], [2, 3], [4]]


def test_random_tensors_like_another_take_a_generator() -> None:
    x = minidl.ones(4, dtype=minidl.float64)
    a, b = (minidl.rand_like(x, generator=minidl.Generator().manual_seed(3)) for _ in range(2))
    assert a.tolist() == b.tolist()
    assert a.dtype == minidl.float64


def test_base_classes_and_results() -> None:
    assert issubclass(minidl.nn.GRUCell, minidl.nn.RNNCellBase)
    assert inspect.signature(minidl.optim.find_lr).return_annotation == "LRFinding"
    assert minidl.optim.LRFinding.__module__ == minidl.optim.find_lr.__module__


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
def test_removing_a_norm_leaves_the_weight_it_gave(kind: str) -> None:
    layer = minidl.nn.Linear(3, 2)
    utils = minidl.nn.utils
    normed = getattr(utils, kind)(layer)
    x = minidl.randn(4, 3)
    normed.eval()
    want = normed(x).detach().numpy().copy()
    remove = {"weight_norm": utils.remove_weight_norm, "spectral_norm": utils.remove_spectral_norm}[kind]
    plain = remove(normed)
    np.testing.assert_allclose(plain(x).detach().numpy(), want, rtol=1e-6)  # a few roundings of the product g v / |v|
    assert sorted(plain.state_dict()) == ["bias", "weight"]


def test_fused_weights_are_torchs() -> None:
    rng = np.random.default_rng(0)
    w, v = rng.standard_normal((4, 3, 2, 2)), [rng.uniform(0.5, 2, 4) for _ in range(5)]
    for ours, theirs, weight in (
        (minidl.nn.utils.fuse_conv_bn_weights, torch.nn.utils.fuse_conv_bn_weights, w),
        (minidl.nn.utils.fuse_linear_bn_weights, torch.nn.utils.fuse_linear_bn_weights, w.reshape(4, 12)),
    ):
        arguments = [(lib.tensor(weight), *(lib.tensor(a) for a in v[:3]), 1e-5, *(lib.tensor(a) for a in v[3:]))
                     for lib in (minidl, torch)]  # fmt: skip
        for a, t in zip(ours(*arguments[0]), theirs(*arguments[1]), strict=True):
            np.testing.assert_allclose(a.detach().numpy(), t.detach().numpy(), rtol=1e-13)  # a dozen roundings
