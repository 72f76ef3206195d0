"""LAMB against its formula, Adafactor against torch: paths, state, masks, errors."""

import numpy as np
import pytest
import torch

import minidl
from minidl import nn, optim


def gradients(shape, dtype, steps=12):
    rng = np.random.default_rng(1)
    return [(rng.standard_normal(shape) + np.sin(t)).astype(dtype) for t in range(steps)]


def start(shape, dtype):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("options", [
    {}, {"lr": 0.1, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.3}, {"lr": 0.1, "maximize": True},
    {"lr": 0.1, "weight_decay": 0},
])  # fmt: skip
@pytest.mark.parametrize("shape", [(3, 4), (5,), ()])
def test_lamb_is_the_papers_algorithm(options, shape):
    """Algorithm 2 of arXiv:1904.00962 with phi(z) = z, in float64: a few dozen roundings a step."""
    w = start(shape, "float64")
    p = nn.Parameter(w.copy())
    optimizer = optim.LAMB([p], **options)
    set_ = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01, "maximize": False, **options}
    (b1, b2), m, v = set_["betas"], np.zeros(shape), np.zeros(shape)
    for t, g in enumerate(gradients(shape, "float64"), 1):
        p.grad = minidl.tensor(g)
        optimizer.step()
        g = -g if set_["maximize"] else g
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        r = (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + set_["eps"]) + set_["weight_decay"] * w
        w = w - set_["lr"] * np.linalg.norm(w) / np.linalg.norm(r) * r
        np.testing.assert_allclose(p.detach().numpy(), w, rtol=1e-12, atol=1e-13)


def test_lamb_of_zero_weights_takes_adams_step():
    p, q = nn.Parameter(np.zeros(3)), nn.Parameter(np.zeros(3))
    ours, adam = optim.LAMB([p], 0.1, weight_decay=0), optim.Adam([q], 0.1, eps=1e-6)
    for t in (p, q):
        t.grad = minidl.tensor([1.0, -2.0, 0.5], dtype=minidl.float64)
    ours.step(), adam.step()
    np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=1e-12)


OPTIONS = [
    {}, {"lr": 0.1, "beta2_decay": -0.5, "eps": (1e-3, 0.1), "d": 2.0}, {"lr": 0.5, "weight_decay": 0.1},
    {"maximize": True}, {"eps": (0.5, 1e-3)},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shape", [(3, 4), (4, 1), (2, 3, 4), (5,), (), (0, 3)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_adafactor_is_torchs(options, shape, dtype):
    """The same formula in another order: 40 roundings a step, of weights up to 4."""
    w = start(shape, dtype)
    p, q = nn.Parameter(w.copy()), torch.nn.Parameter(torch.tensor(w))
    ours, theirs = optim.Adafactor([p], **options), torch.optim.Adafactor([q], **options, foreach=False)
    if 0 in shape:  # torch divides 0 by 0
        p.grad = minidl.zeros(*shape, dtype=getattr(minidl, dtype))
        ours.step()
        return
    for t, g in enumerate(gradients(shape, dtype), 1):
        p.grad, q.grad = minidl.tensor(g), torch.tensor(g)
        ours.step(), theirs.step()
        bound = 40 * t * np.finfo(dtype).eps * 4
        np.testing.assert_allclose(p.detach().numpy(), q.detach().numpy(), rtol=0, atol=bound)
        if t == 6:  # the state has torch's names and shapes, and goes both ways
            a, b = ours.state_dict()["state"][0], theirs.state_dict()["state"][0]
            assert {k: tuple(v.shape) for k, v in a.items()} == {k: tuple(v.shape) for k, v in b.items()}
            again = optim.Adafactor([p])
            again.load_state_dict({
                "state": {0: {k: v.numpy() for k, v in b.items()}},
                "param_groups": theirs.state_dict()["param_groups"],
            })  # fmt: skip
            ours = again


def test_masks_and_errors():
    for name in ("LAMB", "Adafactor"):
        p = nn.Parameter(np.ones((4, 3), np.float32))
        p.mask = np.arange(12).reshape(4, 3) % 3 != 0
        p.apply_mask_()
        optimizer = getattr(optim, name)([p], 0.1)
        for g in gradients((4, 3), "float32", 3):
            p.grad = minidl.tensor(g)
            optimizer.step()
        assert not p.detach().numpy()[~p.mask].any()
        assert p.detach().numpy()[p.mask].all()
    for options, message in [
        ({"lr": -1}, "Learning rate"), ({"beta2_decay": 0.1}, "beta2_decay"), ({"eps": (-1, 0)}, "epsilon1"),
        ({"eps": (None, -1)}, "epsilon2"), ({"d": 0.5}, "Clipping threshold"), ({"weight_decay": -1}, "weight_decay"),
    ]:  # fmt: skip
        for n, parameter in ((optim, nn.Parameter(np.ones(2))), (torch.optim, torch.nn.Parameter(torch.ones(2)))):
            with pytest.raises(ValueError, match=message):
                n.Adafactor([parameter], **options)
    with pytest.raises(ValueError, match="beta parameter at index 1"):
        optim.LAMB([p], betas=(0.9, 1))
    state = optim.Adafactor([p]).state_dict()
    state["state"] = {0: {"row_var": np.ones((4, 3))}}
    with pytest.raises(ValueError, match="'row_var' has shape"):
        optim.Adafactor([p]).load_state_dict(state)
