"""How calls are timed against each other, and how sure a ratio of their times is.

Contestants take turns in blocks of some tens of milliseconds, in an order drawn anew for each round, so that a machine
that slows down slows all of them. Before a block the process is left alone until its threads are quiet: those of
OpenBLAS, of OpenMP and of onnxruntime spin for up to a tenth of a second after a call, and would take a core from
whoever comes next. Then the call runs a few times untimed, and then the block counts.

A block yields its median. The figure is the median over the blocks; the spread of a ratio is a bootstrap over blocks,
which are the independent draws, not over calls, which are not. Efron and Tibshirani, "An Introduction to the
Bootstrap", 1993, chapter 13.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

__all__ = ["Times", "cold", "interval", "ratio", "settle", "take_turns", "unit"]

BLOCK = 0.04  # seconds of a block
WARM = 0.008  # untimed seconds before it
SAMPLE = 20e-6  # shorter calls are timed several at once: reading the clock takes 50 ns
ROUNDS = 5  # at least
QUIET = 0.02  # seconds without work in which threads count as quiet: a running one's time is booked every 4 ms only
AUDITS = 3  # calls per contestant, at moments not known to it, whose result is examined

Call = Callable[[], Any]


@dataclass
class Times:
    """What one contestant took: the median of each block, in seconds; CPU seconds per second in them."""

    blocks: list[float] = field(default_factory=list)
    cores: list[float] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return median(self.blocks)


def settle(most: float = 0.5) -> bool:
    """Wait until no thread of this process runs, at most that many seconds; whether they have come to rest."""
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        used, start = time.process_time(), time.perf_counter()
        time.sleep(QUIET)
        if time.process_time() - used < 0.15 * (time.perf_counter() - start):
            return True
    return False


def take_turns(
    calls: Mapping[str, Call],
    seconds: float,
    rng: np.random.Generator,
    audit: Callable[[str, Call, Any], None] = lambda name, call, last: None,
    within: Callable[[str], contextlib.AbstractContextManager] = lambda name: contextlib.nullcontext(),
) -> dict[str, Times]:
    """Time each call for about `seconds` in all, in turns.

    `audit(name, call, last)` is called at AUDITS moments drawn at random for each contestant, between timed calls; it
    makes a call of its own and may raise; `last` is the result before it. Each contestant runs inside `within(name)`.
    """
    times = {name: Times() for name in calls}
    for name, call in calls.items():
        with within(name):
            call()  # compilation and first touch are not what is measured here
    rounds = max(ROUNDS, round(seconds / BLOCK))
    audits = {name: rng.integers(rounds, size=AUDITS).tolist() for name in calls}
    spent = dict.fromkeys(calls, 0.0)
    for number in range(rounds):
        for name in rng.permutation(list(calls)).tolist():
            if number >= ROUNDS and spent[name] >= seconds:
                continue  # calls longer than a block
            settle()
            with within(name):
                start = time.perf_counter()
                _block(calls[name], times[name], rng, [audit] * audits[name].count(number), name)
                spent[name] += time.perf_counter() - start
    return times


def _block(call: Call, times: Times, rng: np.random.Generator, audits: list[Any], name: str) -> None:
    per = _warm(call)
    n = max(1, round(SAMPLE / per)) if per else 1
    count = max(1, min(round(BLOCK / (n * per)), 2000))
    at = sorted(rng.integers(count, size=len(audits)).tolist())
    found = []
    out: Any = None
    used, begin, aside = time.process_time(), time.perf_counter(), 0.0
    for i in range(count):
        while at and at[0] == i:
            at.pop(0)
            before, cpu = time.perf_counter(), time.process_time()
            audits.pop()(name, call, out)
            _warm(call)  # the audit has filled the caches with other things
            aside += time.perf_counter() - before
            used += time.process_time() - cpu
        start = time.perf_counter()
        for _ in range(n):
            out = call()
        found.append((time.perf_counter() - start) / n)
    wall = time.perf_counter() - begin - aside
    times.blocks.append(median(found))
    times.cores.append((time.process_time() - used) / wall)


def _warm(call: Call) -> float:
    """Untimed calls; the seconds of the fastest of them."""
    best, end = float("inf"), time.perf_counter() + WARM
    while True:
        start = time.perf_counter()
        call()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return max(best, 1e-9)


def cold(call: Call, flush: Call, samples: int = 3) -> float:
    """Median seconds of a call that finds its operands in no cache; `flush` empties them."""
    found = []
    for _ in range(samples):
        flush()
        settle(0.1)
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return median(found)


# --- ratios ----------------------------------------------------------------------------------------------------------


def ratio(
    theirs: list[float], ours: list[float], paired: bool = True, level: float = 0.95
) -> tuple[float, float, float]:
    """Median of theirs / median of ours, and the interval that holds it with probability `level`.

    `paired`: block i of both was taken in the same round, and rounds are drawn; else each side's blocks on their own.

    >>> ratio([2.0, 2.0, 2.0], [1.0, 1.0, 1.0])
    (2.0, 2.0, 2.0)
    """
    a, b = np.array(theirs), np.array(ours)
    rng = np.random.default_rng(0)
    draws = 2000
    if paired:
        n = min(len(a), len(b))  # a contestant with long calls may have fewer rounds
        chosen = rng.integers(n, size=(draws, n))
        drawn = np.median(a[chosen], axis=1) / np.median(b[chosen], axis=1)
    else:
        drawn = np.median(a[rng.integers(len(a), size=(draws, len(a)))], axis=1)
        drawn = drawn / np.median(b[rng.integers(len(b), size=(draws, len(b)))], axis=1)
    low, high = interval(drawn, level)
    return float(np.median(a) / np.median(b)), low, high


def interval(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentiles between which `level` of the draws lie."""
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def unit(seconds: float) -> str:
    """A time for people: three figures.

    >>> unit(1.234e-7), unit(1.234e-5), unit(0.01234), unit(12.34)
    ('0.123 us', '12.3 us', '12.3 ms', '12.3 s')
    """
    scale, name = (1e6, "us") if seconds < 1e-3 else (1e3, "ms") if seconds < 1 else (1, "s")
    value = seconds * scale
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {name}"
