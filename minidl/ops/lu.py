"""LU: a matrix as P L U, rows permuted, times unit lower, times upper triangular; and systems solved by it.

Gaussian elimination with the greatest pivot of each column (Golub & Van Loan, "Matrix Computations", alg. 3.4.1), all
matrices of a stack at once.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, op, require
from minidl.autograd.out import takes_out
from minidl.ops.diagonals import tril, triu
from minidl.ops.factorizations import LinAlgError, _matrices, inverse, lower_cholesky, mT, solve, solve_triangular
from minidl.ops.joining import cat
from minidl.ops.linalg import matmul
from minidl.ops.logic import like, raw
from minidl.ops.reduce import named

_LU = named("linalg_lu", "P", "L", "U")
_Factor = named("linalg_lu_factor", "LU", "pivots")
_FactorInfo = named("linalg_lu_factor_ex", "LU", "pivots", "info")


def _eliminate(a: np.ndarray, pivot: bool) -> tuple[np.ndarray, np.ndarray]:
    """L (below the diagonal) and U in one matrix, and the row exchanged with the k-th at step k."""
    xp = devices.array_module(a)
    lu = xp.array(a, order="C").reshape(math.prod(a.shape[:-2]), *a.shape[-2:])
    stack, k = xp.arange(len(lu)), min(a.shape[-2:])
    rows = xp.tile(xp.arange(k), (len(lu), 1))
    for i in range(k):
        if pivot:
            rows[:, i] = i + np.argmax(np.abs(lu[:, i:, i]), 1)
            lu[stack, i], lu[stack, rows[:, i]] = lu[stack, rows[:, i]], lu[stack, i].copy()
        with np.errstate(all="ignore"):
            below = np.where(lu[:, i, i, None] == 0, 0 if pivot else np.nan, lu[:, i + 1 :, i] / lu[:, i, i, None])
        lu[:, i + 1 :, i] = np.where(lu[:, i + 1 :, i] == 0, 0, below)
        lu[:, i + 1 :, i + 1 :] -= lu[:, i + 1 :, i, None] * lu[:, i, None, i + 1 :]
    return lu.reshape(a.shape), rows.reshape(*a.shape[:-2], k)


def _permutation(rows: np.ndarray, m: int, dtype: Any) -> np.ndarray:
    """P with A = P L U, from the exchanges."""
    xp = devices.array_module(rows)
    stack = xp.arange(math.prod(rows.shape[:-1]))
    p = xp.tile(xp.eye(m, dtype=dtype), (len(stack), 1, 1))
    for i, r in enumerate(rows.reshape(len(stack), rows.shape[-1]).T):
        p[stack, :, i], p[stack, :, r] = p[stack, :, r], p[stack, :, i].copy()
    return p.reshape(*rows.shape[:-1], m, m)


@op()
class packed_lu(Op):
    """L - 1 + U in one matrix, and the exchanges of rows, int32 from 1 on, of A = P L U.    (..., M, N) -> (..., M, N)

    dA = P L^-T (tril(L^T dL, -1) + triu(dU U^T)) U^-T, for square A; others are put together of a square one.

    Why: L^-1 P^T dA U^-1 = L^-1 dL + dU U^-1: the first is strictly lower, the second upper triangular.
    Try: packed_lu(randn(3, 3) + 3 * eye(3))
    """

    def forward(ctx, a: Any, pivot: bool = True) -> Any:
        lu, rows = _eliminate(a, pivot)
        ctx.p = _permutation(rows, a.shape[-2], a.dtype)
        ctx.save(lu)
        return lu, (rows + 1).astype(np.int32)

    def backward(ctx, dlu: Any, _: Any) -> Any:
        (lu,) = ctx.saved
        one = devices.array_module(raw(lu)).eye(lu.shape[-1], dtype=dtypes.as_numpy(lu.dtype))
        lower, upper = tril(lu, -1) + one, triu(lu)
        inner = tril(matmul(mT(lower), tril(dlu, -1)), -1) + triu(matmul(triu(dlu), mT(upper)))
        right = solve_triangular(mT(upper), inner, upper=False, left=False)  # inner U^-T
        return matmul(ctx.p, solve_triangular(mT(lower), right, upper=True, unitriangular=True))


@takes_out
def lu_factor(A: Any, *, pivot: bool = True) -> Any:
    """(LU, pivots): L without its unit diagonal and U in one matrix, and which rows were exchanged, int32 from 1 on.

    Raises LinAlgError where a pivot is zero.
    """
    return _Factor(*lu_factor_ex(A, pivot=pivot, check_errors=True)[:2])


def _oblong(A: Any, pivots: Any) -> Any:
    """The factors of a matrix that is not square, out of those of its square part, whose gradient is known."""
    m, n = A.shape[-2:]
    k = min(m, n)
    pa = matmul(mT(_permutation(raw(pivots).astype(np.int64) - 1, m, dtypes.as_numpy(A.dtype))), A)
    factors = packed_lu(pa[..., :k, :k], False)[0]
    if n > k:
        return cat([factors, solve_triangular(factors, pa[..., k:], upper=False, unitriangular=True)], -1)
    return cat([factors, solve_triangular(factors, pa[..., k:, :], upper=True, left=False)], -2)


@takes_out
def lu_factor_ex(A: Any, *, pivot: bool = True, check_errors: bool = False) -> Any:
    """(LU, pivots, info): as lu_factor; of a singular matrix the first row without a pivot, LinAlgError with
    `check_errors`.
    """
    _matrices("linalg.lu_factor", A)
    factors, pivots = packed_lu(A, pivot)
    if getattr(factors, "requires_grad", False) and A.shape[-1] != A.shape[-2]:
        factors = _oblong(A, pivots)
    zero = raw(factors).diagonal(0, -2, -1) == 0
    info = np.where(zero.any(-1), zero.argmax(-1) + 1, 0).astype(np.int32) if zero.shape[-1] else zero.sum(-1, np.int32)
    if check_errors and info.any():
        k = int(info.max())
        raise LinAlgError(f"linalg.lu_factor: U[{k},{k}] is zero: lu_solve would divide by it; see linalg.lu")
    return _FactorInfo(factors, pivots, like(A, np.asarray(info)))


def _ones_below(lu: Any, m: int, k: int) -> Any:
    return tril(lu[..., :, :k], -1) + devices.array_module(raw(lu)).eye(m, k, dtype=dtypes.as_numpy(lu.dtype))


@takes_out
def lu(A: Any, *, pivot: bool = True) -> Any:
    """(P, L, U) with A = P L U: P (..., M, M) a permutation, L (..., M, K) unit lower, U (..., K, N) upper triangular.

    K = min(M, N). Without `pivot` P has no elements.
    """
    factors, pivots = lu_factor_ex(A, pivot=pivot)[:2]
    m, n = A.shape[-2:]
    k = min(m, n)
    kind = dtypes.as_numpy(A.dtype)
    p = _permutation(raw(pivots).astype(np.int64) - 1, m, kind) if pivot else np.zeros(0, kind)
    return _LU(like(A, p), _ones_below(factors, m, k), triu(factors[..., :k, :]))


@takes_out
def lu_solve(LU: Any, pivots: Any, B: Any, *, left: bool = True, adjoint: bool = False) -> Any:
    """The X of A X = B (X A = B without `left`, A^T for A with `adjoint`), given lu_factor(A).    B (..., M, K)"""
    n = LU.shape[-1]
    require(LU.shape[-2] == n, "linalg.lu_solve: square matrices are expected, got {}", tuple(LU.shape))
    if not left:
        return mT(lu_solve(LU, pivots, mT(B), adjoint=not adjoint))
    p = _permutation(raw(pivots).astype(np.int64) - 1, n, dtypes.as_numpy(LU.dtype))
    if adjoint:
        y = solve_triangular(mT(LU), B, upper=False)
        return matmul(p, solve_triangular(mT(LU), y, upper=True, unitriangular=True))
    y = solve_triangular(LU, matmul(mT(p), B), upper=False, unitriangular=True)
    return solve_triangular(LU, y, upper=True)


# -- the same with a report instead of an error -----------------------------------------------------------------------


def _reported(name: str, fields: tuple[str, ...], f: Any, A: Any, *args: Any, check_errors: bool) -> Any:
    """f(A, ...) and what went wrong, int32 for each matrix: 0 nothing, else from 1 on the first row that has no pivot;
    the result then holds NaN."""
    _matrices(name, A, square=True)
    result = named(name.replace(".", "_"), *fields)
    try:
        return result(f(A, *args), like(A, np.zeros(tuple(A.shape[:-2]), np.int32)))
    except LinAlgError:
        if check_errors:
            raise
    info = np.zeros(tuple(A.shape[:-2]), np.int32)
    a = raw(A)
    for i in np.ndindex(info.shape):
        info[i] = _first_fault(a[i], f is lower_cholesky)
    wide = info.reshape((*info.shape, 1, 1)) != 0
    y = f(A * ~wide + wide * np.eye(A.shape[-1], dtype=a.dtype), *args)
    return result(y + like(A, np.where(wide, np.nan, 0).astype(a.dtype)), like(A, info))


def _first_fault(a: np.ndarray, definite: bool) -> int:
    """From 1 on the first row at which the matrix turns out to be singular, or not positive-definite; 0: it is not."""
    n = len(a)
    if not definite:
        pivots = np.diagonal(_eliminate(a, True)[0])
        return 0 if (pivots != 0).all() else int(np.argmax(pivots == 0)) + 1
    for k in range(1, n + 1):
        try:
            np.linalg.cholesky(a[:k, :k])
        except np.linalg.LinAlgError:
            return k
    return 0


@takes_out
def inv_ex(A: Any, *, check_errors: bool = False) -> Any:
    """(inverse, info): of a singular matrix NaN and the first row without a pivot; LinAlgError with `check_errors`."""
    return _reported("linalg.inv_ex", ("inverse", "info"), inverse, A, check_errors=check_errors)


@takes_out
def cholesky_ex(A: Any, *, upper: bool = False, check_errors: bool = False) -> Any:
    """(L, info): NaN and the first row that makes a matrix not positive-definite; LinAlgError with `check_errors`."""
    found = _reported("linalg.cholesky_ex", ("L", "info"), lower_cholesky, A, check_errors=check_errors)
    return found._replace(L=mT(found.L)) if upper else found


@takes_out
def solve_ex(A: Any, B: Any, *, left: bool = True, check_errors: bool = False) -> Any:
    """(result, info): as solve; for a singular A NaN and its first row without a pivot, or with `check_errors`
    LinAlgError.
    """
    f = lambda a, *b: solve(a, b[0], left=left)
    return _reported("linalg.solve_ex", ("result", "info"), f, A, B, check_errors=check_errors)
