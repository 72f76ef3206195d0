"""Convolution of dilated windows, for which there are no transforms, as one of plain windows, for which there are.

A window whose taps are d apart reads pixels of one remainder modulo d only, and gives the outputs of one remainder. So
an image falls apart into d x d images, each d times smaller, on which the window is plain: images of a larger batch,
for Winograd's way. Dealing pixels out and gathering outputs are copies.

Chen et al. 2015, arXiv:1412.7062 (the "hole algorithm").
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu import threads
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from . import winograd, winograd_dw
from .geometry import Geometry, Pair, geometry

Array = NDArray[Any]


@jit(inner=True)
def _deal(task, slot, x, small, down, across):  # type: ignore[no-untyped-def]
    """Task: one channel of one image."""
    channels, (_, _, h, w) = x.shape[1], small.shape
    n, c = task // channels, task % channels
    for a in range(down):
        for b in range(across):
            image = (n * down + a) * across + b
            for i in range(h):
                for j in range(w):
                    small[image, c, i, j] = x[n, c, i * down + a, j * across + b]


@jit(inner=True)
def _gather(task, slot, x, small, down, across):  # type: ignore[no-untyped-def]
    """Task: one channel of one image."""
    channels, (_, _, h, w) = x.shape[1], small.shape
    n, c = task // channels, task % channels
    for a in range(down):
        for i in range(h):
            for b in range(across):
                image = (n * down + a) * across + b
                for j in range(w):
                    x[n, c, i * down + a, j * across + b] = small[image, c, i, j]


@jit
def _deal_all(nthreads, x, small, down, across):  # type: ignore[no-untyped-def]
    parallel_for(_deal, x.shape[0] * x.shape[1], nthreads, (x, small, down, across))


@jit
def _gather_all(nthreads, x, small, down, across):  # type: ignore[no-untyped-def]
    parallel_for(_gather, x.shape[0] * x.shape[1], nthreads, (x, small, down, across))


def _apart(x: Array, g: Geometry) -> Array:
    """(N, C, H, W) -> (N d d, C, H / d, W / d)"""
    (down, across), (n, c, h, w) = g.dilation, x.shape
    small = np.empty((n * down * across, c, h // down, w // across), x.dtype)
    _deal_all(threads.get_num_threads(), np.ascontiguousarray(x), small, down, across)
    return small


def _together(small: Array, g: Geometry, shape: tuple[int, ...]) -> Array:
    """What _apart took apart."""
    x = np.empty(shape, small.dtype)
    _gather_all(threads.get_num_threads(), x, small, *g.dilation)
    return x


def _plain(g: Geometry) -> tuple[Any, ...]:
    """stride, padding, dilation and groups of the plain windows."""
    return 1, (g.padding[0] // g.dilation[0], g.padding[1] // g.dilation[1]), 1, 1


def conv2d(x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """y = conv2d(x, w) + b"""
    g = geometry(x.shape, w.shape, stride, padding, dilation, groups)
    return _together(winograd.conv2d(_apart(x, g), w, b, *_plain(g)), g, g.y_shape)


def conv2d_dx(
    dy: Array, w: Array, x_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dx, from dy dealt out likewise."""
    g = geometry(tuple(x_shape), w.shape, stride, padding, dilation, groups)
    (down, across), (n, c, h, width) = g.dilation, g.x_shape
    small = (n * down * across, c, h // down, width // across)
    return _together(winograd.conv2d_dx(_apart(dy, g), w, small, *_plain(g)), g, g.x_shape)


def conv2d_dw(
    dy: Array, x: Array, w_shape: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """dw, the sum over all the smaller images."""
    g = geometry(x.shape, tuple(w_shape), stride, padding, dilation, groups)
    return winograd_dw.conv2d_dw(_apart(dy, g), _apart(x, g), tuple(w_shape), *_plain(g))
