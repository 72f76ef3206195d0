"""Reading an op's page: its docstring says the formula, why the gradient is what it is (``Why:``), and an example
(``Try:``), an expression in minidl's names. The numbers of an example come from its calls of randn, rand and randint;
they are the inputs for which gradients are checked and costs are counted.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np

from minidl import random
from minidl.autograd import TABLE, OpType
from minidl.tensors import Tensor, wrap

__all__ = ["Example", "Page", "address", "all_ops", "example", "page"]

DRAWN = ("randn", "rand", "randint")  # of these calls an example's numbers come


class Page:
    """What a docstring says: `formula`, its first paragraph; `rest`; `why`; `example`; each "" if it is not there."""

    def __init__(self, doc: str | None):
        text = inspect.cleandoc(doc or "")
        self.why, self.example = "", ""
        for title, field in (("Try", "example"), ("Why", "why")):
            text, found = _section(text, title)
            setattr(self, field, found)
        text = text.strip()
        self.formula, _, self.rest = (part.strip() for part in text.partition("\n\n"))
        self.formula = re.sub(r"\n\s*", " ", self.formula)

    def __repr__(self) -> str:
        return f"Page({self.formula!r})"


def _section(text: str, title: str) -> tuple[str, str]:
    """The text without the section that begins with ``title:`` on a line of its own, and that section in one line."""
    found = re.search(rf"^{title}: ((?:.+\n?)(?:^ +.+\n?)*)", text, re.MULTILINE)
    if found is None:
        return text, ""
    return text[: found.start()] + text[found.end() :], " ".join(found[1].split())


def page(f: Any) -> Page:
    """The page of an op, a function, a layer or a kernel."""
    return Page(f.__doc__)


def all_ops() -> dict[str, Any]:
    """The whole table of ops, with every page of minidl.ops read."""
    import minidl.ops

    for module in pkgutil.iter_modules(minidl.ops.__path__):
        importlib.import_module(f"minidl.ops.{module.name}")
    return TABLE


def address(name: str, f: Any) -> str:
    """Where a program finds it: ``minidl.exp``, ``minidl.nn.functional.relu``, ``Tensor.view``; else the table."""
    for module in ("minidl", "minidl.nn.functional", "minidl.linalg", "minidl.nn", "minidl_kernels", "minidl.models"):
        found = getattr(importlib.import_module(module), name, None)
        if found is f or (getattr(found, "__wrapped__", None) is f and found is not None):
            return f"{module}.{name}"
    if any(getattr(m, "op", None) is f for m in vars(Tensor).values()):
        return f"Tensor.{name}"
    return f'minidl.autograd.TABLE["{name}"]'


class Example:
    """An expression that can be computed again with other numbers: ``conv2d(randn(1, 2, 5, 5), randn(3, 2, 3, 3))``.

    `leaves` are the float Tensors that its randn and rand gave, in order; `names` what it uses of minidl's.
    """

    def __init__(self, source: str, dtype: Any = np.float32, layers: bool = False, shapes: Any = None):
        self.source = source
        self.shapes = None if shapes is None else [tuple(s) for s in shapes]
        self.tree = ast.parse(source, mode="eval")
        if np.dtype(dtype) == np.float64:  # labels.float() would round what is differentiated in float64
            for n in ast.walk(self.tree):
                if isinstance(n, ast.Attribute) and n.attr == "float":
                    n.attr = "double"
        if not isinstance(self.tree.body, ast.Call):
            raise ValueError(f"an example is a call, this is not: {source}")
        self.names = list(
            dict.fromkeys(n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))
        )
        own = {n.id for n in ast.walk(self.tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        self.names = [n for n in self.names if n not in own]
        self.dtype, self.space = np.dtype(dtype), _namespace()
        self.drawn: list[Tensor] = []
        self.layer: Any = None
        with _seeded():
            call: Any = self.tree.body
            if layers and isinstance(call.func, ast.Call):  # Linear(4, 3)(randn(2, 4)): one layer for all calls
                self.layer = self._value(call.func, iter(()))
                if self.dtype == np.float64:
                    self.layer.double()
                call.func = ast.Name("_layer", ast.Load())
                self.space["_layer"] = self.layer
                ast.fix_missing_locations(self.tree)
            self.value = self._value(call, iter(()))
        self.leaves = [t for t in self.drawn if t.is_floating_point()]

    def __call__(self, *leaves: Any) -> Any:
        """The value for other leaves. Random draws within are the same each time."""
        given = iter(leaves)
        with _seeded():
            return self._value(self.tree.body, iter([next(given) if t.is_floating_point() else t for t in self.drawn]))

    def by(self, f: Any, *leaves: Any) -> Any:
        """The value with f in the place of the layer."""
        before, self.space["_layer"] = self.space["_layer"], f
        try:
            return self(*leaves)
        finally:
            self.space["_layer"] = before

    def _value(self, node: Any, given: Any) -> Any:
        space = dict(self.space)

        def take(make: Callable) -> Callable:
            def drawn(*args: Any, **kwargs: Any) -> Any:
                t = next(given, None)
                if t is None:
                    if self.shapes is not None and make.__name__ != "randint":
                        if len(self.drawn) >= len(self.shapes):
                            raise TypeError(f"explain: {len(self.shapes)} shapes are too few for {self.source}")
                        args = self.shapes[len(self.drawn)]
                    t = make(*args, **kwargs)
                    if t.is_floating_point():
                        t = wrap(t.array.astype(self.dtype))
                    self.drawn.append(t)
                return t

            return drawn

        for name in DRAWN:
            space[name] = take(space[name])
        code = compile(ast.Expression(node), "<example>", "eval")
        return eval(code, space)  # the project's own docstrings

    def program(self, f: Any) -> str:
        """The example as a program that runs by itself."""
        used = [n for n in self.names if n in _namespace() and n not in TABLE]
        own = [n for n in self.names if n in TABLE or n not in used]
        lines, source = ["import minidl"], self.source
        for n in own:
            if n == f.__name__ or n in TABLE:
                where = address(n, TABLE.get(n, f))
                if where.startswith("Tensor."):
                    where = f"minidl.{where}"
                source = re.sub(rf"(?<![\w.]){n}\(", f"{where}(", source)
        simple = [n for n in used if n in vars(importlib.import_module("minidl")) and n != f.__name__]
        layers = [n for n in used if n not in simple]
        if simple:
            lines.append(f"from minidl import {', '.join(sorted(simple))}")
        if layers:
            lines.append(f"from minidl.nn import {', '.join(sorted(layers))}")
        return "\n".join([*lines, "", f"y = {source}", "print(y)"])


def _namespace() -> dict[str, Any]:
    import minidl
    from minidl import nn

    layers = {n: c for n, c in vars(nn).items() if isinstance(c, type)}
    return {**layers, **{n: getattr(minidl, n) for n in dir(minidl) if not n.startswith("_")}, **all_ops()}


class _seeded:
    """Inside, the random numbers are the same each time; outside they go on as if nothing had been drawn."""

    def __enter__(self) -> None:
        self._before = random.get_state()
        random.manual_seed(0)

    def __exit__(self, *_: Any) -> None:
        random.set_state(self._before)


def example(f: Any, dtype: Any = np.float32) -> Example:
    """The example on a page. ValueError if it has none."""
    source = page(f).example
    if not source:
        raise ValueError(f"the page of {f.__name__} has no example: a line 'Try: ...' in its docstring")
    return Example(source, dtype, layers=not isinstance(f, OpType))


def with_helpers(f: Any) -> str:
    """The source of a function, and of what it uses of its own page, in the order of the page."""
    f = inspect.unwrap(f)
    module = sys.modules.get(getattr(f, "__module__", ""))
    name = getattr(f, "__name__", "")
    if module is None or not source_of(f):
        return source_of(f)
    text = inspect.getsource(module)
    nodes: dict[str, Any] = {}
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            nodes[node.name] = node
        elif isinstance(node, ast.Assign):
            nodes.update({t.id: node for t in node.targets if isinstance(t, ast.Name)})
    if name not in nodes:
        return source_of(f)
    wanted, todo = set(), [name]
    while todo:
        n = todo.pop()
        if n in nodes and n not in wanted:
            wanted.add(n)
            todo += [m.id for m in ast.walk(nodes[n]) if isinstance(m, ast.Name)]
    lines = text.splitlines()
    shown = sorted({id(nodes[n]): nodes[n] for n in wanted}.values(), key=lambda n: n.lineno)
    parts = []
    for node in shown:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        parts.append("\n".join(lines[first - 1 : node.end_lineno]))
    return "\n\n".join(parts)


def source_of(f: Any) -> str:
    """The source of a function or class, without its indentation; "" if there is none."""
    try:
        return textwrap.dedent(inspect.getsource(inspect.unwrap(f))).rstrip()
    except (OSError, TypeError):
        return ""
