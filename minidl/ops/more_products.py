"""More products: addbmm, addr, chains of matrices, Kronecker's; vdot and vecdot."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from minidl import dtypes
from minidl.autograd import op, require
from minidl.autograd.out import takes_out
from minidl.ops.linalg import bmm, dot, mm, outer
from minidl.ops.products import _added
from minidl.ops.reduce import sum
from minidl.ops.shapes import reshape


@op(method="addbmm", inplace=True)
def addbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta input + alpha times the sum of the products in a batch: (B, M, K), (B, K, N) -> (M, N).

    Try: addbmm(randn(2, 4), randn(3, 2, 5), randn(3, 5, 4))
    """
    return _added("addbmm", input, sum(bmm(batch1, batch2), 0, dtype=batch1.dtype), beta, alpha)


@op(method="addr", inplace=True)
def addr(input: Any, vec1: Any, vec2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """beta input + alpha vec1 vec2^T: vectors (M,) and (N,), input as or broadcast to (M, N).

    Try: addr(randn(2, 3), randn(2), randn(3))
    """
    require(
        len(vec1.shape) == 1 and len(vec2.shape) == 1,
        "addr: Expected 1-D arguments, got {} and {}",
        tuple(vec1.shape),
        tuple(vec2.shape),
    )
    return _added("addr", input, outer(vec1, vec2), beta, alpha)


@op(method="ger")
def ger(input: Any, vec2: Any) -> Any:
    """The outer product: :func:`outer`.

    Try: ger(randn(2), randn(3))
    """
    return outer(input, vec2)


@op(method="vdot")
def vdot(input: Any, other: Any) -> Any:
    """The inner product of two vectors: :func:`dot`.

    Try: vdot(randn(4), randn(4))
    """
    return dot(input, other)


def _cheapest(matrices: list) -> Any:
    """The product of a chain, bracketed for the fewest multiplications (Godbole 1973, dynamic programming)."""
    sizes = [matrices[0].shape[0], *(m.shape[1] for m in matrices)]
    n = len(matrices)
    cost = [[0] * n for _ in range(n)]
    cut = [[0] * n for _ in range(n)]
    for length in range(1, n):
        for i in range(n - length):
            j = i + length
            ways = [cost[i][k] + cost[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1] for k in range(i, j)]
            cost[i][j] = min(ways)
            cut[i][j] = i + ways.index(cost[i][j])

    def product(i: int, j: int) -> Any:
        return matrices[i] if i == j else mm(product(i, cut[i][j]), product(cut[i][j] + 1, j))

    return product(0, n - 1)


@takes_out
def multi_dot(tensors: Any) -> Any:
    """The product of two or more matrices in the order of least work; the first and the last may be vectors.

    Raises RuntimeError for fewer than two, for other dimensions and for sizes that do not meet.
    """
    parts = list(tensors)
    require(len(parts) >= 2, "multi_dot(): expected at least 2 tensors but got {}", len(parts))
    first, last = len(parts[0].shape) == 1, len(parts[-1].shape) == 1
    if first:
        parts[0] = reshape(parts[0], (1, -1))
    if last:
        parts[-1] = reshape(parts[-1], (-1, 1))
    for k, m in enumerate(parts):
        require(len(m.shape) == 2, "multi_dot(): tensor {} must be a matrix but is {}", k, tuple(m.shape))
        require(dtypes.as_numpy(m.dtype) == dtypes.as_numpy(parts[0].dtype), "multi_dot(): tensor {} is {}", k, m.dtype)
    for a, b in pairwise(parts):
        require(a.shape[1] == b.shape[0], "multi_dot(): {} cannot be multiplied by {}", tuple(a.shape), tuple(b.shape))
    y = _cheapest(parts)
    if first and last:
        return reshape(y, ())
    return reshape(y, (-1,)) if first or last else y


@op()
def chain_matmul(*matrices: Any, out: Any = None) -> Any:
    """The product of matrices in the order of least work; of one, itself. torch prefers linalg.multi_dot.

    Try: chain_matmul(randn(2, 3), randn(3, 4), randn(4, 2))
    """
    for m in matrices:
        require(len(m.shape) == 2, "chain_matmul: matrices are expected, got {}", tuple(m.shape))
    if len(matrices) == 1:
        return matrices[0]
    return multi_dot(matrices) if out is None else multi_dot(matrices, out=out)


@op(method="kron")
def kron(input: Any, other: Any) -> Any:
    """Kronecker's product: every element of input times the whole of other, laid side by side.

    Try: kron(randn(2, 2), randn(1, 3))
    """
    n = max(len(input.shape), len(other.shape))
    a = (1,) * (n - len(input.shape)) + tuple(input.shape)
    b = (1,) * (n - len(other.shape)) + tuple(other.shape)
    wide = reshape(input, tuple(s for k in a for s in (k, 1))) * reshape(other, tuple(s for k in b for s in (1, k)))
    return reshape(wide, tuple(i * j for i, j in zip(a, b, strict=True)))


@takes_out
def vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    """The inner products of vectors along `dim`, other dimensions broadcast."""
    return sum(x * y, dim, dtype=dtypes.dtype_of(dtypes.result_type(x, y)))
