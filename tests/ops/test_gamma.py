"""The gamma function's logarithm and derivatives, its incomplete integrals, Bessel's functions, where torch is not
exact: against mpmath, which computes them to 40 digits."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

import minidl
import minidl.special

RNG = np.random.default_rng(5)
EPS = np.finfo(np.float64).eps


def exact(f: Callable, *xs: np.ndarray) -> np.ndarray:
    with mpmath.workdps(40):
        return np.array([float(mpmath.re(f(*(mpmath.mpf(float(v)) for v in row)))) for row in zip(*xs, strict=True)])


def near_poles() -> np.ndarray:
    """Points right of 0, of both sides of -1 ... -20 at all distances, and far from 0."""
    poles, off = -RNG.integers(0, 20, 60), 10.0 ** RNG.uniform(-6, -0.4, 60) * RNG.choice([-1, 1], 60)
    return np.concatenate([RNG.uniform(0.01, 20, 60), poles + off, 10.0 ** RNG.uniform(1, 8, 20)])


def conditioned(x: np.ndarray) -> np.ndarray:
    """How much of an ulp of x becomes of an ulp of a function with poles: x over the distance from the next."""
    return 1 + np.where(x < 0, np.abs(x) / np.abs(x - np.rint(x)), 0.0)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_derivatives_of_lgamma(n: int) -> None:
    """Within 4 roundings, those of x counted as often as a pole of order n + 1 multiplies them, and, as digamma crosses
    0, of 1."""
    x = near_poles()
    want = exact(lambda v: mpmath.polygamma(n, v), x)
    for got in (minidl.polygamma(n, minidl.tensor(x)), *([minidl.digamma(minidl.tensor(x))] if n == 0 else [])):
        assert (np.abs(got.numpy() - want) <= 4 * (n + 1) * EPS * np.maximum(np.abs(want), 1) * conditioned(x)).all()


def test_slopes_of_lgamma_and_digamma() -> None:
    x = near_poles()
    for f, n in ((minidl.lgamma, 0), (minidl.digamma, 1)):
        leaf = minidl.tensor(x, requires_grad=True)
        f(leaf).sum().backward()
        np.testing.assert_array_equal(leaf.grad.numpy(), minidl.polygamma(n, minidl.tensor(x)).numpy())


def test_known_values_and_poles() -> None:
    """psi'(1) = pi^2 / 6, psi'(1/2) = pi^2 / 2, psi''(1) = -2 zeta(3); far below 0 pi^2 / sin^2(pi x)."""
    x = minidl.tensor([1.0, 0.5, -1e9 - 0.5], dtype=minidl.float64)
    np.testing.assert_allclose(minidl.polygamma(1, x), [np.pi**2 / 6, np.pi**2 / 2, np.pi**2 - 1e-9], rtol=1e-14)
    assert minidl.polygamma(2, x[:1]).item() == pytest.approx(-2 * 1.2020569031595942, rel=1e-15)
    ends = minidl.tensor([0.0, -1.0, -501.0, np.inf, -np.inf, np.nan])
    np.testing.assert_array_equal(minidl.polygamma(1, ends), [np.inf, np.inf, np.inf, 0, np.nan, np.nan])
    np.testing.assert_array_equal(minidl.digamma(ends[3:]), torch.digamma(torch.tensor([np.inf, -np.inf, np.nan])))
    with pytest.raises(RuntimeError):
        minidl.polygamma(-1, x)


@pytest.mark.parametrize("above", [False, True])
def test_incomplete_gamma(above: bool) -> None:
    """a from 1e-3 to 1e4, x about a: 1e-12 of the value, as x^a is of a rounded logarithm times a below a = 200."""
    a = 10.0 ** RNG.uniform(-3, 4, 120)
    x = a * np.exp(RNG.normal(size=120) * np.minimum(1.5, 4 / np.sqrt(a)))
    f = minidl.igammac if above else minidl.igamma
    ends = (lambda p, z: (p, z, mpmath.inf)) if above else (lambda p, z: (p, 0, z))
    want = exact(lambda p, z: mpmath.gammainc(*ends(p, z), regularized=True), a, x)
    np.testing.assert_allclose(f(minidl.tensor(a), minidl.tensor(x)), want, rtol=1e-12)


def test_incomplete_gamma_of_large_and_small_shapes() -> None:
    """There it is the normal distribution, sqrt(a) wide, skewed by 1 / sqrt(a); for a small a, igammac is a E1(x)."""
    a = minidl.tensor([1e20, 1e20, 1e16, 1e16, 1e20], dtype=minidl.float64)
    x = a + minidl.tensor([0.0, 1e10, -2e8, 3e8, 1e19], dtype=minidl.float64)
    want = minidl.special.ndtr(minidl.tensor([0.0, 1.0, -2.0, 3.0, 1e9], dtype=minidl.float64))
    np.testing.assert_allclose(minidl.igamma(a, x), want, atol=1e-6)  # 1e20 + 1e10 is rounded to 1.6e-6 of 1e10
    np.testing.assert_allclose(minidl.igammac(a, x), 1 - want, atol=1e-6)
    z = np.array([1e-3, 0.4, 0.9, 1.05])
    small = minidl.igammac(minidl.full((4,), 1e-12, dtype=minidl.float64), minidl.tensor(z))
    np.testing.assert_allclose(small, 1e-12 * exact(mpmath.e1, z), rtol=1e-10)  # of a (1 + a log x ...)


@pytest.mark.parametrize("name", ["igamma", "igammac"])
def test_ends_of_incomplete_gamma(name: str) -> None:
    """0, infinities, NaN and negative numbers in every pair, as torch decides them."""
    ends = [0.0, -0.0, -1.0, 1.0, 2.5, np.inf, -np.inf, np.nan]
    a, x = np.array(list(itertools.product(ends, ends)), np.float32).T
    got, want = (getattr(t, name)(t.tensor(a), t.tensor(x)).numpy() for t in (minidl, torch))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    leaf = minidl.tensor([2.0], requires_grad=True)
    with pytest.raises(NotImplementedError, match="first argument"):
        getattr(minidl, name)(leaf, minidl.tensor([1.0])).backward()


@pytest.mark.parametrize("order", [0, 1])
def test_bessel_functions_where_they_overflow(order: int) -> None:
    """Values and slopes up to the last finite ones, which torch loses, and beyond, where both are infinite."""
    x = np.array([0.0, 1e-9, 0.5, -3.0, 25.0, 700.0, 713.0, -713.0])
    grown: Any = minidl.special.i1 if order else minidl.special.i0
    leaf = minidl.tensor(x, requires_grad=True)
    y = grown(leaf)
    y.sum().backward()
    np.testing.assert_allclose(y.detach(), exact(lambda v: mpmath.besseli(order, v), x), rtol=1e-13)
    i = mpmath.besseli
    slope = lambda v: (i(0, v) - i(1, v) / v if v else 0.5) if order else i(1, v)
    np.testing.assert_allclose(leaf.grad, exact(slope, x), rtol=1e-13)
    far, found = np.array([5e6, -5e6]), []
    for t in (minidl, torch):
        leaf = t.tensor(far, requires_grad=True)
        y = getattr(t.special, f"i{order}")(leaf)
        y.sum().backward()
        found.append((y.detach().numpy(), leaf.grad.numpy()))
    np.testing.assert_array_equal(*found)
