"""Tensors laid out side by side or spread over a grid: ravel, tile, meshgrid."""

from __future__ import annotations

from typing import Any

from minidl import dtypes
from minidl.autograd import op, require
from minidl.ops.movement import broadcast_to, repeat, reshape


@op(method="ravel")
def ravel(input: Any) -> Any:
    """All elements as a vector, row-major; a view where the memory allows it."""
    return reshape(input, (-1,) if 0 not in input.shape else (0,))


@op(method="tile")
def tile(input: Any, *dims: Any) -> Any:
    """input laid side by side dims[i] times along dimension i; missing counts, at the front, are 1."""
    times = tuple(dims[0]) if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    return repeat(input, (1,) * (len(input.shape) - len(times)) + tuple(times))


@op()
def meshgrid(*tensors: Any, indexing: str | None = None) -> tuple:
    """Coordinates of a grid: from vectors x (N,) and y (M,) two (N, M) views, one varying along each dimension.

    indexing "ij" (the default) has the first vector vary along dimension 0; "xy" along dimension 1, as on a plot. 0-d
    tensors count as vectors of one element. Raises RuntimeError for more dimensions or for different dtypes.
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
