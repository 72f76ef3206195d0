"""torch.special's names: functions that minidl has elsewhere under older ones, and a few more of probability."""

from __future__ import annotations

import math
from typing import Any

from minidl.ops.angles import sinc
from minidl.ops.arithmetic import mul
from minidl.ops.error_function import erf, erfc, erfinv
from minidl.ops.exponentials import exp2, expm1, log1p
from minidl.ops.exponentials import sigmoid as expit
from minidl.ops.gamma import digamma, mvlgamma, polygamma
from minidl.ops.gamma import lgamma as gammaln
from minidl.ops.log_odds import logit, xlogy
from minidl.ops.rounding import round
from minidl.ops.softmax import log_softmax, logsumexp, softmax

psi, multigammaln = digamma, mvlgamma


def ndtr(input: Any) -> Any:
    """The chance that a standard normal number is below input: erfc(-x / sqrt 2) / 2."""
    return mul(erfc(input * -math.sqrt(0.5)), 0.5)


def ndtri(input: Any) -> Any:
    """The number below which a standard normal one is with that chance: sqrt 2 erfinv(2 p - 1)."""
    return mul(erfinv(input * 2.0 - 1.0), math.sqrt(2.0))


def entr(input: Any) -> Any:
    """-x log x, 0 at 0, -inf below."""
    from minidl.ops.masks import where

    return where(input < 0, -math.inf, -xlogy(input, input))


__all__ = [
    "digamma", "entr", "erf", "erfc", "erfinv", "exp2", "expit", "expm1", "gammaln", "log1p", "log_softmax", "logit",
    "logsumexp", "multigammaln", "ndtr", "ndtri", "polygamma", "psi", "round", "sinc", "softmax", "xlogy",
]  # fmt: skip
