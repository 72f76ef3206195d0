"""Products of matrices: matmul, linear, and what is built on them."""

from __future__ import annotations

from typing import Any

from numpy import ndarray

import minidl_kernels as kernels
from minidl.autograd import Op, ShapeError, op, require
from minidl.ops import hints
from minidl.ops.common import broadcast, prod, unbroadcast, widened
from minidl.ops.reduce import sum
from minidl.ops.shapes import reshape
from minidl.storage import Packed


@op(method="matmul", operator="matmul")
class matmul(Op):
    """C = A B, leading axes broadcast; vectors are rows on the left, columns on the right.

    a (..., M, K) @ b (..., K, N) -> (..., M, N);    dA = dC B^T,  dB = A^T dC

    Why: C_ij = sum_k A_ik B_kj, so dA_ik = sum_j dC_ij B_kj = (dC B^T)_ik and dB_kj = sum_i A_ik dC_ij = (A^T dC)_kj.
    Try: matmul(randn(2, 3), randn(3, 4))
    """

    promote = None

    def shape(a: Any, b: Any) -> Any:  # type: ignore[override]
        require(len(a) > 0 and len(b) > 0, "both arguments need at least 1 dimension, but they are {} and {}", a, b)
        rows, cols = (a[-2:-1]), (b[-1:] if len(b) > 1 else ())
        inner = b[-2] if len(b) > 1 else b[0]
        require(
            a[-1] == inner,
            "inner sizes differ: {} @ {} ({} columns against {} rows); a missing transpose or flatten is the usual "
            "cause",
            tuple(a),
            tuple(b),
            a[-1],
            inner,
        )
        return (*broadcast(tuple(a[:-2]), tuple(b[:-2])), *rows, *cols)

    def forward(ctx, a: Any, b: Any) -> Any:
        if not (hasattr(a, "dtype") and hasattr(b, "dtype")):
            raise TypeError(f"unsupported operands for @: {type(a).__name__} and {type(b).__name__}; use * for numbers")
        if a.dtype != b.dtype:
            raise RuntimeError(
                f"expected both operands to have the same dtype, but got {a.dtype} @ {b.dtype}; "
                f"{hints.dtypes(str(a.dtype), str(b.dtype))}"
            )
        ctx.save(a, b)
        return _product(a, b)

    def backward(ctx, dc: Any) -> Any:
        a, b = ctx.saved
        if a.ndim == 1 or b.ndim == 1:  # as matrices, then back
            a2 = reshape(a, (1, -1)) if a.ndim == 1 else a
            b2 = reshape(b, (-1, 1)) if b.ndim == 1 else b
            shape = matmul.shape(tuple(a2.shape), tuple(b2.shape))
            da, db = _matmul_grads(ctx, reshape(dc, shape), a2, b2)
            return da if da is None else reshape(da, tuple(a.shape)), db if db is None else reshape(db, tuple(b.shape))
        return _matmul_grads(ctx, dc, a, b)


def _product(a: Any, b: Any) -> Any:
    """The kernel's product, vectors taken as matrices and given back as vectors; NotImplementedError for bools."""
    if a.dtype.kind == "b":
        raise NotImplementedError("products are not defined for bools: convert to int or float first")
    if a.ndim > 1 and b.ndim > 1:
        return kernels.matmul(a, b)
    matmul.shape(a.shape, b.shape)
    y = kernels.matmul(a[None] if a.ndim == 1 else a, b[:, None] if b.ndim == 1 else b)
    y = y[..., 0] if b.ndim == 1 else y
    return y[..., 0] if a.ndim == 1 and b.ndim == 1 else y[..., 0, :] if a.ndim == 1 else y


def _matmul_grads(ctx: Any, dc: Any, a: Any, b: Any) -> Any:
    def db() -> Any:
        if b.ndim == 2 and a.ndim > 2:  # one b for a stack of a: a single tall product
            return matmul(flat(a).T, flat(dc))  # (K, R) @ (R, N) -> (K, N)
        return unbroadcast(matmul(a.swapaxes(-2, -1), dc), b.shape)  # (..., K, M) @ (..., M, N) -> (..., K, N)

    return ctx.wanted(
        lambda: unbroadcast(matmul(dc, b.swapaxes(-2, -1)), a.shape),  # (..., M, N) @ (..., N, K) -> (..., M, K)
        db,
    )


def flat(x: Any) -> Any:
    """(..., K) -> (R, K), all leading axes as one."""
    return x if len(x.shape) == 2 else x.reshape((prod(x.shape[:-1]), x.shape[-1]))


@op(namespace="nn.functional")
class linear(Op):
    """y = x W^T + b.    x (..., K), w (N, K), b (N,) -> y (..., N);    dx = dy W,  dW = dy^T x,  db = sum of dy

    A weight packed as int8 runs on the integer kernel; gradients of x and b then pass straight through the rounding of
    the activations (Bengio, Leonard & Courville 2013, arXiv:1308.3432).

    Why: y_n = sum_k x_k W_nk + b_n: x_k is in every y_n with the factor W_nk, W_nk in y_n with x_k, b_n with 1; sum
         over the rows.
    Try: linear(randn(2, 3), randn(4, 3), randn(4))
    """

    packed: Packed | None = None

    def shape(x: Any, w: Any, b: Any = None) -> Any:  # type: ignore[override]
        require(len(w) in (1, 2), "the weight must be (out_features, in_features), got {}", w)
        if not x or x[-1] != w[-1]:
            raise ShapeError(
                f"the input {x} has {x[-1] if x else 0} features, the weight {w} takes {w[-1]}; {hints.features(x, w)}"
            )
        require(b is None or tuple(b) == (w[0],), "the bias {} does not fit {} outputs", b, w[0])
        return (*x[:-1], *w[:-1])

    def forward(ctx, x: Any, w: Any, b: Any = None) -> Any:
        if isinstance(w, Packed):
            ctx.packed = w
            return w.linear(x, b)
        if w.dtype != x.dtype:
            raise RuntimeError(
                f"the input is {x.dtype} and the weight is {w.dtype}: they must have the same dtype; "
                f"{hints.dtypes(str(x.dtype), str(w.dtype))}"
            )
        ctx.save(x, w)
        if w.ndim == 1:
            require(b is None, "a weight that is a vector, {}, takes no bias", w.shape)
            linear.shape(x.shape, w.shape)
            return _product(x, w)
        if x.dtype.kind in "iu":  # kernels take floating point numbers only
            y = _product(x, w.T)
            return y if b is None else y + b
        return widened(kernels.linear, x, w, b)

    def backward(ctx, dy: Any) -> Any:
        x, w = ctx.saved if ctx.packed is None else (None, ctx.packed.dequantize())
        if len(w.shape) == 1:
            w, dy = reshape(w, (1, -1)), dy[..., None]
            return ctx.wanted(lambda: matmul(dy, w), lambda: reshape(matmul(flat(dy).T, flat(x)), (-1,)))
        if type(dy) is ndarray and x is not None and dy.dtype.char in "fd":
            for_x, for_w, for_b = (*ctx.needs, False)[:3]
            return kernels.linear_backward(dy, x, w, (for_x, for_w, for_b))[: len(ctx.parents)]
        return ctx.wanted(
            lambda: matmul(dy, w),  # (..., N) @ (N, K) -> (..., K)
            lambda: matmul(flat(dy).T, flat(x)),  # (N, R) @ (R, K) -> (N, K)
            lambda: sum(flat(dy), 0),
        )


@op(method="mm")
def mm(a: Any, mat2: Any) -> Any:
    """The product of two matrices.

    Try: mm(randn(2, 3), randn(3, 2))
    """
    require(
        a.ndim == 2 and mat2.ndim == 2, "mm: both must be matrices, got {} and {}", tuple(a.shape), tuple(mat2.shape)
    )
    return matmul(a, mat2)


@op(method="bmm")
def bmm(a: Any, mat2: Any) -> Any:
    """The products of two stacks of matrices, (B, M, K) and (B, K, N).

    Try: bmm(randn(2, 2, 3), randn(2, 3, 2))
    """
    require(
        a.ndim == 3 and mat2.ndim == 3 and a.shape[0] == mat2.shape[0],
        "bmm: expected two stacks of as many matrices, got {} and {}",
        tuple(a.shape),
        tuple(mat2.shape),
    )
    return matmul(a, mat2)


@op(method="dot")
def dot(a: Any, tensor: Any) -> Any:
    """The inner product of two vectors.

    Try: dot(randn(3), randn(3))
    """
    require(
        a.ndim == 1 and tensor.ndim == 1, "dot: 1D tensors expected, got {} and {}", tuple(a.shape), tuple(tensor.shape)
    )
    return matmul(a, tensor)


@op(method="outer")
def outer(a: Any, vec2: Any) -> Any:
    """y[i][j] = a[i] b[j] for vectors.

    Try: outer(randn(3), randn(2))
    """
    require(
        a.ndim == 1 and vec2.ndim == 1, "outer: 1D tensors expected, got {} and {}", tuple(a.shape), tuple(vec2.shape)
    )
    return reshape(a, (-1, 1)) * reshape(vec2, (1, -1))
