"""A tensor taken apart along a dimension: split, chunk, narrow, select, unbind. All of them views."""

from __future__ import annotations

import builtins
from typing import Any

from minidl.autograd import attach, op, require, state
from minidl.ops.common import IndexRangeError, one_dim
from minidl.ops.indexing import getitem
from minidl.tensors import Tensor


@op()
def split(tensor: Any, split_size_or_sections: Any, dim: int = 0) -> tuple:
    """Pieces along `dim`: of one size each (the last may be smaller), or of the sizes in a list. Views.

    Try: split(randn(5, 2), 2)
    """
    x, split_size = tensor, split_size_or_sections
    d = one_dim(dim, x.ndim)
    n = x.shape[d]
    if state.heads is not None:
        split_size = state.heads.split(n, split_size)
    if isinstance(split_size, int):
        require(split_size > 0 or n == 0, "split expects a positive split_size, got {}", split_size)
        sizes = [builtins.min(split_size, n - i) for i in range(0, n, split_size or 1)] or [0]
    else:
        sizes = list(split_size)
        require(builtins.sum(sizes) == n, "split sizes {} do not add up to the size {} of dimension {}", sizes, n, d)
    out, start = [], 0
    for size in sizes:
        out.append(narrow(x, d, start, size))
        start += size
    return tuple(out)


def _split(self: Tensor, split_size: Any, dim: int = 0) -> tuple:
    """Pieces along `dim`: of `split_size` each (the last may be smaller), or of the sizes in a list. Views."""
    return split(self, split_size, dim)


attach("split", _split)


@op(method="split_with_sizes")
def split_with_sizes(x: Any, split_sizes: Any, dim: int = 0) -> tuple:
    """Pieces of the given sizes along `dim`.

    Try: split_with_sizes(randn(5, 2), [2, 3])
    """
    return split(x, list(split_sizes), dim)


@op(method="chunk")
def chunk(x: Any, chunks: int, dim: int = 0) -> tuple:
    """At most `chunks` pieces of equal size along `dim` (the last may be smaller). Views.

    Try: chunk(randn(5, 2), 2)
    """
    require(chunks > 0, "chunk expects `chunks` to be greater than 0, got: {}", chunks)
    n = x.shape[one_dim(dim, x.ndim)]
    return split(x, -(-n // chunks) if n else [0] * chunks, dim)


@op(method="narrow")
def narrow(x: Any, dim: int, start: int, length: int) -> Any:
    """`length` elements from `start` along `dim`, a view.

    Try: narrow(randn(5, 2), 0, 1, 3)
    """
    require(x.ndim > 0, "narrow() cannot be applied to a 0-dim tensor.")
    d = one_dim(dim, x.ndim)
    n = x.shape[d]
    if isinstance(start, Tensor):
        if start.ndim or start.array.dtype.kind not in "iu":
            raise RuntimeError(f"start must be an 0-dim integral Tensor, not {tuple(start.shape)} {start.dtype}")
        start = int(start)
    if not -n <= start <= n:
        raise IndexRangeError(f"start out of range (expected to be in range of [{-n}, {n}], but got {start})")
    start = start + n if start < 0 else start
    require(
        length >= 0 and start + length <= n,
        "start ({}) + length ({}) exceeds dimension size ({})",
        start,
        length,
        n,
    )
    return x[(slice(None),) * d + (slice(start, start + length),)]


@op(method="unbind")
def unbind(x: Any, dim: int = 0) -> tuple:
    """The slices along `dim`. Views.

    Try: unbind(randn(3, 2))
    """
    d = one_dim(dim, x.ndim)
    return tuple(x[(slice(None),) * d + (i,)] for i in range(x.shape[d]))


@op(method="select")
def select(input: Any, dim: int, index: int) -> Any:
    """input at one index of `dim`, without that dimension; a view. Raises IndexError out of range.

    Try: select(randn(3, 4), 0, 1)
    """
    if not len(input.shape):
        raise IndexError("select() cannot be applied to a 0-dim tensor.")
    d = one_dim(dim, len(input.shape))
    n = input.shape[d]
    if not -n <= index < n:
        raise IndexError(f"select(): index {index} out of range for tensor of size {tuple(input.shape)} at dim {d}")
    return getitem(input, (slice(None),) * d + (int(index),))
