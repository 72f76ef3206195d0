"""Values repeated: expand without copying them, repeat and tile with; repeat_interleave and meshgrid."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import Op, op, require
from minidl.ops.common import broadcast, one_dim, unbroadcast
from minidl.ops.copies import clone
from minidl.ops.indexing import getitem
from minidl.ops.shapes import _sizes, reshape, reshape_op
from minidl.tensors import Tensor, wrap


@op(method="broadcast_to")
class broadcast_to(Op):
    """x repeated, without copying, to a larger shape;    dx = dy summed over what was repeated

    Why: one x stands at many places of y, so its gradient is the sum over them.
    Try: broadcast_to(randn(3, 1), (2, 3, 4))
    """

    is_view = True

    def shape(x: Any, size: Any) -> Any:  # type: ignore[override]
        size = _sizes_kept(x, size)
        require(broadcast(x, size) == size, "shape {} does not broadcast to {}", x, size)
        return size

    def forward(ctx, x: Any, size: Any) -> Any:
        ctx.size, size = x.shape, _sizes_kept(x.shape, size)
        if devices.is_cuda_array(x):
            return np.broadcast_to(x, size)
        y = np.broadcast_to(x, size, subok=True)
        if x.flags.writeable:
            y = np.lib.stride_tricks.as_strided(x, y.shape, y.strides)  # torch's expanded tensors are not read-only
        return y

    def backward(ctx, dy: Any) -> Any:
        return unbroadcast(dy, ctx.size)


def _sizes_kept(shape: tuple[int, ...], size: Any) -> tuple[int, ...]:
    """The sizes asked for, those of -1 as they are in `shape`."""
    size = tuple(size)
    lead = len(size) - len(shape)
    require(lead >= 0, "expand: {} sizes for a tensor of {} dimensions", len(size), len(shape))
    if -1 not in size:
        return size
    require(-1 not in size[:lead], "expand: -1 is not allowed for a new dimension ({})", size)
    return tuple(n if n != -1 else shape[i - lead] for i, n in enumerate(size))


@op(method="expand")
def expand(x: Any, *size: Any) -> Any:
    """As broadcast_to, where the sizes may also stand one by one; -1 keeps a size.

    Try: expand(randn(3, 1), 3, 4)
    """
    return broadcast_to(x, _sizes(size))


@op(method="expand_as")
def expand_as(x: Any, other: Any) -> Any:
    """x expanded to the shape of `other`.

    Try: expand_as(randn(3, 1), randn(3, 4))
    """
    return expand(x, *other.shape)


@op(method="repeat")
def repeat(x: Any, *repeats: Any) -> Any:
    """x laid side by side repeats[i] times along dimension i.

    Try: repeat(randn(2, 3), 2, 1)
    """
    times = _sizes(repeats)
    require(len(times) >= x.ndim, "repeat: {} numbers for a tensor of {} dimensions", len(times), x.ndim)
    shape = (1,) * (len(times) - x.ndim) + tuple(x.shape)
    spread = broadcast_to(
        reshape_op(x, tuple(n for s in shape for n in (1, s))),
        tuple(n for k, s in zip(times, shape, strict=True) for n in (k, s)),
    )
    return reshape_op(clone(spread), tuple(k * s for k, s in zip(times, shape, strict=True)))


@op(method="tile")
def tile(input: Any, *dims: Any) -> Any:
    """input laid side by side dims[i] times along dimension i; missing counts, at the front, are 1.

    Try: tile(randn(2, 3), (2, 1))
    """
    times = tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    return repeat(input, (1,) * (len(input.shape) - len(times)) + tuple(times))


@op()
def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple:
    """Coordinates of a grid: from vectors x (N,) and y (M,) two (N, M) views, one varying along each dimension.

    indexing "ij" (the default) has the first vector vary along dimension 0; "xy" along dimension 1, as on a plot. 0-d
    tensors count as vectors of one element. Raises RuntimeError for more dimensions or for different dtypes.

    Try: meshgrid(randn(2), randn(3), indexing='ij')
    """
    if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)):
        tensors = tuple(tensors[0])
    require(len(tensors) > 0, "meshgrid expects a non-empty list of tensors")
    if indexing not in (None, "ij", "xy"):
        raise RuntimeError(f"meshgrid: indexing must be one of 'xy' or 'ij', but received: {indexing}")
    for x in tensors:
        require(len(x.shape) <= 1, "meshgrid: expected scalars or vectors, got {}", tuple(x.shape))
        if dtypes.as_numpy(x.dtype) != dtypes.as_numpy(tensors[0].dtype):
            raise RuntimeError(f"meshgrid expects all tensors to have the same dtype: {tensors[0].dtype}, {x.dtype}")
    if indexing == "xy" and len(tensors) >= 2:
        grids = meshgrid(tensors[1], tensors[0], *tensors[2:], indexing="ij")
        return (grids[1], grids[0], *grids[2:])
    sizes = tuple(x.shape[0] if len(x.shape) else 1 for x in tensors)
    lines = [(1,) * i + (n,) + (1,) * (len(sizes) - 1 - i) for i, n in enumerate(sizes)]
    return tuple(broadcast_to(reshape(x, line), sizes) for x, line in zip(tensors, lines))


@op(method="repeat_interleave")
def repeat_interleave(
    input: Any, repeats: Any = None, dim: int | None = None, *, output_size: int | None = None
) -> Any:
    """Every slice along `dim` (every element of the flattened input without one) repeated, in place: a a b b c c.

    repeats is a number, or a vector with one for each slice. ``repeat_interleave(repeats)`` alone gives indices, i
    repeated repeats[i] times. Raises RuntimeError for negative repeats and for a vector of another length.

    Try: repeat_interleave(randn(3, 2), 2)
    """
    if repeats is None:
        counts = input.array if isinstance(input, Tensor) else input
        require(counts.ndim == 1, "repeat_interleave: repeats must be a vector, got {}", counts.shape)
        return wrap(_spread(len(counts), counts, output_size))
    if dim is None:
        input, d = reshape(input, (-1,)), 0
    else:
        d = one_dim(dim, len(input.shape))
        input = input if len(input.shape) else reshape(input, (1,))
    counts = repeats.array if isinstance(repeats, Tensor) else np.asarray(repeats)
    require(counts.ndim <= 1, "repeat_interleave: repeats must be a number or a vector, got {}", counts.shape)
    n = input.shape[d]
    require(counts.size in (1, n), "repeat_interleave: {} repeats for {} slices", counts.size, n)
    return getitem(input, (slice(None),) * d + (_spread(n, counts.reshape(-1), output_size),))


def _spread(n: int, counts: Any, output_size: int | None) -> np.ndarray:
    if counts.dtype.kind not in "iu":
        raise RuntimeError(f"repeats has to be Long or Int tensor, got {counts.dtype}")
    if (counts < 0).any():
        raise RuntimeError("repeats can not be negative")
    at = np.repeat(np.arange(n), counts)
    require(output_size in (None, at.size), "repeat_interleave: allocated size {} is not {}", output_size, at.size)
    return at
