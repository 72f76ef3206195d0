"""profile(): where the time of a program went, by op and by module, forwards and backwards.

Every op's forward and backward, every module's call, the walk back and the optimizer's step are timed from inside; the
time of each is what it took less what it spent in others. What is left of the wall time is the program's own Python.
The sum is therefore the wall time, and what a row says is what would be gone without it.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from time import perf_counter
from typing import Any

import numpy as np

from minidl import autograd
from minidl.autograd import Op, Watcher, state
from minidl.autograd.later import all_ops
from minidl.inside import showing

__all__ = ["Event", "Row", "profile"]

FORWARD, BACKWARD, MODULE, WALK, STEP = "forward", "backward", "module", "walk back", "optimizer"


@dataclass
class Event:
    """One thing that ran: `start` and `seconds` in all, `own` seconds less those of events within, `peak` bytes that it
    had allocated at once (with memory=True), `floor` seconds that the machine needs at least (with roofline=True).
    """

    name: str
    kind: str
    module: str
    start: float
    seconds: float = 0.0
    inner: float = 0.0
    peak: int = 0
    shapes: str = ""
    flops: int = 0
    floor: float = 0.0

    @property
    def own(self) -> float:
        """Seconds not spent in other events."""
        return self.seconds - self.inner


@dataclass
class Row:
    """A sum of events: seconds `forward`, `backward` and `other`, how many `calls`."""

    name: str
    forward: float = 0.0
    backward: float = 0.0
    other: float = 0.0
    calls: int = 0
    peak: int = 0
    flops: int = 0
    floor: float = 0.0
    measured: float = field(default=0.0, repr=False)  # seconds of the events that have a floor

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.forward + self.backward + self.other

    @property
    def roofline(self) -> float | None:
        """The share of the time that the machine itself needs for these operations and bytes; None if not asked."""
        return self.floor / self.measured if self.measured and self.floor else None


class profile(Watcher):
    """``with minidl.profile() as p:`` time what this thread runs inside; ``print(p)`` afterwards.

    Args:
        memory: also follow NumPy's allocations, by tracemalloc, which makes everything slower: then look at bytes,
            not at seconds.
        roofline: also count operations, by running the plain definition of each op once more for each new shape, and
            compare with the limits of this machine, which are measured at the end. Neither is part of the times.

    Raises RuntimeError when entered while another profile is on.

    >>> import minidl
    >>> from minidl import nn
    >>> net, x = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)), minidl.randn(16, 64)
    >>> with profile() as p:
    ...     net(x).square().mean().backward()
    >>> [row.name for row in p.by_module()][-1]
    'outside of modules'
    >>> abs(sum(row.seconds for row in p.by_op()) - p.seconds) < 1e-9
    True
    """

    _on: profile | None = None

    def __init__(self, memory: bool = False, roofline: bool = False):
        self.memory, self.counting = memory, roofline
        self.events: list[Event] = []
        self.seconds = 0.0
        self.peak = 0
        self.limits: Any = None
        self._stack: list[Event] = []
        self._undo: list[Callable[[], None]] = []
        self._counts: dict[Any, tuple[int, int]] = {}
        self._paused = 0.0
        self._busy = False  # counting: what runs now is no part of the program
        self._begun = 0.0

    # -- switching on and off -----------------------------------------------------------------------------------------

    def __enter__(self) -> profile:
        if profile._on is not None:
            raise RuntimeError("profile: another profile is on already")
        from minidl.nn.module.calls import Calls
        from minidl.optim.optimizer import Optimizer

        profile._on, self._thread = self, threading.get_ident()
        for cls in _all_ops():
            for name, kind in (("forward", FORWARD), ("backward", BACKWARD)):
                if name in cls.__dict__:
                    self._replace(cls, name, self._op(cls.__dict__[name], kind))
        self._replace(Calls, "__call__", self._module(Calls.__call__))
        for optimizer in _subclasses(Optimizer):
            if "step" in optimizer.__dict__:
                self._replace(optimizer, "step", self._plain(optimizer.__dict__["step"], STEP))
        self._replace(autograd, "backward", self._plain(autograd.backward, WALK))
        if self.memory:
            import tracemalloc

            self._tracing = tracemalloc.is_tracing()
            if not self._tracing:
                tracemalloc.start()
        super().__enter__()
        self._begun = perf_counter()
        return self

    def __exit__(self, *_: Any) -> None:
        self.seconds = perf_counter() - self._begun - self._paused
        super().__exit__()
        for undo in reversed(self._undo):
            undo()
        profile._on, self._undo = None, []
        if self.memory:
            import tracemalloc

            self.peak = max([self.peak, *(e.peak for e in self.events)])
            if not self._tracing:
                tracemalloc.stop()
        if self.counting and any(e.flops or e.floor for e in self.events):
            self._floors()

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        before = owner.__dict__[name]
        setattr(owner, name, value)
        self._undo.append(lambda: setattr(owner, name, before))

    # -- what is timed ------------------------------------------------------------------------------------------------

    def _timed(self, event: Event, run: Callable[[], Any]) -> Any:
        stack = self._stack
        if self.memory:
            import tracemalloc

            if event.kind in (FORWARD, BACKWARD):
                held = tracemalloc.get_traced_memory()[0]
                tracemalloc.reset_peak()
        stack.append(event)
        paused = self._paused
        start = perf_counter()
        try:
            return run()
        finally:
            event.seconds = perf_counter() - start - (self._paused - paused)
            event.start = start - self._begun - paused
            stack.pop()
            if stack:
                stack[-1].inner += event.seconds
            self.events.append(event)
            if self.memory and event.kind in (FORWARD, BACKWARD):
                top = tracemalloc.get_traced_memory()[1]
                event.peak, self.peak = top - held, max(self.peak, top)

    def _skips(self, kind: str) -> bool:
        """Other threads, and ops that run inside of ops, belong to no row of their own."""
        if self._busy:
            return True
        inside = self._stack and self._stack[-1].kind in (FORWARD, BACKWARD)
        return threading.get_ident() != self._thread or bool(inside and kind in (FORWARD, BACKWARD))

    def _op(self, method: Any, kind: str) -> Any:
        @functools.wraps(method)
        def timed(ctx: Any, *args: Any, **kwargs: Any) -> Any:
            if self._skips(kind):
                return method(ctx, *args, **kwargs)
            scope = state.scope if kind == FORWARD else ctx.scope
            event = Event(ctx.name(), kind, scope, 0.0, shapes=", ".join(_shapes(args)))
            y = self._timed(event, lambda: method(ctx, *args, **kwargs))
            if self.counting:
                self._count(event, ctx, method, args, kwargs, y)
            return y

        return timed

    def _module(self, method: Any) -> Any:
        from minidl.nn.module.calls import _call

        @functools.wraps(method)
        def timed(module: Any, *args: Any, **kwargs: Any) -> Any:
            if self._skips(MODULE):
                return method(module, *args, **kwargs)
            name = type(module).__name__
            path = _call.paths.get(id(module), f"{state.scope}.<{name}>") if state.scope else name
            return self._timed(Event(name, MODULE, path, 0.0), lambda: method(module, *args, **kwargs))

        return timed

    def _plain(self, function: Any, kind: str) -> Any:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._skips(kind) or any(e.kind == kind for e in self._stack):
                return function(*args, **kwargs)
            name = type(args[0]).__name__ if kind == STEP else kind
            return self._timed(Event(name, kind, "", 0.0), lambda: function(*args, **kwargs))

        return timed

    # -- counting -----------------------------------------------------------------------------------------------------

    def _count(self, event: Event, ctx: Any, method: Any, args: tuple, kwargs: dict, y: Any) -> None:
        """Operations and bytes of a call, once for each new shape, off the clock."""
        start = perf_counter()
        arrays = list(_arrays([args, y]))
        key = (type(ctx), event.kind, tuple((a.shape, a.dtype.char) for a in arrays), _key(args))
        if key not in self._counts:
            self._busy = True
            try:
                flops = _operations(ctx, event.kind, args, kwargs)
            finally:
                self._busy = False
            results = list(_arrays([y]))
            views = any(np.may_share_memory(a, b) for a in results for b in _arrays(args))
            self._counts[key] = (flops, sum(a.nbytes for a in arrays) if flops or not views else 0)
        event.flops, moved = self._counts[key]
        event.floor = float(moved)  # bytes, until the limits are known
        self._paused += perf_counter() - start

    def _floors(self) -> None:
        from minidl.bench.ceilings import Work
        from minidl.inside.looking import ceilings

        self.limits = ceilings()
        for e in self.events:
            if e.floor:
                e.floor = max(self.limits.floors(Work(e.flops, e.floor / 2, e.floor / 2)))

    # -- what came out ------------------------------------------------------------------------------------------------

    def _rows(self, name: Callable[[Event], str]) -> list[Row]:
        rows: dict[str, Row] = {}
        for e in self.events:
            row = rows.setdefault(name(e), Row(name(e)))
            part = {FORWARD: "forward", BACKWARD: "backward"}.get(e.kind, "other")
            setattr(row, part, getattr(row, part) + e.own)
            row.calls += 1
            row.peak = max(row.peak, e.peak)
            row.flops += e.flops
            if self.limits is not None and e.floor:
                row.floor += e.floor
                row.measured += e.seconds
        return sorted(rows.values(), key=lambda r: -r.seconds)

    def _left(self) -> float:
        return self.seconds - sum(e.own for e in self.events)

    def by_op(self) -> list[Row]:
        """A row for each op, one for what modules add around theirs, for the walk back, for each optimizer, and last
        one for the program's own Python; their seconds sum to the wall time.
        """
        names = {MODULE: "(calls of modules)", WALK: "(the walk back)"}
        rows = self._rows(lambda e: names.get(e.kind, f"({e.name}.step)" if e.kind == STEP else e.name))
        return [*rows, Row("(other Python)", other=self._left())]

    def by_module(self) -> list[Row]:
        """A row for each module, by its own ops and not its children's; all else is outside. Sums to the wall time."""
        rows = self._rows(lambda e: e.module)
        outside = next((r for r in rows if not r.name), Row(""))
        rest = [r for r in rows if r is not outside]
        outside.name, outside.other = "outside of modules", outside.other + self._left()
        return [*rest, outside]

    def __str__(self) -> str:
        head = f"{self.seconds * 1e3:.3g} ms"
        if self.memory:
            head += f", at most {showing.size(self.peak)} allocated at once (times include the bookkeeping of that)"
        parts = [head, "", self._table("op", self.by_op()), "", self._table("module", self.by_module())]
        if self.limits is not None:
            c = self.limits
            rate, memory = showing.number(c.rates["f32"]), showing.number(c.streams["copy"][-1][1])
            parts += ["", f"roofline: {rate}FLOP/s, memory {memory}B/s with {c.threads} threads, measured"]
        return "\n".join(parts)

    __repr__ = __str__

    def _table(self, what: str, rows: Iterable[Row]) -> str:
        ms = lambda s: f"{s * 1e3:.3f}" if abs(s) >= 5e-7 else "-"
        head = [what, "ms", "share", "forward", "backward", "other", "calls"]
        lines = []
        for r in rows:
            line = [r.name, ms(r.seconds), f"{r.seconds / self.seconds:.1%}" if self.seconds else "-"]
            line += [ms(r.forward), ms(r.backward), ms(r.other), f"{r.calls:,}" if r.calls else "-"]
            if self.memory:
                line.append(showing.size(r.peak) if r.peak else "-")
            if self.limits is not None:
                line += [showing.number(r.flops), "-" if r.roofline is None else f"{r.roofline:.0%}"]
            lines.append(line)
        shown = lines[:30]
        more = lines[30:]
        head += (["peak"] if self.memory else []) + (["FLOPs", "roofline"] if self.limits is not None else [])
        return showing.table(head, shown) + (f"\n{len(more)} more rows" if more else "")

    def _repr_html_(self) -> str:
        return showing.fragment(f"<pre>{escape(str(self))}</pre>")

    def chrome_trace(self) -> dict[str, Any]:
        """The events as Chrome's and Perfetto's trace viewers read them; times in microseconds."""
        events = [
            {
                "name": e.module if e.kind == MODULE else e.name, "cat": e.kind, "ph": "X", "pid": 1, "tid": 1,
                "ts": round(e.start * 1e6, 3), "dur": round(e.seconds * 1e6, 3),
                "args": {k: v for k, v in (("module", e.module), ("shapes", e.shapes), ("bytes", e.peak)) if v},
            }
            for e in sorted(self.events, key=lambda e: e.start)
        ]  # fmt: skip
        return {"traceEvents": events, "displayTimeUnit": "ms"}

    def save(self, path: str) -> None:
        """Write `chrome_trace` as JSON: open it in chrome://tracing or ui.perfetto.dev. OSError if that fails."""
        showing.save(path, json.dumps(self.chrome_trace()))


def _subclasses(cls: Any) -> Iterator[Any]:
    yield cls
    for sub in type.__subclasses__(cls):
        yield from _subclasses(sub)


def _all_ops() -> list[Any]:
    all_ops()  # pages that are read later must not slip through
    return list(dict.fromkeys(c for c in _subclasses(Op) if c is not Op))


def _arrays(values: Any) -> Iterator[np.ndarray]:
    for v in values:
        if isinstance(v, np.ndarray):
            yield v
        elif isinstance(v, (list, tuple)):
            yield from _arrays(v)


def _shapes(args: tuple) -> list[str]:
    return [str(a.shape) for a in _arrays(args)]


def _key(args: tuple) -> str:
    return repr([a for a in args if isinstance(a, (int, float, bool, str, tuple)) and not list(_arrays([a]))])


def _operations(ctx: Any, kind: str, args: tuple, kwargs: dict) -> int:
    """Counted on the plain definition; 0 where a second run is not possible."""
    from minidl.inside.counting import Counting, counted

    def view(a: Any) -> Any:
        if isinstance(a, np.ndarray):
            return a.view(Counting)
        return type(a)(map(view, a)) if type(a) in (list, tuple) else a

    with counted() as count:
        try:
            if kind == FORWARD:
                ctx.again(*map(view, args), **kwargs)
            else:
                type(ctx).backward(ctx, *map(view, args))
        except (RuntimeError, TypeError, ValueError, AttributeError):
            return 0
    return count.flops
