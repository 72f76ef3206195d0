"""Tensor itself: making one, asking it, converting, copying, pickling; as torch's wherever torch has it."""

from __future__ import annotations

import copy
import io
import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import minidl


def alike(ours: Any, theirs: Any, exact: bool = True) -> None:
    assert str(ours.dtype).partition(".")[2] == str(theirs.dtype).partition(".")[2]
    assert tuple(ours.shape) == tuple(theirs.shape)
    assert ours.requires_grad == theirs.requires_grad
    a, t = ours.detach().numpy(), theirs.detach().numpy()
    if exact:
        np.testing.assert_array_equal(a, t)
    else:  # torch steps in the result's precision, NumPy in double
        np.testing.assert_allclose(a, t, rtol=4 * np.finfo(np.float32).eps, atol=1e-6)


CONSTRUCTORS: dict[str, Callable[[Any], Any]] = {
    "int": lambda L: L.tensor(3),
    "float": lambda L: L.tensor(3.5),
    "bool": lambda L: L.tensor(True),
    "big": lambda L: L.tensor(2**40),
    "ints": lambda L: L.tensor([1, 2, 3]),
    "floats": lambda L: L.tensor([1.0, 2.5]),
    "bools": lambda L: L.tensor([True, False]),
    "mixed": lambda L: L.tensor([1, 2.5]),
    "mixed_bool": lambda L: L.tensor([True, 2]),
    "mixed_all": lambda L: L.tensor([True, 2, 2.5]),
    "nested": lambda L: L.tensor([[1, 2], [3, 4]]),
    "tuple": lambda L: L.tensor(((1.0, 2.0), (3.0, 4.0))),
    "empty": lambda L: L.tensor([]),
    "empty_rows": lambda L: L.tensor([[], []]),
    "range": lambda L: L.tensor(range(4)),
    "nan": lambda L: L.tensor([float("nan"), float("inf")]),
    "dtype": lambda L: L.tensor([1, 2], dtype=L.float64),
    "dtype_int": lambda L: L.tensor([1.7, -1.7], dtype=L.int32),
    "dtype_bool": lambda L: L.tensor([0, 2], dtype=L.bool),
    "dtype_half": lambda L: L.tensor([0.1], dtype=L.float16),
    "grad": lambda L: L.tensor([1.0], requires_grad=True),
    "device": lambda L: L.tensor([1.0], device="cpu"),
    "array64": lambda L: L.tensor(np.array([1.0, 2.0])),
    "array32": lambda L: L.tensor(np.array([1.0], np.float32)),
    "array_int": lambda L: L.tensor(np.array([1], np.int16)),
    "array_bool": lambda L: L.tensor(np.array([True])),
    "scalar32": lambda L: L.tensor(np.float32(1.5)),
    "scalar64": lambda L: L.tensor(np.float64(1.5)),
    "scalar_int": lambda L: L.tensor(np.int8(3)),
    "list_of_scalars": lambda L: L.tensor([np.float64(1), np.float64(2)]),
    "tensor_numbers": lambda L: L.tensor([L.tensor(1.0), L.tensor(2.0)]),
    "strided": lambda L: L.tensor(np.arange(6.0).reshape(2, 3).T),
    "zeros": lambda L: L.zeros(2, 3),
    "zeros_tuple": lambda L: L.zeros((2, 3)),
    "zeros_list": lambda L: L.zeros([2, 3]),
    "zeros_size": lambda L: L.zeros(L.ones(2, 3).shape),
    "zeros_0d": lambda L: L.zeros(()),
    "zeros_empty": lambda L: L.zeros(0, 3),
    "zeros_dtype": lambda L: L.zeros(2, dtype=L.int64),
    "zeros_grad": lambda L: L.zeros(2, requires_grad=True),
    "ones": lambda L: L.ones(2, 3),
    "ones_bool": lambda L: L.ones(2, dtype=L.bool),
    "full": lambda L: L.full((2, 3), 1.5),
    "full_int": lambda L: L.full((2,), 7),
    "full_bool": lambda L: L.full((2,), True),
    "full_dtype": lambda L: L.full((2,), 7, dtype=L.float32),
    "full_0d": lambda L: L.full((), 2.0),
    "eye": lambda L: L.eye(3),
    "eye_m": lambda L: L.eye(2, 3),
    "eye_dtype": lambda L: L.eye(2, dtype=L.int32),
    "arange": lambda L: L.arange(5),
    "arange_float": lambda L: L.arange(3.0),
    "arange_start": lambda L: L.arange(2, 7),
    "arange_step": lambda L: L.arange(1, 2, 0.25),
    "arange_back": lambda L: L.arange(5, 0, -2),
    "arange_dtype": lambda L: L.arange(3, dtype=L.float32),
    "arange_empty": lambda L: L.arange(0),
    "arange_int_dtype": lambda L: L.arange(0.5, 3, dtype=L.int64),
    "arange_keywords": lambda L: L.arange(start=1, end=7, step=2),
    "zeros_like": lambda L: L.zeros_like(L.ones(2, 3)),
    "zeros_like_int": lambda L: L.zeros_like(L.tensor([1, 2])),
    "ones_like_dtype": lambda L: L.ones_like(L.ones(2), dtype=L.int64),
    "full_like": lambda L: L.full_like(L.tensor([1, 2]), 3),
    "like_of_grad": lambda L: L.zeros_like(L.ones(2, requires_grad=True)),
    "like_wants_grad": lambda L: L.ones_like(L.ones(2), requires_grad=True),
    "Tensor": lambda L: L.Tensor([1, 2, 3]),
    "clone": lambda L: L.ones(2).clone(),
    "as_tensor": lambda L: L.as_tensor([1, 2.5]),
    "as_tensor_dtype": lambda L: L.as_tensor(np.array([1, 2]), dtype=L.float32),
    "from_numpy": lambda L: L.from_numpy(np.array([1, 2], np.int16)),
    "new_zeros": lambda L: L.ones(2, dtype=L.float64).clone().zero_(),
    "randint_shape": lambda L: L.randint(0, 1, (2, 3)),
    "randperm_1": lambda L: L.randperm(1),
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_constructors(name: str) -> None:
    alike(CONSTRUCTORS[name](minidl), CONSTRUCTORS[name](torch))


@pytest.mark.parametrize("args", [(0, 1, 5), (1, -1, 4), (0, 10, 1), (2.5, 3.5, 11), (0, 1, 0), (-3, 3, 100)])
def test_linspace(args: tuple) -> None:
    alike(minidl.linspace(*args), torch.linspace(*args), exact=False)
    alike(minidl.linspace(*args, dtype=minidl.float64), torch.linspace(*args, dtype=torch.float64), exact=False)


@pytest.mark.parametrize("args", [(0, 1, 0.1), (0, 2, 0.3), (1, 0, -0.125), (0, 1, 1e-3), (-1.5, 1.5, 0.5)])
def test_arange_of_fractions(args: tuple) -> None:
    alike(minidl.arange(*args), torch.arange(*args), exact=False)


def test_random_constructors() -> None:
    for make in (minidl.rand, minidl.randn):
        assert make(2, 3).shape == (2, 3)
        assert make((2, 3)).dtype == minidl.float32
        assert make(2, dtype=minidl.float64).dtype == minidl.float64
        assert make(2, requires_grad=True).requires_grad
        assert make(()).shape == ()
        assert make(3, generator=minidl.Generator(5)).tolist() == make(3, generator=minidl.Generator(5)).tolist()
    n = 20_000
    u, z = minidl.rand(n), minidl.randn(n)
    assert u.min().item() >= 0
    assert u.max().item() < 1
    # five standard errors: of the uniform mean 0.289 / sqrt(n), of the normal mean 1, of its deviation 0.71
    assert u.mean().item() == pytest.approx(0.5, abs=5 * 0.289 / n**0.5)
    assert z.mean().item() == pytest.approx(0, abs=5 / n**0.5)
    assert z.std().item() == pytest.approx(1, abs=5 * 0.71 / n**0.5)
    i = minidl.randint(3, 7, (1000,))
    assert set(i.tolist()) == {3, 4, 5, 6}
    assert i.dtype == minidl.int64
    assert set(minidl.randint(2, (100,)).tolist()) == {0, 1}
    assert sorted(minidl.randperm(50).tolist()) == list(range(50))
    assert minidl.rand_like(u).shape == u.shape
    assert minidl.randn_like(minidl.zeros(2, dtype=minidl.float64)).dtype == minidl.float64
    assert minidl.empty(2, 3).shape == (2, 3)
    assert minidl.empty_like(minidl.zeros(2, dtype=minidl.int8)).dtype == minidl.int8
    b = minidl.bernoulli(minidl.full((n,), 0.3))
    assert set(b.tolist()) == {0.0, 1.0}
    assert b.mean().item() == pytest.approx(0.3, abs=5 * 0.46 / n**0.5)
    with pytest.raises((TypeError, RuntimeError)):
        minidl.rand(2, dtype=minidl.int64)


def test_a_seed_repeats_everything() -> None:
    def draw() -> list:
        return [
            minidl.rand(3).tolist(),
            minidl.randn(3).tolist(),
            minidl.randint(0, 100, (3,)).tolist(),
            minidl.randperm(5).tolist(),
            minidl.nn.functional.dropout(minidl.ones(9)).tolist(),
            minidl.multinomial(minidl.ones(5), 3).tolist(),
        ]

    minidl.manual_seed(7)
    first, state = draw(), minidl.get_rng_state()
    second = draw()
    assert first != second
    minidl.set_rng_state(state)
    assert draw() == second
    minidl.manual_seed(7)
    assert draw() == first
    assert minidl.initial_seed() == 7


def test_multinomial() -> None:
    p = minidl.tensor([[0.0, 1.0, 3.0], [2.0, 0.0, 0.0]])
    drawn = minidl.multinomial(p, 4000, replacement=True)
    assert drawn.shape == (2, 4000)
    assert drawn.dtype == minidl.int64
    assert set(drawn[1].tolist()) == {0}
    assert (drawn[0] == 2).float().mean().item() == pytest.approx(0.75, abs=5 * 0.43 / 4000**0.5)
    assert (drawn[0] == 0).sum().item() == 0
    both = minidl.multinomial(minidl.tensor([0.0, 1.0, 3.0]), 2)
    assert sorted(both.tolist()) == [1, 2]
    first = [minidl.multinomial(minidl.tensor([1.0, 3.0]), 2)[0].item() for _ in range(2000)]
    assert np.mean(first) == pytest.approx(0.75, abs=5 * 0.43 / 2000**0.5)


def test_dropout_keeps_the_mean() -> None:
    x = minidl.ones(100, 200, requires_grad=True)
    y = minidl.nn.functional.dropout(x, 0.25)
    assert set(np.unique(y.detach().numpy())) == {np.float32(0), np.float32(1 / 0.75)}
    assert y.mean().item() == pytest.approx(1.0, abs=5 * (0.25 / 0.75) ** 0.5 / 20000**0.5)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.detach().numpy())
    z = minidl.nn.functional.dropout2d(minidl.ones(50, 20, 3, 3), 0.5).numpy()
    assert set(np.unique(z.reshape(1000, 9).std(1))) == {0.0}  # whole channels


# -- asking -----------------------------------------------------------------------------------------------------------


def test_what_it_is() -> None:
    for L in (minidl, torch):
        x = L.zeros(2, 3, 4)
        assert x.shape == (2, 3, 4)
        assert x.size() == (2, 3, 4)
        assert x.size(1) == x.size(-2) == 3
        assert x.shape[1] == 3
        assert x.shape.numel() == 24
        assert x.ndim == x.dim() == 3
        assert x.numel() == x.nelement() == 24
        assert len(x) == 2
        assert x.element_size() == 4
        assert x.nbytes == 96
        assert x.stride() == (12, 4, 1)
        assert x.stride(0) == 12
        assert x.transpose(0, 2).stride() == (1, 4, 12)
        assert x.is_contiguous()
        assert not x.transpose(0, 2).is_contiguous()
        assert x.transpose(0, 2).contiguous().is_contiguous()
        assert x.is_floating_point()
        assert not L.tensor([1]).is_floating_point()
        assert not x.is_cuda
        assert str(x.device) == "cpu"
        assert x.device == L.device("cpu")
        assert x.is_leaf
        assert x.grad is None
        assert x.grad_fn is None
        assert x.data_ptr() == x.view(-1).data_ptr()
        assert x[1].data_ptr() == x.data_ptr() + 48
        n, c, *_ = x.shape
        assert (n, c) == (2, 3)
        assert L.is_tensor(x)
        assert isinstance(x, L.Tensor)
        with pytest.raises(IndexError):
            x.size(3)


def test_values_out() -> None:
    for L in (minidl, torch):
        assert L.tensor(3).item() == 3
        assert type(L.tensor(3).item()) is int
        assert type(L.tensor([[2.5]]).item()) is float
        assert type(L.tensor(True).item()) is bool
        assert L.tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]
        assert L.tensor(3.5).tolist() == 3.5
        assert L.zeros(0).tolist() == []
        assert bool(L.tensor([[1]]))
        assert not bool(L.tensor(0.0))
        assert float(L.tensor([2.5])) == 2.5
        assert int(L.tensor(2.7)) == 2
        assert complex(L.tensor(2.0)) == 2 + 0j
        assert operator.index(L.tensor([3])) == 3
        assert "abc"[L.tensor(1)] == "b"
        assert [x.item() for x in L.tensor([1, 2])] == [1, 2]
        assert [tuple(r.shape) for r in L.zeros(2, 3)] == [(3,), (3,)]
        a, b = L.tensor([1.0, 2.0])
        assert (a.item(), b.item()) == (1.0, 2.0)
        assert 2 in L.tensor([1, 2, 3])
        assert 5 not in L.tensor([1, 2, 3])
        assert L.tensor(2) in L.tensor([1, 2])
        assert [r.tolist() for r in reversed(L.tensor([[1], [2]]))] == [[2], [1]]
        assert L.tensor([1.0]) == 1.0
        with pytest.raises(TypeError):
            operator.index(L.tensor(1.5))


def test_iteration_keeps_gradients() -> None:
    for L in (minidl, torch):
        x = L.tensor([1.0, 2.0, 3.0], requires_grad=True)
        sum(v * k for k, v in enumerate(x)).backward()
        assert x.grad.tolist() == [0.0, 1.0, 2.0]


def test_comparisons_and_hash() -> None:
    x, y = minidl.tensor([1.0, 2.0]), minidl.tensor([1.0, 2.0])
    assert (x == y).tolist() == [True, True]
    assert len({x, y}) == 2
    assert {x: 1}[x] == 1
    assert (x == None) is False  # noqa: E711
    assert x is not None
    assert any(t is x for t in [y, x])


# -- copies -----------------------------------------------------------------------------------------------------------


def test_deepcopy() -> None:
    for L in (minidl, torch):
        x = L.tensor([1.0, 2.0], requires_grad=True)
        x.grad = L.tensor([3.0, 4.0])
        x.note = ["kept"]
        y = copy.deepcopy({"a": x, "b": [x]})
        assert y["a"] is y["b"][0]
        z = y["a"]
        assert z.requires_grad
        assert z.is_leaf
        assert z.tolist() == [1.0, 2.0]
        assert z.grad.tolist() == [3.0, 4.0]
        assert z.note == ["kept"]
        assert z.note is not x.note
        z.data[0] = 9
        z.grad[0] = 9
        assert x.tolist() == [1.0, 2.0]
        assert x.grad.tolist() == [3.0, 4.0]
        with pytest.raises(RuntimeError):
            copy.deepcopy(x * 2)
        assert copy.deepcopy((x * 2).detach()).tolist() == [2.0, 4.0]
    view = minidl.zeros(2, 2).t()
    assert not np.shares_memory(copy.deepcopy(view).array, view.array)


def test_shallow_copy() -> None:
    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    y = copy.copy(x)
    assert y.requires_grad
    assert y.tolist() == [1.0, 2.0]


def test_pickle() -> None:
    for L in (minidl, torch):
        for x in (
            L.tensor([1.0, 2.0], requires_grad=True), L.zeros(0, 3), L.tensor(3), L.tensor([True]),
            L.ones(3, 4, dtype=L.float64).t()[1:],
        ):  # fmt: skip
            for protocol in (2, pickle.HIGHEST_PROTOCOL):
                y = pickle.loads(pickle.dumps(x, protocol))
                assert type(y) is type(x)
                assert y.dtype == x.dtype
                assert y.requires_grad == x.requires_grad
                assert y.tolist() == x.tolist()
    with pytest.raises(RuntimeError, match="leaf"):
        pickle.dumps(minidl.ones(2, requires_grad=True) * 2)
    stream = io.BytesIO()
    pickle.dump({"w": minidl.ones(2)}, stream)
    stream.seek(0)
    assert pickle.load(stream)["w"].tolist() == [1.0, 1.0]


def test_data_and_grad_can_be_assigned() -> None:
    for L in (minidl, torch):
        x = L.ones(2, requires_grad=True)
        x.data = L.tensor([3.0, 4.0])
        assert x.requires_grad
        assert x.tolist() == [3.0, 4.0]
        (x * x).sum().backward()
        assert x.grad.tolist() == [6.0, 8.0]
        x.grad = L.zeros(2)
        assert x.grad.tolist() == [0.0, 0.0]
        x.grad = None
        assert x.grad is None
        with pytest.raises(TypeError):
            x.data = [1.0]


def test_detach_() -> None:
    for L in (minidl, torch):
        x = L.ones(2, requires_grad=True)
        y = x * 2
        assert y.detach_() is y
        assert not y.requires_grad
        assert y.is_leaf


# -- views and layouts ------------------------------------------------------------------------------------------------


def test_strides_of_views() -> None:
    for f in (
        lambda x: x.t(),
        lambda x: x[::2],
        lambda x: x[:, 1],
        lambda x: x.unsqueeze(1).transpose(0, 1),
        lambda x: x.expand(2, 4, 3),
        lambda x: x.reshape(2, 6),
        lambda x: x.flatten(),
        lambda x: x.narrow(0, 1, 2),
        lambda x: x.permute(1, 0),
    ):
        a, b = f(minidl.zeros(4, 3)), f(torch.zeros(4, 3))
        assert tuple(a.shape) == tuple(b.shape)
        assert a.stride() == b.stride()
        assert a.is_contiguous() == b.is_contiguous()


def test_view_of_another_dtype() -> None:
    for L in (minidl, torch):
        x = L.tensor([1.0, -2.0])
        assert x.view(L.int32).tolist() == [0x3F800000, -0x40000000]


def test_generator_object_and_device() -> None:
    assert minidl.device("cpu") == minidl.zeros(1).device
    with pytest.raises(ValueError, match="abacus"):
        minidl.device("abacus")
    x = minidl.zeros(2)
    assert x.cpu() is x
    assert x.to(minidl.device("cpu")) is x


def test_subclasses_and_attributes() -> None:
    x = minidl.zeros(2)
    x.name = "weight"
    assert x.name == "weight"
    assert not hasattr(x * 1, "name")
    with pytest.raises(AttributeError):
        x.nothing


def test_methods_have_docstrings() -> None:
    for name in dir(minidl.Tensor):
        if not name.startswith("_") and callable(getattr(minidl.Tensor, name)):
            assert getattr(minidl.Tensor, name).__doc__, f"Tensor.{name} has no docstring"
