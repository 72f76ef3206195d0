"""Writes ``tensor_methods.pyi``: what the op pages attach to Tensor, for editors and type checkers.

    python -m minidl.stub

A test fails when the file is older than the table.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from minidl.tensors import Tensor

FILE = Path(__file__).with_name("tensor_methods.pyi")

_HEAD = '''# ruff: noqa: E501
"""Tensor's methods and operators, generated from the op table by ``python -m minidl.stub``. Do not edit."""

import builtins
from typing import Any

from minidl.tensors import Tensor

class TensorMethods:
'''


def stub() -> str:
    """The text of the file."""
    lines = []
    for name, value in sorted(vars(Tensor).items()):
        if isinstance(value, property):
            if value.fget is not None and value.fget.__module__ != "minidl.tensors":
                lines += ["    @property", f"    def {name}(self) -> Tensor: ..."]
        elif inspect.isfunction(value) and value.__module__ != "minidl.tensors":
            ignore = "  # type: ignore[override]" if name in ("__eq__", "__ne__") else ""
            lines.append(f"    def {name}({_parameters(name, value)}) -> {_result(name, value)}: ...{ignore}")
    return _HEAD + "\n".join(lines) + "\n"


def _parameters(name: str, method: Any) -> str:
    f: Any = getattr(method, "op", None)
    if f is None or name.startswith("__"):
        parameters = list(inspect.signature(method).parameters.values())[1:]
    elif isinstance(f, type):
        forward: Any = f.forward  # type: ignore[attr-defined]
        parameters = list(inspect.signature(forward).parameters.values())[2:]  # after ctx and the tensor
    else:
        parameters = list(inspect.signature(f).parameters.values())[1:]
    words, keyword_only = ["self"], False
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            words.append(f"*{p.name}: Any")
            keyword_only = True
        elif p.kind is p.VAR_KEYWORD:
            words.append(f"**{p.name}: Any")
        else:
            if p.kind is p.KEYWORD_ONLY and not keyword_only:
                words.append("*")
                keyword_only = True
            words.append(f"{p.name}: Any" + ("" if p.default is p.empty else " = ..."))
    return ", ".join(words)


def _result(name: str, method: Any) -> str:
    if name == "__setitem__":
        return "None"
    annotation = str(getattr(getattr(method, "op", method), "__annotations__", {}).get("return", ""))
    if annotation.startswith("tuple"):
        return "tuple[Tensor, ...]"
    if annotation == "builtins.bool":
        return "builtins.bool"
    return "Any" if name in _SEVERAL_KINDS else "Tensor"


_SEVERAL_KINDS = ("kthvalue", "max", "median", "min", "nonzero", "sort", "topk", "type", "unique", "__iter__")


if __name__ == "__main__":
    import minidl  # noqa: F401  (its import fills the table)

    FILE.write_text(stub())
    print(f"wrote {FILE}")
