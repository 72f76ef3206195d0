"""machine_code(kernel, ...): the instructions that a kernel's loops became on this machine."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["loops", "machine_code"]


def machine_code(kernel: Any, *args: Any, llvm: bool = False) -> str:
    """The assembly of a compiled function for arguments of these types; with `llvm` the compiler's own language.

    kernel: a function compiled by Numba, such as those of `minidl_kernels`. It is compiled anew, since one that was
    loaded from disk holds no text, and is not called. Raises TypeError for anything else.

    >>> import numpy as np
    >>> from minidl_kernels.gemm.ladder import _blocked
    >>> a = np.ones((1, 4, 4), np.float32)
    >>> code = machine_code(_blocked, a, a, a)
    >>> any("mul" in line for line in loops(code)[0])
    True
    """
    source = getattr(kernel, "py_func", None)
    if source is None:
        raise TypeError(f"machine_code: a function compiled by Numba is wanted, not a {type(kernel).__name__}")
    fresh = type(kernel)(source, targetoptions=kernel.targetoptions)
    signature = tuple(kernel.typeof_pyval(a) for a in args)
    fresh.compile(signature)
    return fresh.inspect_llvm(signature) if llvm else fresh.inspect_asm(signature)


def loops(code: str) -> list[list[str]]:
    """The innermost loops of assembly: instructions from a label to the jump back to it. The longest comes first."""
    found: list[list[str]] = []
    label: str = ""
    lines: list[str] = []
    for line in code.splitlines():
        line = " ".join(line.split())
        if named := re.match(r"([.\w$]+):", line):
            label, lines = named[1], []
        elif line and line[0] not in ".#;/":
            lines.append(line)
            if label and line.split()[-1] == label:
                found.append(lines)
                label, lines = "", []
    return sorted(found, key=len, reverse=True)
