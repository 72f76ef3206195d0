"""Whole vectors inside kernels: a thin layer over LLVM's vector instructions.

Numba compiles loops over scalars and leaves vectors to LLVM's guesses. The tile and the packers are too important for
guesses, so they emit their vectors themselves: an `@intrinsic` receives an LLVM builder, wraps it in `Vectors`, and
writes straight-line code with Python loops standing for repetition. The width comes from the tier; LLVM turns the rest
into the right instructions for the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from llvmlite import ir
from numba.core import cgutils

I1, I8, I32, I64 = ir.IntType(1), ir.IntType(8), ir.IntType(32), ir.IntType(64)
F32, F64 = ir.FloatType(), ir.DoubleType()

VECTOR_BYTES = {"amx": 64, "avx512vnni": 64, "avx512": 64, "avx2": 32, "generic": 16}
LANE_BYTES = 16  # x86 shuffles are cheap inside 128 bits


@dataclass(frozen=True)
class Vectors:
    """Emits operations on vectors of `lanes` elements; addresses are 64-bit integers, offsets in bytes."""

    builder: ir.IRBuilder
    element: ir.Type
    lanes: int

    @property
    def type(self) -> ir.VectorType:
        return ir.VectorType(self.element, self.lanes)

    @property
    def bytes(self) -> int:
        """Size of one element."""
        return 8 if self.element in (F64, I64) else 1 if self.element == I8 else 4

    def _pointer(self, address: ir.Value, offset: int, to: ir.Type) -> ir.Value:
        if offset:
            address = self.builder.add(address, I64(offset))
        return self.builder.inttoptr(address, to.as_pointer())

    def load(self, address: ir.Value, offset: int = 0, align: int = 1) -> ir.Value:
        return self.builder.load(self._pointer(address, offset, self.type), align=align)

    def store(self, value: ir.Value, address: ir.Value, offset: int = 0, align: int = 1) -> None:
        self.builder.store(value, self._pointer(address, offset, self.type), align=align)

    def first(self, count: ir.Value) -> ir.Value:
        """A mask of the first `count` lanes (none for count <= 0, all for count >= lanes)."""
        low = self.builder.select(self.builder.icmp_signed("<", count, I64(self.lanes)), count, I64(self.lanes))
        low = self.builder.trunc(low, I32)
        numbers = ir.Constant(ir.VectorType(I32, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, Vectors(self.builder, I32, self.lanes).splat(low))

    def masked_load(self, mask: ir.Value, address: ir.Value, offset: int = 0) -> ir.Value:
        """Lanes outside the mask are zero, and their memory is not touched."""
        name = f"llvm.masked.load.{self._suffix}.p0"
        shape = ir.FunctionType(self.type, [self.type.as_pointer(), I32, ir.VectorType(I1, self.lanes), self.type])
        load = cgutils.get_or_insert_function(self.builder.module, shape, name)
        return self.builder.call(load, [self._pointer(address, offset, self.type), I32(1), mask, self.zero()])

    def masked_store(self, value: ir.Value, mask: ir.Value, address: ir.Value, offset: int = 0) -> None:
        """Memory outside the mask is not touched."""
        name = f"llvm.masked.store.{self._suffix}.p0"
        shape = ir.FunctionType(ir.VoidType(), [self.type, self.type.as_pointer(), I32, ir.VectorType(I1, self.lanes)])
        store = cgutils.get_or_insert_function(self.builder.module, shape, name)
        self.builder.call(store, [value, self._pointer(address, offset, self.type), I32(1), mask])

    @property
    def _suffix(self) -> str:
        return f"v{self.lanes}{'f' if self.element in (F32, F64) else 'i'}{8 * self.bytes}"

    def zero(self) -> ir.Value:
        return ir.Constant(self.type, None)

    def splat(self, scalar: ir.Value) -> ir.Value:
        """Every lane the same."""
        undefined = ir.Constant(self.type, ir.Undefined)
        one = self.builder.insert_element(undefined, scalar, I32(0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, self.lanes), None))

    def broadcast(self, address: ir.Value, offset: int = 0) -> ir.Value:
        """The element at the address in every lane."""
        return self.splat(self.builder.load(self._pointer(address, offset, self.element), align=1))

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """a * b + c; floats are rounded once where the CPU can."""
        if self.element not in (F32, F64):
            return self.builder.add(self.builder.mul(a, b), c)
        shape = ir.FunctionType(self.type, [self.type] * 3)
        return self.builder.call(
            cgutils.get_or_insert_function(self.builder.module, shape, f"llvm.fmuladd.{self._suffix}"), [a, b, c]
        )

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fadd(a, b) if self.element in (F32, F64) else self.builder.add(a, b)

    def total(self, x: ir.Value) -> ir.Value:
        """The sum of the lanes: halves onto each other."""
        lanes = self.lanes
        while lanes > 1:
            lanes //= 2
            order = [list(range(lanes)), list(range(lanes, 2 * lanes))]
            low, high = (
                self.builder.shuffle_vector(x, x, ir.Constant(ir.VectorType(I32, lanes), half)) for half in order
            )
            x = self.builder.fadd(low, high)
        return self.builder.extract_element(x, I32(0))

    def prefetch(self, address: ir.Value, offset: int = 0, write: bool = False) -> None:
        """Ask for the cache line."""
        pointer = I8.as_pointer()
        shape = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
        fetch = cgutils.get_or_insert_function(self.builder.module, shape, "llvm.prefetch.p0")
        self.builder.call(fetch, [self._pointer(address, offset, I8), I32(int(write)), I32(3), I32(1)])

    def transpose(self, rows: Sequence[ir.Value]) -> list[ir.Value]:
        """The columns of a square of `lanes` vectors, in registers.

        Eight shuffles transpose 4 x 4 squares inside the 128-bit lanes of four vectors; the same pattern on whole lanes
        then brings the squares to their places: lanes * log2(lanes) shuffles in all.
        """
        inner = max(1, min(self.lanes, LANE_BYTES // self.bytes))
        groups = [self._columns(list(rows[i : i + inner]), 1, inner) for i in range(0, self.lanes, inner)]
        columns: list[ir.Value] = [None] * self.lanes
        for q in range(inner):
            for i, column in enumerate(self._columns([group[q] for group in groups], inner, self.lanes)):
                columns[i * inner + q] = column
        return columns

    def weave(self, rows: Sequence[ir.Value]) -> ir.Value:
        """Four vectors as one of four times the length: the first of each, then the second of each, ..."""
        n = self.lanes
        halves = [
            self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, 2 * n), list(range(2 * n))))
            for a, b in (rows[:2], rows[2:])
        ]
        order = [r * n + i for i in range(n) for r in range(4)]
        return self.builder.shuffle_vector(*halves, ir.Constant(ir.VectorType(I32, 4 * n), order))

    def woven(self, rows: Sequence[ir.Value]) -> list[ir.Value]:
        """`weave`, as four vectors: inside their 128-bit lanes first, then whole lanes."""
        inner = LANE_BYTES // self.bytes

        def halves(a: ir.Value, b: ir.Value, unit: int) -> list[ir.Value]:
            """Of the lower half of every 128-bit lane, then of the upper: a unit of a, one of b, the next of a, ..."""
            orders = [
                [
                    source + lane + at + i
                    for lane in range(0, self.lanes, inner)
                    for at in range(start, start + inner // 2, unit)
                    for source in (0, self.lanes)
                    for i in range(unit)
                ]
                for start in (0, inner // 2)
            ]
            return [
                self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, self.lanes), order))
                for order in orders
            ]

        (ab, ab_upper), (cd, cd_upper) = halves(rows[0], rows[1], 1), halves(rows[2], rows[3], 1)
        return self._columns([*halves(ab, cd, 2), *halves(ab_upper, cd_upper, 2)], inner, self.lanes)

    def _columns(self, rows: list[ir.Value], unit: int, segment: int) -> list[ir.Value]:
        """Transpose a square of units (of `unit` elements) in every segment: even and odd units apart, recursively."""
        if len(rows) == 1:
            return rows
        pairs = list(zip(rows[::2], rows[1::2]))
        even = self._columns([self.alternate(a, b, unit, segment, 0) for a, b in pairs], unit, segment)
        odd = self._columns([self.alternate(a, b, unit, segment, 1) for a, b in pairs], unit, segment)
        return [column for pair in zip(even, odd) for column in pair]

    def alternate(self, a: ir.Value, b: ir.Value, unit: int, segment: int, odd: int) -> ir.Value:
        """In every segment: the even (or odd) units of a, then those of b."""
        order = [
            source + start + at + i
            for start in range(0, self.lanes, segment)
            for source in (0, self.lanes)
            for at in range(odd * unit, segment, 2 * unit)
            for i in range(unit)
        ]
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, self.lanes), order))


@contextmanager
def counting(builder: ir.IRBuilder, stop: ir.Value, start: Any = None, step: Any = None) -> Iterator[ir.Value]:
    """`with counting(builder, n) as i:` emits the body of `for i in range(start, n, step)`."""
    with (
        cgutils.for_range(builder, stop, start=start or I64(0), intp=I64)
        if step is None
        else cgutils.for_range_slice(builder, start or I64(0), stop, step, I64) as loop
    ):
        yield loop.index if step is None else loop[0]
