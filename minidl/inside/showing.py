"""How values, places and pages are shown: text for a terminal, and HTML files that need no network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from minidl.autograd import source_line
from minidl.io import atomic_write
from minidl.printing import values
from minidl.tensors import Tensor

__all__ = ["document", "line", "number", "place", "save", "size", "table", "value"]

FEW = 12  # elements that are written out


def value(a: Any) -> str:
    """An array in one line: all of it if it is small, else its shape, norm and range.

    >>> value(np.array([1.0, 2.5])), value(np.ones((4, 5), np.float32))
    ('[1.0000, 2.5000]', '(4, 5) float32, norm 4.472, from 1 to 1')
    """
    a = a.array if isinstance(a, Tensor) else np.asarray(a)
    a = a.get() if hasattr(a, "get") else a
    if a.size <= FEW:
        return " ".join(values(a).split()) if a.size else f"{tuple(a.shape)} {a.dtype}, no elements"
    if a.dtype.kind not in "fiu":
        return f"{tuple(a.shape)} {a.dtype}"
    with np.errstate(all="ignore"):
        norm = float(np.sqrt(np.sum(np.square(a.astype(np.float64)))))
        return f"{tuple(a.shape)} {a.dtype}, norm {norm:.4g}, from {a.min():.4g} to {a.max():.4g}"


def place(node: Any) -> str:
    """Where in the program a node's op was called: ``file.py:12: y = a * b``; the file without its folders."""
    return line(node.where)


def line(where: tuple | None) -> str:
    """The same of what `minidl.autograd.caller` returned; "" for an unknown place."""
    if where is None:
        return ""
    head, colon, rest = source_line(where).partition(": ")
    return f"{os.path.basename(head.split(' in ')[0])}{colon} {rest.strip()}".strip()


def number(x: float) -> str:
    """1234567.0 as ``1.23 M``: three digits and the power of a thousand.

    >>> number(0), number(999), number(1234567)
    ('0', '999', '1.23 M')
    """
    for unit, step in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(x) >= step:
            return f"{x / step:.3g} {unit}"
    return f"{x:.3g}"


def size(n: float) -> str:
    """Bytes in their largest unit: ``1.5 KiB``."""
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= step:
            return f"{n / step:.3g} {unit}"
    return f"{n:.0f} B"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns of text, the first `left` aligned to the left, the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    shown = [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))).rstrip()
        for line in lines
    ]
    return "\n".join([shown[0], "-" * max(map(len, shown)), *shown[1:]])


STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --ground: #ffffff; --tint: #f6f8fa;
  --mark: #0969da; --warm: #bc4c00; --good: #1a7f37; --bad: #cf222e }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9198a1; --line: #3d444d; --ground: #0d1117;
  --tint: #151b23; --mark: #4493f8; --warm: #f0883e; --good: #3fb950; --bad: #f85149 } }
.minidl { color: var(--ink); background: var(--ground); font: 15px/1.5 system-ui, sans-serif; max-width: 78rem;
  margin: 0 auto; padding: 1rem; box-sizing: border-box }
.minidl h1 { font-size: 1.5rem; margin: .3rem 0 } .minidl h2 { font-size: 1.1rem; margin: 1.4rem 0 .3rem }
.minidl pre, .minidl code { font: 13px/1.45 ui-monospace, Menlo, Consolas, monospace }
.minidl pre { background: var(--tint); border: 1px solid var(--line); border-radius: 6px; padding: .6rem .8rem;
  overflow-x: auto; margin: .4rem 0; white-space: pre }
.minidl table { border-collapse: collapse; font-size: 14px } .minidl td, .minidl th { padding: .15rem .7rem;
  border-bottom: 1px solid var(--line); text-align: right } .minidl td:first-child, .minidl th:first-child {
  text-align: left } .minidl .soft { color: var(--soft) } .minidl .good { color: var(--good) }
.minidl .bad { color: var(--bad) } .minidl .wide { overflow-x: auto }
.minidl details > summary { cursor: pointer; color: var(--mark) }
.minidl input[type=range] { width: 100%; accent-color: var(--mark) }
"""


def document(title: str, body: str, style: str = "", script: str = "") -> str:
    """A whole HTML page: nothing in it comes from elsewhere."""
    script = f"<script>{script}</script>" if script else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>body {{ margin: 0; background: var(--ground) }}{STYLE}{style}</style></head>\n"
        f'<body><main class="minidl">{body}</main>{script}</body></html>\n'
    )


def fragment(body: str, style: str = "") -> str:
    """The same for a notebook's cell."""
    return f'<style>{STYLE}{style}</style><div class="minidl">{body}</div>'


def save(path: str, text: str) -> None:
    """Write a text file, whole or not at all. OSError if that cannot be done."""
    with atomic_write(path) as file:
        file.write(text.encode())
