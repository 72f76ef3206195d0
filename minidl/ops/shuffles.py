"""Channels and pixels exchanged: pixel_shuffle, pixel_unshuffle, channel_shuffle."""

from __future__ import annotations

from typing import Any

from minidl.autograd import op, require
from minidl.ops.axes import permute
from minidl.ops.copies import clone
from minidl.ops.shapes import reshape


@op()
def pixel_shuffle(input: Any, upscale_factor: int) -> Any:
    """(..., C r^2, H, W) -> (..., C, H r, W r): each r^2 channels become r x r pixels; Shi et al. 2016
    (arXiv:1609.05158).

    Raises RuntimeError unless r^2 divides the channels.

    Try: pixel_shuffle(randn(1, 8, 2, 3), 2)
    """
    r, shape = upscale_factor, tuple(input.shape)
    require(len(shape) >= 3, "pixel_shuffle expects at least 3 dimensions, got {}", shape)
    require(r > 0, "pixel_shuffle expects a positive upscale_factor, but got {}", r)
    *lead, c, h, w = shape
    require(c % (r * r) == 0, "pixel_shuffle: {} channels are not divisible by {} (upscale_factor squared)", c, r * r)
    n = len(lead)
    x = reshape(input, (*lead, c // (r * r), r, r, h, w))
    x = clone(permute(x, (*range(n), n, n + 3, n + 1, n + 4, n + 2)))  # ..., C, H, r, W, r
    return reshape(x, (*lead, c // (r * r), h * r, w * r))


@op()
def pixel_unshuffle(input: Any, downscale_factor: int) -> Any:
    """(..., C, H r, W r) -> (..., C r^2, H, W), the inverse of pixel_shuffle. Raises RuntimeError unless r divides
    both sizes.

    Try: pixel_unshuffle(randn(1, 2, 4, 6), 2)
    """
    r, shape = downscale_factor, tuple(input.shape)
    require(len(shape) >= 3, "pixel_unshuffle expects at least 3 dimensions, got {}", shape)
    require(r > 0, "pixel_unshuffle expects a positive downscale_factor, but got {}", r)
    *lead, c, h, w = shape
    require(h % r == 0 and w % r == 0, "pixel_unshuffle: height {} and width {} must be divisible by {}", h, w, r)
    n = len(lead)
    x = reshape(input, (*lead, c, h // r, r, w // r, r))
    x = clone(permute(x, (*range(n), n, n + 2, n + 4, n + 1, n + 3)))  # ..., C, r, r, H, W
    return reshape(x, (*lead, c * r * r, h // r, w // r))


@op()
def channel_shuffle(input: Any, groups: int) -> Any:
    """(N, C, ...) with channel g (C / groups) + i moved to i groups + g; Zhang et al. 2018 (arXiv:1707.01083).

    Raises RuntimeError unless the groups divide the channels.

    Try: channel_shuffle(randn(1, 6, 2), 3)
    """
    shape = tuple(input.shape)
    require(len(shape) > 2, "channel_shuffle expects an input of more than 2 dimensions, got {}", shape)
    require(groups > 0, "channel_shuffle: the number of groups must be positive, got {}", groups)
    n, c, *size = shape
    require(c % groups == 0, "channel_shuffle: {} channels are not divisible by {} groups", c, groups)
    x = reshape(input, (n, groups, c // groups, *size))
    return reshape(clone(permute(x, (0, 2, 1, *range(3, len(shape) + 1)))), shape)
