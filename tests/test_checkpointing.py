"""Gradient checkpointing: the same gradients as the plain call, less memory, the same dropout."""

import tracemalloc

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.utils.checkpoint import checkpoint, checkpoint_sequential

RNG = np.random.default_rng(0)


def network(dropout=0.5):
    layers = [nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Dropout(dropout)) for _ in range(4)]
    return nn.Sequential(*layers)


def gradients(model, x, run):
    minidl.manual_seed(3)
    x = minidl.tensor(x, requires_grad=True)
    model.zero_grad()
    y = run(x)
    (y * y).sum().backward()
    return [y.detach().numpy(), x.grad.numpy(), *[p.grad.numpy().copy() for p in model.parameters()]]


def test_the_bits_of_the_plain_call_dropout_included():
    model, x = network(), RNG.standard_normal((5, 6)).astype(np.float32)

    def checkpointed(x):
        for layer in model:
            x = checkpoint(layer, x)
        return x

    plain = gradients(model, x, model)
    state = minidl.get_rng_state()
    for run in (checkpointed, lambda x: checkpoint(model, x), lambda x: checkpoint_sequential(model, 2, x)):
        for a, b in zip(plain, gradients(model, x, run), strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(minidl.get_rng_state(), state)  # the second run leaves no trace
    free = gradients(model, x, lambda x: checkpoint(model, x, preserve_rng_state=False))
    np.testing.assert_array_equal(free[0], plain[0])
    assert not np.array_equal(free[1], plain[1])  # without the state, other units are dropped: the check can fail


def test_it_keeps_less():
    """A part of 20 operations on 400 kB saves 20 arrays; of ten parts, checkpoints keep ten inputs and one part."""
    size = 100_000

    def part(x):
        for _ in range(20):
            x = (x * 1.01).sin()
        return x

    def peak(call):
        x = minidl.tensor(np.ones(size, np.float32), requires_grad=True)
        tracemalloc.start()
        y = x
        for _ in range(10):
            y = call(part, y)
        kept = tracemalloc.get_traced_memory()[0]
        y.sum().backward()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return x.grad.numpy(), kept / (4 * size), most / (4 * size)

    plain, kept, most = peak(lambda f, x: f(x))
    again, kept_again, most_again = peak(checkpoint)
    np.testing.assert_array_equal(plain, again)
    assert kept > 190
    assert most > 190
    assert kept_again < 12  # ten outputs of parts, and small change
    assert most_again < 70  # those, and what one part saves and computes, forth and back


def test_runs_once_forward_and_once_backward():
    calls = []

    def f(x):
        calls.append(minidl.is_grad_enabled())
        return x.exp(), x * 2

    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    a, b = checkpoint(f, x)
    assert len(calls) == 1
    (a * b).sum().backward()
    assert calls == [True, True]
    np.testing.assert_allclose(x.grad.numpy(), np.exp([1, 2]) * (2 * np.array([1.0, 2.0]) + 2), rtol=1e-6)
    with minidl.no_grad():
        assert not checkpoint(f, x)[0].requires_grad
    assert len(calls) == 3


def test_second_derivatives():
    x = minidl.tensor(RNG.standard_normal(3), requires_grad=True)
    w = minidl.tensor(RNG.standard_normal(3), requires_grad=True)

    def twice(call):
        (g,) = minidl.autograd.grad(call(lambda x: (x.sin() * w).sum(), x * 2), x, create_graph=True)
        return [t.numpy() for t in minidl.autograd.grad((g**2).sum(), [x, w])]

    for a, b in zip(twice(lambda f, x: f(x)), twice(checkpoint)):
        np.testing.assert_allclose(a, b, rtol=1e-13)


def test_trees_keywords_and_what_is_no_tensor():
    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    y = minidl.tensor([3.0, 4.0], requires_grad=True)
    index = minidl.tensor([1, 0])

    def f(pair, power, scale=None, index=None):
        return {"a": pair[0][index] ** power * scale["s"], "b": "text", "c": index, "d": pair[1]}

    out = checkpoint(f, (x, 7), 3, scale={"s": y}, index=index)
    assert list(out) == ["a", "b", "c", "d"]
    assert (out["b"], out["d"]) == ("text", 7)
    assert out["c"] is index
    out["a"].sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [3 * 1 * 4, 3 * 4 * 3], rtol=1e-6)
    np.testing.assert_allclose(y.grad.numpy(), [8, 1], rtol=1e-6)


def test_only_some_outputs_or_inputs_take_part():
    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    z = minidl.tensor([5.0, 5.0], requires_grad=True)
    a, _, c = checkpoint(lambda x, z: (x * 3, z * 2, minidl.ones(2)), x, z)
    assert not c.requires_grad
    a.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [3, 3])
    assert z.grad is None or not z.grad.numpy().any()
    assert checkpoint(lambda x: x, x) is x
    assert not checkpoint(lambda x: x * 2, minidl.ones(2)).requires_grad


def test_retained_graphs_run_again():
    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    y = checkpoint(lambda x: x.exp(), x).sum()
    y.backward(retain_graph=True)
    first = x.grad.numpy().copy()
    y.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_what_is_refused():
    sizes = iter([2, 3])
    x = minidl.tensor([1.0, 2.0, 3.0], requires_grad=True)
    y = checkpoint(lambda x: x[: next(sizes)] * 2, x)
    with pytest.raises(RuntimeError, match="other shapes"):
        y.sum().backward()
    w = nn.Parameter(minidl.ones(3))
    y = checkpoint(lambda x: x * w, x)
    with minidl.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="in-place"):
        y.sum().backward()
    with pytest.raises(ValueError, match="5 segments of 4"):
        checkpoint_sequential(network(), 5, x)


def test_what_the_function_holds_gets_its_gradient_or_says_so():
    """A computed tensor that the function holds: right if nothing else uses it, otherwise right or an error."""
    z = minidl.tensor([1.0, 2.0], requires_grad=True)
    for extra in (0, 1):
        x = minidl.tensor([1.0, 2.0], requires_grad=True)
        held = x.exp()
        y = checkpoint(lambda z: z * held, z)
        y = y + held if extra else y
        try:
            y.sum().backward()
        except RuntimeError as error:
            assert extra
            assert "second time" in str(error)
        else:
            np.testing.assert_allclose(x.grad.numpy(), np.exp([1, 2]) * (np.array([1, 2]) + extra), rtol=1e-6)
