"""Diffusion: noise is added to data until nothing is left of it, and a network learns to go back.

In continuous time 0 <= t <= 1 the forward process is the stochastic differential equation (Song et al. 2021,
arXiv:2011.13456, "variance preserving")

    dx = -1/2 beta(t) x dt + sqrt(beta(t)) dW

whose state at any t is known in one step. With abar(t) = exp(-integral of beta from 0 to t)

    x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps,    eps ~ N(0, 1)

The network eps_theta(x_t, t) learns to say which noise that was, by mean (eps - eps_theta)^2 (Ho et al. 2020,
arXiv:2006.11239). That is all one needs to go back, since the gradient of the log density ("score") of x_t is
s = -E[eps | x_t] / sqrt(1 - abar). There are four ways back on this page, for the same network.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl import nn, random
from minidl.autograd import no_grad
from minidl.tensors import wrap

__all__ = ["CosineSchedule", "Diffusion", "LinearSchedule"]

END = 1e-3  # where the differential equations stop: at t = 0 the score of data on a thin set is infinite


class LinearSchedule:
    """beta(t) = low + (high - low) t. With N steps beta / N is what DDPM takes: 0.0001 ... 0.02 for N = 1000."""

    def __init__(self, low: float = 0.1, high: float = 20.0) -> None:
        self.low, self.high = low, high

    def beta(self, t: Any) -> Any:
        return self.low + (self.high - self.low) * t

    def abar(self, t: Any) -> Any:
        return np.exp(-self.low * t - (self.high - self.low) * t**2 / 2)


class CosineSchedule:
    """abar(t) = cos^2 a(t) / cos^2 a(0), a(t) = (end t + s) / (1 + s) pi / 2.

    Nichol & Dhariwal 2021 (arXiv:2102.09672). Noise comes more slowly than with the linear one at both ends. `end` < 1
    leaves a trace of the data, sqrt(abar(1)) = 0.016, so that beta = -d log abar / dt stays finite.
    """

    def __init__(self, s: float = 0.008, end: float = 0.99) -> None:
        self.s, self.rate = s, end * math.pi / 2 / (1 + s)

    def _angle(self, t: Any) -> Any:
        return self.rate * t + self.s / (1 + self.s) * math.pi / 2

    def beta(self, t: Any) -> Any:
        return 2 * self.rate * np.tan(self._angle(t))

    def abar(self, t: Any) -> Any:
        return (np.cos(self._angle(t)) / np.cos(self._angle(0.0))) ** 2


SCHEDULES = {"linear": LinearSchedule, "cosine": CosineSchedule}


class Diffusion(nn.Module):
    """A network eps_theta with its schedule: the loss to train it by, and four ways to sample.

    Args:
        net: `net(x (N, ...), 1000 t (N,))` -> the noise (N, ...), such as `UNet`.
        schedule: "linear", "cosine", or an object with `beta(t)` and `abar(t)` of arrays.
        limit: data lie in -limit ... limit, and so does every guess of x_0 (ddpm and ddim); None: no bounds.

    The samplers start from x_1 ~ N(0, 1) unless given, draw from minidl's generator, and return x_0 (N, ...).
    """

    def __init__(self, net: nn.Module, schedule: Any = "cosine", limit: float | None = None) -> None:
        super().__init__()
        if isinstance(schedule, str) and schedule not in SCHEDULES:
            raise ValueError(f"Diffusion: schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
        self.net, self.limit = net, limit
        self.schedule: Any = SCHEDULES[schedule]() if isinstance(schedule, str) else schedule

    def noisy(self, x: np.ndarray, t: np.ndarray, eps: np.ndarray) -> np.ndarray:
        """x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps.    x, eps: N, ...; t: N"""
        abar = self.schedule.abar(t).reshape(-1, *[1] * (x.ndim - 1))
        return (np.sqrt(abar) * x + np.sqrt(1 - abar) * eps).astype(x.dtype)

    def forward(self, x: Any) -> Any:
        """Data (N, ...) -> how far the network's guess is from the noise, (N, ...), at a random time for each item.

        The loss is the mean of its squares.
        """
        t = random.uniform(len(x), dtype=np.float64)
        eps = random.normal(tuple(x.shape), dtype=x.array.dtype)
        return self.net(wrap(self.noisy(x.array, t, eps)), wrap((1000 * t).astype(x.array.dtype))) - wrap(eps)

    def eps(self, x: np.ndarray, t: float) -> np.ndarray:
        """The noise that the network sees in x_t."""
        with no_grad():
            return self.net(wrap(x), wrap(np.full(len(x), 1000 * t, x.dtype))).array

    def score(self, x: np.ndarray, t: float) -> np.ndarray:
        """The gradient of log p_t at x."""
        return self.eps(x, t) * (-1 / math.sqrt(1 - self.schedule.abar(t)))

    # -- in steps -----------------------------------------------------------------------------------------------------

    def ddpm(self, shape: Any = None, steps: int = 200, x: np.ndarray | None = None) -> np.ndarray:
        """Step by step from q(x_s | x_t, x_0) with x_0 as guessed (Ho et al. 2020, equations 6 and 7):

        mean  sqrt(abar_s) beta / (1 - abar_t) x_0 + sqrt(alpha) (1 - abar_s) / (1 - abar_t) x_t
        variance  beta (1 - abar_s) / (1 - abar_t),    alpha = abar_t / abar_s, beta = 1 - alpha
        """
        x = self._start(shape, x)
        for t, s in _steps(steps):
            a, b = float(self.schedule.abar(t)), float(self.schedule.abar(s))
            x0, _ = self._guess(x, t)
            alpha = a / b
            mean = math.sqrt(b) * (1 - alpha) / (1 - a) * x0 + math.sqrt(alpha) * (1 - b) / (1 - a) * x
            x = _draw(mean, math.sqrt((1 - alpha) * (1 - b) / (1 - a)))
        return x

    def ddim(self, shape: Any = None, steps: int = 50, eta: float = 0.0, x: np.ndarray | None = None) -> np.ndarray:
        """x_s = sqrt(abar_s) x_0 + sqrt(1 - abar_s - sigma^2) eps + sigma z, (x_0, eps) as guessed (Song et al. 2020,
        arXiv:2010.02502).

        sigma = eta times the deviation of ddpm's step: 0 draws nothing, so that x_1 decides, and takes few steps; with
        1 it is ddpm.
        """
        x = self._start(shape, x)
        for t, s in _steps(steps):
            a, b = float(self.schedule.abar(t)), float(self.schedule.abar(s))
            x0, eps = self._guess(x, t)
            sigma = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
            x = _draw(math.sqrt(b) * x0 + math.sqrt(max(0.0, 1 - b - sigma**2)) * eps, sigma)
        return x

    def _guess(self, x: np.ndarray, t: float) -> tuple[np.ndarray, np.ndarray]:
        """x_0 and eps, as far as x_t tells."""
        signal, noise = math.sqrt(self.schedule.abar(t)), math.sqrt(1 - self.schedule.abar(t))
        eps = self.eps(x, t)
        x0 = (x - noise * eps) / signal
        if self.limit is not None:
            x0 = np.clip(x0, -self.limit, self.limit)
            eps = (x - signal * x0) / noise
        return x0, eps

    # -- by differential equations ------------------------------------------------------------------------------------

    def sde(self, shape: Any = None, steps: int = 500, x: np.ndarray | None = None) -> np.ndarray:
        """The forward equation run backwards (Anderson 1982, doi 10.1016/0304-4149(82)90051-5), by Euler-Maruyama:

        dx = (-1/2 beta x - beta s) dt + sqrt(beta) dW,    dt < 0
        """
        x = self._start(shape, x)
        for t, s in _steps(steps, END):
            beta, dt = float(self.schedule.beta(t)), t - s
            x = _draw(x + (x / 2 + self.score(x, t)) * (beta * dt), math.sqrt(beta * dt))
        return x

    def ode(self, shape: Any = None, steps: int = 50, x: np.ndarray | None = None) -> np.ndarray:
        """The flow without noise that has the same distribution at every t (Song et al. 2021, section 4.3), by Heun:

        dx/dt = -1/2 beta (x + s)
        """
        x = self._start(shape, x)
        slope = lambda x, t: (x + self.score(x, t)) * float(-self.schedule.beta(t) / 2)
        for t, s in _steps(steps, END):
            first = slope(x, t)
            second = slope(x + (s - t) * first, s)
            x = x + (s - t) / 2 * (first + second)
        return x

    def forward_sde(self, x: np.ndarray, t: float, steps: int = 500) -> np.ndarray:
        """x_t by Euler-Maruyama from x_0: what `noisy` says in one step."""
        dt = t / steps
        for i in range(steps):
            beta = float(self.schedule.beta(i * dt))
            x = _draw(x * (1 - beta * dt / 2), math.sqrt(beta * dt))
        return x

    def _start(self, shape: Any, x: np.ndarray | None) -> np.ndarray:
        if x is not None:
            return np.asarray(x)
        return random.normal(tuple(shape), dtype=next((p.array.dtype for p in self.parameters()), np.float32))


def _steps(steps: int, end: float = 0.0) -> Iterator[tuple[float, float]]:
    """(t, s) of each step from 1 down to `end`."""
    times = np.linspace(1, end, steps + 1).tolist()
    return itertools.pairwise(times)


def _draw(mean: np.ndarray, deviation: float) -> np.ndarray:
    """N(mean, deviation^2); nothing is drawn for 0."""
    return mean if deviation == 0 else mean + deviation * random.normal(mean.shape, dtype=mean.dtype)
