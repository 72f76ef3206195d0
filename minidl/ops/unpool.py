"""The inverse of max pooling: values go back to the places where they were found, the rest is 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.autograd import Op, op, require
from minidl.ops.common import pair
from minidl.ops.pool import gather_plane
from minidl.ops.shapes import reshape
from minidl.tensors import Tensor


@op()
class place_plane(Op):
    """y[..., index[..., i]] = x[..., i] on zeros of `width`, the last of several at one place;    dx = dy gathered

    Why: each x is copied to one place, so its gradient is read there; what was overwritten gets 0.
    Try: place_plane(randn(2, 3), tensor([[0, 2, 4], [1, 3, 0]]).array, 5)
    """

    def forward(ctx, x: Any, index: Any, width: int) -> Any:
        ctx.index = index
        y = np.zeros_like(x, shape=(*x.shape[:-1], width), order="C")
        np.put_along_axis(y, index, x, -1)
        return y

    def backward(ctx, dy: Any) -> Any:
        return gather_plane(dy, ctx.index)


def _unpool(name: str, x: Any, indices: Any, k: Sequence[int], s: Sequence[int], p: Sequence[int], size: Any) -> Any:
    dims = len(k)
    require(
        x.ndim in (dims + 1, dims + 2), "{}: the input must be (N, C, ...) or (C, ...), got {}", name, tuple(x.shape)
    )
    at = indices.array if isinstance(indices, Tensor) else np.asarray(indices)
    if at.dtype != np.int64:
        raise RuntimeError(f"{name}: elements in indices should be type int64 but got: {at.dtype}")
    require(
        at.shape == tuple(x.shape), "{}: input {} and indices {} must have one shape", name, tuple(x.shape), at.shape
    )
    default = [(n - 1) * sd + kd - 2 * pd for n, sd, kd, pd in zip(x.shape[-dims:], s, k, p, strict=True)]
    if size is None:
        size = default
    else:
        size = [int(n) for n in size]
        size = size[2:] if len(size) == dims + 2 else size
        if len(size) != dims:
            raise ValueError(
                f"output_size should be a sequence containing {dims} or {dims + 2} elements, but it has a length of "
                f"'{len(size)}'"
            )
        for d, (n, want, stride) in enumerate(zip(size, default, s, strict=True)):
            if not want - stride < n < want + stride:
                raise ValueError(
                    f'invalid output_size "{size}" (dim {d} must be between {want - stride} and {want + stride})'
                )
    lead, width = tuple(x.shape[:-dims]), int(np.prod(size))
    if at.size and (at.min() < 0 or at.max() >= width):
        raise RuntimeError(
            f"Found an invalid max index: {at.max() if at.max() >= width else at.min()} for {width} places"
        )
    y = place_plane(reshape(x, (*lead, -1)), at.reshape(*lead, -1), width)
    return reshape(y, (*lead, *size))


@op(namespace="nn.functional")
def max_unpool2d(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Any:
    """input (N, C, P, Q) or (C, P, Q) laid back at `indices`, max_pool2d's, in an image (N, C, H, W).

    The pooled image may have had several sizes: `output_size` picks one, ValueError if it cannot be it. Raises
    RuntimeError for indices outside the image, of another shape, or not int64.

    Try: max_unpool2d(randn(1, 1, 2, 2), tensor([[[[0, 3], [8, 15]]]]), 2)
    """
    k = pair(kernel_size, "kernel_size")
    s = k if stride is None else pair(stride, "stride")
    return _unpool("max_unpool2d", input, indices, k, s, pair(padding, "padding"), output_size)


@op(namespace="nn.functional")
def max_unpool1d(
    input: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Any:
    """As max_unpool2d, on (N, C, L) or (C, L).

    Try: max_unpool1d(randn(1, 1, 2), tensor([[[1, 2]]]), 2)
    """
    k, s, p = ((v[0] if isinstance(v, (tuple, list)) else v,) for v in (kernel_size, stride or kernel_size, padding))
    return _unpool("max_unpool1d", input, indices, k, s, p, output_size)
