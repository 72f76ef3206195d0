"""Stepping through backward: what arrives at each node, what it gives to whom, and what has been added up so far."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from minidl.autograd import Op, Watcher
from minidl.autograd.source import is_engine
from minidl.autograd.walk import _count_consumers, _roots, _run_hooks, _step
from minidl.inside import showing
from minidl.tensors import Tensor, wrap

__all__ = ["Contribution", "Step", "Trace", "trace"]


@dataclass(eq=False)
class Contribution:
    """What a node gives to one of its inputs: `gradient`, which makes the sum there `total`."""

    input: int
    to: Any  # the node that made this input, or the leaf Tensor
    index: int  # which output of that node
    gradient: np.ndarray
    total: np.ndarray
    number: int  # how many have come there by now, this one included ...
    expected: int  # ... of how many in all

    @property
    def complete(self) -> bool:
        """Whether nothing more will come."""
        return self.number == self.expected


@dataclass(eq=False)
class Step:
    """One node of the backward pass: the gradients of its outputs that arrived (`incoming`), and what it gave."""

    number: int
    node: Any
    incoming: list
    trace: Trace
    given: list[Contribution] = field(default_factory=list)

    def __repr__(self) -> str:
        return self.trace.text(self)

    @property
    def op(self) -> str:
        """The op's name."""
        return self.node.name()

    @property
    def module(self) -> str:
        """The module's path, "" outside of any."""
        return self.node.scope

    @property
    def source(self) -> str:
        """The line of the program that called the op."""
        return showing.place(self.node)


@dataclass(eq=False)
class Call:
    """How a node's op was called: `arrays` are copies of the inputs, None in the place of what is no tensor."""

    node: Any
    inputs: list
    args: tuple
    kwargs: dict


class Recorder(Watcher):
    """Keeps the inputs of every op that leaves a node: the values on which `Trace.blame` tries its backward."""

    def __init__(self) -> None:
        self.calls: dict[Any, Call] = {}

    def ran(self, ctx: Any, inputs: Any, args: tuple, kwargs: dict, out: Any) -> None:
        if any(p is not None for p in ctx.parents):
            kept = [_kept(a) for a in inputs]
            self.calls[ctx] = Call(ctx, kept, args, dict(kwargs))


def _kept(a: Any) -> Any:
    """A copy of an input: its memory may change before it is looked at."""
    if isinstance(a, Tensor):
        return wrap(a.array.copy()) if isinstance(a.array, np.ndarray) else a
    return a.copy() if isinstance(a, np.ndarray) else a


def trace(loss: Any, gradient: Any = None, names: Any = None) -> Trace:
    """Step through the backward pass of `loss`. Nothing is added to ``.grad``, and the graph is kept.

    Args:
        loss: a Tensor of one element that has a graph. Or a function without arguments that computes it: it is called
            once, and every op's inputs are kept, which `Trace.blame` needs.
        gradient: the gradient that arrives at `loss`; may be left out for a single element.
        names: what to call leaves and nodes: a Module, or a dict of Tensors by name. By default the caller's variables,
            and modules among them give the names.

    Raises RuntimeError for a tensor without a graph, for more than one element without a `gradient`, and when an
    earlier backward() has freed the graph; TypeError for anything else than a Tensor or a function.

    >>> import minidl
    >>> a = minidl.tensor(2.0, requires_grad=True)
    >>> b = minidl.tensor(3.0, requires_grad=True)
    >>> t = trace((a * b).exp().log())
    >>> t.step().op, t.step().op, t.step().op
    ('log', 'exp', 'mul')
    >>> print(t)
    Backward in 3 steps; done.
    step 3 of 3: mul   # <doctest minidl.inside.traces.trace[3]>:1:  t = trace((a * b).exp().log())
      y = a b
      arrives   1.
      gives     to a: 3.   a.grad is complete
                to b: 2.   b.grad is complete
    >>> t.back().op, t.position
    ('mul', 2)
    """
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and is_engine(frame.f_code.co_filename):
        frame = frame.f_back
    where: Mapping[str, Any] = {**frame.f_globals, **frame.f_locals} if names is None else {}
    calls = None
    if callable(loss) and not isinstance(loss, Tensor):
        with Recorder() as recorder:
            loss = loss()
        calls = recorder.calls
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"trace: a Tensor is expected, the loss, or a function that computes one, not {type(loss).__name__}"
        )
    return Trace(loss, gradient, dict(_names(where if names is None else names)), calls)


def _names(names: Any) -> Iterator[tuple[int, str]]:
    """(id of a Tensor, name) from a module, or from variables."""
    if hasattr(names, "named_parameters"):
        names = {"": names}
    modules = []
    for name, v in names.items():
        if name.startswith("_"):
            continue
        if isinstance(v, Tensor):
            yield id(v if v.node is None else v.node), name
        elif hasattr(v, "named_parameters") and not isinstance(v, type):
            modules.append((name, v))
    for name, module in reversed(modules):  # of several names the first stays
        for path, p in module.named_parameters():
            yield id(p), f"{name}.{path}" if name else path


class Trace:
    """A backward pass that stands still after `position` of its steps.

    Attributes: `nodes`, in the order of the steps; `loss`; `position`, 0 before the first step. ``print`` it for where
    it stands; in a notebook it shows itself; `save` writes all steps as one HTML page with a slider.
    """

    def __init__(self, loss: Tensor, gradient: Any, names: dict[int, str], calls: dict[Any, Call] | None):
        _, (seed,) = _roots(loss, gradient, False)
        self.loss, self.names, self.calls = loss, names, calls
        root = loss.node
        self._consumers = {} if root is None else _count_consumers([root])
        released = next((n for n in self._consumers if n.released), None)
        if released is not None:
            raise RuntimeError(
                f"trace: an earlier backward() has freed what {released} saved; trace the loss before backward(), or "
                "call backward(retain_graph=True)"
            )
        self.nodes = [] if root is None else list(_order(root, dict(self._consumers)))
        self.number = {node: i + 1 for i, node in enumerate(self.nodes)}
        self._expected: dict[tuple[int, int], int] = {}
        for node in self.nodes:
            for parent, index in node.next_functions:
                if parent is not None:
                    key = _key(parent, index)
                    self._expected[key] = self._expected.get(key, 0) + 1
        self._slots: dict[Any, list] = {}
        self._leaves: dict[Tensor, np.ndarray] = {}
        self._come: dict[tuple[int, int], int] = {}
        self._done: list[Step] = []
        self.position = 0
        if root is None:
            self._leaves[loss] = seed
        else:
            self._slot(root)[loss.index] = seed

    def _slot(self, node: Any) -> list:
        if node not in self._slots:
            self._slots[node] = [None] * (1 if node.outputs is None else len(node.outputs))
        return self._slots[node]

    def __len__(self) -> int:
        return len(self.nodes)

    # -- walking ------------------------------------------------------------------------------------------------------

    def step(self) -> Step:
        """Run the next node's backward, and return what happened. StopIteration after the last."""
        if self.position == len(self.nodes):
            raise StopIteration(f"this was the last of {len(self.nodes)} steps; back() goes back")
        if self.position == len(self._done):
            self._done.append(self._run(self.nodes[self.position]))
        self.position += 1
        return self._done[self.position - 1]

    def back(self) -> Step:
        """Undo a step, and return it. StopIteration before the first."""
        if self.position == 0:
            raise StopIteration("this is the start: no step to undo")
        self.position -= 1
        return self._done[self.position]

    def run_to(self, target: Any) -> Step:
        """Go on, or back, until the step of `target` is the last one that was done, and return that.

        target: a node, a Tensor (the node that made it), a step's number, an op's name (the next such step, or the
        first), or a module's path (its first step). Raises KeyError, with suggestions, if there is no such step.
        """
        number = self._find(target)
        while self.position > number:
            self.back()
        while self.position < number:
            self.step()
        return self._done[number - 1]

    def run(self) -> Trace:
        """Do all steps that are left."""
        if self.nodes:
            self.run_to(len(self.nodes))
        return self

    def _find(self, target: Any) -> int:
        if isinstance(target, Tensor):
            if target.node is None:
                raise KeyError("this tensor is a leaf: no op made it, so it has no step")
            target = target.node
        if isinstance(target, Op):
            if target not in self.number:
                raise KeyError(f"{target} is not part of this graph")
            return self.number[target]
        if isinstance(target, (int, np.integer)):
            if not 1 <= target <= len(self.nodes):
                raise KeyError(f"there is no step {target}, only 1 to {len(self.nodes)}")
            return int(target)
        after = self.nodes[self.position :] + self.nodes
        for node in after:
            if node.name() == target or node.scope == target:
                return self.number[node]
        known = sorted({n.name() for n in self.nodes} | {n.scope for n in self.nodes if n.scope})
        near = difflib.get_close_matches(str(target), known, 3) or known[:8]
        raise KeyError(f"no step of an op or module {target!r}; there are: {', '.join(near)}")

    @property
    def steps(self) -> list[Step]:
        """The steps that were done, up to `position`."""
        return self._done[: self.position]

    def gradients(self) -> dict[Tensor, np.ndarray]:
        """The gradient of each leaf as it stands now: what backward() would add to ``.grad``, after the last step."""
        found = {} if self.nodes else dict(self._leaves)
        for step in self.steps:
            for c in step.given:
                if isinstance(c.to, Tensor):
                    found[c.to] = c.total
        if self.position == len(self.nodes):
            for leaf in found:
                if leaf._hooks:
                    found[leaf] = _run_hooks(leaf._hooks, found[leaf], False)
        return found

    def _run(self, node: Any) -> Step:
        slots = self._slot(node)
        if node._hooks:
            for k, hooks in node._hooks.items():
                if slots[k] is not None:
                    slots[k] = _run_hooks(hooks, slots[k], False)
        done = Step(self.number[node], node, slots, self)
        if all(s is None for s in slots):  # nothing came, so nothing goes on
            return done
        before = list(node.indices or [0] * len(node.parents))
        for parent, index, g in _step(node, slots, False, None, {}):
            i = next(i for i, (p, k) in enumerate(zip(node.parents, before)) if p is parent and k == index)
            before[i] = -1  # an input that stands twice counts twice
            done.given.append(self._deliver(i, parent, index, g))
        return done

    def _deliver(self, i: int, parent: Any, index: int, g: np.ndarray) -> Contribution:
        leaf = isinstance(parent, Tensor)
        have = self._leaves.get(parent) if leaf else self._slot(parent)[index]
        g = np.asarray(g)
        total = g if have is None else np.asarray(have + g)
        if leaf:
            self._leaves[parent] = total
        else:
            self._slot(parent)[index] = total
        key = _key(parent, index)
        self._come[key] = self._come.get(key, 0) + 1
        return Contribution(i, parent, index, g, total, self._come[key], self._expected[key])

    def in_order(self, nodes: Iterable[Any]) -> dict[Tensor, np.ndarray]:
        """The leaves' gradients if the nodes were visited once each in this order, whatever it is.

        A node hands on what has arrived when its turn comes; what arrives later is lost. Only an order in which every
        node comes after all of its consumers, a topological one, loses nothing. `minidl.inside.diamonds` shows it.
        """
        other = Trace(self.loss, self._seed(), self.names, self.calls)
        for node in nodes:
            other._run(node)
        return dict(other._leaves)

    def _seed(self) -> Any:
        return None if self.loss.array.size == 1 else wrap(self._done[0].incoming[self.loss.index])

    def blame(self, **how: Any) -> Any:
        """Compare every node's backward with finite differences; see :func:`minidl.inside.verdicts.blame`."""
        from minidl.inside.verdicts import blame

        return blame(self, **how)

    # -- showing ------------------------------------------------------------------------------------------------------

    def name(self, target: Any) -> str:
        """What to call a node or a leaf."""
        if isinstance(target, Tensor):
            return self.names.get(id(target)) or f"a leaf {tuple(target.shape)}"
        named = self.names.get(id(target))
        return f"{f'{named}, ' if named else ''}{target.name()} (step {self.number[target]})"

    def __str__(self) -> str:
        n = len(self.nodes)
        state = "done" if self.position == n else f"{self.position} of them done"
        head = f"Backward in {n} step{'s' if n != 1 else ''}; {state}."
        lines = [head, self.text(self._done[self.position - 1])] if self.position else [head]
        if self.position < n:
            lines.append(f"next: {self._title(self.nodes[self.position])}")
        return "\n".join(lines)

    __repr__ = __str__

    def _title(self, node: Any) -> str:
        """A node's op, its variable, its module and its line."""
        named = self.names.get(id(node))
        scope = f" in {node.scope}" if node.scope else ""
        where = showing.place(node)
        return f"{node.name()}{f' -> {named}' if named else ''}{scope}{f'   # {where}' if where else ''}"

    def text(self, step: Step) -> str:
        """A step in words."""
        lines = [f"step {step.number} of {len(self.nodes)}: {self._title(step.node)}"]
        rule = formula(step.node)
        if rule:
            lines.append(f"  {rule}")
        arrives = ["nothing" if g is None else showing.value(g) for g in step.incoming]
        lines += [f"  {'arrives' if k == 0 else '':<9} {text}" for k, text in enumerate(arrives)]
        for k, c in enumerate(step.given):
            lines.append(f"  {'gives' if k == 0 else '':<9} to {self.name(c.to)}: {self._sum(c)}")
        if not step.given:
            lines.append("  gives     nothing")
        return "\n".join(lines)

    def _sum(self, c: Contribution) -> str:
        text = showing.value(c.gradient)
        leaf = isinstance(c.to, Tensor)
        if c.expected > 1:
            text += f", number {c.number} of {c.expected}; the sum is {showing.value(c.total)}"
        elif leaf:
            name = self.names.get(id(c.to))
            text += f"   {name}.grad is complete" if name else ""
        return text

    def _repr_html_(self) -> str:
        from minidl.inside.trace_page import table

        return showing.fragment(f"<pre>{escape(str(self))}</pre>{table(self)}")

    def save(self, path: str) -> None:
        """All steps as one HTML page with a slider, which needs no network. OSError if it cannot be written."""
        from minidl.inside.trace_page import page

        showing.save(path, page(self))


def formula(node: Any) -> str:
    """The first line of an op's page, "" if it has none."""
    page = (type(node).__doc__ or "").strip()
    return " ".join(page.splitlines()[0].split()) if page and type(node).__module__.startswith("minidl.") else ""


def _order(root: Any, waiting: dict[Any, int]) -> Iterator[Any]:
    """The order of minidl.autograd's walk: every node after all of its consumers."""
    ready = [root]
    while ready:
        node = ready.pop()
        yield node
        for parent in node.parents:
            if isinstance(parent, Op):
                waiting[parent] -= 1
                if not waiting[parent]:
                    ready.append(parent)


def _key(parent: Any, index: int) -> tuple[int, int]:
    return (id(parent), 0 if isinstance(parent, Tensor) else index)
