"""Pictures, drawn with Matplotlib (the extra "plot") into files; nothing here needs a display."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from minidl.io import atomic_write

__all__ = ["check_picture", "demo_picture"]

INK, FAINT, FIRST, SECOND = "#222222", "#bbbbbb", "#1f6feb", "#d1580c"


def check_picture(path: str) -> str:
    """The format that the suffix of `path` asks for.

    Raises ImportError, with the command that installs it, without Matplotlib; ValueError for an unknown suffix.
    """
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError as error:
        raise ImportError("drawing needs Matplotlib, which is not installed: pip install 'minidl[plot]'") from error
    known = FigureCanvasBase.get_supported_filetypes()
    suffix = os.path.splitext(path)[1].lower().removeprefix(".")
    if suffix not in known:
        raise ValueError(f"cannot draw {path}: the name must end in one of {', '.join('.' + s for s in sorted(known))}")
    return suffix


def demo_picture(
    path: str,
    title: str,
    dense: Any,
    pruned: Any,
    confusion: np.ndarray,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> None:
    """Draw the loss curves of two trainings, the confusion matrix and the table, into one file, whole or not at all.

    Args:
        dense, pruned: the histories of `fit`, with a validation; the second went on where the first ended.
        confusion: counts (C, C), rows true classes.
        head, rows: the table, as text.

    Raises as `check_picture`, and OSError if the file cannot be written.
    """
    suffix = check_picture(path)
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(11, 7.2), dpi=130, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.1))
    figure.suptitle(title, fontsize=13, color=INK)
    grid = figure.add_gridspec(2, 2, height_ratios=(3.2, 1.1), width_ratios=(1.25, 1))
    _losses(figure.add_subplot(grid[0, 0]), dense, pruned)
    _confusion(figure.add_subplot(grid[0, 1]), confusion)
    _table(figure.add_subplot(grid[1, :]), head, rows)
    drawn = io.BytesIO()
    figure.savefig(drawn, format=suffix)
    with atomic_write(path) as file:
        file.write(drawn.getvalue())


def _losses(axes: Any, dense: Any, pruned: Any) -> None:
    ends = len(dense["loss"])
    for history, start in ((dense, 0), (pruned, ends)):
        epochs = start + 1 + np.arange(len(history["loss"]))
        mark = "o" if ends < 40 else ""
        first = start == 0
        axes.plot(epochs, history["loss"], color=FIRST, marker=mark, markersize=3, label="training" if first else None)
        axes.plot(epochs, history["val_loss"], color=SECOND, marker=mark, markersize=3, label="test" if first else None)
    axes.axvline(ends + 0.5, color=FAINT, linewidth=1, linestyle="--")
    axes.text(
        ends + 0.6,
        0.97,
        " pruned,\n retrained",
        transform=axes.get_xaxis_transform(),
        va="top",
        fontsize=8.5,
        color=INK,
    )
    axes.set_yscale("log")
    axes.set(xlabel="epoch", ylabel="cross-entropy", title="loss")
    axes.set_xlim(0.5)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(frameon=False, loc="lower left")


def _confusion(axes: Any, counts: np.ndarray) -> None:
    classes = len(counts)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if classes <= 20:
        for i in range(classes):
            for j in range(classes):
                if counts[i, j]:
                    color = "white" if shares[i, j] > 0.5 else "#b3261e" if i != j else INK
                    axes.text(j, i, str(counts[i, j]), ha="center", va="center", fontsize=8, color=color)
        axes.set_xticks(range(classes))
        axes.set_yticks(range(classes))
    right, n = int(np.trace(counts)), int(counts.sum())
    axes.set(xlabel="predicted", ylabel="true", title=f"dense model on the test images: {right:,} of {n:,} right")


def _table(axes: Any, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    axes.axis("off")
    table = axes.table([list(r) for r in rows], colLabels=list(head), loc="center", cellLoc="right", colLoc="right")
    table.auto_set_font_size(False)
    table.set_fontsize(9.5)
    table.scale(1, 1.45)
    for (row, column), cell in table.get_celld().items():
        cell.set_edgecolor(FAINT)
        cell.visible_edges = "B"
        cell.set_text_props(color=INK, weight="bold" if row == 0 or column == 0 else "normal")
        if column == 0:
            cell.set_text_props(ha="left")
