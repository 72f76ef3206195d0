"""The register tile: the few lines where the arithmetic of every product happens.

A tile of C, `rows` x `cols`, stays in registers while k runs: each step reads one column of A and one row of B and
adds their outer product. That is `rows * vectors` multiply-adds for `rows + vectors` loads, and as many independent
sums, which is what keeps the multipliers busy (each sum can take a new term only every 4 cycles or so). The sizes
fill the register file of the tier:

    avx512   32 registers of 16 floats:  14 x 2 sums + 2 of B + 1 of A
    avx2     16 registers of  8 floats:   6 x 2 sums + 2 of B + 1 of A

A and B come packed (pack.py) so that both are read front to back. The kind of product is a parameter: an *element* is
what one lane holds of A or B, and the tile multiplies elements and adds into the sums of the lanes.

    f32, f64   element a float, fused multiply-add
    s8u8       element 4 bytes along k, signed of A by unsigned of B: vpdpbusd (AVX-512 VNNI).
               The packer of B stores b + 128, so every sum comes out 128 * (sum of A's row) too large
    u8s8       the same with A as the unsigned side
    s16        element 2 int16 along k: vpmaddwd (AVX2)
    i32        element an int32: multiply, add (any CPU)

and two that amx.py has its own instructions for: s8s8, f32x6 and f32x3.

Van Zee and van de Geijn, "BLIS: A Framework for Rapidly Instantiating BLAS Functionality", 2015.
"""

from __future__ import annotations

import functools
import itertools
import platform
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .simd import F32, F64, I32, I64, VECTOR_BYTES, Vectors, counting

INTEGERS = ("s8u8", "u8s8", "s16", "i32", "s8s8")
ELEMENT = {"f32": F32, "f64": F64, "f32x6": F32, "f32x3": F32} | dict.fromkeys(INTEGERS, I32)
BLOCK = {"s8s8": 16, "f32x6": 32, "f32x3": 32}  # k in one tile register
SPLIT = {"f32x6": 6, "f32x3": 4}  # bytes that a number is split into, where they are not those of its element


@dataclass(frozen=True)
class Tile:
    """The shape of a tier's register tile: `rows` x `cols` sums, `cols` = `vectors` vectors of `lanes`.

    size    bytes of an element
    stride  elements from one k to the next in a packed panel of A: `rows`, rounded up to whole vectors (for B it is
    `cols`)
    """

    tier: str
    kind: str
    rows: int
    vectors: int
    lanes: int
    size: int

    @property
    def cols(self) -> int:
        return self.vectors * self.lanes

    @property
    def stride(self) -> int:
        return -(-self.rows // self.lanes) * self.lanes

    @property
    def block(self) -> int:
        """Panels hold whole blocks of so many k."""
        return BLOCK.get(self.kind, 1)

    @property
    def column(self) -> int:
        """Bytes of one k in a panel of A."""
        return self.stride * SPLIT.get(self.kind, self.size)

    @property
    def line(self) -> int:
        """Bytes of one k in a panel of B."""
        return self.cols * SPLIT.get(self.kind, self.size)

    @property
    def heights(self) -> tuple[int, ...]:
        """Rows of the lower tiles that serve the edges of C, and of the tile itself."""
        return (4, 8, self.rows) if self.rows > 8 else (self.rows // 2, self.rows)

    @property
    def name(self) -> str:
        return f"{self.kind} {self.tier}"

    def on(self, builder: ir.IRBuilder) -> Vectors:
        return Vectors(builder, ELEMENT[self.kind], self.lanes)


def tile(tier: str, kind: str) -> Tile:
    """The tile of a tier for a kind of product."""
    size = 8 if kind == "f64" else 4
    wide = VECTOR_BYTES[tier]
    if kind in BLOCK:
        return Tile(tier, kind, 32, 2, 16, size)
    many = platform.machine() in ("arm64", "aarch64")  # 32 registers of 128 bits
    rows = {64: 14, 32: 6, 16: 12 if many else 4}[wide]
    return Tile(tier, kind, rows, 2, wide // size, size)


def step(t: Tile, v: Vectors, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
    """c + a * b for one vector of elements."""
    builder = v.builder
    if t.kind in ("s8u8", "u8s8"):
        call = {16: "512", 8: "256", 4: "128"}[t.lanes]
        shape = ir.FunctionType(v.type, [v.type] * 3)
        dot = cgutils.get_or_insert_function(builder.module, shape, f"llvm.x86.avx512.vpdpbusd.{call}")
        return builder.call(dot, [c, b, a] if t.kind == "s8u8" else [c, a, b])
    if t.kind == "s16":
        halves = ir.VectorType(ir.IntType(16), 2 * t.lanes)
        shape = ir.FunctionType(v.type, [halves] * 2)
        name = {16: "llvm.x86.avx512.pmaddw.d.512", 8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}[t.lanes]
        dot = cgutils.get_or_insert_function(builder.module, shape, name)
        return builder.add(c, builder.call(dot, [builder.bitcast(a, halves), builder.bitcast(b, halves)]))
    return v.multiply_add(a, b, c)


@functools.cache
def multiply(t: Tile) -> Any:
    """The micro-kernel `f(k, a, b, c, ldc, add, ldadd, m, n)`, to be called in kernels:

        C[i, j] = add[i, j] + sum over k of A[k, i] * B[k, j]        for i < m <= rows, j < n <= cols

    a, b are addresses of packed panels of `k` columns; c and add of row-major memory, with rows `ldc` and `ldadd` bytes
    apart (add may be C itself, or one row with ldadd = 0: zeros, or a bias). Every sum is formed in the order of k,
    whatever m and n: results do not depend on how a matrix is cut. Nothing outside the m x n corner is read or written.
    """

    @intrinsic
    def tile_multiply(
        typing: Any, k: Any, a: Any, b: Any, c: Any, ldc: Any, add: Any, ldadd: Any, m: Any, n: Any
    ) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> ir.Value:
            k, a, b, c, ldc, add, ldadd, m, n = args
            v = t.on(builder)
            width = t.lanes * t.size

            def sums_of(rows: int, vectors: int) -> list[list[ir.Value]]:
                """The loop over k: `rows` x `vectors` sums in registers."""
                sums = [[cgutils.alloca_once(builder, v.type) for _ in range(vectors)] for _ in range(rows)]
                for s in itertools.chain(*sums):
                    builder.store(v.zero(), s)
                with counting(builder, k) as p:
                    column = builder.add(a, builder.mul(p, I64(t.stride * t.size)))
                    line = builder.add(b, builder.mul(p, I64(t.cols * t.size)))
                    bs = [v.load(line, j * width, align=width) for j in range(vectors)]
                    for i, row in enumerate(sums):
                        x = v.broadcast(column, i * t.size)
                        for s, y in zip(row, bs):
                            builder.store(step(t, v, x, y, builder.load(s)), s)
                return [[builder.load(s) for s in row] for row in sums]

            def line_of(start: ir.Value, step: ir.Value, i: int) -> ir.Value:
                return builder.add(start, builder.mul(step, I64(i)))

            def whole() -> None:
                # C is needed after the loop: ask for it now.
                for i in range(t.rows):
                    for offset in range(0, t.vectors * width, 64):
                        v.prefetch(line_of(c, ldc, i), offset, write=True)
                for i, row in enumerate(sums_of(t.rows, t.vectors)):
                    for j, s in enumerate(row):
                        v.store(v.add(v.load(line_of(add, ldadd, i), j * width), s), line_of(c, ldc, i), j * width)

            def part(rows: int, vectors: int) -> None:
                masks = [v.first(builder.sub(n, I64(j * t.lanes))) for j in range(vectors)]
                for i, row in enumerate(sums_of(rows, vectors)):
                    with builder.if_then(builder.icmp_signed("<", I64(i), m)):
                        for j, s in enumerate(row):
                            old = v.masked_load(masks[j], line_of(add, ldadd, i), j * width)
                            v.masked_store(v.add(old, s), masks[j], line_of(c, ldc, i), j * width)

            def smallest_part(choices: list[tuple[int, int]]) -> None:
                """At the edges of C the smallest tile that holds m x n, so that little is computed in vain."""
                (rows, vectors), *larger = choices
                if not larger:
                    part(rows, vectors)
                    return
                high = builder.icmp_signed("<=", m, I64(rows))
                wide = builder.icmp_signed("<=", n, I64(vectors * t.lanes))
                with builder.if_else(builder.and_(high, wide)) as (fits, otherwise):
                    with fits:
                        part(rows, vectors)
                    with otherwise:
                        smallest_part(larger)

            full = builder.icmp_signed("==", m, I64(t.rows))
            full = builder.and_(full, builder.icmp_signed("==", n, I64(t.cols)))
            with builder.if_else(full) as (all_of_it, edge):
                with all_of_it:
                    whole()
                with edge:
                    smallest_part([(rows, vectors) for vectors in (1, 2) for rows in t.heights])
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), emit

    return tile_multiply
