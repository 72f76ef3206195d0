"""Lines of an image, or of filters, copied by whole vectors: into planes, out of products, into panels.

Images are often narrower than a vector; masks make each line one load and one store then, and keep from memory that
belongs to a neighbour.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from ..cpu import gather
from ..cpu.simd import I1, I32, I64, Vectors, counting


@functools.cache
def plane(dtype: str, nlanes: int, step: int) -> Any:
    """Copy lines of some channels into planes, one channel after the other:

        f((source, next, channels, height, width, row, column, step_h, to, next_to, lines, pitch))

    to[i * pitch + j] = source[row + i * step_h, column + j * step] for i < lines, j < pitch, and zero where that lies
    outside of the image. `step` is 1 or 2; next and next_to: bytes between channels.
    """
    size = np.dtype(dtype).itemsize

    def body(builder: ir.IRBuilder, *args: ir.Value) -> None:
        source, next, channels, height, width, row, column, step_h, to, next_to, lines, pitch = args
        v = Vectors(builder, gather.element(dtype), nlanes)
        even = ir.Constant(ir.VectorType(I32, nlanes), list(range(0, 2 * nlanes, 2)))

        def inside(limit: ir.Value) -> ir.Value:
            """The first line at or behind row `limit` of the image."""
            ahead = builder.sub(builder.add(limit, builder.sub(step_h, I64(1))), row)
            at = builder.sdiv(builder.select(builder.icmp_signed("<", ahead, I64(0)), I64(0), ahead), step_h)
            return builder.select(builder.icmp_signed("<", at, lines), at, lines)

        first, stop = inside(I64(0)), inside(height)
        start = builder.add(source, builder.mul(builder.mul(row, width), I64(size)))
        from_line, to_line = builder.mul(builder.mul(step_h, width), I64(size)), builder.mul(pitch, I64(size))
        with counting(builder, pitch, step=I64(nlanes)) as j:
            kept, parts = v.first(builder.sub(pitch, j)), []
            for part in range(step):
                # Columns of the image from `at` on: those before 0 and from its width on are zeros.
                at = builder.add(column, builder.add(builder.mul(j, I64(step)), I64(part * nlanes)))
                mask = builder.and_(v.first(builder.sub(width, at)), builder.not_(v.first(builder.sub(I64(0), at))))
                parts.append((mask, builder.mul(at, I64(size))))
            with counting(builder, channels) as c:
                target = builder.add(builder.add(to, builder.mul(j, I64(size))), builder.mul(c, next_to))
                begin = builder.add(start, builder.mul(c, next))
                for low, high in ((I64(0), first), (stop, lines)):
                    with counting(builder, high, start=low) as i:
                        v.masked_store(v.zero(), kept, builder.add(target, builder.mul(i, to_line)))
                with counting(builder, stop, start=first) as i:
                    line = builder.add(begin, builder.mul(i, from_line))
                    xs = [v.masked_load(mask, builder.add(line, at)) for mask, at in parts]
                    x = xs[0] if step == 1 else builder.shuffle_vector(*xs, even)
                    v.masked_store(x, kept, builder.add(target, builder.mul(i, to_line)))

    return gather.outlined(f"plane_{dtype}_{nlanes}_{step}", 12, body)


@functools.cache
def unload(dtype: str, nlanes: int, step: int) -> Any:
    """Copy lines of products of some channels to where they belong, `step` (1 or 2) numbers apart:

        f((source, next, from_line, to, next_to, to_line, channels, lines, columns, bias))

    next and next_to: bytes between channels, from_line and to_line: between lines; bias: address of a number for each
    channel to add, or 0.
    """
    size = np.dtype(dtype).itemsize

    def body(builder: ir.IRBuilder, *args: ir.Value) -> None:
        source, next, from_line, to, next_to, to_line, channels, lines, columns, bias = args
        element = gather.element(dtype)
        v = Vectors(builder, element, nlanes)
        add = cgutils.alloca_once(builder, element)
        # Lane i of part p of a line is number (p * nlanes + i) / step of the products, if that is whole.
        orders = [
            ir.Constant(ir.VectorType(I32, nlanes), [(p * nlanes + i) // step for i in range(nlanes)])
            for p in range(step)
        ]
        hits = ir.Constant(ir.VectorType(I1, nlanes), [i % step == 0 for i in range(nlanes)])
        with counting(builder, columns, step=I64(nlanes)) as j:
            left, along = builder.sub(columns, j), builder.mul(j, I64(size))
            mask = v.first(left)
            kept = [
                builder.and_(v.first(builder.sub(builder.mul(left, I64(step)), I64(p * nlanes))), hits)
                for p in range(step)
            ]
            with counting(builder, channels) as c:
                builder.store(ir.Constant(element, -0.0), add)  # what leaves every number as it is
                with builder.if_then(builder.icmp_signed("!=", bias, I64(0))):
                    at = builder.add(bias, builder.mul(c, I64(size)))
                    builder.store(builder.load(builder.inttoptr(at, element.as_pointer())), add)
                every = v.splat(builder.load(add))
                begin = builder.add(builder.add(source, along), builder.mul(c, next))
                target = builder.add(builder.add(to, builder.mul(along, I64(step))), builder.mul(c, next_to))
                with counting(builder, lines) as i:
                    x = v.add(v.masked_load(mask, builder.add(begin, builder.mul(i, from_line))), every)
                    line = builder.add(target, builder.mul(i, to_line))
                    for p in range(step):
                        y = x if step == 1 else builder.shuffle_vector(x, x, orders[p])
                        v.masked_store(y, kept[p], line, p * nlanes * size)

    return gather.outlined(f"unload_{dtype}_{nlanes}_{step}", 10, body)


@functools.cache
def pick(dtype: str, nlanes: int) -> Any:
    """Some columns of a few lines, turned: f((source, step, m, table, n, to, line)), m <= the lanes.

    to[j * line + i] = source[i * step + table[j]] for i < m, j < n. step and line in bytes; the table counts elements.
    """
    size = np.dtype(dtype).itemsize

    def body(builder: ir.IRBuilder, *args: ir.Value) -> None:
        source, step, m, table, n, to, line = args
        v = Vectors(builder, gather.element(dtype), nlanes)
        whole = ir.VectorType(I64, nlanes)
        numbers = ir.Constant(whole, list(range(nlanes)))
        places = builder.mul(numbers, Vectors(builder, I64, nlanes).splat(step))
        mask = v.first(m)
        name = f"llvm.masked.gather.{v._suffix}.v{nlanes}p0"
        pointers = ir.VectorType(v.element.as_pointer(), nlanes)
        shape = ir.FunctionType(v.type, [pointers, I32, ir.VectorType(I1, nlanes), v.type])
        gathered = cgutils.get_or_insert_function(builder.module, shape, name)
        with counting(builder, n) as j:
            tap = builder.load(builder.inttoptr(builder.add(table, builder.shl(j, I64(3))), I64.as_pointer()))
            start = builder.add(source, builder.mul(tap, I64(size)))
            at = builder.inttoptr(builder.add(places, Vectors(builder, I64, nlanes).splat(start)), pointers)
            x = builder.call(gathered, [at, I32(size), mask, v.zero()])
            v.masked_store(x, mask, builder.add(to, builder.mul(j, line)))

    return gather.outlined(f"pick_{dtype}_{nlanes}", 7, body)
