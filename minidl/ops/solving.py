"""More of linear algebra: least squares, ranks and condition numbers, inverses and solutions of stacks of axes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import require
from minidl.autograd.out import takes_out
from minidl.ops.axes import movedim
from minidl.ops.diagonals import diagonal
from minidl.ops.distances import matrix_norm, singular_values
from minidl.ops.factorizations import LinAlgError, _matrices, eigvalsh, inv, pinv, solve
from minidl.ops.linalg import matmul
from minidl.ops.logic import like, raw
from minidl.ops.reduce import named, sum
from minidl.ops.shapes import reshape, unsqueeze
from minidl.ops.signs import abs
from minidl.ops.statistics import vander as vandermonde

_Solution = named("linalg_lstsq", "solution", "residuals", "rank", "singular_values")


def linalg_diagonal(A: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """The diagonals of matrices, a view: :func:`minidl.diagonal` with the last two dimensions."""
    return diagonal(A, offset, dim1, dim2)


@takes_out
def cond(A: Any, p: Any = None) -> Any:
    """The condition number, |A| |A^-1| in the p-norm; for None, 2 and -2 the ratio of extreme singular values.

    p is as in :func:`matrix_norm`. A singular matrix has an infinite one.
    """
    require(len(A.shape) >= 2, "linalg.cond: at least 2 dimensions are expected, got {}", tuple(A.shape))
    if p in (None, 2, -2):
        _matrices("linalg.cond", A)
        s = singular_values(A)
        return s[..., 0] / s[..., -1] if p != -2 else s[..., -1] / s[..., 0]
    _matrices("linalg.cond", A, square=True)
    try:
        return matrix_norm(A, p) * matrix_norm(inv(A), p)
    except LinAlgError:
        return like(A, np.full(tuple(A.shape[:-2]), math.inf, dtypes.as_numpy(A.dtype)))


@takes_out
def matrix_rank(A: Any, tol: Any = None, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    """How many singular values exceed max(atol, rtol s_max), int64; rtol is max(M, N) eps where neither is given."""
    _matrices("linalg.matrix_rank", A, square=hermitian)
    s = raw(abs(eigvalsh(A)) if hermitian else singular_values(A))
    if tol is not None:
        atol, rtol = tol, 0.0
    if rtol is None:
        rtol = 0.0 if atol is not None and np.all(raw(atol) > 0) else max(A.shape[-2:]) * np.finfo(s.dtype).eps
    atol = 0.0 if atol is None else atol
    greatest = s.max(-1) if s.shape[-1] else np.zeros(s.shape[:-1], s.dtype)
    bound = np.maximum(raw(atol), raw(rtol) * greatest)
    return like(A, np.asarray((s > bound[..., None]).sum(-1), np.int64))


def lstsq(A: Any, B: Any, rcond: float | None = None, *, driver: str | None = None) -> Any:
    """(solution, residuals, rank, singular_values): the X of least |A X - B|, A (..., M, N), B (..., M, K).

    Computed as pinv(A) B and differentiable through it, whatever the driver. Which of the others are given, and not
    empty, goes by it, as in torch: residuals, |A X - B|^2 for M > N, for "gels", "gelsd" and "gelss"; the rank for all
    but "gels"; the singular values for "gelsd" and "gelss". Raises RuntimeError for shapes that do not fit.
    """
    _matrices("linalg.lstsq", A)
    require(driver in (None, "gels", "gelsy", "gelsd", "gelss"), "linalg.lstsq: unknown driver {}", driver)
    vector = len(B.shape) == len(A.shape) - 1 and tuple(B.shape) == tuple(A.shape[:-1])
    b = unsqueeze(B, -1) if vector else B
    require(
        len(b.shape) >= 2 and b.shape[-2] == A.shape[-2],
        "linalg.lstsq: input.size(-2) should match other.size(-2), got {} and {}",
        tuple(A.shape),
        tuple(B.shape),
    )
    m, n = A.shape[-2:]
    kind = dtypes.as_numpy(A.dtype)
    x = matmul(pinv(A, rtol=np.finfo(kind).eps * max(m, n) if rcond is None else rcond), b)
    s = singular_values(A.detach() if hasattr(A, "detach") else A)
    rank = raw(matrix_rank(A))
    empty = like(A, np.zeros(0, kind))
    residuals = reshape(x, (-1,))[:0]
    if m > n and (rank == n).all() and driver not in (None, "gelsy"):
        off = matmul(A, x) - b
        residuals = sum(off * off, -2)
    return _Solution(
        x[..., 0] if vector else x,
        residuals,
        like(A, rank if driver != "gels" else np.zeros(0, np.int64)),
        s if driver in ("gelsd", "gelss") else empty,
    )


@takes_out
def tensorinv(A: Any, ind: int = 2) -> Any:
    """The inverse of A as a map from its last axes to its first `ind` axes: tensordot(tensorinv(A), A, ind) is 1."""
    require(ind > 0, "Expected a strictly positive integer for 'ind', got {}", ind)
    first, last = tuple(A.shape[:ind]), tuple(A.shape[ind:])
    n = math.prod(last)
    require(math.prod(first) == n, "linalg.tensorinv: products of the sizes {} and {} must be equal", first, last)
    return reshape(inv(reshape(A, (n, n))), (*last, *first))


@takes_out
def tensorsolve(A: Any, B: Any, dims: Any = None) -> Any:
    """X with tensordot(A, X, X.ndim) = B; `dims` of A are moved to its end first."""
    if dims is not None:
        A = movedim(A, tuple(dims), tuple(range(len(A.shape) - len(dims), len(A.shape))))
    rest = tuple(A.shape[len(B.shape) :])
    n = math.prod(rest)
    require(
        math.prod(B.shape) == n, "linalg.tensorsolve: A {} has no square form for B {}", tuple(A.shape), tuple(B.shape)
    )
    return reshape(solve(reshape(A, (-1, n)), reshape(B, (-1,))), rest)


def linalg_vander(x: Any, *, N: int | None = None) -> Any:
    """Rows of rising powers, x (..., K) -> (..., K, N), N is K by default."""
    require(len(x.shape) > 0 or N is not None, "linalg.vander: a dimension or N is expected")
    n = x.shape[-1] if N is None else N
    require(n > 1, "N must be greater than 1, got {}", n)
    return reshape(vandermonde(reshape(x, (-1,)), n, True), (*(x.shape or (1,)), n))
