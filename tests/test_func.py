"""Transforms of functions against torch.func and torch.autograd.functional, in float64."""

from collections import namedtuple

import numpy as np
import pytest
import torch

import minidl
from minidl import func, nn

# torch 2.13 uses its own deprecated torch.jit.script inside torch.func.jvp
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")

RNG = np.random.default_rng(0)
A = RNG.standard_normal((3, 4))
B = RNG.standard_normal((4, 2))
C = RNG.standard_normal(2)


def close(ours, theirs):
    """The same structure; numbers up to a few dozen roundings of 2.2e-16, all of size about 1 to 10."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(theirs, (tuple, list)):
        assert len(ours) == len(theirs)
        for x, y in zip(ours, theirs):
            close(x, y)
        return
    assert isinstance(ours, minidl.Tensor)
    assert tuple(ours.shape) == tuple(theirs.shape)
    np.testing.assert_allclose(ours.detach().numpy(), theirs.detach().numpy(), rtol=1e-12, atol=1e-12)


def values(lib, tree):
    if isinstance(tree, dict):
        return {k: values(lib, v) for k, v in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(values(lib, v) for v in tree)
    return lib.tensor(tree)


def both(run):
    """Of one function of the library (minidl or torch, and its func), both results compared."""
    ours, theirs = run(minidl, func), run(torch, torch.func)
    close(ours, theirs)
    return ours


def loss(lib):
    return lambda p, x: ((x @ p["layers"][0]).tanh() * p["layers"][1] + p["scale"]).sin().sum()


PARAMS = {"layers": [B, C], "scale": np.array(0.3)}


def test_grad_of_trees_and_argnums():
    for argnums in (0, 1, -1, (0,), (0, 1), (1, 0)):
        both(lambda lib, f: f.grad(loss(lib), argnums)(values(lib, PARAMS), lib.tensor(A)))
    both(lambda lib, f: f.grad_and_value(loss(lib))(values(lib, PARAMS), lib.tensor(A)))
    v, g = func.value_and_grad(loss(minidl))(values(minidl, PARAMS), minidl.tensor(A))
    close((g, v), torch.func.grad_and_value(loss(torch))(values(torch, PARAMS), torch.tensor(A)))
    assert not v.requires_grad
    assert not g["scale"].requires_grad


def test_has_aux_and_keywords():
    def f(lib):
        return lambda x, power=2: ((x**power).sum(), {"twice": x * 2, "y": (x,)})

    both(lambda lib, F: F.grad(f(lib), has_aux=True)(lib.tensor(A), power=3))
    both(lambda lib, F: F.grad_and_value(f(lib), has_aux=True)(lib.tensor(A)))
    both(lambda lib, F: (lambda r: (r[0], r[1](lib.tensor(2.0, dtype=lib.float64)), r[2]))(
        F.vjp(f(lib), lib.tensor(A), has_aux=True)))  # fmt: skip
    both(lambda lib, F: F.jvp(f(lib), (lib.tensor(A),), (lib.tensor(A + 1),), has_aux=True))
    both(lambda lib, F: F.jacrev(f(lib), has_aux=True)(lib.tensor(A)))
    both(lambda lib, F: F.jacfwd(f(lib), has_aux=True)(lib.tensor(A)))
    with pytest.raises(RuntimeError, match=r"tuple \(output, aux\)"):
        func.grad(lambda x: x.sum(), has_aux=True)(minidl.tensor(A))


def test_nesting():
    x = np.array(0.7)
    both(lambda lib, F: F.grad(F.grad(F.grad(lambda x: x.sin() * x**2)))(lib.tensor(x)))
    # a derivative within a function that also uses the outer variable
    both(lambda lib, F: F.grad(lambda x: F.grad(lambda y: (x * y).sin())(x * 2) * x)(lib.tensor(x)))
    both(lambda lib, F: F.grad(lambda x: F.vjp(lambda y: y * y * x, x)[1](x)[0])(lib.tensor(x)))
    both(lambda lib, F: F.grad(lambda x: F.jvp(lambda y: y * y * x, (x,), (x,))[1])(lib.tensor(x)))
    both(lambda lib, F: F.jacrev(F.grad(lambda x: (x.sin() * x).sum()))(lib.tensor(C)))
    both(lambda lib, F: F.jvp(F.grad(lambda x: (x.sin() * x).sum()), (lib.tensor(C),), (lib.tensor(C),)))
    both(lambda lib, F: F.grad(lambda x: F.grad(lambda y: y * 3)(x) * x)(lib.tensor(x)))  # constant in x


def test_a_variable_of_the_outer_derivative_is_not_one_of_the_inner():
    """d/dx [x d/dy (x + y)] = 1: the confusion of perturbations would give 2 (Siskind & Pearlmutter 2005)."""
    f = lambda x: x * func.grad(lambda y: x + y)(minidl.tensor(1.0))
    assert func.grad(f)(minidl.tensor(1.0)).item() == 1


def test_results_join_the_recording_outside():
    def run(lib, F):
        w = lib.tensor(B, requires_grad=True)
        x = lib.tensor(A, requires_grad=True)
        (F.grad(lambda x: (x @ w).sin().sum())(x) ** 2).sum().backward()
        return w.grad, x.grad

    both(run)
    w = minidl.tensor(B, requires_grad=True)
    y = lambda x: (x @ w).sin().sum()
    assert func.grad(y)(minidl.tensor(A)).requires_grad
    assert w.grad is None
    with minidl.no_grad():
        value, g = func.value_and_grad(y)(minidl.tensor(A, requires_grad=True))
    assert not value.requires_grad
    assert not g.requires_grad
    close(g, torch.tensor(np.cos(A @ B) @ B.T))


def test_vjp():
    def run(lib, F):
        f = lambda p, x: {"a": x @ p["w"], "b": [(p["w"] * 2).sum(), x]}
        y, pull = F.vjp(f, {"w": lib.tensor(B)}, lib.tensor(A))
        seed = {"a": lib.tensor(A @ B), "b": [lib.tensor(np.array(2.0)), lib.tensor(A)]}
        return y, pull(seed), pull(seed)

    both(run)
    y, pull = func.vjp(lambda x: x * x, minidl.tensor(A))
    with pytest.raises(RuntimeError, match=r"cotangents of shape \(2,\) for a tensor of \(3, 4\)"):
        pull(minidl.tensor(C))
    with pytest.raises(RuntimeError, match="structure"):
        pull((y,))
    with pytest.raises(TypeError, match="must be Tensors, got float"):
        pull(1.0)
    seed = minidl.tensor(A, requires_grad=True)
    pull(seed)[0].sum().backward()
    np.testing.assert_allclose(seed.grad.numpy(), 2 * A, rtol=1e-15)


def test_jvp():
    both(lambda lib, F: F.jvp(lambda x, y: (x @ y, {"s": x.exp().sum(0)}), (lib.tensor(A), lib.tensor(B)),
                              (lib.tensor(A + 1), lib.tensor(B - 1))))  # fmt: skip
    both(lambda lib, F: F.jvp(lambda x: (x[0] * 1, lib.tensor(A)), ([lib.tensor(A)],), ([lib.tensor(A)],)))
    with pytest.raises(RuntimeError, match="must be tuples"):
        func.jvp(lambda x: x, minidl.tensor(A), minidl.tensor(A))
    with pytest.raises(RuntimeError, match="tangents of shape"):
        func.jvp(lambda x: x, (minidl.tensor(A),), (minidl.tensor(C),))


@pytest.mark.parametrize("name", ["jacrev", "jacfwd"])
def test_jacobians(name):
    J = lambda F: getattr(F, name)
    both(lambda lib, F: J(F)(lambda x: x @ lib.tensor(B))(lib.tensor(A)))
    both(lambda lib, F: J(F)(lambda x, y: (x @ y).tanh(), (1, 0))(lib.tensor(A), lib.tensor(B)))
    both(lambda lib, F: J(F)(lambda x, y: (x.sum(), y * 2), 1)(lib.tensor(A), lib.tensor(C)))
    both(lambda lib, F: J(F)(lambda p: {"u": p["a"] * p["b"], "v": p["b"].exp()})(values(lib, {"a": C, "b": C + 1})))
    both(lambda lib, F: J(F)(lambda x: x**2)(lib.tensor(np.array(3.0))))
    assert tuple(getattr(func, name)(lambda x: x[:0])(minidl.tensor(A)).shape) == (0, 4, 3, 4)
    assert not getattr(func, name)(lambda x: x * 2)(minidl.tensor(C)).requires_grad


def test_hessians():
    both(lambda lib, F: F.hessian(lambda x: (x.sin() * x.sum()).sum())(lib.tensor(C)))
    both(lambda lib, F: F.hessian(lambda x: x**3)(lib.tensor(C)))
    both(lambda lib, F: F.hessian(lambda x, y: (x * y).sin().sum(), (0, 1))(lib.tensor(C), lib.tensor(C + 2)))
    both(lambda lib, F: F.hessian(lambda p: (p["a"] ** 2 * p["b"]).sum())(values(lib, {"a": C, "b": C + 1})))


def test_hvp_is_torchs_and_the_hessian_times_the_vector():
    f = lambda x: (x.sin() * (x**2).sum()).sum()
    close(func.hvp(f, minidl.tensor(C), minidl.tensor(C - 1)),
          torch.autograd.functional.hvp(f, torch.tensor(C), torch.tensor(C - 1)))  # fmt: skip
    g = lambda x, y: (x @ y).sin().sum()
    pair = lambda lib: ((lib.tensor(A), lib.tensor(B)), (lib.tensor(A + 1), lib.tensor(B + 1)))
    close(func.hvp(g, *pair(minidl)), torch.autograd.functional.hvp(g, *pair(torch)))
    h = func.hessian(f)(minidl.tensor(C)).numpy()
    np.testing.assert_allclose(func.hvp(f, minidl.tensor(C), minidl.tensor(C))[1].numpy(), h @ C, rtol=1e-13)
    linear = func.hvp(lambda x: (3 * x).sum(), minidl.tensor(C), minidl.tensor(C))[1]
    np.testing.assert_array_equal(linear.numpy(), [0, 0])
    with pytest.raises(RuntimeError, match="vectors of shape"):
        func.hvp(f, minidl.tensor(C), minidl.tensor(A))


def test_second_derivatives_of_a_convolution():
    w, x = RNG.standard_normal((2, 1, 3, 3)), RNG.standard_normal((1, 1, 4, 4))

    def run(lib, F):
        f = lambda w: (lib.nn.functional.conv2d(lib.tensor(x), w) ** 3).sum()
        return lib.autograd.functional.hvp(f, lib.tensor(w), lib.tensor(w))[1] if lib is torch else \
            F.hvp(f, lib.tensor(w), lib.tensor(w))[1]  # fmt: skip

    np.testing.assert_allclose(run(minidl, func).numpy(), run(torch, None).numpy(), rtol=1e-11, atol=1e-11)


def test_a_model_as_the_function():
    model = nn.Linear(4, 1)
    x = minidl.tensor(A.astype(np.float32))
    g = func.grad(lambda x: model(x).sum())(x)
    np.testing.assert_array_equal(g.detach().numpy(), np.broadcast_to(model.weight.detach().numpy(), (3, 4)))
    assert all(p.grad is None for p in model.parameters())


def test_trees_of_named_tuples():
    Pair = namedtuple("Pair", "a b")
    g = func.grad(lambda p: (p.a * p.b).sum())(Pair(minidl.tensor(C), minidl.tensor(C + 1)))
    assert isinstance(g, Pair)
    np.testing.assert_array_equal(g.a.numpy(), C + 1)


def test_what_is_not_reached_is_zero():
    both(lambda lib, F: F.grad(lambda x, y: y.sum(), (0, 1))(lib.tensor(A), lib.tensor(C)))
    both(lambda lib, F: F.jacrev(lambda x: lib.tensor(C))(lib.tensor(A)))
    assert func.grad(lambda x: minidl.tensor(1.0))(minidl.tensor(A)).numpy().tolist() == np.zeros((3, 4)).tolist()


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda x: func.grad(lambda x: x)(x), RuntimeError, r"scalar Tensor, it returned one of shape \(2,\)"),
    (lambda x: func.grad(lambda x: 1.0)(x), TypeError, "must return Tensors, got float"),
    (lambda x: func.grad(lambda x: (x.sum(),))(x), RuntimeError, "scalar Tensor"),
    (lambda x: func.grad(lambda x: x.sum(), 1)(x), RuntimeError, "argnums 1 for a function called with 1"),
    (lambda x: func.grad(lambda x: x.sum(), ())(x), RuntimeError, "non-empty"),
    (lambda x: func.grad(lambda x, y: x.sum(), (0, -2))(x, x), RuntimeError, "twice"),
    (lambda x: func.grad(lambda x: x.sum())(2.0), TypeError, "got float"),
    (lambda x: func.grad(lambda x: x.sum())(minidl.arange(3)), RuntimeError, "int64"),
])  # fmt: skip
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(minidl.tensor(C))


def test_functional_call_is_torchs():
    """Outputs and gradients by the tensors given; tied weights; the module unchanged; refusals."""
    ours = minidl.nn.Sequential(minidl.nn.Linear(3, 4), minidl.nn.Tanh(), minidl.nn.Linear(4, 2))
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    before = {k: v.numpy().copy() for k, v in ours.state_dict().items()}
    rng = np.random.default_rng(0)
    values = {k: rng.standard_normal(v.shape) for k, v in before.items()}
    x = rng.standard_normal((5, 3))
    grads = []
    for lib, model in ((minidl, ours), (torch, theirs)):
        given = {k: lib.tensor(v) for k, v in values.items()}

        def loss(p, lib=lib, model=model):
            return (lib.func.functional_call(model, p, (lib.tensor(x),)) ** 2).sum()

        grads.append({k: g.numpy() for k, g in lib.func.grad(loss)(given).items()})
        with pytest.raises(ValueError):
            lib.func.functional_call(model, [given, given], lib.tensor(x))
        with pytest.raises(RuntimeError):
            lib.func.functional_call(model, {"0.weight": given["0.weight"]}, lib.tensor(x), strict=True)
    for k in values:
        np.testing.assert_allclose(grads[0][k], grads[1][k], rtol=1e-12, atol=1e-12)  # sums of 5 and 4 terms
        np.testing.assert_array_equal(ours.state_dict()[k].numpy(), before[k])
    with pytest.raises(KeyError, match="nothing"):
        minidl.func.functional_call(ours, {"nothing": minidl.ones(1)}, minidl.ones(3))
    tied = minidl.nn.ModuleList([minidl.nn.Linear(2, 2, bias=False), minidl.nn.Linear(2, 2, bias=False)])
    tied[1].weight = tied[0].weight
    both = minidl.nn.Sequential(tied[0], tied[1])
    y = minidl.func.functional_call(both, {"0.weight": minidl.eye(2) * 3}, minidl.ones(2))
    assert y.tolist() == [9.0, 9.0]
