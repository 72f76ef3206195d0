"""What this machine can do at most, measured: multiply-adds, integer dot products, bytes moved.

A kernel is judged by the time that the machine itself needs for the work, and that time has two floors:

    arithmetic   operations / rate of the tier's multiply-add (or integer dot product) on registers
    memory       the bytes that must be read and written / the speed of a loop that only reads, fills or copies as many

The arithmetic loop is the register tile without its packing: 12 sums, 3 vectors and 4 broadcasts per step, out of the
first-level cache. The memory loops run at sizes from the first-level cache to main memory, because a kernel that is
called again finds small operands in a cache. Each figure is the best of several tries: a ceiling, not an average.
Williams, Waterman and Patterson, "Roofline", 2009.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from minidl_kernels.cpu import machine, threads

__all__ = ["Ceilings", "Work", "measure_ceilings"]

# The dot product that a tier has for exact int8 products: a kind of minidl_kernels.cpu.tile.
INT8 = {"amx": "s8u8", "avx512vnni": "s8u8", "avx512": "s16", "avx2": "s16", "generic": "i32"}
PER_ELEMENT = {"f32": 1, "f64": 1, "s8u8": 4, "s16": 2, "i32": 1}  # products in one lane
SIZES = tuple(1 << n for n in range(14, 28, 2))  # bytes touched, 16 KiB to 64 MiB; main memory comes on top
STREAMS = ("read", "fill", "copy")


@dataclass(frozen=True)
class Work:
    """What a call has to do: `operations` (multiplies and adds) of `kind`, bytes to `read` and to `write` once each."""

    operations: float
    read: float
    write: float
    kind: str = "f32"

    @property
    def bytes(self) -> float:
        return self.read + self.write


@dataclass(frozen=True)
class Ceilings:
    """The measured limits of one number of threads on one tier.

    rates    kind -> operations per second; a multiply-add is two. "f32" by float32's own instructions, "product" by the
             fastest way to float32 products of matrices, which may be a tile unit's, "int8"
    streams  "read", "fill", "copy" -> ((bytes touched, bytes per second), ...), smallest first
    """

    threads: int
    tier: str
    rates: dict[str, float]
    streams: dict[str, tuple[tuple[int, float], ...]]

    def speed(self, stream: str, touched: float) -> float:
        """Bytes per second of a loop that touches this many: as measured at the next smaller size, where it is faster.

        >>> c = Ceilings(1, "generic", {}, {"copy": ((1000, 5e9), (4000, 1e9))})
        >>> c.speed("copy", 10), c.speed("copy", 3999), c.speed("copy", 4000)
        (5000000000.0, 5000000000.0, 1000000000.0)
        """
        steps = self.streams[stream]
        return next((rate for size, rate in reversed(steps) if size <= touched), steps[0][1])

    def floors(self, work: Work) -> tuple[float, float]:
        """Seconds that arithmetic and memory take at least."""
        both = min(work.read, work.write)
        memory = 2 * both / self.speed("copy", work.bytes)
        memory += (work.read - both) / self.speed("read", work.bytes)
        memory += (work.write - both) / self.speed("fill", work.bytes)
        return work.operations / self.rates[work.kind] if work.operations else 0.0, memory

    def best(self, other: Ceilings) -> Ceilings:
        """The higher of two measurements, figure by figure."""
        streams = {
            name: tuple((size, max(a, b)) for (size, a), (_, b) in zip(steps, other.streams[name]))
            for name, steps in self.streams.items()
        }
        rates = {kind: max(rate, other.rates[kind]) for kind, rate in self.rates.items()}
        return Ceilings(self.threads, self.tier, rates, streams)

    def times(self, n: int) -> Ceilings:
        """What n machines as this one could do."""
        streams = {name: tuple((size, n * rate) for size, rate in steps) for name, steps in self.streams.items()}
        return Ceilings(n * self.threads, self.tier, {kind: n * rate for kind, rate in self.rates.items()}, streams)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return asdict(self)


def measure_ceilings(nthreads: int, tier: str, seconds: float = 0.6) -> Ceilings:
    """Measure the limits of `nthreads` threads on a tier of this machine, in about twice `seconds`."""
    with machine.use_tier(tier), threads.threads(nthreads):
        rates = {"f32": _rate(tier, "f32", nthreads, seconds / 4)}
        # Where the integer instructions are slow, exact sums in float32 are a way too.
        rates["int8"] = max(_rate(tier, INT8[tier], nthreads, seconds / 4), rates["f32"])
        rates["product"] = rates["f32"]
        if tier == "amx":
            rates["int8"] = max(rates["int8"], _tile_rate("s8s8", nthreads, seconds / 4))
        if machine.multiplies_bfloat16():
            rates["product"] = max(rates["f32"], _tile_rate("f32x6", nthreads, seconds / 4))
        return Ceilings(nthreads, tier, rates, _streams(nthreads, seconds))


def _best(run: Callable[[int], Any], amount: Callable[[int], float], seconds: float) -> float:
    """amount(n) / time of run(n), the best of many; n is chosen so that a run takes some milliseconds."""
    run(1)  # compiles
    n, took = 1, 0.0
    while took < 1e-3:
        n *= 4 if took < 2e-4 else 2
        start = time.perf_counter()
        run(n)
        took = time.perf_counter() - start
    best, end = 0.0, time.perf_counter() + seconds
    tries = 0
    while tries < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        run(n)
        best = max(best, amount(n) / (time.perf_counter() - start))
        tries += 1
    return best


# --- arithmetic ------------------------------------------------------------------------------------------------------

ROWS, VECTORS, STEPS = 4, 3, 16
TASKS = 10  # per thread: a thread that wakes late leaves less undone


def _rate(tier: str, kind: str, nthreads: int, seconds: float) -> float:
    kernel, tile = _chain(tier, kind)
    panels = np.ones((nthreads * 2 * STEPS * 8 * 64 // 8,), np.float64)
    panels.view(np.int32)[:] = 0x01010101 if kind in ("s8u8", "s16", "i32") else np.float32(1).view(np.int32)
    out = np.empty((nthreads, 64))
    per_step = 2.0 * ROWS * VECTORS * tile.lanes * PER_ELEMENT[kind]
    return _best(lambda n: kernel(n * 100, nthreads, panels, out), lambda n: n * 100 * per_step * nthreads, seconds)


def _own_source() -> str:
    """Of this page: the disk cache of kernels knows only the source of minidl_kernels."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


@functools.cache
def _chain(tier: str, kind: str) -> tuple[Any, Any]:
    """kernel(steps, threads, panels, out): every thread multiplies and adds registers with what it loads from L1."""
    from llvmlite import ir
    from numba import types
    from numba.core import cgutils
    from numba.extending import intrinsic

    from minidl_kernels.cpu import tile as tiles
    from minidl_kernels.cpu.jit import jit
    from minidl_kernels.cpu.pool import parallel_for
    from minidl_kernels.cpu.simd import I64, counting

    t = tiles.tile(tier, kind)

    @intrinsic
    def chain(typing: Any, steps: Any, panel: Any, out: Any) -> Any:
        def emit(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
            steps, panel, out = args
            v = t.on(builder)
            width = t.lanes * t.size
            sums = [cgutils.alloca_once(builder, v.type) for _ in range(ROWS * VECTORS)]
            for s in sums:
                builder.store(v.zero(), s)
            with counting(builder, steps) as i:
                # One of STEPS places, so that nothing can be taken out of the loop; all of them stay in L1.
                line = builder.add(panel, builder.mul(builder.and_(i, I64(STEPS - 1)), I64(4 * 64)))
                bs = [v.load(line, j * width) for j in range(VECTORS)]
                for r in range(ROWS):
                    a = v.broadcast(line, r * t.size)
                    for b, s in zip(bs, sums[r * VECTORS : (r + 1) * VECTORS]):
                        builder.store(tiles.step(t, v, a, b, builder.load(s)), s)
            total = builder.load(sums[0])
            for s in sums[1:]:
                total = v.add(total, builder.load(s))
            v.store(total, out)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), emit

    @jit(inner=True)
    def share(task, slot, steps, panel, out):  # type: ignore[no-untyped-def]
        chain(steps, panel + slot * 8192, out + slot * 512)

    @jit(tag=f"{t.name} {_own_source()}")
    def kernel(steps, nthreads, panels, out):  # type: ignore[no-untyped-def]
        parallel_for(share, TASKS * nthreads, nthreads, (steps // TASKS, panels.ctypes.data, out.ctypes.data))

    return kernel, t


def _tile_rate(kind: str, nthreads: int, seconds: float) -> float:
    """Operations per second of the tile unit on panels in L1."""
    kernel, tile = _tiles(kind)
    room = DEEP * (tile.column + tile.line) + 8192
    panels = np.zeros((nthreads, room + 64), np.uint8)
    per_step = 2.0 * tile.rows * tile.cols * DEEP * (4 if kind == "s8s8" else 1)
    return _best(
        lambda n: kernel(n * TASKS, nthreads, panels, room), lambda n: n * TASKS * per_step * nthreads, seconds
    )


DEEP = 96  # k of a panel


@functools.cache
def _tiles(kind: str) -> tuple[Any, Any]:
    """kernel(steps, threads, panels, room): every thread multiplies the same two panels again and again."""
    from minidl_kernels.cpu import amx
    from minidl_kernels.cpu import tile as tiles
    from minidl_kernels.cpu.jit import jit
    from minidl_kernels.cpu.pool import parallel_for

    t = tiles.tile("amx", kind)
    multiply, enter, leave, high, across, line = amx.multiply(t), amx.enter, amx.leave, t.rows, t.cols, t.column

    @jit(inner=True)
    def share(task, slot, steps, panels, room):  # type: ignore[no-untyped-def]
        a = (panels + slot * (room + 64) + 63) // 64 * 64
        b, zeros = a + DEEP * line, a + room - 8192
        enter()
        for _ in range(steps):
            multiply(DEEP, a, b, zeros + 4096, 128, zeros, 0, high, across)
        leave()

    @jit(tag=f"{t.name} {_own_source()}")
    def kernel(steps, nthreads, panels, room):  # type: ignore[no-untyped-def]
        parallel_for(share, TASKS * nthreads, nthreads, (steps // TASKS, panels.ctypes.data, room))

    return kernel, t


# --- memory ----------------------------------------------------------------------------------------------------------


@functools.cache
def _loops() -> dict[str, Any]:
    """loop(repeats, threads, n, x, y): over the first n numbers of x and y, int64; each thread has its own part."""
    from minidl_kernels.cpu.gather import pointer
    from minidl_kernels.cpu.jit import jit
    from minidl_kernels.cpu.pool import parallel_for

    at = pointer("int64")  # memory without bounds: a loop over it becomes vectors

    @jit(inner=True)
    def read_part(task, slot, repeats, n, x, y):  # type: ignore[no-untyped-def]
        a, total = at(x + task * n * 8), 0
        for r in range(repeats):
            for i in range(n):
                total += a[i]
            total ^= r  # so that the rounds cannot be folded into one
        at(y)[task] = total

    @jit(inner=True)
    def fill_part(task, slot, repeats, n, x, y):  # type: ignore[no-untyped-def]
        b = at(y + task * n * 8)
        for r in range(repeats):
            for i in range(n):
                b[i] = r

    @jit(inner=True)
    def copy_part(task, slot, repeats, n, x, y):  # type: ignore[no-untyped-def]
        a, b = at(x + task * n * 8), at(y + task * n * 8)
        for _ in range(repeats):
            for i in range(n):
                b[i] = a[i]

    def loop(part: Any, name: str) -> Any:
        @jit(tag=f"{name} {_own_source()}")
        def run(repeats, nthreads, n, x, y):  # type: ignore[no-untyped-def]
            # The outer loop is here: all threads are on the same part of the memory at the same time.
            for r in range(0, repeats, 8):
                job = (min(8, repeats - r), n // nthreads, x.ctypes.data, y.ctypes.data)
                parallel_for(part, nthreads, nthreads, job)

        return run

    return {"read": loop(read_part, "read"), "fill": loop(fill_part, "fill"), "copy": loop(copy_part, "copy")}


def memory_size() -> int:
    """Bytes that no cache holds."""
    return int(min(max(4 * machine.machine().l3, 1 << 27), 1 << 28))


def _streams(nthreads: int, seconds: float) -> dict[str, tuple[tuple[int, float], ...]]:
    largest = memory_size()
    sizes = [s for s in SIZES if s < largest] + [largest]
    x, y = np.ones(largest // 8, np.int64), np.ones(largest // 8, np.int64)
    share = seconds / (len(sizes) * len(STREAMS))
    found: dict[str, tuple[tuple[int, float], ...]] = {}
    for name in STREAMS:
        loop = _loops()[name]
        rates = []
        for size in sizes:
            n = size // 8 if name != "copy" else size // 16
            moved = 16 * n if name == "copy" else 8 * n
            rates.append(_best(lambda r: loop(r, nthreads, n, x, y), lambda r: r * moved, share))  # noqa: B023
        # A larger size is never faster than a smaller one: where it seems so, the smaller was disturbed.
        for i in range(len(rates) - 2, -1, -1):
            rates[i] = max(rates[i], rates[i + 1])
        found[name] = tuple(zip(sizes, rates))
    return found


class Flush:
    """`flush()` pushes everything else out of the caches, those of all cores included."""

    def __init__(self) -> None:
        self._x, self._y = np.ones(1, np.int64), np.zeros(memory_size() // 16, np.int64)
        self._threads = machine.machine().cores

    def __call__(self) -> None:
        _loops()["fill"](1, self._threads, len(self._y), self._x, self._y)
