"""Accuracy over bytes and over milliseconds; what is dominated is faint."""

from __future__ import annotations

import io
from typing import Any

from minidl.io import atomic_write
from minidl.plots import FAINT, FIRST, INK, check_picture
from minidl.sweep.points import Mean

__all__ = ["draw"]

MARKS = {32: "o", 8: "s", 4: "D"}
BELOW = 15  # points of accuracy under the best that are shown


def draw(path: str, title: str, found: list[Mean]) -> None:
    """Two panels with the Pareto fronts, into one file, whole or not at all. Raises as `check_picture`."""
    suffix = check_picture(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=13, color=INK)
    panels = figure.subplots(2, 2, sharey="row", height_ratios=(4, 1.1))
    _panel(panels[0, 0], panels[1, 0], found, "bytes", "kB on disk", 1000)
    _panel(panels[0, 1], panels[1, 1], found, "time", "time for a batch, the dense model's = 1", 1)
    panels[0, 0].set_ylabel("test accuracy, %, with the interval that the test images leave")
    _legend(panels[0, 1], found)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=suffix)
    with atomic_write(path) as file:
        file.write(drawn.getvalue())


def _panel(axes: Any, below: Any, found: list[Mean], by: str, label: str, unit: float) -> None:
    best: list[Mean] = []
    for m in sorted(found, key=lambda m: (getattr(m, by), -m.accuracy)):
        if not best or m.accuracy > best[-1].accuracy:
            best.append(m)
    front = {id(m) for m in best}
    axes.step(
        [getattr(m, by) / unit for m in best], [100 * m.accuracy for m in best], where="post", color=FIRST, linewidth=1,
        alpha=0.6,
    )  # fmt: skip
    for m in found:
        color = FAINT if m.dominated else FIRST if id(m) in front else INK
        axes.errorbar(
            getattr(m, by) / unit, 100 * m.accuracy, [[100 * (m.accuracy - m.low)], [100 * (m.high - m.accuracy)]],
            fmt=MARKS.get(m.bits, "^"), color=color, ecolor="#e4e4e4", elinewidth=1, markersize=6, zorder=2,
            markerfacecolor="white" if m.dominated else color,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    values = [getattr(m, by) for m in found]
    named = "25" if max(values) > 5 * min(values) else "23456789"
    axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in named else "")
    axes.set_xlabel(label)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    top = 100 * max(m.accuracy for m in found)
    low = max(100 * min(m.low for m in found) - 1, top - BELOW)
    axes.set_ylim(low, min(100.5, top + 2))
    lost = sum(100 * m.accuracy < low for m in found)
    if lost:
        axes.text(0.99, 0.02, f"{lost} further below", transform=axes.transAxes, ha="right", fontsize=8.5, color=INK)
    shown = [m for m in best if 100 * m.accuracy >= low]
    for i, m in enumerate(shown, 1):
        axes.annotate(
            str(i), (getattr(m, by) / unit, 100 * m.accuracy), xytext=(0, 7), textcoords="offset points", ha="center",
            fontsize=8.5, color=INK,
        )  # fmt: skip
    below.axis("off")
    columns = [shown[i : i + 6] for i in range(0, len(shown), 6)]
    for k, some in enumerate(columns):
        text = "\n".join(f"{6 * k + i}  {m.name}: {100 * m.accuracy:.1f} %" for i, m in enumerate(some, 1))
        below.text(k / max(2, len(columns)), 1.0, text, transform=below.transAxes, fontsize=8.5, color=INK, va="top")


def _legend(axes: Any, found: list[Mean]) -> None:
    for mark, text in (("o", "float32"), ("s", "int8"), ("D", "int4"), ("^", "other bits")):
        if any(MARKS.get(m.bits, "^") == mark for m in found):
            axes.plot([], [], mark, color=INK, label=text)
    axes.plot([], [], "o", color=FIRST, label="none is better and cheaper")
    axes.plot([], [], "o", color=FAINT, markerfacecolor="white", label="another is better in all three")
    axes.legend(frameon=False, loc="lower left", fontsize=9)
