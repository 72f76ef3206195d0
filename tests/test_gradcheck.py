"""gradcheck itself: it passes what is right, catches planted faults of every size, and says where."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import minidl
import minidl.nn.functional as MF
from minidl import gradcheck, gradgradcheck
from minidl.autograd import TABLE, Op
from minidl.gradchecks import GradcheckError
from minidl.ops.softmax_loss import softmax_loss


def leaf(*shape: int, low: float = 0.4, high: float = 1.6) -> minidl.Tensor:
    n = int(np.prod(shape))
    return minidl.tensor(np.linspace(low, high, n).reshape(shape), requires_grad=True)


# -- planted faults ---------------------------------------------------------------------------------------------------


def changed(change: Any) -> Any:
    """Backward with `change` made to every gradient."""

    def fault(right: Any) -> Any:
        def backward(ctx: Any, *dy: Any) -> Any:
            grads = right(ctx, *dy)
            grads = grads if isinstance(grads, (tuple, list)) else (grads,)
            with np.errstate(invalid="ignore"):
                return tuple(None if g is None else change(g) for g in grads)

        return backward

    return fault


def one_element(right: Any) -> Any:
    """One element of the first gradient is wrong."""

    def backward(ctx: Any, *dy: Any) -> Any:
        grads = right(ctx, *dy)
        grads = list(grads) if isinstance(grads, (tuple, list)) else [grads]
        first = next(i for i, g in enumerate(grads) if g is not None)
        g = grads[first]
        mask = np.zeros(tuple(g.shape))
        mask.reshape(-1)[-1] = 1e-2
        grads[first] = g * (1 + mask)
        return tuple(grads)

    return backward


def forgets_the_last(right: Any) -> Any:
    """The last input's gradient is 0."""

    def backward(ctx: Any, *dy: Any) -> Any:
        grads = right(ctx, *dy)
        grads = list(grads) if isinstance(grads, (tuple, list)) else [grads]
        last = max(i for i, g in enumerate(grads) if g is not None)
        grads[last] = grads[last] * 0.0
        return tuple(grads)

    return backward


OPS: dict[str, tuple[Any, Any, Any]] = {
    "exp": (TABLE["exp"], minidl.exp, [leaf(3)]),
    "mul": (TABLE["mul"], minidl.mul, [leaf(2, 2), leaf(2)]),
    "matmul": (TABLE["matmul"], minidl.matmul, [leaf(2, 3), leaf(3, 2)]),
    "sum": (TABLE["sum"], lambda x: minidl.sum(x, 1), [leaf(2, 3)]),
    "softmax": (TABLE["softmax"], lambda x: minidl.softmax(x, 0), [leaf(4)]),
    "conv2d": (TABLE["conv2d"].__globals__["conv2d_op"], MF.conv2d, [leaf(1, 1, 3, 3), leaf(1, 1, 2, 2)]),
    "layer_norm": (
        MF.layer_norm.__globals__["standardize"],
        lambda x, w, b: MF.layer_norm(x, (3,), w, b),
        [leaf(2, 3), leaf(3), leaf(3)],
    ),
    "attention": (
        TABLE["attention"],
        MF.scaled_dot_product_attention,
        [leaf(1, 1, 2, 2), leaf(1, 1, 2, 2), leaf(1, 1, 2, 2)],
    ),
    "getitem": (TABLE["getitem"], lambda x: x[[0, 0, 2]], [leaf(3)]),
    "cat": (TABLE["cat"], lambda x, y: minidl.cat([x, y]), [leaf(2), leaf(3)]),
    "cross_entropy": (softmax_loss, lambda x: MF.cross_entropy(x, minidl.tensor([0, 2])), [leaf(2, 3)]),
}
FAULTS = {
    "factor": changed(lambda g: g * 1.01),
    "small_factor": changed(lambda g: g * 1.003),
    "sign": changed(lambda g: g * -1),
    "zero": changed(lambda g: g * 0),
    "nan": changed(lambda g: g * float("nan")),
    "inf": changed(lambda g: g * float("inf")),
    "offset": changed(lambda g: g + 1e-3),
    "one_element": one_element,
    "forgets_the_last": forgets_the_last,
}


@pytest.mark.parametrize("name", OPS)
def test_planted_faults_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    page, function, inputs = OPS[name]
    assert gradcheck(function, inputs)
    right = page.backward
    for what, fault in FAULTS.items():
        with monkeypatch.context() as patch:
            patch.setattr(page, "backward", fault(right))
            assert not gradcheck(function, inputs, raise_exception=False), what
            with pytest.raises(GradcheckError):
                gradcheck(function, inputs)
    assert gradcheck(function, inputs)


def test_a_fault_in_the_second_order_alone() -> None:
    """A backward whose value is right and whose own derivative is not: only gradgradcheck can tell."""

    class detached(Op):
        def forward(ctx, x: Any) -> Any:
            ctx.save(x)
            return x * x * x

        def backward(ctx, dy: Any) -> Any:
            (x,) = ctx.saved
            x = x.detach() if isinstance(x, minidl.Tensor) else x
            return dy * 3 * x * x

    assert gradcheck(detached, leaf(3))
    assert not gradgradcheck(detached, leaf(3), raise_exception=False)

    class forgets_dy(Op):
        def forward(ctx, x: Any) -> Any:
            ctx.save(x)
            return x * x

        def backward(ctx, dy: Any) -> Any:
            (x,) = ctx.saved
            dy = dy.detach() if isinstance(dy, minidl.Tensor) else dy
            return dy * 2 * x

    assert gradcheck(forgets_dy, leaf(3))
    with pytest.raises(GradcheckError, match="input 1"):
        gradgradcheck(forgets_dy, leaf(3))


def test_an_output_that_lost_its_graph_is_caught() -> None:
    """A function that leaves the graph has the gradient 0 by backward: caught unless it is constant."""
    assert not gradcheck(lambda x: (x * 2).detach() + 0 * x, leaf(3), raise_exception=False)
    assert not gradcheck(lambda x: (x * 2).detach(), leaf(3), raise_exception=False)
    assert gradcheck(lambda x: minidl.ones(2, dtype=minidl.float64) + 0 * x.sum(), leaf(3))


def test_an_input_that_is_not_reached_is_caught() -> None:
    assert not gradcheck(lambda x, y: x * y.detach(), [leaf(2), leaf(2)], raise_exception=False)
    assert gradcheck(lambda x, y: x * 1, [leaf(2), leaf(2)])


def test_a_gradient_that_changes_from_run_to_run_is_caught() -> None:
    noise = minidl.Generator(3)

    class unsteady(Op):
        def forward(ctx, x: Any) -> Any:
            return x * 2

        def backward(ctx, dy: Any) -> Any:
            return dy * (2 + 1e-9 * float(noise.uniform((), dtype=np.float64)))

    with pytest.raises(GradcheckError, match="run twice"):
        gradcheck(unsteady, leaf(3))


def test_kinks_are_caught_where_they_are() -> None:
    x = minidl.tensor([1.0, 0.0], dtype=minidl.float64, requires_grad=True)
    with pytest.raises(GradcheckError, match=r"d y\[1\] / d x\[1\]"):
        gradcheck(minidl.relu, x)


# -- what it takes and says -------------------------------------------------------------------------------------------


def test_the_message_names_input_output_and_element() -> None:
    def f(x: Any, y: Any) -> Any:
        return x * 2, (x * y + y.detach() * y)

    with pytest.raises(GradcheckError) as caught:
        gradcheck(f, [leaf(2), leaf(2)])
    text = str(caught.value)
    assert "output 1" in text
    assert "input 1 (shape (2,))" in text
    assert "by backward" in text
    assert "by finite differences" in text
    assert "2 of 4 entries" in text


def test_what_is_checked() -> None:
    with pytest.raises(ValueError, match="no input requires"):
        gradcheck(minidl.exp, minidl.ones(2, dtype=minidl.float64))
    with pytest.raises(ValueError, match=r"input 0 is minidl\.float32"):
        gradcheck(minidl.exp, minidl.ones(2, requires_grad=True))
    assert gradcheck(lambda x, n, flag: minidl.sum(x, n) if flag else None, [leaf(2, 3), 1, True])
    assert gradcheck(lambda x: (x.exp(), x > 0, 3), leaf(2))
    assert gradcheck(lambda x: x.max(0), leaf(2, 3))
    assert gradcheck(lambda x: x.sum(), leaf(0))
    assert gradcheck(lambda x: x * 2, leaf())
    plain = minidl.tensor([1.0, 2.0], dtype=minidl.float64)
    assert gradcheck(lambda x, c: x * c, [leaf(2), plain])
    assert plain.grad is None


def test_inputs_are_left_alone() -> None:
    x = leaf(2, 3)
    before = x.detach().clone()
    x.grad = minidl.ones(2, 3, dtype=minidl.float64)
    assert gradcheck(lambda t: (t * t).t(), x)
    assert gradgradcheck(lambda t: (t * t).t(), x)
    np.testing.assert_array_equal(x.detach().numpy(), before.numpy())
    np.testing.assert_array_equal(x.grad.numpy(), 1)


def test_inputs_in_any_memory_order() -> None:
    x = minidl.from_numpy(np.asfortranarray(np.linspace(0.5, 1.5, 6).reshape(2, 3))).requires_grad_()
    assert gradcheck(lambda t: t.exp().t(), x)
    y = minidl.from_numpy(np.linspace(0.5, 1.5, 12).reshape(2, 6)[:, ::-2]).requires_grad_()
    assert gradcheck(lambda t: (t * t)[0], y)


def test_tolerances_can_be_set() -> None:
    class rough(Op):
        def forward(ctx, x: Any) -> Any:
            return x * 2

        def backward(ctx, dy: Any) -> Any:
            return dy * 2.1

    assert not gradcheck(rough, leaf(2), raise_exception=False)
    assert gradcheck(rough, leaf(2), atol=0.2)
    assert gradcheck(rough, leaf(2), rtol=0.06, atol=0)
    assert gradcheck(minidl.exp, leaf(2), eps=1e-4)


def test_first_and_second_order_of_a_network() -> None:
    v = minidl.tensor(np.cos(np.arange(64)).reshape(2, 32), requires_grad=True)

    def network(x: Any, w: Any, b: Any, v: Any) -> Any:
        return MF.linear(MF.conv2d(x, w, b, padding=1).tanh().flatten(1), v).softmax(1)

    inputs = [leaf(1, 1, 3, 3), leaf(2, 1, 2, 2), leaf(2)]
    assert gradcheck(network, [*inputs, v])
    assert gradgradcheck(lambda x, w, b: network(x, w, b, v.detach()), inputs)


def test_gradgradcheck_with_given_gradients() -> None:
    dy = minidl.tensor([1.0, -2.0], dtype=minidl.float64, requires_grad=True)
    assert gradgradcheck(minidl.sin, leaf(2), dy)
    assert gradgradcheck(minidl.sin, leaf(2), [dy])
