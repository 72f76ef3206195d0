"""The figures as people read them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from minidl.bench.ceilings import Ceilings
from minidl.bench.timing import unit

__all__ = ["ceilings_lines", "row_line", "share", "speed", "summary", "threads_text"]

WIDTH = 36


def threads_text(n: int) -> str:
    return f"{n} thread{'' if n == 1 else 's'}"


def ceilings_lines(ceilings: Sequence[Ceilings]) -> list[str]:
    """One line for each number of threads and tier."""
    out = []
    for c in ceilings:
        copy = c.streams["copy"]
        places = (copy[0], copy[len(copy) // 2], copy[-1])
        memory = ", ".join(f"{rate / 1e9:.0f} GB/s at {_size(size)}" for size, rate in places)
        out.append(
            f"ceilings  {threads_text(c.threads):<10} {c.tier}: {c.rates['f32'] / 1e9:.0f} GFLOP/s float32 "
            f"({c.rates['product'] / 1e9:.0f} in products of matrices), "
            f"{c.rates['int8'] / 1e9:.0f} GOP/s int8, copying {memory}"
        )
    return out


def speed(row: Mapping[str, Any], seconds: float) -> str:
    """Operations or bytes per second, whichever the machine limits here."""
    floor, work = row["floor_seconds"], row["work"]
    if floor["arithmetic"] >= floor["memory"]:
        return f"{work['operations'] / seconds / 1e9:.1f} {'GOP/s' if work['kind'] == 'int8' else 'GFLOP/s'}"
    return f"{(work['read'] + work['write']) / seconds / 1e9:.1f} GB/s"


def share(row: Mapping[str, Any], seconds: float) -> float:
    """The part of the time that the machine itself needs: 1 is the ceiling."""
    floor = row["floor_seconds"]
    return max(floor["arithmetic"], floor["memory"]) / seconds


def row_line(row: Mapping[str, Any], who: str = "minidl", first: str = "") -> str:
    """One contestant on one shape, and the others beside it."""
    lead = f"  {first or row['shape']:<{WIDTH}} {row['threads']:>2}"
    told = row["contestants"]
    faults = [f"{f['who']}: {f['what']}" for f in row["faults"]]
    if who not in told:
        return f"{lead}  FAULT, not timed: {'; '.join(faults)}"
    ours = told[who]
    line = (
        f"{lead}  {ours.get('variant', ''):<10} {unit(ours['seconds']):>8} {speed(row, ours['seconds']):>14} "
        f"{share(row, ours['seconds']):>5.0%} {unit(ours['cold_seconds']):>8}"
    )
    for name, peer in told.items():
        if "ratio" in peer:
            r, low, high = peer["ratio"]
            line += f"   {name} {r:.2f} ({low:.2f}-{high:.2f})"
    return line + "".join(f"   FAULT: {f}" for f in faults)


def heading() -> str:
    return (
        f"  {'':<{WIDTH}} {'th':>2}  {'variant':<10} {'warm':>8} {'rate':>14} {'peak':>5} {'cold':>8}   "
        "peer's time / ours (95 % interval)"
    )


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per kernel and number of threads: geometric mean and worst of the ratios, to each peer and to the fastest."""
    out = []
    for kernel, threads in dict.fromkeys((r["kernel"], r["threads"]) for r in rows):
        mine = [r for r in rows if (r["kernel"], r["threads"]) == (kernel, threads)]
        ratios: dict[str, list[tuple[float, str]]] = {}
        for r in mine:
            peers = {n: c["ratio"][0] for n, c in r["contestants"].items() if "ratio" in c}
            for name, value in peers.items():
                ratios.setdefault(name, []).append((value, r["shape"]))
            if peers:
                ratios.setdefault("fastest peer", []).append((min(peers.values()), r["shape"]))
        if len(ratios) == 2:
            del ratios["fastest peer"]  # it is the only one
        shares = [share(r, r["contestants"]["minidl"]["seconds"]) for r in mine if "minidl" in r["contestants"]]
        out.append({
            "kernel": kernel,
            "threads": threads,
            "rows": len(mine),
            "faults": sum(len(r["faults"]) for r in mine),
            "best_share_of_peak": max(shares, default=0.0),
            "peers": {
                name: {
                    "mean": math.exp(sum(math.log(v) for v, _ in values) / len(values)),
                    "worst": min(values)[0],
                    "worst_shape": min(values)[1],
                }
                for name, values in ratios.items()
            },
        })  # fmt: skip
    return out


def summary_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    from minidl.compress.reports import table

    body = []
    for s in summary(rows):
        peers = list(s["peers"].items()) or [("-", None)]
        for i, (name, told) in enumerate(peers):
            head = (s["kernel"], str(s["threads"]), f"{s['best_share_of_peak']:.0%}") if i == 0 else ("", "", "")
            figures = (f"{told['mean']:.2f}", f"{told['worst']:.2f}", told["worst_shape"]) if told else ("", "", "")
            body.append((*head, name, *figures))
    return table(("kernel", "threads", "best of peak", "against", "mean", "worst", "on"), body)


def _size(n: int) -> str:
    return f"{n >> 20} MiB" if n >= 1 << 20 else f"{n >> 10} KiB"
