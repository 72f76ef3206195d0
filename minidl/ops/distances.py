"""Lengths of vectors, sizes of matrices, and how far or how similar two vectors are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, op, require
from minidl.autograd.out import takes_out
from minidl.ops.axes import movedim
from minidl.ops.common import broadcast, many_dims, one_dim, total
from minidl.ops.copies import cast
from minidl.ops.joining import cat
from minidl.ops.limits import clamp
from minidl.ops.logic import like, raw
from minidl.ops.masks import where
from minidl.ops.reduce import Reduction, amax, amin, squeeze_dim, sum
from minidl.ops.shapes import reshape, unsqueeze
from minidl.ops.signs import abs, sign
from minidl.ops.tiling import broadcast_to

# -- lengths ----------------------------------------------------------------------------------------------------------


@op()
class vector_length(Reduction):
    """y = (sum |x|^p)^(1/p) over dim; greatest |x| for p = inf, least for -inf, the count of nonzero x for p = 0

    dx = dy sign(x) (|x| / y)^(p - 1), and 0 where x or y is 0; shared evenly by all extremes for p = +-inf

    Why: y^p = sum |x|^p, so p y^(p-1) dy/dx = p |x|^(p-1) sign x: dx = dy sign(x) (|x| / y)^(p-1).
    Try: vector_length(randn(3, 4), 2.0, 1)
    """

    def shape(x: Any, p: float, dim: Any = None, keepdim: bool = False) -> Any:  # type: ignore[override]
        return Reduction.shape(x, dim, keepdim)

    def forward(ctx, x: Any, p: float, dim: Any = None, keepdim: bool = False) -> Any:
        dims = ctx.over(x, dim, keepdim)
        ctx.p = p
        wide = x.astype(np.float32) if x.dtype == np.float16 else x
        a = np.abs(wide)
        if p == math.inf:
            y = a.max(dims, keepdims=ctx.keepdim)
        elif p == -math.inf:
            y = a.min(dims, keepdims=ctx.keepdim)
        elif p == 0:
            y = total((a != 0).astype(a.dtype), dims, ctx.keepdim)
        elif p == 1:
            y = total(a, dims, ctx.keepdim)
        elif p == 2:
            y = np.sqrt(total(wide * wide, dims, ctx.keepdim))
        else:
            y = total(a ** a.dtype.type(p), dims, ctx.keepdim) ** a.dtype.type(1 / p)
        y = devices.as_array(y).astype(x.dtype, copy=False)
        ctx.save(x, y)
        return y

    def backward(ctx, dy: Any) -> Any:
        x, y = ctx.saved
        p, y, dy = ctx.p, ctx.stretch(y), ctx.stretch(dy)
        if p == 0:
            return where(np.ones(ctx.size, bool), 0.0, dy)
        if p == 1:
            return dy * sign(x)
        if math.isinf(p):
            hit = abs(x) == y
            hit = cast(hit | ((x != x) & (y != y)), dy.dtype)
            return dy * sign(x) * (hit / sum(hit, ctx.dims, True))
        if p == 2:
            zero = y == 0
            return where(zero, 0.0, dy * (x / where(zero, 1.0, y)))
        zero = (x == 0) | (y == 0)
        ratio = where(zero, 1.0, abs(x)) / where(zero, 1.0, y)
        return where(zero, 0.0, dy * sign(x) * ratio ** (p - 1))


@takes_out
def vector_norm(x: Any, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The length (sum |x|^ord)^(1/ord) of all elements as one vector, or of the vectors along `dim`.

    ord is any number, +-inf included (the greatest or least |x|); 0 counts the nonzero elements. `dtype` is what to
    compute in. Raises RuntimeError for integers, and for ord < 0 or inf of no elements.
    """
    if isinstance(ord, str):
        raise TypeError(f"linalg.vector_norm: ord must be a number, not {ord!r}")
    if dtype is not None:
        if dtypes.as_numpy(dtype).kind != "f":
            raise RuntimeError(f"linalg.vector_norm: dtype should be floating point, got {dtype}")
        x = cast(x, dtypes.as_numpy(dtype))
    if dtypes.as_numpy(x.dtype).kind != "f":
        raise RuntimeError(f"linalg.vector_norm: Expected a floating point tensor as input. Got {x.dtype}")
    dims = many_dims(dim, len(x.shape))
    if (ord < 0 or ord == math.inf) and any(x.shape[d] == 0 for d in dims):
        raise RuntimeError(
            f"linalg.vector_norm cannot compute the {ord} norm of no elements, {tuple(x.shape)}: it has no identity"
        )
    return vector_length(x, float(ord), dims, keepdim) if len(x.shape) else vector_length(x, float(ord), None, keepdim)


# -- sizes of matrices ------------------------------------------------------------------------------------------------


@op()
class singular_values(Op):
    """s of A = U diag(s) V^T, in descending order, for each matrix of a stack;    dA = U diag(ds) V^T

    Why: ds_i = u_i^T dA v_i: to first order a singular value feels only its own pair of vectors.
    Try: singular_values(randn(3, 2))
    """

    def forward(ctx, a: Any) -> Any:
        ctx.save(a)
        return np.linalg.svd(a, compute_uv=False)

    def backward(ctx, ds: Any) -> Any:
        (a,) = ctx.saved
        u, _, vt = svd(a, False)
        return (u * unsqueeze(ds, -2)) @ vt


@op()
class reduced_svd(Op):
    """U, s, V^T with A = U diag(s) V^T, s descending.    A (..., M, N) -> (..., M, K), (..., K), (..., K, N), K =
    min(M, N)

    With F_ij = 1 / (s_j^2 - s_i^2) off the diagonal (Ionescu, Vantzos & Sminchisescu 2015, arXiv:1509.07838):
    dA = U [(F (U^T dU - dU^T U)) S + S (F (V^T dV - dV^T V)) + diag(ds)] V^T
         + (1 - U U^T) dU S^-1 V^T + U S^-1 dV^T (1 - V V^T)

    Why: dP = U^T dA V holds ds on its diagonal; off it the turns of U and V mix its entries with 1 / (s_j^2 - s_i^2),
         and what leaves their spans is divided by s.
    Try: reduced_svd(randn(3, 2))
    """

    def forward(ctx, a: Any) -> Any:
        u, s, vt = np.linalg.svd(a, full_matrices=False)
        ctx.save(u, s, vt)
        ctx.size = a.shape[-2:]
        return u, s, vt

    def backward(ctx, du: Any, ds: Any, dvt: Any) -> Any:
        u, s, vt = ctx.saved
        k = s.shape[-1]
        ut, v, dv = movedim(u, -1, -2), movedim(vt, -1, -2), movedim(dvt, -1, -2)
        one = devices.array_module(raw(s)).eye(k, dtype=dtypes.as_numpy(s.dtype))
        square = s * s
        gap = unsqueeze(square, -2) - unsqueeze(square, -1)
        f = where(one == 1, 0.0, 1 / where(one == 1, 1.0, gap))
        row, column = unsqueeze(s, -2), unsqueeze(s, -1)
        of_u, of_v = ut @ du, movedim(v, -1, -2) @ dv
        inner = f * (of_u - movedim(of_u, -1, -2)) * row + column * (f * (of_v - movedim(of_v, -1, -2)))
        inner = inner + unsqueeze(ds, -2) * one
        da = u @ inner @ vt
        m, n = ctx.size
        if m > k:
            rest = du / row
            da = da + (rest - u @ (ut @ rest)) @ vt
        if n > k:
            rest = dvt / column
            da = da + u @ (rest - (rest @ v) @ vt)
        return da


def svd(A: Any, full_matrices: bool = True) -> Any:
    """U, s and V^T with A = U diag(s) V^T. Differentiable for distinct s.

    With full_matrices U (..., M, M) and V^T (..., N, N) are square; the vectors that stand for no singular value are
    any that complete an orthogonal matrix, and constant to the gradient, as in torch.
    """
    u, s, vt = reduced_svd(A)
    if not full_matrices or A.shape[-1] == A.shape[-2]:
        return u, s, vt
    if A.shape[-2] > A.shape[-1]:
        return cat([u, like(u, _completion(raw(u)))], -1), s, vt
    return u, s, cat([vt, like(vt, np.swapaxes(_completion(np.swapaxes(raw(vt), -1, -2)), -1, -2))], -2)


def _completion(columns: np.ndarray) -> np.ndarray:
    """Orthonormal columns that make those given a square matrix."""
    return np.linalg.qr(columns, "complete")[0][..., columns.shape[-1] :]


@takes_out
def matrix_norm(A: Any, ord: Any = "fro", dim: Any = (-2, -1), keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The norm of the matrices in two dimensions.

    ord "fro" is the root of the sum of squares, "nuc" the sum of the singular values, 2 and -2 the greatest and least
    of them, inf and -inf the greatest and least sum of |a| over a row, 1 and -1 over a column. Raises RuntimeError for
    another ord, or unless dim names two dimensions.
    """
    require(len(A.shape) >= 2, "linalg.matrix_norm: at least 2 dimensions are expected, got {}", tuple(A.shape))
    require(isinstance(dim, (tuple, list)) and len(dim) == 2, "linalg.matrix_norm: dim must be a 2-tuple. Got {}", dim)
    rows, columns = (one_dim(d, len(A.shape)) for d in dim)
    require(rows != columns, "linalg.matrix_norm: dims must be different. Got {}", tuple(dim))
    if dtype is not None:
        A = cast(A, dtypes.as_numpy(dtype))
    if dtypes.as_numpy(A.dtype).kind != "f":
        raise RuntimeError(f"linalg.matrix_norm: Expected a floating point tensor as input. Got {A.dtype}")
    if ord == "fro":
        return vector_norm(A, 2, (rows, columns), keepdim)
    if ord == "nuc" or (ord in (2, -2) and not isinstance(ord, str)):
        s = singular_values(movedim(A, (rows, columns), (-2, -1)))
        y = sum(s, -1) if ord == "nuc" else _extreme(s, -1, ord > 0)
        if keepdim:
            y = reshape(y, tuple(1 if d in (rows, columns) else n for d, n in enumerate(A.shape)))
        return y
    if isinstance(ord, str) or ord not in (1, -1, math.inf, -math.inf):
        raise RuntimeError(f"linalg.matrix_norm: Order {ord} not supported.")
    if math.isinf(ord):
        rows, columns = columns, rows
    y = vector_norm(A, 1, rows, True)  # the sum over the rows of each column
    y = _extreme(y, columns, ord > 0, True)
    if keepdim:
        return y
    for d in sorted((rows, columns), reverse=True):
        y = squeeze_dim(y, d)
    return y


def _extreme(x: Any, dim: int, greatest: bool, keepdim: bool = False) -> Any:
    """The greatest or least along a dimension; the greatest of none is 0, for sizes."""
    if not greatest:
        return amin(x, dim, keepdim)
    return amax(x, dim, keepdim) if x.shape[dim] else sum(x, dim, keepdim)


@op()
def linalg_norm(A: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """A vector's or a matrix's norm: of all of A, or of the vectors (one `dim`) or matrices (two) in it.

    Without `ord` the root of the sum of squares, whatever the dimensions; with one, :func:`vector_norm` for a vector,
    :func:`matrix_norm` for a matrix. Raises RuntimeError for an ord without a dim when A is neither.

    Try: linalg_norm(randn(3, 4))
    """
    if dim is not None and not isinstance(dim, (tuple, list)):
        dim = (dim,)
    if ord is None:
        return vector_norm(A, 2, dim, keepdim, dtype=dtype)
    if dim is None:
        require(
            len(A.shape) in (1, 2), "linalg.norm: with ord={} and no dim, A must be 1- or 2-D, got {}", ord,
            tuple(A.shape),
        )  # fmt: skip
        dim = tuple(range(len(A.shape)))
    require(len(dim) in (1, 2), "linalg.norm: If dim is specified, it must be of length 1 or 2. Got {}", tuple(dim))
    return (vector_norm if len(dim) == 1 else matrix_norm)(A, ord, tuple(dim), keepdim, dtype=dtype)


@op(method="norm")
def norm(input: Any, p: Any = "fro", dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """The length (sum |x|^p)^(1/p) over `dim`, or of all elements; "fro" is p = 2, "nuc" a matrix's nuclear norm.

    Try: norm(randn(3, 4))
    """
    if p == "nuc":
        dims = tuple(range(len(input.shape))) if dim is None else tuple(dim) if isinstance(dim, (tuple, list)) else dim
        return matrix_norm(input, "nuc", dims, keepdim, dtype=dtype)
    if isinstance(p, str) and p != "fro":
        raise RuntimeError(f"only valid string values are 'fro' and 'nuc', found {p!r}")
    return vector_norm(input, 2 if p is None or p == "fro" else p, dim, keepdim, dtype=dtype)


# -- two vectors ------------------------------------------------------------------------------------------------------


@op(namespace="nn.functional")
def normalize(input: Any, p: float = 2.0, dim: Any = 1, eps: float = 1e-12) -> Any:
    """x / max(length of x, eps), along `dim`.

    Try: normalize(randn(3, 4))
    """
    return input / clamp(vector_norm(input, p, dim, True), min=eps)


@op()
def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """a . b / (max(|a|, eps) max(|b|, eps)) for the vectors along `dim`; shapes broadcast.

    Try: cosine_similarity(randn(3, 4), randn(3, 4))
    """
    a, b = (x / clamp(vector_norm(x, 2, dim, True), min=eps) for x in _meet_floats(x1, x2))
    return sum(a * b, dim)


def _meet_floats(a: Any, b: Any) -> tuple:
    """Two tensors of one shape and one dtype, which must be a float."""
    dtype = dtypes.result_type(a, b)
    if dtype.kind != "f":
        raise RuntimeError(f"expected common dtype to be floating point, yet common dtype is {dtype}")
    shape = broadcast(tuple(a.shape), tuple(b.shape))
    a, b = (x if dtypes.as_numpy(x.dtype) == dtype else cast(x, dtype) for x in (a, b))
    return tuple(x if tuple(x.shape) == shape else broadcast_to(x, shape) for x in (a, b))


@op()
def pairwise_distance(x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Any:
    """The p-norm of a - b + eps along the last dimension.

    Try: pairwise_distance(randn(3, 4), randn(3, 4))
    """
    return vector_norm(x1 - x2 + eps, p, -1, keepdim)
