"""The graph and the walk back: order, accumulation, hooks, higher derivatives, memory, anomalies, threads."""

from __future__ import annotations

import contextlib
import gc
import operator
import threading
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import minidl
import minidl.nn.functional as MF
from minidl import autograd
from minidl.autograd import AnomalyError, Op, grad


@pytest.fixture(autouse=True)
def _switches() -> Iterator[None]:
    """One failure is not to become many."""
    yield
    autograd.state.grad, autograd.state.anomaly, autograd.state.scope = True, None, ""


def leaf(*values: Any, dtype: Any = minidl.float64) -> minidl.Tensor:
    data = values[0] if len(values) == 1 else list(values)
    return minidl.tensor(data, dtype=dtype, requires_grad=True)


def arange(*shape: int, requires_grad: bool = True) -> tuple[minidl.Tensor, torch.Tensor]:
    a = np.sin(np.arange(int(np.prod(shape)), dtype=np.float64) + 1).reshape(shape)
    return minidl.tensor(a, requires_grad=requires_grad), torch.tensor(a, requires_grad=requires_grad)


def close(ours: Any, theirs: Any) -> None:
    a, t = ours.detach().numpy(), theirs.detach().numpy()
    assert a.dtype == t.dtype
    np.testing.assert_allclose(a, t, rtol=1e-10, atol=1e-12)


# -- the walk ---------------------------------------------------------------------------------------------------------


def test_a_chain_of_100_000_ops_goes_back_and_is_freed() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1e-5
    z = y * y
    assert z.item() == pytest.approx(4.0)
    z.backward()
    assert x.grad.item() == pytest.approx(4.0)
    node = weakref.ref(y.node)
    del y, z  # a recursion through 100,000 nodes would crash here
    assert node() is None


def test_a_chain_with_saved_tensors_is_freed_without_backward() -> None:
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y * 1.0
    last = weakref.ref(y.node)
    del y
    assert last() is None


def test_a_chain_under_create_graph() -> None:
    x = leaf(0.5)
    y = x
    for _ in range(3000):
        y = y * 1.0001
    (dx,) = grad(y * y, x, create_graph=True)
    (ddx,) = grad(dx, x)
    assert ddx.item() == pytest.approx(2 * 1.0001**6000)


def test_views_of_views_of_views() -> None:
    """A chain of views is derived from its base again after a change: not by recursion through all of it."""
    x = leaf(np.zeros((2, 2)))
    y = v = x * 1
    for _ in range(2000):
        v = v.view(2, 2)
    v += 1
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.ones((2, 2)))
    assert v.requires_grad


def test_diamond() -> None:
    """x reaches z on two ways of different length: each node goes back once, when its gradient is complete."""
    count = []

    class watched(Op):
        def forward(ctx, x: Any) -> Any:
            return x * 2

        def backward(ctx, dy: Any) -> Any:
            count.append(1)
            return dy * 2

    x = leaf(3.0)
    a = watched(x)
    b = (a * a).exp() * 0 + a
    z = b * a + a
    z.backward()
    assert len(count) == 1
    assert x.grad.item() == 2 * (2 * 6 + 1)


def test_many_uses_of_one_tensor() -> None:
    m, t = arange(3)
    for x in (m, t):
        y = x * 2
        z = y
        for k in range(30):
            z = z + y * k + x
        (z * y).sum().backward()
    close(m.grad, t.grad)


def test_shared_leaf_in_one_op() -> None:
    x = leaf(3.0)
    (x * x + x + x - x).backward()
    assert x.grad.item() == 7.0


def test_gradients_accumulate_over_calls() -> None:
    x = leaf(1.0, 2.0)
    for k in range(1, 4):
        (x * x).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), 2 * k * np.array([1.0, 2.0]))
    kept = x.grad
    x.grad = None
    x.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1, 1])
    np.testing.assert_array_equal(kept.numpy(), [6, 12])


def test_several_roots() -> None:
    m, t = arange(3)
    autograd.backward([(m * 2).sum(), m.exp()], [None, minidl.ones(3, dtype=minidl.float64)])
    torch.autograd.backward([(t * 2).sum(), t.exp()], [None, torch.ones(3, dtype=torch.float64)])
    close(m.grad, t.grad)


def test_a_root_that_is_also_on_the_way() -> None:
    m, t = arange(3)
    for x, back in ((m, autograd.backward), (t, torch.autograd.backward)):
        a = (x * 2).sum()
        back([a, a * a])
    close(m.grad, t.grad)


def test_backward_of_a_leaf() -> None:
    x = leaf(2.0)
    x.backward()
    x.backward()
    assert x.grad.item() == 2.0


def test_gradients_come_in_the_dtype_of_their_tensor() -> None:
    for a, b in (("float32", "float64"), ("float16", "float32"), ("float64", "float16")):
        x = minidl.ones(3, dtype=getattr(minidl, a), requires_grad=True)
        y = minidl.ones(3, dtype=getattr(minidl, b), requires_grad=True)
        (x * y + x / y - y).sum().backward()
        assert x.grad.dtype == x.dtype
        assert y.grad.dtype == y.dtype


def test_outputs_that_are_integers_take_no_part() -> None:
    x = leaf(3.0, 1.0)
    values, index = x.max(0)
    assert not index.requires_grad
    assert not (x > 1).requires_grad
    assert not x.long().requires_grad
    values.backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1, 0])


# -- gradients own their memory ---------------------------------------------------------------------------------------

SHARING: dict[str, Callable] = {
    "add": lambda a, b: (a + b).sum(),
    "add_back": lambda a, b: (a + b).backward(minidl.ones(3, dtype=minidl.float64)),
    "sub": lambda a, b: (a - b).sum(),
    "clone": lambda a, b: (a.clone() + b.clone()).sum(),
    "reshape": lambda a, b: (a.reshape(1, 3) + b.reshape(1, 3)).sum(),
    "cat": lambda a, b: minidl.cat([a, b]).sum(),
    "cat_exp": lambda a, b: minidl.cat([a, b]).exp().sum(),
    "stack": lambda a, b: minidl.stack([a, b]).sum(),
    "index": lambda a, b: (a[:] + b[:]).sum(),
    "where": lambda a, b: minidl.where(minidl.tensor([True, False, True]), a, b).sum(),
    "cast": lambda a, b: (a.float() + b.float()).sum(),
    "twice": lambda a, b: (a + a + b + b).sum(),
    "itself": lambda a, b: a.sum() + b.sum(),
}


@pytest.mark.parametrize("name", SHARING)
def test_gradients_of_different_leaves_do_not_share_memory(name: str) -> None:
    a, b = leaf(1.0, 2.0, 3.0), leaf(4.0, 5.0, 6.0)
    y = SHARING[name](a, b)
    if y is not None:
        y.backward()
    assert not np.shares_memory(a.grad.array, b.grad.array)
    before = b.grad.numpy().copy()
    a.grad += 100  # what optimizers and clipping do
    np.testing.assert_array_equal(b.grad.numpy(), before)
    assert a.grad.array.flags.writeable


def test_a_gradient_that_is_passed_in_is_not_taken_over() -> None:
    x, g = leaf(1.0, 2.0), minidl.ones(2, dtype=minidl.float64)
    x.backward(g)
    assert not np.shares_memory(x.grad.array, g.array)
    (x + 0).backward(g)
    np.testing.assert_array_equal(g.numpy(), [1, 1])
    np.testing.assert_array_equal(x.grad.numpy(), [2, 2])


def test_what_backward_returns_from_its_saved_tensors_is_not_taken_over() -> None:
    class constant_slope(Op):
        def forward(ctx, x: Any, w: Any) -> Any:
            ctx.save(w)
            return (x * w).sum()

        def backward(ctx, dy: Any) -> Any:
            (w,) = ctx.saved
            return w, None

    x, w = leaf(1.0, 2.0), minidl.tensor([3.0, 4.0], dtype=minidl.float64)
    constant_slope(x, w).backward()
    x.grad += 1
    np.testing.assert_array_equal(w.numpy(), [3, 4])


def test_hooks_see_gradients_that_stay_as_they_were() -> None:
    seen = []
    x = leaf(1.0, 2.0)
    y = x * 1
    y.register_hook(seen.append)
    (y + y.exp() * 0).sum().backward()
    x.grad += 7
    np.testing.assert_array_equal(seen[0].numpy(), [1, 1])


# -- the second time --------------------------------------------------------------------------------------------------


def test_second_backward_needs_retain_graph() -> None:
    x = leaf(2.0)
    y = x * x
    y.backward()
    with pytest.raises(RuntimeError, match=r"second time.*retain_graph=True"):
        y.backward()
    x.grad = None
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8.0
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_shared_part_of_two_graphs() -> None:
    x = leaf(2.0)
    y = x.exp()
    a, b = y * 2, y * 3
    a.backward()
    with pytest.raises(RuntimeError, match="second time"):
        b.backward()


def test_backward_again_through_ops_that_save_nothing() -> None:
    x = leaf(2.0)
    y = x + 1 - 3
    y.backward()
    y.backward()
    assert x.grad.item() == 2.0


def test_retain_graph_with_grad() -> None:
    x = leaf(2.0)
    y = x**3
    (a,) = grad(y, x, retain_graph=True)
    (b,) = grad(y, x)
    assert a.item() == b.item() == 12.0
    with pytest.raises(RuntimeError, match="second time"):
        grad(y, x)


# -- switches ---------------------------------------------------------------------------------------------------------


def test_no_grad_as_context_and_decorator() -> None:
    x = leaf(1.0)
    with minidl.no_grad():
        assert not minidl.is_grad_enabled()
        assert not (x * 2).requires_grad
        with minidl.enable_grad():
            assert (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad

    @minidl.no_grad()
    def f(x: Any) -> Any:
        """Doc."""
        return x * 2

    @minidl.no_grad
    def g(x: Any) -> Any:
        return x * 2

    @minidl.enable_grad()
    def h(x: Any) -> Any:
        return x * 2

    assert not f(x).requires_grad
    assert not g(x).requires_grad
    assert f.__name__ == "f"
    assert f.__doc__ == "Doc."
    with minidl.no_grad():
        assert h(x).requires_grad
    assert minidl.is_grad_enabled()


def test_grad_mode_is_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), minidl.no_grad():
        1 / 0
    assert minidl.is_grad_enabled()

    @minidl.no_grad()
    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        fails()
    assert minidl.is_grad_enabled()

    x = leaf(1.0)
    y = x * 2
    y.register_hook(lambda g: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        y.backward()
    assert minidl.is_grad_enabled()


def test_no_grad_nests_and_is_reusable() -> None:
    switch = minidl.no_grad()
    with switch, switch:
        assert not minidl.is_grad_enabled()
    assert minidl.is_grad_enabled()
    with switch:
        assert not minidl.is_grad_enabled()
    assert minidl.is_grad_enabled()

    @minidl.no_grad()
    def recursive(n: int) -> bool:
        return recursive(n - 1) if n else minidl.is_grad_enabled()

    assert recursive(3) is False
    assert minidl.is_grad_enabled()


def test_set_grad_enabled() -> None:
    try:
        minidl.set_grad_enabled(False)
        assert not minidl.is_grad_enabled()
    finally:
        minidl.set_grad_enabled(True)
    with minidl.set_grad_enabled(False):
        assert not minidl.is_grad_enabled()
        with minidl.set_grad_enabled(True):
            assert minidl.is_grad_enabled()
        assert not minidl.is_grad_enabled()
    assert minidl.is_grad_enabled()

    @minidl.set_grad_enabled(False)
    def f() -> bool:
        return minidl.is_grad_enabled()

    assert minidl.is_grad_enabled(), "decorating must not switch anything"
    assert f() is False
    assert f() is False
    assert minidl.is_grad_enabled()


def test_inference_mode() -> None:
    with minidl.inference_mode():
        assert not (leaf(1.0) * 2).requires_grad
    assert minidl.is_grad_enabled()


def test_no_grad_of_a_generator() -> None:
    """The switch holds while the generator runs, not while its user does."""

    @minidl.no_grad()
    def batches() -> Iterator[bool]:
        yield minidl.is_grad_enabled()
        yield minidl.is_grad_enabled()

    for inside in batches():
        assert inside is False
        assert minidl.is_grad_enabled()


def test_grad_mode_belongs_to_the_thread() -> None:
    seen = {}
    inside, done = threading.Event(), threading.Event()

    def other() -> None:
        seen["start"] = minidl.is_grad_enabled()
        with minidl.no_grad():
            inside.set()
            done.wait(10)
            seen["end"] = minidl.is_grad_enabled()

    with minidl.no_grad():
        thread = threading.Thread(target=other)
        thread.start()
        inside.wait(10)
    assert minidl.is_grad_enabled()
    assert (leaf(1.0) * 2).requires_grad
    done.set()
    thread.join()
    assert seen == {"start": True, "end": False}


def test_graphs_in_many_threads() -> None:
    """Each thread builds and walks graphs over shared leaves that want no gradient, and over its own."""
    w = minidl.tensor(np.linspace(-1, 1, 12).reshape(3, 4))
    results: dict[int, Any] = {}

    def work(k: int) -> None:
        for _ in range(50):
            x = minidl.tensor(np.full((2, 3), k / 10), requires_grad=True)
            (x @ w).tanh().sum().backward()
            results[k] = x.grad.numpy()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for k, got in results.items():
        x = torch.tensor(np.full((2, 3), k / 10), requires_grad=True)
        (x @ torch.tensor(w.numpy())).tanh().sum().backward()
        np.testing.assert_allclose(got, x.grad.numpy(), rtol=1e-12, atol=1e-12)
    assert len(results) == 6


# -- leaves and their flags -------------------------------------------------------------------------------------------


def test_detach_and_data() -> None:
    x = leaf(1.0, 2.0)
    y = x * 2
    d = y.detach()
    assert not d.requires_grad
    assert d.is_leaf
    assert np.shares_memory(d.array, y.array)
    (y + d * y).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * (1 + y.detach().numpy()))
    x.data[0] = 5.0
    assert x[0].item() == 5.0
    assert x.requires_grad


def test_requires_grad_() -> None:
    x = minidl.zeros(2)
    assert x.requires_grad_() is x
    assert x.requires_grad
    assert x.is_leaf
    x.requires_grad = False
    assert not (x * 2).requires_grad
    y = leaf(1.0) * 2
    assert not y.is_leaf
    y.requires_grad_(True)
    with pytest.raises(RuntimeError, match="leaf"):
        y.requires_grad = False
    with pytest.raises(RuntimeError, match="floating"):
        minidl.zeros(2, dtype=minidl.int64).requires_grad_()


def test_freezing_a_part() -> None:
    a, b = leaf(2.0), leaf(3.0)
    b.requires_grad_(False)
    y = a * b
    y.backward()
    assert a.grad.item() == 3.0
    assert b.grad is None


def test_retain_grad() -> None:
    for L in (minidl, torch):
        x = L.tensor([1.0, 2.0], requires_grad=True)
        y = x * 2
        z = y * y
        y.retain_grad()
        y.retain_grad()
        assert y.retains_grad
        z.sum().backward(retain_graph=True)
        assert y.grad.tolist() == [4.0, 8.0]
        z.sum().backward()
        assert y.grad.tolist() == [8.0, 16.0]
        x.retain_grad()  # a leaf keeps it anyway
        assert not x.retains_grad


def test_grad_of_a_non_leaf_is_none_without_retain_grad() -> None:
    x = leaf(1.0)
    y = x * 2
    (y * y).backward()
    assert y.grad is None


# -- hooks ------------------------------------------------------------------------------------------------------------


def test_hooks_on_leaves_and_others_change_what_flows_on() -> None:
    for L in (minidl, torch):
        x = L.tensor([1.0, 2.0], requires_grad=True)
        y = x * 3
        y.register_hook(lambda g: g * 10)
        y.register_hook(lambda g: None)
        handle = y.register_hook(lambda g: g * 1000)
        x.register_hook(lambda g: g + 1)
        handle.remove()
        handle.remove()
        y.retain_grad()
        y.sum().backward()
        assert x.grad.tolist() == [31.0, 31.0]
        assert y.grad.tolist() == [10.0, 10.0]


def test_a_hook_runs_once_with_the_whole_gradient() -> None:
    seen = []
    x = leaf(2.0)
    y = x * 1
    y.register_hook(lambda g: seen.append(g.item()))
    (y * 2 + y * y + y).backward()
    assert seen == [2 + 4 + 1]


def test_leaf_hooks_run_for_each_contribution_or_once_as_in_torch() -> None:
    """torch runs a leaf's hook once, on the sum over the graph."""
    counts = []
    for L in (minidl, torch):
        seen: list = []
        x = L.tensor(2.0, requires_grad=True)
        x.register_hook(lambda g, seen=seen: seen.append(float(g)))
        (x * 2 + x * x + x).backward()
        counts.append(seen)
    assert counts[0] == counts[1]


def test_hook_as_context_and_bad_results() -> None:
    x = leaf(1.0)
    with x.register_hook(lambda g: g * 2):
        (x * 1).backward()
    (x * 1).backward()
    assert x.grad.item() == 3.0
    y = x * 1
    y.register_hook(lambda g: minidl.zeros(3))
    with pytest.raises(RuntimeError, match="hook"):
        y.backward()
    with pytest.raises(RuntimeError, match="gradient"):
        minidl.zeros(2).register_hook(print)


def test_hooks_under_create_graph_are_differentiated() -> None:
    for L in (minidl, torch):
        x = L.tensor(2.0, dtype=L.float64, requires_grad=True)
        y = x**3
        y.register_hook(lambda g: g * g * x)
        (dx,) = L.autograd.grad(y * 2, x, create_graph=True)
        (ddx,) = L.autograd.grad(dx, x)
        # dx = (2 * 2 * x) * 3 x^2 = 12 x^3
        assert dx.item() == pytest.approx(96.0)
        assert ddx.item() == pytest.approx(144.0)


# -- grad() -----------------------------------------------------------------------------------------------------------


def test_grad_of_leaves_and_others() -> None:
    m, t = arange(2, 3)
    results = []
    for L, x in ((minidl, m), (torch, t)):
        y = x.exp()
        z = y * x
        w = z.sum() * 3
        results.append(L.autograd.grad(w, [x, y, z, w], retain_graph=True))
        assert x.grad is None
    for a, b in zip(*results, strict=True):
        close(a, b)


def test_grad_with_unused_inputs() -> None:
    x, y = leaf(1.0), leaf(2.0)
    with pytest.raises(RuntimeError, match="not used"):
        grad(x * 2, [x, y])
    assert grad(x * 2, [x, y], allow_unused=True)[1] is None
    assert grad(x * 2, [x, y], materialize_grads=True)[1].item() == 0.0
    with pytest.raises(RuntimeError, match="does not require"):
        grad(x * 2, minidl.zeros(1))
    with pytest.raises(RuntimeError):
        grad(minidl.zeros(()), x)


def test_grad_goes_only_where_it_must() -> None:
    """Parts of the graph from which no input is reached are not walked: an op there may be unable to go back."""

    class stubborn(Op):
        def forward(ctx, x: Any) -> Any:
            return x * 2

        def backward(ctx, dy: Any) -> Any:
            raise AssertionError("not wanted")

    x, y = leaf(1.0), leaf(2.0)
    assert grad(stubborn(x) + y * 3, y)[0].item() == 3.0


def test_grad_of_an_output_that_is_the_input() -> None:
    x = leaf(2.0)
    assert grad(x, x)[0].item() == 1.0
    y = x * 3
    assert grad(y, y)[0].item() == 1.0
    a, b = grad([y, y * y], [y, x], [minidl.tensor(1.0, dtype=minidl.float64)] * 2)
    assert (a.item(), b.item()) == (1 + 12, 39)


def test_backward_with_inputs() -> None:
    m, t = arange(3)
    for x in (m, t):
        y = x * 2
        z = (y * y + x).sum()
        other = type(x)([1.0]).requires_grad_()
        (z * other).sum().backward(inputs=[y])
        assert x.grad is None
        assert other.grad is None
        x.y = y
    close(m.y.grad, t.y.grad)
    x = leaf(1.0)
    (x * 3).backward(inputs=x)
    (x * 3).backward(inputs=[x])
    assert x.grad.item() == 6.0


def test_create_graph_leaves_grads_that_can_be_differentiated() -> None:
    m, t = arange(3)
    for x in (m, t):
        (x**3).sum().backward(create_graph=True) if x is m else None
    y = (m**3).sum()
    m.grad = None
    y.backward(create_graph=True)
    assert m.grad.requires_grad
    (ddx,) = grad(m.grad.sum(), m)
    np.testing.assert_allclose(ddx.numpy(), 6 * m.detach().numpy(), rtol=1e-12)


def test_third_derivative() -> None:
    for L in (minidl, torch):
        x = L.tensor([0.7, -0.4], dtype=L.float64, requires_grad=True)
        y = (L.sin(x) * x**4 / L.exp(x)).sum()
        found = []
        for _ in range(3):
            (y,) = L.autograd.grad(y.sum(), x, create_graph=True)
            found.append(y)
        if L is minidl:
            ours = found
    for a, b in zip(ours, found, strict=True):
        close(a, b)


def _second(L: Any, f: Callable, xs: list) -> list:
    """Gradients, and gradients of a function of them: as in a gradient penalty."""
    y = f(L.nn.functional, *xs)
    weights = L.tensor(np.cos(np.arange(int(np.prod(tuple(y.shape))))).reshape(tuple(y.shape)))
    first = L.autograd.grad((y * y * weights).sum(), xs, create_graph=True)
    penalty = sum((g * g).sum() for g in first)
    return [*first, *L.autograd.grad(penalty, xs)]


DOUBLE: dict[str, tuple[Callable, list]] = {
    "conv2d": (lambda F, x, w, b: F.conv2d(x, w, b, 2, 1, 1, 2), [(2, 4, 5, 5), (4, 2, 3, 3), (4,)]),
    "conv_transpose2d": (lambda F, x, w: F.conv_transpose2d(x, w, stride=2), [(1, 2, 3, 3), (2, 3, 2, 2)]),
    "attention": (lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v), [(1, 2, 3, 4)] * 3),
    "causal": (lambda F, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), [(1, 2, 3, 4)] * 3),
    "layer_norm": (lambda F, x, w, b: F.layer_norm(x, (4,), w, b), [(3, 4), (4,), (4,)]),
    "batch_norm": (lambda F, x, w, b: F.batch_norm(x, None, None, w, b, True), [(4, 2, 3), (2,), (2,)]),
    "max_pool2d": (lambda F, x: F.max_pool2d(x * x, 2), [(1, 2, 4, 4)]),
    "avg_pool2d": (lambda F, x: F.avg_pool2d(x * x, 3, 2, 1), [(1, 2, 4, 4)]),
    "linear": (lambda F, x, w, b: F.linear(x, w, b).tanh(), [(2, 3), (4, 3), (4,)]),
    "gelu": (lambda F, x: F.gelu(x), [(3, 4)]),
    "softmax": (lambda F, x: F.softmax(x, 1), [(3, 4)]),
    "logsumexp": (lambda F, x: x.logsumexp(1), [(3, 4)]),
    "embedding": (lambda F, x, w: w[[0, 2, 2]] * x, [(3, 2), (4, 2)]),
    "cumsum": (lambda F, x: x.cumsum(0) * x, [(3, 4)]),
}


@pytest.mark.parametrize("name", DOUBLE)
def test_double_backward_as_torchs(name: str) -> None:
    f, shapes = DOUBLE[name]
    inputs = [np.sin(np.arange(int(np.prod(s))) * (k + 1.3) + k).reshape(s) for k, s in enumerate(shapes)]
    ours = _second(minidl, f, [minidl.tensor(a, requires_grad=True) for a in inputs])
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # its fused kernels have no second order
        theirs = _second(torch, f, [torch.tensor(a, requires_grad=True) for a in inputs])
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-8, atol=1e-9)


def test_double_backward_of_cross_entropy() -> None:
    m, t = arange(4, 3)
    for L, x in ((minidl, m), (torch, t)):
        loss = L.nn.functional.cross_entropy(x, L.tensor([0, 2, 1, 1]), label_smoothing=0.1)
        (g,) = L.autograd.grad(loss, x, create_graph=True)
        (g * g).sum().backward()
    close(m.grad, t.grad)


def test_plain_backward_records_nothing() -> None:
    x = leaf(2.0)
    (x**3).backward()
    assert not x.grad.requires_grad
    assert x.grad.node is None


# -- ops by users -----------------------------------------------------------------------------------------------------


class swish(Op):
    """x sigmoid(x)"""

    def forward(ctx, x: Any, beta: float = 1.0) -> Any:
        ctx.beta = beta
        ctx.save(x)
        return x / (1 + np.exp(-beta * x))

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        s = 1 / (1 + minidl.exp(-ctx.beta * x))
        return dy * (s + x * ctx.beta * s * (1 - s))


class wrong_swish(swish):
    """Right to look at, wrong in the slope's second term."""

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        s = 1 / (1 + minidl.exp(-ctx.beta * x))
        return dy * (s + x * ctx.beta * s)


class wrong_second(swish):
    """The first derivative is right; computed outside the engine, it has no second."""

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        a = x.array if isinstance(x, minidl.Tensor) else x
        s = 1 / (1 + np.exp(-ctx.beta * a))
        return dy * (s + a * ctx.beta * s * (1 - s))


class halves(Op):
    """Two outputs, one of them used or both."""

    def forward(ctx, x: Any) -> Any:
        ctx.n = x.shape[0]
        return x[: ctx.n // 2] * 2, x[ctx.n // 2 :] * 3

    def backward(ctx, da: Any, db: Any) -> Any:
        return minidl.cat([da * 2, db * 3])


def test_a_right_op_passes_and_a_wrong_one_is_caught() -> None:
    x = leaf(np.linspace(-2, 2, 6))
    assert minidl.gradcheck(swish, x)
    assert minidl.gradgradcheck(swish, x)
    assert minidl.gradcheck(lambda x: swish(x, beta=2.0), x)
    with pytest.raises(RuntimeError, match=r"d y\[\d+\] / d x\[\d+\]"):
        minidl.gradcheck(wrong_swish, x)
    assert not minidl.gradcheck(wrong_swish, x, raise_exception=False)
    assert minidl.gradcheck(wrong_second, x)
    assert not minidl.gradgradcheck(wrong_second, x, raise_exception=False)


def test_ops_by_users_in_a_graph() -> None:
    m, t = arange(4)
    swish.apply(m * 2, 1.5).sum().backward()
    z = t * 2
    (z * torch.sigmoid(1.5 * z)).sum().backward()
    close(m.grad, t.grad)
    assert isinstance(swish(np.ones(2)), np.ndarray)
    assert "swish" in repr(swish(m).node)


def test_ops_with_several_outputs() -> None:
    m, t = arange(4)
    a, b = halves(m)
    assert (a.output_nr, b.output_nr) == (0, 1)
    (a * a).sum().backward()  # b is not used: its gradient arrives as zeros
    np.testing.assert_allclose(m.grad.numpy(), np.r_[8 * m.detach().numpy()[:2], 0, 0])
    assert minidl.gradcheck(halves, m)
    assert minidl.gradgradcheck(halves, m)
    a, b = halves(m)
    a.retain_grad()
    b.register_hook(lambda g: g * 100)
    (da,) = grad((a + b).sum(), b)
    np.testing.assert_array_equal(da.numpy(), [100, 100])


def test_save_refuses_what_is_no_input_or_output() -> None:
    class keeps_middle(Op):
        def forward(ctx, x: Any) -> Any:
            middle = x * 2
            ctx.save(middle)
            return middle + 1

        def backward(ctx, dy: Any) -> Any:
            return dy * 2

    with pytest.raises(RuntimeError, match="attribute"):
        keeps_middle(leaf(1.0))
    keeps_middle(minidl.tensor(1.0))  # nobody records


def test_a_wrong_shape_from_backward_is_named() -> None:
    class bad(Op):
        def forward(ctx, x: Any) -> Any:
            return x.sum()

        def backward(ctx, dy: Any) -> Any:
            return np.ones(5)

    with pytest.raises(RuntimeError, match=r"backward of <bad>.*\(5,\).*\(3,\)"):
        bad(leaf(1.0, 2.0, 3.0)).backward()


def test_an_op_without_backward() -> None:
    class forward_only(Op):
        def forward(ctx, x: Any) -> Any:
            return x * 2

    y = forward_only(leaf(1.0))
    with pytest.raises(NotImplementedError, match="forward_only defines no backward"):
        y.backward()


def test_keyword_arguments_and_torchs_names() -> None:
    x = minidl.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert minidl.softmax(input=x, dim=1).shape == (2, 2)
    assert minidl.add(input=x, other=x).shape == (2, 2)
    assert minidl.sum(x, axis=0, keepdims=True).shape == (1, 2)
    with pytest.raises(TypeError, match="multiple values"):
        minidl.softmax(x, 1, dim=1)
    with pytest.raises(TypeError, match="missing"):
        minidl.softmax(input=x)
    with pytest.raises(TypeError):
        minidl.softmax(x, 1, colour=3)


def test_arrays_from_backward_become_tensors_under_create_graph() -> None:
    """A user's backward may return plain arrays; the gradients are Tensors all the same."""

    class double(Op):
        def forward(ctx, x: Any) -> Any:
            return x * 2

        def backward(ctx, dy: Any) -> Any:
            a = dy.array if isinstance(dy, minidl.Tensor) else dy
            return a * 2

    x = leaf(1.0, 2.0)
    (g,) = grad((double(x) * 3).sum(), x, create_graph=True)
    assert isinstance(g, minidl.Tensor)
    double(x).sum().backward(create_graph=True)
    assert isinstance(x.grad, minidl.Tensor)


# -- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
class TestMemoryIsFreedByReferenceCount:
    def build(self) -> tuple[Any, list]:
        x = minidl.randn(8, 3, 8, 8, requires_grad=True)
        w = minidl.randn(4, 3, 3, 3, requires_grad=True)
        a = MF.conv2d(x, w, padding=1)
        b = MF.max_pool2d(MF.relu(MF.layer_norm(a, (8, 8))), 2)
        c = b.flatten(1)
        d = minidl.cat([c, c * 2], 1)[:, ::2]
        q = d.reshape(8, 1, 4, 16)
        e = MF.scaled_dot_product_attention(q, q, q).softmax(-1)
        loss = MF.cross_entropy(e.flatten(1), minidl.zeros(8, dtype=minidl.int64))
        activations = [weakref.ref(t) for t in (a, b, c, d, e)] + [weakref.ref(t.node) for t in (a, b, c, d, e)]
        return loss, activations

    def test_after_del(self) -> None:
        loss, refs = self.build()
        del loss
        assert not any(r() for r in refs)

    def test_after_backward(self) -> None:
        loss, refs = self.build()
        loss.backward()
        del loss
        assert not any(r() for r in refs)

    def test_after_create_graph(self) -> None:
        x = leaf(2.0)
        y = x**3
        (g,) = grad(y, x, create_graph=True)
        refs = [weakref.ref(y.node), weakref.ref(g.node)]
        del y, g
        assert not any(r() for r in refs)

    def test_after_create_graph_of_fused_ops(self) -> None:
        x, w = minidl.randn(3, 4, requires_grad=True), minidl.randn(4, requires_grad=True)
        y = MF.layer_norm(x, (4,), w, w).sum() + MF.scaled_dot_product_attention(x, x, x).sum()
        (g,) = grad(y, x, create_graph=True)
        (g * g).sum().backward()
        refs = [weakref.ref(y.node), weakref.ref(g.node), weakref.ref(g)]
        x.grad = None
        del y, g
        assert not any(r() for r in refs)

    def test_after_in_place_changes_of_views(self) -> None:
        x = minidl.randn(4, 4, requires_grad=True)
        y = x * 2
        row = y[0]
        row += 1
        y[1] = row
        row.mul_(2)
        z = y.t().sum()
        refs = [weakref.ref(t) for t in (y, row)] + [weakref.ref(t.node) for t in (y, row, z)]
        z.backward()
        del y, row, z
        assert not any(r() for r in refs)

    def test_after_errors(self) -> None:
        refs = []

        def forward_fails() -> None:
            x = minidl.randn(3, requires_grad=True)
            y = x.exp()
            refs.append(weakref.ref(y.node))
            y @ minidl.zeros(4)

        def backward_fails() -> None:
            x = minidl.randn(3, requires_grad=True)
            y = x.exp()
            z = y.log()
            y.register_hook(lambda g: 1 / 0)
            refs.append(weakref.ref(y.node))
            refs.append(weakref.ref(z.node))
            z.sum().backward()

        for f in (forward_fails, backward_fails):
            with contextlib.suppress(RuntimeError, ZeroDivisionError):
                f()
        assert len(refs) == 3
        assert not any(r() for r in refs)

    def test_after_hooks_and_retain_grad(self) -> None:
        x = minidl.randn(3, requires_grad=True)
        y = x.exp()
        y.retain_grad()
        y.register_hook(lambda g: g * 2)
        y.sum().backward()
        refs = [weakref.ref(y), weakref.ref(y.node), weakref.ref(y.grad)]
        del y
        assert not any(r() for r in refs)

    def test_backward_frees_what_was_saved(self) -> None:
        x = minidl.randn(1000, 100, requires_grad=True)  # 400 kB
        y = x.exp().exp().exp().exp().exp()
        saved = weakref.ref(y.node.parents[0])
        tracemalloc.start()
        y.sum().backward()
        x.grad = None
        after = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert saved() is not None  # the graph still stands, y holds it
        assert saved()._saved is None
        assert after < 400_000

    def test_a_training_loop_does_not_grow(self) -> None:
        w = minidl.randn(50, 50, requires_grad=True)
        x = minidl.randn(20, 50)

        def step() -> None:
            w.grad = None
            loss = MF.mse_loss((x @ w).relu(), x)
            loss.backward()
            with minidl.no_grad():
                w.sub_(0.01 * w.grad)

        step()
        tracemalloc.start()
        step()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            step()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        # one activation kept for each step would be 80 kB; CPython's free lists take some hundred bytes a step at first
        assert grown < 40_000, f"{grown} bytes in 20 steps"

    def test_activations_die_during_backward(self) -> None:
        """The peak of a long chain's backward is not twice its forward: gradients go as they are used."""
        x = minidl.randn(250, 100, requires_grad=True)  # 100 kB
        y = x
        for _ in range(40):
            y = y * 1.01 + y
        total = y.sum()
        tracemalloc.start()
        total.backward()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 8 * 100_000, f"{peak} bytes for gradients of 100,000 bytes each"


# -- anomalies --------------------------------------------------------------------------------------------------------


def test_anomaly_mode_names_a_nan_of_forward() -> None:
    x = leaf(4.0, -1.0, 9.0)
    with minidl.autograd.detect_anomaly():
        with pytest.raises(AnomalyError) as caught:
            x.sqrt()
    text = str(caught.value)
    assert "sqrt" in text
    assert "[1]" in text  # the element
    assert "test_autograd.py" in text
    assert "x.sqrt()" in text  # the source line
    assert "-1.0" in text
    assert np.isnan(x.sqrt().detach().numpy()[1])  # outside it is a value like others


def test_anomaly_mode_names_a_nan_of_backward() -> None:
    x = leaf(1.0, 0.0)
    with minidl.autograd.detect_anomaly():
        y = x.sqrt()  # slope infinite at 0
        z = y * minidl.tensor([1.0, 0.0], dtype=minidl.float64)
        with pytest.raises(AnomalyError) as caught:
            z.sum().backward()
    text = str(caught.value)
    assert "backward of op sqrt" in text
    assert "[1]" in text
    assert "x.sqrt()" in text


def test_anomaly_mode_names_the_module() -> None:
    x = leaf(-1.0)
    minidl.autograd.state.scope = "encoder.layers.3"
    try:
        with minidl.autograd.detect_anomaly(), pytest.raises(AnomalyError, match=r"log in module encoder\.layers\.3"):
            x.log()
    finally:
        minidl.autograd.state.scope = ""


def test_anomaly_mode_blames_the_first_and_ignores_what_came_in() -> None:
    bad = minidl.tensor([float("nan"), 1.0])
    with minidl.autograd.detect_anomaly():
        y = bad * 2 + 1
        assert np.isnan(y.numpy()[0])
        with pytest.raises(AnomalyError, match="op true_divide"):
            minidl.zeros(2) / minidl.zeros(2)


def test_anomaly_mode_switches() -> None:
    with minidl.autograd.set_detect_anomaly(True), pytest.raises(AnomalyError):
        leaf(-1.0).log()
    leaf(-1.0).log()
    try:
        minidl.autograd.set_detect_anomaly(True)
        with pytest.raises(AnomalyError):
            leaf(-1.0).log()
    finally:
        minidl.autograd.set_detect_anomaly(False)
    with minidl.autograd.detect_anomaly():
        a, b = halves(leaf(1.0, 2.0))
        assert a.item() == 2.0


def test_anomaly_mode_names_an_inf_when_asked_to() -> None:
    x = leaf(1.0, 0.0)
    looks = minidl.autograd.detect_anomaly(check_inf=True)
    with minidl.autograd.detect_anomaly():
        x.log()  # -Inf is a value like others, unless it is asked for
    with looks, pytest.raises(AnomalyError, match=r"op log made a -Inf at element \[1\]"):
        x.log()
    with looks, pytest.raises(AnomalyError, match=r"op exp made an Inf at element \[0\]"):
        (x * 1000).exp()
    with looks:
        y = x.sqrt().sum()
        with pytest.raises(AnomalyError, match=r"backward of op sqrt made an Inf at element \[1\] of the gradient of"):
            y.backward()
        # What was given is nobody's fault: a mask of -inf, data that hold Inf.
        masked = x.masked_fill(minidl.tensor([False, True]), -float("inf"))
        assert masked.softmax(0).tolist() == [1.0, 0.0]
        assert (minidl.tensor([float("inf"), 1.0]) * 2).tolist() == [float("inf"), 2.0]
    with minidl.autograd.detect_anomaly(check_nan=False, check_inf=True):
        assert np.isnan((x * 0 / (x * 0)).detach().numpy()).all()
    with minidl.autograd.detect_anomaly(check_nan=False):
        (x - 2).log().log()
    with minidl.autograd.set_detect_anomaly(True, check_inf=True), pytest.raises(AnomalyError):
        x.log()
    assert minidl.autograd.state.anomaly is None


def test_anomaly_mode_under_create_graph() -> None:
    x = leaf(0.0)
    with minidl.autograd.detect_anomaly(), pytest.raises(AnomalyError) as caught:
        grad((x * x).sqrt(), x, create_graph=True)
    assert "in backward of <" in "".join(caught.value.__notes__)


# -- what a failing op says -------------------------------------------------------------------------------------------


def test_errors_in_backward_say_where_forward_ran() -> None:
    class fails(Op):
        def forward(ctx, x: Any) -> Any:
            return x

        def backward(ctx, dy: Any) -> Any:
            raise RuntimeError("no luck")

    y = fails(leaf(1.0))
    with pytest.raises(RuntimeError, match="no luck") as caught:
        y.backward()
    notes = "\n".join(caught.value.__notes__)
    assert "y = fails(leaf(1.0))" in notes
    assert "<fails>" in notes


def test_next_functions_and_names() -> None:
    x = leaf(1.0)
    y = x * 2 + 1
    assert y.grad_fn is y.node
    assert y.node.name() == "add"
    parent, index = y.node.next_functions[0]
    assert parent.name() == "mul"
    assert index == 0
    assert parent.next_functions[0][0] is x


@pytest.mark.parametrize("name", ["add", "sub", "mul", "truediv", "pow", "mod"])
def test_the_short_way_of_an_operator_is_the_long_way(name: str) -> None:
    """Operators between float Tensors of one dtype skip steps of the call; the op itself called by name does not."""
    run: Any = getattr(operator, name)
    page: Any = autograd.TABLE[{"truediv": "true_divide", "mod": "remainder"}.get(name, name)]
    low, high = minidl.tensor([[3.0, 1.0, 2.0], [5.0, 6.0, 4.0]], requires_grad=True).sort(1)[0].unbind(0)
    whole = minidl.tensor([[1.5, 2.5], [3.5, 0.5]], requires_grad=True)
    values, _ = whole.sort(0)
    for a, b in ((low, high), (whole, whole[0]), (whole, 2.0), (whole, 3), (whole, values), (values, whole)):
        found = []
        for f in (run, page):
            y = f(a, b)
            assert y.node.next_functions == f(a, b).node.next_functions
            x = whole if a is not low else low
            (dx,) = grad(y.sum(), x, create_graph=True)
            (ddx,) = grad((dx * dx + x * x).sum(), x, retain_graph=True)
            found.append([t.detach().numpy().tolist() for t in (y, dx, ddx)])
        assert found[0] == found[1]
    with minidl.no_grad():
        assert run(whole, whole).node is None
    for other in ("1", None, [1.0]):
        with pytest.raises(TypeError):
            run(whole, other)
    with pytest.raises(RuntimeError, match=rf"{page.__name__}.*\(2, 2\).*\(3,\)"):
        run(whole, low)


def test_what_an_op_keeps_to_itself_goes_with_what_it_saved() -> None:
    x = minidl.randn(4, 3, requires_grad=True)
    loss = MF.cross_entropy(x, minidl.tensor([0, 1, 2, 0]))
    loss.backward(retain_graph=True)
    assert loss.node.work.shape == (4, 3)
    loss.backward()
    assert loss.node.work is None
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_many_slices_of_one_tensor_share_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """One array of the size of x for all of them, not one for each; hooks and other consumers see the whole."""
    made = []
    put = minidl.autograd.TABLE["put"]
    real = put.forward
    monkeypatch.setattr(put, "forward", lambda ctx, *args: made.append(args[2]) or real(ctx, *args))
    x0 = minidl.randn(6, 8, dtype=minidl.float64, requires_grad=True)
    w = minidl.randn(6, 8, dtype=minidl.float64)
    for first in (True, False):  # is the plain use of x the first or the last to arrive?
        x = x0 * 1.0
        x.retain_grad()
        seen = []
        x.register_hook(lambda g, seen=seen: seen.append(g.clone()))
        parts = [(x[t] * w[t]).sum() * (t + 1) for t in range(6)]
        parts.insert(0 if first else 6, (x * x).sum())
        parts.append(x[minidl.tensor([1, 1, 3])].sum())
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        made.clear()
        x0.grad = None
        total.backward()
        want = w.array * np.arange(1, 7)[:, None] + 2 * x0.array
        want[1] += 2
        want[3] += 1
        np.testing.assert_allclose(x0.grad.array, want, rtol=1e-14)
        np.testing.assert_allclose(x.grad.array, want, rtol=1e-14)
        np.testing.assert_allclose(seen[0].array, want, rtol=1e-14)
        assert len(made) <= 3  # of the index with repeated rows, and at most two that were handed on whole
    (dx,) = minidl.autograd.grad((x0 * 1.0)[2:4].sum() + (x0 * 1.0)[1:3].sum(), x0)
    assert dx.array.sum() == 32


PARTS: dict[str, Callable[[Any], Any]] = {
    "chunk": lambda x: x.chunk(3, 1),
    "chunk backwards": lambda x: x.chunk(3, 1)[::-1],
    "unbind": lambda x: x.unbind(0),
    "last axis": lambda x: (x[..., :2], x[..., 2:]),
    "one missing": lambda x: x.chunk(3, 1)[1:],
    "overlapping": lambda x: (x[:, :4], x[:, 2:], x[:, 1:3]),
    "sliding": lambda x: [x[:, i : i + 3] for i in range(4)],
    "two axes": lambda x: (x[0], x[:, 1]),
    "negative and whole": lambda x: (x[-1], x[0], x[1], x),
    "steps": lambda x: (x[:, ::2], x[:, 1::2]),
    "new axis": lambda x: (x[None, :, :3], x[:, None, 3:]),
    "empty": lambda x: (x[:, :0], x[:, 0:]),
    "empty, backwards": lambda x: (x[:, :3], x[:, 3:1], x[:, 3:]),
    "empty, backwards, at the end": lambda x: (x[:, :3], x[:, 3:1]),
    "axes behind dots": lambda x: [m for row in [x.sum((1, 2))] for m in (row[..., :2, None, None], row[..., 2:])],
    "start only": lambda x: (x[:, :2], x[:, 2:5]),
    "of a number": lambda x: (x.sum()[None], x.mean()[...], x.sum()[None, None]),
    "twice the same number": lambda x: [m for s in [x.sum()] for m in (s[None], s[None, None], s[...])],
    "arrays": lambda x: (x[[0, 0, 2]], x[1]),
}


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("leaf", [True, False])
def test_gradients_of_parts_meet_in_the_whole(kind: str, leaf: bool) -> None:
    values = np.random.default_rng(0).standard_normal((3, 6, 4))

    def run(lib: Any, x: Any) -> list[np.ndarray]:
        h = x if leaf else x * 2
        seen: list[np.ndarray] = []
        if not leaf:
            h.register_hook(lambda g: seen.append(np.asarray(g.detach())))
        loss = sum((p**2 * (i + 1)).sum() for i, p in enumerate(PARTS[kind](h))) + (0 if leaf else (h**3).sum())
        (again,) = lib.autograd.grad(loss, x, retain_graph=True)
        loss.backward()
        (first,) = lib.autograd.grad(sum((p**3).sum() for p in PARTS[kind](x * x)), x, create_graph=True)
        (second,) = lib.autograd.grad((first**2).sum(), x)
        return [np.asarray(t.detach()) for t in (again, x.grad, second)] + seen

    ours = run(minidl, minidl.tensor(values, requires_grad=True))
    theirs = run(torch, torch.tensor(values, requires_grad=True))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
