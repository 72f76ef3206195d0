"""`minidl bench --device cuda`: the kernels on a GPU, timed by the GPU's own events.

Each kernel is verified first: against the reference, for inputs that it may not write and results of its own memory.
Then contestants take turns in blocks, in an order drawn anew for each round: a block is as many calls as take some ten
milliseconds, between two events on the GPU's stream. Its time is what a program sees that calls nothing else; where
the host needs most of it to launch, the line says so ("host"). A cold call finds nothing of its operands in the
second-level cache, which an array of twice its size is written over just before.

Ceilings are measured too: multiply-adds on registers, tensor cores fed from registers by `mma.sync` (Hopper's and
Blackwell's own instructions, wgmma and tcgen05, which cuBLAS uses, go beyond), and copying between arrays that no cache
holds. Peers are torch, if its build has CUDA, and CuPy.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import __version__, devices
from minidl.bench import peers
from minidl.bench.ceilings import Work
from minidl.bench.kernels import OURS, ladder_shape, smallest
from minidl.bench.rows import Row
from minidl.bench.shapes import Shape
from minidl.bench.timing import ratio, unit
from minidl.bench.verify import error_of
from minidl.cli import UserError
from minidl.io import atomic_write
from minidl_kernels.cuda import launch

__all__ = ["Ceilings", "Stopwatch", "measure", "run"]

BLOCK, ROUNDS, WARM = 0.01, 5, 3  # seconds of a block, least blocks, untimed calls before one
PEERS = ("torch", "cupy")
Call = Callable[[], Any]
Say = Callable[[str], None]


def the_gpu() -> Any:
    """The cupy module. Raises UserError where there is no GPU, and says what is missing."""
    missing = devices.why_no_cuda()
    if missing is not None:
        raise UserError(f"--device cuda: there is no GPU to measure: {missing}")
    return devices.cupy()


class Stopwatch:
    """Seconds on the GPU, between two events in its stream."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        level2 = xp.cuda.runtime.deviceGetAttribute(_L2_BYTES, xp.cuda.runtime.getDevice())
        self.flushes = xp.zeros(max(2 * level2, 1 << 20) // 4, np.float32)

    def seconds(self, call: Call, times: int = 1) -> tuple[float, float]:
        """Of one of `times` calls in a row: on the GPU, and what the host needed to launch it."""
        start, end = self.xp.cuda.Event(), self.xp.cuda.Event()
        start.record()
        begin = time.perf_counter()
        for _ in range(times):
            call()
        host = time.perf_counter() - begin
        end.record()
        end.synchronize()
        return self.xp.cuda.get_elapsed_time(start, end) * 1e-3 / times, host / times

    def cold(self, call: Call, samples: int = 5) -> float:
        """Of a call whose operands are in no cache, the median."""
        found = []
        for _ in range(samples):
            self.flushes.fill(0)
            found.append(self.seconds(call)[0])
        return median(found)


_L2_BYTES, _MULTIPROCESSORS = 38, 16  # of cudaDeviceAttr


# --- ceilings --------------------------------------------------------------------------------------------------------


class Ceilings:
    """What the GPU did at most: operations per second by kind ("f32", "tf32", "int8"), bytes per second of a copy."""

    def __init__(self, rates: Mapping[str, float], copy: float) -> None:
        self.rates, self.copy = dict(rates), copy

    def floor(self, work: Work) -> float:
        """Seconds that arithmetic or memory needs at least for a call."""
        kind = {"product": "f32"}.get(work.kind, work.kind)
        return max(work.operations / self.rates[kind], work.bytes / self.copy)


def measure(xp: Any, watch: Stopwatch, seconds: float = 0.2) -> Ceilings:
    """Measure them, the best of several tries each."""
    blocks = 16 * xp.cuda.runtime.deviceGetAttribute(_MULTIPROCESSORS, xp.cuda.runtime.getDevice())

    def best(call: Callable[[int], Any], amount: Callable[[int], float], n: int) -> float:
        call(n)  # compiles
        while watch.seconds(functools.partial(call, n))[0] < 2e-3 and n < 1 << 24:
            n *= 4
        rate, end = 0.0, time.perf_counter() + seconds
        while not rate or time.perf_counter() < end:
            rate = max(rate, amount(n) / watch.seconds(functools.partial(call, n))[0])
        return rate

    y, z, i = (xp.empty(blocks * 256, kind) for kind in ("float32", "float32", "int32"))
    fma, tf32, s8 = (launch.kernel(_PEAK, name) for name in ("multiply_adds", "tensor_tf32", "tensor_s8"))
    rates = {
        "f32": best(lambda n: fma(blocks, 256, y, 0.5, 1.0, n), lambda n: 2.0 * 8 * blocks * 256 * n, 16),
        "tf32": best(lambda n: tf32(blocks, 128, z, 0, n), lambda n: 2.0 * 16 * 8 * 8 * 4 * blocks * 4 * n, 16),
        "int8": best(lambda n: s8(blocks, 128, i, 0, n), lambda n: 2.0 * 16 * 8 * 32 * 4 * blocks * 4 * n, 16),
    }
    free = xp.cuda.runtime.memGetInfo()[0]
    size = int(min(max(8 * watch.flushes.nbytes, 1 << 22), free // 4)) // 4
    a, b = xp.zeros(size, np.float32), xp.empty(size, np.float32)
    copy = best(lambda n: xp.copyto(b, a), lambda n: 2.0 * a.nbytes, 1 << 24)
    return Ceilings(rates, copy)


_PEAK = "cuda/peak.cu"


# --- rows ------------------------------------------------------------------------------------------------------------


def on_host(out: Any) -> list[np.ndarray]:
    """A result, of CuPy or torch or a sequence of them, as NumPy arrays."""
    if isinstance(out, (tuple, list)):
        return [a for part in out for a in on_host(part)]
    return [devices.cupy().asnumpy(out) if devices.is_cuda_array(out) else out.detach().cpu().numpy()]


def fault(out: Any, args: Sequence[Any], kept: Sequence[Any], want: list[np.ndarray], limit: float) -> str | None:
    """What is wrong with a result, or with the arguments after the call; None if nothing is."""
    for number, (a, value) in enumerate(zip(args, kept)):
        if devices.is_cuda_array(a) and not np.array_equal(on_host(a)[0], value, equal_nan=value.dtype.kind == "f"):
            return f"wrote into its argument {number}"
    got = on_host(out)
    worst = max((error_of(a, b) for a, b in zip(got, want)), default=float("inf"))
    if worst <= limit:
        return None
    return f"returns a result off by {worst:.1e} of its largest element; rounding explains {limit:.1e}"


def record(
    xp: Any, row: Row, shape: Shape, pages: Mapping[str, Any], watch: Stopwatch, ceilings: Ceilings, seconds: float,
    ladder: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """One row on one shape: verified, timed, as plain values."""
    seed = zlib.crc32(f"{row.kernel} {shape.label}".encode())  # the same numbers in every run
    given = row.make(np.random.default_rng(seed), shape.numbers)
    args = tuple(xp.asarray(a) if isinstance(a, np.ndarray) else a for a in given)
    want = [np.asarray(a) for a in _listed(row.right(*given))]
    calls: dict[str, Call] = {}
    variants, faults = {}, []
    for name in kernels.variants(row.kernel, "cuda") if ladder else ("",):
        forced = kernels.use(**{row.kernel: name}) if name else contextlib.nullcontext()
        with contextlib.suppress(RuntimeError), forced:
            found = kernels.which(row.kernel, *args)  # raises where a forced one cannot run
            who = name or OURS
            calls[who], variants[who] = _forced(row, args, name), found
    for name, page in pages.items():
        try:
            if (call := peers.find(page, row.kernel, args)) is not None:
                call()
                calls[name] = call
        except Exception as error:  # a peer that cannot do it on a GPU takes no part
            faults.append({"who": name, "what": f"does not run it: {error}", "absent": True})
    for name, call in list(calls.items()):
        rounded = name in ("tf32", "bf16") or name in pages  # their operands are rounded, which is no fault
        limit = max(row.slack.get(name, 0.0), row.tolerance(shape.numbers), 2e-2 if rounded else 0.0)
        try:
            problem = fault(call(), args, given, want, limit)
        except Exception as error:
            problem = f"raised {type(error).__name__}: {error}"
        if problem:
            faults.append({"who": name, "what": problem, "absent": False})
            del calls[name]
    times = take_turns(watch, calls, seconds, np.random.default_rng(0))
    work = row.work(shape.numbers, given, want)
    contestants = {}
    for name, (blocks, host) in times.items():
        contestants[name] = {
            "seconds": median(blocks), "blocks": blocks, "host_seconds": host, "cold_seconds": watch.cold(calls[name]),
            "share_of_peak": ceilings.floor(work) / median(blocks),
            **({"variant": variants[name]} if name in variants else {}),
        }  # fmt: skip
        if name != OURS and OURS in times:
            contestants[name]["ratio"] = list(ratio(blocks, times[OURS][0]))
    return {
        "kernel": row.kernel, "network": shape.network, "name": shape.name, "shape": shape.label,
        "work": {"operations": work.operations, "bytes": work.bytes, "kind": work.kind},
        "contestants": contestants, "faults": faults,
    }  # fmt: skip


def _listed(out: Any) -> list[Any]:
    return [a for part in out for a in _listed(part)] if isinstance(out, (tuple, list)) else [out]


def _forced(row: Row, args: Sequence[Any], variant: str) -> Call:
    call = row.call(tuple(args))
    if not variant:
        return call

    def run() -> Any:
        with kernels.use(**{row.kernel: variant}):
            return call()

    return run


def take_turns(
    watch: Stopwatch, calls: Mapping[str, Call], seconds: float, rng: np.random.Generator
) -> dict[str, tuple[list[float], float]]:
    """For each call the seconds of its blocks, and what the host needs for one call."""
    counts, blocks, hosts = {}, {name: [] for name in calls}, {name: [] for name in calls}  # type: ignore[var-annotated]
    for name, call in calls.items():
        for _ in range(WARM):
            call()
        counts[name] = max(1, min(round(BLOCK / max(watch.seconds(call, WARM)[0], 1e-7)), 2000))
    rounds = max(ROUNDS, round(seconds / BLOCK))
    for _ in range(rounds):
        for name in rng.permutation(list(calls)).tolist():
            calls[name]()
            found, host = watch.seconds(calls[name], counts[name])
            blocks[name].append(found)
            hosts[name].append(host)
    return {name: (blocks[name], median(hosts[name])) for name in calls}


# --- the command -----------------------------------------------------------------------------------------------------


def run(
    rows: Mapping[str, tuple[Row, list[Shape]]], asked_peers: str | None, seconds: float, quick: bool, ladder: bool,
    json_file: str | None, say: Say,
) -> int:  # fmt: skip
    """Measure, print as it comes, write at the end. 1 where a kernel of ours was wrong."""
    xp = the_gpu()
    name = xp.cuda.runtime.getDeviceProperties(xp.cuda.runtime.getDevice())["name"].decode()
    pages = {} if ladder else _pages(asked_peers, say)
    say(f"minidl {__version__} on {name}" + (f", against {', '.join(pages)}" if pages else ""))
    watch = Stopwatch(xp)
    ceilings = measure(xp, watch, 0.02 if quick else 0.2)
    told = ", ".join(
        f"{rate / 1e12:.1f} T{'OP' if kind == 'int8' else 'FLOP'}/s {kind}" for kind, rate in ceilings.rates.items()
    )
    say(f"ceilings: {told}, copying {ceilings.copy / 1e9:.0f} GB/s")
    found = []
    for kernel, (row, shapes) in rows.items():
        if not kernels.variants(kernel, "cuda"):
            say(f"\n{kernel}: no CUDA variant")
            continue
        say(f"\n{kernel}")
        for shape in [ladder_shape(row, shapes)] if ladder else [smallest(row, shapes)] if quick else shapes:
            found.append(record(xp, row, shape, pages, watch, ceilings, seconds, ladder))
            say("\n".join(lines(found[-1])))
    ours = [f for r in found for f in r["faults"] if f["who"] not in pages]
    say(f"\n{len(found)} rows, {len(ours) or 'no'} fault{'' if len(ours) == 1 else 's'} of minidl's")
    if json_file is not None:
        figures = {
            "format": "minidl bench cuda 1", "minidl": __version__, "gpu": name, "peers": list(pages),
            "ceilings": {**ceilings.rates, "copy": ceilings.copy}, "rows": found,
        }  # fmt: skip
        try:
            with atomic_write(json_file) as file:
                file.write(json.dumps(figures, indent=1, allow_nan=False).encode() + b"\n")
        except OSError as error:
            raise UserError(f"--json: {error}") from error
        say(f"figures in {json_file}")
    return 1 if ours else 0


def _pages(asked: str | None, say: Say) -> dict[str, Any]:
    """The peers: those that were asked for, else those that can use a GPU."""
    names = list(PEERS) if asked is None else [] if asked in ("", "none") else asked.split(",")
    found = {}
    for name in names:
        if name not in PEERS:
            raise UserError(f"--peers: on a GPU there are {' and '.join(PEERS)}, not {name!r}")
        if name == "torch" and (why := _torch_lacks()):
            if asked is not None:
                raise UserError(f"--peers: {why}")
            say(f"without torch: {why}")
            continue
        found[name] = peers.load(name)
    return found


def _torch_lacks() -> str | None:
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return None if torch.cuda.is_available() else "this torch finds no GPU (its CPU build has no CUDA)"


def lines(r: Mapping[str, Any]) -> list[str]:
    """One row for people: our time, rate, share of the ceiling, cold time; the peers' times beside it."""
    out = []
    for who, told in r["contestants"].items():
        work, seconds = r["work"], told["seconds"]
        moved = work["bytes"] / seconds / 1e9
        rate = f"{work['operations'] / seconds / 1e12:.2f} TOP/s" if work["operations"] else f"{moved:.0f} GB/s"
        note = "  host" if told["host_seconds"] > 0.8 * seconds else ""
        beside = "   {:.2f} of ours ({:.2f}-{:.2f})".format(*told["ratio"]) if "ratio" in told else ""
        first = r["shape"] if who == next(iter(r["contestants"])) else ""
        out.append(
            f"  {first:<36} {who:<15} {told.get('variant', ''):<15} {unit(seconds):>8} {rate:>12} "
            f"{told['share_of_peak']:>5.0%} {unit(told['cold_seconds']):>8}{note}{beside}"
        )
    return out + [f"  {r['shape']:<36} {f['who']}: {'' if f['absent'] else 'FAULT: '}{f['what']}" for f in r["faults"]]
