"""The register tile behind tables: a product whose operands are found through offsets, not packed.

    C[r, j] (+)= sum over i < k of A[rows[r] + i * step] * B[cols[i] + j]        r < R rows, j < V vectors of lanes

`rows` and `cols` are tables of element offsets. They make one tile serve convolution (cols[i] is where tap i of the
window lies in a padded image), its gradients, and attention (strided views of q, k and v), where a packed panel would
be used only once or twice. The idea of an indirection table is Dukhan's: "The Indirect Convolution Algorithm",
arXiv:1907.02129.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import F32, F64, I64, VECTOR_BYTES, Vectors, counting


def lanes(dtype: str, tier: str) -> int:
    """Numbers in one vector."""
    return VECTOR_BYTES[tier] // np.dtype(dtype).itemsize


def rows(tier: str) -> int:
    """Rows of a tile two vectors wide: with B and a broadcast they fit the registers (16 on AVX2, 32 elsewhere)."""
    return 6 if tier == "avx2" else 8


def name(a: np.ndarray) -> str:
    """Its dtype's name, which is "float32" or "float64" here; NumPy takes 4 us to tell."""
    return "float32" if a.itemsize == 4 else "float64"


def element(dtype: str) -> ir.Type:
    return F32 if dtype == "float32" else F64


@functools.cache
def pointer(dtype: str) -> Any:
    """pointer(dtype)(address): the memory there as p[i], without bounds."""
    to = types.CPointer(getattr(types, dtype))

    @intrinsic
    def cast(typing: Any, address: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            return builder.inttoptr(args[0], context.get_value_type(to))

        return to(types.int64), emit

    return cast


@functools.cache
def record(kind: Any) -> Any:
    """record(kind)(address): the int64s there as a namedtuple of that kind.

    Passing many numbers to a kernel takes longer than a small product.
    """
    whole = types.NamedUniTuple(types.int64, len(kind._fields), kind)

    @intrinsic
    def load(typing: Any, address: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            return builder.load(builder.inttoptr(args[0], context.get_value_type(whole).as_pointer()))

        return whole(types.int64), emit

    return load


def _sums(v: Vectors, count: int) -> list[ir.Value]:
    """Vectors of zeros that LLVM keeps in registers."""
    sums = [cgutils.alloca_once(v.builder, v.type) for _ in range(count)]
    for s in sums:
        v.builder.store(v.zero(), s)
    return sums


def _table(builder: ir.IRBuilder, base: ir.Value, table: ir.Value, index: ir.Value, size: int) -> ir.Value:
    """The address base + table[index] elements."""
    place = builder.add(table, builder.shl(index, I64(3)))
    offset = builder.load(builder.inttoptr(place, I64.as_pointer()))
    return builder.add(base, builder.mul(offset, I64(size)))


@functools.cache
def product(dtype: str, nrows: int, nvectors: int, nlanes: int) -> Any:
    """The tile, as a function for kernels: product(k, a, rows, step, b, cols, c, ldc, add).

    a, b, c, rows, cols are addresses, step and ldc counts of elements. With add = 0 C is written, with 1 it is added
    to.
    """
    size = np.dtype(dtype).itemsize

    @intrinsic
    def tile(typing: Any, k: Any, a: Any, rows: Any, step: Any, b: Any, cols: Any, c: Any, ldc: Any, add: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, a, rows, step, b, cols, c, ldc, add = args
            v = Vectors(builder, element(dtype), nlanes)
            row = [_table(builder, a, rows, I64(r), size) for r in range(nrows)]
            sums = _sums(v, nrows * nvectors)
            step = builder.mul(step, I64(size))
            with counting(builder, k) as i:
                line = _table(builder, b, cols, i, size)
                bs = [v.load(line, j * nlanes * size) for j in range(nvectors)]
                along = builder.mul(i, step)
                for r, start in enumerate(row):
                    x = v.broadcast(builder.add(start, along))
                    for y, s in zip(bs, sums[r * nvectors : (r + 1) * nvectors]):
                        builder.store(v.multiply_add(x, y, builder.load(s)), s)
            places = [
                (builder.add(c, builder.mul(ldc, I64(r * size))), j * nlanes * size)
                for r in range(nrows)
                for j in range(nvectors)
            ]
            with builder.if_else(builder.icmp_signed("!=", add, I64(0))) as (adding, writing):
                with adding:
                    for place, s in zip(places, sums):
                        v.store(v.add(v.load(*place), builder.load(s)), *place)
                with writing:
                    for place, s in zip(places, sums):
                        v.store(builder.load(s), *place)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), emit

    return tile


@functools.cache
def product_of_rows(dtype: str, nrows: int, nvectors: int, nlanes: int) -> Any:
    """The tile with the table on the other side, for kernels: f(k, a, rows, taps, b, c, add), addresses.

    C[r, j] (+)= sum over i < k of A[rows[r] + taps[i]] * B[i, j], where B and C have rows of V * lanes elements.
    A sum that goes on (add is not 0) has the same bits as one that is not interrupted.
    """
    size = np.dtype(dtype).itemsize
    width = nvectors * nlanes * size

    @intrinsic
    def tile(typing: Any, k: Any, a: Any, rows: Any, taps: Any, b: Any, c: Any, add: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, a, rows, taps, b, c, add = args
            v = Vectors(builder, element(dtype), nlanes)
            row = [_table(builder, a, rows, I64(r), size) for r in range(nrows)]
            sums = _sums(v, nrows * nvectors)
            with builder.if_then(builder.icmp_signed("!=", add, I64(0))):
                for n, s in enumerate(sums):
                    builder.store(v.load(c, n * nlanes * size), s)
            with counting(builder, k) as i:
                line = builder.add(b, builder.mul(i, I64(width)))
                along = _table(builder, I64(0), taps, i, size)
                bs = [v.load(line, j * nlanes * size) for j in range(nvectors)]
                for r, start in enumerate(row):
                    x = v.broadcast(builder.add(start, along))
                    for y, s in zip(bs, sums[r * nvectors : (r + 1) * nvectors]):
                        builder.store(v.multiply_add(x, y, builder.load(s)), s)
            for n, s in enumerate(sums):
                v.store(builder.load(s), c, n * nlanes * size)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 7), emit

    return tile


@functools.cache
def dots(dtype: str, count: int, nlanes: int) -> Any:
    """Dot products of one run of memory with `count` others: dots(n, a, b, rows, c, add), n a multiple of the lanes.

    C[t] (+)= sum over i < n of A[i] * B[rows[t] + i], each in `nlanes` partial sums that are added in order at the end.
    """
    size = np.dtype(dtype).itemsize

    @intrinsic
    def tile(typing: Any, n: Any, a: Any, b: Any, rows: Any, c: Any, add: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            n, a, b, rows, c, add = args
            v = Vectors(builder, element(dtype), nlanes)
            row = [_table(builder, b, rows, I64(t), size) for t in range(count)]
            sums = _sums(v, count)
            with counting(builder, builder.sdiv(n, I64(nlanes))) as i:
                along = builder.mul(i, I64(nlanes * size))
                x = v.load(builder.add(a, along))
                for start, s in zip(row, sums):
                    y = v.load(builder.add(start, along))
                    builder.store(v.multiply_add(x, y, builder.load(s)), s)
            adding = builder.icmp_signed("!=", add, I64(0))
            for t, s in enumerate(sums):
                partial = builder.load(s)
                total = builder.extract_element(partial, I64(0))
                for lane in range(1, nlanes):
                    total = builder.fadd(total, builder.extract_element(partial, I64(lane)))
                target = builder.inttoptr(builder.add(c, I64(t * size)), v.element.as_pointer())
                old = builder.select(adding, builder.load(target), ir.Constant(v.element, 0.0))
                builder.store(builder.fadd(old, total), target)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), emit

    return tile


def outlined(name: str, arguments: int, body: Callable[..., None]) -> Any:
    """A function for kernels whose code is there once, however many places call it: f(*int64), emitted by `body`.

    For long straight-line code, of which every copy would cost compile time.
    """

    @intrinsic
    def function(typing: Any, args: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, values: Any) -> ir.Value:
            shape = ir.FunctionType(ir.VoidType(), [I64] * arguments)
            code = cgutils.get_or_insert_function(builder.module, shape, f"minidl_{name}")
            if code.is_declaration:
                code.linkage = "linkonce_odr"
                code.attributes.add("noinline")
                inside = ir.IRBuilder(code.append_basic_block("entry"))
                body(inside, *code.args)
                inside.ret_void()
            builder.call(code, [builder.extract_value(values[0], i) for i in range(arguments)])
            return context.get_dummy_value()

        return types.void(types.UniTuple(types.int64, arguments)), emit

    return function


@functools.cache
def turn(dtype: str, nlanes: int, whole: bool) -> Any:
    """A transposing copy, as a function for kernels: turn((source, step, m, n, to, line)), m <= the lanes.

    to[j * line + i] = source[i * step + j] for i < m, j < n; step and line in bytes. Nothing else of the source is
    read. With `whole`, whole vectors are written, zeros behind m, and as many of them as fill a multiple of the lanes.
    """
    size = np.dtype(dtype).itemsize

    def body(builder: ir.IRBuilder, *args: ir.Value) -> None:
        source, step, m, n, to, line = args
        v = Vectors(builder, element(dtype), nlanes)
        mask = v.first(m)
        with counting(builder, n, step=I64(nlanes)) as j:
            left = builder.sub(n, j)
            start = builder.add(source, builder.mul(j, I64(size)))
            rows = []
            for i in range(nlanes):
                count = builder.select(builder.icmp_signed("<", I64(i), m), left, I64(0))
                rows.append(v.masked_load(v.first(count), builder.add(start, builder.mul(step, I64(i)))))
            for i, column in enumerate(v.transpose(rows)):
                at = builder.add(j, I64(i))
                place = builder.add(to, builder.mul(at, line))
                if whole:
                    v.store(column, place)
                else:
                    with builder.if_then(builder.icmp_signed("<", at, n)):
                        v.masked_store(column, mask, place)

    return outlined(f"turn_{dtype}_{nlanes}_{'whole' if whole else 'masked'}", 6, body)
