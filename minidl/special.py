"""torch.special's names: functions that minidl has elsewhere under older ones, and a few more of probability."""

from __future__ import annotations

import math
from typing import Any

from minidl.ops.angles import sinc
from minidl.ops.arithmetic import mul
from minidl.ops.bessel import i0, i0e, i1, i1e
from minidl.ops.error_function import erf, erfc, erfinv
from minidl.ops.exponentials import exp2, expm1, log1p
from minidl.ops.exponentials import sigmoid as expit
from minidl.ops.gamma import digamma, mvlgamma, polygamma
from minidl.ops.gamma import lgamma as gammaln
from minidl.ops.incomplete_gamma import igamma as gammainc
from minidl.ops.incomplete_gamma import igammac as gammaincc
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


def log_ndtr(input: Any) -> Any:
    """The logarithm of ndtr, exact where that is too small for a float: by Mills' ratio below -6."""
    from minidl.ops.exponentials import log
    from minidl.ops.masks import where

    far = input < -6.0
    z = where(far, input, -6.0)
    square = 1.0 / (z * z)
    ratio = 1.0 - square * (1 - 3 * square * (1 - 5 * square * (1 - 7 * square * (1 - 9 * square * (1 - 11 * square)))))
    tail = -0.5 * z * z - log(-z) - 0.5 * math.log(2 * math.pi) + log(ratio)
    return where(far, tail, log(ndtr(where(far, -6.0, input))))


def xlog1py(input: Any, other: Any) -> Any:
    """input log(1 + other), 0 where input is 0 unless other is NaN."""
    from minidl.ops.masks import where

    zero = input == 0
    safe = where(zero & (other <= -1), 0.0, other) if hasattr(zero, "dtype") else other
    return mul(input, log1p(safe))


def entr(input: Any) -> Any:
    """-x log x, 0 at 0, -inf below."""
    from minidl.ops.masks import where

    return where(input < 0, -math.inf, -xlogy(input, input))


__all__ = [
    "digamma", "entr", "erf", "erfc", "erfinv", "exp2", "expit", "expm1", "gammainc", "gammaincc", "gammaln",
    "i0", "i0e", "i1", "i1e", "log1p", "log_softmax", "logit",
    "logsumexp", "multigammaln", "ndtr", "ndtri", "polygamma", "psi", "round", "sinc", "softmax", "xlogy",
]  # fmt: skip
