"""What both ways through attention (cpu.py, tiles.py) share: the numbers of a call, and steps on blocks of scores.

A block is (keys, queries): lanes are queries.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cpu import gather, threads
from ..cpu.jit import jit

Array = NDArray[Any]

KEYS = 64  # keys in a block: a multiple of the tile's rows on every tier but avx2, whose tile overshoots into PAD rows
VECTORS = 2  # of queries in a block
NOTES = threads.MAX_THREADS  # bytes: one for every thread
TASKS = 16  # what a call is cut into at least, if they are long enough


class Sizes(NamedTuple):
    """Numbers of one call, for the kernels. Strides count elements: (batch, head, row)."""

    b: int
    h: int
    hk: int
    t: int
    s: int
    d: int
    e: int
    q: tuple[int, int, int]
    k: tuple[int, int, int]
    v: tuple[int, int, int]
    causal: int
    mask_kind: int  # 0 none, 1 bool, 2 float
    mask: tuple[int, int, int, int]  # strides in bytes


class Gradients(NamedTuple):
    """Strides of what goes in and out, in elements: (batch, head, row)."""

    out: tuple[int, int, int]
    dout: tuple[int, int, int]
    dq: tuple[int, int, int, int]  # after that from one stretch of keys to the next
    dk: tuple[int, int, int]
    dv: tuple[int, int, int]


class Steps(NamedTuple):
    """Functions for kernels."""

    turn: Any
    turn_back: Any
    forbid: Any
    note: Any
    noted: Any


@functools.cache
def steps(dtype: str, tier: str) -> Steps:
    """The steps for one dtype and tier."""
    size, nlanes = np.dtype(dtype).itemsize, gather.lanes(dtype, tier)
    ncols = VECTORS * nlanes
    low = np.dtype(dtype).type(-np.inf)
    pointer, flags = gather.pointer(dtype), gather.pointer("uint8")
    columns, lines = gather.turn(dtype, nlanes, True), gather.turn(dtype, nlanes, False)

    @jit(inner=True)
    def turn(source, row, some, width, to):
        """to[i, lane] = source[lane, i] of `some` rows of `width` numbers; zeros in other lanes, and in lines up to a
        multiple of a vector's.
        """
        for j in range(0, ncols, nlanes):
            here = min(max(some - j, 0), nlanes)
            columns((source + j * row * size, row * size, here, width, to + j * size, ncols * size))

    @jit(inner=True)
    def turn_back(source, some, width, to, row):
        """to[lane, i] = source[i, lane] for `some` lanes and `width` lines."""
        for i in range(0, width, nlanes):
            here = min(nlanes, width - i)
            lines((source + i * ncols * size, ncols * size, here, some, to + i * size, row * size))

    @jit(inner=True)
    def forbid(z, image, head, t0, some, s0, count, mask, scores, turned_mask):
        """-inf where a query may not attend; a float mask is added."""
        x, start = pointer(scores), mask + image * z.mask[0] + head * z.mask[1] + t0 * z.mask[2] + s0 * z.mask[3]
        if z.mask_kind == 2 and z.mask[3] == size:
            for j in range(0, ncols, nlanes):
                here = min(max(some - j, 0), nlanes)
                columns((start + j * z.mask[2], z.mask[2], here, count, turned_mask + j * size, ncols * size))
            y = pointer(turned_mask)
            for i in range(count * ncols):
                x[i] = low if y[i] == low else x[i] + y[i]
        elif z.mask_kind == 1 and z.mask[2] == 0:  # keys that no query may see
            for i in range(count):
                if flags(start + i * z.mask[3])[0] == 0:
                    for lane in range(ncols):
                        x[i * ncols + lane] = low
        elif z.mask_kind:
            for i in range(count):
                for lane in range(some):
                    at = start + lane * z.mask[2] + i * z.mask[3]
                    if z.mask_kind == 2:
                        more = pointer(at)[0]
                        x[i * ncols + lane] = low if more == low else x[i * ncols + lane] + more
                    elif flags(at)[0] == 0:
                        x[i * ncols + lane] = low
        if z.causal:
            for i in range(count):
                for lane in range(min(ncols, s0 + i - t0)):
                    x[i * ncols + lane] = low

    @jit(inner=True)
    def note(slot, what, notes):
        """Remember the worst that a thread has met: 1 for a NaN or an Inf among what it wrote."""
        flags(notes)[slot] = max(flags(notes)[slot], what)

    @jit(inner=True)
    def noted(nthreads, notes):
        """The worst of all threads; 0 where all is well."""
        worst = 0
        for slot in range(nthreads):
            worst = max(worst, flags(notes)[slot])
        return worst

    return Steps(turn, turn_back, forbid, note, noted)


def rows(a: Array) -> tuple[Array, tuple[int, int, int]]:
    """`a` with its last axis in one piece (copied where it is not), and its strides in elements."""
    size = a.itemsize
    if (a.strides[3] != size and a.shape[3] > 1) or not a.flags.aligned:
        a = np.array(a, order="C")
    b, h, t, _ = a.strides
    return a, (b // size, h // size, t // size)


def laid_as(a: Array, shape: tuple[int, ...], stretches: int = 1) -> tuple[Array, tuple[int, int, int, int]]:
    """`stretches` new arrays, (stretches, *shape), and their steps in elements: (batch, head, row, stretch).

    Their axes lie in memory in the order of a's, so that heads that were cut from rows of all heads go back without
    a copy; but the last axis is in one piece. Where a is broadcast, rows lie in their usual order.
    """
    order = sorted(range(3), key=lambda axis: -a.strides[axis]) if all(a.strides) else [0, 1, 2]
    made = np.empty((stretches, *(shape[axis] for axis in order), shape[3]), a.dtype)
    made = made.transpose(0, *(1 + order.index(axis) for axis in range(3)), 4)
    stretch, b, h, t, _ = made.strides
    size = a.itemsize
    return made, (b // size, h // size, t // size, stretch // size)


def mask_strides(mask: Array | None, full: tuple[int, ...]) -> tuple[Array | None, int, tuple[int, int, int, int]]:
    """The mask, its kind, and its strides in bytes as if broadcast to (B, H, T, S)."""
    if mask is None:
        return None, 0, (0, 0, 0, 0)
    mask = mask if mask.flags.aligned else mask.copy()
    b, h, t, s = np.broadcast_to(mask, full).strides
    return mask, 1 if mask.dtype == bool else 2, (b, h, t, s)


def scale_of(q: Array, scale: float | None) -> Any:
    d = q.shape[3]
    return q.dtype.type((1 / math.sqrt(d) if d else 1.0) if scale is None else scale)


def rounded(n: int, to: int) -> int:
    return -(-n // to) * to


def stretches_of(heads: int, s: int) -> tuple[int, int]:
    """How many stretches the backward cuts the keys of a head into, and how long they are.

    It works through all keys of a head in one task, unless there are few heads.
    """
    stretches = min(-(-TASKS // heads), -(-s // (2 * KEYS)))
    length = rounded(-(-s // stretches), KEYS)
    return -(-s // length), length
