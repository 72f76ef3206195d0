"""A convolution laid out for the tile: which numbers are copied where, and at which offset each tap then finds them.

The input is copied, padding included, into planes of rows `pitch` apart. With stride 1 a tap (r, s) then finds the
numbers of *all* outputs, row after row, in one run of memory that starts at r * pitch + s: the tile walks through
runs, and the few columns between Q and the pitch are computed and not written. With a larger stride the input is
first dealt out to one plane per remainder (phase), within which every stride is 1 again. The gradient for the input
is the same thing the other way round: one stride-1 convolution of dy per phase of dx.

A `Plan` is the table that the kernels read, of one such convolution:

    out[n, k, t * out_step + out_base] = sum over channels c and taps of planes(src)[n, c][t + tap] * w[k, c, tap]
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .geometry import Geometry

Ints = NDArray[np.int64]

# Bytes of planes that one task fills: they should stay in the second-level cache beside a panel of weights,
# where so many PIXELS need no more.
STRIP_BYTES = 256 << 10
PIXELS = 96
# A call is cut into at least so many tasks where its shape allows, so that several threads share one image.
TASKS = 8

# Where the numbers of Plan.numbers stand.
(
    GROUPS,  # groups
    C_IN,  # channels of the source in a group
    C_OUT,  # channels of the output in a group
    SRC_H,  # height and width of the source
    SRC_W,
    OUT_H,  # height and width of the whole output
    OUT_W,
    ROWS,  # outputs of this plan: rows and columns ...
    COLS,
    OUT_STEP_H,  # ... their distance in the whole output, and the first
    OUT_STEP_W,
    OUT_BASE_H,
    OUT_BASE_W,
    SRC_STEP_H,  # from one plane row (column) to the next in the source
    SRC_STEP_W,
    PHASES,
    PITCH,  # from one plane row to the next in memory
    STRIP_ROWS,  # outputs rows of a task; a plane holds STRIP_ROWS + REACH
    REACH,
    STRIPS,
    TAPS,
    PLANES,  # elements of one channel's planes
    W_GROUP,  # strides of the weights: group, output channel, source channel
    W_OUT,
    W_IN,
    SCRATCH,  # bytes of scratch memory per thread
    WIDTH,  # elements of one row of products
    CUTS,  # tasks that share the outputs of a strip
    COUNT,
) = range(29)


class Plan(NamedTuple):
    """What the kernels read.

    numbers  see above
    bases    (2, PHASES): source row and column of each plane's first element
    taps     (TAPS,): offsets in a filter
    cols     (C_IN * TAPS,): offsets in the planes
    packed   elements of the packed weights
    direct   whether the weights of an output lie in the order of `cols`
    ordered  whether taps are the numbers from 0 on
    """

    numbers: Ints
    bases: Ints
    taps: Ints
    cols: Ints
    packed: int
    direct: bool
    ordered: bool


def _plan(
    g: Geometry,
    *,
    channels: tuple[int, int],
    source: tuple[int, int],
    target: tuple[int, int],
    outputs: tuple[int, int],
    out_step: tuple[int, int],
    out_base: tuple[int, int],
    src_step: tuple[int, int],
    phases: list[tuple[int, int]],
    taps: list[tuple[int, int, int, int]],
    w_strides: tuple[int, int, int],
    itemsize: int,
    tile: tuple[int, int],
    strip: int = 0,
) -> Plan:
    """Cut the work into strips (of `strip` rows of outputs, if given) and lay out the memory.

    phases: source (row, column) of each plane's first element; taps: (phase, row, column, offset in a filter); tile:
    its rows and columns.
    """
    c_in, c_out = channels
    rows, cols = outputs
    reach = max((t[1] for t in taps), default=0)
    pitch = cols + max((t[2] for t in taps), default=0)
    per_row = max(1, c_in * len(phases) * pitch * itemsize)
    if not strip:
        # Few outputs would not pay for a panel of weights, nor a few rows for those around them.
        strip = min(rows, max(reach, -(-PIXELS // cols), STRIP_BYTES // per_row - reach))
        strip = min(strip, max(4, -(-rows * g.n * g.groups // TASKS)))
    strips = -(-rows // strip)
    strip = -(-rows // strips)  # of even size
    planes = len(phases) * (strip + reach) * pitch
    width = -(-strip * pitch // tile[1]) * tile[1]
    line = 64 // itemsize
    width += width % (4 * line) == 0 and line  # rows of products a multiple of 4 KiB apart would meet in one cache set
    slack = tile[1]
    scratch = (c_in * planes + slack + tile[0] * width) * itemsize
    offsets = [p * (strip + reach) * pitch + r * pitch + s for p, r, s, _ in taps]
    cuts = min(-(-TASKS // max(1, g.n * g.groups * strips)), -(-c_out // tile[0]))
    places = [t[3] for t in taps]
    numbers = np.zeros(COUNT, np.int64)
    numbers[:COUNT] = (
        *(g.groups, c_in, c_out, *source, *target, rows, cols, *out_step, *out_base, *src_step),
        *(len(phases), pitch, strip, reach, strips, len(taps), planes, *w_strides, -(-scratch // 64) * 64, width, cuts),
    )
    return Plan(
        numbers,
        np.array(phases, np.int64).reshape(-1, 2).T.copy(),
        np.array(places, np.int64),
        (np.arange(c_in, dtype=np.int64)[:, None] * planes + np.array(offsets, np.int64)).ravel(),
        g.groups * -(-c_out // tile[0]) * tile[0] * c_in * len(taps),
        places == list(range(w_strides[2])),
        places == list(range(len(places))),
    )


def _forward_taps(g: Geometry) -> tuple[list[tuple[int, int]], list[tuple[int, int, int, int]]]:
    """The planes that the window reads, and its taps in them."""
    (sh, sw), (ph, pw), (dh, dw) = g.stride, g.padding, g.dilation
    used: dict[tuple[int, int], int] = {}
    taps = []
    for r in range(g.r):
        for s in range(g.s):
            phase = (r * dh % sh, s * dw % sw)
            number = used.setdefault(phase, len(used))
            taps.append((number, r * dh // sh, s * dw // sw, r * g.s + s))
    return [(a - ph, b - pw) for a, b in used], taps


@lru_cache(maxsize=512)
def forward(g: Geometry, itemsize: int, tile: tuple[int, int], strip: int = 0) -> Plan:
    """The plan of y = conv2d(x, w), in strips of so many rows if that is given."""
    phases, taps = _forward_taps(g)
    window = g.r * g.s
    return _plan(
        g,
        channels=(g.c // g.groups, g.k // g.groups),
        source=(g.h, g.w),
        target=(g.p, g.q),
        outputs=(g.p, g.q),
        out_step=(1, 1),
        out_base=(0, 0),
        src_step=g.stride,
        phases=phases,
        taps=taps,
        w_strides=(g.k // g.groups * (g.c // g.groups) * window, g.c // g.groups * window, window),
        itemsize=itemsize,
        tile=tile,
        strip=strip,
    )


@lru_cache(maxsize=512)
def backward(g: Geometry, itemsize: int, tile: tuple[int, int]) -> tuple[Plan, ...]:
    """The plans of dx = conv2d_dx(dy, w), one per phase of dx; together they write every element of it."""

    def along(axis: int) -> list[tuple[int, int, int, int, list[tuple[int, int]]]]:
        """Per phase: outputs, first output, first source, taps as (number, offset)."""
        size, window = (g.h, g.w)[axis], (g.r, g.s)[axis]
        stride, padding, dilation = g.stride[axis], g.padding[axis], g.dilation[axis]
        found = []
        for phase in range(stride):
            # x[h] met dy[p] under tap r where h + padding = p * stride + r * dilation; here h + padding = m * stride
            # + phase.
            first = -(-(padding - phase) // stride)
            last = (size - 1 + padding - phase) // stride
            if last < first:
                continue
            taps = [
                (r, (r * dilation - phase) // stride) for r in range(window) if (r * dilation - phase) % stride == 0
            ]
            back = max((e for _, e in taps), default=0)
            found.append(
                (
                    last - first + 1,
                    first * stride + phase - padding,
                    first - back,
                    stride,
                    [(r, back - e) for r, e in taps],
                )
            )
        return found

    window = g.r * g.s
    plans = []
    for rows, h0, p0, sh, taps_h in along(0):
        for cols, w0, q0, sw, taps_w in along(1):
            plans.append(
                _plan(
                    g,
                    channels=(g.k // g.groups, g.c // g.groups),
                    source=(g.p, g.q),
                    target=(g.h, g.w),
                    outputs=(rows, cols),
                    out_step=(sh, sw),
                    out_base=(h0, w0),
                    src_step=(1, 1),
                    phases=[(p0, q0)],
                    taps=[(0, i, j, r * g.s + s) for r, i in taps_h for s, j in taps_w],
                    w_strides=(g.k // g.groups * (g.c // g.groups) * window, window, g.c // g.groups * window),
                    itemsize=itemsize,
                    tile=tile,
                )
            )
    return tuple(plans)


__all__: list[Any] = ["Plan", "backward", "forward"]
