"""The forward pass that is watched, and what it shows."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

from minidl.autograd import Watcher, enable_grad, state
from minidl.compress.anatomy import moves, products
from minidl.compress.anatomy.shadows import Shadow, Weight
from minidl.compress.anatomy.units import Units
from minidl.devices import move as to_device
from minidl.nn.attention import MultiheadAttention
from minidl.nn.recurrent import RNNBase
from minidl.ops.common import Binary, Elementwise
from minidl.ops.reduce import Reduction
from minidl.storage import Packed
from minidl.tensors import Tensor, wrap

RULES = {
    "reshape": moves.reshape,
    "pad_constant": moves.pad,
    "cat": moves.cat,
    "max_pool2d": moves.over_places,
    "avg_pool2d": moves.over_places,
    "_RegionMeans": moves.over_places,
    "resample": moves.over_places,
    "softmax": moves.along_one,
    "log_softmax": moves.along_one,
    "linear": products.linear,
    "matmul": products.matmul,
    "conv2d": products.conv2d,
    "conv2d_dx": products.conv2d_dx,
    "lookup": products.lookup,
    "attention": products.attention,
    "rnn_scan": products.scan,
    "lstm_scan": products.scan,
    "gru_scan": products.scan,
    **dict.fromkeys(moves.MOVING, moves.move),
    **dict.fromkeys(moves.SAME, moves.elementwise),
    **dict.fromkeys(moves.COMBINING, moves.combine),
    **dict.fromkeys(moves.NORMALISING, moves.normalise),
}


class Structure:
    """The units of a model. `print(structure)` lists, group by group, what can be cut, and what cannot and why.

    Attributes:
        units: parameter or buffer name -> for each axis the unit of each index (int array), or None.
        read: (name, axis) of weights that sum over the units along that axis, where cutting costs nothing.
        fixed: unit -> why it cannot be cut.
        free: units that can go without changing the output: what reads them reads zeros.
        groups: weight -> the number of groups of its convolution.
    """

    def __init__(self, units: dict[str, list[Any]], read: set, fixed: dict[int, str], free: set[int], groups: dict):
        self.units, self.read, self.fixed, self.free, self.groups = units, read, fixed, free, groups

    def slots(self) -> dict[int, list[tuple[str, int, np.ndarray]]]:
        """unit -> where it lies: (name, axis, indices)."""
        found: dict[int, list[tuple[str, int, np.ndarray]]] = {}
        for name, axes in self.units.items():
            for axis, units in enumerate(axes):
                if units is None:
                    continue
                order = np.argsort(units, kind="stable")
                values, first = np.unique(units[order], return_index=True)
                for unit, places in zip(values.tolist(), np.split(order, first[1:])):
                    found.setdefault(unit, []).append((name, axis, np.sort(places)))
        return found

    def layers(self) -> Iterator[tuple[tuple[tuple[str, int], ...], list[int]]]:
        """Units that lie in the same places: ((name, axis) of each place, the units)."""
        found: dict[tuple, list[int]] = {}
        for unit, slots in self.slots().items():
            found.setdefault(tuple((name, axis) for name, axis, _ in slots), []).append(unit)
        yield from found.items()

    def __str__(self) -> str:
        lines = []
        for places, units in self.layers():
            made = [name for name, axis in places if (name, axis) not in self.read]
            read = [name for name, axis in places if (name, axis) in self.read]
            stay = [u for u in units if u in self.fixed]
            free = sum(u in self.free for u in units)
            line = f"{len(units)} units: made by {', '.join(made) or '-'}; read by {', '.join(read) or '-'}"
            if stay:
                line += f"; {len(stay)} stay: {self.fixed[stay[0]]}"
            lines.append(line + (f"; {free} can go unnoticed" if free else ""))
        return "\n".join(lines)


def structure(model: Any, *inputs: Any) -> Structure:
    """Watch a copy of the model run on example inputs, in evaluation mode, and tell which units it has.

    Raises TypeError for packed parameters, and whatever the model raises.

    >>> import minidl
    >>> from minidl import nn
    >>> print(structure(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), minidl.zeros(1, 4)))
    3 units: made by 0.weight, 0.bias; read by 2.weight
    4 units: made by -; read by 0.weight; 4 stay: it reads what cannot be cut, such as the model's input in 0
    2 units: made by 2.weight, 2.bias; read by -; 2 stay: it is an output of the model
    """
    for name, p in model.named_parameters():
        if isinstance(p.array, Packed):
            raise TypeError(
                f"{name} is packed as {p.array.kind}; remove channels first and pack or quantize afterwards"
            )
    twin = copy.deepcopy(model).eval()
    watch = _Watch(twin)
    given = [wrap(to_device(x.array if isinstance(x, Tensor) else np.asarray(x), "cpu")) for x in inputs]
    for x in given:
        if x.array.dtype.kind == "f":
            x.requires_grad_()
    with enable_grad(), watch:
        out = twin(*given)
    for t in tensors(out):
        found = watch.of(t)
        watch.units.keep(found.tags if isinstance(found, Shadow) else found.all_units(), "it is an output of the model")
    return watch.found()


class _Watch(Watcher):
    """Keeps the shadows of all tensors while the model runs."""

    def __init__(self, model: Any) -> None:
        self.units, self.groups = Units(), {}  # type: ignore[var-annotated]
        self.inside: set[tuple[str, int | None]] = set()  # axes that a product sums over
        self.taps: set[tuple[str, int | None]] = set()  # axes that are places in a window
        self.names = {id(t): name for name, t in [*model.named_parameters(), *model.named_buffers()]}
        self.model = model
        self.made: dict[str, list[Any]] = {}
        self.shadows: dict[Any, Any] = {}
        self.alive: list[Any] = []
        for p in model.parameters():
            if p.array.dtype.kind == "f":
                p.requires_grad_()  # so that what is made of it has a node

    # -- shadows ------------------------------------------------------------------------------------------------------

    def of(self, t: Any) -> Any:
        """The shadow of a tensor. A tensor's place in the graph stays its own when memory is written in place."""
        key = (id(t.node), t.index) if t.node is not None else id(t)
        if key not in self.shadows:
            self.shadows[key] = self._leaf(t)
            self.alive.append(t)
        return self.shadows[key]

    def _leaf(self, t: Any) -> Any:
        name, a = self.names.get(id(t)), t.array
        if name is None or a.dtype.kind != "f" or a.ndim == 0:
            # A constant; only one that is 0 throughout is believed to be so for other inputs, too.
            return Shadow(np.zeros(a.shape, np.int64), np.full(a.shape, name is None and not a.any()))
        if name not in self.made:
            self.made[name] = [self.units.new(n) if n > 1 else None for n in a.shape]
        if a.ndim == 1:
            units = self.made[name][0]
            return Shadow(np.zeros(1, np.int64) if units is None else units, a == 0)
        return Weight(list(self.made[name]), a == 0, name, list(range(a.ndim)))

    def shadow_of_number(self, a: Any) -> Shadow:
        """Of an operand that is no tensor."""
        a = np.asarray(0.0 if a is None else a)
        return Shadow(np.zeros(a.shape, np.int64), a == 0)

    def at(self, ctx: Any) -> str:
        """Where it was, for reasons."""
        path = state.scope.partition(".")[2]  # without the model's own name
        return f" in {path}" if path else f" in {ctx.name()}"

    def heads(self) -> tuple[int, int] | None:
        """Heads and their size, while a layer of attention runs that keeps count of them."""
        path = state.scope.partition(".")[2]
        module = self.model.get_submodule(path) if path and "<" not in path else self.model
        return (module.num_heads, module.head_dim) if isinstance(module, MultiheadAttention) else None

    def unknown(self, ctx: Any, ins: list, shape: Any) -> Any:
        """What enters an op that is not understood has to stay, and nothing is known of what comes out."""
        for x in ins:
            if x is not None:
                units = x.tags if isinstance(x, Shadow) else x.all_units()
                self.units.keep(units, f"{ctx.name()} cannot be followed{self.at(ctx)}")
        if shape and isinstance(shape[0], tuple):
            return tuple(Shadow(np.zeros(s, np.int64), np.zeros(s, bool)) for s in shape)
        return Shadow(np.zeros(shape, np.int64), np.zeros(shape, bool))

    # -- looking on ---------------------------------------------------------------------------------------------------

    def ran(self, ctx: Any, inputs: Any, args: tuple, kwargs: dict, out: Any) -> None:
        ins = [self.of(a) if isinstance(a, Tensor) else None for a in inputs]
        outs = out if type(out) is tuple else (out,)
        shapes = tuple(t.array.shape for t in outs)
        rule = RULES.get(ctx.name())
        if rule is None and isinstance(ctx, Elementwise):
            rule = moves.elementwise
        elif rule is None and isinstance(ctx, Binary):
            rule = moves.combine
        elif rule is None and isinstance(ctx, Reduction):
            rule = moves.reduce
        plain = tuple(a.array if isinstance(a, Tensor) else a for a in args)
        if rule is None or ctx.name() == "max_pool2d":
            made = self.unknown(ctx, ins, shapes) if rule is None else (rule(self, ctx, ins, plain, shapes[0]), None)
        elif rule is products.scan:
            made = rule(self, ctx, ins, plain, shapes)
        else:
            made = rule(self, ctx, ins, plain, shapes[0])
        for t, found in zip(outs, made if isinstance(made, tuple) else (made,)):
            if found is not None:
                self.shadows[(id(t.node), t.index) if t.node is not None else id(t)] = found
                self.alive.append((t, t.node))

    def found(self) -> Structure:
        """What the pass has shown."""
        for module in self.model.modules():
            if isinstance(module, RNNBase):  # it has one hidden_size for all its layers and directions
                names = [self.names[id(w[1])] for w in module.all_weights]
                columns = [self.made[name][1] for name in names if name in self.made]
                for column in columns[1:]:
                    if column is not None:
                        self.units.join(columns[0], column)
        roots = {
            name: [None if u is None or (name, i) in self.taps else self.units.roots(u) for i, u in enumerate(axes)]
            for name, axes in self.made.items()
        }
        fixed: dict[int, str] = {}
        for u, why in self.units.fixed.items():
            fixed.setdefault(self.units.find(u), why)
        used = {self.units.find(u) for u in self.units.used}
        every = {int(u) for axes in roots.values() for a in axes if a is not None for u in np.unique(a)}
        return Structure(roots, self.inside, fixed, every - used - set(fixed), self.groups)


def tensors(out: Any) -> Iterator[Any]:
    """All tensors of a model's output."""
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, dict):
        for v in out.values():
            yield from tensors(v)
    elif isinstance(out, (tuple, list)):
        for v in out:
            yield from tensors(v)
