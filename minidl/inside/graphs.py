"""graph(x): what a computation is made of, as a picture: modules as boxes, shapes and bytes on the lines.

What belongs to one module is one box, down to a depth that leaves few enough to be read; ops of a loop outside of any
module are one box for each line of the program. The picture is SVG, laid out here: no other program takes part.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from minidl.autograd import Op, Watcher, grad
from minidl.autograd.walk import _count_consumers
from minidl.inside import showing
from minidl.inside.layouts import layered
from minidl.inside.traces import _order
from minidl.nn.parameter import Parameter
from minidl.tensors import Tensor, wrap

__all__ = ["Box", "Graph", "graph"]

FEW = 40  # boxes, as many as can be read at one look
MOST = 400  # boxes that an HTML page draws at once ...
KNOWN = 4000  # ... and ops that it knows, to draw them where a module is opened

Size = tuple[tuple[int, ...], int]  # shape, bytes


@dataclass(eq=False)
class Box:
    """Some ops drawn as one: `title`, what it is; `detail`, a second line; `nodes`, how many ops."""

    number: int
    title: str
    detail: str
    kind: str  # "module", "op", "lines", "input" or "output"
    nodes: list = field(default_factory=list)
    parameters: dict[int, int] = field(default_factory=dict)  # how many numbers each of those that it reads holds


class _Sizes(Watcher):
    """The shape and bytes of what each op gave."""

    def __init__(self) -> None:
        self.sizes: dict[tuple[int, int], Size] = {}
        self.kept: list[Any] = []

    def ran(self, ctx: Any, inputs: Any, args: tuple, kwargs: dict, out: Any) -> None:
        for k, t in enumerate(out if isinstance(out, tuple) else (out,)):
            if isinstance(t, Tensor) and t._node is ctx:
                self.sizes[id(ctx), k] = (t.array.shape, t.array.nbytes)
        self.kept.append(ctx)  # so that ids stay true

    def stepped(self, node: Any, slots: Any, grads: Any) -> None:
        for k, g in enumerate(slots):
            if g is not None:
                self.sizes[id(node), k] = (tuple(g.shape), g.nbytes)


def graph(x: Any, *inputs: Any, depth: int | None = None) -> Graph:
    """The graph behind a Tensor, of a model on `inputs`, or of what a function without arguments computes.

    Args:
        x: a Tensor that has a graph; a model, with its inputs (Tensors or shapes); or a function that gives a Tensor.
        depth: how many names of a module's path are told apart; by default as many as leave at most 40 boxes. One more
            than the deepest path has shows single ops.

    For a Tensor the shapes are learnt by walking back once, which adds to no ``.grad``; where that is not possible (a
    backward has freed the graph, or hooks would run) the lines carry none. Raises TypeError for a Tensor without a
    graph and for anything else.

    >>> import minidl
    >>> from minidl import nn
    >>> g = graph(nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)), (16, 8))
    >>> print(g)
    input (16, 8)                    ->  Sequential.0    (16, 8), 512 B
    Sequential.0: linear, 36 params  ->  Sequential.1    (16, 4), 256 B
    Sequential.1: relu               ->  Sequential.2    (16, 4), 256 B
    Sequential.2: linear, 10 params  ->  output (16, 2)  (16, 2), 128 B
    """
    watcher = _Sizes()
    if hasattr(x, "named_modules") and not isinstance(x, type):
        if not inputs:
            raise TypeError("graph: say on what the model runs: graph(model, x), x a Tensor or a shape")
        given = [_input(a, x) for a in inputs]
        with watcher:
            found = x(*given)
    elif callable(x) and not isinstance(x, Tensor):
        with watcher:
            found = x(*inputs)
    else:
        found = x
    roots = [t for t in _tensors(found) if t.node is not None]
    if not roots:
        what = f"a {type(found).__name__}" if not isinstance(found, Tensor) else "a Tensor without a graph"
        raise TypeError(
            f"graph: a Tensor that ops have made from tensors that require gradients is wanted, not {what} (a leaf, "
            "detached, or made under no_grad)"
        )
    nodes = _all(roots)
    if not watcher.sizes:
        _learn(watcher, roots, nodes)
    return Graph(roots, nodes, watcher.sizes, depth)


def _tensors(y: Any) -> Iterable[Tensor]:
    from minidl.inside.looking import tensors

    return tensors(y)


def _input(a: Any, model: Any) -> Any:
    if isinstance(a, (tuple, list)) and all(isinstance(n, (int, np.integer)) for n in a):
        floats = [p for p in model.parameters() if p.is_floating_point()]
        a = wrap(np.zeros(tuple(a), floats[0].array.dtype if floats else np.float32))
    if isinstance(a, Tensor) and a.is_floating_point() and not a.requires_grad:
        return wrap(a.array, True)
    return a


def _all(roots: list[Tensor]) -> list[Any]:
    """The nodes, each after those it takes from."""
    waiting = _count_consumers([y.node for y in roots])
    found = []
    for root in dict.fromkeys(y.node for y in roots):
        if not waiting[root]:
            found += list(_order(root, waiting))
    found.reverse()
    return found


def _learn(watcher: _Sizes, roots: list[Tensor], nodes: list[Any]) -> None:
    if any(n.released or n._hooks for n in nodes):
        return
    leaves = {id(p): p for n in nodes for p in n.parents if isinstance(p, Tensor)}
    with watcher:
        grad(roots, list(leaves.values()), [wrap(np.ones_like(y.array)) for y in roots], retain_graph=True,
             allow_unused=True)  # fmt: skip
    for y in roots:
        watcher.sizes.setdefault((id(y.node), y.index), (y.array.shape, y.array.nbytes))


class Graph:
    """A graph to be drawn. `boxes` and `edges` {(box, box): [sizes]} at the depth that was chosen; ``print`` it for a
    list; in a notebook it shows itself; `save` writes .svg, or .html, in which modules open and close by a click.
    """

    def __init__(self, roots: list[Tensor], nodes: list[Any], sizes: dict, depth: int | None):
        self.roots, self.nodes, self.sizes = roots, nodes, sizes
        self.deepest = max((n.scope.count(".") + 1 for n in nodes if n.scope), default=1)
        scopes = {n.scope for n in nodes if n.scope}
        self.holders = {
            s[:i] for s in scopes for i, c in enumerate(s) if c == "."
        }  # paths of modules with others inside
        if depth is not None and depth < 1:
            raise ValueError(f"graph: depth must be at least 1, got {depth}")
        self.depth = depth or self._readable()
        self.boxes, self.edges = self._collapse(self.depth)

    def _readable(self) -> int:
        best = 1
        for depth in range(1, self.deepest + 1):
            if self._count(depth) > FEW:
                break
            best = depth
        return best

    def _count(self, depth: int) -> int:
        return len({self._key(n, depth, False) for n in self.nodes})

    def _key(self, node: Any, depth: int, lines: bool) -> Any:
        parts = node.scope.split(".") if node.scope else []
        if parts and (len(parts) >= depth or (node.scope not in self.holders and depth <= self.deepest)):
            return ".".join(parts[:depth])  # a module at this depth, or a layer, which holds no others
        return (node.scope, node.where) if lines else node

    def _collapse(self, depth: int) -> tuple[list[Box], dict[tuple[int, int], list[Size]]]:
        boxes, edges = self.flows(depth)
        for box in boxes:
            if box.parameters:
                box.detail += f", {showing.number(sum(box.parameters.values()))} params"
        return boxes, {e: list(s.values()) for e, s in edges.items()}

    def flows(
        self, depth: int, most: int = MOST
    ) -> tuple[list[Box], dict[tuple[int, int], dict[tuple[int, int], Size]]]:
        """Boxes at a depth, and the tensors that flow between them. More than `most` ops: one box for each line."""
        lines = self._count(depth) > most
        keys = [self._key(n, depth, lines) for n in self.nodes]
        group = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        member = [group[key] for key in keys]
        at = {node: member[i] for i, node in enumerate(self.nodes)}
        flows: dict[int, set[int]] = {g: set() for g in group.values()}
        for node in self.nodes:
            for parent in node.parents:
                if isinstance(parent, Op) and at[parent] != at[node]:
                    flows[at[parent]].add(at[node])
        merged = _without_cycles(flows)
        titles: dict[int, list[Any]] = {}
        for key, g in group.items():
            titles.setdefault(merged[g], []).append(key)
        order: dict[int, int] = {}
        boxes: list[Box] = []
        for node in self.nodes:
            g = merged[at[node]]
            if g not in order:
                order[g] = len(boxes)
                boxes.append(Box(len(boxes), "", "", ""))
            boxes[order[g]].nodes.append(node)
            at[node] = order[g]
        for g, number in order.items():
            self._describe(boxes[number], titles[g])
        edges: dict[tuple[int, int], dict[tuple[int, int], Size]] = {}
        inputs: dict[int, Box] = {}
        for node in self.nodes:
            here = at[node]
            for parent, index in node.next_functions:
                if parent is None:
                    continue
                if isinstance(parent, Parameter):
                    boxes[here].parameters[id(parent)] = parent.numel()
                elif isinstance(parent, Tensor):
                    if id(parent) not in inputs and len(inputs) < FEW:
                        box = Box(len(boxes), f"input {tuple(parent.shape)}", "", "input")
                        inputs[id(parent)] = box
                        boxes.append(box)
                    if id(parent) in inputs:
                        size = (tuple(parent.shape), parent.nbytes)
                        edges.setdefault((inputs[id(parent)].number, here), {})[id(parent), 0] = size
                elif at[parent] != here:
                    size = self.sizes.get((id(parent), index), ((), -1))
                    edges.setdefault((at[parent], here), {})[id(parent), index] = size
        for y in self.roots[:FEW]:
            box = Box(len(boxes), f"output {tuple(y.shape)}", "", "output")
            boxes.append(box)
            edges.setdefault((at[y.node], box.number), {})[id(y.node), y.index] = (tuple(y.shape), y.nbytes)
        return boxes, edges

    def _describe(self, box: Box, keys: list[Any]) -> None:
        modules = [k for k in keys if isinstance(k, str)]
        names: dict[str, int] = {}
        for node in box.nodes:
            names[node.name()] = names.get(node.name(), 0) + 1
        ops = [f"{c} x {n}" if c > 1 else n for n, c in sorted(names.items(), key=lambda kv: -kv[1])]
        shown = ", ".join(ops[:3]) + (f", {len(ops) - 3} more" if len(ops) > 3 else "")
        if modules:
            box.kind, box.title = "module", modules[0] if len(modules) == 1 else f"{modules[0]} + {len(modules) - 1}"
            box.detail = shown if len(keys) == len(modules) else f"{shown}, in a loop"
        elif len(box.nodes) == 1:
            box.kind, box.title, box.detail = "op", box.nodes[0].name(), box.nodes[0].scope
        else:
            box.kind, box.title = "lines", f"{len(box.nodes):,} ops"
            box.detail = f"{shown}  {showing.place(box.nodes[0]).partition(': ')[0]}".strip()

    # -- showing ------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        named = {b.number: f"{b.title}{f': {b.detail}' if b.detail else ''}" for b in self.boxes}
        rows = [
            (named[a], "->", self.boxes[b].title, _flow(s)) for (a, b), s in sorted(self.edges.items(), key=self._by)
        ]
        widths = [max(len(r[i]) for r in rows) for i in range(4)]
        return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths)).rstrip() for r in rows)

    __repr__ = __str__

    def _by(self, edge: Any) -> tuple[int, int]:
        a, b = edge[0]
        place = lambda n: -1 if self.boxes[n].kind == "input" else n
        return place(a), place(b)

    def svg(self, depth: int | None = None) -> str:
        """The picture, at another depth if one is given."""
        boxes, edges = (self.boxes, self.edges) if depth in (None, self.depth) else self._collapse(int(depth or 1))
        return _svg(boxes, edges)

    def _repr_html_(self) -> str:
        return showing.fragment(f'<div class="wide">{self.svg()}</div>', STYLE)

    def save(self, path: str) -> None:
        """Write .svg or .html. ValueError for another suffix, OSError if it cannot be written."""
        if path.endswith(".svg"):
            showing.save(path, self.svg())
        elif path.endswith(".html"):
            showing.save(path, self._page())
        else:
            raise ValueError(f"graph: the name must end in .svg or .html, not {path!r}")

    def _page(self) -> str:
        from minidl.inside.graph_page import page

        last = self.deepest + 1 if any(n.scope for n in self.nodes) else 1  # without modules one picture shows all
        depths = [d for d in range(1, last + 1) if d <= self.depth or self._count(d) <= MOST]
        return page(self, depths, self.deepest + 1 if len(self.nodes) <= KNOWN else depths[-1])


def _flow(sizes: list[Size]) -> str:
    """What a line carries: a shape and its bytes."""
    total = sum(n for _, n in sizes if n >= 0)
    known = [s for s in sizes if s[1] >= 0]
    if not known:
        return ""
    if len(sizes) == 1:
        return f"{sizes[0][0]}, {showing.size(total)}"
    return f"{len(sizes):,} tensors, {showing.size(total)}"


def _without_cycles(flows: dict[int, set[int]]) -> dict[int, int]:
    """Groups that lie on a cycle become one: Tarjan's strongly connected components, without recursion."""
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    where: dict[int, int] = {}
    stack: list[int] = []
    on: set[int] = set()
    for start in flows:
        if start in number:
            continue
        work = [(start, iter(flows[start]))]
        number[start] = low[start] = len(number)
        stack.append(start)
        on.add(start)
        while work:
            g, rest = work[-1]
            for h in rest:
                if h not in number:
                    number[h] = low[h] = len(number)
                    stack.append(h)
                    on.add(h)
                    work.append((h, iter(flows[h])))
                    break
                if h in on:
                    low[g] = min(low[g], number[h])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[g])
                if low[g] == number[g]:
                    while True:
                        h = stack.pop()
                        on.discard(h)
                        where[h] = g
                        if h == g:
                            break
    return where


# -- SVG --------------------------------------------------------------------------------------------------------------

STYLE = """
.minidl-graph { color: #1f2328; --g: #ffffff; --m: #ddf4ff; --o: #f6f8fa; --e: #fff8c5; --b: #8c959f; --s: #59636e }
@media (prefers-color-scheme: dark) { .minidl-graph { color: #e6edf3; --g: #0d1117; --m: #12263f; --o: #151b23;
  --e: #332a08; --b: #656c76; --s: #9198a1 } }
.minidl-graph text { font: 12px system-ui, sans-serif; fill: currentColor; text-anchor: middle }
.minidl-graph text.d { font-size: 10.5px; fill: var(--s) } .minidl-graph text.f { font-size: 10.5px; fill: var(--s);
  text-anchor: start } .minidl-graph rect { stroke: var(--b); fill: var(--o) }
.minidl-graph rect.module { fill: var(--m) } .minidl-graph rect.input, .minidl-graph rect.output { fill: var(--e) }
.minidl-graph path.l { fill: none; stroke: var(--b); stroke-width: 1.2 } .minidl-graph path.a { fill: var(--b) }
"""
MARGIN = 12.0


def _wide(text: str, size: float) -> float:
    return len(text) * size * 0.6


def _svg(boxes: list[Box], edges: dict[tuple[int, int], list[Size]]) -> str:
    """Boxes and lines. What a box gives is written once, below it, if all who take it take the same."""
    given: dict[int, set[str]] = {}
    for (a, _), sizes in edges.items():
        given.setdefault(a, set()).add(_flow(sizes))
    below = {a: next(iter(f)) for a, f in given.items() if len(f) == 1}
    shapes = {}
    for b in boxes:
        text = max(_wide(b.title, 12), _wide(b.detail, 10.5)) + 18
        label = _wide(below.get(b.number, ""), 10.5)
        shapes[b.number] = (max(64.0, text, 2 * label + 10 if label else 0), 38.0 if b.detail else 24.0)
    drawn = layered(shapes, list(edges))
    w, h = drawn.size[0] + 2 * MARGIN, drawn.size[1] + 2 * MARGIN
    parts = []
    for (a, z), points in drawn.lines.items():
        parts.append(_line([(x + MARGIN, y + MARGIN) for x, y in points]))
        if a not in below:
            x, y = points[-1]
            parts.append(_label(x + MARGIN + 6, y + MARGIN - 9, _flow(edges[a, z])))
    for b in boxes:
        (x, y), height = drawn.centre[b.number], shapes[b.number][1]
        x, y = x + MARGIN, y + MARGIN
        text = max(_wide(b.title, 12), _wide(b.detail, 10.5)) + 18
        wide = max(64.0, text)
        round_ = 12 if b.kind in ("input", "output") else 5
        parts.append(
            f'<rect class="{b.kind}" x="{x - wide / 2:.1f}" y="{y - height / 2:.1f}" width="{wide:.1f}" '
            f'height="{height:.1f}" rx="{round_}"><title>{len(b.nodes):,} ops</title></rect>'
        )
        first = y - 3 if b.detail else y + 4
        parts.append(f'<text x="{x:.1f}" y="{first:.1f}">{escape(b.title)}</text>')
        if b.detail:
            parts.append(f'<text class="d" x="{x:.1f}" y="{y + 12:.1f}">{escape(b.detail)}</text>')
        if b.number in below:
            parts.append(_label(x + 6, y + height / 2 + 13, below[b.number]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="minidl-graph" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" '
        f'height="{h:.0f}" role="img" aria-label="graph of {len(boxes)} boxes"><style>{STYLE}</style>'
        f'<path d="M0 0H{w:.0f}V{h:.0f}H0z" fill="var(--g)"/>{"".join(parts)}</svg>'
    )


def _label(x: float, y: float, text: str) -> str:
    return f'<text class="f" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>' if text else ""


def _line(points: list[tuple[float, float]]) -> str:
    """A smooth line from box to box, with a head."""
    (x, y), *rest = points
    d = [f"M{x:.1f} {y:.1f}"]
    for px, py in rest:
        middle = (y + py) / 2
        d.append(f"C{x:.1f} {middle:.1f} {px:.1f} {middle:.1f} {px:.1f} {py:.1f}")
        x, y = px, py
    head = f'<path class="a" d="M{x:.1f} {y:.1f}l-4 -7h8z"/>'
    return f'<path class="l" d="{"".join(d)}"/>{head}'
