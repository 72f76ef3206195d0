"""Diffusion: both schedules against their integrals, the forward process against its closed form, and the four ways
back against a distribution whose score is known exactly.
"""

import math

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.models import CosineSchedule, Diffusion, LinearSchedule, UNet
from minidl.tensors import wrap

SCHEDULES = {"linear": LinearSchedule(), "cosine": CosineSchedule()}


@pytest.mark.parametrize("name", SCHEDULES)
def test_abar_is_the_integral_of_beta(name):
    """By the trapezoidal rule on a million steps, good to 1e-6 (the cosine's beta is steep at the end)."""
    schedule, t = SCHEDULES[name], np.linspace(0, 1, 1_000_001)
    beta = schedule.beta(t)
    integral = np.concatenate([[0], np.cumsum((beta[1:] + beta[:-1]) / 2) * 1e-6])
    np.testing.assert_allclose(np.exp(-integral), schedule.abar(t), rtol=1e-6)
    assert schedule.abar(0.0) == 1
    assert 0 < schedule.abar(1.0) < 3e-4
    assert (np.diff(schedule.abar(t)) < 0).all()


def test_with_1000_steps_the_linear_one_is_ddpms():
    betas = SCHEDULES["linear"].beta(np.linspace(0, 1, 1000)) / 1000
    np.testing.assert_allclose(betas, np.linspace(1e-4, 0.02, 1000), rtol=1e-12)
    assert np.prod(1 - betas) == pytest.approx(
        SCHEDULES["linear"].abar(1.0), rel=0.07
    )  # 1 - b against e^-b: the sum of b^2 / 2 is 0.067


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("t", [0.2, 0.8])
def test_the_forward_process_has_the_mean_and_variance_of_the_closed_form(name, t):
    """From x_0 = 2: mean 2 sqrt(abar), variance 1 - abar, for one step and for Euler-Maruyama.

    n = 10,000 draws; the mean's deviation is sqrt(v / n), the variance's v sqrt(2 / n): 5 of each, one failure in a
    million. Euler's own error, of order beta dt, is held by twice beta(t) / steps.
    """
    minidl.manual_seed(0)
    n, steps = 10_000, 200
    model = Diffusion(nn.Identity(), name)
    abar = model.schedule.abar(t)
    x = np.full((n, 1), 2.0)
    once = model.noisy(x, np.full(n, t), minidl.random.normal((n, 1), dtype=np.float64))
    walked = model.forward_sde(x, t, steps)
    euler = 2 * model.schedule.beta(t) * t / steps
    for found, slack in ((once, 0.0), (walked, euler)):
        v = 1 - abar
        assert abs(found.mean() - 2 * math.sqrt(abar)) < 5 * math.sqrt(v / n) + 2 * slack
        assert abs(found.var() - v) < 5 * v * math.sqrt(2 / n) + 2 * slack
    assert abs(model.forward_sde(x * 0, t, steps).mean()) < 5 * math.sqrt(1 / n)


class Exact(nn.Module):
    """eps of two points at -1 and 1 of weight 1/4 and 3/4, each blurred by `blur`: known in closed form."""

    def __init__(self, schedule, blur=0.1):
        super().__init__()
        self.schedule, self.blur = schedule, blur

    def forward(self, x, t):
        x, t = x.array, t.array.reshape(-1, 1) / 1000
        abar = self.schedule.abar(t)
        v = abar * self.blur**2 + 1 - abar  # of each blurred point at time t
        distance = [x - np.sqrt(abar) * m for m in (-1.0, 1.0)]
        logit = np.log(3.0) + (distance[0] ** 2 - distance[1] ** 2) / (2 * v)
        right = 1 / (1 + np.exp(-logit))
        score = -((1 - right) * distance[0] + right * distance[1]) / v
        return wrap((-score * np.sqrt(1 - abar)).astype(x.dtype))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("way", "steps"), [("ddpm", 200), ("ddim", 100), ("sde", 500), ("ode", 60)])
def test_with_the_exact_score_every_way_back_arrives(schedule, way, steps):
    """3/4 of 4,000 samples near 1, the rest near -1, each with the deviation of the blur.

    The share's deviation is sqrt(3/16/n) = 0.007, taken five times, and 0.01 for the finite steps; the deviation's
    bound is 20 %, within which all four are with these steps.
    """
    minidl.manual_seed(0)
    n = 4_000
    model = Diffusion(Exact(SCHEDULES[schedule]), SCHEDULES[schedule])
    x = getattr(model, way)(steps=steps, x=minidl.random.normal((n, 1), dtype=np.float64))
    assert x.dtype == np.float64
    assert (x > 0).mean() == pytest.approx(0.75, abs=0.045)
    for side, middle in ((x[x > 0], 1.0), (x[x < 0], -1.0)):
        assert side.mean() == pytest.approx(middle, abs=0.03)
        assert side.std() == pytest.approx(0.1, rel=0.2)


def test_ddim_with_eta_1_is_ddpm():
    """The same draws, so the same numbers, but for rounding."""
    model = Diffusion(Exact(SCHEDULES["cosine"]), "cosine", limit=1.2)
    x = minidl.random.normal((50, 1), dtype=np.float64)
    found = []
    for sample in (lambda: model.ddpm(steps=20, x=x), lambda: model.ddim(steps=20, eta=1.0, x=x)):
        minidl.manual_seed(3)
        found.append(sample())
    np.testing.assert_allclose(found[0], found[1], rtol=1e-9, atol=1e-9)
    assert np.ptp(found[0]) > 1


def test_ddim_and_ode_draw_nothing_but_the_start():
    model = Diffusion(Exact(SCHEDULES["cosine"]))
    x = minidl.random.normal((5, 1))
    before = minidl.random.default_generator.get_state()
    assert (model.ddim(steps=5, x=x) == model.ddim(steps=5, x=x)).all()
    assert (model.ode(steps=5, x=x) == model.ode(steps=5, x=x)).all()
    assert str(minidl.random.default_generator.get_state()) == str(before)


def test_the_loss_is_that_of_the_noise():
    """A network that says 0 is as far off as the noise is long: mean square 1 (5 deviations, sqrt(2 / 40000) each)."""
    minidl.manual_seed(0)

    class Zero(nn.Module):
        def forward(self, x, t):
            assert t.shape == (len(x),)
            assert 0 <= t.array.min() < 10
            assert 990 < t.array.max() < 1000
            return x * 0

    off = Diffusion(Zero())(minidl.zeros(10_000, 4))
    assert (off**2).mean().item() == pytest.approx(1, abs=5 * math.sqrt(2 / 40_000))


def test_it_trains_through_the_network_and_samples_in_its_dtype():
    model = Diffusion(UNet(width=8, levels=(1,)), "cosine", limit=1)
    (model(minidl.randn(3, 1, 4, 4)) ** 2).mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert np.abs(model.net.last.weight.grad.numpy()).max() > 0
    for way in ("ddpm", "ddim", "sde", "ode"):
        x = getattr(model, way)((2, 1, 4, 4), steps=3)
        assert (x.shape, x.dtype) == ((2, 1, 4, 4), np.float32)
    assert np.abs(model.ddpm((2, 1, 4, 4), steps=3)).max() <= 1


def test_an_unknown_schedule():
    with pytest.raises(ValueError, match="linear, cosine, got 'sigmoid'"):
        Diffusion(nn.Identity(), "sigmoid")
