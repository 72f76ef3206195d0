"""Attention without a matrix of scores: blocks of keys stream past a block of queries, its softmax kept up to date.

Everything is transposed, so that lanes are queries: a block of scores is (keys, queries), computed by the register
tile from rows of k as they lie in memory and the turned queries; maxima and sums run down the rows, never across
lanes; and the tile adds v^T p to the turned output. The backward makes p again from lse and needs five products of
the same kind.

Milakov and Gimelshein 2018 (arXiv:1805.02867), Dao et al. 2022 (arXiv:2205.14135).

Of long sequences the products are the tile unit's (tiles.py); a few queries have kernels of their own (few.py).

Every output is one sum over keys (or queries) in their order, and what a task does depends on shapes only.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ..cpu import gather, machine, threads, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from . import blocks, few, reference, softmax, tiles
from .blocks import (
    KEYS,
    NOTES,
    VECTORS,
    Array,
    Gradients,
    Sizes,
    laid_as,
    mask_strides,
    rounded,
    rows,
    scale_of,
    stretches_of,
)

PAD = 8


class _Tables(NamedTuple):
    """Addresses of tables of offsets for the tile (gather.py). Tables of rows repeat the last entry to fill a tile."""

    k_rows: int  # of key s in k
    v_rows: int
    d: int  # of feature d in a row
    e: int
    lanes: int  # i times the lanes: rows of a turned block
    q_lines: int  # i times the padded width of a row of q, of dout
    e_lines: int


@functools.lru_cache(maxsize=64)
def _tables(
    s: int, d: int, e: int, k_row: int, v_row: int, ncols: int, d_pad: int, e_pad: int
) -> tuple[_Tables, Array]:
    """The tables and the array that holds them."""

    def clamped(n: int, step: int) -> Array:
        return np.minimum(np.arange(n + KEYS + PAD, dtype=np.int64), max(n - 1, 0)) * step

    lines = np.arange(max(KEYS + PAD, ncols, d, e), dtype=np.int64)
    parts = [
        clamped(s, k_row),
        clamped(s, v_row),
        clamped(d, 1),
        clamped(e, 1),
        lines * ncols,
        lines * d_pad,
        lines * e_pad,
    ]
    whole = np.concatenate(parts)
    starts = np.cumsum([0, *map(len, parts[:-1])]) * 8 + whole.__array_interface__["data"][0]
    return _Tables(*map(int, starts)), whole


class _Kernels(NamedTuple):
    forward: Any
    backward: Any
    ncols: int
    nlanes: int


@functools.cache
def _kernels(dtype: str, tier: str) -> _Kernels:
    """The compiled kernels for one dtype and tier."""
    tag = f"{dtype} {tier}"
    size, nlanes, nrows = np.dtype(dtype).itemsize, gather.lanes(dtype, tier), gather.rows(tier)
    ncols = VECTORS * nlanes
    real = np.dtype(dtype).type
    low, high, zero, one = real(-np.inf), real(np.inf), real(0), real(1)
    pointer, flags = gather.pointer(dtype), gather.pointer("uint8")
    tile, narrow = gather.product(dtype, nrows, VECTORS, nlanes), gather.product(dtype, nrows, 1, nlanes)
    absorb, shrink = softmax.absorb(dtype, VECTORS, nlanes), softmax.shrink(dtype, VECTORS, nlanes)
    differentiate = softmax.differentiate(dtype, VECTORS, nlanes)
    dots, strange = softmax.dots(dtype, VECTORS, nlanes), softmax.strange(dtype, nlanes)
    turn, turn_back, forbid, note, noted = blocks.steps(dtype, tier)

    @jit(inner=True)
    def add_rows(count, a, rows, b, cols, c, width):
        """c += a^T b: a has lanes, b and c rows of `width` numbers, a multiple of a vector's."""
        for j in range(0, width - nlanes, ncols):
            tile(count, a, rows, 1, b + j * size, cols, c + j * size, width, 1)
        if width % ncols:
            j = width - nlanes
            narrow(count, a, rows, 1, b + j * size, cols, c + j * size, width, 1)

    @jit(inner=True)
    def score(count, a, rows, turned, lanes, to, behind):
        """A tile of scores; where keys lie behind the queries of the first vector, of the second alone."""
        if behind < nlanes:
            tile(count, a, rows, 1, turned, lanes, to, ncols, 0)
        else:
            narrow(count, a, rows, 1, turned + nlanes * size, lanes, to + nlanes * size, ncols, 0)
            x = pointer(to)
            for i in range(nrows):
                for lane in range(nlanes):
                    x[i * ncols + lane] = zero

    @jit(inner=True)
    def attend(task, slot, z, n, o, q, k, v, mask, scale, out, lse, notes, scratch, scratch_bytes):
        """One block of queries of one head."""
        down = (z.t + ncols - 1) // ncols  # blocks of queries
        image, head, t0 = task // (down * z.h), task // down % z.h, task % down * ncols
        some = min(ncols, z.t - t0)
        kv_head = head // (z.h // z.hk)
        keys = k + (image * z.k[0] + kv_head * z.k[1]) * size
        values = v + (image * z.v[0] + kv_head * z.v[1]) * size
        turned = scratch + slot * scratch_bytes
        scores = turned + (z.d + nlanes) * ncols * size
        sums = scores + (KEYS + PAD) * ncols * size
        m = sums + (z.e + PAD) * ncols * size
        l, alpha = m + ncols * size, m + 2 * ncols * size
        most, total, factors, y = pointer(m), pointer(l), pointer(alpha), pointer(sums)
        turn(q + (image * z.q[0] + head * z.q[1] + t0 * z.q[2]) * size, z.q[2], some, z.d, turned)
        for lane in range(ncols):
            most[lane], total[lane], factors[lane] = low, zero, scale
        shrink(z.d, turned, alpha)
        for i in range((z.e + PAD) * ncols):
            y[i] = zero
        stop = min(z.s, t0 + some) if z.causal else z.s
        for s0 in range(0, stop, KEYS):
            count = min(KEYS, stop - s0)
            for i in range(0, count, nrows):
                behind = s0 + i - t0 if z.causal else 0
                score(z.d, keys, n.k_rows + (s0 + i) * 8, turned, n.lanes, scores + i * ncols * size, behind)
            if z.mask_kind or (z.causal and s0 + count > t0):
                forbid(z, image, head, t0, some, s0, count, mask, scores, alpha + ncols * size)
            absorb(count, scores, m, l, alpha)
            if s0:
                shrink(z.e, sums, alpha)
            # Of a causal block's last keys the queries of the second vector alone know.
            whole = max(0, min(count, t0 + nlanes - s0)) if z.causal else count
            at_v, late = values + s0 * z.v[2] * size, scores + whole * ncols * size + nlanes * size
            for i in range(0, z.e, nrows):
                at = sums + i * ncols * size
                tile(whole, at_v, n.e + i * 8, z.v[2], scores, n.lanes, at, ncols, 1)
                if whole < count:
                    to = at + nlanes * size
                    narrow(
                        count - whole, at_v + whole * z.v[2] * size, n.e + i * 8, z.v[2], late, n.lanes, to, ncols, 1
                    )
        logs = pointer(lse + ((image * z.h + head) * z.t + t0) * size)
        for lane in range(ncols):
            factors[lane] = one / total[lane] if total[lane] != zero else zero
        shrink(z.e, sums, alpha)
        odd = strange(z.e * VECTORS, sums)
        turn_back(sums, some, z.e, out + (image * o[0] + head * o[1] + t0 * o[2]) * size, o[2])
        for lane in range(some):
            logs[lane] = most[lane] + math.log(total[lane]) if total[lane] != zero else low
            odd |= logs[lane] != logs[lane]
        note(slot, np.uint8(odd), notes)

    @jit(tag=tag)
    def forward(z, n, o, q, k, v, mask, scale, out, lse, scratch, scratch_bytes, nthreads):
        """Whether all that was written is finite, but for lse = -inf."""
        notes, scratch = scratch, scratch + NOTES
        for slot in range(nthreads):
            flags(notes)[slot] = 0
        tasks = z.b * z.h * ((z.t + ncols - 1) // ncols)
        parallel_for(attend, tasks, nthreads, (z, n, o, q, k, v, mask, scale, out, lse, notes, scratch, scratch_bytes))
        return noted(nthreads, notes) == 0

    @jit(inner=True)
    def retrace(
        task, slot, z, n, o, grid, dout, q, k, v, out, lse, mask, scale, dq, dk, dv, notes, scratch, scratch_bytes
    ):
        """One stretch of keys of one head of k: its dk and dv, and its part of dq."""
        stretches, length, d_pad, e_pad = grid
        stretch, kv_head = task % stretches, task // stretches % z.hk
        image = task // (stretches * z.hk)
        first, last = stretch * length, min(z.s, (stretch + 1) * length)
        share = z.h // z.hk
        keys = k + (image * z.k[0] + kv_head * z.k[1]) * size
        values = v + (image * z.v[0] + kv_head * z.v[1]) * size
        # Scratch: turned q and dout, both with padded rows, scores and dp, turned dq, three numbers per lane, dk and
        # dv.
        turned_q = scratch + slot * scratch_bytes
        turned_o = turned_q + d_pad * ncols * size
        lines_q = turned_o + e_pad * ncols * size
        lines_o = lines_q + ncols * d_pad * size
        scores = lines_o + ncols * e_pad * size
        slopes = scores + (KEYS + PAD) * ncols * size
        turned_dq = slopes + (KEYS + PAD) * ncols * size
        per_lane = turned_dq + (z.d + PAD) * ncols * size
        sums_k = per_lane + 3 * ncols * size
        sums_v = sums_k + (length + KEYS + PAD) * d_pad * size
        turned_mask = sums_v + (length + KEYS + PAD) * e_pad * size
        wide_q, wide_o = pointer(lines_q), pointer(lines_o)
        base, odd = pointer(per_lane), False
        mean, factor = per_lane + ncols * size, per_lane + 2 * ncols * size
        factors, made = pointer(factor), pointer(turned_dq)
        total_k, total_v = pointer(sums_k), pointer(sums_v)
        for i in range((last - first + PAD) * d_pad):
            total_k[i] = zero
        for i in range((last - first + PAD) * e_pad):
            total_v[i] = zero
        for head in range(kv_head * share, (kv_head + 1) * share):
            row = (image * z.h + head) * z.t
            for t0 in range(0, z.t, ncols):
                some = min(ncols, z.t - t0)
                stop = min(last, t0 + some) if z.causal else last
                at_dq = dq + (image * o.dq[0] + head * o.dq[1] + t0 * o.dq[2] + stretch * o.dq[3]) * size
                at_q = q + (image * z.q[0] + head * z.q[1] + t0 * z.q[2]) * size
                at_o = dout + (image * o.dout[0] + head * o.dout[1] + t0 * o.dout[2]) * size
                turn(at_q, z.q[2], some, z.d, turned_q)
                turn(at_o, o.dout[2], some, z.e, turned_o)
                # Of every query, the mean of dp under p: the sum of dout * out.
                at_out = out + (image * o.out[0] + head * o.out[1] + t0 * o.out[2]) * size
                turn(at_out, o.out[2], some, z.e, lines_o)
                dots(z.e, turned_o, lines_o, mean)
                for lane in range(ncols):
                    factors[lane] = scale
                shrink(z.d, turned_q, factor)
                x, y, logs = pointer(at_q), pointer(at_o), pointer(lse + (row + t0) * size)
                for lane in range(some):
                    for i in range(z.d):
                        wide_q[lane * d_pad + i] = x[lane * z.q[2] + i]
                    for i in range(z.d, d_pad):
                        wide_q[lane * d_pad + i] = zero
                    for i in range(z.e):
                        wide_o[lane * e_pad + i] = y[lane * o.dout[2] + i]
                    for i in range(z.e, e_pad):
                        wide_o[lane * e_pad + i] = zero
                for lane in range(ncols):
                    base[lane] = high if lane >= some or logs[lane] == low else logs[lane]
                for i in range((z.d + PAD) * ncols):
                    made[i] = zero
                for s0 in range(first, stop, KEYS):
                    count = min(KEYS, stop - s0)
                    for i in range(0, count, nrows):
                        to_row = i * ncols * size
                        behind = s0 + i - t0 if z.causal else 0
                        score(z.d, keys, n.k_rows + (s0 + i) * 8, turned_q, n.lanes, scores + to_row, behind)
                        score(z.e, values, n.v_rows + (s0 + i) * 8, turned_o, n.lanes, slopes + to_row, behind)
                    if z.mask_kind or (z.causal and s0 + count > t0):
                        forbid(z, image, head, t0, some, s0, count, mask, scores, turned_mask)
                    differentiate(count, scores, slopes, per_lane, mean, factor)
                    # The last tile of keys overshoots into rows that other queries do reach: it must add nothing there.
                    p, ds = pointer(scores), pointer(slopes)
                    for i in range(count * ncols, (count + nrows - 1) // nrows * nrows * ncols):
                        p[i] = ds[i] = zero
                    for i in range(0, z.d, nrows):
                        at = turned_dq + i * ncols * size
                        tile(count, keys + s0 * z.k[2] * size, n.d + i * 8, z.k[2], slopes, n.lanes, at, ncols, 1)
                    for i in range(0, count, nrows):
                        line, skip = s0 - first + i, max(0, s0 + i - t0) if z.causal else 0  # queries before these keys
                        rows_k, rows_v = sums_k + line * d_pad * size, sums_v + line * e_pad * size
                        ds_here, p_here = slopes + skip * size, scores + skip * size
                        add_rows(some - skip, ds_here, n.lanes + i * 8, lines_q, n.q_lines + skip * 8, rows_k, d_pad)
                        add_rows(some - skip, p_here, n.lanes + i * 8, lines_o, n.e_lines + skip * 8, rows_v, e_pad)
                odd |= strange(z.d * VECTORS, turned_dq)
                turn_back(turned_dq, some, z.d, at_dq, o.dq[2])
        odd |= strange((last - first) * d_pad // nlanes, sums_k) | strange((last - first) * e_pad // nlanes, sums_v)
        to_k = pointer(dk + (image * o.dk[0] + kv_head * o.dk[1] + first * o.dk[2]) * size)
        to_v = pointer(dv + (image * o.dv[0] + kv_head * o.dv[1] + first * o.dv[2]) * size)
        for line in range(last - first):
            for i in range(z.d):
                to_k[line * o.dk[2] + i] = total_k[line * d_pad + i]
            for i in range(z.e):
                to_v[line * o.dv[2] + i] = total_v[line * e_pad + i]
        note(slot, np.uint8(odd), notes)

    @jit(tag=tag)
    def backward(z, n, o, grid, dout, q, k, v, out, lse, mask, scale, dq, dk, dv, scratch, scratch_bytes, nthreads):
        """Whether all that was written is finite."""
        notes, scratch = scratch, scratch + NOTES
        for slot in range(nthreads):
            flags(notes)[slot] = 0
        args = (z, n, o, grid, dout, q, k, v, out, lse, mask, scale, dq, dk, dv, notes, scratch, scratch_bytes)
        parallel_for(retrace, z.b * z.hk * grid[0], nthreads, args)
        return noted(nthreads, notes) == 0

    return _Kernels(forward, backward, ncols, nlanes)


# Multiply-adds below which waking a second thread costs more than it saves.
SMALL = 1 << 17


def _threads(work: int) -> int:
    return threads.get_num_threads() if work >= SMALL else 1


def attention(
    q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float | None
) -> tuple[Array, Array]:
    """out, lse"""
    (b, h, t, d), (hk, s), e = q.shape, k.shape[1:3], v.shape[3]
    (out,), steps = laid_as(q, (b, h, t, e))
    lse, finite = np.empty((b, h, t), q.dtype), True
    if lse.size:
        qs, q_strides = rows(q)
        ks, k_strides = rows(k)
        vs, v_strides = rows(v)
        ms, kind, m_strides = mask_strides(mask, (b, h, t, s))
        sizes = Sizes(b, h, hk, t, s, d, e, q_strides, k_strides, v_strides, int(causal), kind, m_strides)
        nthreads = _threads(b * h * t * s * (d + e))
        found, arrays = tiles.DISTRUST, (qs, ks, vs, ms, out, lse)
        if few.serves(sizes):
            found = 0 if few.forward(sizes, steps[:3], scale_of(q, scale), nthreads, *arrays) else tiles.ODD
        elif tiles.serves(q, sizes):
            found = tiles.forward(sizes, steps[:3], scale_of(q, scale), nthreads, *arrays)
        finite = found == 0
        if found == tiles.DISTRUST:
            kernels = _kernels(gather.name(q), machine.floats())
            tables, _held = _tables(s, d, e, k_strides[2], v_strides[2], kernels.ncols, 0, 0)
            scratch = rounded((d + kernels.nlanes + 2 * KEYS + e + 2 * PAD + 3) * kernels.ncols * q.itemsize, 64)
            with workspace.borrow(NOTES + nthreads * scratch) as at:
                finite = kernels.forward(
                    sizes,
                    tables,
                    steps[:3],
                    address(qs),
                    address(ks),
                    address(vs),
                    address(ms),
                    scale_of(q, scale),
                    address(out),
                    address(lse),
                    at,
                    scratch,
                    nthreads,
                )
    if not finite:
        # NaN or Inf among the inputs: by the definition, a masked key takes no part; blocks of keys cannot tell.
        return reference.attention(q, k, v, mask, causal, scale)
    return out, lse


def attention_backward(
    dout: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    mask: Array | None,
    causal: bool,
    scale: float | None,
) -> tuple[Array, Array, Array]:
    """dq, dk, dv"""
    (b, h, t, d), (hk, s), e = q.shape, k.shape[1:3], v.shape[3]
    if not (b and h and t and s):
        return np.zeros(q.shape, q.dtype), np.zeros(k.shape, q.dtype), np.zeros(v.shape, q.dtype)
    stretches, length = stretches_of(b * hk, s)
    parts, dq_steps = laid_as(q, q.shape, stretches)
    (dk,), dk_steps = laid_as(k, k.shape)
    (dv,), dv_steps = laid_as(v, v.shape)
    douts, dout_strides = rows(dout)
    outs, out_strides = rows(out)
    losses = np.ascontiguousarray(lse)
    steps = Gradients(out_strides, dout_strides, dq_steps, dk_steps[:3], dv_steps[:3])
    qs, q_strides = rows(q)
    ks, k_strides = rows(k)
    vs, v_strides = rows(v)
    ms, kind, m_strides = mask_strides(mask, (b, h, t, s))
    sizes = Sizes(b, h, hk, t, s, d, e, q_strides, k_strides, v_strides, int(causal), kind, m_strides)
    nthreads = _threads(2 * b * h * t * s * (d + e))
    arrays = (douts, qs, ks, vs, outs, losses, ms)
    found = tiles.DISTRUST
    if tiles.serves(q, sizes):
        found = tiles.backward(sizes, steps, scale_of(q, scale), nthreads, *arrays, parts, dk, dv)
    finite = found == 0
    if found == tiles.DISTRUST:
        kernels = _kernels(gather.name(q), machine.floats())
        ncols, size = kernels.ncols, q.itemsize
        d_pad, e_pad = rounded(d, kernels.nlanes), rounded(e, kernels.nlanes)
        tables, _held = _tables(s, d, e, k_strides[2], v_strides[2], ncols, d_pad, e_pad)
        numbers = (2 * (KEYS + PAD) + KEYS + d + PAD + 3 + 2 * (d_pad + e_pad)) * ncols
        scratch = rounded((numbers + (length + KEYS + PAD) * (d_pad + e_pad)) * size, 64)
        with workspace.borrow(NOTES + nthreads * scratch) as at:
            finite = kernels.backward(
                sizes,
                tables,
                steps,
                (stretches, length, d_pad, e_pad),
                *map(address, arrays),
                scale_of(q, scale),
                address(parts),
                address(dk),
                address(dv),
                at,
                scratch,
                nthreads,
            )
    dq = parts[0]
    for part in parts[1:]:
        dq += part
    if not finite:
        return reference.attention_backward(dout, q, k, v, out, lse, mask, causal, scale)
    return dq, dk, dv
