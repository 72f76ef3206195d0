"""Images looked up at points between their pixels: grid_sample; the points of an affine map: affine_grid.

M. Jaderberg et al., "Spatial transformer networks" (2015). Made of the engine's ops: both the image and the grid have
gradients, of any order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices, dtypes
from minidl.autograd import op, require
from minidl.ops.arithmetic import remainder
from minidl.ops.axes import permute, transpose
from minidl.ops.copies import clone_contiguous
from minidl.ops.indexing import getitem
from minidl.ops.limits import clamp
from minidl.ops.linalg import bmm
from minidl.ops.logic import raw
from minidl.ops.masks import where
from minidl.ops.shapes import reshape
from minidl.ops.signs import abs


def _pixels(at: Any, n: int, align_corners: bool) -> Any:
    """-1 ... 1 as pixel numbers: the centres of the border pixels, or with align_corners=False their outer edges."""
    return (at + 1) * ((n - 1) / 2) if align_corners else ((at + 1) * n - 1) / 2


def _reflected(at: Any, n: int, align_corners: bool) -> Any:
    low, span = (0.0, n - 1.0) if align_corners else (-0.5, float(n))
    if span <= 0:
        return at * 0.0
    folded = remainder(abs(at - low), 2 * span)
    return where(raw(folded) > span, 2 * span - folded, folded) + low


def _placed(at: Any, n: int, padding_mode: str, align_corners: bool) -> Any:
    if padding_mode == "reflection":
        at = _reflected(at, n, align_corners)
    return at if padding_mode == "zeros" else clamp(at, 0, n - 1)


def _look_up(x: Any, iy: Any, ix: Any) -> Any:
    """x (N, C, H, W) at whole pixels iy, ix (N, P): (N, P, C), 0 beside the image."""
    h, w = x.shape[2], x.shape[3]
    inside = (iy >= 0) & (iy < h) & (ix >= 0) & (ix < w)
    n = np.arange(x.shape[0])[:, None]
    found = getitem(permute(x, (0, 2, 3, 1)), (n, np.where(inside, iy, 0), np.where(inside, ix, 0)))
    return where(inside[:, :, None], found, 0.0)


def _whole(a: Any) -> Any:
    """Floor as int64; what is not finite lies beside every image."""
    return np.floor(np.where(np.isfinite(a) & (np.abs(a) < 2**31), a, -100.0)).astype(np.int64)


def _cubic(t: Any) -> list:
    """Keys's weights of the four pixels around, a = -0.75, at t past the second."""
    a = -0.75

    def near(u: Any) -> Any:
        return ((a + 2) * u - (a + 3)) * u * u + 1

    def far(u: Any) -> Any:
        return ((a * u - 5 * a) * u + 8 * a) * u - 4 * a

    return [far(t + 1), near(t), near(1 - t), far(2 - t)]


@op(namespace="nn.functional")
def grid_sample(
    input: Any, grid: Any, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Any:
    """input (N, C, H, W) looked up at grid (N, P, Q, 2), points (x, y) with -1 and 1 at the borders: (N, C, P, Q).

    mode "bilinear", "nearest" or "bicubic"; padding_mode "zeros", "border" or "reflection" for points beside the image;
    with align_corners -1 and 1 are the centres of the border pixels, else (and by default) their outer edges. Raises
    RuntimeError for shapes and dtypes that do not fit, NotImplementedError for volumes.

    Try: grid_sample(randn(1, 2, 4, 4), rand(1, 3, 3, 2) - 0.5, align_corners=False)
    """
    if mode not in ("bilinear", "nearest", "bicubic"):
        raise ValueError(f"mode must be 'bilinear', 'nearest' or 'bicubic', not {mode!r}")
    if padding_mode not in ("zeros", "border", "reflection"):
        raise ValueError(f"padding_mode must be 'zeros', 'border' or 'reflection', not {padding_mode!r}")
    if len(input.shape) == 5:
        raise NotImplementedError("grid_sample: images (N, C, H, W) only, no volumes")
    kind = dtypes.as_numpy(input.dtype)
    require(kind == dtypes.as_numpy(grid.dtype), "grid_sample: input is {}, grid {}", input.dtype, grid.dtype)
    require(
        len(input.shape) == 4 and len(grid.shape) == 4 and grid.shape[3] == 2 and input.shape[0] == grid.shape[0],
        "grid_sample: expected input (N, C, H, W) and grid (N, P, Q, 2), got {} and {}",
        tuple(input.shape),
        tuple(grid.shape),
    )
    n, c, h, w = input.shape
    require(h > 0 and w > 0, "grid_sample: the image {} has no pixels", tuple(input.shape))
    p, q, corners = grid.shape[1], grid.shape[2], bool(align_corners)
    points = reshape(grid, (n, p * q, 2))
    x, y = (_pixels(points[:, :, k], size, corners) for k, size in ((0, w), (1, h)))
    if mode != "bicubic":
        x, y = _placed(x, w, padding_mode, corners), _placed(y, h, padding_mode, corners)
    if mode == "nearest":
        out = _look_up(input, _whole(np.rint(raw(y))), _whole(np.rint(raw(x))))
        never = devices.array_module(raw(x)).zeros((n, p * q, 1), bool)
        out = out + where(never, reshape(x + y, (n, p * q, 1)), 0.0)  # the grid's gradient is 0
    elif mode == "bilinear":
        left, top = _whole(raw(x)), _whole(raw(y))
        fx, fy = x - left.astype(kind), y - top.astype(kind)
        out = 0
        for dy, wy in ((0, 1 - fy), (1, fy)):
            for dx, wx in ((0, 1 - fx), (1, fx)):
                out = out + _look_up(input, top + dy, left + dx) * reshape(wy * wx, (n, p * q, 1))
    else:
        left, top = _whole(raw(x)), _whole(raw(y))
        wx, wy = _cubic(x - left.astype(kind)), _cubic(y - top.astype(kind))
        out = 0
        for j in range(4):
            iy = _whole(np.rint(_placed((top + j - 1).astype(np.float64), h, padding_mode, corners)))
            for i in range(4):
                ix = _whole(np.rint(_placed((left + i - 1).astype(np.float64), w, padding_mode, corners)))
                out = out + _look_up(input, iy, ix) * reshape(wy[j] * wx[i], (n, p * q, 1))
    return clone_contiguous(reshape(transpose(out, 1, 2), (n, c, p, q)))


@op(namespace="nn.functional")
def affine_grid(theta: Any, size: Any, align_corners: bool | None = None) -> Any:
    """The grid (N, H, W, 2) for grid_sample that looks up theta (N, 2, 3) times (x, y, 1); size is (N, C, H, W).

    Raises ValueError for another shape, NotImplementedError for volumes.

    Try: affine_grid(randn(1, 2, 3), (1, 1, 3, 3), align_corners=False)
    """
    sizes = tuple(int(s) for s in size)
    if dtypes.as_numpy(theta.dtype).kind != "f":
        raise ValueError(f"Expected theta to have floating point type, but got {theta.dtype}")
    if len(sizes) == 5:
        raise NotImplementedError("affine_grid: images (N, C, H, W) only, no volumes")
    if len(sizes) != 4 or tuple(theta.shape[1:]) != (2, 3) or len(theta.shape) != 3:
        raise ValueError(
            f"Expected a batch of 2D affine matrices of shape Nx2x3 for size {sizes}. Got {tuple(theta.shape)}"
        )
    if min(sizes) <= 0:
        raise ValueError(f"Expected non-zero, positive output size. Got {sizes}")
    n, _, h, w = sizes
    kind = dtypes.as_numpy(theta.dtype)

    def line(k: int) -> Any:
        at = np.linspace(-1, 1, k) if k > 1 else np.zeros(1)
        return (at if align_corners else at * (k - 1) / k).astype(kind)

    ones = np.ones((h, w), kind)
    base = np.stack([ones * line(w)[None, :], ones * line(h)[:, None], ones], -1).reshape(1, h * w, 3)
    spread = devices.move(np.broadcast_to(base, (n, h * w, 3)), devices.device_of(raw(theta)))
    return reshape(bmm(spread, transpose(theta, 1, 2)), (n, h, w, 2))
