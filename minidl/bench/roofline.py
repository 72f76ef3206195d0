"""The roofline: each row at its operations per byte and its rate, under what the machine can do."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from minidl.bench.ceilings import Ceilings
from minidl.bench.report import threads_text
from minidl.io import atomic_write
from minidl.plots import FAINT, INK, check_picture

__all__ = ["roofline"]

COLORS = ("#1f6feb", "#d1580c", "#1a7f37", "#8250df", "#bf3989", "#9a6700", "#0a7ea4", "#6e7781")
MARKS = "os^vDP*X"


def roofline(path: str, title: str, rows: Sequence[Mapping[str, Any]], ceilings: Sequence[Ceilings]) -> None:
    """Draw one panel for each number of threads into a file, whole or not at all. Raises as `plots.check_picture`.

    Filled marks are ours, hollow ones the fastest peer's on the same shape.
    """
    suffix = check_picture(path)
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    drawn_rows = [r for r in rows if r["work"]["operations"] and "minidl" in r["contestants"]]
    counts = sorted({r["threads"] for r in rows})
    figure = Figure(
        figsize=(6.2 * len(counts) + 1.5, 5.6), dpi=130, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1)
    )
    figure.suptitle(title, fontsize=12, color=INK)
    kernels = list(dict.fromkeys(r["kernel"] for r in drawn_rows))
    for i, threads in enumerate(counts):
        axes = figure.add_subplot(1, len(counts), i + 1, sharey=figure.axes[0] if i else None)
        _roofs(axes, next(c for c in ceilings if c.threads == threads), drawn_rows)
        for r in (r for r in drawn_rows if r["threads"] == threads):
            number = kernels.index(r["kernel"])
            color, mark = COLORS[number % len(COLORS)], MARKS[number // len(COLORS) % len(MARKS)]
            work, told = r["work"], r["contestants"]
            x = work["operations"] / (work["read"] + work["write"])
            ours = work["operations"] / told["minidl"]["seconds"] / 1e9
            peers = [c["seconds"] for n, c in told.items() if n != "minidl"]
            if peers:
                theirs = work["operations"] / min(peers) / 1e9
                axes.plot([x, x], [ours, theirs], color=color, linewidth=0.6, alpha=0.5)
                axes.plot(x, theirs, mark, color=color, markerfacecolor="white", markersize=5)
            axes.plot(x, ours, mark, color=color, markersize=5.5)
        axes.set(xscale="log", yscale="log", xlabel="operations per byte", title=threads_text(threads))
        axes.set_ylabel("10⁹ operations per second")
        axes.grid(alpha=0.3, which="both", linewidth=0.4)
    handles = [
        figure.axes[0].plot([], [], MARKS[n // len(COLORS) % len(MARKS)], color=COLORS[n % len(COLORS)], label=k)[0]
        for n, k in enumerate(kernels)
    ]
    handles += figure.axes[0].plot([], [], "o", color=INK, markerfacecolor="white", label="fastest peer")
    figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=8.5)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=suffix)
    with atomic_write(path) as file:
        file.write(drawn.getvalue())


def _roofs(axes: Any, c: Ceilings, rows: Sequence[Mapping[str, Any]]) -> None:
    """The slopes of memory and cache, the flat tops of float32 and int8."""
    intensities = [r["work"]["operations"] / (r["work"]["read"] + r["work"]["write"]) for r in rows]
    low, high = min([0.3, *intensities]) / 2, max([300, *intensities]) * 2
    kinds = {r["work"]["kind"] for r in rows}
    for kind, name in (("f32", "float32"), ("product", "float32 products"), ("int8", "int8")):
        if kind not in kinds:
            continue
        top = c.rates[kind] / 1e9
        axes.plot([low, high], [top, top], color=INK, linewidth=1.3)
        axes.text(high, top, f"{name} {top:.0f} ", ha="right", va="bottom", fontsize=8, color=INK)
    top = max(c.rates[k] for k in kinds) / 1e9 if kinds else c.rates["f32"] / 1e9
    streams = c.streams["copy"]
    for (_, rate), name in ((streams[0], "first-level cache"), (streams[-1], "memory")):
        reach = min(high, top / (rate / 1e9))
        if reach > low:
            axes.plot([low, reach], [low * rate / 1e9, reach * rate / 1e9], color=FAINT, linewidth=1.3)
            axes.text(low, low * rate / 1e9, f" {name} {rate / 1e9:.0f} GB/s", fontsize=8, va="bottom", color=INK)
