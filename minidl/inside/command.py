"""`minidl explain NAME`: in the terminal, in colour where Rich is installed, or as an HTML page."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from minidl.cli import UserError
from minidl.inside.explanations import CODE, Explanation, explain, names
from minidl.outputs import try_writing

__all__ = ["main"]


def main(arguments: argparse.Namespace) -> None:
    """Print the explanation, or write it."""
    if arguments.name is None:
        print("\n".join(_listed()))
        return
    if arguments.html is not None:
        folder = os.path.dirname(os.path.realpath(arguments.html))
        if os.path.isdir(arguments.html) or not os.path.isdir(folder):
            raise UserError(f"--html: cannot write {arguments.html!r}: a file in a folder that exists is wanted")
        try_writing("--html", folder)
    try:
        found = explain(arguments.name, shapes=_shapes(arguments.shapes), measure=not arguments.quick)
    except LookupError as error:
        raise UserError(f"{error.args[0]}; `minidl explain` lists all names") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{arguments.name}: {error}") from error
    if arguments.html is not None:
        found.save(arguments.html)
        print(f"written to {arguments.html}")
    elif not _coloured(found):
        print(found)


def _shapes(given: list[str] | None) -> Any:
    """("64x128", "128x32") as tuples; "scalar" is ()."""
    if given is None:
        return None
    try:
        return [() if s == "scalar" else tuple(int(n) for n in s.split("x")) for s in given]
    except ValueError:
        raise UserError(f"--shapes: sizes such as 64x128 are wanted, not {' '.join(given)}") from None


def _listed() -> list[str]:
    """All names by kind, in lines of a terminal's width."""
    import textwrap

    known = names()
    kinds: dict[str, list[str]] = {"ops and functions": [], "layers and models": [], "kernels": []}
    for name, value in known.items():
        kind = "kernels" if name.startswith("minidl_kernels.") else "ops and functions"
        kinds["layers and models" if hasattr(value, "named_modules") else kind].append(name)
    lines = ["usage: minidl explain NAME [--shapes 2x3 ...] [--html FILE] [--quick]; the names are:"]
    for kind, found in kinds.items():
        lines += ["", kind, *textwrap.wrap(" ".join(sorted(found)), 100, initial_indent="  ", subsequent_indent="  ")]
    return lines


def _coloured(found: Explanation) -> bool:
    """Print in colour, if this is a terminal that can and Rich is installed; says whether it did."""
    if not sys.stdout.isatty():
        return False
    try:
        from rich.console import Console
        from rich.syntax import Syntax
        from rich.text import Text
    except ImportError:
        return False
    console = Console()
    console.rule(f"[bold]{found.name}[/bold] ({found.kind})")
    for f in found.fields:
        console.print(Text(f"\n{f.title}", style="bold cyan"))
        if f.style == CODE:
            console.print(Syntax(f.text, "python", theme="ansi_dark", background_color="default", word_wrap=True))
        else:
            console.print(Text(f.text))
    return True
