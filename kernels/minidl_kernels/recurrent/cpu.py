"""Recurrences on the CPU: W packed once, and each thread takes its rows of the batch through all steps alone.

Rows of a batch meet nowhere in a step, so threads need not wait for each other. Within its rows a thread takes some
units, whose panel of W then lies in the L1 cache, and for a few rows at a time makes the product with the state in
registers; what the gates do follows at once, while the sums are near. The state is small and alternates between two
places, since the units that come later still need the old one.

Every number is made by one thread in one order, whichever rows it has: results do not depend on how many there are.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cpu import gather, machine, threads, workspace
from ..cpu.gather import name as dtype_of
from ..cpu.jit import jit
from ..cpu.pack import pack
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.tile import Tile
from . import stages
from .stages import KEEP, TANH

Array = NDArray[Any]

SMALL = 1 << 17  # multiply-adds below which a second thread costs more than it saves

# For kernels: units, their number rounded up to vectors, steps; whether in reverse; flags of stages.py.
Sizes = namedtuple("Sizes", "units room steps reverse flags")
# Addresses: rows of each step, the first of them, and where each task's rows of the batch begin.
Cuts = namedtuple("Cuts", "sizes starts bounds tasks")


class _Kernels:
    """What the kernels of one dtype and tier are made of."""

    def __init__(self, dtype: str, tier: str) -> None:
        self.dtype, self.tier, self.tag = dtype, tier, f"{dtype} {tier}"
        self.size, self.lanes = np.dtype(dtype).itemsize, gather.lanes(dtype, tier)
        self.most = stages.most_streams(tier)

    def rows(self, streams: int) -> int:
        return stages.most_rows(self.tier, streams)

    def packer(self) -> Any:
        """f(task, slot, gates, units, k, step, w, lane_step, k_step, to): panel `task` of W.

        Panel p holds lanes p // gates * lanes ... of gate p % gates, gates being `step` bytes apart.
        """
        size, nlanes = self.size, self.lanes
        panel = pack(Tile(self.tier, "f32" if size == 4 else "f64", 1, 1, nlanes, size), "b")

        @jit(inner=True)
        def pack_one(task, slot, gates, units, k, step, w, lane_step, k_step, to):  # type: ignore[no-untyped-def]
            first = task // gates * nlanes
            source = w + task % gates * step + first * lane_step
            panel(source, lane_step, k_step, min(nlanes, units - first), k, to + task * k * nlanes * size)

        return pack_one

    def wide(self, adding: bool) -> Any:
        """f(n, k, a, a_row, b, c, c_row, vectors): the product for all units, `vectors` of them.    C (+)= A B

        A panel of B, or several side by side, passes all rows before the next is fetched.
        """
        width, most = self.size * self.lanes, self.most
        one, two = (stages.product(self.dtype, self.tier, s, adding) for s in (1, 2))
        four = stages.product(self.dtype, self.tier, most, adding)
        rows_1, rows_2, rows_4 = (self.rows(s) for s in (1, 2, most))

        @jit(inner=True)
        def multiply(n, k, a, a_row, b, c, c_row, first, streams):  # type: ignore[no-untyped-def]
            panel = k * width
            b, c = b + first * panel, c + first * width
            rows = rows_4 if streams == most else rows_2 if streams == 2 else rows_1
            tiles = (n + rows - 1) // rows
            for tile in range(tiles):
                i = n * tile // tiles
                count = n * (tile + 1) // tiles - i
                if streams == most:
                    four(count, k, a + i * a_row, a_row, b, panel, c + i * c_row, c_row)
                elif streams == 2:
                    two(count, k, a + i * a_row, a_row, b, panel, c + i * c_row, c_row)
                else:
                    one(count, k, a + i * a_row, a_row, b, panel, c + i * c_row, c_row)

        @jit(inner=True)
        def everything(n, k, a, a_row, b, c, c_row, vectors):  # type: ignore[no-untyped-def]
            first = 0
            while first < vectors:
                streams = most if vectors - first >= most else 2 if vectors - first >= 2 else 1
                multiply(n, k, a, a_row, b, c, c_row, first, streams)
                first += streams

        return everything

    def copier(self) -> Any:
        """f(n, source, to): n numbers."""
        pointer = gather.pointer(self.dtype)

        @jit(inner=True)
        def copy(n, source, to):  # type: ignore[no-untyped-def]
            x, y = pointer(source), pointer(to)
            for i in range(n):
                y[i] = x[i]

        return copy


@functools.cache
def _forward(kind: str, dtype: str, tier: str) -> Any:
    """kernel(z, cuts, w, w_row, w_col, h, last, places, work, room, nthreads): addresses, w with its steps in bytes;
    `places` as unpacked below, `room` bytes of scratch memory for each thread behind those for W.
    """
    s = _Kernels(dtype, tier)
    size, nlanes, width = s.size, s.lanes, s.size * s.lanes
    pack_one, copy, table = s.packer(), s.copier(), gather.pointer("int64")
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[kind]

    if kind == "rnn":
        multiply = s.wide(adding=False)
        cell = stages.units(dtype, tier, 6, stages.rnn)

        @jit(inner=True)
        def step(z, at, r0, n, w, now, after, sums, p):  # type: ignore[no-untyped-def]
            """All units of n rows of the step whose rows begin at `at`; r0 is the first of them in the state."""
            gx, y, before = p
            line, row = z.room * width, z.units * size
            multiply(n, z.units, now, line, w, sums, line, z.room)
            for i in range(n):
                here = (at + i) * row
                for u in range(z.room):
                    j = u * width
                    to = (sums + i * line + j, gx + here + j, now + i * line + j, after + i * line + j,
                          before + here + j, y + here + j)  # fmt: skip
                    cell(z.units - u * nlanes, z.flags, to)
    else:
        tile, rows = stages.product(dtype, tier, gates, False), s.rows(gates)
        cell = stages.units(dtype, tier, 10, stages.lstm if kind == "lstm" else stages.gru)
        read, write = stages.fetch(tier, gates, False), stages.fetch(tier, 1, True)
        write_gates = stages.fetch(tier, gates, True)
        has_cells = kind == "lstm"

        @jit(inner=True)
        def step(z, at, r0, n, w, now, after, sums, p):  # type: ignore[no-untyped-def]
            """As above. `state` is the cells of the batch (lstm), or the bias (gru)."""
            gx, y, before, opened, inside, state = p
            line, row, panel = z.room * width, z.units * size, z.units * width
            state_row = row if has_cells else 0
            tiles = (n + rows - 1) // rows
            for u in range(z.room):
                j = u * width
                for t in range(tiles):
                    first = n * t // tiles
                    last = n * (t + 1) // tiles
                    b = w + u * gates * panel
                    # The functions of the gates would wait for memory: it comes while the tile is busy.
                    for i in range(first, last):
                        here = (at + i) * row
                        read(gx + gates * here + j, row)
                        write(y + here + j, row)
                        if z.flags & KEEP:
                            write_gates(opened + gates * here + j, row)
                            write(inside + here + j, row)
                            write(before + here + j, row)
                    tile(last - first, z.units, now + first * line, line, b, panel, sums, gates * width)
                    for i in range(first, last):
                        here = (at + i) * row
                        to = (sums + (i - first) * gates * width, gx + gates * here + j, opened + gates * here + j,
                              state + (r0 + i) * state_row + j, inside + here + j, now + i * line + j,
                              after + i * line + j, before + here + j, y + here + j, row)  # fmt: skip
                        cell(z.units - u * nlanes, z.flags, to)

    @jit(inner=True)
    def run(task, slot, z, cuts, w, h, last, work, room, p):  # type: ignore[no-untyped-def]
        """Task: its rows of the batch, from the first step to the last."""
        sizes, starts, bounds = table(cuts.sizes), table(cuts.starts), table(cuts.bounds)
        r0, r1 = bounds[task], bounds[task + 1]
        line, row = z.room * width, z.units * size
        now = work + slot * room
        after = now + (r1 - r0) * line
        sums = after + (r1 - r0) * line
        for r in range(r0, r1):
            copy(z.units, h + r * row, now + (r - r0) * line)
            copy(z.units, h + r * row, after + (r - r0) * line)
        for k in range(z.steps):
            t = z.steps - 1 - k if z.reverse else k
            n = min(sizes[t], r1) - r0
            if n > 0:
                step(z, starts[t] + r0, r0, n, w, now, after, sums, p)
                now, after = after, now
            # Rows that end here.
            going = 0 if k == z.steps - 1 else sizes[t - 1] if z.reverse else sizes[t + 1]
            for r in range(max(r0, going), r0 + n):
                copy(z.units, now + (r - r0) * line, last + r * row)

    @jit(tag=f"{kind} {s.tag}")
    def kernel(z, cuts, w, w_row, w_col, h, last, places, work, room, nthreads):  # type: ignore[no-untyped-def]
        panels = z.room * gates
        job = (gates, z.units, z.units, z.units * w_row, w, w_row, w_col, work)
        parallel_for(pack_one, panels, nthreads, job)
        more = work + panels * z.units * width
        parallel_for(run, cuts.tasks, nthreads, (z, cuts, work, h, last, more, room, places))

    return kernel


@functools.cache
def _backward(kind: str, dtype: str, tier: str) -> Any:
    """As `_forward`, from the last step to the first; dh is both that of h_n and the result."""
    s = _Kernels(dtype, tier)
    size, nlanes, width = s.size, s.lanes, s.size * s.lanes
    pack_one, copy, table = s.packer(), s.copier(), gather.pointer("int64")
    multiply = s.wide(adding=True)
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[kind]

    if kind == "rnn":
        cell = stages.units(dtype, tier, 4, stages.rnn_backward)

        @jit(inner=True)
        def differentiate(z, at, r, older, dh, p):  # type: ignore[no-untyped-def]
            """One row of the step: `at` among those of all steps, `r` in the state, `older` its place a step before, or
            -1."""
            dy, y, da = p
            here = at * z.units * size
            for u in range(z.room):
                j = u * width
                cell(z.units - u * nlanes, z.flags, (dy + here + j, dh + j, y + here + j, da + here + j))
            return da

    elif kind == "lstm":
        cell = stages.units(dtype, tier, 8, stages.lstm_backward)

        @jit(inner=True)
        def differentiate(z, at, r, older, dh, p):  # type: ignore[no-untyped-def]
            """As above."""
            dy, opened, cells, c, dc, da = p
            row = z.units * size
            here, there = at * row, r * row
            old = c + there if older < 0 else cells + older * row
            for u in range(z.room):
                j = u * width
                to = (dy + here + j, dh + j, dc + there + j, opened + 4 * here + j, old + j, cells + here + j,
                      da + 4 * here + j, row)  # fmt: skip
                cell(z.units - u * nlanes, z.flags, to)
            return da

    else:
        cell = stages.units(dtype, tier, 8, stages.gru_backward)

        @jit(inner=True)
        def differentiate(z, at, r, older, dh, p):  # type: ignore[no-untyped-def]
            """As above."""
            dy, opened, inner, before, da, dp = p
            row = z.units * size
            here = at * row
            for u in range(z.room):
                j = u * width
                to = (dy + here + j, dh + j, opened + 3 * here + j, inner + here + j, before + here + j,
                      da + 3 * here + j, dp + 3 * here + j, row)  # fmt: skip
                cell(z.units - u * nlanes, z.flags, to)
            return dp

    @jit(inner=True)
    def run(task, slot, z, cuts, w, dh, work, room, p):  # type: ignore[no-untyped-def]
        """Task: its rows of the batch, from the last step to the first."""
        sizes, starts, bounds = table(cuts.sizes), table(cuts.starts), table(cuts.bounds)
        r0, r1 = bounds[task], bounds[task + 1]
        line, row = z.room * width, z.units * size
        state = work + slot * room
        for r in range(r0, r1):
            copy(z.units, dh + r * row, state + (r - r0) * line)
        for k in range(z.steps):
            t = k if z.reverse else z.steps - 1 - k
            earlier = t + 1 if z.reverse else t - 1  # the step that ran before this one
            there = 0 <= earlier < z.steps
            n = min(sizes[t], r1) - r0
            if n <= 0:
                continue
            source = 0
            for i in range(n):
                older = starts[earlier] + r0 + i if there and r0 + i < sizes[earlier] else -1
                source = differentiate(z, starts[t] + r0 + i, r0 + i, older, state + i * line, p)
            source += (starts[t] + r0) * gates * row
            multiply(n, gates * z.units, source, gates * row, w, state, line, z.room)
        for r in range(r0, r1):
            copy(z.units, state + (r - r0) * line, dh + r * row)

    @jit(tag=f"{kind} {s.tag}")
    def kernel(z, cuts, w, w_row, w_col, dh, places, work, room, nthreads):  # type: ignore[no-untyped-def]
        k = gates * z.units
        parallel_for(pack_one, z.room, nthreads, (1, z.units, k, 0, w, w_col, w_row, work))
        parallel_for(run, cuts.tasks, nthreads, (z, cuts, work, dh, work + z.room * k * width, room, places))

    return kernel


@functools.lru_cache(maxsize=256)
def _steps(sizes: tuple[int, ...]) -> Array:
    """Rows of each step, and the first of them."""
    rows = np.array(sizes, np.int64)
    return np.stack([rows, np.cumsum(rows) - rows])


@functools.lru_cache(maxsize=256)
def _cuts(sizes: tuple[int, ...], tasks: int) -> tuple[Array, int]:
    """Where each of `tasks` shares of the rows begins, all with about as many steps to run; the most rows of one."""
    ends = np.cumsum(np.bincount(np.array(sizes, np.int64), minlength=sizes[0] + 1)[:0:-1])[::-1]  # steps of each row
    done = np.concatenate([[0], np.cumsum(ends)])
    bounds = np.searchsorted(done, done[-1] * np.arange(tasks + 1) / tasks).astype(np.int64)
    bounds[0], bounds[-1] = 0, sizes[0]
    return bounds, int(np.diff(bounds).max())


def _run(
    kernel: Any, forward: bool, gates: int, w: Array, h: Array, sizes: Sequence[int], reverse: bool, flags: int,
    places: tuple[int, ...], last: int = 0,
) -> None:  # fmt: skip
    """Plan and call a kernel for L > 0 rows of H > 0 units."""
    sizes = tuple(sizes)
    units, dtype, tier = h.shape[1], dtype_of(h), machine.floats()
    size, nlanes = h.itemsize, gather.lanes(dtype, tier)
    room = -(-units // nlanes)
    line = room * nlanes * size
    nthreads = threads.get_num_threads() if sum(sizes) * gates * units * units >= SMALL else 1
    tasks = min(nthreads, sizes[0])
    table = _steps(sizes)
    bounds, most = _cuts(sizes, tasks)
    share = (3 * most * line + 8 * 4 * nlanes * size) if forward else most * line
    z = Sizes(units, room, len(sizes), int(reverse), flags)
    cuts = Cuts(address(table), address(table) + table.nbytes // 2, address(bounds), tasks)
    (w_row, w_col), more = w.strides, (last,) if forward else ()
    with workspace.borrow(gates * units * line + tasks * share) as work:
        made = kernel(dtype, tier)
        made(z, cuts, address(w), w_row, w_col, address(h), *more, places, work, share, nthreads)


def _whole(*arrays: Array) -> tuple[Array, ...]:
    return tuple([np.ascontiguousarray(a) for a in arrays])


def _fresh(h: Array) -> Array:
    out = np.empty(h.shape, h.dtype)
    out[...] = h
    return out


def rnn(
    gx: Array, h: Array, w: Array, sizes: Sequence[int], reverse: bool, nonlinearity: str, keep: bool
) -> tuple[Any, ...]:
    gx, h = _whole(gx, h)
    y, last = np.empty(gx.shape, gx.dtype), _fresh(h)
    before = np.empty(gx.shape, gx.dtype) if keep else None
    if y.size:
        flags = KEEP * keep + TANH * (nonlinearity == "tanh")
        places = (address(gx), address(y), address(before))
        _run(functools.partial(_forward, "rnn"), True, 1, w, h, sizes, reverse, flags, places, address(last))
    return y, last, before


def rnn_backward(
    dy: Array, dh: Array, w: Array, y: Array, sizes: Sequence[int], reverse: bool, nonlinearity: str
) -> tuple[Any, ...]:
    dy, y = _whole(dy, y)
    da, dh = np.empty(y.shape, y.dtype), _fresh(dh)
    if da.size:
        places = (address(dy), address(y), address(da))
        flags = TANH * (nonlinearity == "tanh")
        _run(functools.partial(_backward, "rnn"), False, 1, w, dh, sizes, reverse, flags, places)
    return da, dh


def lstm(gx: Array, h: Array, c: Array, w: Array, sizes: Sequence[int], reverse: bool, keep: bool) -> tuple[Any, ...]:
    gx, h = _whole(gx, h)
    shape = (len(gx), h.shape[1])
    y, last, c = np.empty(shape, gx.dtype), _fresh(h), _fresh(c)
    gates = np.empty(gx.shape, gx.dtype) if keep else None
    cells, before = (np.empty(shape, gx.dtype) if keep else None for _ in range(2))
    if y.size:
        places = tuple(address(a) for a in (gx, y, before, gates, cells, c))
        flags = KEEP * keep
        _run(functools.partial(_forward, "lstm"), True, 4, w, h, sizes, reverse, flags, places, address(last))
    return y, last, c, gates, cells, before


def lstm_backward(
    dy: Array, dh: Array, dc: Array, w: Array, c: Array, gates: Array, cells: Array, sizes: Sequence[int],
    reverse: bool,
) -> tuple[Any, ...]:  # fmt: skip
    dy, c, gates, cells = _whole(dy, c, gates, cells)
    da, dh, dc = np.empty(gates.shape, gates.dtype), _fresh(dh), _fresh(dc)
    if da.size:
        places = tuple(address(a) for a in (dy, gates, cells, c, dc, da))
        _run(functools.partial(_backward, "lstm"), False, 4, w, dh, sizes, reverse, 0, places)
    return da, dh, dc


def gru(
    gx: Array, h: Array, w: Array, b: Array | None, sizes: Sequence[int], reverse: bool, keep: bool
) -> tuple[Any, ...]:
    gx, h = _whole(gx, h)
    shape = (len(gx), h.shape[1])
    bias = np.zeros(gx.shape[1], gx.dtype) if b is None else np.ascontiguousarray(b)
    y, last = np.empty(shape, gx.dtype), _fresh(h)
    gates = np.empty(gx.shape, gx.dtype) if keep else None
    inner, before = (np.empty(shape, gx.dtype) if keep else None for _ in range(2))
    if y.size:
        places = tuple(address(a) for a in (gx, y, before, gates, inner, bias))
        flags = KEEP * keep
        _run(functools.partial(_forward, "gru"), True, 3, w, h, sizes, reverse, flags, places, address(last))
    return y, last, gates, inner, before


def gru_backward(
    dy: Array, dh: Array, w: Array, gates: Array, inner: Array, before: Array, sizes: Sequence[int], reverse: bool
) -> tuple[Any, ...]:
    dy, gates, inner, before = _whole(dy, gates, inner, before)
    da, dp, dh = np.empty(gates.shape, gates.dtype), np.empty(gates.shape, gates.dtype), _fresh(dh)
    if da.size:
        places = tuple(address(a) for a in (dy, gates, inner, before, da, dp))
        _run(functools.partial(_backward, "gru"), False, 3, w, dh, sizes, reverse, 0, places)
    return da, dp, dh
