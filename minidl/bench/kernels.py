"""Timing the rows of the table: verify, take turns, verify again, judge by the ceilings."""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.bench import peers
from minidl.bench.ceilings import Ceilings, Flush, Work, measure_ceilings
from minidl.bench.rows import Row
from minidl.bench.shapes import Shape, array_shapes
from minidl.bench.timing import cold, ratio, take_turns
from minidl.bench.verify import Fault, Witness, impossible, too_many_cores
from minidl_kernels.cpu import machine, threads

__all__ = ["OURS", "Bench", "Job"]

OURS = "minidl"
LADDER_OPERATIONS = 4e7  # a rung of plain loops takes some hundredths of a second for them
Calls = dict[str, Callable[[], Any]]


class Job:
    """One row on one shape: its arguments, and who knows the right result."""

    def __init__(self, row: Row, shape: Shape) -> None:
        self.row, self.shape = row, shape
        seed = zlib.crc32(f"{row.kernel} {shape.label}".encode())  # the same numbers in every run
        self.args = row.make(np.random.default_rng(seed), shape.numbers)
        other = row.make(np.random.default_rng(seed + 1), shape.numbers)
        self.tolerance = row.tolerance(shape.numbers)
        self.witness = Witness(self.args, row.right, self.tolerance, other)


class Bench:
    """A measuring session: the machine's ceilings, which are measured as they are needed, and the way of timing.

    Args:
        tier: the tier that our kernels run as; the peers run as they are.
        pages: library -> its page (`peers.load`).
        seconds: time per contestant and row.
    """

    def __init__(self, tier: str, pages: Mapping[str, Any], seconds: float, seed: int = 0) -> None:
        self.tier, self.pages, self.seconds = tier, pages, seconds
        self.rng = np.random.default_rng(seed)
        self.flush = Flush()
        self._ceilings: dict[tuple[int, str], Ceilings] = {}

    def ceilings(self, nthreads: int, tier: str | None = None) -> Ceilings:
        """What the machine can do with that many threads, as a tier (by default the session's)."""
        key = nthreads, tier or self.tier
        if key not in self._ceilings:
            self._ceilings[key] = measure_ceilings(*key)
        return self._ceilings[key]

    def measured(self) -> list[Ceilings]:
        """All ceilings known by now."""
        return list(self._ceilings.values())

    @contextlib.contextmanager
    def running(self, nthreads: int) -> Iterator[None]:
        """Everybody has that many threads, our kernels run as the session's tier."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(machine.use_tier(self.tier))
            stack.enter_context(threads.threads(nthreads))
            for page in self.pages.values():
                stack.enter_context(page.start(nthreads))
            yield

    def time(self, job: Job, nthreads: int) -> dict[str, Any]:
        """Our kernel and the peers on a job: the figures as plain values (see `_record`)."""
        with self.running(nthreads):
            calls: Calls = {OURS: job.row.call(job.args)}
            for name, page in self.pages.items():
                if (call := peers.find(page, job.row.kernel, job.args)) is not None:
                    calls[name] = call
            variant = kernels.which(job.row.kernel, *job.args)
            return self._record(job, nthreads, calls, {OURS: variant})

    def ladder(self, job: Job, nthreads: int) -> dict[str, Any]:
        """All variants of our kernel on a job, each forced in its turn."""
        kernel = job.row.kernel
        with self.running(nthreads):
            calls: Calls = {}
            for name in kernels.variants(kernel, "cpu"):
                with contextlib.suppress(RuntimeError), kernels.use(**{kernel: name}):
                    kernels.which(kernel, *job.args)  # raises where it cannot run
                    calls[name] = job.row.call(job.args)
            within = lambda name: kernels.use(**{kernel: name})
            return self._record(job, nthreads, calls, {name: name for name in calls}, within)

    def _record(
        self,
        job: Job,
        nthreads: int,
        calls: Calls,
        variants: Mapping[str, str],
        within: Callable[[str], contextlib.AbstractContextManager] = lambda name: contextlib.nullcontext(),
    ) -> dict[str, Any]:
        """Verify, time, verify, judge. A contestant with a fault is out, with its fault in the record."""
        row, witness = job.row, job.witness
        faults: list[Fault] = []
        errors: dict[str, float] = {}
        witness.renew(0)

        def each(check: Callable[[str, Callable[[], Any]], None]) -> None:
            for name in list(calls):
                try:
                    with within(name):
                        check(name, calls[name])
                except Fault as fault:
                    faults.append(fault)
                    del calls[name]

        def rules(name: str) -> tuple[float, bool]:
            return row.slack.get(name, job.tolerance), name not in variants

        def before(name: str, call: Callable[[], Any]) -> None:
            errors[name] = witness.examine(name, call(), *rules(name))
            if name in variants:
                witness.fresh(name, call)

        def after(name: str, call: Callable[[], Any]) -> None:
            if not getattr(call, "keeps", False):  # it was built around the old values, as its library does it
                witness.examine(name, call(), *rules(name))

        each(before)
        times: dict[str, Any] = {}
        while calls and not times:
            try:
                audit = lambda name, call, last: witness.audit(name, call, last, *rules(name))
                times = take_turns(calls, self.seconds, self.rng, audit, within)
            except Fault as fault:
                faults.append(fault)
                del calls[fault.who]
        each(lambda name, call: witness.inputs_are_whole(name))
        colds = {}
        for name, call in calls.items():
            with within(name):
                colds[name] = cold(call, self.flush)
        out = next(iter(calls.values()))() if calls else ()
        work = row.work(job.shape.numbers, job.args, out)
        del out
        witness.renew(1)
        each(after)
        witness.renew(0)
        for name in list(calls):
            saving = row.faster.get(variants.get(name, name), 1.0)
            problem = self._too_fast(times[name].seconds, work, saving, nthreads)
            if problem is not None:
                faults.append(Fault("impossible", name, f"was {problem}"))
            elif problem := too_many_cores(median(times[name].cores), nthreads):
                faults.append(Fault("threads", name, problem))
            if problem:
                del calls[name]
        floors = self.ceilings(nthreads).floors(work)
        found = {}
        for name in calls:
            found[name] = {
                "seconds": times[name].seconds,
                "blocks": times[name].blocks,
                "cold_seconds": colds[name],
                "error": errors[name],
                **({"variant": variants[name]} if name in variants else {}),
            }
            if name != OURS and OURS in calls:
                found[name]["ratio"] = list(ratio(times[name].blocks, times[OURS].blocks))
        return {
            "kernel": row.kernel,
            "network": job.shape.network,
            "name": job.shape.name,
            "shape": job.shape.label,
            "numbers": dict(job.shape.numbers),
            "threads": nthreads,
            "tier": self.tier,
            "work": {"operations": work.operations, "read": work.read, "write": work.write, "kind": work.kind},
            "floor_seconds": {"arithmetic": floors[0], "memory": floors[1]},
            "tolerance": job.tolerance,
            "contestants": found,
            "faults": [{"who": f.who, "kind": f.kind, "what": f.what} for f in faults],
        }

    def _too_fast(self, seconds: float, work: Work, saving: float, nthreads: int) -> str | None:
        """Judged by the machine's own tier: BLAS and the peers do not run as a lesser one."""
        own = machine.machine().tier

        def verdict() -> str | None:
            # As many single threads, each undisturbed, are more than several together ever have.
            limit = self.ceilings(nthreads, own).best(self.ceilings(1, own).times(nthreads))
            arithmetic, memory = limit.floors(work)
            return impossible(seconds, (arithmetic / saving, memory))

        if verdict() is None:
            return None
        # Before anybody is accused: the ceilings may have been measured in a slow moment.
        for _ in range(3):
            self._ceilings[nthreads, own] = self.ceilings(nthreads, own).best(measure_ceilings(nthreads, own))
            if verdict() is None:
                return None
        return verdict()


def _elements(shape: Shape) -> float:
    return float(sum(math.prod(s) for s in array_shapes(shape.section, shape.numbers).values()))


def smallest(row: Row, shapes: Sequence[Shape]) -> Shape:
    """The shape with the least work."""
    return min(shapes, key=lambda shape: row.operations(shape.numbers) or _elements(shape))


def ladder_shape(row: Row, shapes: Sequence[Shape]) -> Shape:
    """The largest shape that plain loops do in a moment, else the smallest."""
    size = lambda shape: row.operations(shape.numbers) or _elements(shape)
    small = [s for s in shapes if size(s) <= LADDER_OPERATIONS]
    return max(small, key=size) if small else min(shapes, key=size)
