"""hunt(f): where NaN and Inf were born, either way; checkup(f): vanishing and exploding gradients, dead units.

Anomaly mode (`minidl.autograd.detect_anomaly`) stops at the first NaN, or Inf; these look at the whole run and report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from minidl.autograd import Watcher, caller, grad, state
from minidl.inside import showing
from minidl.inside.looking import tensors
from minidl.tensors import Tensor, wrap

__all__ = ["Birth", "Checkup", "Hunt", "Layer", "checkup", "hunt"]

WINDOW = 6  # values of a reduction's input that are shown


@dataclass
class Birth:
    """An op that made a NaN or an Inf out of finite numbers: at element `at` of `what` (its output, or the gradient of
    an input), from `values`. `hint` is the likely reason, "" if none is known.
    """

    value: str
    direction: str
    op: str
    module: str
    source: str
    what: str
    at: list[int]
    count: int
    values: list[str]
    hint: str

    def __str__(self) -> str:
        where = f" in {self.module}" if self.module else ""
        head = f"{self.value} born {self.direction} in {self.op}{where}, at {self.at} of {self.what}"
        more = f" ({self.count:,} elements)" if self.count > 1 else ""
        lines = [head + more, f"  at {self.source}" if self.source else ""]
        lines += [f"  {v}" for v in self.values]
        lines += [f"  {self.hint}"] if self.hint else []
        return "\n".join(line for line in lines if line)


class Hunt:
    """What hunt() returns: `births` in the order in which they happened, `first` of them or None. False if none."""

    def __init__(self, births: list[Birth], carried: list[str]):
        self.births, self.carried = births, carried
        self.first = births[0] if births else None

    def __bool__(self) -> bool:
        return bool(self.births or self.carried)

    def __str__(self) -> str:
        if not self:
            return "No NaN and no Inf: all values and gradients are finite."
        lines = [f"given already: {c}" for c in self.carried]
        lines += [str(b) for b in self.births[:6]]
        if len(self.births) > 6:
            lines.append(f"and {len(self.births) - 6} more births")
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return showing.fragment(f"<pre>{escape(str(self))}</pre>")


def _bad(a: Any) -> np.ndarray | None:
    a = a.array if isinstance(a, Tensor) else a
    if getattr(a, "dtype", None) is None or not isinstance(a, np.ndarray) or a.dtype.kind != "f" or not a.size:
        return None
    finite = np.isfinite(a)
    return None if finite.all() else ~finite


class _Hunter(Watcher):
    def __init__(self) -> None:
        self.births: list[Birth] = []
        self.carried: dict[int, str] = {}
        self.seen: set[int] = set()
        self.alive: list[Any] = []
        self.arrays: dict[Any, list] = {}

    def ran(self, ctx: Any, inputs: Sequence[Any], args: tuple, kwargs: dict, out: Any) -> None:
        self.arrays[ctx] = [a.array if isinstance(a, Tensor) else a for a in inputs]
        sick = [a for a in inputs if isinstance(a, Tensor) and _bad(a) is not None]
        for a in sick:
            if id(a.array) not in self.seen and a.node is None:
                self._carry(a, ctx)
        for t in tensors(out):
            bad = _bad(t)
            if bad is None:
                continue
            self.seen.add(id(t.array))
            self.alive.append(t.array)
            if not sick:
                self.births.append(self._birth(ctx, "forwards", "its output", t.array, bad, inputs))

    def _carry(self, a: Tensor, ctx: Any) -> None:
        bad = _bad(a)
        assert bad is not None
        at = [int(i) for i in np.argwhere(bad)[0]]
        self.seen.add(id(a.array))
        self.alive.append(a.array)
        user = f"{ctx.name()} in {state.scope}" if state.scope else ctx.name()
        self.carried[id(a.array)] = (
            f"a tensor {tuple(a.shape)}, first used by {user}, holds "
            f"{a.array[tuple(at)]} at {at} ({int(bad.sum()):,} elements in all)"
        )

    def stepped(self, node: Any, slots: Sequence[Any], grads: Sequence[Any]) -> None:
        if any(_bad(s) is not None for s in slots if s is not None):
            return
        for i, g in enumerate(grads):
            bad = _bad(g) if g is not None else None
            if bad is None:
                continue
            array = g.array if isinstance(g, Tensor) else g
            inputs = self.arrays.get(node, [])
            if any(_bad(a) is not None for a in inputs):
                continue  # the forward's fault, and told of there
            self.births.append(self._birth(node, "backwards", f"the gradient of input {i}", array, bad, inputs, slots))

    def _birth(
        self, node: Any, direction: str, what: str, y: np.ndarray, bad: np.ndarray, inputs: Sequence[Any],
        slots: Sequence[Any] = (),
    ) -> Birth:  # fmt: skip
        at = tuple(int(i) for i in np.argwhere(bad)[0]) if y.ndim else ()
        values = [f"input {i} {_around(a, y.shape, at)}" for i, a in enumerate(inputs) if _is_floats(a)]
        values += [f"incoming gradient {_around(s, y.shape, at)}" for s in slots if s is not None]
        arrays = [np.asarray(a.array if isinstance(a, Tensor) else a) for a in inputs if _is_floats(a)]
        where = node.where or caller()
        source = showing.line(where)
        scope = node.scope if direction == "backwards" else state.scope
        hint = _hint(node.name(), direction, y[at], arrays, y, at)
        return Birth(_name(y[at]), direction, node.name(), scope, source, what, list(at), int(bad.sum()), values, hint)


def _name(v: Any) -> str:
    return "NaN" if np.isnan(v) else "Inf" if v > 0 else "-Inf"


def _is_floats(a: Any) -> bool:
    a = a.array if isinstance(a, Tensor) else a
    return isinstance(a, (float, int)) or (isinstance(a, np.ndarray) and a.dtype.kind in "fiu")


def _around(a: Any, shape: tuple[int, ...], at: tuple[int, ...]) -> str:
    """The value that met this element, and the range of all."""
    a = a.array if isinstance(a, Tensor) else a
    a = np.asarray(a)
    if not a.ndim:
        return f"= {a.item():.6g}"
    try:
        value = np.broadcast_to(a, shape)[at] if a.ndim <= len(shape) else None
    except ValueError:
        value = None
    with np.errstate(all="ignore"):
        spread = f"from {np.min(a):.6g} to {np.max(a):.6g}" if a.size else "no elements"
    return f"{a.shape}{f' = {value:.6g} there' if value is not None else ''}, {spread}"


def _hint(op: str, direction: str, y: Any, inputs: list[np.ndarray], whole: np.ndarray, at: tuple[int, ...]) -> str:
    """Why, where the op and its inputs leave little doubt."""

    def there(i: int) -> float | None:
        if i >= len(inputs):
            return None
        try:
            return float(np.broadcast_to(inputs[i], whole.shape)[at])
        except ValueError:
            return None

    x, b = there(0), there(1)
    low = float(np.min(inputs[0])) if inputs and inputs[0].size else 0.0
    if op in ("log", "log2", "log10", "log1p", "rsqrt", "sqrt", "pow", "reciprocal", "true_divide"):
        if op.startswith("log") and x is not None and direction == "forwards":
            least = -1 if op == "log1p" else 0
            if x <= least:
                return f"{op} of {x:g}: keep its input above {least}, by clamp(min=1e-12) or as log_softmax does"
        if op in ("sqrt", "rsqrt", "pow", "reciprocal") and x == 0:
            return f"the slope of {op} is infinite at 0: add a small eps inside" if direction == "backwards" else (
                f"{op} of 0: add a small eps inside")  # fmt: skip
        if op == "sqrt" and x is not None and x < 0:
            return f"sqrt of {x:g}: rounding made it negative? clamp(min=0)"
        if op == "true_divide" and b == 0:
            return f"division of {x:g} by 0: add an eps to the denominator" if x is not None else "division by 0"
    if op in ("exp", "expm1", "exp2", "sinh", "cosh") and x is not None and abs(x) > 10:
        limit = float(np.log(np.finfo(whole.dtype).max))
        how = "subtract the maximum first, as softmax does"
        return f"{op} of {x:g} overflows {whole.dtype}, whose limit is {limit:.1f}: {how}"
    if op == "mean" and inputs and not inputs[0].size:
        return "the mean of nothing is 0 / 0"
    if op == "vector_length" and direction == "backwards" and low == 0:
        return "a norm has no slope at 0: add a small eps"
    if y is not None and np.isinf(y) and whole.dtype != np.float64:
        return f"the result is beyond {np.finfo(whole.dtype).max:.3g}, the greatest {whole.dtype}"
    return ""


def hunt(f: Callable[[], Any], backward: bool = True) -> Hunt:
    """Run f() and, if it gives a single element that has a graph, its backward; report every birth of NaN or Inf.

    No ``.grad`` changes. An op that is handed a NaN or Inf is not blamed for passing it on; one in the data or the
    parameters is told of as given. Inf that an op makes on purpose (a mask of -inf) is told of, too. Raises TypeError
    for anything but a function.

    >>> import minidl
    >>> x = minidl.tensor([1.0, 0.0], requires_grad=True)
    >>> found = hunt(lambda: (x.sqrt() * 0 + x.log()).sum())
    >>> [(b.value, b.direction, b.op, b.at) for b in found.births]
    [('-Inf', 'forwards', 'log', [1]), ('Inf', 'backwards', 'log', [1]), ('NaN', 'backwards', 'sqrt', [1])]
    >>> print(found.first)
    -Inf born forwards in log, at [1] of its output
      at <doctest minidl.inside.hunts.hunt[2]>:1:  found = hunt(lambda: (x.sqrt() * 0 + x.log()).sum())
      input 0 (2,) = 0 there, from 0 to 1
      log of 0: keep its input above 0, by clamp(min=1e-12) or as log_softmax does
    """
    _need_function(f, "hunt")
    hunter = _Hunter()
    with hunter:
        y = f()
        for root in tensors(y):
            if backward and root.node is not None and root.array.size == 1:
                _walk_back(root)
                break
    return Hunt(hunter.births, list(hunter.carried.values()))


def _need_function(f: Any, name: str) -> None:
    if not callable(f) or isinstance(f, Tensor) or hasattr(f, "named_modules"):
        raise TypeError(
            f"{name}: a function without arguments is expected, such as lambda: loss_function(model(x), y), not "
            f"{type(f).__name__}"
        )


def _walk_back(root: Tensor) -> dict[int, Any]:
    """The gradients of all leaves, by id."""
    from minidl.inside.looking import graph_nodes

    leaves = {id(p): p for n in graph_nodes([root]) for p in n.parents if isinstance(p, Tensor)}
    found = grad(root, list(leaves.values()), wrap(np.ones_like(root.array)), retain_graph=True, allow_unused=True)
    return {k: (t, g) for (k, t), g in zip(leaves.items(), found)}


# -- how healthy is a training? ----------------------------------------------------------------------------------------


@dataclass
class Layer:
    """One module in a checkup: root mean squares of its output and of the gradient there, the gradient of its weights
    relative to them, the share of units that are 0 for every example (dead) and of values that are saturated.
    """

    module: str
    output: float
    gradient: float
    ratio: float | None
    dead: float | None
    saturated: float | None
    said: str = ""


class Checkup:
    """What checkup() returns: `layers` in the order of the forward, `findings`, sentences; False if there are none."""

    def __init__(self, layers: list[Layer], findings: list[str]):
        self.layers, self.findings = layers, findings

    def __bool__(self) -> bool:
        return bool(self.findings)

    def __str__(self) -> str:
        n = lambda v: "-" if v is None else f"{v:.2e}"
        p = lambda v: "-" if v is None else f"{v:.0%}"
        rows = [
            (x.module, n(x.output), n(x.gradient), n(x.ratio), p(x.dead), p(x.saturated), x.said) for x in self.layers
        ]
        head = ("module", "output rms", "gradient rms", "dw / w", "dead", "saturated", "")
        text = showing.table(head, rows)
        return text + "\n" + ("\n".join(self.findings) or "Nothing conspicuous.")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return showing.fragment(f"<pre>{escape(str(self))}</pre>")


class _Listener(Watcher):
    def __init__(self) -> None:
        self.outputs: dict[str, tuple[Any, Any]] = {}  # module -> its last op's node and output
        self.gradients: dict[Any, Any] = {}
        self.dead: dict[str, float] = {}
        self.saturated: dict[str, float] = {}

    def ran(self, ctx: Any, inputs: Sequence[Any], args: tuple, kwargs: dict, out: Any) -> None:
        y = next(tensors(out), None)
        if y is None or not y.is_floating_point() or not y.numel():
            return
        scope = state.scope or "(outside of modules)"
        self.outputs[scope] = (ctx, y.array)
        page, name = type(ctx).__module__.rpartition(".")[2], ctx.name()
        if page == "hard_activations" and y.ndim > 1:
            others = tuple(d for d in range(y.ndim) if d != 1) if y.ndim == 4 else tuple(range(y.ndim - 1))
            self.dead[scope] = float((y.array == 0).all(axis=others).mean())
        if name in ("tanh", "sigmoid"):
            edge = np.abs(y.array if name == "tanh" else 2 * y.array - 1)
            self.saturated[scope] = float((edge > 0.99).mean())

    def stepped(self, node: Any, slots: Sequence[Any], grads: Sequence[Any]) -> None:
        g = next((s for s in slots if s is not None), None)
        if g is not None:
            self.gradients[node] = g.array if isinstance(g, Tensor) else g


FALL, RISE = 1e-3, 1e3  # of the gradient, from the last layer to the first
DEAD, SATURATED = 0.3, 0.5


def checkup(f: Callable[[], Any], model: Any = None) -> Checkup:
    """Run f(), which computes a loss, and its backward; tell for each module how gradients and activations fare.

    Args:
        f: a function without arguments that gives a single element with a graph.
        model: whose parameters are compared with their gradients.

    Findings: a gradient that falls (or rises) a thousandfold from the last module to the first; units of a ReLU that
    are 0 for every example of the batch, from 30 % on; tanh or sigmoid within 1 % of its limits for half of all values.
    No ``.grad`` changes. Raises TypeError and RuntimeError as :func:`minidl.inside.traces.trace`.

    >>> import minidl
    >>> from minidl import nn
    >>> _ = minidl.manual_seed(0)
    >>> net = nn.Sequential(*[m for _ in range(12) for m in (nn.Linear(16, 16), nn.Sigmoid())])
    >>> print(checkup(lambda: net(minidl.randn(8, 16)).sum(), net).findings[0])
    gradients vanish: their rms falls from ... at Sequential.23 to ... at Sequential.0
    """
    _need_function(f, "checkup")
    listener = _Listener()
    with listener:
        loss = f()
        if not isinstance(loss, Tensor):
            raise TypeError(f"checkup: the function must give a Tensor, the loss, not {type(loss).__name__}")
        if loss.array.size != 1:
            raise RuntimeError(f"checkup: the loss must have a single element, not the shape {tuple(loss.shape)}")
        if loss.node is None:
            raise RuntimeError("checkup: the loss has no graph: was it computed under no_grad, or detached?")
        found = _walk_back(loss)
    ratios = {} if model is None else _ratios(model, found)
    layers = []
    for scope, (node, y) in listener.outputs.items():
        g = listener.gradients.get(node)
        if g is None:
            continue
        layers.append(
            Layer(scope, _rms(y), _rms(g), ratios.get(scope), listener.dead.get(scope), listener.saturated.get(scope))
        )
    return Checkup(layers, _findings(layers))


def _rms(a: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(a.astype(np.float64)))))


def _ratios(model: Any, found: dict[int, Any]) -> dict[str, float]:
    """|gradient| / |weight| of the parameters that a module holds itself."""
    ratios = {}
    root = type(model).__name__
    for name, module in model.named_modules():
        own = [found[id(p)] for p in module.parameters(recurse=False) if id(p) in found and found[id(p)][1] is not None]
        weight = sum(_rms(p.array) ** 2 * p.numel() for p, _ in own)
        if own and weight:
            slope = sum(_rms(g.array) ** 2 * g.numel() for _, g in own)
            ratios[f"{root}.{name}" if name else root] = float((slope / weight) ** 0.5)
    return ratios


def _findings(layers: list[Layer]) -> list[str]:
    findings = []
    modules = [x for x in layers if not x.module.startswith("(")]
    if len(modules) > 1:
        first, last = modules[0], modules[-1]
        way = f"from {last.gradient:.2e} at {last.module} to {first.gradient:.2e} at {first.module}"
        if not np.isfinite([first.gradient, last.gradient]).all():
            findings.append("gradients are not finite: minidl.hunt says where that begins")
        elif last.gradient and first.gradient / last.gradient < FALL:
            findings.append(f"gradients vanish: their rms falls {way}")
        elif last.gradient and first.gradient / last.gradient > RISE:
            findings.append(f"gradients explode: their rms rises {way}")
    for x in layers:
        if x.gradient == 0:
            x.said = "no gradient"
        if x.dead is not None and x.dead >= DEAD:
            x.said = "dead units"
            findings.append(f"{x.dead:.0%} of the units of {x.module} are 0 for every example here: dead, if for all")
        if x.saturated is not None and x.saturated >= SATURATED:
            x.said = "saturated"
            findings.append(f"{x.saturated:.0%} of the values of {x.module} are at their limits, where the slope is 0")
    return findings
