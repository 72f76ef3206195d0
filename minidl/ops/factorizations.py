"""Inverses, determinants and factors of matrices, by LAPACK through NumPy: inv, det, solve, cholesky, qr, eigh ...

All take stacks of matrices, (..., M, N), in float32 or float64. Gradients: M. Giles, "An extended collection of matrix
derivative results for forward and reverse mode algorithmic differentiation" (2008), unless said otherwise.
"""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, op, require
from minidl.autograd.out import takes_out
from minidl.ops.axes import transpose
from minidl.ops.common import broadcast, unbroadcast
from minidl.ops.copies import clone
from minidl.ops.diagonals import diag_embed, tril, triu
from minidl.ops.joining import cat
from minidl.ops.linalg import matmul
from minidl.ops.logic import raw
from minidl.ops.masks import where
from minidl.ops.shapes import unsqueeze
from minidl.tensors import Tensor


class LinAlgError(RuntimeError, np.linalg.LinAlgError):
    """A matrix has no inverse or no such factors. RuntimeError as in torch, LinAlgError as in NumPy."""


SignLog = namedtuple("SignLog", ["sign", "logabsdet"])
QR = namedtuple("QR", ["Q", "R"])
Eigen = namedtuple("Eigen", ["eigenvalues", "eigenvectors"])


def mT(x: Any) -> Any:
    """The transposes of the matrices in x."""
    return transpose(x, -2, -1)


def _matrices(name: str, a: Any, square: bool = False) -> None:
    """Raise RuntimeError unless a holds float32 or float64 matrices, square ones if so said."""
    dtype = dtypes.as_numpy(a.dtype)
    if dtype not in (np.float32, np.float64):
        raise RuntimeError(f"{name}: float32 or float64 is expected, got {dtype}; convert with .float()")
    require(len(a.shape) >= 2, "{}: at least 2 dimensions are expected, got {}", name, tuple(a.shape))
    if square:
        require(a.shape[-1] == a.shape[-2], "{}: square matrices are expected, got {}", name, tuple(a.shape))


def _run(function: Any, *args: Any) -> Any:
    """A function of np.linalg, its LinAlgError as minidl's; NaN and Inf without a warning."""
    try:
        with np.errstate(all="ignore"):
            return function(*args)
    except np.linalg.LinAlgError as error:
        raise LinAlgError(f"{error} (the input may be singular, not positive-definite, or not finite)") from None


# -- inverses and systems ---------------------------------------------------------------------------------------------


@op(method="inverse")
class inverse(Op):
    """Y = A^-1;    dA = -Y^T dY Y^T.    Raises LinAlgError for a singular A

    Why: A Y = 1, so dA Y + A dY = 0: dY = -Y dA Y, whose transpose takes dY to -Y^T dY Y^T.
    Try: inverse(randn(3, 3) + 3 * eye(3))
    """

    def forward(ctx, x: Any) -> Any:
        _matrices("inverse", x, True)
        y = _run(np.linalg.inv, x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        return -matmul(mT(y), matmul(dy, mT(y)))


@takes_out
def inv(A: Any) -> Any:
    """The inverses of square matrices (..., N, N). Raises LinAlgError for a singular one."""
    return inverse(A)


@op()
class solve_matrices(Op):
    """X with A X = B;    dB = A^-T dX,  dA = -dB X^T.    a (..., N, N), b (..., N, K), leading axes broadcast

    Why: A X = B, so dA X + A dX = dB: dX = A^-1 (dB - dA X); transpose that.
    Try: solve_matrices(randn(3, 3) + 3 * eye(3), randn(3, 2))
    """

    def forward(ctx, a: Any, b: Any) -> Any:
        lead = broadcast(a.shape[:-2], b.shape[:-2])
        wide = np.broadcast_to(b, (*lead, *b.shape[-2:]))
        x = _run(np.linalg.solve, np.broadcast_to(a, (*lead, *a.shape[-2:])), wide)
        ctx.save(a, x)
        ctx.shapes = a.shape, b.shape
        return x

    def backward(ctx, dx: Any) -> Any:
        a, x = ctx.saved
        db = solve_matrices(mT(a), dx)
        return ctx.wanted(
            lambda: unbroadcast(-matmul(db, mT(x)), ctx.shapes[0]), lambda: unbroadcast(db, ctx.shapes[1])
        )


@takes_out
def solve(A: Any, B: Any, *, left: bool = True) -> Any:
    """X with A X = B, or X A = B where `left` is False. A (..., N, N), B (..., N, K) or vectors (..., N).

    B holds vectors if it is one, or if its shape is A's without the last dimension. Raises LinAlgError for a singular
    A, RuntimeError where sizes or dtypes do not fit.
    """
    _matrices("linalg.solve", A, True)
    if dtypes.as_numpy(A.dtype) != dtypes.as_numpy(B.dtype):
        raise RuntimeError(f"linalg.solve: A is {A.dtype} and B is {B.dtype}: they must be the same")
    shape = tuple(B.shape)
    vector = len(shape) == 1 or (len(A.shape) - 1 == len(shape) and shape == tuple(A.shape[:-1]))
    require(len(shape) > 0, "linalg.solve: B must have at least 1 dimension, got {}", shape)
    if vector:
        require(left, "linalg.solve: vectors {} need left=True", shape)
        B = unsqueeze(B, -1)
    at = -2 if left else -1
    require(A.shape[-1] == B.shape[at], "linalg.solve: A {} and B {} do not fit together", tuple(A.shape), shape)
    x = solve_matrices(A, B) if left else mT(solve_matrices(mT(A), mT(B)))
    return x[..., 0] if vector else x


@takes_out
def solve_triangular(A: Any, B: Any, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Any:
    """X with A X = B (X A = B where `left` is False) for a triangular A, of which the other half is not looked at.

    With `unitriangular` the diagonal is taken for ones.
    """
    _matrices("linalg.solve_triangular", A, True)
    _matrices("linalg.solve_triangular", B)
    if dtypes.as_numpy(A.dtype) != dtypes.as_numpy(B.dtype):
        raise RuntimeError(f"linalg.solve_triangular: A is {A.dtype} and B is {B.dtype}: they must be the same")
    require(
        A.shape[-1] == B.shape[-2 if left else -1],
        "linalg.solve_triangular: A {} and B {} do not fit together",
        tuple(A.shape),
        tuple(B.shape),
    )
    cut = triu if upper else tril
    T = cut(A, (1 if upper else -1) if unitriangular else 0)
    if unitriangular:
        T = T + devices.array_module(raw(A)).eye(A.shape[-1], dtype=dtypes.as_numpy(A.dtype))
    return solve_matrices(T, B) if left else mT(solve_matrices(mT(T), mT(B)))


@op()
class pseudo_inverse(Op):
    """P = the Moore-Penrose inverse of A, singular values up to rtol times the greatest, or atol, taken for 0.

    dA = -P^T dP P^T + (1 - A P) dP^T P P^T + P^T P dP^T (1 - P A)    (Golub & Pereyra 1973)

    Why: dP = -P dA P + P P^T dA^T (1 - A P) + (1 - P A) dA^T P^T P (Golub & Pereyra 1973); transpose each term.
    Try: pseudo_inverse(randn(3, 2), 0.0, 1e-05)
    """

    def forward(ctx, x: Any, atol: Any, rtol: Any) -> Any:
        u, s, vt = _run(lambda a: np.linalg.svd(a, full_matrices=False), x)
        keep = s > _threshold(s, atol, rtol)
        root = np.where(keep, 1 / np.where(keep, s, 1), 0).astype(s.dtype)
        y = np.swapaxes(vt, -1, -2) * root[..., None, :] @ np.swapaxes(u, -1, -2)
        ctx.save(x, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        x, p = ctx.saved
        pt, dyt = mT(p), mT(dy)
        a = matmul(matmul(dyt, p), pt)  # dP^T P P^T
        b = matmul(matmul(pt, p), dyt)  # P^T P dP^T
        return -matmul(matmul(pt, dy), pt) + (a - matmul(x, matmul(p, a))) + (b - matmul(matmul(b, p), x))


def _threshold(s: Any, atol: Any, rtol: Any) -> Any:
    """What singular values must be above not to count as 0."""
    xp = devices.array_module(s)
    greatest = s.max(-1, keepdims=True) if s.shape[-1] else xp.zeros((*s.shape[:-1], 1), s.dtype)
    return xp.maximum(xp.asarray(atol)[..., None], xp.asarray(rtol)[..., None] * greatest)


@takes_out
def pinv(A: Any, *, atol: Any = None, rtol: Any = None, hermitian: bool = False) -> Any:
    """The Moore-Penrose inverses (..., N, M) of matrices (..., M, N).

    Singular values up to max(atol, rtol times the greatest) are taken for 0; rtol is max(M, N) eps unless atol is
    given. With `hermitian` only the lower triangle of A is looked at.
    """
    _matrices("linalg.pinv", A, hermitian)
    if rtol is None:
        given = atol is not None and np.any(devices.as_array(atol.array if isinstance(atol, Tensor) else atol) > 0)
        rtol = 0.0 if given else max(A.shape[-2:]) * float(np.finfo(dtypes.as_numpy(A.dtype)).eps)
    atol, rtol = (v.array if isinstance(v, Tensor) else v for v in (0.0 if atol is None else atol, rtol))
    if not hermitian:
        return pseudo_inverse(A, atol, rtol)
    l, v = symmetric_eigen(A)
    size = np.abs(l.array if isinstance(l, Tensor) else l)
    keep = size > _threshold(size, atol, rtol)
    root = where(keep, 1 / where(keep, l, 1.0), 0.0)
    return matmul(v * unsqueeze(root, -2), mT(v))


@op(method="pinverse")
def pinverse(input: Any, rcond: float = 1e-15) -> Any:
    """torch's older name of :func:`minidl.linalg.pinv`, with rtol = rcond.

    Try: pinverse(randn(3, 2))
    """
    return pinv(input, rtol=rcond)


# -- determinants -----------------------------------------------------------------------------------------------------


@op(method="det")
class det(Op):
    """y = det A;    dA = dy cof(A), which is dy y A^-T where A is not singular

    The cofactors come from A = U S V^T as det(U) det(V) U diag(product of the other s) V^T, singular or not. A second
    derivative needs the inverse.

    Why: det A is linear in each entry, with its cofactor as the slope; cof(A) = det(A) A^-T.
    Try: det(randn(3, 3) + 3 * eye(3))
    """

    def forward(ctx, x: Any) -> Any:
        _matrices("linalg.det", x, True)
        y = devices.as_array(_run(np.linalg.det, x))
        ctx.save(x, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        a, y = ctx.saved
        if isinstance(a, Tensor):
            return unsqueeze(unsqueeze(dy * y, -1), -1) * mT(inverse(a))
        return dy[..., None, None] * _cofactors(a)


@takes_out
def linalg_det(A: Any) -> Any:
    """The determinants of square matrices (..., N, N)."""
    return det(A)


def _cofactors(a: np.ndarray) -> np.ndarray:
    n = a.shape[-1]
    if not np.isfinite(a).all():
        return np.full_like(a, np.nan)
    u, s, vt = np.linalg.svd(a)
    sign = np.linalg.det(u) * np.linalg.det(vt)
    others = np.where(devices.array_module(a).eye(n, dtype=bool), 1, s[..., None, :]).prod(-1)
    return ((u * (others * sign[..., None])[..., None, :]) @ vt).astype(a.dtype, copy=False)


@op()
class sign_and_log(Op):
    """(sign of det A, log |det A|);    dA = d(log) A^-T

    Why: d ln |det A| = tr(A^-1 dA); the sign is constant.
    Try: sign_and_log(randn(3, 3) + 3 * eye(3))
    """

    def forward(ctx, x: Any) -> Any:
        ctx.save(x)
        sign, log = _run(np.linalg.slogdet, x)
        return devices.as_array(sign), devices.as_array(log)

    def backward(ctx, dsign: Any, dlog: Any) -> Any:
        (x,) = ctx.saved
        return unsqueeze(unsqueeze(dlog, -1), -1) * mT(inverse(x))


class _OfSymmetric(Op):
    """An op on symmetric matrices: a change that is not symmetric leaves its domain."""

    within = staticmethod(lambda u: (u + np.swapaxes(u, -1, -2)) / 2)


@op(method="slogdet")
def slogdet(input: Any) -> Any:
    """(sign, logabsdet) of square matrices: the determinant is sign e^logabsdet, of any size without overflow.

    Try: slogdet(randn(3, 3) + 3 * eye(3))
    """
    _matrices("linalg.slogdet", input, True)
    return SignLog(*sign_and_log(input))


@takes_out
def linalg_slogdet(A: Any) -> Any:
    """(sign, logabsdet) of square matrices: det A = sign e^logabsdet, of any size without overflow."""
    return slogdet(A)


@op(method="logdet")
def logdet(input: Any) -> Any:
    """log det A: NaN for a negative determinant, -inf for 0.

    Try: logdet(randn(3, 3) + 3 * eye(3))
    """
    sign, log = slogdet(input)
    return where(sign == -1, math.nan, log)


# -- factors ----------------------------------------------------------------------------------------------------------


@op()
class lower_cholesky(_OfSymmetric):
    """L, lower triangular, with A = L L^T;    dA = (S + S^T) / 2, S = L^-T F(L^T dL) L^-1, F the lower triangle with
    its diagonal halved (I. Murray 2016, arXiv:1602.07527)

    Only A's lower triangle is looked at. Raises LinAlgError unless A is positive-definite.

    Why: dA = dL L^T + L dL^T, so L^-1 dA L^-T = M + M^T with M = L^-1 dL lower: M is its lower triangle with half the
         diagonal; transpose that.
    Try: lower_cholesky((a := randn(3, 3)) @ a.mT + eye(3))
    """

    def forward(ctx, x: Any) -> Any:
        y = _run(np.linalg.cholesky, x)
        ctx.save(y)
        return y

    def backward(ctx, dy: Any) -> Any:
        (y,) = ctx.saved
        half = devices.array_module(raw(y)).eye(y.shape[-1], dtype=dtypes.as_numpy(y.dtype)) * -0.5 + 1
        inner = tril(matmul(mT(y), dy)) * half.astype(dtypes.as_numpy(y.dtype), copy=False)
        s = matmul(mT(inverse(y)), matmul(inner, inverse(y)))
        return (s + mT(s)) * 0.5


@op(method="cholesky")
def cholesky(input: Any, upper: bool = False) -> Any:
    """L with A = L L^T, lower triangular; with `upper` its transpose. See :func:`minidl.linalg.cholesky`.

    Try: cholesky((a := randn(3, 3)) @ a.mT + eye(3))
    """
    _matrices("cholesky", input, True)
    return mT(lower_cholesky(mT(input))) if upper else lower_cholesky(input)


@takes_out
def linalg_cholesky(A: Any, *, upper: bool = False) -> Any:
    """L with A = L L^T for symmetric positive-definite matrices (..., N, N); with `upper` its transpose.

    Only one triangle of A is looked at. Raises LinAlgError where A is not positive-definite.
    """
    return cholesky(A, upper)


@op(method="cholesky_solve")
def cholesky_solve(input: Any, input2: Any, upper: bool = False) -> Any:
    """X with L L^T X = B (L^T L X = B for an upper L), B the input (..., N, K), L = input2 (..., N, N), of which the
    other triangle is not looked at.

    Try: cholesky_solve(randn(3, 2), tril(randn(3, 3)) + 3 * eye(3))
    """
    B, L = input, input2
    _matrices("cholesky_solve", B)
    _matrices("cholesky_solve", L, True)
    require(B.shape[-2] == L.shape[-1], "cholesky_solve: {} and {} do not fit", tuple(B.shape), tuple(L.shape))
    lower = mT(triu(L)) if upper else tril(L)
    return solve_matrices(mT(lower), solve_matrices(lower, B))


@op()
class reduced_qr(Op):
    """Q R = A, Q with orthonormal columns, R upper.    A (..., M, N) -> (..., M, K), (..., K, N), K = min(M, N)

    dA = (dQ + Q C(R dR^T - dQ^T Q)) R^-T for M >= N, C the lower triangle mirrored upwards; for M < N the same for the
    first M columns, the others Y = Q V giving dY = Q dV and Y dV^T to dQ (Walter & Lehmann 2010, arXiv:1001.1654).

    Why: dA = dQ R + Q dR with Q^T dQ antisymmetric and dR upper: the two triangles of Q^T dA R^-1 tell them apart;
         transpose that.
    Try: reduced_qr(randn(3, 3) + 3 * eye(3))
    """

    def forward(ctx, x: Any) -> Any:
        q, r = _run(np.linalg.qr, x)
        ctx.save(x, q, r)
        return q, r

    def backward(ctx, dq: Any, dr: Any) -> Any:
        x, q, r = ctx.saved
        m, n = x.shape[-2:]
        if m >= n:
            return _tall_qr(q, r, dq, dr)
        y, dv = x[..., m:], dr[..., m:]
        left = _tall_qr(q, r[..., :m], dq + matmul(y, mT(dv)), dr[..., :m])
        return cat([left, matmul(q, dv)], -1)


def _tall_qr(q: Any, r: Any, dq: Any, dr: Any) -> Any:
    inner = matmul(r, mT(dr)) - matmul(mT(dq), q)
    mirrored = tril(inner) + mT(tril(inner, -1))
    return mT(solve_matrices(r, mT(dq + matmul(q, mirrored))))


@takes_out
def linalg_qr(A: Any, mode: str = "reduced") -> Any:
    """(Q, R) with A = Q R, Q's columns orthonormal, R upper triangular.

    mode "reduced" gives Q (..., M, K), K = min(M, N); "complete" a square Q, (..., M, M), without a gradient unless
    M <= N; "r" an empty Q and no gradient. Raises RuntimeError for another mode.
    """
    _matrices("linalg.qr", A)
    if mode not in ("reduced", "complete", "r"):
        raise RuntimeError(f"qr received unrecognized mode '{mode}' but expected one of 'reduced', 'r', or 'complete'")
    if mode == "reduced" or (mode == "complete" and A.shape[-2] <= A.shape[-1]):
        return QR(*reduced_qr(A))
    if isinstance(A, Tensor) and A.requires_grad:
        raise NotImplementedError(f"qr: mode '{mode}' has no gradient for matrices {tuple(A.shape)}; detach() A")
    return QR(*complete_qr(A, mode))


@op()
class complete_qr(Op):
    """(Q, R) with a square Q ("complete"), or with an empty one ("r"); no gradient

    Why: the surplus columns of Q are any that complete it: they have no derivative.
    Try: complete_qr(randn(4, 2), 'complete')
    """

    differentiable = False

    def forward(ctx, x: Any, mode: str) -> Any:
        if mode == "complete":
            return tuple(_run(lambda a: np.linalg.qr(a, "complete"), x))
        return np.empty(0, x.dtype), _run(lambda a: np.linalg.qr(a, "r"), x)


@op(method="qr")
def qr(input: Any, some: bool = True) -> Any:
    """torch's older name of :func:`minidl.linalg.qr`; ``some=False`` is mode "complete".

    Try: qr(randn(4, 2))
    """
    return linalg_qr(input, "reduced" if some else "complete")


@op()
class symmetric_eigen(_OfSymmetric):
    """A = V diag(l) V^T for symmetric matrices, l ascending;    dA = V (diag(dl) + (V^T dV) / E) V^T, E_ij = l_j - l_i

    Only one triangle of A is looked at, the lower (uplo "L") or the upper one. The gradient of V needs distinct l.

    Why: V^T dA V holds dl on its diagonal, and off it the turn of V times l_j - l_i; transpose that.
    Try: symmetric_eigen((a := randn(3, 3)) + a.mT + diag(3 * arange(3.0)))
    """

    def forward(ctx, x: Any, uplo: str = "L") -> Any:
        l, v = _run(np.linalg.eigh, x, uplo)
        ctx.save(l, v)
        return l, v

    def backward(ctx, dl: Any, dv: Any) -> Any:
        l, v = ctx.saved
        same = devices.array_module(raw(l)).eye(l.shape[-1], dtype=bool)
        gap = where(same, 1.0, unsqueeze(l, -2) - unsqueeze(l, -1))
        inner = where(same, 0.0, matmul(mT(v), dv) / gap) + diag_embed(dl)
        return matmul(v, matmul(inner, mT(v)))


@takes_out
def eigh(A: Any, UPLO: str = "L") -> Any:
    """(eigenvalues, eigenvectors) of symmetric matrices: (..., N) ascending, and (..., N, N), a column each.

    UPLO says which triangle of A is looked at, "L" or "U". The gradient of the eigenvectors needs distinct eigenvalues.
    """
    _matrices("linalg.eigh", A, True)
    return Eigen(*symmetric_eigen(A, _triangle(UPLO)))


@takes_out
def eigvalsh(A: Any, UPLO: str = "L") -> Any:
    """The eigenvalues of symmetric matrices, ascending: (..., N)."""
    _matrices("linalg.eigvalsh", A, True)
    return symmetric_eigen(A, _triangle(UPLO))[0]


def _triangle(uplo: str) -> str:
    require(isinstance(uplo, str) and uplo.upper() in ("L", "U"), "UPLO must be 'L' or 'U', not {!r}", uplo)
    return uplo.upper()


# -- powers -----------------------------------------------------------------------------------------------------------


@op(method="matrix_power")
def matrix_power(input: Any, n: int) -> Any:
    """input^n of square matrices, by squaring; of the inverse for a negative n; the identity for 0.

    Try: matrix_power(randn(3, 3), 3)
    """
    A = input
    require(len(A.shape) >= 2 and A.shape[-1] == A.shape[-2], "matrix_power: A must be square, got {}", tuple(A.shape))
    if n < 0:
        return matrix_power(inverse(A), -n)
    if n == 0:
        xp = devices.array_module(raw(A))
        return where(xp.ones((), bool), xp.eye(A.shape[-1], dtype=dtypes.as_numpy(A.dtype)), A)
    y = None
    while True:
        if n & 1:
            y = A if y is None else matmul(y, A)
        n >>= 1
        if not n:
            return clone(y) if y is A else y
        A = matmul(A, A)


@takes_out
def linalg_matrix_power(A: Any, n: int) -> Any:
    """A^n of square matrices, by squaring; of the inverse for a negative n; the identity for 0."""
    return matrix_power(A, n)


@op(method="matrix_exp")
class matrix_exp(Op):
    """Y = e^A;    dA = the upper right block of exp [[A^T, dY], [0, A^T]] (Mathias 1996)

    Scaling by 2^-s to a norm below 1/2, a diagonal Pade approximant of degree 8, s squarings (Moler & Van Loan 2003).

    Why: e of the block matrix [[A, dA], [0, A]] has the change of e^A in its corner; its transpose takes dY back.
    Try: matrix_exp(randn(3, 3) / 3)
    """

    def forward(ctx, x: Any) -> Any:
        _matrices("matrix_exp", x, True)
        ctx.save(x)
        return _exponential(x)

    def backward(ctx, dy: Any) -> Any:
        (x,) = ctx.saved
        n, xt = x.shape[-1], mT(x)
        top, low = cat([xt, dy], -1), cat([xt * 0, xt], -1)
        return matrix_exp(cat([top, low], -2))[..., :n, n:]


def linalg_matrix_exp(A: Any) -> Any:
    """e^A of square matrices."""
    return matrix_exp(A)


def _exponential(x: np.ndarray) -> np.ndarray:
    xp = devices.array_module(x)
    a, one = x.astype(np.float64), xp.eye(x.shape[-1])
    size = np.abs(a).sum(-2).max(-1) if x.shape[-1] else xp.zeros(x.shape[:-2])
    finite = np.isfinite(size)
    s = np.where(finite & (size > 0.5), np.ceil(np.log2(np.where(finite & (size > 0), size, 1.0))) + 1, 0).astype(int)
    a = np.where(finite[..., None, None], a, 0) / np.exp2(s)[..., None, None]
    top, low, term, degree = one + 0 * a, one + 0 * a, one, 8
    c = 1.0
    for k in range(1, degree + 1):
        c *= (degree - k + 1) / (k * (2 * degree - k + 1))
        term = term @ a
        top, low = top + c * term, low + (-1) ** k * c * term
    y = np.linalg.solve(low, top)
    for k in range(int(s.max()) if s.size else 0):
        y = np.where((k < s)[..., None, None], y @ y, y)
    return np.where(finite[..., None, None], y, np.nan).astype(x.dtype)
