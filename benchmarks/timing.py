"""How everything here is timed.

Contestants take turns in blocks of some tens of milliseconds, so that a machine that slows down slows all of them. The
first part of each block is dropped: the threads of the library that ran before still spin on the cores, OpenBLAS's for
about a tenth of a second. What is reported is the median over all kept calls, and the ratio of medians, peer / ours:
above 1 is faster than the peer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

BLOCK = 0.05  # seconds that count
DROP = 0.15  # seconds before them that do not


def measure(contestants: Mapping[str, Callable[[], object]], seconds: float = 1.0) -> dict[str, float]:
    """Median seconds per call of each contestant, over about `seconds` for each of them."""
    for call in contestants.values():
        call()  # compilation, first-touch and caches are not what is measured
    kept: dict[str, list[float]] = {name: [] for name in contestants}
    rounds = max(3, int(seconds / BLOCK))
    for _ in range(rounds):
        for name, call in contestants.items():
            settled = time.perf_counter() + DROP
            while time.perf_counter() < settled:
                call()
            end = time.perf_counter() + BLOCK
            while True:
                start = time.perf_counter()
                call()
                now = time.perf_counter()
                kept[name].append(now - start)
                if now >= end:
                    break
    return {name: median(times) for name, times in kept.items()}


def unit(seconds: float) -> str:
    """A time for people."""
    return f"{seconds * 1e6:8.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:8.2f} ms"
