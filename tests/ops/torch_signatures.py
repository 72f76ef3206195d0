"""torch's own signatures: from the type stubs in its wheel for what is written in C++, from `inspect` for the rest."""

from __future__ import annotations

import ast
import functools
import inspect
import pathlib
import re
from typing import Any

import torch

EMPTY = inspect.Parameter.empty
UNKNOWN = object()  # there is a default, of which the stubs do not say what it is
_HOME = pathlib.Path(torch.__file__).parent


class Parameter:
    """One parameter: its name, its default (EMPTY for none), whether it goes by keyword only."""

    def __init__(self, name: str, default: Any, keyword: bool, several: bool = False):
        self.name, self.default, self.keyword, self.several = name, default, keyword, several

    def __repr__(self) -> str:
        return ("*" if self.several else "") + self.name + ("" if self.default is EMPTY else f"={self.default!r}")


@functools.cache
def _stubs(path: str, inside: str | None = None) -> dict[str, list[ast.FunctionDef]]:
    tree: Any = ast.parse((_HOME / path).read_text())
    if inside is not None:
        tree = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == inside)
    found: dict[str, list] = {}
    for n in tree.body:
        if isinstance(n, ast.FunctionDef):
            found.setdefault(n.name, []).append(n)
    return found


def _default(node: Any) -> Any:
    try:
        value = ast.literal_eval(node)
        return UNKNOWN if value is ... else value
    except ValueError:
        return UNKNOWN


def _parameters(f: ast.FunctionDef, method: bool) -> list[Parameter]:
    a = f.args
    positional = [*a.posonlyargs, *a.args]
    defaults = [EMPTY] * (len(positional) - len(a.defaults)) + [_default(d) for d in a.defaults]
    found = [Parameter(p.arg, d, False) for p, d in zip(positional, defaults, strict=True)]
    if a.vararg:
        found.append(Parameter(a.vararg.arg, EMPTY, False, True))
    for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True):
        found.append(Parameter(p.arg, EMPTY if d is None else _default(d), True))
    return found[1:] if method else found


def inspected(f: Any) -> list[Parameter]:
    """The parameters of a Python function; `self` is left out of a method's."""
    found = []
    for p in inspect.signature(f).parameters.values():
        if p.kind is not p.VAR_KEYWORD and p.name != "self":
            name = f"_{p.name}" if p.kind is p.POSITIONAL_ONLY else p.name
            found.append(Parameter(name, p.default, p.kind is p.KEYWORD_ONLY, p.kind is p.VAR_POSITIONAL))
    return found


def overloads(room: str, name: str) -> list[list[Parameter]]:
    """The signatures of torch's `name` in "" (torch itself), "Tensor", "nn.functional", "linalg" ...; [] if unknown.

    Overloads by named dimensions, which torch itself calls a prototype, are left out.
    """
    owner = torch
    for part in filter(None, room.split(".")):
        owner = getattr(owner, part)
    f = getattr(owner, name)
    if inspect.isfunction(f) and "has_torch_function" not in name:
        found = inspected(f)
        if [p.name for p in found] not in ([], ["args"]) and not (len(found) == 1 and found[0].several):
            return [found]
    if room == "Tensor":
        nodes = _stubs("_C/__init__.pyi", "TensorBase").get(name, [])
    elif room == "nn.functional" and name in _stubs("nn/functional.pyi"):
        nodes = _stubs("nn/functional.pyi")[name]
    elif room == "linalg":  # the stubs do not have them, the documentation has
        line = next((n for n in (f.__doc__ or "").splitlines() if f"{name}(" in n), "")
        line = re.sub(r"\bbool (\w+)", r"\1", line)
        call = line.strip().removeprefix("torch.").removeprefix("linalg.").partition(" ->")[0]
        nodes = [n for n in ast.parse(f"def {call}: ...").body if isinstance(n, ast.FunctionDef)] if call else []
    else:
        nodes = _stubs("_C/_VariableFunctions.pyi").get(name, []) or _stubs("_C/_nn.pyi").get(name, [])
    lists = [_parameters(n, room == "Tensor") for n in nodes if "ellipsis" not in ast.unparse(n.args)]
    return [ps for ps, n in zip(lists, nodes, strict=True) if "names" not in [p.name for p in ps]]
