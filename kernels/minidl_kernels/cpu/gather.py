"""The register tile behind tables: a product whose operands are found through offsets, so that nothing has to be packed.

    C[r, j] (+)= sum over i < k of A[rows[r] + i * step] * B[cols[i] + j]        r < R rows, j < V vectors of lanes

`rows` and `cols` are tables of element offsets. They make one tile serve convolution (cols[i] is where tap i of the window lies in a padded
image), its gradients, and attention (strided views of q, k and v), where a packed panel would be used only once or twice.
The idea of an indirection table is Dukhan's: "The Indirect Convolution Algorithm", arXiv:1907.02129.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

I32, I64 = ir.IntType(32), ir.IntType(64)
VECTOR_BYTES = {"amx": 64, "avx512vnni": 64, "avx512": 64, "avx2": 32, "generic": 16}


def lanes(dtype: str, tier: str) -> int:
    """Numbers in one vector."""
    return VECTOR_BYTES[tier] // np.dtype(dtype).itemsize


def rows(tier: str) -> int:
    """Rows of a tile two vectors wide: with the vectors of B and a broadcast they fill the registers (16 on AVX2, 32 elsewhere)."""
    return 6 if tier == "avx2" else 8


def scalar(dtype: str) -> ir.Type:
    return ir.FloatType() if dtype == "float32" else ir.DoubleType()


@functools.cache
def pointer(dtype: str) -> Any:
    """pointer(dtype)(address): the memory there as p[i], without bounds."""
    to = types.CPointer({"float32": types.float32, "float64": types.float64, "int64": types.int64, "uint8": types.uint8}[dtype])

    @intrinsic
    def cast(typing: Any, address: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            return builder.inttoptr(args[0], context.get_value_type(to))

        return to(types.int64), emit

    return cast


def _fma(builder: ir.IRBuilder, kind: ir.VectorType, dtype: str) -> ir.Function:
    name = f"llvm.fma.v{kind.count}f{32 if dtype == 'float32' else 64}"
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)


@functools.cache
def product(dtype: str, nrows: int, nvectors: int, nlanes: int) -> Any:
    """The tile, as a function for kernels: product(k, a, rows, step, b, cols, c, ldc, add).

    a, b, c, rows, cols are addresses, step and ldc counts of elements. With add = 0 C is written, with 1 it is added to.
    """
    size = np.dtype(dtype).itemsize
    element = scalar(dtype)
    vector = ir.VectorType(element, nlanes)
    undefined, splat = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(I32, nlanes), [0] * nlanes)

    @intrinsic
    def tile(typing: Any, k: Any, a: Any, rows: Any, step: Any, b: Any, cols: Any, c: Any, ldc: Any, add: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, a, rows, step, b, cols, c, ldc, add = args
            fma = _fma(builder, vector, dtype)

            def at(base: ir.Value, index: ir.Value, kind: ir.Type, scale: int = size) -> ir.Value:
                address = builder.add(base, builder.mul(index, ir.Constant(I64, scale)))
                return builder.inttoptr(address, kind.as_pointer())

            row = [builder.load(at(rows, ir.Constant(I64, r), I64, 8)) for r in range(nrows)]
            row = [at(a, offset, element) for offset in row]
            before = builder.block
            loop, done = builder.append_basic_block("depth"), builder.append_basic_block("store")
            builder.cbranch(builder.icmp_signed(">", k, ir.Constant(I64, 0)), loop, done)

            builder.position_at_end(loop)
            i, offset = builder.phi(I64), builder.phi(I64)
            sums = [builder.phi(vector) for _ in range(nrows * nvectors)]
            source = at(b, builder.load(at(cols, i, I64, 8)), vector)
            bs = [builder.load(builder.gep(source, [ir.Constant(I64, j)]), align=size) for j in range(nvectors)]
            new = []
            for r in range(nrows):
                value = builder.load(builder.gep(row[r], [offset]), align=size)
                value = builder.insert_element(undefined, value, ir.Constant(I32, 0))
                value = builder.shuffle_vector(value, undefined, splat)
                new += [builder.call(fma, [value, bs[j], sums[r * nvectors + j]]) for j in range(nvectors)]
            following = builder.add(i, ir.Constant(I64, 1))
            for phi, first, then in (
                (i, ir.Constant(I64, 0), following),
                (offset, ir.Constant(I64, 0), builder.add(offset, step)),
                *((s, ir.Constant(vector, [0.0] * nlanes), n) for s, n in zip(sums, new)),
            ):
                phi.add_incoming(first, before)
                phi.add_incoming(then, loop)
            builder.cbranch(builder.icmp_signed("<", following, k), loop, done)

            builder.position_at_end(done)
            totals = []
            for n in new:
                total = builder.phi(vector)
                total.add_incoming(ir.Constant(vector, [0.0] * nlanes), before)
                total.add_incoming(n, loop)
                totals.append(total)
            targets = []
            for r in range(nrows):
                target = at(c, builder.mul(ldc, ir.Constant(I64, r)), vector)
                targets += [builder.gep(target, [ir.Constant(I64, j)]) for j in range(nvectors)]
            with builder.if_else(builder.icmp_signed("!=", add, ir.Constant(I64, 0))) as (adding, writing):
                with adding:
                    for t, total in zip(targets, totals):
                        builder.store(builder.fadd(builder.load(t, align=size), total), t, align=size)
                with writing:
                    for t, total in zip(targets, totals):
                        builder.store(total, t, align=size)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), emit

    return tile


@functools.cache
def dots(dtype: str, count: int, nlanes: int) -> Any:
    """Dot products of one run of memory with `count` others: dots(n, a, b, rows, c, add), n a multiple of the lanes.

    C[t] (+)= sum over i < n of A[i] * B[rows[t] + i], each in `nlanes` partial sums that are added in order at the end.
    """
    size = np.dtype(dtype).itemsize
    element = scalar(dtype)
    vector = ir.VectorType(element, nlanes)

    @intrinsic
    def tile(typing: Any, n: Any, a: Any, b: Any, rows: Any, c: Any, add: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, a, b, rows, c, add = args
            fma = _fma(builder, vector, dtype)

            def at(base: ir.Value, index: ir.Value, kind: ir.Type, scale: int = size) -> ir.Value:
                address = builder.add(base, builder.mul(index, ir.Constant(I64, scale)))
                return builder.inttoptr(address, kind.as_pointer())

            row = [builder.load(at(rows, ir.Constant(I64, t), I64, 8)) for t in range(count)]
            row = [builder.add(b, builder.mul(offset, ir.Constant(I64, size))) for offset in row]
            before = builder.block
            loop, done = builder.append_basic_block("along"), builder.append_basic_block("sum")
            builder.cbranch(builder.icmp_signed(">", n, ir.Constant(I64, 0)), loop, done)

            builder.position_at_end(loop)
            i = builder.phi(I64)
            sums = [builder.phi(vector) for _ in range(count)]
            x = builder.load(at(a, i, vector), align=size)
            new = [builder.call(fma, [x, builder.load(at(r, i, vector), align=size), s]) for r, s in zip(row, sums)]
            following = builder.add(i, ir.Constant(I64, nlanes))
            i.add_incoming(ir.Constant(I64, 0), before)
            i.add_incoming(following, loop)
            for s, v in zip(sums, new):
                s.add_incoming(ir.Constant(vector, [0.0] * nlanes), before)
                s.add_incoming(v, loop)
            builder.cbranch(builder.icmp_signed("<", following, n), loop, done)

            builder.position_at_end(done)
            for t, v in enumerate(new):
                partial = builder.phi(vector)
                partial.add_incoming(ir.Constant(vector, [0.0] * nlanes), before)
                partial.add_incoming(v, loop)
                new[t] = partial
            adding = builder.icmp_signed("!=", add, ir.Constant(I64, 0))
            for t, partial in enumerate(new):
                total = builder.extract_element(partial, ir.Constant(I32, 0))
                for lane in range(1, nlanes):
                    total = builder.fadd(total, builder.extract_element(partial, ir.Constant(I32, lane)))
                target = at(c, ir.Constant(I64, t), element)
                old = builder.select(adding, builder.load(target), ir.Constant(element, 0.0))
                builder.store(builder.fadd(old, total), target)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return tile
