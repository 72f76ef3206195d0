"""Cases of the table of ops: inverses, determinants, factors and powers of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from cases import Const, S, case, normal

import minidl
import minidl.linalg
from minidl.autograd import TABLE


def regular(*lead: int, n: int = 3) -> np.ndarray:
    """Far from singular: 3 on the diagonal, the rest below 0.5."""
    return normal(*lead, n, n).clip(-1.5, 1.5) / 3 + 3 * np.eye(n)


def library_of(x: Any) -> Any:
    return torch if isinstance(x, torch.Tensor) else minidl


def symmetric(f: Any) -> Any:
    """f of x + x^T: the triangle that a function does not look at matters again."""
    return lambda x, *args: f(x + x.mT, *args)


def definite(f: Any) -> Any:
    """f of a positive-definite matrix made of x."""

    def g(x: Any, *args: Any) -> Any:
        one = library_of(x).eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return f(x @ x.mT + one, *args)

    return g


SQUARES = [S(regular()), S(regular(2)), S(regular(n=1)), S(regular(2, n=2)), S(regular(0))]
for name in ("det", "inverse", "matrix_exp", "slogdet", "logdet"):
    case(name, *SQUARES)
case("sign_and_log", *SQUARES[:2], theirs=torch.slogdet)
case(
    "solve_matrices",
    S(regular(), normal(3, 2)),
    S(regular(2), normal(3, 2)),
    S(regular(), normal(2, 3, 1)),
    S(Const(regular()), normal(3, 0)),
    theirs=lambda a, b: torch.linalg.solve(a, b) if b.shape[-1] else a @ b,
)
case(
    "pseudo_inverse",
    S(normal(3, 2), 0.0, 1e-5),
    S(normal(2, 2, 3), 0.0, 1e-5),
    theirs=lambda x, atol, rtol: torch.linalg.pinv(x, atol=atol, rtol=rtol),
)
case("pinverse", S(regular()), S(normal(2, 3)), S(normal(2, 3, 2)))
case("lower_cholesky", S(regular()), S(regular(2)), ours=definite(TABLE["lower_cholesky"]),
     theirs=definite(torch.linalg.cholesky))  # fmt: skip
case("cholesky", S(regular()), S(regular(2), True), ours=definite(minidl.cholesky), theirs=definite(
    lambda x, upper=False: torch.linalg.cholesky(x, upper=upper)))  # fmt: skip


def triangular(library: Any) -> Any:
    """A factor with zeros where it is not looked at: torch gives those places a gradient too."""
    return lambda b, x, upper=False: library.cholesky_solve(b, x.triu() if upper else x.tril(), upper)


case(
    "cholesky_solve",
    S(normal(3, 2), regular()),
    S(normal(2, 3, 1), regular(2), True),
    S(normal(3, 2), regular(2)),
    ours=triangular(minidl),
    theirs=triangular(torch),
)
OBLONG = np.concatenate([regular(2, n=2), normal(2, 2, 2)], -1)  # its square part must be far from singular
case("reduced_qr", S(regular()), S(normal(4, 2)), S(OBLONG), theirs=torch.linalg.qr)
case("complete_qr", S(normal(4, 2), "complete"), S(normal(2, 3), "r"), smooth=False, theirs=torch.linalg.qr)
case("qr", S(normal(4, 2)), S(regular(), False), theirs=lambda x, some=True: torch.linalg.qr(
    x, "reduced" if some else "complete"))  # fmt: skip


def projectors(eigen: Any) -> Any:
    """The eigenvalues, and squares of the eigenvectors, whose signs are free."""

    def f(x: Any, uplo: str = "L") -> Any:
        l, v = eigen(x + x.mT, uplo)
        return l, v * v

    return f


SPREAD = [S(normal(3, 3) + np.diag([0.0, 4.0, 9.0])), S(normal(2, 2, 2) + np.diag([0.0, 5.0]), "U")]
case("symmetric_eigen", *SPREAD, ours=projectors(TABLE["symmetric_eigen"]), theirs=projectors(torch.linalg.eigh))
case(
    "matrix_power",
    *[S(regular(2), n) for n in (0, 1, 2, 5, -1, -2)],
    S(regular(), 3),
)


def _packed(x: Any, pivot: bool = True) -> Any:
    if isinstance(x, torch.Tensor):
        return torch.linalg.lu_factor(x)
    return TABLE["packed_lu"](x, pivot)


case(
    "packed_lu",
    S(regular()),
    S(regular(2)),
    S(regular()[[2, 0, 1]]),
    S(Const(normal(2, 4, 3))),
    S(Const(normal(2, 3))),
    ours=_packed,
    theirs=_packed,
)
