"""minidl.hunt and minidl.checkup: the op, the line, the element and the values are named; nobody is named twice."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import nn
from minidl.inside import checkup, hunt


class Log(nn.Module):
    def forward(self, x):
        return x.log()  # here


def test_the_birth_of_a_nan_is_named():
    net = nn.Sequential(nn.Linear(3, 4), Log(), nn.Linear(4, 2))
    x = minidl.ones(5, 3)
    with minidl.no_grad():
        net[0].weight.fill_(0.0)
        net[0].bias.copy_(minidl.tensor([1.0, 2.0, -3.0, 4.0]))
    found = hunt(lambda: net(x).sum())
    first = found.first
    assert (first.value, first.direction, first.op, first.module) == ("NaN", "forwards", "log", "Sequential.1")
    assert first.at == [0, 2]
    assert first.count == 5
    assert first.source.endswith("return x.log()  # here")
    assert "= -3 there" in first.values[0]
    assert "log of -3" in first.hint
    assert [b.op for b in found.births] == ["log"], "those who pass it on are not named"
    assert "in Sequential.1" in str(found)
    assert "NaN born" in found._repr_html_()
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize(
    ("f", "value", "direction", "op", "hint"),
    [
        (lambda x: (x * 100).exp().sum(), "Inf", "forwards", "exp", "limit is 88.7"),
        (lambda x: (x / (x - x)).sum(), "Inf", "forwards", "true_divide", "by 0"),
        (lambda x: ((x - 1).sqrt()).sum(), "Inf", "backwards", "sqrt", "infinite at 0"),
        (lambda x: (x - 2).sqrt().sum(), "NaN", "forwards", "sqrt", "sqrt of -1"),
        (lambda x: (x * 1e30 * 1e30).sum(), "Inf", "forwards", "mul", "beyond 3.4e+38"),
        (lambda x: (x - x).norm(), "NaN", "backwards", "vector_length", ""),
    ],
)
def test_hints(f, value, direction, op, hint):
    x = minidl.ones(3, requires_grad=True)
    found = hunt(lambda: f(x))
    if op == "vector_length":  # torch gives 0 there, and so does minidl
        assert not found
        assert str(found) == "No NaN and no Inf: all values and gradients are finite."
        return
    assert (found.first.value, found.first.direction, found.first.op) == (value, direction, op)
    assert hint in found.first.hint


def test_what_was_given_bad_is_told_of_as_given():
    net = nn.Linear(3, 2)
    with minidl.no_grad():
        net.weight[1, 2] = float("nan")
    found = hunt(lambda: net(minidl.ones(4, 3)).sum())
    assert found
    assert found.births == []
    assert "a tensor (2, 3), first used by linear in Linear, holds nan at [1, 2]" in str(found)


def test_healthy_programs_and_wrong_inputs():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x, y = minidl.randn(6, 3), minidl.randint(0, 2, (6,))
    assert not hunt(lambda: F.cross_entropy(net(x), y))
    assert not hunt(lambda: net(x))  # nothing to go back from, the forward is looked at
    assert not minidl.autograd.state.watch
    with pytest.raises(TypeError, match="lambda: loss_function"):
        hunt(net)
    with pytest.raises(TypeError, match="not Tensor"):
        hunt(net(x).sum())
    with pytest.raises(RuntimeError, match="single element"):
        checkup(lambda: net(x))
    with pytest.raises(RuntimeError, match="no graph"):
        checkup(lambda: net(x).detach().sum())
    with pytest.raises(TypeError, match="NoneType"):
        checkup(lambda: None)


def test_anomaly_mode_and_a_hunt_together():
    x = minidl.zeros(2, requires_grad=True)
    with minidl.autograd.detect_anomaly():
        with pytest.raises(minidl.AnomalyError):
            hunt(lambda: (x / x).sum())
        assert minidl.autograd.state.anomaly
    assert not minidl.autograd.state.watch


def test_vanishing_and_exploding_gradients():
    minidl.manual_seed(1)
    deep = nn.Sequential(*[m for _ in range(15) for m in (nn.Linear(8, 8), nn.Sigmoid())])
    x = minidl.randn(16, 8)
    found = checkup(lambda: deep(x).sum(), deep)
    assert found.findings[0].startswith("gradients vanish")
    assert len(found.layers) == 31  # and the sum outside of modules
    assert found.layers[0].ratio > 0
    with minidl.no_grad():
        for m in deep:
            if isinstance(m, nn.Linear):
                m.weight.mul_(40.0)
    wide = nn.Sequential(*[m for m in deep if isinstance(m, nn.Linear)])
    assert any(f.startswith("gradients explode") for f in checkup(lambda: wide(x).sum(), wide).findings)
    assert any("at their limits" in f for f in checkup(lambda: deep(x).sum()).findings)


def test_dead_units_are_counted():
    net = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 2))
    with minidl.no_grad():
        net[0].bias[:4] = -100.0
        net[0].bias[4:] = 100.0
    found = checkup(lambda: net(minidl.randn(20, 3)).sum(), net)
    layer = next(x for x in found.layers if x.module == "Sequential.1")
    assert layer.dead == 0.4
    assert "40% of the units of Sequential.1 are 0 for every example" in str(found)
    conv = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU())
    with minidl.no_grad():
        conv[0].bias[:] = minidl.tensor([-100.0, 100.0, -100.0, 100.0, 100.0])
    found = checkup(lambda: conv(minidl.randn(4, 1, 6, 6)).sum())
    assert next(x for x in found.layers if x.module == "Sequential.1").dead == 0.4
    healthy = checkup(lambda: nn.Linear(3, 3)(minidl.ones(2, 3)).sum())
    assert not healthy
    assert "Nothing conspicuous" in str(healthy)
    assert np.isfinite(healthy.layers[0].gradient)
