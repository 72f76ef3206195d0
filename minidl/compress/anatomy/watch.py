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
        read: (name, axis) of weights that only sum over the units along that axis, where cutting costs nothing.
        fixed: unit -> why it cannot be cut.
        free: units that can go without changing the output: what reads them reads zeros.
        groups: weight -> the number of groups of its convolution.
        heads: path of a module that splits into heads of attention in its own code -> the size of a head, and the unit
            of each.
    """

    def __init__(
        self, units: dict[str, list[Any]], read: set, fixed: dict[int, str], free: set[int], groups: dict, heads: dict
    ) -> None:
        self.units, self.read, self.fixed, self.free, self.groups = units, read, fixed, free, groups
        self.heads: dict[str, tuple[int, list[int]]] = heads

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
    watch = _watched(model, inputs, {})
    if watch.attention:  # which splits were into heads is known only now
        watch = _watched(model, inputs, watch.attention)
    return watch.found()


def _watched(model: Any, inputs: tuple, attention: dict[str, set]) -> _Watch:
    twin = copy.deepcopy(model).eval()
    watch = _Watch(twin, attention)
    given = [wrap(to_device(x.array if isinstance(x, Tensor) else np.asarray(x), "cpu")) for x in inputs]
    for x in given:
        if x.array.dtype.kind == "f":
            x.requires_grad_()
    with enable_grad(), watch:
        out = twin(*given)
    for t in tensors(out):
        found = watch.of(t)
        watch.units.keep(found.tags if isinstance(found, Shadow) else found.all_units(), "it is an output of the model")
        watch.pay(t)
    return watch


class _Watch(Watcher):
    """Keeps the shadows of all tensors while the model runs."""

    def __init__(self, model: Any, attention: dict[str, set]) -> None:
        self.known = attention  # path of a module -> (heads, their size) of the attention in its own code
        self.attention: dict[str, set] = {}  # the same, as this pass finds it
        self.products: dict[str, set] = {}  # likewise, of products that may turn out to be scores
        self.split: dict[str, tuple[int, Any]] = {}  # where heads are split: their size, their units
        self.debt: tuple[Any, str] | None = None  # what the op that runs adds to the next
        self.owed: dict[Any, tuple[Any, str]] = {}  # units to keep as soon as something reads this tensor
        self.units, self.groups = Units(), {}  # type: ignore[var-annotated]
        self.inside: set[tuple[str, int | None]] = set()  # axes that a product sums over
        self.outputs: set[tuple[str, int | None]] = set()  # axes that make units; a tied weight's may do both
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

    # -- heads of attention -------------------------------------------------------------------------------------------

    def layer(self) -> MultiheadAttention | None:
        """The layer of attention that runs, if one does that keeps count of its heads."""
        path = state.scope.partition(".")[2]
        module = self.model.get_submodule(path) if path and "<" not in path else self.model
        return module if isinstance(module, MultiheadAttention) else None

    def product(self, shape: tuple, k: int) -> None:
        """Queries times keys perhaps: heads in the third axis from the right, a sum over k."""
        if len(shape) > 2:
            self.products.setdefault(state.scope, set()).add((shape[-3], k))

    def weighs(self) -> None:
        """A softmax: what was multiplied here before are its scores."""
        for heads, each in self.products.get(state.scope, ()):
            self.attends(heads, each)

    def attends(self, heads: int, each: int) -> None:
        """Attention of so many heads of this size."""
        if heads > 1 and self.layer() is None:
            self.attention.setdefault(state.scope, set()).add((heads, each))

    def join_heads(self, x: Shadow, axis: int, sizes: tuple) -> bool:
        """If an axis of these sizes is one of heads, a head becomes one unit, that goes or stays as a whole."""
        if (layer := self.layer()) is not None:
            places = {state.scope: {(layer.num_heads, layer.head_dim)}}
        else:
            below = lambda a, b: f"{b}.".startswith(f"{a}.")
            places = {p: s for p, s in self.known.items() if below(p, state.scope) or below(state.scope, p)}
        for place, found in places.items():
            for n, each in found:
                if n not in sizes and sizes[-2:] == (3 * n, each):  # queries, keys and values on end
                    sizes = (*sizes[:-2], 3, n, each)
                if n not in sizes or np.prod(sizes) % (n * each):
                    continue
                at = next((i for i in range(len(sizes) - 1) if sizes[i : i + 2] == (n, each)), sizes.index(n))
                units = np.moveaxis(x.tags, axis, -1).reshape(-1, *sizes)
                units = np.moveaxis(units, at + 1, 0).reshape(n, -1)
                self.units.join(units, units[:, :1])
                if layer is None:
                    path = min(place, state.scope, key=len).partition(".")[2]
                    self.split[path] = each, units[:, 0]
                return True
        return False

    # -- what is not read ---------------------------------------------------------------------------------------------

    def owe(self, units: Any, why: str) -> None:
        """To be kept if the result of the op that runs is read."""
        self.debt = units, why

    def pay(self, t: Any) -> None:
        """This tensor is read."""
        if (owed := self.owed.get((id(t.node), t.index))) is not None:
            self.units.keep(*owed)

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
        for a in inputs:
            if isinstance(a, Tensor):
                self.pay(a)
        ins, self.debt = [self.of(a) if isinstance(a, Tensor) else None for a in inputs], None
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
        if self.debt is not None:
            if outs[0].node is None:
                self.units.keep(*self.debt)
            else:
                self.owed[id(outs[0].node), outs[0].index] = self.debt

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
        heads = {path: (each, [self.units.find(int(u)) for u in units]) for path, (each, units) in self.split.items()}
        return Structure(roots, self.inside - self.outputs, fixed, every - used - set(fixed), self.groups, heads)


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
