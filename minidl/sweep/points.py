"""What was measured: points, their means over seeds with intervals, and which are dominated by others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Mean", "means", "wilson"]

KEY = ("channels", "prune", "bits")


def wilson(share: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share found on n images; Wilson 1927, doi 10.1080/01621459.1927.10502953.

    >>> [round(v, 3) for v in wilson(0.98, 359)]
    [0.96, 0.99]
    """
    middle, width = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (middle - width) / (1 + z * z / n), (middle + width) / (1 + z * z / n)


@dataclass
class Mean:
    """A setting over all seeds: means, the least and greatest accuracy, and the interval that the test images leave."""

    channels: float
    prune: float
    bits: int
    seeds: int
    accuracy: float
    low: float
    high: float
    least: float
    most: float
    bytes: float
    ms: float
    ms_one: float
    speed: float
    dominated: bool = False

    @property
    def time(self) -> float:
        """Of a batch, in units of the dense model's."""
        return 1 / self.speed

    @property
    def name(self) -> str:
        """In words: "channels 50 %, prune 80 %, int8"."""
        parts = [f"channels {100 * self.channels:g} %"] if self.channels else []
        parts += [f"prune {100 * self.prune:g} %"] if self.prune else []
        parts += [f"int{self.bits}"] if self.bits < 32 else []
        return ", ".join(parts) or "dense"


def means(points: list[dict[str, Any]]) -> list[Mean]:
    """One for each setting, from dense to small. One is dominated if another is at least as accurate, as
    small and as fast, and better in one of these. Fast is meant beside the dense model, with which each took turns: a
    busy machine slows both.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for p in sorted(points, key=lambda p: (p["channels"], p["prune"], -p["bits"], p["seed"])):
        groups.setdefault(tuple(p[k] for k in KEY), []).append(p)
    found = []
    for key, some in groups.items():
        mean = lambda name, some=some: sum(p[name] for p in some) / len(some)
        accuracy = mean("accuracy")
        low, high = wilson(accuracy, some[0]["n"])
        every = [p["accuracy"] for p in some]
        channels, prune, bits = key
        found.append(
            Mean(
                channels=channels,
                prune=prune,
                bits=bits,
                seeds=len(some),
                accuracy=accuracy,
                low=low,
                high=high,
                least=min(every),
                most=max(every),
                bytes=mean("bytes"),
                ms=mean("ms"),
                ms_one=mean("ms_one"),
                speed=mean("speed"),
            )
        )
    for a in found:
        a.dominated = any(
            b.accuracy >= a.accuracy
            and b.bytes <= a.bytes
            and b.time <= a.time
            and (b.accuracy > a.accuracy or b.bytes < a.bytes or b.time < a.time)
            for b in found
        )
    return found
