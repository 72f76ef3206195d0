"""Products of matrices with something added, and of whole blocks of dimensions: mv, addmm, tensordot."""

from __future__ import annotations

from typing import Any

from minidl import devices, dtypes
from minidl.autograd import op, require
from minidl.ops.axes import permute
from minidl.ops.common import broadcast, one_dim, prod
from minidl.ops.linalg import bmm, matmul, mm
from minidl.ops.logic import raw
from minidl.ops.masks import where
from minidl.ops.reduce import sum
from minidl.ops.shapes import reshape
from minidl.ops.tiling import broadcast_to


@op(method="mv")
def mv(input: Any, vec: Any) -> Any:
    """A matrix times a vector: (M, K), (K,) -> (M,).

    Try: mv(randn(2, 3), randn(3))
    """
    require(
        len(input.shape) == 2 and len(vec.shape) == 1,
        "mv: a matrix and a vector are expected, got {} and {}",
        tuple(input.shape),
        tuple(vec.shape),
    )
    return matmul(input, vec)


def _added(name: str, input: Any, product: Any, beta: Any, alpha: Any) -> Any:
    """beta input + alpha product, input broadcast to the product; with beta = 0 it is not looked at, NaN or not."""
    shape = tuple(product.shape)
    require(
        broadcast(tuple(input.shape), shape) == shape,
        "{}: the input {} does not broadcast to the product {}",
        name,
        tuple(input.shape),
        shape,
    )
    dtype = dtypes.as_numpy(product.dtype)
    if dtypes.as_numpy(input.dtype) != dtype:
        raise RuntimeError(f"{name}: the input is {input.dtype} and the product {product.dtype}: they must be the same")
    if dtype.kind == "b":  # a sum of bools is "or"
        product = product & bool(alpha)
        return product | (broadcast_to(input, shape) & bool(beta))
    if dtype.kind in "iu":
        alpha, beta = int(alpha), int(beta)  # torch cuts the fraction off
    if alpha == 0 and name in ("addmm", "addmv", "addbmm"):  # BLAS does not look at the product then, NaN or not
        product = _zeros(product, shape)
    elif alpha != 1:
        product = product * alpha
    if beta == 0:
        return product + _zeros(input, shape)
    return product + (broadcast_to(input, shape) if beta == 1 else input * beta)


def _zeros(x: Any, shape: tuple) -> Any:
    """Zeros in x's dtype, whatever is in x, and for its gradient."""
    zero: Any = 0.0 if dtypes.as_numpy(x.dtype).kind == "f" else 0
    return where(devices.array_module(raw(x)).ones(shape, bool), zero, broadcast_to(x, shape))


@op(method="addmm", inplace=True)
def addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta input + alpha (mat1 @ mat2), input broadcast to (N, M).

    Try: addmm(randn(2, 4), randn(2, 3), randn(3, 4))
    """
    return _added("addmm", input, mm(mat1, mat2), beta, alpha)


@op(method="addmv", inplace=True)
def addmv(input: Any, mat: Any, vec: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta input + alpha (mat @ vec), input broadcast to (N,).

    Try: addmv(randn(2), randn(2, 3), randn(3))
    """
    return _added("addmv", input, mv(mat, vec), beta, alpha)


@op(method="baddbmm", inplace=True)
def baddbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta input + alpha (batch1 @ batch2), input broadcast to (B, N, M).

    Try: baddbmm(randn(2, 2, 2), randn(2, 2, 3), randn(2, 3, 2))
    """
    return _added("baddbmm", input, bmm(batch1, batch2), beta, alpha)


@op()
def tensordot(a: Any, b: Any, dims: Any = 2) -> Any:
    """The sum of a times b over pairs of dimensions: the last `dims` of a with the first of b, or two lists of them.

    What is left of a comes first in the result, then what is left of b. Raises RuntimeError when sizes differ.

    Try: tensordot(randn(2, 3, 4), randn(3, 4, 2))
    """
    if hasattr(dims, "tolist"):
        dims = dims.tolist()
    if isinstance(dims, int):
        if dims < 0:
            raise RuntimeError(f"tensordot expects dims >= 0, but got dims={dims}")
        require(
            dims <= min(len(a.shape), len(b.shape)),
            "tensordot: {} dimensions of {} and {}",
            dims,
            tuple(a.shape),
            tuple(b.shape),
        )
        of_a, of_b = list(range(len(a.shape) - dims, len(a.shape))), list(range(dims))
    else:
        of_a, of_b = ([d] if isinstance(d, int) else list(d) for d in dims)
        require(len(of_a) == len(of_b), "tensordot: {} dimensions against {}", len(of_a), len(of_b))
        of_a = [one_dim(int(d), len(a.shape)) for d in of_a]
        of_b = [one_dim(int(d), len(b.shape)) for d in of_b]
    for da, db in zip(list(of_a), list(of_b)):
        na, nb = a.shape[da], b.shape[db]
        if na != nb and 1 in (na, nb):  # a size of 1 is stretched: sum the other first
            a, b = (sum(a, da, True, dtype=a.dtype), b) if nb == 1 else (a, sum(b, db, True, dtype=b.dtype))
        else:
            require(na == nb, "tensordot: sizes {} and {} of dimensions {} and {} do not match", na, nb, da, db)
    left = [d for d in range(len(a.shape)) if d not in of_a]
    right = [d for d in range(len(b.shape)) if d not in of_b]
    shape = tuple(a.shape[d] for d in left) + tuple(b.shape[d] for d in right)
    k = prod([a.shape[d] for d in of_a])
    rows = reshape(permute(a, (*left, *of_a)), (prod([a.shape[d] for d in left]), k))
    columns = reshape(permute(b, (*of_b, *right)), (k, prod([b.shape[d] for d in right])))
    return reshape(matmul(rows, columns), shape)
