"""A network as the list of ops it runs: recorded once from any Module, it runs without the Module's code.

`record` lets a model run on an example and notes every op (`minidl.autograd.Watcher`). What comes out is a Module
again, with the model's parameters under their names, that repeats the list. Folding, static quantization and files that
load without the original code are made of it. The list holds no Python branches: it is what this example went through.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl import nn
from minidl.autograd import Op, Watcher, no_grad
from minidl.nn.parameter import Buffer, Parameter
from minidl.tensors import Tensor, wrap

__all__ = ["Const", "Recorded", "State", "Step", "Value", "record"]


@dataclass(frozen=True)
class Value:
    """The result number `index`; 0 is the input of the network, -1 the number of inputs in the batch."""

    index: int


@dataclass(frozen=True)
class State:
    """The parameter or buffer of this name."""

    name: str


@dataclass(frozen=True)
class Const:
    """A constant of the recording: the buffer ``constants.<index>``."""

    index: int

    @property
    def name(self) -> str:
        """Where the network holds it."""
        return f"constants.c{self.index}"


@dataclass
class Step:
    """One op: its name, its arguments, where Value, State and Const stand for tensors, and its results' numbers."""

    op: str
    args: tuple
    kwargs: dict = field(default_factory=dict)
    outs: tuple[int, ...] = ()
    scope: str = ""

    def refs(self) -> Iterator[Any]:
        """Every Value, State and Const among the arguments."""
        yield from references((self.args, tuple(self.kwargs.values())))


def references(tree: Any) -> Iterator[Any]:
    """Every Value, State and Const in nested tuples and lists."""
    if isinstance(tree, (Value, State, Const)):
        yield tree
    elif isinstance(tree, (tuple, list)):
        for item in tree:
            yield from references(item)


def ops() -> dict[str, Any]:
    """The engine's ops by name, which a recording may hold."""
    found: dict[str, Any] = {}

    def below(kind: Any) -> None:
        for cls in kind.__subclasses__():
            if cls.__module__.startswith("minidl.ops."):
                found[cls.__name__] = cls
            below(cls)

    below(Op)
    return found


class Recorded(nn.Module):
    """A network that repeats a list of ops.    x (N, ...) -> what the recorded model gives

    Attributes:
        steps: the list.
        output: Value of the result.
        sample: shape of one input, without the batch.
    """

    def __init__(self, steps: Sequence[Step], output: Value, state: dict[str, Tensor], sample: tuple[int, ...]):
        super().__init__()
        self.steps, self.output, self.sample = list(steps), output, tuple(sample)
        for name, t in state.items():
            hang(self, name, t)
        self._prepare()

    def _prepare(self) -> None:
        """Which results are last read by which step: they are dropped there."""
        known, self._ops, last = ops(), [], {}
        for i, step in enumerate(self.steps):
            self._ops.append(known[step.op])
            for ref in step.refs():
                if isinstance(ref, Value):
                    last[ref.index] = i
        self._drop: list[list[int]] = [[] for _ in self.steps]
        for index, i in last.items():
            if index != self.output.index:
                self._drop[i].append(index)

    def forward(self, x: Any) -> Any:
        """The recorded computation; any batch size."""
        if tuple(x.shape[1:]) != self.sample:
            raise ValueError(
                f"the network was recorded for inputs (N, {', '.join(map(str, self.sample))}), got {x.shape}"
            )
        return self.run(x)

    def run(self, x: Any, look: Any = None) -> Any:
        """As forward; `look(index, tensor)` is shown every result."""
        held: dict[int, Any] = {0: x, -1: x.shape[0]}
        state = dict(self.named_state())
        for cls, step, drop in zip(self._ops, self.steps, self._drop, strict=True):
            out = cls(*filled(step.args, held, state), **filled(step.kwargs, held, state))
            for index, y in zip(step.outs, out if isinstance(out, tuple) else (out,), strict=True):
                held[index] = y
                if look is not None:
                    look(index, y)
            for index in drop:
                del held[index]
        return held[self.output.index]

    def named_state(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers by name, a shared one under each of its names."""
        yield from self.named_parameters(remove_duplicate=False)
        yield from self.named_buffers(remove_duplicate=False)

    def live(self) -> set[int]:
        """The results that depend on the input; the others are made of parameters alone."""
        found = {0, -1}
        for step in self.steps:
            if any(isinstance(ref, Value) and ref.index in found for ref in step.refs()):
                found.update(step.outs)
        return found

    def extra_repr(self) -> str:
        return f"{len(self.steps)} ops, inputs (N, {', '.join(map(str, self.sample))})"


def filled(tree: Any, held: dict[int, Any], state: dict[str, Any]) -> Any:
    """Arguments with tensors in the place of what stands for them."""
    if isinstance(tree, Value):
        return held[tree.index]
    if isinstance(tree, (State, Const)):
        return state[tree.name]
    if isinstance(tree, (tuple, list)):
        return type(tree)(filled(t, held, state) for t in tree)
    if isinstance(tree, dict):
        return {k: filled(t, held, state) for k, t in tree.items()}
    return tree


def hang(root: Any, name: str, t: Tensor) -> None:
    """Register a parameter or buffer under a dotted name; the modules on the way are made."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]
    if isinstance(t, Parameter):
        root.register_parameter(last, t)
    else:
        root.register_buffer(last, t)


class _Recorder(Watcher):
    """Notes what runs."""

    def __init__(self, x: Tensor, state: dict[str, Tensor]):
        self.steps: list[Step] = []
        self.constants: list[Tensor] = []
        self.alive: list[Any] = [x]  # ids are unique among living objects only
        self.versions: dict[int, int] = {}
        self.found: dict[int, Any] = {}
        self.count = 0
        for name, t in state.items():
            self.found.setdefault(id(t), State(name))
            self.found.setdefault(id(t.array), State(name))
        self.keep(x, Value(0))

    def keep(self, t: Any, ref: Any) -> None:
        self.alive.append(t)
        self.found[id(t)] = ref
        self.versions[id(t)] = t.version.count

    def ran(self, ctx: Any, inputs: Sequence[Any], args: tuple, kwargs: dict, out: Any) -> None:
        cls = type(ctx)
        given = (list(inputs), *args[1:]) if cls.variadic else tuple(inputs)
        outs = out if isinstance(out, tuple) else (out,)
        numbers = tuple(range(self.count + 1, self.count + 1 + len(outs)))
        step = Step(cls.__name__, self.named(given), self.named(kwargs), numbers, _scope())
        size = tuple(outs[0].shape)
        if cls.__name__ == "broadcast_to" and size == tuple(inputs[0].shape):
            self.keep(outs[0], step.args[0])
            return
        if cls.__name__ == "reshape":  # -1 in the call, as it came out
            step.args = (step.args[0], size)
        self.steps.append(step)
        self.count += len(outs)
        for number, t in zip(numbers, outs, strict=True):
            self.keep(t, Value(number))

    def named(self, tree: Any) -> Any:
        """Arguments with what stands for tensors in their place."""
        if isinstance(tree, (Tensor, np.ndarray)):
            ref = self.found.get(id(tree))
            if ref is None:
                self.alive.append(tree)
                ref = self.found[id(tree)] = Const(len(self.constants))
                self.constants.append(Buffer((tree.array if isinstance(tree, Tensor) else tree).copy()))
            elif isinstance(ref, Value) and isinstance(tree, Tensor) and tree.version.count != self.versions[id(tree)]:
                raise ValueError(
                    "record: a tensor was changed in place, which a list of ops cannot say; pass inplace=False"
                )
            return ref
        if isinstance(tree, (tuple, list)):
            return type(tree)(self.named(t) for t in tree)
        if isinstance(tree, dict):
            return {k: self.named(t) for k, t in tree.items()}
        return tree


def _scope() -> str:
    from minidl.autograd import state

    return state.scope


class _Run:
    """One run of a model on a batch, and what it noted."""

    def __init__(self, model: Any, x: Tensor, state: dict[str, Tensor]):
        recorder = _Recorder(x, state)
        with recorder:
            self.y = model(x)
        ref = recorder.found.get(id(self.y)) if isinstance(self.y, Tensor) else None
        if not isinstance(ref, Value):
            raise ValueError(f"record: the model must give one Tensor made by its ops, got {type(self.y).__name__}")
        self.output, self.steps, self.constants, self.batch = ref, recorder.steps, recorder.constants, len(x)


_DIFFERS = (
    "record: on a batch of another size the recording gives something else than the model; it branches on its input, "
    "or computes outside the engine's ops"
)


def _united(a: _Run, b: _Run, state: dict[str, Tensor], sample: tuple[int, ...]) -> Recorded:
    """The network of two runs: what differs between them is the batch's size. ValueError where it is something else."""
    constants = list(a.constants)
    made: dict[int, Value] = {}  # of constants that have a row for each of the batch: their broadcast

    def whole(x: Any, y: Any) -> Any:
        """One argument of both runs."""
        if isinstance(x, Const) and isinstance(y, Const):
            return constant(x, a.constants[x.index].array, b.constants[y.index].array)
        if isinstance(x, (tuple, list)) and isinstance(y, (tuple, list)) and len(x) == len(y):
            return type(x)(whole(v, w) for v, w in zip(x, y, strict=True))
        if isinstance(x, dict) and isinstance(y, dict) and x.keys() == y.keys():
            return {k: whole(v, y[k]) for k, v in x.items()}
        if type(x) is type(y) and (x is y or x == y or (x != x and y != y)):
            return x
        if (x, y) == (a.batch, b.batch):
            return Value(-1)
        raise ValueError(_DIFFERS + f": {x!r} for {a.batch} inputs, {y!r} for {b.batch}")

    def constant(ref: Const, x: Any, y: Any) -> Any:
        if x.dtype == y.dtype and x.shape == y.shape and np.array_equal(x, y, equal_nan=x.dtype.kind == "f"):
            return ref
        axes = [i for i, (n, m) in enumerate(zip(x.shape, y.shape, strict=False)) if (n, m) == (a.batch, b.batch)]
        row = x.take([0], axes[0]) if axes else x
        if x.ndim != y.ndim or len(axes) != 1 or not ((x == row).all() and (y == row).all()):
            raise ValueError(_DIFFERS + ", where a constant depends on the batch")
        if ref.index not in made:
            constants[ref.index] = Buffer(row.copy())
            size = tuple(Value(-1) if i == axes[0] else n for i, n in enumerate(x.shape))
            made[ref.index] = Value(top + len(made))
            steps.append(Step("broadcast_to", (ref, size), {}, (made[ref.index].index,), ""))
        return made[ref.index]

    def shape(x: tuple, y: tuple) -> tuple:
        """The sizes of a reshape: one may follow from the others."""
        differ = [i for i, (n, m) in enumerate(zip(x, y, strict=True)) if n != m]
        free = next((i for i in differ if (x[i], y[i]) != (a.batch, b.batch)), differ[0] if differ else None)
        return tuple(-1 if i == free else whole(n, m) for i, (n, m) in enumerate(zip(x, y, strict=True)))

    if [(s.op, s.outs) for s in a.steps] != [(s.op, s.outs) for s in b.steps] or a.output != b.output:
        raise ValueError(_DIFFERS)
    steps: list[Step] = []
    top = 1 + max((i for s in a.steps for i in s.outs), default=0)
    for s, t in zip(a.steps, b.steps, strict=True):
        if s.op == "reshape" and len(s.args[1]) == len(t.args[1]):
            args = whole(s.args[:1], t.args[:1]) + (shape(s.args[1], t.args[1]),)
        else:
            args = whole(s.args, t.args)
        steps.append(Step(s.op, args, whole(s.kwargs, t.kwargs), s.outs, s.scope))
    steps = _needed(steps, a.output)
    read = {r for step in steps for r in step.refs()}
    used = {name: t for name, t in state.items() if State(name) in read}
    used |= {Const(i).name: t for i, t in enumerate(constants) if Const(i) in read}
    return Recorded(steps, a.output, used, sample).eval()


def _needed(steps: list[Step], output: Value) -> list[Step]:
    """The steps that the result depends on: the last states of a recurrent layer, say, may be read by nobody."""
    wanted, kept = {output.index}, []
    for step in reversed(steps):
        if not wanted.isdisjoint(step.outs):
            kept.append(step)
            wanted.update(r.index for r in step.refs() if isinstance(r, Value))
    return kept[::-1]


def record(model: Any, example: Any) -> Recorded:
    """The ops that `model` runs in evaluation on `example` (N, ...), as a network of their own.

    Parameters and buffers are the model's own objects, under their names; the ones that no op read are left out. Two
    runs, on batches of two sizes, tell which numbers among the arguments are the batch's; the recording is then
    compared with the model. Raises ValueError where they differ (the model branches, or computes outside the engine),
    for a model that changes tensors in place, and for a result that is no Tensor.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    >>> net = record(model, np.ones((2, 3), np.float32))
    >>> [step.op for step in net.steps], net.get_parameter("0.weight") is model[0].weight
    (['linear', 'relu', 'reshape', 'linear'], True)
    """
    x = example if isinstance(example, Tensor) else wrap(np.asarray(example))
    if x.ndim < 1 or len(x) == 0:
        raise ValueError(f"record: the example needs a batch of inputs, got shape {tuple(x.shape)}")
    state = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with no_grad():
            rows = x.array if len(x) > 1 else np.concatenate([x.array] * 2)  # one row broadcasts without a trace
            more = wrap(np.concatenate([rows, rows[:1]]))
            first, second = _Run(model, wrap(rows), state), _Run(model, more, state)
            net = _united(first, second, state, tuple(x.shape[1:]))
            for part, y in ((more, second.y), (wrap(rows[:1]), None)):
                expected = (model(part) if y is None else y).array
                try:
                    same = net(part).array
                    fits = same.shape == expected.shape and np.allclose(same, expected, 1e-4, 1e-5, equal_nan=True)
                except RuntimeError:  # sizes of the first batch that the second does not have
                    fits = False
                if not fits:
                    raise ValueError(_DIFFERS)
    finally:
        for module, mode in modes:
            module.training = mode
    return net
