"""In-place changes: values, views, gradients through them, and the errors that keep a stale gradient away."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minidl

sys.path.insert(0, str(Path(__file__).parent / "ops"))
from cases import CASES, to_minidl


def data(*shape: int) -> np.ndarray:
    return 0.5 + np.arange(int(np.prod(shape)), dtype=np.float64).reshape(shape) / 8


def both(f: Callable[[Any, Any, Any], Any], *shapes: tuple[int, ...], rtol: float = 1e-12) -> None:
    """Run f(library, x, w) in both libraries on leaves x and w: same value, same gradients."""
    results = []
    for L in (minidl, torch):
        leaves = [L.tensor(data(*s), requires_grad=True) for s in shapes]
        y = f(L, *leaves)
        assert y.requires_grad
        weights = L.tensor(np.cos(np.arange(int(np.prod(tuple(y.shape))))).reshape(tuple(y.shape)))
        (y * weights).sum().backward()
        results.append([y.detach().numpy()] + [None if x.grad is None else x.grad.numpy() for x in leaves])
    for ours, theirs in zip(*results, strict=True):
        if ours is None or theirs is None:  # no path to the leaf: None and zeros mean the same
            rest = theirs if ours is None else ours
            assert rest is None or not rest.any()
            continue
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol)


# -- every in-place method --------------------------------------------------------------------------------------------

METHODS: dict[str, Callable[[Any, Any], tuple]] = {
    "add_": lambda L, w: (w,),
    "sub_": lambda L, w: (w,),
    "mul_": lambda L, w: (w,),
    "div_": lambda L, w: (w,),
    "pow_": lambda L, w: (2,),
    "remainder_": lambda L, w: (0.3,),
    "floor_divide_": lambda L, w: (0.3,),
    "abs_": lambda L, w: (),
    "neg_": lambda L, w: (),
    "sign_": lambda L, w: (),
    "exp_": lambda L, w: (),
    "log_": lambda L, w: (),
    "log1p_": lambda L, w: (),
    "sqrt_": lambda L, w: (),
    "rsqrt_": lambda L, w: (),
    "square_": lambda L, w: (),
    "reciprocal_": lambda L, w: (),
    "sin_": lambda L, w: (),
    "cos_": lambda L, w: (),
    "tanh_": lambda L, w: (),
    "sigmoid_": lambda L, w: (),
    "relu_": lambda L, w: (),
    "erf_": lambda L, w: (),
    "clamp_": lambda L, w: (0.6, 1.2),
    "floor_": lambda L, w: (),
    "ceil_": lambda L, w: (),
    "trunc_": lambda L, w: (),
    "round_": lambda L, w: (),
    "tril_": lambda L, w: (),
    "triu_": lambda L, w: (1,),
    "masked_fill_": lambda L, w: (L.tensor([[True, False, True], [False, False, True]]), 2.0),
    "scatter_add_": lambda L, w: (0, L.tensor([[0, 1, 1]]), w[:1]),
    "fill_": lambda L, w: (3.0,),
    "zero_": lambda L, w: (),
    "copy_": lambda L, w: (w,),
    "put_": lambda L, w: (L.tensor([1, 4]), w[0, :2] * 3),
}


def test_in_place_methods_without_a_row_above_do_as_their_functions() -> None:
    """A method_ on a result gives the value and the gradients of the method, and keeps its memory."""
    named = {n for n in dir(minidl.Tensor) if n.endswith("_") and not n.endswith("__")}
    elsewhere = {"bernoulli_", "normal_", "uniform_", "requires_grad_", "detach_"}
    elsewhere |= {
        "t_",
        "transpose_",
        "swapaxes_",
        "swapdims_",
        "squeeze_",
        "unsqueeze_",
    }  # see tests/ops/test_beyond.py
    assert set(METHODS) <= named
    rows = {case.name: case for case in CASES.values()}
    for name in sorted(named - elsewhere - set(METHODS)):
        if name[:-1] not in rows:
            continue  # reported by tests/ops
        done = False
        for sample in rows[name[:-1]].samples:
            results = []
            for method in (name[:-1], name):
                leaves: list = []
                args = [to_minidl(a, "float64", leaves) for a in sample.args]
                kwargs = {k: to_minidl(v, "float64", leaves) for k, v in sample.kwargs.items()}
                if not isinstance(args[0], minidl.Tensor):
                    break  # a number has no memory
                x = args[0] * 1 if args[0].is_floating_point() else args[0].clone()
                y = getattr(x, method)(*args[1:], **kwargs)
                if tuple(y.shape) != tuple(args[0].shape) or y.dtype != args[0].dtype:
                    break  # does not fit into its own memory
                assert (y is x) == (method == name)
                if y.requires_grad:
                    (y * y).sum().backward()
                results.append([y.detach().numpy()] + [None if t.grad is None else t.grad.numpy() for t in leaves])
                done = True
            for want, got in zip(*results, strict=True) if len(results) == 2 else ():
                assert (got is None) == (want is None), name
                if got is not None:
                    np.testing.assert_allclose(got, want, rtol=1e-12, err_msg=name)
        assert done, f"no sample of {name} fits into its own memory"


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    def f(L: Any, x: Any, w: Any) -> Any:
        y = x * 1.0
        before = y.data_ptr()
        result = getattr(y, name)(*METHODS[name](L, w))
        assert result is y
        assert y.data_ptr() == before
        return y

    if name == "floor_divide_":  # torch's has no derivative
        a, t = minidl.tensor(data(2, 3)), torch.tensor(data(2, 3))
        np.testing.assert_array_equal(a.floor_divide_(0.3).numpy(), t.floor_divide_(0.3).numpy())
        return
    both(f, (2, 3), (2, 3))


@pytest.mark.parametrize("name", METHODS)
def test_methods_on_a_view(name: str) -> None:
    """The same on every second column of the transpose: the base changes there and nowhere else."""
    if name in ("scatter_add_", "floor_divide_", "masked_fill_"):
        return  # shapes of their own, above

    def f(L: Any, x: Any, w: Any) -> Any:
        y = x * 1.0
        part = y.t()[:, ::2]
        getattr(part, name)(*METHODS[name](L, w))
        return y * y

    both(f, (4, 3), (3, 2))


OPERATORS = {
    "iadd": operator.iadd,
    "isub": operator.isub,
    "imul": operator.imul,
    "itruediv": operator.itruediv,
    "ipow": operator.ipow,
    "imod": operator.imod,
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str) -> None:
    def f(L: Any, x: Any) -> Any:
        y = z = x * 2
        y = OPERATORS[name](y, 2.0)
        assert y is z
        return y

    both(f, (2, 3))


def test_integer_operators() -> None:
    for op in (operator.ifloordiv, operator.iand, operator.ior, operator.ixor, operator.iadd, operator.imod):
        x, t = minidl.tensor([5, 6, 7]), torch.tensor([5, 6, 7])
        x0, t0 = x, t
        x, t = op(x, 3), op(t, 3)
        assert x is x0
        assert t is t0
        assert x.tolist() == t.tolist()


def test_matmul_assignment_makes_a_new_tensor() -> None:
    """As in torch: x @= w rebinds x, the old tensor stays as it was."""
    x, w = minidl.ones(2, 3), minidl.ones(3, 4)
    old = x
    x @= w
    assert x.shape == (2, 4)
    assert old.shape == (2, 3)


# -- views ------------------------------------------------------------------------------------------------------------


def rows(L: Any, x: Any, w: Any) -> Any:
    y = x * 2
    row = y[0]
    row += w
    return y * y


def nested(L: Any, x: Any, w: Any) -> Any:
    y = x * 2
    a = y[1:]
    b = a.t()
    c = b[0]
    c *= w[0]
    a += 1
    return y * c.sum() + b.sum() * a.sum()


def view_made_before_the_base_changes(L: Any, x: Any, w: Any) -> Any:
    y = x * 2
    row = y[0]
    y *= 3
    return row * w


def views_of_each_other(L: Any, x: Any, w: Any) -> Any:
    y = x * 2
    a, b = y[0], y[:, 0]
    a *= 3
    b *= 5
    a *= w
    return a.sum() * b.sum() + y


def reshape_view(L: Any, x: Any, w: Any) -> Any:
    y = x * 2
    flat = y.reshape(-1)
    flat[1:4] = w[:3]
    flat += flat.sum()
    return y * y


def expanded_base(L: Any, x: Any, w: Any) -> Any:
    y = x * 2
    e = y[:1].expand(2, 3)
    y += 1
    return e * w


def unbound(L: Any, x: Any, w: Any) -> Any:
    y = x * 1
    parts = y.split(1)
    z = parts[0] * 2
    y *= w
    return y + z


def diagonal_chain(L: Any, x: Any, w: Any) -> Any:
    y = x * 1
    for k in range(2):
        y[k] = y[k - 1] * 2 + w
    return y


def squeeze_and_unsqueeze(L: Any, x: Any, w: Any) -> Any:
    y = x * 1
    y.unsqueeze(0).squeeze(0).mul_(w)
    return y


def base_that_wants_no_gradient(L: Any, x: Any, w: Any) -> Any:
    buffer = L.zeros(2, 3, dtype=L.float64)
    row = buffer[0]
    row += w
    buffer[1] = x[1]
    return buffer * 2


def view_of_a_plain_base(L: Any, x: Any, w: Any) -> Any:
    """The view was there before the base came to want a gradient."""
    buffer = L.zeros(2, 3, dtype=L.float64)
    row = buffer[0]
    buffer += x * w
    assert row.requires_grad
    return row * w


def detached_then_changed(L: Any, x: Any, w: Any) -> Any:
    y = x * 2
    d = y.detach()
    d += 1  # the same memory: y's values change, its gradient does not
    return y + 0 * w


def in_a_loop(L: Any, x: Any, w: Any) -> Any:
    h = L.zeros(2, 3, dtype=L.float64)
    for _ in range(3):
        h += x * w
        h[0] *= 0.5
        h = h * 1.1
    return h


def copy_into_parts(L: Any, x: Any, w: Any) -> Any:
    out = L.empty(4, 3, dtype=L.float64)
    out[:2].copy_(x)
    out[2:].copy_(w)
    return out


def value_of_another_type(L: Any, x: Any, w: Any) -> Any:
    y = x * 1
    y[0] = w.float()
    y.add_(w.float())
    return y


def assigned_to_itself(L: Any, x: Any, w: Any) -> Any:
    y = x * 1
    y[:] = y + w
    y += y
    return y


def uses_before_and_after(L: Any, x: Any, w: Any) -> Any:
    y = x + 1
    before = y + w  # add saves nothing: y may change
    y *= 2
    return before * y


def leaf_value(L: Any, x: Any, w: Any) -> Any:
    y = L.zeros(2, 3, dtype=L.float64)
    y.copy_(w)
    y[0] = w
    return y * x


VIEWS = [
    (rows, (3,)),
    (nested, (3,)),
    (view_made_before_the_base_changes, (3,)),
    (views_of_each_other, (3,)),
    (reshape_view, (3,)),
    (expanded_base, (3,)),
    (unbound, (3,)),
    (diagonal_chain, (3,)),
    (squeeze_and_unsqueeze, (3,)),
    (base_that_wants_no_gradient, (3,)),
    (view_of_a_plain_base, (3,)),
    (detached_then_changed, (3,)),
    (in_a_loop, (3,)),
    (copy_into_parts, (2, 3)),
    (value_of_another_type, (3,)),
    (assigned_to_itself, (3,)),
    (uses_before_and_after, (3,)),
    (leaf_value, (3,)),
]


@pytest.mark.parametrize(("f", "shape"), VIEWS, ids=lambda v: getattr(v, "__name__", ""))
def test_views(f: Any, shape: Any) -> None:
    # a gradient that passes through float32 is rounded there, and not at the same places in both
    both(f, (2, 3), shape, rtol=1e-6 if f is value_of_another_type else 1e-12)


def test_second_derivatives_through_in_place_changes() -> None:
    grads = []
    for L in (minidl, torch):
        x = L.tensor(data(2, 3), requires_grad=True)
        y = x * x
        y[0] *= x[1]
        y.t()[1] = x[:, 0] ** 3
        (g,) = L.autograd.grad((y * y).sum(), x, create_graph=True)
        (h,) = L.autograd.grad((g * g).sum(), x)
        grads.append((g.detach().numpy(), h.numpy()))
    np.testing.assert_allclose(grads[0][0], grads[1][0], rtol=1e-12)
    np.testing.assert_allclose(grads[0][1], grads[1][1], rtol=1e-12)


def test_gradcheck_through_in_place_changes() -> None:
    def f(x: Any, w: Any) -> Any:
        y = x * 1
        y[0] = w
        y[:, 1] *= w[0]
        y.view(-1)[2:4].exp_()
        return y.sin_()

    inputs = [minidl.tensor(data(2, 3), requires_grad=True), minidl.tensor(data(3), requires_grad=True)]
    assert minidl.gradcheck(f, inputs)
    assert minidl.gradgradcheck(f, inputs)


# -- x[index] = value -------------------------------------------------------------------------------------------------

PLACES: dict[str, tuple[Callable, Callable]] = {
    "int": (lambda L: 1, lambda L, w: w),
    "number": (lambda L: (0, 2), lambda L, w: w[0]),
    "python_number": (lambda L: (slice(None), 1), lambda L, w: 7.0),
    "slice": (lambda L: slice(0, 1), lambda L, w: w),
    "step": (lambda L: (slice(None), slice(None, None, 2)), lambda L, w: w[:2]),
    "broadcast": (lambda L: slice(None), lambda L, w: w),
    "broadcast_column": (lambda L: (slice(None), slice(None)), lambda L, w: w[:2].reshape(2, 1)),
    "leading_ones": (lambda L: 0, lambda L, w: w.reshape(1, 1, 3)),
    "ellipsis": (lambda L: (..., 0), lambda L, w: w[:2]),
    "none": (lambda L: (None, 1), lambda L, w: w),
    "mask": (lambda L: L.tensor([[True, False, True], [False, False, True]]), lambda L, w: w),
    "mask_number": (lambda L: L.tensor([True, False]), lambda L, w: 0.0),
    "row_mask": (lambda L: L.tensor([False, True]), lambda L, w: w),
    "array": (lambda L: L.tensor([1, 0]), lambda L, w: w),
    "arrays": (lambda L: (L.tensor([0, 1, 1]), L.tensor([2, 0, 1])), lambda L, w: w),
    "int_and_array": (lambda L: (1, L.tensor([2, 0])), lambda L, w: w[:2]),
    "array_column": (lambda L: (slice(None), L.tensor([2, 0])), lambda L, w: w[:2]),
    "list": (lambda L: [1], lambda L, w: w),
    "all_true": (lambda L: L.ones(2, 3) > 0, lambda L, w: w[0]),
    "all_false": (lambda L: L.zeros(2, 3) > 0, lambda L, w: w[0]),
    "empty": (lambda L: slice(0, 0), lambda L, w: w),
    "zero_d_index": (lambda L: L.tensor(1), lambda L, w: w),
    "plain_value": (lambda L: 0, lambda L, w: L.ones(3, dtype=L.float64)),
}


@pytest.mark.parametrize("name", PLACES)
def test_setitem(name: str) -> None:
    place, value = PLACES[name]

    def f(L: Any, x: Any, w: Any) -> Any:
        y = x * 2
        y[place(L)] = value(L, w)
        return y * y

    both(f, (2, 3), (3,))


@pytest.mark.parametrize("name", PLACES)
def test_setitem_in_a_view(name: str) -> None:
    place, value = PLACES[name]

    def f(L: Any, x: Any, w: Any) -> Any:
        y = x * 2
        v = y[1:3].view(2, 3)
        v[place(L)] = value(L, w)
        return y * v.sum()

    both(f, (4, 3), (3,))


def test_setitem_without_gradients() -> None:
    for L in (minidl, torch):
        x = L.zeros(2, 3)
        x[0] = 1
        x[1, 1:] = L.tensor([2, 3])
        x[x > 2] = -1.5
        x[0, 0] = True
        assert x.tolist() == [[1.0, 1.0, 1.0], [0.0, 2.0, -1.5]]
        i = L.zeros(3, dtype=L.int64)
        i[0] = 2.7  # cut off, as in torch
        assert i.tolist() == [2, 0, 0]
        assert not x.requires_grad


def test_augmented_setitem() -> None:
    for L in (minidl, torch):
        x = L.zeros(2, 3)
        x[0] += 1
        x[1, 2] -= 4
        x[:, L.tensor([0, 1])] *= 3
        x[L.tensor([True, False])] /= 2
        assert x.tolist() == [[1.5, 1.5, 0.5], [0.0, 0.0, -4.0]]


# -- versions ---------------------------------------------------------------------------------------------------------


def test_a_stale_saved_tensor_is_refused_and_both_lines_are_named() -> None:
    x = minidl.ones(3, requires_grad=True)
    y = x * 2
    z = y * y
    y += 1  # the culprit
    with pytest.raises(RuntimeError) as caught:
        z.sum().backward()
    text = str(caught.value)
    assert "in-place" in text
    assert "mul" in text
    assert "z = y * y" in text
    assert "y += 1  # the culprit" in text
    assert text.count("test_inplace.py") == 2


STALE: dict[str, Callable] = {
    "base_of_a_saved_view": lambda L, y: (y[0] * y[1], y.mul_(2))[0],
    "view_of_a_saved_base": lambda L, y: (y * y, y[0].add_(1))[0],
    "through_detach": lambda L, y: (y * y, y.detach().add_(1))[0],
    "setitem": lambda L, y: (y * y, y.__setitem__(0, 1.0))[0],
    "output": lambda L, y: y.exp().mul_(2),
    "output_of_sqrt": lambda L, y: y.sqrt().add_(1),
    "copy": lambda L, y: (y * y, y.copy_(L.zeros(2, 2)))[0],
    "zero": lambda L, y: (y.sin(), y.zero_())[0],
    "matmul": lambda L, y: (y @ y, y.t().mul_(2))[0],
    "reshaped": lambda L, y: (y.reshape(4).square(), y.add_(1))[0],
}


@pytest.mark.parametrize("name", STALE)
def test_stale_in_both_libraries(name: str) -> None:
    for L in (minidl, torch):
        x = L.ones(2, 2, requires_grad=True)
        z = STALE[name](L, x * 3)
        with pytest.raises(RuntimeError, match=r"in-?place"):
            z.sum().backward()


def test_a_stale_tensor_is_refused_under_create_graph_too() -> None:
    x = minidl.ones(3, requires_grad=True)
    y = x * 2
    for z in (y * y, minidl.nn.functional.layer_norm(y, (3,))):
        with minidl.no_grad():
            y.add_(1)
        with pytest.raises(RuntimeError, match="in-place"):
            minidl.autograd.grad(z.sum(), x, create_graph=True)


def test_what_is_not_needed_may_change() -> None:
    """add saves nothing; mul saves the other factor only if this one wants a gradient; exp saves its output."""
    for L in (minidl, torch):
        x = L.ones(3, requires_grad=True)
        y = x * 2
        z = y.exp() + y
        y.add_(1)
        plain = L.ones(3)
        u = x * plain
        w = plain * 5
        w.mul_(2)
        (z + u).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), 2 * np.exp(2) + 3, rtol=1e-6)


def test_data_skips_the_check() -> None:
    for L in (minidl, torch):
        x = L.ones(2, requires_grad=True)
        y = x * x
        x.data.mul_(3)
        y.sum().backward()
        assert x.grad.tolist() == [6.0, 6.0]


def test_detach_shares_the_version() -> None:
    x = minidl.ones(2, requires_grad=True)
    y = x * 1
    assert y.detach().version is y.version
    assert y[0].version is y.version
    assert y.t().version is y.version
    assert y.clone().version is not y.version
    y.detach().add_(1)
    assert y.version.count == 1


# -- leaves -----------------------------------------------------------------------------------------------------------

LEAF_WRITES: dict[str, Callable] = {
    "method": lambda L, x: x.add_(1),
    "operator": lambda L, x: operator.iadd(x, 1),
    "setitem": lambda L, x: x.__setitem__(0, 1.0),
    "view": lambda L, x: x[0].add_(1),
    "nested_view": lambda L, x: x.t()[0][1:].mul_(2),
    "view_setitem": lambda L, x: x.reshape(4).__setitem__(0, 1.0),
    "zero": lambda L, x: x.zero_(),
    "copy": lambda L, x: x.copy_(L.zeros(2, 2)),
    "fill": lambda L, x: x.fill_(1.0),
    "normal": lambda L, x: x.normal_(),
    "uniform": lambda L, x: x.uniform_(),
}


@pytest.mark.parametrize("name", LEAF_WRITES)
def test_a_leaf_that_wants_a_gradient_is_not_written(name: str) -> None:
    for L in (minidl, torch):
        x = L.ones(2, 2, requires_grad=True)
        with pytest.raises(RuntimeError, match="leaf"):
            LEAF_WRITES[name](L, x)
        np.testing.assert_array_equal(x.detach().numpy(), 1)
        with L.no_grad():
            LEAF_WRITES[name](L, x)
        assert x.requires_grad
        assert x.is_leaf
        (x * 2).sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), 2)


def test_an_update_under_no_grad_reaches_views_and_keeps_them_plain() -> None:
    for L in (minidl, torch):
        w = L.ones(2, 2, requires_grad=True)
        with L.no_grad():
            row = w[0]
            row += 1
            w.mul_(2)
        assert w.tolist() == [[4.0, 4.0], [2.0, 2.0]]
        assert row.tolist() == [4.0, 4.0]
        if L is minidl:  # torch's row has come to require a gradient, by way of its base
            assert not row.requires_grad
            row.numpy()


def test_a_view_from_no_grad_is_not_written_with_gradients_on() -> None:
    """The base would not learn of it: torch refuses too."""
    for L in (minidl, torch):
        w = L.ones(2, requires_grad=True)
        base = L.zeros(2, 2)
        with L.no_grad():
            row = base[0]
        with pytest.raises(RuntimeError, match="no_grad"):
            row += w


def test_a_leaf_becomes_a_result() -> None:
    for L in (minidl, torch):
        w = L.ones(2, requires_grad=True)
        x = L.zeros(2)
        x += w
        assert x.requires_grad
        assert not x.is_leaf
        (x * x).sum().backward()
        assert w.grad.tolist() == [2.0, 2.0]


def test_overwriting_forgets_the_past() -> None:
    for L in (minidl, torch):
        w = L.ones(2, requires_grad=True)
        x = w * 2
        x.zero_()
        assert x.requires_grad
        (x + w).sum().backward()
        assert w.grad.tolist() == [1.0, 1.0]


def test_requires_grad_on_a_view_of_a_plain_tensor() -> None:
    for L in (minidl, torch):
        base = L.zeros(2, 2)
        row = base[0]
        row.requires_grad_()
        (row * 3).sum().backward()
        assert row.grad.tolist() == [3.0, 3.0]


# -- other errors -----------------------------------------------------------------------------------------------------

REFUSED: dict[str, Callable] = {
    "expanded": lambda L: L.zeros(3, 1).expand(3, 4).add_(1),
    "expanded_setitem": lambda L: L.zeros(1).expand(4).__setitem__(slice(None), 1.0),
    "broadcast_to": lambda L: L.broadcast_to(L.zeros(1), (3,)).mul_(2),
    "float_into_int": lambda L: L.tensor([1, 2]).add_(1.5),
    "float_tensor_into_int": lambda L: L.tensor([1, 2]).add_(L.tensor([1.5, 2.5])),
    "int_division": lambda L: operator.itruediv(L.tensor([1, 2]), 2),
    "int_into_bool": lambda L: L.tensor([True]).add_(1),
    "larger_shape": lambda L: L.zeros(3).add_(L.zeros(2, 3)),
    "grow": lambda L: operator.iadd(L.zeros(1), L.zeros(3)),
    "shapes": lambda L: L.zeros(3).add_(L.zeros(4)),
    "copy_shape": lambda L: L.zeros(3).copy_(L.zeros(4)),
    "exp_of_int": lambda L: L.tensor([1, 2]).exp_(),
    "fill_vector": lambda L: L.zeros(3).fill_(L.zeros(3)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_both_libraries(name: str) -> None:
    for L in (minidl, torch):
        with pytest.raises(RuntimeError):
            REFUSED[name](L)


def test_a_refused_write_changes_nothing() -> None:
    x = minidl.tensor([1, 2])
    with pytest.raises(RuntimeError):
        x.add_(1.5)
    assert x.tolist() == [1, 2]
    assert x.version.count == 0
    y = minidl.zeros(3)
    with pytest.raises(minidl.ShapeError, match=r"shape"):
        y[0:2] = minidl.zeros(3)
    assert y.version.count == 0


def test_nothing_to_write() -> None:
    for L in (minidl, torch):
        x = L.zeros(2, 0, 3) * 1
        assert x.add_(1).shape == (2, 0, 3)
        x[:, :] = 2.0
        assert x.expand(2, 0, 3).exp_().tolist() == [[], []]


def test_read_only_memory() -> None:
    a = np.zeros(3)
    a.flags.writeable = False
    with pytest.raises(RuntimeError, match="read-only"):
        minidl.from_numpy(a).add_(1)


def test_narrower_results_are_allowed() -> None:
    for L in (minidl, torch):
        x = L.ones(2)
        x += L.ones(2, dtype=L.float64)
        assert str(x.dtype).endswith("float32")
        i = L.ones(2, dtype=L.int8)
        i += L.ones(2, dtype=L.int64)
        assert str(i.dtype).endswith("int8")
        u = L.ones(2, dtype=L.uint8)
        u -= 2
        assert u.tolist() == [255, 255]
        b = L.tensor([True, False])
        b |= L.tensor([False, False])
        assert b.tolist() == [True, False]


def test_random_fills() -> None:
    x = minidl.empty(2000)
    assert x.normal_(2.0, 0.5) is x
    assert x.mean().item() == pytest.approx(2.0, abs=5 * 0.5 / 2000**0.5)
    assert x.std().item() == pytest.approx(0.5, abs=5 * 0.5 / 4000**0.5)
    x.uniform_(-1, 3)
    assert -1 <= x.min().item() <= x.max().item() < 3
    x.bernoulli_(0.25)
    assert set(x.tolist()) == {0.0, 1.0}
    assert x.mean().item() == pytest.approx(0.25, abs=5 * (0.25 * 0.75 / 2000) ** 0.5)
    assert x.version.count == 3
    h = minidl.empty(10, dtype=minidl.float16).normal_()
    assert h.dtype == minidl.float16
    other = minidl.Generator(3), minidl.Generator(3)
    assert minidl.empty(4).normal_(generator=other[0]).tolist() == minidl.empty(4).normal_(generator=other[1]).tolist()


def test_retain_grad_and_hooks_meet_in_place_changes() -> None:
    """As in torch, a hook belongs to the tensor as it was when the hook was registered."""
    seen: list = []
    for L in (minidl, torch):
        x = L.ones(2, requires_grad=True)
        y = x * 2
        y.register_hook(lambda g: seen.append(g.tolist()))
        y.mul_(3)
        (y * y).sum().backward()
        assert x.grad.tolist() == [72.0, 72.0]
    assert seen[0] == seen[1]
