"""Attention of a few queries, as when text is written word by word: k and v are read once, which is all that costs.

Lanes are features. A query's scores of 64 keys are dot products with rows of k, its sums gain those rows of v; other
queries of the same head of k follow while the rows are in L1. Stretches of keys are tasks of their own, of a length
that depends on shapes only, each with its own maximum; the results are joined at the end (Dao et al. 2023,
"Flash-Decoding for long-context inference").
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cpu import gather, machine, mathfn, workspace
from ..cpu.jit import jit
from ..cpu.pool import parallel_for
from ..cpu.product import address
from ..cpu.simd import I32, I64, Vectors, counting
from .blocks import KEYS, Array, Sizes, rounded

QUERIES = 8  # of one head of k at most, all its heads of q together: from there on blocks of queries are faster
STRETCH = 512  # keys
ROWS = 4  # keys whose scores are computed together
WIDE = 4  # vectors of features that are summed together


@functools.cache
def _score(dtype: str, nlanes: int) -> Any:
    """score(count, q, k, step, d, to): to[i] = q . row i of k, rows `step` bytes apart; up to ROWS - 1 more are
    written.
    """

    @intrinsic
    def function(typing: Any, count: Any, q: Any, k: Any, step: Any, d: Any, to: Any) -> Any:
        def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            count, q, k, step, d, to = args
            v = Vectors(b, gather.element(dtype), nlanes)
            whole = b.mul(b.sdiv(d, I64(nlanes)), I64(nlanes))
            rest = v.first(b.sub(d, whole))
            end = b.sub(count, I64(1))
            sums = [cgutils.alloca_once(b, v.type) for _ in range(ROWS)]
            with counting(b, count, step=I64(ROWS)) as i:
                lines = []
                for r, s in enumerate(sums):
                    at = b.add(i, I64(r))
                    at = b.select(b.icmp_signed("<", at, end), at, end)
                    lines.append(b.add(k, b.mul(at, step)))
                    b.store(v.zero(), s)
                with counting(b, whole, step=I64(nlanes)) as j:
                    far = b.mul(j, I64(v.bytes))
                    x = v.load(b.add(q, far))
                    for line, s in zip(lines, sums):
                        b.store(v.multiply_add(x, v.load(b.add(line, far)), b.load(s)), s)
                with b.if_then(b.icmp_signed("<", whole, d)):
                    far = b.mul(whole, I64(v.bytes))
                    x = v.masked_load(rest, b.add(q, far))
                    for line, s in zip(lines, sums):
                        b.store(v.multiply_add(x, v.masked_load(rest, b.add(line, far)), b.load(s)), s)
                for r, s in enumerate(sums):
                    total = v.total(b.load(s))
                    place = b.add(to, b.mul(b.add(i, I64(r)), I64(v.bytes)))
                    b.store(total, b.inttoptr(place, v.element.as_pointer()))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return function


@functools.cache
def _soften(dtype: str, nlanes: int) -> Any:
    """soften(n, scores, state, alpha): n vectors of scores become exp(scores - m), m the new maximum, and state[0].

    Their sum is added to state[1]; alpha[0] = exp(old m - m) is what sums from before must be multiplied with.
    """

    @intrinsic
    def function(typing: Any, n: Any, scores: Any, state: Any, alpha: Any) -> Any:
        def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, scores, state, alpha = args
            v = Vectors(b, gather.element(dtype), nlanes)
            size = v.bytes
            old = v.broadcast(state)
            most, total = cgutils.alloca_once_value(b, old), cgutils.alloca_once_value(b, v.zero())
            row = lambda i: b.add(scores, b.mul(i, I64(nlanes * size)))
            with counting(b, n) as i:
                x, y = v.load(row(i)), b.load(most)
                b.store(mathfn.choose(v, x, ">", y, x, y), most)
            # Halves onto each other, until every lane has the maximum of all.
            held, half = b.load(most), nlanes // 2
            while half:
                order = [lane ^ half for lane in range(nlanes)]
                other = b.shuffle_vector(held, held, ir.Constant(ir.VectorType(I32, nlanes), order))
                held, half = mathfn.choose(v, other, ">", held, other, held), half // 2
            # No key yet: -inf - 0 stays, where -inf - -inf would be NaN.
            base = mathfn.choose(v, held, "==", mathfn.const(v, -math.inf), v.zero(), held)
            with counting(b, n) as i:
                p = mathfn.exp_below(v, b.fsub(v.load(row(i)), base))
                v.store(p, row(i))
                b.store(b.fadd(b.load(total), p), total)
            factor = b.extract_element(mathfn.exp_below(v, b.fsub(old, base)), I32(0))
            place = lambda address, offset: b.inttoptr(b.add(address, I64(offset)), v.element.as_pointer())
            before = b.load(place(state, size))
            b.store(b.fadd(b.fmul(before, factor), v.total(b.load(total))), place(state, size))
            b.store(b.extract_element(held, I32(0)), place(state, 0))
            b.store(factor, place(alpha, 0))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 4), emit

    return function


@functools.cache
def _weigh(dtype: str, nlanes: int) -> Any:
    """weigh(count, p, v, step, e, sums, alpha): sums = sums * alpha[0] + the sum of p[i] * row i of v.

    Rows are `step` bytes apart, sums whole vectors, and p[count] is 0 if count is odd.
    """

    @intrinsic
    def function(typing: Any, count: Any, p: Any, v: Any, step: Any, e: Any, sums: Any, alpha: Any) -> Any:
        def emit(context: Any, b: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            count, p, rows, step, e, sums, alpha = args
            v = Vectors(b, gather.element(dtype), nlanes)
            factor = v.broadcast(alpha)
            wide = WIDE * nlanes
            whole = b.mul(b.sdiv(e, I64(wide)), I64(wide))

            def columns(start: ir.Value, many: int, mask: Any) -> None:
                """`many` vectors of features from `start` on."""
                far = b.mul(start, I64(v.bytes))
                offsets = [j * nlanes * v.bytes for j in range(many)]
                even, odd = ([cgutils.alloca_once(b, v.type) for _ in offsets] for _ in range(2))
                for o, s, other in zip(offsets, even, odd):
                    b.store(b.fmul(v.load(b.add(sums, far), o), factor), s)
                    b.store(v.zero(), other)
                with counting(b, count, step=I64(2)) as i:
                    for more, held in enumerate((even, odd)):
                        at = b.add(i, I64(more))
                        weight = v.broadcast(b.add(p, b.mul(at, I64(v.bytes))))
                        at = b.select(b.icmp_signed("<", at, count), at, i)
                        line = b.add(b.add(rows, b.mul(at, step)), far)
                        for o, s in zip(offsets, held):
                            row = v.load(line, o) if mask is None else v.masked_load(mask, line, o)
                            b.store(v.multiply_add(weight, row, b.load(s)), s)
                for o, s, other in zip(offsets, even, odd):
                    v.store(b.fadd(b.load(s), b.load(other)), b.add(sums, far), o)

            with counting(b, whole, step=I64(wide)) as j:
                columns(j, WIDE, None)
            with counting(b, e, start=whole, step=I64(nlanes)) as j:
                columns(j, 1, v.first(b.sub(e, j)))
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), emit

    return function


@functools.cache
def _kernel(dtype: str, tier: str) -> Any:
    size, nlanes = np.dtype(dtype).itemsize, gather.lanes(dtype, tier)
    score, soften, weigh = _score(dtype, nlanes), _soften(dtype, nlanes), _weigh(dtype, nlanes)
    pointer, flags = gather.pointer(dtype), gather.pointer("uint8")
    real = np.dtype(dtype).type
    low, zero = real(-np.inf), real(0)

    @jit(inner=True)
    def forbid(z, image, head, t0, s0, count, mask, scores):
        """-inf where the query may not attend; a float mask is added."""
        x, start = pointer(scores), mask + image * z.mask[0] + head * z.mask[1] + t0 * z.mask[2] + s0 * z.mask[3]
        if z.mask_kind == 2:
            for i in range(count):
                more = pointer(start + i * z.mask[3])[0]
                x[i] = low if more == low else x[i] + more
        else:
            for i in range(count):
                if flags(start + i * z.mask[3])[0] == 0:
                    x[i] = low

    @jit(inner=True)
    def attend(task, slot, z, stretches, q, k, v, mask, scale, partial, scratch, scratch_bytes):
        """A stretch of keys: of each query the sums, their maximum and their weight."""
        stretch, kv_head, image = task % stretches, task // stretches % z.hk, task // (stretches * z.hk)
        first, last, share = stretch * STRETCH, min(z.s, (stretch + 1) * STRETCH), z.h // z.hk
        keys = k + (image * z.k[0] + kv_head * z.k[1]) * size
        values = v + (image * z.v[0] + kv_head * z.v[1]) * size
        scores = scratch + slot * scratch_bytes
        alpha = scores + (KEYS + 16) * size
        scaled = alpha + size
        width = (z.e + nlanes - 1) // nlanes * nlanes + 2
        x, y = pointer(scores), pointer(scaled)
        mine = partial + task * share * z.t * width * size
        for r in range(share * z.t):
            here = pointer(mine + r * width * size)
            for i in range(width):
                here[i] = zero
            here[width - 2] = low
            row = pointer(q + (image * z.q[0] + (kv_head * share + r // z.t) * z.q[1] + r % z.t * z.q[2]) * size)
            for i in range(z.d):
                y[r * z.d + i] = row[i] * scale
        for s0 in range(first, last, KEYS):
            for r in range(share * z.t):
                t0, count = r % z.t, min(KEYS, last - s0)
                if z.causal:
                    count = min(count, t0 + 1 - s0)
                if count <= 0:
                    continue
                sums = mine + r * width * size
                score(count, scaled + r * z.d * size, keys + s0 * z.k[2] * size, z.k[2] * size, z.d, scores)
                if z.mask_kind:
                    forbid(z, image, kv_head * share + r // z.t, t0, s0, count, mask, scores)
                for i in range(count, (count + nlanes) // nlanes * nlanes):
                    x[i] = low
                soften((count + nlanes) // nlanes, scores, sums + (width - 2) * size, alpha)
                weigh(count, scores, values + s0 * z.v[2] * size, z.v[2] * size, z.e, sums, alpha)

    @jit(inner=True)
    def join(z, o, stretches, partial, out, lse):
        """Whether all results are finite, but for lse = -inf."""
        share, width, odd = z.h // z.hk, (z.e + nlanes - 1) // nlanes * nlanes + 2, False
        for n in range(z.b * z.h * z.t):
            image, head, t0 = n // (z.h * z.t), n // z.t % z.h, n % z.t
            kv_head, r = head // share, head % share * z.t + t0
            to = pointer(out + (image * o[0] + head * o[1] + t0 * o[2]) * size)
            start = partial + ((image * z.hk + kv_head) * stretches * share * z.t + r) * width * size
            step, most, total = share * z.t * width * size, low, zero
            for stretch in range(stretches):
                most = max(most, pointer(start + stretch * step)[width - 2])
            base = zero if most == low else most
            for stretch in range(stretches):
                here = pointer(start + stretch * step)
                total += here[width - 1] * math.exp(here[width - 2] - base)
            for i in range(z.e):
                to[i] = zero
            for stretch in range(stretches if total != zero else 0):
                here = pointer(start + stretch * step)
                weight = math.exp(here[width - 2] - base) / total
                for i in range(z.e):
                    to[i] += here[i] * weight
            log = most + math.log(total) if total != zero else low
            pointer(lse)[n] = log
            odd |= log != log
            for i in range(z.e):
                odd |= to[i] - to[i] != zero
        return not odd

    @jit(tag=f"{dtype} {tier}")
    def kernel(z, o, stretches, q, k, v, mask, scale, out, lse, partial, scratch, scratch_bytes, nthreads):
        tasks = z.b * z.hk * stretches
        parallel_for(attend, tasks, nthreads, (z, stretches, q, k, v, mask, scale, partial, scratch, scratch_bytes))
        return join(z, o, stretches, partial, out, lse)

    return kernel


def serves(z: Sizes) -> bool:
    """Whether the queries are few enough."""
    return z.t * (z.h // z.hk) <= QUERIES


def forward(z: Sizes, o: tuple[int, ...], scale: Any, nthreads: int, *arrays: Array | None) -> bool:
    """For q, k, v, mask, out, lse: whether the results are finite."""
    size, tier, dtype = arrays[0].itemsize, machine.floats(), gather.name(arrays[0])  # type: ignore[union-attr, arg-type]
    queries, stretches = z.t * (z.h // z.hk), max(1, -(-z.s // STRETCH))
    partial = rounded(z.b * z.hk * stretches * queries * (rounded(z.e, gather.lanes(dtype, tier)) + 2) * size, 64)
    scratch = rounded((KEYS + 16 + 1 + queries * z.d) * size, 64)
    q, k, v, mask, out, lse = map(address, arrays)
    with workspace.borrow(partial + nthreads * scratch) as at:
        kernel = _kernel(dtype, tier)
        return bool(kernel(z, o, stretches, q, k, v, mask, scale, out, lse, at, at + partial, scratch, nthreads))
