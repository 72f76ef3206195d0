"""The same values in another shape: reshape, view, flatten, squeeze. Views where the memory allows it."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import TABLE, Op, op, require, state
from minidl.ops.common import many_dims, one_dim, prod
from minidl.tensors import Tensor


def _sizes(size: tuple) -> tuple[int, ...]:
    """Sizes given as f(2, 3) or f((2, 3))."""
    if len(size) == 1 and isinstance(size[0], (tuple, list)):
        size = tuple(size[0])
    return tuple(int(n) for n in size)


class _Reshape(Op):
    """y has the values of x, row-major, in another shape; one size may be -1

    Why: the elements keep their order and nothing else changes: gradients are reshaped back.
    """

    is_view = True

    def shape(x: Any, size: Any) -> Any:  # type: ignore[override]
        size, n = _sizes((size,)), prod(x)
        known = prod([s for s in size if s != -1])
        require(size.count(-1) <= 1 and builtins.min(size, default=0) >= -1, "only one size can be -1, got {}", size)
        if -1 in size:
            require(known > 0 and n % known == 0, "{} elements of shape {} do not fill shape {}", n, x, size)
            return tuple(n // known if s == -1 else s for s in size)
        require(known == n, "shape {} has {} elements, shape {} has {}", x, n, size, known)
        return size

    def forward(ctx, x: Any, size: Any) -> Any:
        ctx.size = x.shape
        return x.reshape(size)

    def backward(ctx, dy: Any) -> Any:
        return reshape_op(dy, ctx.size)


_Reshape.__name__ = "reshape"
reshape_op = _Reshape


@op(method="reshape")
def reshape(x: Any, *shape: Any) -> Any:
    """The values of x, row-major, in another shape; one size may be -1. A view where the memory allows it.

    Try: reshape(randn(3, 4), (2, 6))
    """
    return _reshaped(x, shape)


def _reshaped(x: Any, shape: tuple) -> Any:
    size = _sizes(shape)
    try:
        return reshape_op(x, size)
    except RuntimeError:
        if state.heads is None or (fits := state.heads.reshape(tuple(x.shape), size)) is None:
            raise
    return reshape_op(x, fits)


@op(method="view")
def view(x: Any, *shape: Any) -> Any:
    """As reshape, never copying: raises RuntimeError where the memory layout would need a copy. A dtype
    reinterprets.

    Try: view(randn(3, 4), 2, 6)
    """
    if len(shape) == 1 and isinstance(shape[0], (dtypes.DType, np.dtype)):
        from minidl.tensors import wrap

        return wrap(x.array.view(dtypes.as_numpy(shape[0])))
    y = _reshaped(x, shape)
    if isinstance(x, Tensor) and x.array.size and not np.shares_memory(x.array, y.array):
        raise RuntimeError(
            "view size is not compatible with the tensor's memory layout (some dimension spans two subspaces): use "
            ".reshape(...) instead"
        )
    return y


@op(method="view_as")
def view_as(x: Any, other: Any) -> Any:
    """x viewed in the shape of `other`.

    Try: view_as(randn(3, 4), randn(2, 6))
    """
    return view(x, tuple(other.shape))


@op(method="flatten")
def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Dimensions start_dim .. end_dim as one.

    Try: flatten(randn(2, 3, 2))
    """
    first, last = one_dim(start_dim, x.ndim), one_dim(end_dim, x.ndim)
    if first > last:
        raise RuntimeError("flatten() has invalid args: start_dim cannot come after end_dim")
    shape = tuple(x.shape)
    return reshape_op(x, (*shape[:first], prod(shape[first : last + 1]), *shape[last + 1 :]))


@op(method="unflatten")
def unflatten(x: Any, dim: int, sizes: Any) -> Any:
    """Dimension dim as several, of `sizes`.

    Try: unflatten(randn(2, 6), 1, (2, 3))
    """
    d, shape = one_dim(dim, x.ndim), tuple(x.shape)
    inner = _Reshape.shape((shape[d],), tuple(sizes))
    return reshape_op(x, (*shape[:d], *inner, *shape[d + 1 :]))


@op(method="squeeze")
def squeeze(x: Any, dim: Any = None) -> Any:
    """Without the dimensions of size 1 (or, of those in `dim`, the ones of size 1).

    Try: squeeze(randn(2, 1, 3, 1))
    """
    if dim is None:
        dims: Any = range(x.ndim)
    else:
        dims = () if isinstance(dim, (tuple, list)) and not dim else many_dims(dim, x.ndim)
    return reshape_op(x, tuple(n for i, n in enumerate(x.shape) if i not in dims or n != 1))


@op(method="unsqueeze")
def unsqueeze(x: Any, dim: int) -> Any:
    """With a new dimension of size 1 at `dim`.

    Try: unsqueeze(randn(2, 3), 0)
    """
    d = one_dim(dim, x.ndim + 1)
    return reshape_op(x, (*x.shape[:d], 1, *x.shape[d:]))


@op(method="ravel")
def ravel(input: Any) -> Any:
    """All elements as a vector, row-major; a view of memory that is so already, else a copy.

    Try: ravel(randn(3, 4))
    """
    if isinstance(input, Tensor) and not input.is_contiguous():
        input = TABLE["clone_contiguous"](input)
    return reshape(input, (-1,) if 0 not in input.shape else (0,))
