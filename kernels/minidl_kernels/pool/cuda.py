"""Max pooling and planes on a GPU: pool.cu."""

from __future__ import annotations

from typing import Any

from ..cuda.launch import check_index, contiguous, cupy, kernel, rows, spread

_SOURCE = "pool/pool.cu"


def max_pool2d(x: Any, window: Any, stride: Any, padding: Any, dilation: Any, size: Any) -> tuple[Any, Any]:
    (x,), xp = contiguous(x), cupy()
    y = xp.empty((*x.shape[:2], *size), x.dtype)
    index = xp.empty(y.shape, "int64")
    geometry = (*x.shape[2:], *size, *window, *stride, *padding, *dilation)
    kernel(_SOURCE, "max_pool2d", x.dtype)(spread(y.size), 256, x, y, index, y.size, *geometry)
    return y, index


def scatter_plane(x: Any, index: Any, width: int) -> Any:
    """An index outside is left out, unless the debug switch of launch.py is on."""
    check_index("scatter_plane", "an index", index, width)
    (x, index), xp, length, count = contiguous(x, index.astype("int64", copy=False)), cupy(), x.shape[-1], rows(x)
    y = xp.empty((*x.shape[:-1], width), x.dtype)
    heads, following = xp.full(y.size, -1, "int32"), xp.empty(x.size, "int32")
    kernel(_SOURCE, "link_plane")(spread(x.size), 256, index, heads, following, count * length, length, width)
    kernel(_SOURCE, "scatter_plane", x.dtype)(spread(y.size), 256, x, index, heads, following, y, y.size, length, width)
    return y


def gather_plane(x: Any, index: Any) -> Any:
    """An index outside gives NaN, unless the debug switch of launch.py is on."""
    check_index("gather_plane", "an index", index, x.shape[-1])
    x, index = contiguous(x, index.astype("int64", copy=False))
    y = cupy().empty(index.shape, x.dtype)
    kernel(_SOURCE, "gather_plane", x.dtype)(spread(y.size), 256, x, index, y, y.size, index.shape[-1], x.shape[-1])
    return y
