"""Weight and spectral norm, both ways, parametrizations, fused batch normalisation, norms of gradients; against torch.

Tolerance: some hundred operations on numbers of size 1 in float64: 1e-12.
"""

import copy
import warnings

import numpy as np
import pytest
import torch

import minidl
from minidl import nn

RNG = np.random.default_rng(2)
LAYERS = [
    (lambda n: n.Linear(4, 3), (2, 4)), (lambda n: n.Conv2d(4, 3, 2), (2, 4, 3, 3)),
    (lambda n: n.ConvTranspose2d(4, 3, 2), (2, 4, 3, 3)), (lambda n: n.Conv1d(4, 6, 2, groups=2), (2, 4, 5)),
]  # fmt: skip


def close(ours, theirs):
    a, t = ours.detach().numpy(), theirs.detach().numpy()
    assert (a.shape, a.dtype) == (t.shape, t.dtype)
    np.testing.assert_allclose(a, t, rtol=0, atol=1e-12 * max(1, np.abs(t).max(initial=0)))


def twins(make, change):
    """The layers of either library, changed, with torch's state."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch: the first way is deprecated
        theirs = change(torch.nn.utils, make(torch.nn).double())
    ours = change(nn.utils, make(nn).double())
    state = theirs.state_dict()
    assert [(k, tuple(v.shape)) for k, v in ours.state_dict().items()] == [
        (k, tuple(v.shape)) for k, v in state.items()
    ]
    assert [k for k, _ in ours.named_parameters()] == [k for k, _ in theirs.named_parameters()]
    ours.load_state_dict({k: v.numpy() for k, v in state.items()})
    return ours, theirs


def run(ours, theirs, shape, steps=3):
    """Some steps of training and one in evaluation: outputs, gradients, buffers."""
    m_opt, t_opt = minidl.optim.SGD(ours.parameters(), 0.01), torch.optim.SGD(theirs.parameters(), 0.01)
    for step in range(steps + 1):
        ours.train(step < steps), theirs.train(step < steps)
        a = RNG.standard_normal(shape)
        m, t = minidl.tensor(a, requires_grad=True), torch.tensor(a, requires_grad=True)
        ours.zero_grad(), theirs.zero_grad()
        y, u = ours(m), theirs(t)
        close(y, u)
        (y * y).sum().backward(), (u * u).sum().backward()
        close(m.grad, t.grad)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            close(p.grad, q.grad)
        m_opt.step(), t_opt.step()
        for p, q in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            close(p, q)


CHANGES = {
    "weight_norm": lambda u, m: u.weight_norm(m),
    "weight_norm whole": lambda u, m: u.weight_norm(m, dim=None),
    "weight_norm inputs": lambda u, m: u.weight_norm(m, "weight", 1),
    "spectral_norm": lambda u, m: u.spectral_norm(m),
    "spectral_norm 3": lambda u, m: u.spectral_norm(m, n_power_iterations=3, eps=1e-6, dim=1),
    "parametrized weight_norm": lambda u, m: u.parametrizations.weight_norm(m),
    "parametrized weight_norm whole": lambda u, m: u.parametrizations.weight_norm(m, dim=None),
    "parametrized weight_norm inputs": lambda u, m: u.parametrizations.weight_norm(m, dim=1),
    "parametrized weight_norm of the bias": lambda u, m: u.parametrizations.weight_norm(m, "bias"),
    "parametrized spectral_norm": lambda u, m: u.parametrizations.spectral_norm(m),
    "parametrized spectral_norm of the bias": lambda u, m: u.parametrizations.spectral_norm(m, "bias", dim=0),
    "parametrized spectral_norm 2": lambda u, m: u.parametrizations.spectral_norm(m, "weight", 2, 1e-6, -1),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(("make", "shape"), LAYERS, ids=["Linear", "Conv2d", "ConvTranspose2d", "Conv1d"])
def test_training_is_torchs(make, shape, change):
    run(*twins(make, change), shape)


@pytest.mark.parametrize("kind", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("dim", [0, None])
def test_removing_leaves_the_weight_as_it_is(kind, dim):
    x = minidl.tensor(RNG.standard_normal((2, 4)))
    layer = getattr(nn.utils, kind)(nn.Linear(4, 3).double(), dim=dim)
    layer(x)
    before = layer.eval()(x)
    assert getattr(nn.utils, f"remove_{kind}")(layer) is layer
    assert list(layer.state_dict()) == ["bias", "weight"]
    close(layer(x), before)
    assert isinstance(layer.weight, nn.Parameter)
    with pytest.raises(ValueError, match="not found in"):
        getattr(nn.utils, f"remove_{kind}")(layer)
    layer = getattr(nn.utils.parametrizations, kind)(nn.Linear(4, 3).double(), dim=dim).eval()
    before = layer(x)
    assert nn.utils.parametrize.is_parametrized(layer)
    assert nn.utils.parametrize.is_parametrized(layer, "weight")
    assert not nn.utils.parametrize.is_parametrized(layer, "bias")
    assert nn.utils.parametrize.remove_parametrizations(layer, "weight") is layer
    assert type(layer) is nn.Linear
    assert list(layer.state_dict()) == ["bias", "weight"]
    close(layer(x), before)


def test_a_spectrally_normalised_weight_stretches_nothing():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5).double(), n_power_iterations=50)
    weight = [layer.weight.detach().numpy() for _ in range(20)][-1]
    assert np.linalg.norm(weight, 2) == pytest.approx(1, abs=1e-6)


class Doubled(nn.Module):
    def forward(self, w):
        return 2 * w

    def right_inverse(self, w):
        return w / 2


class Positive(nn.Module):
    def forward(self, w):
        return w.abs()


def test_parametrizations_stack_copy_and_go():
    utils = nn.utils.parametrize
    layer = nn.Linear(3, 2)
    weight = layer.weight.detach().numpy().copy()
    utils.register_parametrization(layer, "weight", Doubled())
    np.testing.assert_array_equal(layer.weight.detach().numpy(), weight)
    np.testing.assert_array_equal(layer.parametrizations.weight.original.detach().numpy(), weight / 2)
    utils.register_parametrization(layer, "weight", Positive())
    np.testing.assert_array_equal(layer.weight.detach().numpy(), np.abs(weight))
    utils.register_parametrization(layer, "bias", Positive())
    assert list(layer.state_dict()) == ["parametrizations.weight.original", "parametrizations.bias.original"]
    assert type(layer).__name__ == "ParametrizedLinear"
    assert isinstance(layer, nn.Linear)
    other = copy.deepcopy(layer)
    other.parametrizations.weight.original.array[...] = 0
    assert layer.weight.detach().numpy().any()
    assert not other.weight.detach().numpy().any()
    plain = nn.Linear(3, 2)
    assert isinstance(plain.weight, nn.Parameter)  # other layers of the class are as they were
    utils.remove_parametrizations(layer, "weight", leave_parametrized=False)
    np.testing.assert_array_equal(layer.weight.detach().numpy(), weight / 2)
    assert utils.is_parametrized(layer)
    utils.remove_parametrizations(layer, "bias")
    assert type(layer) is nn.Linear
    assert sorted(layer.state_dict()) == ["bias", "weight"]


def test_what_is_refused():
    layer = nn.Linear(3, 2)
    utils = nn.utils
    for error, message, bad in (
        (AttributeError, "foo", lambda: utils.weight_norm(layer, "foo")),
        (ValueError, "is None", lambda: utils.weight_norm(nn.Linear(3, 2, bias=False), "bias")),
        (ValueError, "n_power_iterations", lambda: utils.spectral_norm(layer, n_power_iterations=0)),
        (ValueError, "n_power_iterations", lambda: utils.parametrizations.spectral_norm(layer, n_power_iterations=0)),
        (IndexError, "Dimension out of range", lambda: utils.parametrizations.spectral_norm(layer, dim=2)),
        (ValueError, "foo", lambda: utils.parametrizations.spectral_norm(layer, "foo")),
        (ValueError, "foo", lambda: utils.parametrizations.weight_norm(layer, "foo")),
        (ValueError, "does not have", lambda: utils.parametrize.remove_parametrizations(layer, "weight")),
        (RuntimeError, "two weight_norm", lambda: utils.weight_norm(utils.weight_norm(nn.Linear(3, 2)))),
        (RuntimeError, "two spectral_norm", lambda: utils.spectral_norm(utils.spectral_norm(nn.Linear(3, 2)))),
        (ValueError, "sequence of tensors", lambda: utils.parametrize.remove_parametrizations(
            utils.parametrizations.weight_norm(nn.Linear(3, 2)), "weight", False)),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            bad()
    assert list(layer.state_dict()) == ["weight", "bias"]


# -- fusion -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["Linear", "Conv1d", "Conv2d", "ConvTranspose2d"])
def test_fused_layers_are_both_in_one(kind, bias, affine):
    """(w x) s = (w s) x up to a few roundings in float64."""
    dims = {"Linear": 0, "Conv1d": 1}.get(kind, 2)
    layer = getattr(nn, kind)(4, 3, *([2] if dims else []), bias=bias).double()
    bn = getattr(nn, f"BatchNorm{max(dims, 1)}d")(3, affine=affine).double()
    for t in [*bn.parameters(), bn.running_mean, bn.running_var]:
        t.array[...] = RNG.uniform(0.3, 2, t.shape)
    layer.eval(), bn.eval()
    x = minidl.tensor(RNG.standard_normal((2, 4, *(5, 4)[:dims])))
    before = {k: v.numpy().copy() for k, v in layer.state_dict().items()}
    if kind == "Linear":
        fused = nn.utils.fuse_linear_bn_eval(layer, bn)
    else:
        fused = nn.utils.fuse_conv_bn_eval(layer, bn, "Transpose" in kind)
    close(fused(x), bn(layer(x)))
    assert fused is not layer
    for k, v in layer.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), before[k])
    with pytest.raises(AssertionError, match="only for eval"):
        nn.utils.fuse_conv_bn_eval(layer, bn.train())


def test_fusion_refuses_what_cannot_be_fused():
    with pytest.raises(AssertionError, match="out_features"):
        nn.utils.fuse_linear_bn_eval(nn.Linear(2, 3).eval(), nn.BatchNorm1d(4).eval())
    with pytest.raises(AssertionError, match="running statistics"):
        nn.utils.fuse_linear_bn_eval(nn.Linear(2, 3).eval(), nn.BatchNorm1d(3, track_running_stats=False).eval())


# -- norms of gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm_type", [1, 2.0, 3.5, float("inf")])
def test_total_norm_and_clipping_by_it(norm_type):
    arrays = [RNG.standard_normal(s) for s in ((3, 2), (4,), ())]
    ours, theirs = ([lib.tensor(a, requires_grad=True) for a in arrays] for lib in (minidl, torch))
    for p, q, a in zip(ours, theirs, arrays):
        p.grad, q.grad = minidl.tensor(np.asarray(a * 3)), torch.tensor(a * 3)
    a, b = (u.get_total_norm([p.grad for p in ps], norm_type) for u, ps in ((nn.utils, ours), (torch.nn.utils, theirs)))
    close(a, b)
    for limit in (100.0, 0.5):
        nn.utils.clip_grads_with_norm_(iter(ours), limit, a), torch.nn.utils.clip_grads_with_norm_(theirs, limit, b)
        for p, q in zip(ours, theirs):
            close(p.grad, q.grad)
    close(nn.utils.clip_grad_norm_(iter(ours), 0.1, norm_type), torch.nn.utils.clip_grad_norm_(theirs, 0.1, norm_type))
    for p, q in zip(ours, theirs):
        close(p.grad, q.grad)
    assert nn.utils.get_total_norm([]).item() == 0
    with pytest.raises(RuntimeError, match="non-finite"):
        nn.utils.get_total_norm(minidl.tensor([float("nan")]), error_if_nonfinite=True)


def test_sparse_init_has_as_many_zeros_in_each_column_as_torchs():
    minidl.random.manual_seed(0)
    for sparsity in (0.1, 0.5, 1.0):
        ours, theirs = minidl.empty(30, 200), torch.empty(30, 200)
        assert nn.init.sparse_(ours, sparsity, 0.5) is ours
        torch.nn.init.sparse_(theirs, sparsity)
        zeros = (ours.numpy() == 0).sum(0)
        np.testing.assert_array_equal(zeros, (theirs.numpy() == 0).sum(0))
        rest = ours.numpy()[ours.numpy() != 0]
        if rest.size:  # five standard errors of a deviation
            assert abs(rest.std() - 0.5) <= 5 * 0.5 / np.sqrt(2 * rest.size)
            assert len(np.unique((ours.numpy() == 0).argmax(0))) > 5  # not the same rows in every column
    with pytest.raises(ValueError, match="2 dimensions"):
        nn.init.sparse_(minidl.empty(3), 0.5)
