"""Attention on the tile unit: its products of float32 are six of bfloat16 each (cpu/amx.py), three times as fast.

The blocks are those of cpu.py, (keys, queries) with queries in lanes, and so are the steps. Operands are panels
(cpu/split.py): those of q, k, v and dout are packed once for a stretch of keys or a block of queries, and serve many
products; p and its gradient leave the softmax as panels (parts.py).

    forward     s = k q^T        out^T = out^T alpha + v^T p
    backward    s = k q^T        dp = v dout^T     dq^T += k^T ds     dk += ds q     dv += p dout

A task keeps the panels of CHUNK keys in L2, and brings all its queries past them before it goes on to the next. What is
computed for a block of queries does not depend on how tasks are cut.

The error is below that on vectors. Measured as root mean square of the error over that of the result, normal numbers,
D = 64, 257 keys: out 1.2e-7, dq 2.4e-7, dk 2.4e-7, dv 1.9e-7; on vectors 2.4e-7, 3.6e-7, 3.6e-7, 3.0e-7. Where numbers
reach the ends of bfloat16's range, or are not finite, vectors compute instead. Weights and gradients of scores may be
as small as they like: what is lost of them is lost below 1e-38, of the products, too.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ..cpu import amx, gather, machine, split, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import ENDLESS, address
from ..cpu.tile import tile
from . import blocks, parts, softmax
from .blocks import KEYS, NOTES, TASKS, VECTORS, Array, Gradients, Sizes, rounded, stretches_of
from .parts import BLOCK, LINE, PANEL

SIDE = 32  # keys, queries or features of a panel
CHUNK = 512  # keys whose panels are in L2 at a time
MOST = 32  # blocks of queries in a task
FEW = 8
ONE = 127 << 23  # the bits of 1.0
ODD, DISTRUST = 1, 2  # what a task may have to say: see blocks.note


class Forward(NamedTuple):
    """How the forward is cut, and where in a thread's scratch memory things lie."""

    parts: int  # of the blocks of queries of one head of k: tasks
    each: int  # blocks
    next: int  # bytes from the panel and sums of a block of queries to those of the next: 0 where one serves all
    v: int  # offset of the panels of v
    q: int  # and of a block of queries: its panel, sums, m and l
    sums: int
    rest: int  # scores, fresh sums, panel of p, alpha, scaled q, turned mask
    size: int


def _forward_plan(z: Sizes) -> Forward:
    heads, share = z.b * z.hk, z.h // z.hk
    many = share * -(-z.t // SIDE)
    cut = max(min(-(-TASKS // heads), many // FEW), -(-many // MOST), 1)
    each = -(-many // cut)
    d, e, keys = rounded(z.d, SIDE), rounded(z.e, SIDE), rounded(min(z.s, CHUNK), KEYS)
    v = keys * d * 6
    q = v + keys * e * 6
    sums = SIDE * d * 6
    one = sums + (e + 2) * LINE
    several = z.s > CHUNK
    rest = q + one * (each if several else 1)
    size = rest + 3 * BLOCK + 2 * PANEL + LINE + SIDE * d * 4 + KEYS * LINE
    return Forward(-(-many // each), each, one if several else 0, v, q, sums, rest, size)


class Backward(NamedTuple):
    """How the backward is cut, and where in a thread's scratch memory things lie."""

    stretches: int  # of the keys of one head: tasks
    length: int  # keys
    turned_k: int  # offsets: panels of k^T, of v,
    v: int
    sums_k: int  # sums of dk and of dv,
    sums_v: int
    q: int  # of a block of queries: panels of q^T and dout^T,
    o: int
    rows_q: int  # of q and dout,
    rows_o: int
    dq: int  # turned dq, and for each lane lse, delta and scale;
    lanes: int
    p: int  # p, ds, and ds for the sum over keys,
    ds: int
    ds_keys: int
    rest: int  # scores, dp, fresh sums, a scaled or turned block, turned mask
    size: int


def _backward_plan(z: Sizes) -> Backward:
    stretches, length = stretches_of(z.b * z.hk, z.s)
    d, e, keys = rounded(z.d, SIDE), rounded(z.e, SIDE), min(length, CHUNK)
    sizes = [keys * d * 6, keys * d * 6, keys * e * 6, keys * d * 4, keys * e * 4]
    sizes += [KEYS * d * 6, KEYS * e * 6] * 2 + [2 * d * LINE, 2 * 3 * LINE]
    sizes += [4 * PANEL, 4 * PANEL, 2 * PANEL]
    sizes += [5 * BLOCK + (max(2 * e, 2 * d) + KEYS) * LINE]
    at = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    return Backward(stretches, length, *at[1:])


class _Kernels(NamedTuple):
    forward: Any
    backward: Any


@functools.cache
def _kernels() -> _Kernels:
    t = tile("amx", "f32x6")
    pack_a, pack_b, dense = amx.pack(t, "a"), amx.pack(t, "b"), amx.dense(t)
    enter, leave, trusted = amx.enter, amx.leave, split.trusted
    turn, turn_back, forbid, note, noted = blocks.steps("float32", "avx512")
    absorb, blend = parts.absorb, parts.blend
    differentiate, gain, dots = parts.differentiate, parts.gain, softmax.dots("float32", VECTORS, 16)
    shrink, strange = softmax.shrink("float32", VECTORS, 16), softmax.strange("float32", 16)
    pointer, flags = gather.pointer("float32"), gather.pointer("uint8")
    low, high, zero, one = np.float32(-np.inf), np.float32(np.inf), np.float32(0), np.float32(1)

    @jit(inner=True)
    def pack_rows(source, row, count, width, to, panel):
        """Panels of A of 32 rows each, `panel` bytes: the rows' numbers are summed over."""
        least = ENDLESS
        for i in range(0, count, SIDE):
            at = to + i // SIDE * panel
            least = min(least, pack_a(source + i * row, row, 4, min(SIDE, count - i), width, at))
        return least

    @jit(inner=True)
    def pack_columns(source, row, count, width, to, wide):
        """Of every 64 rows panels of A for each 32 columns, in `wide` bytes: the rows are summed over."""
        least = ENDLESS
        for i in range(0, count, KEYS):
            for j in range(0, width, SIDE):
                at = to + i // KEYS * wide + j // SIDE * 2 * PANEL
                here = pack_a(source + i * row + j * 4, 4, row, min(SIDE, width - j), min(KEYS, count - i), at)
                least = min(least, here)
        return least

    @jit(inner=True)
    def scaled(source, row, count, width, scale, to, step):
        """A copy of rows, times scale, `step` bytes apart."""
        for i in range(count):
            x, y = pointer(source + i * row), pointer(to + i * step)
            for j in range(width):
                y[j] = x[j] * scale

    @jit(inner=True)
    def fill(start, stop, value):
        x = pointer(start)
        for i in range((stop - start) // 4):
            x[i] = value

    @jit(inner=True)
    def begin(z, p, source, state, scale, copy):
        """A block of queries: its panel, no sums yet."""
        some, row, wide = source[1], z.q[2] * 4, (z.d + SIDE - 1) // SIDE * SIDE * 4
        scaled(source[0], row, some, z.d, scale, copy, wide)
        sums = state + p.sums
        m = sums + (z.e + SIDE - 1) // SIDE * BLOCK
        fill(m, m + LINE, low)
        fill(m + LINE, m + 2 * LINE, zero)
        return pack_b(copy, wide, 4, some, z.d, state)

    @jit(inner=True)
    def attend(task, slot, z, p, o, q, k, v, mask, scale, out, lse, notes, scratch):
        """Some blocks of queries of the heads that share a head of k."""
        if flags(notes)[slot] == DISTRUST:
            return
        down, share = (z.t + SIDE - 1) // SIDE, z.h // z.hk
        part, kv_head, image = task // (z.b * z.hk), task % z.hk, task // z.hk % z.b
        first, last = part * p.each, min((part + 1) * p.each, share * down)
        keys = k + (image * z.k[0] + kv_head * z.k[1]) * 4
        values = v + (image * z.v[0] + kv_head * z.v[1]) * 4
        d_blocks, e_blocks = (z.d + SIDE - 1) // SIDE, (z.e + SIDE - 1) // SIDE
        mine = scratch + slot * p.size
        panels_v, queries = mine + p.v, mine + p.q
        scores = mine + p.rest
        fresh = scores + 2 * BLOCK
        panel = fresh + BLOCK
        alpha = panel + 2 * PANEL
        copy = alpha + LINE
        turned_mask = copy + SIDE * d_blocks * SIDE * 4
        factors = pointer(alpha)
        odd, least_q, least_k, least_v = False, ENDLESS, ENDLESS, ENDLESS
        end = z.s
        if z.causal:
            furthest = 0
            for block in range(first, last):
                furthest = max(furthest, min(z.t, block % down * SIDE + SIDE))
            end = min(z.s, furthest)
        enter()
        for c0 in range(0, end, CHUNK):
            c1 = min(end, c0 + CHUNK)
            least_k = min(least_k, pack_rows(keys + c0 * z.k[2] * 4, z.k[2] * 4, c1 - c0, z.d, mine, d_blocks * PANEL))
            at = values + c0 * z.v[2] * 4
            least_v = min(least_v, pack_columns(at, z.v[2] * 4, c1 - c0, z.e, panels_v, e_blocks * 2 * PANEL))
            for block in range(first, last):
                head, t0 = kv_head * share + block // down, block % down * SIDE
                some = min(SIDE, z.t - t0)
                state = queries + (block - first) * p.next
                sums = state + p.sums
                m = sums + e_blocks * BLOCK
                l = m + LINE
                if c0 == 0:
                    source = q + (image * z.q[0] + head * z.q[1] + t0 * z.q[2]) * 4
                    least_q = min(least_q, begin(z, p, (source, some), state, scale, copy))
                stop = min(z.s, t0 + some) if z.causal else z.s
                for s0 in range(c0, min(stop, c1), KEYS):
                    count = min(KEYS, stop - s0)
                    tall = (count + SIDE - 1) // SIDE
                    for i in range(tall):
                        dense(d_blocks, mine + ((s0 - c0) // SIDE + i) * d_blocks * PANEL, state, scores + i * BLOCK)
                    if z.mask_kind or (z.causal and s0 + count > t0):
                        forbid(z, image, head, t0, some, s0, count, mask, scores, turned_mask)
                    fill(scores + count * LINE, scores + tall * BLOCK, low)
                    absorb(tall, scores, m, l, alpha, panel)
                    for i in range(e_blocks):
                        at = panels_v + ((s0 - c0) // KEYS * e_blocks + i) * 2 * PANEL
                        if s0:
                            dense(tall, at, panel, fresh)
                            blend(sums + i * BLOCK, alpha, fresh)
                        else:
                            dense(tall, at, panel, sums + i * BLOCK)
                if stop > c0 and stop <= c1:
                    most, total = pointer(m), pointer(l)
                    for lane in range(SIDE):
                        factors[lane] = one / total[lane] if total[lane] != zero else zero
                    shrink(z.e, sums, alpha)
                    odd |= strange(z.e * VECTORS, sums)
                    turn_back(sums, some, z.e, out + (image * o[0] + head * o[1] + t0 * o[2]) * 4, o[2])
                    logs = pointer(lse + ((image * z.h + head) * z.t + t0) * 4)
                    for lane in range(some):
                        logs[lane] = most[lane] + math.log(total[lane]) if total[lane] != zero else low
                        odd |= logs[lane] != logs[lane]
        leave()
        note(slot, np.uint8(ODD if odd else 0), notes)
        if not (trusted(least_q, least_k) and trusted(least_v, ONE)):
            note(slot, np.uint8(DISTRUST), notes)

    @jit(tag="f32x6")
    def forward(z, p, o, q, k, v, mask, scale, out, lse, scratch, nthreads):
        """0, or what the worst task has to say."""
        notes, scratch = scratch, scratch + NOTES
        for slot in range(nthreads):
            flags(notes)[slot] = 0
        args = (z, p, o, q, k, v, mask, scale, out, lse, notes, scratch)
        parallel_for(attend, z.b * z.hk * p.parts, nthreads, args)
        return noted(nthreads, notes)

    @jit(inner=True)
    def pack_queries(source, row, some, width, to):
        """Panels of B for each 32 columns of some rows: the rows are summed over."""
        for j in range(0, width, SIDE):
            pack_b(source + j * 4, 4, row, min(SIDE, width - j), some, to + j // SIDE * 2 * PANEL)

    @jit(inner=True)
    def prepare(z, g, p, image, head, t0, some, q, dout, out, lse, scale, mine):
        """The panels of a block of at most 64 queries, and what each lane needs."""
        d, e = (z.d + SIDE - 1) // SIDE * SIDE, (z.e + SIDE - 1) // SIDE * SIDE
        at_q, at_o = (
            q + (image * z.q[0] + head * z.q[1] + t0 * z.q[2]) * 4,
            (dout + (image * g.dout[0] + head * g.dout[1] + t0 * g.dout[2]) * 4),
        )
        at_out = out + (image * g.out[0] + head * g.out[1] + t0 * g.out[2]) * 4
        first, second = mine + p.rest + 5 * BLOCK, mine + p.rest + 5 * BLOCK + e * LINE
        logs, least_q, least_o = pointer(lse + ((image * z.h + head) * z.t + t0) * 4), ENDLESS, ENDLESS
        for j in range(0, some, SIDE):
            here, lanes = min(SIDE, some - j), mine + p.lanes + j // SIDE * 3 * LINE
            # Of every query, the mean of dp under p: the sum of dout * out.
            turn(at_o + j * g.dout[2] * 4, g.dout[2], here, z.e, first)
            turn(at_out + j * g.out[2] * 4, g.out[2], here, z.e, second)
            dots(z.e, first, second, lanes + LINE)
            base = pointer(lanes)
            for lane in range(SIDE):
                base[lane] = high if lane >= here or logs[j + lane] == low else logs[j + lane]
            fill(lanes + 2 * LINE, lanes + 3 * LINE, scale)
            scaled(at_q + j * z.q[2] * 4, z.q[2] * 4, here, z.d, scale, first, d * 4)
            least_q = min(least_q, pack_b(first, d * 4, 4, here, z.d, mine + p.q + j * d * 6))
            at = at_o + j * g.dout[2] * 4
            least_o = min(least_o, pack_b(at, g.dout[2] * 4, 4, here, z.e, mine + p.o + j * e * 6))
        pack_queries(at_q, z.q[2] * 4, some, z.d, mine + p.rows_q)
        pack_queries(at_o, g.dout[2] * 4, some, z.e, mine + p.rows_o)
        return least_q, least_o

    @jit(inner=True)
    def copy_rows(count, width, source, row, to, step):
        for i in range(count):
            x, y = pointer(source + i * row), pointer(to + i * step)
            for j in range(width):
                y[j] = x[j]

    @jit(inner=True)
    def retrace(task, slot, z, g, p, dout, q, k, v, out, lse, mask, scale, dq, dk, dv, notes, scratch):
        """One stretch of keys of one head of k: its dk and dv, and its part of dq."""
        if flags(notes)[slot] == DISTRUST:
            return
        stretch, kv_head = task % p.stretches, task // p.stretches % z.hk
        image, share = task // (p.stretches * z.hk), z.h // z.hk
        start, end = stretch * p.length, min(z.s, (stretch + 1) * p.length)
        keys = k + (image * z.k[0] + kv_head * z.k[1]) * 4
        values = v + (image * z.v[0] + kv_head * z.v[1]) * 4
        d_blocks, e_blocks = (z.d + SIDE - 1) // SIDE, (z.e + SIDE - 1) // SIDE
        d_row, e_row, d_panel, e_panel = d_blocks * LINE, e_blocks * LINE, d_blocks * PANEL, e_blocks * PANEL
        mine = scratch + slot * p.size
        scores = mine + p.rest
        slopes = scores + 2 * BLOCK
        fresh = slopes + 2 * BLOCK
        turned_mask = fresh + BLOCK + max(2 * d_row, 2 * e_row) * SIDE
        odd, least_q, least_k, least_v, least_o = False, ENDLESS, ENDLESS, ENDLESS, ENDLESS
        enter()
        for c0 in range(start, end, CHUNK):
            c1 = min(end, c0 + CHUNK)
            at_k, k_row = keys + c0 * z.k[2] * 4, z.k[2] * 4
            least_k = min(least_k, pack_rows(at_k, k_row, c1 - c0, z.d, mine, d_panel))
            pack_columns(at_k, k_row, c1 - c0, z.d, mine + p.turned_k, 2 * d_panel)
            at = values + c0 * z.v[2] * 4
            least_v = min(least_v, pack_rows(at, z.v[2] * 4, c1 - c0, z.e, mine + p.v, e_panel))
            fill(mine + p.sums_k, mine + p.sums_k + (c1 - c0 + SIDE - 1) // SIDE * SIDE * d_row, zero)
            fill(mine + p.sums_v, mine + p.sums_v + (c1 - c0 + SIDE - 1) // SIDE * SIDE * e_row, zero)
            for head in range(kv_head * share, (kv_head + 1) * share):
                for t0 in range(0, z.t, KEYS):
                    some = min(KEYS, z.t - t0)
                    wide = (some + SIDE - 1) // SIDE
                    stop = min(c1, t0 + some) if z.causal else c1
                    if c0 > start and stop <= c0:
                        continue
                    least = prepare(z, g, p, image, head, t0, some, q, dout, out, lse, scale, mine)
                    least_q, least_o = min(least_q, least[0]), min(least_o, least[1])
                    at_dq = dq + (image * g.dq[0] + head * g.dq[1] + t0 * g.dq[2] + stretch * g.dq[3]) * 4
                    turned_dq = mine + p.dq
                    if c0 > start:
                        for j in range(wide):
                            at = at_dq + j * SIDE * g.dq[2] * 4
                            turn(at, g.dq[2], min(SIDE, some - j * SIDE), z.d, turned_dq + j * d_blocks * BLOCK)
                    else:
                        fill(turned_dq, turned_dq + wide * d_blocks * BLOCK, zero)
                    for s0 in range(c0, stop, KEYS):
                        count = min(KEYS, stop - s0)
                        tall = (count + SIDE - 1) // SIDE
                        for j in range(wide):
                            lanes, t1, here = mine + p.lanes + j * 3 * LINE, t0 + j * SIDE, min(SIDE, some - j * SIDE)
                            # Of a causal block on the diagonal, the first queries see the first keys only.
                            seen = 1 if z.causal and s0 + SIDE > t1 + SIDE - 1 else tall
                            for i in range(seen):
                                line = (s0 - c0) // SIDE + i
                                dense(d_blocks, mine + line * d_panel, mine + p.q + j * d_panel, scores + i * BLOCK)
                                at = mine + p.v + line * e_panel
                                dense(e_blocks, at, mine + p.o + j * e_panel, slopes + i * BLOCK)
                            if z.mask_kind or (z.causal and s0 + count > t1):
                                forbid(z, image, head, t1, here, s0, count, mask, scores, turned_mask)
                            fill(scores + count * LINE, scores + seen * BLOCK, low)
                            for i in range(seen):
                                panel = (2 * i + j) * PANEL
                                differentiate(
                                    scores + i * BLOCK, slopes + i * BLOCK, lanes, lanes + LINE, lanes + 2 * LINE,
                                    mine + p.p + panel, mine + p.ds + panel, mine + p.ds_keys + i * PANEL,
                                )  # fmt: skip
                            for i in range(d_blocks):
                                at = mine + p.turned_k + ((s0 - c0) // KEYS * d_blocks + i) * 2 * PANEL
                                dense(seen, at, mine + p.ds_keys, fresh)
                                gain(turned_dq + (j * d_blocks + i) * BLOCK, LINE, fresh)
                        for i in range(tall):
                            skip = 1 if z.causal and s0 + i * SIDE > t0 + SIDE - 1 else 0
                            panel, line = (2 * i + skip) * PANEL, s0 - c0 + i * SIDE
                            for j in range(e_blocks):
                                at = mine + p.rows_o + (2 * j + skip) * PANEL
                                dense(wide - skip, mine + p.p + panel, at, fresh)
                                gain(mine + p.sums_v + line * e_row + j * LINE, e_row, fresh)
                            for j in range(d_blocks):
                                at = mine + p.rows_q + (2 * j + skip) * PANEL
                                dense(wide - skip, mine + p.ds + panel, at, fresh)
                                gain(mine + p.sums_k + line * d_row + j * LINE, d_row, fresh)
                    for j in range(wide):
                        at, here = turned_dq + j * d_blocks * BLOCK, min(SIDE, some - j * SIDE)
                        odd |= strange(z.d * VECTORS, at)
                        turn_back(at, here, z.d, at_dq + j * SIDE * g.dq[2] * 4, g.dq[2])
            odd |= strange((c1 - c0) * d_row // 64, mine + p.sums_k) | strange((c1 - c0) * e_row // 64, mine + p.sums_v)
            at = dk + (image * g.dk[0] + kv_head * g.dk[1] + c0 * g.dk[2]) * 4
            copy_rows(c1 - c0, z.d, mine + p.sums_k, d_row, at, g.dk[2] * 4)
            at = dv + (image * g.dv[0] + kv_head * g.dv[1] + c0 * g.dv[2]) * 4
            copy_rows(c1 - c0, z.e, mine + p.sums_v, e_row, at, g.dv[2] * 4)
        leave()
        note(slot, np.uint8(ODD if odd else 0), notes)
        # ds is about as large as dout v: its products with q and k are to be far from the end of the range, too.
        slope = least_o + least_v - ONE  # bits of about the product
        good = trusted(least_q, least_k) and trusted(least_o, least_v)
        if not (good and trusted(slope, least_k) and trusted(slope, least_q)):
            note(slot, np.uint8(DISTRUST), notes)

    @jit(tag="f32x6")
    def backward(z, g, p, dout, q, k, v, out, lse, mask, scale, dq, dk, dv, scratch, nthreads):
        """0, or what the worst task has to say."""
        notes, scratch = scratch, scratch + NOTES
        for slot in range(nthreads):
            flags(notes)[slot] = 0
        args = (z, g, p, dout, q, k, v, out, lse, mask, scale, dq, dk, dv, notes, scratch)
        parallel_for(retrace, z.b * z.hk * p.stretches, nthreads, args)
        return noted(nthreads, notes)

    return _Kernels(forward, backward)


# T S / (T + S) and features: up to the one, and below the other, packing costs more than the unit wins. Measured.
AREA, WIDTH = 42, 32


def serves(q: Array, z: Sizes) -> bool:
    """Whether the tile unit is there and faster."""
    large = z.t * z.s > AREA * (z.t + z.s) and min(z.d, z.e) >= WIDTH
    return large and q.itemsize == 4 and machine.multiplies_bfloat16()


def forward(z: Sizes, o: tuple[int, ...], scale: Any, nthreads: int, *arrays: Array | None) -> int:
    """For q, k, v, mask, out, lse: 0, ODD if a result is not finite, DISTRUST if vectors must do it again."""
    q, k, v, mask, out, lse = map(address, arrays)
    p = _forward_plan(z)
    with workspace.borrow(NOTES + nthreads * p.size) as at:
        return int(_kernels().forward(z, p, o, q, k, v, mask, scale, out, lse, at, nthreads))


def backward(z: Sizes, g: Gradients, scale: Any, nthreads: int, *arrays: Array | None) -> int:
    """The same for dout, q, k, v, out, lse, mask, dq, dk, dv."""
    dout, q, k, v, out, lse, mask, dq, dk, dv = map(address, arrays)
    p = _backward_plan(z)
    with workspace.borrow(NOTES + nthreads * p.size) as at:
        kernel = _kernels().backward
        return int(kernel(z, g, p, dout, q, k, v, out, lse, mask, scale, dq, dk, dv, at, nthreads))
