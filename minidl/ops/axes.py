"""The order of dimensions and along them: permute, transpose, movedim; flip, roll."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.autograd import Op, ShapeError, attach, op, require
from minidl.ops.common import many_dims, one_dim, row_major
from minidl.ops.shapes import _sizes
from minidl.tensors import Tensor


class _Permute(Op):
    """y's dimension i is x's dimension dims[i];    dx = dy permuted back

    Why: the dimensions change places and nothing else, so gradients change places back.
    """

    is_view = True

    def shape(x: Any, dims: Any) -> Any:  # type: ignore[override]
        require(
            len(dims) == len(x), "permute({}) names {} dimensions, the tensor {} has {}", dims, len(dims), x, len(x)
        )
        return tuple(x[d] for d in many_dims(dims, len(x)))

    def forward(ctx, x: Any, dims: Any) -> Any:
        if len(dims) != x.ndim:
            raise ShapeError(f"permute{tuple(dims)} names {len(dims)} dimensions, the tensor {x.shape} has {x.ndim}")
        ctx.dims = many_dims(dims, x.ndim)
        return x.transpose(ctx.dims)

    def backward(ctx, dy: Any) -> Any:
        return permute_op(dy, tuple(sorted(range(len(ctx.dims)), key=ctx.dims.__getitem__)))


_Permute.__name__ = "permute"
permute_op = _Permute


@op(method="permute")
def permute(x: Any, *dims: Any) -> Any:
    """Dimensions in another order, a view: y's dimension i is x's dimension dims[i].

    Try: permute(randn(2, 3, 2), (2, 0, 1))
    """
    return permute_op(x, _sizes(dims))


@op(method="transpose")
def transpose(x: Any, dim0: int, dim1: int) -> Any:
    """Two dimensions exchanged, a view.

    Try: transpose(randn(2, 3, 2), 0, 2)
    """
    d0, d1 = one_dim(dim0, x.ndim), one_dim(dim1, x.ndim)
    order = list(range(x.ndim))
    if order:
        order[d0], order[d1] = d1, d0
    return permute_op(x, tuple(order))


@op(method="swapaxes")
def swapaxes(x: Any, axis0: int, axis1: int) -> Any:
    """NumPy's name of transpose.

    Try: swapaxes(randn(2, 3, 2), 0, 2)
    """
    return transpose(x, axis0, axis1)


@op(method="movedim")
def movedim(x: Any, source: Any, destination: Any) -> Any:
    """Dimensions `source` moved to `destination`, the others in their order.

    Try: movedim(randn(2, 3, 2), 0, 2)
    """
    src, dst = (
        many_dims(source if isinstance(source, (tuple, list)) else (source,), x.ndim),
        many_dims(destination if isinstance(destination, (tuple, list)) else (destination,), x.ndim),
    )
    require(len(src) == len(dst), "movedim: {} sources and {} destinations", len(src), len(dst))
    order = [d for d in range(x.ndim) if d not in src]
    for d, s in sorted(zip(dst, src, strict=True)):
        order.insert(d, s)
    return permute_op(x, tuple(order))


@op(method="t")
def t(x: Any) -> Any:
    """The transpose of a matrix; vectors as they are. Raises RuntimeError beyond two dimensions.

    Try: t(randn(2, 3))
    """
    if x.ndim > 2:
        raise RuntimeError(f"t() expects a tensor with <= 2 dimensions, but self is {x.ndim}D")
    return permute_op(x, tuple(range(x.ndim))[::-1])


def _T(x: Any) -> Any:
    return permute_op(x, tuple(range(x.ndim))[::-1])


def _mT(x: Any) -> Any:
    if x.ndim < 2:
        raise RuntimeError(f"tensor.mT is only supported on matrices or batches of matrices; got a {x.ndim}-D tensor")
    return transpose(x, -2, -1)


attach("T", property(_T, doc="All dimensions in reverse order."))
attach("mT", property(_mT, doc="The last two dimensions exchanged."))


@op()
class flip(Op):
    """y has the elements of x in reverse order along dims;    dx = dy flipped

    Why: the elements change places and nothing else, so gradients change places back.
    Try: flip(randn(3, 4), (0,))
    """

    def shape(x: Any, *_: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, dims: Any) -> Any:
        dims = dims if isinstance(dims, (tuple, list)) else (dims,)
        ctx.dims = many_dims(dims, x.ndim) if dims else ()
        return np.flip(x, ctx.dims).copy()

    def backward(ctx, dy: Any) -> Any:
        return flip(dy, ctx.dims)


def _flip(self: Tensor, *dims: Any) -> Any:
    """Reverse order along `dims`: flip(0, 1) or flip((0, 1))."""
    return flip(self, dims[0] if len(dims) == 1 else dims)


attach("flip", _flip)


@op(method="roll")
class roll(Op):
    """y_{i + shift} = x_i, around the end;    dx = dy rolled back

    Why: the elements change places and nothing else, so gradients roll back.
    Try: roll(randn(3, 4), 2)
    """

    def shape(x: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        return x

    def forward(ctx, x: Any, shifts: Any, dims: Any = None) -> Any:
        require(shifts != () and shifts != [], "`shifts` required")
        many, over = (v if isinstance(v, (tuple, list)) else (v,) for v in (shifts, dims))
        require(
            (len(many) == 1) if dims is None or dims == () or dims == [] else len(many) == len(over),
            "shifts {} and dims {} must be of one length",
            shifts,
            dims,
        )
        dims = None if dims == () or dims == [] else dims
        ctx.shifts, ctx.dims = shifts, dims
        return row_major(np.roll(x, shifts, dims))

    def backward(ctx, dy: Any) -> Any:
        back = tuple(-s for s in ctx.shifts) if isinstance(ctx.shifts, (tuple, list)) else -ctx.shifts
        return roll(dy, back, ctx.dims)
