"""Attention without a matrix of scores: blocks of keys stream past a block of queries, its softmax kept up to date.

Everything is transposed, so that lanes are queries: a block of scores is (keys, queries), computed by the register
tile from rows of k as they lie in memory and the turned queries; maxima and sums run down the rows, never across
lanes; and the tile adds v^T p to the turned output. The backward makes p again from lse and needs five products of
the same kind.

Milakov and Gimelshein 2018 (arXiv:1805.02867), Dao et al. 2022 (arXiv:2205.14135).

Every output is one sum over keys (or queries) in their order, and what a task does depends on shapes only.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cpu import gather, machine, threads, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from . import reference, softmax

Array = NDArray[Any]

KEYS = 64  # keys in a block: a multiple of the tile's rows on every tier but avx2, whose tile overshoots into PAD rows
PAD = 8
VECTORS = 2
NOTES = threads.MAX_THREADS  # bytes: one for every thread
# The backward works through all keys of a head in one task, unless there are fewer heads than this: then through
# stretches.
TASKS = 16


class _Sizes(NamedTuple):
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


class _Steps(NamedTuple):
    """Strides of out or its gradient, and of the other gradients, in elements: (batch, head, row)."""

    out: tuple[int, int, int]
    dout: tuple[int, int, int]
    dq: tuple[int, int, int, int]  # after that from one stretch of keys to the next
    dk: tuple[int, int, int]
    dv: tuple[int, int, int]


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
    def add_rows(count, a, rows, b, cols, c, width):
        """c += a^T b: a has lanes, b and c rows of `width` numbers, a multiple of a vector's."""
        for j in range(0, width - nlanes, ncols):
            tile(count, a, rows, 1, b + j * size, cols, c + j * size, width, 1)
        if width % ncols:
            j = width - nlanes
            narrow(count, a, rows, 1, b + j * size, cols, c + j * size, width, 1)

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
    def note(slot, odd, notes):
        """Remember that a thread has written a NaN or an Inf."""
        if odd:
            flags(notes + slot)[0] = 1

    @jit(inner=True)
    def attend(task, slot, z, n, o, q, k, v, mask, scale, out, lse, notes, scratch, scratch_bytes):
        """One block of queries of one head."""
        blocks = (z.t + ncols - 1) // ncols
        image, head, t0 = task // (blocks * z.h), task // blocks % z.h, task % blocks * ncols
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
                tile(z.d, keys, n.k_rows + (s0 + i) * 8, 1, turned, n.lanes, scores + i * ncols * size, ncols, 0)
            if z.mask_kind or (z.causal and s0 + count > t0):
                forbid(z, image, head, t0, some, s0, count, mask, scores, alpha + ncols * size)
            absorb(count, scores, m, l, alpha)
            if s0:
                shrink(z.e, sums, alpha)
            for i in range(0, z.e, nrows):
                at = sums + i * ncols * size
                tile(count, values + s0 * z.v[2] * size, n.e + i * 8, z.v[2], scores, n.lanes, at, ncols, 1)
        logs = pointer(lse + ((image * z.h + head) * z.t + t0) * size)
        for lane in range(ncols):
            factors[lane] = one / total[lane] if total[lane] != zero else zero
        shrink(z.e, sums, alpha)
        odd = strange(z.e * VECTORS, sums)
        turn_back(sums, some, z.e, out + (image * o[0] + head * o[1] + t0 * o[2]) * size, o[2])
        for lane in range(some):
            logs[lane] = most[lane] + math.log(total[lane]) if total[lane] != zero else low
            odd |= logs[lane] != logs[lane]
        note(slot, odd, notes)

    @jit(inner=True)
    def all_finite(notes, nthreads):
        odd = False
        for slot in range(nthreads):
            odd |= flags(notes)[slot] != 0
        return not odd

    @jit(tag=tag)
    def forward(z, n, o, q, k, v, mask, scale, out, lse, scratch, scratch_bytes, nthreads):
        """Whether all that was written is finite, but for lse = -inf."""
        notes, scratch = scratch, scratch + NOTES
        for slot in range(nthreads):
            flags(notes)[slot] = 0
        tasks = z.b * z.h * ((z.t + ncols - 1) // ncols)
        parallel_for(attend, tasks, nthreads, (z, n, o, q, k, v, mask, scale, out, lse, notes, scratch, scratch_bytes))
        return all_finite(notes, nthreads)

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
        for i in range((length + KEYS + PAD) * (d_pad + e_pad)):
            total_k[i] = zero
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
                        tile(z.d, keys, n.k_rows + (s0 + i) * 8, 1, turned_q, n.lanes, scores + to_row, ncols, 0)
                        tile(z.e, values, n.v_rows + (s0 + i) * 8, 1, turned_o, n.lanes, slopes + to_row, ncols, 0)
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
                        line = s0 - first + i
                        add_rows(some, slopes, n.lanes + i * 8, lines_q, n.q_lines, sums_k + line * d_pad * size, d_pad)
                        add_rows(some, scores, n.lanes + i * 8, lines_o, n.e_lines, sums_v + line * e_pad * size, e_pad)
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
        note(slot, odd, notes)

    @jit(tag=tag)
    def backward(z, n, o, grid, dout, q, k, v, out, lse, mask, scale, dq, dk, dv, scratch, scratch_bytes, nthreads):
        """Whether all that was written is finite."""
        notes, scratch = scratch, scratch + NOTES
        for slot in range(nthreads):
            flags(notes)[slot] = 0
        args = (z, n, o, grid, dout, q, k, v, out, lse, mask, scale, dq, dk, dv, notes, scratch, scratch_bytes)
        parallel_for(retrace, z.b * z.hk * grid[0], nthreads, args)
        return all_finite(notes, nthreads)

    return _Kernels(forward, backward, ncols, nlanes)


def _rows(a: Array) -> tuple[Array, tuple[int, int, int]]:
    """`a` with its last axis in one piece (copied where it is not), and its strides in elements."""
    size = a.itemsize
    if (a.strides[3] != size and a.shape[3] > 1) or not a.flags.aligned:
        a = np.array(a, order="C")
    b, h, t, _ = a.strides
    return a, (b // size, h // size, t // size)


def _laid_as(a: Array, shape: tuple[int, ...], stretches: int = 1) -> tuple[Array, tuple[int, int, int, int]]:
    """`stretches` new arrays, (stretches, *shape), and their steps in elements: (batch, head, row, stretch).

    Their axes lie in memory in the order of a's, so that heads that were cut from rows of all heads go back without
    a copy; but the last axis is in one piece.
    """
    order = sorted(range(3), key=lambda axis: -a.strides[axis])
    made = np.empty((stretches, *(shape[axis] for axis in order), shape[3]), a.dtype)
    made = made.transpose(0, *(1 + order.index(axis) for axis in range(3)), 4)
    stretch, b, h, t, _ = made.strides
    size = a.itemsize
    return made, (b // size, h // size, t // size, stretch // size)


def _mask_strides(mask: Array | None, full: tuple[int, ...]) -> tuple[Array | None, int, tuple[int, int, int, int]]:
    """The mask, its kind, and its strides in bytes as if broadcast to (B, H, T, S)."""
    if mask is None:
        return None, 0, (0, 0, 0, 0)
    mask = mask if mask.flags.aligned else mask.copy()
    b, h, t, s = np.broadcast_to(mask, full).strides
    return mask, 1 if mask.dtype == bool else 2, (b, h, t, s)


# Multiply-adds below which waking a second thread costs more than it saves.
SMALL = 1 << 17


def _threads(work: int) -> int:
    return threads.get_num_threads() if work >= SMALL else 1


def _scale(q: Array, scale: float | None) -> Any:
    d = q.shape[3]
    return q.dtype.type((1 / math.sqrt(d) if d else 1.0) if scale is None else scale)


def _round(n: int, to: int) -> int:
    return -(-n // to) * to


def attention(
    q: Array, k: Array, v: Array, mask: Array | None, causal: bool, scale: float | None
) -> tuple[Array, Array]:
    """out, lse"""
    (b, h, t, d), (hk, s), e = q.shape, k.shape[1:3], v.shape[3]
    (out,), steps = _laid_as(q, (b, h, t, e))
    lse, finite = np.empty((b, h, t), q.dtype), True
    if lse.size:
        kernels = _kernels(gather.name(q), machine.floats())
        qs, q_strides = _rows(q)
        ks, k_strides = _rows(k)
        vs, v_strides = _rows(v)
        ms, kind, m_strides = _mask_strides(mask, (b, h, t, s))
        sizes = _Sizes(b, h, hk, t, s, d, e, q_strides, k_strides, v_strides, int(causal), kind, m_strides)
        tables, _held = _tables(s, d, e, k_strides[2], v_strides[2], kernels.ncols, 0, 0)
        nthreads = _threads(b * h * t * s * (d + e))
        scratch = _round((d + kernels.nlanes + 2 * KEYS + e + 2 * PAD + 3) * kernels.ncols * q.itemsize, 64)
        with workspace.borrow(NOTES + nthreads * scratch) as at:
            finite = kernels.forward(
                sizes,
                tables,
                steps[:3],
                address(qs),
                address(ks),
                address(vs),
                address(ms),
                _scale(q, scale),
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
    kernels = _kernels(gather.name(q), machine.floats())
    ncols, size = kernels.ncols, q.itemsize
    stretches = min(-(-TASKS // (b * hk)), -(-s // (2 * KEYS)))
    length = _round(-(-s // stretches), KEYS)
    stretches = -(-s // length)
    parts, dq_steps = _laid_as(q, q.shape, stretches)
    (dk,), dk_steps = _laid_as(k, k.shape)
    (dv,), dv_steps = _laid_as(v, v.shape)
    douts, dout_strides = _rows(dout)
    outs, out_strides = _rows(out)
    losses = np.ascontiguousarray(lse)
    steps = _Steps(out_strides, dout_strides, dq_steps, dk_steps[:3], dv_steps[:3])
    qs, q_strides = _rows(q)
    ks, k_strides = _rows(k)
    vs, v_strides = _rows(v)
    ms, kind, m_strides = _mask_strides(mask, (b, h, t, s))
    sizes = _Sizes(b, h, hk, t, s, d, e, q_strides, k_strides, v_strides, int(causal), kind, m_strides)
    d_pad, e_pad = _round(d, kernels.nlanes), _round(e, kernels.nlanes)
    tables, _held = _tables(s, d, e, k_strides[2], v_strides[2], ncols, d_pad, e_pad)
    nthreads = _threads(2 * b * h * t * s * (d + e))
    numbers = (2 * (KEYS + PAD) + KEYS + d + PAD + 3 + 2 * (d_pad + e_pad)) * ncols
    scratch = _round((numbers + (length + KEYS + PAD) * (d_pad + e_pad)) * size, 64)
    with workspace.borrow(NOTES + nthreads * scratch) as at:
        finite = kernels.backward(
            sizes,
            tables,
            steps,
            (stretches, length, d_pad, e_pad),
            address(douts),
            address(qs),
            address(ks),
            address(vs),
            address(outs),
            address(losses),
            address(ms),
            _scale(q, scale),
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
