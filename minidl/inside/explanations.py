"""explain(x): an op, a layer, a model, a Tensor's graph or a kernel tells of itself.

Nothing is written down twice: formula, derivation and example are read from the page of the thing, sources are the
sources, gradients are checked, operations counted, kernels chosen and times measured while one waits.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import difflib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

import minidl_kernels
from minidl.autograd import TABLE, Op, OpType, grad
from minidl.gradchecks import GradcheckError, gradcheck, gradgradcheck
from minidl.inside import looking, pages, showing
from minidl.tensors import Tensor, wrap
from minidl_kernels import registry

__all__ = ["Explanation", "Field", "explain", "names"]

TEXT, CODE = "text", "code"

OP_FIELDS = (
    "what", "formula", "shapes", "forward", "backward", "why", "second derivative", "kernels", "cost", "roofline",
    "gradcheck", "example",
)  # fmt: skip
LAYER_FIELDS = (
    "what", "parameters", "shapes", "forward", "ops", "why", "second derivative", "kernels", "cost", "roofline",
    "gradcheck", "example",
)  # fmt: skip
KERNEL_FIELDS = ("what", "contract", "variants", "runs here", "reference", "sources", "cost", "roofline", "checked",
                 "example")  # fmt: skip


@dataclass
class Field:
    """One thing that is told: a title, the text, and whether that is code."""

    title: str
    text: str
    style: str = TEXT
    picture: str = ""  # SVG, in HTML


class Explanation:
    """What explain() returns. ``print`` it; in a notebook it shows itself; `save` writes an HTML page.

    ``explanation["cost"]`` is one field's text; `fields` has all in order; `kind` is op, function, layer, model,
    graph or kernel.
    """

    def __init__(self, name: str, kind: str, fields: list[Field]):
        self.name, self.kind, self.fields = name, kind, fields

    def __getitem__(self, title: str) -> str:
        for f in self.fields:
            if f.title == title:
                return f.text
        raise KeyError(f"no field {title!r}; there are: {', '.join(f.title for f in self.fields)}")

    def __contains__(self, title: object) -> bool:
        return any(f.title == title for f in self.fields)

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.kind})", "=" * (len(self.name) + len(self.kind) + 3)]
        for f in self.fields:
            lines += ["", f.title.upper(), *(f"  {line}".rstrip() for line in f.text.splitlines())]
        return "\n".join(lines)

    __repr__ = __str__

    def html(self) -> str:
        """The fields as HTML, sources folded up."""
        parts = [f'<h1>{escape(self.name)} <span class="soft">{escape(self.kind)}</span></h1>']
        for f in self.fields:
            body = f"<pre>{escape(f.text)}</pre>" if f.style == CODE else _paragraphs(f.text)
            if f.style == CODE and f.text.count("\n") > 30:
                body = f"<details><summary>{f.text.count(chr(10)) + 1} lines</summary>{body}</details>"
            parts.append(f"<h2>{escape(f.title)}</h2>{body}{f.picture}")
        return "".join(parts)

    def _repr_html_(self) -> str:
        return showing.fragment(self.html())

    def save(self, path: str) -> None:
        """Write it as one HTML page that needs no network. OSError if that cannot be done."""
        showing.save(path, showing.document(f"{self.name} - minidl", self.html()))


def _paragraphs(text: str) -> str:
    """Text with its lines: columns stay columns."""
    if any("  " in line.strip() for line in text.splitlines()):
        return f"<pre>{escape(text)}</pre>"
    return "".join(f"<p>{escape(p)}</p>" for p in text.split("\n"))


def explain(x: Any, *inputs: Any, shapes: Any = None, measure: bool = True) -> Explanation:
    """What a thing is, how it is computed, and what it costs here and now.

    Args:
        x: an op or a function, a layer or its class, a model, a kernel, a Tensor (its graph), or the name of one:
            "conv2d" the op, "Conv2d" the layer, "minidl_kernels.conv2d" the kernel.
        inputs: what to run it on; by default the example of its page. A model needs some.
        shapes: of the numbers that are drawn for the example, in the order in which they stand there.
        measure: time it, beside what this machine can do at most (which takes a second the first time).

    Raises LookupError for an unknown name, with suggestions; TypeError for what cannot be explained; and what the
    thing itself raises for inputs that do not fit.

    >>> import minidl
    >>> e = explain("tanh", measure=False)
    >>> e["formula"], e["why"]
    ('y = tanh x;    dx = dy (1 - y^2)', "y = s / c with s' = c, c' = s and c^2 - s^2 = 1: dy/dx = ... = 1 - y^2.")
    >>> print(explain("matmul", shapes=[(64, 32), (32, 16)], measure=False)["cost"])
    forward 65.5 k FLOPs (an add, a multiply, an exp is one each), of which 32.8 k MACs (multiply-adds, two FLOPs each)
    backward 131 k FLOPs, of which 65.5 k MACs
    bytes: at least 10 KiB to read, 4 KiB to write
    arithmetic intensity: 4.57 FLOPs per byte
    >>> explain("conv2")
    Traceback (most recent call last):
        ...
    LookupError: explain: there is no 'conv2'; did you mean Conv2d, conv2d, ... or ...?
    """
    if isinstance(x, str):
        x = _named(x)
    if isinstance(x, Tensor):
        return _graph(x)
    if isinstance(x, OpType):
        return _op(x, inputs, shapes, measure)
    if isinstance(x, registry.Op):
        x = getattr(minidl_kernels, x.name)
    if callable(x) and getattr(x, "__module__", "") == "minidl_kernels" and x.__name__ in registry.ops():
        return _kernel(x, inputs, shapes, measure)
    if hasattr(x, "named_modules"):
        return _layer(x, inputs, shapes, measure)
    if callable(x):
        f = _in_table(x)
        if f is not None:
            return _op(f, inputs, shapes, measure)
    raise TypeError(
        "explain: an op, a layer, a model, a kernel, a Tensor or a name of one is expected, not "
        f"{x.__name__ if hasattr(x, '__name__') else type(x).__name__}"
    )


def _in_table(f: Any) -> Any:
    """The table's entry that a function or a method of Tensor is, or wraps."""
    for candidate in (f, getattr(f, "op", None), getattr(f, "__wrapped__", None)):
        if candidate is not None and any(v is candidate for v in pages.all_ops().values()):
            return candidate
    found = pages.all_ops().get(getattr(f, "__name__", ""))
    return found if getattr(f, "__module__", "").startswith("minidl") else None


def names() -> dict[str, Any]:
    """Everything that explain knows by name: ops and functions, layers, models, and kernels as minidl_kernels.NAME."""
    from minidl import models, nn

    found: dict[str, Any] = {f"minidl_kernels.{name}": getattr(minidl_kernels, name) for name in registry.ops()}
    for room in (models, nn):
        for name in dir(room):
            value = getattr(room, name)
            if isinstance(value, type) and hasattr(value, "named_modules"):
                found[name] = value
    return {**found, **pages.all_ops()}


def _named(name: str) -> Any:
    known = names()
    short = name.removeprefix("minidl.").removeprefix("nn.").removeprefix("functional.").removeprefix("Tensor.")
    for candidate in (name, short, f"minidl_kernels.{short}"):
        if candidate in known:
            return known[candidate]
    method = getattr(getattr(Tensor, short, None), "op", None)
    if method is not None:
        return method
    import minidl

    alias = getattr(minidl, short, None) if short.isidentifier() else None
    if alias is not None and any(alias is v for v in known.values()):
        return alias
    lower: dict[str, list[str]] = {}
    for k in known:
        lower.setdefault(k.lower(), []).append(k)
    close = difflib.get_close_matches(short.lower(), lower, 4)
    close += [k for k in lower if short and short.lower() in k and k not in close]
    close.sort(key=lambda k: -difflib.SequenceMatcher(None, short.lower(), k).ratio())
    near = [n for k in close for n in lower[k]][:4]
    raise LookupError(f"explain: there is no {name!r}" + (f"; did you mean {_either(near)}?" if near else ""))


def _either(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


# -- an op ------------------------------------------------------------------------------------------------------------


class _Run:
    """The thing on its inputs: what every kind of explanation looks at."""

    def __init__(self, f: Any, inputs: tuple, shapes: Any, model: Any = None, source: str = ""):
        self.f, self.model, self.given = f, model, inputs
        self.source = source or pages.page(f).example
        self.shapes = shapes if shapes is not None else inputs if _are_shapes(inputs) else None
        if self.shapes is not None:
            self.given = ()
        if not self.given and not self.source:
            raise TypeError(
                f"explain: {f.__name__} has no example on its page (a line 'Try: ...'): give inputs, such as "
                "explain(f, minidl.randn(2, 3))"
            )
        self.single = self.at(np.float32)
        self.layer = self.single.layer if model is None else model

    def at(self, dtype: Any) -> Any:
        """The computation and its leaves, in a dtype."""
        if not self.given:
            return pages.Example(self.source, dtype, not isinstance(self.f, OpType), self.shapes)
        f = self.f if self.model is None else self.model
        if self.model is not None and dtype == np.float64:
            f = copy.deepcopy(self.model).double()
        return _Given(f, self.given, dtype)

    @functools.cached_property
    def outputs(self) -> list[Tensor]:
        return list(looking.tensors(self.single.value))

    def parameters(self) -> list[Tensor]:
        return [] if self.layer is None else list(self.layer.parameters())


class _Given:
    """Inputs that the caller brought, in the place of an example."""

    def __init__(self, f: Any, inputs: tuple, dtype: Any):
        self.f = f
        self.inputs = [a if isinstance(a, Tensor) or not isinstance(a, np.ndarray) else wrap(a) for a in inputs]
        self.leaves = [
            wrap(a.array.astype(dtype)) for a in self.inputs if isinstance(a, Tensor) and a.is_floating_point()
        ]
        self.layer = f if hasattr(f, "named_modules") and not isinstance(f, type) else None
        self.value = self(*self.leaves)

    def __call__(self, *leaves: Any) -> Any:
        return self.by(self.f, *leaves)

    def by(self, f: Any, *leaves: Any) -> Any:
        """The value with f in the place of the layer."""
        rest = iter(leaves)
        args = [next(rest) if isinstance(a, Tensor) and a.is_floating_point() else a for a in self.inputs]
        with pages._seeded():
            return f(*args)


def _are_shapes(inputs: tuple) -> bool:
    return bool(inputs) and all(
        isinstance(s, (tuple, list)) and s and all(isinstance(n, (int, np.integer)) for n in s) for s in inputs
    )


def _is_op(f: Any) -> bool:
    return isinstance(f, OpType)


def _op(f: Any, inputs: tuple, shapes: Any, measure: bool) -> Explanation:
    run = _Run(f, inputs, shapes)
    page = pages.page(f)
    is_op = _is_op(f)
    where = pages.address(f.__name__, f)
    ways = [f"Tensor.{n}" for n, m in vars(Tensor).items() if getattr(m, "op", None) is f and not n.startswith("__")]
    operators = [n for n, m in vars(Tensor).items() if n.startswith("__") and getattr(m, "op", None) is f]
    what = f"{where}{_signature(f)}"
    if ways or operators:
        what += f"\nalso {', '.join(sorted({*ways, *operators} - {where}))}"
    what += f"\nits page: {_file(f)}" + (f"\n{page.rest}" if page.rest else "")
    formula = page.formula + "".join(f"\n{pages.page(c).formula}" for c in _behind(run) if not is_op)
    fields = [Field("what", what), Field("formula", formula), Field("shapes", _shapes(f, run))]
    if is_op:
        fields += [
            Field("forward", _method(f, "forward"), CODE),
            Field("backward", _backward(f), CODE),
            Field("why", page.why),
        ]
    else:
        fields += _of_function(f, run)
    fields += [
        Field("second derivative", _second(f, run)),
        _kernels(f, run),
        *_measured(run, measure),
        Field("gradcheck", _verdict(f, run)),
        Field("example", run.single.program(f) if not run.given else _call_text(where, run), CODE),
    ]
    return Explanation(f.__name__, "op" if is_op else "function", fields)


def _behind(run: _Run) -> list[Any]:
    """The ops that ran and are no entries of the table: each stands behind a function."""
    with looking.RanOps() as seen:
        run.single(*run.single.leaves)
    return [c for c in dict.fromkeys(type(ctx) for ctx, _, _ in seen.ran_ops) if TABLE.get(c.__name__) is not c]


def _of_function(f: Any, run: _Run) -> list[Field]:
    """Its source and the ops that it is made of; ops that stand behind it, and nowhere else, are told with it."""
    ran, behind = _ran(run), _behind(run)
    forward = [pages.source_of(f), *(f"# the op behind it\n{pages.source_of(c)}" for c in behind)]
    backward = _by_ops(ran, "it is made of ops, and each brings its own backward")
    why = [f"{c.__name__}: {pages.page(c).why}" for c in behind]
    rest = [n for n in ran if n not in {c.__name__ for c in behind}]
    why += [_by_ops(rest, "by the chain rule of its ops, see explain of each")] if rest or not behind else []
    return [
        Field("forward", "\n\n\n".join(forward), CODE),
        Field("backward", backward),
        Field("why", "\n".join(why)),
    ]


def _call_text(where: str, run: _Run) -> str:
    args = ", ".join(f"minidl.randn{tuple(a.shape)}" if isinstance(a, Tensor) else repr(a) for a in run.single.inputs)
    return f"import minidl\n\nprint({where}({args}))"


def _signature(f: Any) -> str:
    target = f.forward if _is_op(f) else f
    if isinstance(target, type):
        target = target.__init__  # type: ignore[misc]
    found = inspect.signature(target)
    drop = 1 if isinstance(f, type) else 0
    parameters = [p.replace(annotation=p.empty) for p in list(found.parameters.values())[drop:]]
    return str(found.replace(parameters=parameters, return_annotation=found.empty))


def _file(f: Any) -> str:
    module = getattr(f, "__module__", "")
    return module.replace(".", "/") + ".py"


def _method(cls: Any, name: str) -> str:
    """The source of a method, with the class that defines it if that is a base."""
    for base in cls.__mro__:
        if name in base.__dict__:
            text = pages.source_of(base.__dict__[name])
            return text if base is cls else f"# of {base.__name__}, which {cls.__name__} is one of\n{text}"
    return ""


def _backward(cls: Any) -> str:
    if not cls.differentiable:
        return f"# none: {cls.__name__} has no gradient, its result is not recorded"
    text = _method(cls, "backward")
    return text if cls.backward is not Op.backward else f"# none\n{text}"


def _shapes(f: Any, run: _Run) -> str:
    """The rule, and what it gives here."""
    ins = ", ".join(str(tuple(t.shape)) for t in _inputs(run)) or "()"
    outs = ", ".join(f"{tuple(y.shape)} {y.array.dtype}" for y in run.outputs) or repr(run.single.value)
    lines = [f"here {ins} -> {outs}"]
    rule = getattr(f, "shape", None) if isinstance(f, OpType) else None
    if rule is not None:
        lines += ["", *pages.source_of(rule).splitlines()]
    else:
        lines += [f"the rule is that of {'forward' if isinstance(f, OpType) else 'the ops that it is made of'}"]
    return "\n".join(lines)


def _inputs(run: _Run) -> list[Tensor]:
    return list(looking.tensors(run.single.inputs)) if run.given else run.single.drawn


def _ran(run: _Run) -> list[str]:
    with looking.RanOps() as seen:
        run.single(*run.single.leaves)
    return [ctx.name() for ctx, _, _ in seen.ran_ops]


def _by_ops(ran: list[str], lead: str) -> str:
    if not ran:
        return "on these inputs no op ran"
    counts = {n: ran.count(n) for n in dict.fromkeys(ran)}
    return f"{lead}: " + ", ".join(f"{n}{f' ({c} times)' if c > 1 else ''}" for n, c in counts.items())


def _second(f: Any, run: _Run) -> str:
    """How the gradient is differentiated again, and whether that is right."""
    if _is_op(f) and not f.differentiable:
        return "none: there is no first one"
    leaves, function = _checked(f, run)
    if not leaves or not any(y.requires_grad for y in function(*leaves)):
        return "none: no gradient flows through it on these inputs"
    if _is_op(f) and f.backward is Op.backward:
        return "none: it defines no backward"
    lines = []
    if any(n.stands_in for n in looking.graph_nodes(list(function(*leaves)))):
        return "that of what stands in for the first one, on purpose: see gradcheck"
    if _is_op(f) and f.definition is not None:
        lines = [
            "under create_graph the fused backward makes way for that of its definition in plain ops:",
            *pages.source_of(f.definition).splitlines(),
        ]
    else:
        ys = [y for y in function(*leaves) if y.requires_grad]
        first = set(looking.graph_nodes(ys))
        seeds = [wrap(np.ones_like(y.array), True) for y in ys]
        try:
            found = [g for g in grad(ys, leaves, seeds, create_graph=True, allow_unused=True) if g is not None]
        except NotImplementedError as error:
            return str(error)
        again = [n.name() for n in looking.graph_nodes(found) if n not in first]
        again.reverse()
        lines = [
            _by_ops(again, "backward is written in ops, so it is differentiated by theirs; it recorded")
            if again
            else "backward hands dy on unchanged: it is linear, and its second derivative 0"
        ]
    return "\n".join([*lines, _check(gradgradcheck, function, leaves, "the second derivative")])


def _checked(f: Any, run: _Run) -> tuple[list[Tensor], Callable[..., tuple]]:
    """The computation in float64 as a function of its inputs (and a layer's parameters) alone."""
    wide = run.at(np.float64)
    leaves = [wrap(t.array.copy(), True) for t in wide.leaves]
    if wide.layer is None:
        return leaves, lambda *xs: tuple(y for y in looking.tensors(wide(*xs)) if y.array.dtype == np.float64)
    layer = wide.layer
    parameters = [p for p in layer.parameters() if p.requires_grad]
    from minidl.func import functional_call

    named = {n: p for n, p in layer.named_parameters() if p.requires_grad}
    n = len(leaves)

    def function(*xs: Any) -> tuple:
        values = {**dict(zip(named, xs[n:])), **{name: b.clone() for name, b in layer.named_buffers()}}
        run_it = lambda *a, **k: functional_call(layer, values, a, k)
        return tuple(y for y in looking.tensors(wide.by(run_it, *xs[:n])) if y.array.dtype == np.float64)

    return [*leaves, *(wrap(p.array.astype(np.float64), True) for p in parameters)], function


def _verdict(f: Any, run: _Run) -> str:
    if _is_op(f) and not f.differentiable:
        return "not differentiable, so there is nothing to check"
    leaves, function = _checked(f, run)
    if not leaves or not any(y.requires_grad for y in function(*leaves)):
        return "no gradient flows through it on these inputs, so there is nothing to check"
    on_purpose = [n.stands_in for n in looking.graph_nodes(list(function(*leaves))) if n.stands_in]
    if on_purpose:
        return f"backward is not the derivative, on purpose: {on_purpose[0]}"
    return _check(gradcheck, function, leaves, "backward")


MANY = 40  # inputs, or outputs, beyond which gradients are checked along random directions


def _check(how: Callable, function: Callable, leaves: list, what: str) -> str:
    """Finite differences: of each input if they are few, else along random directions, one random sum of outputs."""
    n = sum(t.numel() for t in leaves)
    among = f"for each of {n} inputs"
    if n > MANY or sum(y.numel() for y in function(*leaves)) > MANY:
        function, leaves = _along(function, leaves)
        among = f"along {leaves[0].numel()} random directions of {n:,} inputs"
    try:
        how(function, leaves)
    except GradcheckError as error:
        return f"WRONG: {error}"
    except (NotImplementedError, RuntimeError) as error:
        return f"cannot be checked: {error}"
    return f"right: {what} agrees with finite differences in float64, checked just now {among}"


def _along(function: Callable, leaves: list) -> tuple[Callable, list]:
    """s -> <f(x + sum s_k u_k), v>, for random directions u_k and weights v: few numbers stand for many."""
    rng = np.random.default_rng(0)
    ways = [rng.standard_normal((6, t.numel())) / max(t.numel(), 1) ** 0.5 for t in leaves]
    weights = [rng.standard_normal(tuple(y.shape)) for y in function(*leaves)]

    def short(s: Tensor) -> Tensor:
        moved = [t.detach() + (s @ wrap(u)).reshape(t.shape) for t, u in zip(leaves, ways)]
        parts = [(y * wrap(v)).sum() for y, v in zip(function(*moved), weights) if y.requires_grad]
        return functools.reduce(lambda a, b: a + b, parts)

    return short, [wrap(np.zeros(6), True)]


# -- kernels of an op -------------------------------------------------------------------------------------------------


def _kernels(f: Any, run: _Run) -> Field:
    with looking.kernels_called() as calls:
        leaves = [wrap(t.array, True) for t in run.single.leaves]
        ys = [y for y in looking.tensors(run.single(*leaves)) if y.requires_grad]
        wants = [*leaves, *(p for p in run.parameters() if p.requires_grad)]
        if ys and wants:
            with contextlib.suppress(NotImplementedError):
                grad(ys, wants, [wrap(np.ones_like(y.array)) for y in ys], allow_unused=True)
    ran = {c.name: c.variant for c in calls}
    able = set(ran)
    for node in {type(n) for n in looking.graph_nodes(ys)} | ({f} if isinstance(f, OpType) else set()):
        able |= kernel_names(node)
    if not able:
        return Field("kernels", "none of its own: NumPy computes it, or only the view of memory changes")
    lines = []
    for name in sorted(able):
        op = registry.ops()[name]
        here = f"here runs {ran[name]}" if name in ran else "not called here (small arrays are left to NumPy)"
        lines.append(f"{name}: {here}")
        for v in op.variants:
            mark = "*" if ran.get(name) == v.name else " "
            note = f"{v.note or v.needs}".strip()
            lines.append(f"  {mark} {v.name:<12} {v.device:<5} {v.load:<46} {note}".rstrip())
    lines.append(f"their sources: explain('minidl_kernels.{sorted(able)[0]}')")
    return Field("kernels", "\n".join(lines))


@functools.cache
def _kernel_uses(module: str) -> dict[str, tuple[frozenset[str], frozenset[str]]]:
    """For each class and function of a page: the kernels it names, and what else of the page."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            inside = list(ast.walk(node))
            used = {
                n.attr
                for n in inside
                if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "kernels"
            }
            others = {n.id for n in inside if isinstance(n, ast.Name)}
            found[node.name] = (frozenset(used), frozenset(others))
    return found


def kernel_names(cls: Any) -> set[str]:
    """The operations of minidl_kernels that an op's page can call, read from its source."""
    found: set[str] = set()
    for base in cls.__mro__:
        if not base.__module__.startswith("minidl.ops"):
            continue
        uses = _kernel_uses(base.__module__)
        seen, todo = set(), [base.__name__]
        while todo:
            name = todo.pop()
            if name in uses and name not in seen:
                seen.add(name)
                used, others = uses[name]
                found |= used
                todo += others
    return {n for n in found if n in registry.ops()}


# -- what it costs ----------------------------------------------------------------------------------------------------


def _measured(run: _Run, measure: bool) -> Iterator[Field]:
    leaves = run.single.leaves
    cost = looking.cost(run.single, leaves, run.parameters())
    yield Field("cost", _cost_text(cost))
    if not measure:
        yield Field("roofline", "not measured (measure=False)")
        return
    seconds = looking.timed(lambda: run.single(*leaves))
    yield _roofline(cost, seconds)


def _cost_text(cost: looking.Cost) -> str:
    n = showing.number
    lines = [
        f"forward {n(cost.forward.flops)} FLOPs (an add, a multiply, an exp is one each), of which "
        f"{n(cost.forward.macs)} MACs (multiply-adds, two FLOPs each)"
    ]
    if cost.backward is not None:
        lines.append(f"backward {n(cost.backward.flops)} FLOPs, of which {n(cost.backward.macs)} MACs")
    lines += [
        f"bytes: at least {showing.size(cost.read)} to read, {showing.size(cost.written)} to write",
        f"arithmetic intensity: {cost.intensity:.3g} FLOPs per byte",
    ]
    return "\n".join(lines)


def _roofline(cost: Any, seconds: float, kind: str = "f32") -> Field:
    from minidl.bench.ceilings import Work
    from minidl.inside.roofs import roof

    c = looking.ceilings()
    arithmetic, memory = c.floors(Work(cost.forward.flops, cost.read, cost.written, kind))
    floor = max(arithmetic, memory)
    rate, bound = cost.forward.flops / seconds, "arithmetic" if arithmetic >= memory else "memory"
    text = [
        f"takes {_time(seconds)} here: {showing.number(rate)}FLOP/s, {showing.number(cost.bytes / seconds)}B/s",
        f"this machine, measured: {showing.number(c.rates[kind])}FLOP/s at most with {c.threads} thread"
        f"{'s' if c.threads > 1 else ''}; for these bytes and operations it needs {_time(floor)}, bound by {bound}",
        f"that is {floor / seconds:.1%} of the roofline"
        + ("; so few bytes and operations take less time than the call itself" if floor < 2e-6 else ""),
    ]
    return Field("roofline", "\n".join(text), TEXT, roof(c, cost.intensity, rate, kind))


def _time(seconds: float) -> str:
    for unit, step in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= step:
            return f"{seconds / step:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


# -- layers and models ------------------------------------------------------------------------------------------------


def _layer(x: Any, inputs: tuple, shapes: Any, measure: bool) -> Explanation:
    cls = x if isinstance(x, type) else type(x)
    page = pages.page(cls)
    own = cls.__module__.startswith("minidl.")
    where = pages.address(cls.__name__, cls) if own else f"{cls.__module__}.{cls.__name__}"
    what = f"{where}{_signature(cls)}\nits page: {_file(cls)}\n\n{page.formula}" + (
        f"\n\n{page.rest}" if page.rest else ""
    )
    forward = Field("forward", _method(cls, "forward"), CODE)
    if not _runs(cls):
        example = pages.Example(page.example).program(cls) if page.example else ""
        kind = "holds other modules or parameters; it has no forward of its own"
        return Explanation(
            cls.__name__, "container", [Field("what", what), Field("forward", kind), Field("example", example, CODE)]
        )
    model = None if isinstance(x, type) else copy.deepcopy(x)  # running it moves statistics
    if model is not None and not inputs:
        raise TypeError(
            f"explain: say on what to run this {cls.__name__}: explain(model, x), x a Tensor, or a shape such as "
            "(1, 3, 32, 32)"
        )
    if model is not None and _are_shapes(inputs):
        floats = [p for p in model.parameters() if p.is_floating_point()]
        inputs = tuple(wrap(_normal(s).astype(floats[0].array.dtype if floats else np.float32)) for s in inputs)
    run = _Run(cls, inputs, shapes, model)
    layer = run.layer
    ran = _ran(run)
    children = [m for _, m in layer.named_modules() if m is not layer]
    parameters = "\n".join(
        f"{name:<24} {tuple(p.shape)!s:<18} {p.numel():>10,}" for name, p in list(layer.named_parameters())[:60]
    )
    total = sum(p.numel() for p in layer.parameters())
    fields = [
        Field("what", what),
        Field("parameters", f"{parameters}\n{total:,} in all" if total else "none"),
        Field("shapes", _shapes(cls, run)),
        forward,
        Field("ops", _by_ops(ran, "in a forward run")),
        Field("why", _by_ops(ran, "its gradient is that of its ops by the chain rule; see explain of each")),
        Field("second derivative", _second(cls, run)),
        _kernels(cls, run),
        *_measured(run, measure),
        Field("gradcheck", _verdict(cls, run)),
        Field("example", run.single.program(cls) if not run.given else _call_text("model", run), CODE),
    ]
    if children:
        fields.insert(5, Field("modules", _modules(layer, run)))
    return Explanation(cls.__name__, "layer" if not children else "model", fields)


def _normal(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape)


def _runs(cls: Any) -> bool:
    from minidl.nn import Module

    return cls.forward is not Module.forward


def _modules(layer: Any, run: _Run) -> str:
    """The ops by module, as they ran."""
    with looking.RanOps() as seen:
        run.single(*run.single.leaves)
    by_scope: dict[str, list[str]] = {}
    outs: dict[str, str] = {}
    for ctx, _, out in seen.ran_ops:
        scope = ctx.scope or "outside"
        by_scope.setdefault(scope, []).append(ctx.name())
        first = next(looking.tensors(out), None)
        outs[scope] = str(tuple(first.shape)) if first is not None else ""
    rows = []
    for scope, ran in by_scope.items():
        text = _by_ops(ran, "")[2:]
        rows.append((scope, text if len(text) < 60 else text[:57] + "...", outs[scope]))
    return showing.table(("module", "ops", "last output"), rows, left=2)


# -- a graph ----------------------------------------------------------------------------------------------------------


def _graph(x: Tensor) -> Explanation:
    if x.node is None:
        raise TypeError(
            f"explain: this tensor {tuple(x.shape)} has no graph: it is a leaf, was detached, or was made under no_grad"
        )
    nodes = looking.graph_nodes([x])
    scopes: dict[str, int] = {}
    ops: dict[str, int] = {}
    leaves: dict[int, Tensor] = {}
    for node in nodes:
        scopes[node.scope or "(outside of modules)"] = scopes.get(node.scope or "(outside of modules)", 0) + 1
        ops[node.name()] = ops.get(node.name(), 0) + 1
        leaves.update({id(p): p for p in node.parents if isinstance(p, Tensor)})
    held = sum(s[0].nbytes for n in nodes for s in (n._saved or ()) if hasattr(s[0], "nbytes"))
    freed = sum(n.released for n in nodes)
    what = (
        f"a Tensor {tuple(x.shape)} {x.dtype}, made by {x.node.name()} at {showing.place(x.node)}\n"
        f"{len(nodes):,} nodes lead to it, from {len(leaves):,} leaves with "
        f"{sum(t.numel() for t in leaves.values()):,} elements; backward holds {showing.size(held)} of arrays for it"
        + (f" ({freed:,} nodes have been freed by a backward)" if freed else "")
    )
    top = sorted(ops.items(), key=lambda kv: -kv[1])[:20]
    deep = sorted(scopes.items(), key=lambda kv: -kv[1])[:40]
    return Explanation(
        f"Tensor {tuple(x.shape)}",
        "graph",
        [
            Field("what", what),
            Field("ops", showing.table(("op", "nodes"), [(n, f"{c:,}") for n, c in top])),
            Field("modules", showing.table(("module", "nodes"), [(n, f"{c:,}") for n, c in deep])),
            Field("next", "minidl.trace(x) walks back through it step by step; minidl.graph(x) draws it"),
        ],
    )


# -- a kernel ---------------------------------------------------------------------------------------------------------


def _kernel(f: Any, inputs: tuple, shapes: Any, measure: bool) -> Explanation:
    op = registry.ops()[f.__name__]
    doc = inspect.cleandoc(f.__doc__ or "")
    text, _, tried = doc.partition(">>> ")
    args = _kernel_args(f, doc, inputs, shapes)
    chosen = registry.choose(op, args)
    family = sys.modules[op.variants[0].load.partition(":")[0].rpartition(".")[0]]
    rows = [("*" if v is chosen else "", v.name, v.device, v.needs or "anything", v.note or "") for v in op.variants]
    sources = []
    for v in op.variants:
        if v.device == "cpu":
            kernel = inspect.unwrap(getattr(v.kernel(), "py_func", v.kernel()))
            sources.append(f"# {v.name}: {v.load}\n{pages.with_helpers(kernel)}")
        else:
            sources.append(f"# {v.name}: {v.load} (runs on {v.device})")
    cost = _kernel_cost(op, args)
    fields = [
        Field("what", f"minidl_kernels.{f.__name__}{_signature(f)}\n{text.strip()}"),
        Field("contract", inspect.cleandoc(family.__doc__ or "")),
        Field("variants", showing.table(("here", "variant", "device", "needs", "idea"), rows, left=5)),
        Field("runs here", f"{chosen.name} for {_described(args)}: {chosen.load}"),
        Field("reference", pages.source_of(next(v for v in op.variants if v.name == "reference").kernel()), CODE),
        Field("sources", "\n\n\n".join(sources), CODE),
        Field("cost", _cost_text(cost)),
        _roofline(cost, looking.timed(lambda: f(*_fresh(args)))) if measure
        else Field("roofline", "not measured (measure=False)"),
        Field("checked", _against_reference(op, chosen, args)),
        Field("example", "\n".join(_program(">>> " + tried)), CODE),
    ]  # fmt: skip
    return Explanation(f"minidl_kernels.{f.__name__}", "kernel", fields)


def _program(examples: str) -> list[str]:
    """The statements of a docstring's examples, results as comments."""
    import doctest

    lines = ["from minidl_kernels import *", ""] if examples.strip() != ">>>" else []
    for e in doctest.DocTestParser().get_examples(examples):
        lines += e.source.rstrip().splitlines()
        lines += [f"# {w}" for w in e.want.rstrip().splitlines()]
    return lines


def _kernel_args(f: Any, doc: str, inputs: tuple, shapes: Any) -> tuple:
    """The arguments of the call in its docstring, or the caller's, defaults filled in."""
    if shapes is not None or _are_shapes(inputs):
        inputs = tuple(_normal(s).astype(np.float32) for s in (shapes if shapes is not None else inputs))
    if inputs:
        bound = inspect.signature(f).bind(*[a.array if isinstance(a, Tensor) else a for a in inputs])
        bound.apply_defaults()
        return tuple(registry._normal(a) for a in bound.arguments.values())
    import doctest
    import io
    from contextlib import redirect_stdout

    space = dict(vars(minidl_kernels))
    with looking.kernels_called() as calls, redirect_stdout(io.StringIO()):
        for e in doctest.DocTestParser().get_examples(doc):
            exec(compile(e.source, f"<{f.__name__}>", "single"), space)  # the project's own docstrings
    return tuple(registry._normal(a) for a in next(c.args for c in calls if c.name == f.__name__))


def _fresh(args: Any) -> Any:
    """Copies, for kernels that write into their arguments."""
    if isinstance(args, np.ndarray):
        return args.copy()
    return type(args)(_fresh(a) for a in args) if type(args) in (list, tuple) else args


def _described(args: tuple) -> str:
    return registry._describe([a for a in args if a is not None][:6])


def _arrays(a: Any) -> Iterator[np.ndarray]:
    if isinstance(a, np.ndarray):
        yield a
    elif isinstance(a, (list, tuple)):
        for v in a:
            yield from _arrays(v)


def _kernel_cost(op: Any, args: tuple) -> looking.Cost:
    from minidl.inside.counting import _counting, counted

    reference = next(v for v in op.variants if v.name == "reference").kernel()

    def counting(a: Any) -> Any:
        return type(a)(map(counting, a)) if type(a) in (list, tuple) else _counting(a)

    with counted() as count:
        out = reference(*[counting(a) for a in _fresh(args)])
    written = sum(a.nbytes for a in _arrays(out)) if out is not None else sum(a.nbytes for a in _arrays(args))
    return looking.Cost(count, None, sum(a.nbytes for a in _arrays(args)), written)


def _against_reference(op: Any, chosen: Any, args: tuple) -> str:
    """The chosen variant beside the reference, on these arguments."""
    if chosen.name == "reference":
        return "the reference itself runs: it is the definition of right"
    a, b = _fresh(args), _fresh(args)
    got = chosen.kernel()(*a)
    want = next(v for v in op.variants if v.name == "reference").kernel()(*b)
    if want is None:  # it writes into its arguments
        got, want = a, b
    worst = 0.0
    for g, w in zip(_arrays(got), _arrays(want), strict=True):
        if g.shape != w.shape or g.dtype != w.dtype:
            return f"WRONG: {g.shape} {g.dtype} where the reference gives {w.shape} {w.dtype}"
        if w.size:
            gap = np.abs(g.astype(np.float64) - w.astype(np.float64))
            worst = max(worst, float(gap.max()) / max(float(np.abs(w.astype(np.float64)).max()), 1e-30))
    return f"{chosen.name} is within {worst:.1e} of the reference, relative to the largest element, compared just now"
