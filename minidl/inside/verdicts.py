"""Gradient blame: which node's backward disagrees with finite differences, on the very values that flowed there.

Every node is tried by itself, so that an error further up the graph does not hide one further down. Three things are
compared, for a node y = f(x) that was handed dy:

    finite differences of f, in float64, against f's backward in float64, for a random incoming gradient v:
        <df/dx v, u> = (<f(x + h u), v> - <f(x - h u), v>) / (2 h)    along random u, or element by element
    the backward that ran, in its own precision, against the one in float64, for the gradient dy that arrived

Where the two disagree but f bends (the one-sided differences differ, however small the step), the function has no
derivative there, and nobody is to blame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.autograd import enable_grad, grad
from minidl.dtypes import DType, float64
from minidl.inside import showing
from minidl.tensors import Tensor, wrap

__all__ = ["Blame", "Verdict", "blame"]

STEP = 1e-6  # of the differences, relative to the size of x; in float64 they are then right to about 1e-9
SMALL = 24  # inputs of at most so many elements are tried element by element
DIRECTIONS = 3
ELEMENTS = 24  # of a larger input that are tried one by one where a direction disagrees
RTOL, ATOL = 1e-4, 1e-7
FINE = 1e-5  # along random directions, where errors of many elements meet

RIGHT, WRONG, BENT, APART, UNKNOWN = "right", "wrong", "not differentiable here", "not the derivative", "not tried"


@dataclass
class Verdict:
    """What was found at one node.

    verdict is "right", "wrong", "not differentiable here", "not the derivative" (the op says so of itself: straight
    through) or "not tried" (`reason` says why); `input` is the number of the input whose gradient it is about.
    """

    step: int
    node: Any
    verdict: str
    input: int | None = None
    reason: str = ""

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

    def __str__(self) -> str:
        where = f" in {self.module}" if self.module else ""
        line = f" at {self.source}" if self.source else ""
        which = f", gradient of input {self.input}" if self.input is not None else ""
        why = f"; {self.reason}" if self.reason else ""
        return f"step {self.step}, {self.op}{where}{line}{which}: {self.verdict}{why}"


class Blame:
    """What `Trace.blame` returns: `verdicts`, one for each node in the order of the walk. False if all are right.

    Attributes: `first`, the first wrong node's verdict, or None; `wrong`, `bent`, `untried`, lists of verdicts.
    """

    def __init__(self, verdicts: list[Verdict]):
        self.verdicts = verdicts
        self.wrong = [v for v in verdicts if v.verdict == WRONG]
        self.bent = [v for v in verdicts if v.verdict == BENT]
        self.untried = [v for v in verdicts if v.verdict in (UNKNOWN, APART)]
        self.first = self.wrong[0] if self.wrong else None

    def __bool__(self) -> bool:
        return bool(self.wrong)

    def __str__(self) -> str:
        n = len(self.verdicts)
        lines = []
        if self.first is not None:
            lines = ["The first wrong backward:", f"  {self.first}"]
            lines += [f"  also: {v}" for v in self.wrong[1:6]]
        elif self.bent:
            lines = [f"No backward is wrong, but {len(self.bent)} of {n} nodes are at a point without a derivative:"]
            lines += [f"  {v}" for v in self.bent[:6]]
        else:
            tried = n - len(self.untried)
            lines = [f"All {tried} backwards that were tried agree with finite differences."]
        lines += [f"  not judged: {v}" for v in self.untried[:6]]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        from html import escape

        return showing.fragment(f"<pre>{escape(str(self))}</pre>")


def blame(trace: Any, *, seed: int = 0, stop: bool = False) -> Blame:
    """Try every node of a trace; `stop`: only until the first wrong one. Random directions come from `seed`.

    The trace must have been made from a function, ``minidl.trace(lambda: loss_of(model(x)))``, since a graph alone
    does not keep the values that flowed: RuntimeError otherwise. The time is some ten forwards of each op in float64.

    >>> import minidl
    >>> class cube(minidl.Op):
    ...     def forward(ctx, x):
    ...         ctx.save(x)
    ...         return x**3
    ...     def backward(ctx, dy):
    ...         (x,) = ctx.saved
    ...         return dy * 2 * x**2  # wrong: 3 x^2
    >>> x = minidl.tensor([1.0, 2.0], requires_grad=True)
    >>> found = minidl.trace(lambda: cube(x.exp()).sum()).blame()
    >>> found.first.op, found.first.step
    ('cube', 2)
    >>> print(found.first.reason)
    at [0] backward gives ..., finite differences ... for an incoming gradient of random numbers
    """
    if trace.calls is None:
        raise RuntimeError(
            "blame: the graph alone does not keep the values that flowed through it; trace the computation instead of "
            "its result: minidl.trace(lambda: loss_function(model(x), y)).blame()"
        )
    here = trace.position
    trace.run()
    verdicts = []
    for step in trace.steps:
        rng = np.random.default_rng([seed, step.number])
        verdicts.append(_judge(step, trace.calls.get(step.node), rng))
        if stop and verdicts[-1].verdict == WRONG:
            break
    if here:
        trace.run_to(here)
    else:
        while trace.position:
            trace.back()
    return Blame(verdicts)


def _judge(step: Any, call: Any, rng: np.random.Generator) -> Verdict:
    node = step.node
    if call is None:
        return Verdict(step.number, node, UNKNOWN, None, "it ran outside of the function that was traced")
    if node.stands_in:
        return Verdict(step.number, node, APART, None, node.stands_in)
    try:
        with enable_grad():
            return _Trial(step, call, rng).verdict()
    except _CannotTell as error:
        return Verdict(step.number, node, UNKNOWN, None, str(error))


class _CannotTell(Exception):
    pass


class _Trial:
    """One node before the court."""

    def __init__(self, step: Any, call: Any, rng: np.random.Generator):
        self.step, self.node, self.call, self.rng = step, step.node, call, rng
        self.variadic = type(self.node).variadic
        wants = [p is not None for p in self.node.parents]
        self.tried = [
            i
            for i, (a, wanted) in enumerate(zip(call.inputs, wants))
            if wanted and isinstance(a, Tensor) and a.array.size
        ]
        self.x = [_widened(a) for a in call.inputs]
        try:
            outputs, again = self.outputs(), self.outputs()
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise _CannotTell(f"it does not run in float64: {error}") from error
        if not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(outputs, again)):
            raise _CannotTell("its forward gives something else each time")
        self.finite = all(np.isfinite(y).all() for y in outputs)
        self.v = [
            np.asarray(rng.standard_normal(y.shape)) if y.dtype == np.float64 else np.zeros(y.shape) for y in outputs
        ]
        self.here = sum(float(np.sum(y * v)) for y, v in zip(outputs, self.v))
        self.terms = sum(float(np.sum(np.abs(y * v))) for y, v in zip(outputs, self.v))  # without their signs

    def run(self, inputs: list) -> list[Tensor]:
        """forward in float64."""
        fresh = lambda a: list(a) if isinstance(a, list) else a  # a list may be one that forward fills
        kwargs = {k: fresh(_widened(v)) for k, v in self.call.kwargs.items()}
        if self.variadic:
            y = self.node.again(inputs, *[fresh(_widened(a)) for a in self.call.args[1:]], **kwargs)
        else:
            y = self.node.again(*map(fresh, inputs), **kwargs)
        return list(y) if isinstance(y, tuple) else [y]

    def outputs(self, i: int | None = None, x: Any = None) -> list[np.ndarray]:
        """The outputs as arrays, with `x` as input i."""
        inputs = list(self.x)
        if i is not None:
            inputs[i] = wrap(x)
        return [np.asarray(y.array) for y in self.run(inputs)]

    def value(self, i: int, x: np.ndarray) -> float:
        """<f(x), v>."""
        return sum(float(np.sum(y * v)) for y, v in zip(self.outputs(i, x), self.v))

    def gradients(self, seeds: list[Any], moved: Callable[[np.ndarray], np.ndarray] | None = None) -> list:
        """What backward gives in float64, for each input that is tried."""
        leaves = list(self.x)
        for i in self.tried:
            leaves[i] = wrap(self.x[i].array if moved is None else moved(self.x[i].array), True)
        ys = self.run(leaves)
        pairs = [(y, wrap(s)) for y, s in zip(ys, seeds) if y.requires_grad and s is not None]
        if not pairs:
            return [np.zeros_like(self.x[i].array) for i in self.tried]
        wants = [leaves[i] for i in self.tried]
        found = grad([y for y, _ in pairs], wants, [s for _, s in pairs], allow_unused=True)
        return [np.zeros_like(self.x[i].array) if g is None else g.array for i, g in zip(self.tried, found)]

    def verdict(self) -> Verdict:
        said = lambda verdict, i=None, reason="": Verdict(self.step.number, self.node, verdict, i, reason)
        if not self.finite:
            return said(UNKNOWN, None, "its output holds NaN or Inf: see minidl.hunt")
        bent = None
        for i, g in zip(self.tried, self.gradients(self.v)):
            if g.shape != self.x[i].array.shape:
                return said(WRONG, i, f"its shape is {g.shape}, the input's {self.x[i].array.shape}")
            if not np.isfinite(g).all():
                return said(WRONG, i, "it holds NaN or Inf, though all values are finite")
            verdict, reason = self.try_input(i, g)
            if verdict == WRONG:
                return said(WRONG, i, reason)
            if verdict == BENT and bent is None:
                bent = said(BENT, i, reason)
        return self.as_it_ran() or bent or said(RIGHT)

    def try_input(self, i: int, g: np.ndarray) -> tuple[str, str]:
        """Finite differences for one input, against g: element by element, or along random directions."""
        x = self.x[i].array
        elements: Any = range(x.size)
        if x.size > SMALL:
            for _ in range(DIRECTIONS):
                u = self.within(self.rng.standard_normal(x.shape))
                verdict = self.along(i, u, g, FINE)[0]
                if verdict == WRONG:
                    return WRONG, self.said(i, self.narrowed(i, u, g), g)
                if verdict == BENT:
                    break
            else:
                return RIGHT, ""
            most = np.argsort(-np.abs(g.reshape(-1)))[:ELEMENTS]
            elements = np.union1d(self.rng.choice(x.size, ELEMENTS, replace=False), most)
        bent = ""
        for j in elements:
            verdict, _ = self.along(i, self.within(_only(x.shape, slice(j, j + 1))), g)
            if verdict == WRONG:
                return WRONG, self.said(i, slice(j, j + 1), g)
            if verdict == BENT:
                bent = bent or (
                    f"its slopes on both sides differ at {_at(j, x.shape)}, where the input is {x.reshape(-1)[j]:.6g}"
                )
        if bent or x.size <= SMALL:
            return (BENT, bent) if bent else (RIGHT, "")
        return BENT, "its slopes on both sides differ along random directions"

    def narrowed(self, i: int, u: np.ndarray, g: np.ndarray) -> slice:
        """Where in the input the disagreement along u lies: half by half, down to an element if there is but one."""
        low, high = 0, u.size
        while high - low > 1:
            middle = (low + high) // 2
            for part in (slice(low, middle), slice(middle, high)):
                if self.along(i, self.within(u * _only(u.shape, part)), g, FINE)[0] == WRONG:
                    low, high = part.start, part.stop
                    break
            else:
                break
        return slice(low, high)

    def said(self, i: int, where: slice, g: np.ndarray) -> str:
        u = self.within(_only(g.shape, where))
        _, measured = self.along(i, u, g)
        first = f"at {_at(where.start, g.shape)}"
        if where.stop - where.start > 1:
            first = f"summed over {where.stop - where.start} elements from {_at(where.start, g.shape)} on"
        return (
            f"{first} backward gives {np.sum(g * u):.6g}, finite differences {measured:.6g} for an incoming gradient "
            "of random numbers"
        )

    def within(self, u: np.ndarray) -> np.ndarray:
        """The part of a direction that counts."""
        part = type(self.node).within
        return u if part is None else part(u)

    def along(self, i: int, u: np.ndarray, g: np.ndarray, rtol: float = RTOL) -> tuple[str, float]:
        """The slope along u, measured, against <g, u>."""
        x = self.x[i].array
        told = float(np.sum(g * u))
        bound = rtol * max(float(np.linalg.norm(g * u)), float(np.abs(g).max())) + ATOL
        for h in (STEP * max(1.0, float(np.abs(x).max(initial=0))), STEP / 30, STEP / 900):
            up, down = (self.value(i, x + h * u) - self.here) / h, (self.here - self.value(i, x - h * u)) / h
            measured = (up + down) / 2
            noise = 64 * np.finfo(np.float64).eps * self.terms / h  # what rounding alone may do
            if abs(measured - told) <= bound + rtol * abs(measured) + noise:
                return RIGHT, measured
            if abs(up - down) <= bound + rtol * abs(measured) + 4 * noise:  # both sides agree: this is the derivative
                return WRONG, measured
        return BENT, measured

    def as_it_ran(self) -> Verdict | None:
        """The backward that ran, for the gradient that arrived, against the same in float64."""
        seeds = [None if s is None else _wide(s) for s in self.step.incoming]
        if any(s is not None and not np.isfinite(s).all() for s in seeds):
            return None
        given = {c.input: c.gradient for c in self.step.given}
        right = self.gradients(seeds)
        eps = max(np.finfo(a.array.dtype).eps for i in self.tried for a in [self.call.inputs[i]]) if self.tried else 0
        nudged = self.gradients(seeds, lambda x: x * (1 + eps * self.rng.choice([-1.0, 1.0], x.shape)))
        for i, want, other in zip(self.tried, right, nudged):
            got = given.get(i)
            got = np.zeros_like(want) if got is None else got.astype(np.float64)
            if got.shape != want.shape:
                return Verdict(self.step.number, self.node, WRONG, i, f"its shape is {got.shape}, not {want.shape}")
            # what the precision explains: roundings, and how the gradient moves when x moves by one of them
            most = np.abs(want).max(initial=0)
            moves = np.abs(other - want).max(initial=0)
            bound = 1e3 * eps * max(most, max((np.abs(s).max(initial=0) for s in seeds if s is not None), default=0))
            bound += 100 * moves + 1e-2 * most * (eps > 1e-5)
            off = np.abs(got - want)
            if not (off <= bound).all():
                j = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
                at = _at(j, off.shape)
                return Verdict(
                    self.step.number, self.node, WRONG, i,
                    f"at {at} it gave {got.reshape(-1)[j]:.6g} for the gradient that arrived; in float64 that is "
                    f"{want.reshape(-1)[j]:.6g}",
                )  # fmt: skip
        return None


def _only(shape: tuple[int, ...], part: slice) -> np.ndarray:
    """1 at these elements, counted flat, 0 elsewhere."""
    u = np.zeros(int(np.prod(shape)))
    u[part] = 1
    return u.reshape(shape)


def _at(j: int, shape: tuple[int, ...]) -> list[int]:
    return [int(k) for k in np.unravel_index(j, shape)]


def _wide(a: np.ndarray) -> np.ndarray:
    return np.array(a, np.float64) if a.dtype.kind == "f" else np.array(a)


def _widened(a: Any) -> Any:
    """An input or another argument for the same op in float64: float arrays and float dtypes grow."""
    if isinstance(a, Tensor):
        return wrap(_wide(a.array)) if isinstance(a.array, np.ndarray) else a
    if isinstance(a, np.ndarray):
        return _wide(a)
    if isinstance(a, DType):
        return float64 if a.is_floating_point else a
    if (isinstance(a, np.dtype) and a.kind == "f") or (isinstance(a, type) and issubclass(a, np.floating)):
        return np.dtype(np.float64)
    return a
