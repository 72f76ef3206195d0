"""Whole networks in int8: from a recorded network and calibration data to one that stays in integers from end to end.

    record -> fold batch norms -> watch the ranges of all results on calibration data -> integer steps

What the integer kernels know (convolution, linear, residual sum, pooling, relu, relu6, padding, reshape) runs on codes;
any other op runs on the floats that the codes stand for, and its result becomes codes again. With the weights still in
float the same steps train: quantization-aware training, whose forward is the deployed network's to the last bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from minidl import nn
from minidl.autograd import no_grad
from minidl.compress.quantize.fold import LAYERS, fold
from minidl.compress.quantize.models import hold
from minidl.compress.quantize.observers import MinMax, Observer
from minidl.compress.quantize.readers import OPS, batches
from minidl.compress.quantize.steps import (
    Add,
    AvgPool2d,
    Cat,
    Clamp,
    Codes,
    Conv2d,
    Linear,
    MaxPool2d,
    Pad,
    Quant,
    Reshape,
    codes_of,
    floats_of,
    rounded,
    rounded_table,
    rounded_weight,
    table_codes,
)  # fmt: skip
from minidl.compress.record import Const, Recorded, State, Step, Value, filled, hang, ops, record
from minidl.nn.parameter import Parameter
from minidl.storage import Packed
from minidl.tensors import Tensor, wrap

__all__ = ["IntegerNet", "quantize_static"]


@dataclass
class Float:
    """An op that no integer kernel knows, on floats. `y`: what its result becomes codes of; None: it stays float."""

    call: Step
    out: int
    y: Quant | None


class IntegerNet(nn.Module):
    """A network of integer steps.    x (N, ...) float -> what the network gives, float

    While its weights are float Parameters it trains: forward gives what the deployed network will give, backward lets
    gradients through (steps.py). `deploy_` packs the weights; from then on codes travel from step to step.

    Attributes:
        steps: the list of steps.
        quants: scale and zero point of each result that an integer step reads.
        sample: shape of one input, without the batch.
        tables: bits of the weights that only float ops read (embeddings, recurrent and transposed layers): packed, and
            floats when they are used.
    """

    def __init__(
        self, steps: list[Any], output: int, quants: dict[int, Quant], state: dict[str, Tensor], sample: tuple[int,
        ...], tables: dict[str, int] | None = None,
    ):  # fmt: skip
        super().__init__()
        self.steps, self.output, self.quants, self.sample = steps, output, quants, tuple(sample)
        self.tables = tables or {}
        for name, t in state.items():
            hang(self, name, t)
        known, last = ops(), {}
        self._ops = [known[s.call.op] if isinstance(s, Float) else None for s in steps]
        for i, step in enumerate(steps):
            for index in reads(step):
                last[index] = i
        self._drop: list[list[int]] = [[] for _ in steps]
        for index, i in last.items():
            if index != output:
                self._drop[i].append(index)

    # While it is at hand: the network in float with these parameters, and the bits of weights and of activations.
    _floats: tuple[Any, ...] = ()

    def recalibrate_(self, calibration: Any, observer: Callable[[], Observer] = MinMax) -> IntegerNet:
        """Learn the ranges of all results anew, with the weights as they are now, and return the network.

        Ranges do not move by themselves: call it between epochs where training moves weights far. Raises RuntimeError
        once the weights are packed, and for a network that came from a file.
        """
        if self.deployed or not self._floats:
            raise RuntimeError("recalibrate_: only before deploy_(), of a network that quantize_static made here")
        net, bits, activations = self._floats
        data = _batches(calibration)
        made = _Builder(net, _ranges(net, data, observer, activations), bits, data[0]).build()
        self.steps, self.quants, self.tables = made.steps, made.quants, made.tables
        return self

    @property
    def deployed(self) -> bool:
        """Whether all layers' weights are packed."""
        names = [*(s.weight for s in self.layers()), *self.tables]
        return all(isinstance(self.get_parameter(name).array, Packed) for name in names)

    def layers(self) -> Iterator[Any]:
        """The steps with weights."""
        return (s for s in self.steps if isinstance(s, (Conv2d, Linear)))

    def deploy_(self) -> IntegerNet:
        """Pack the weights, in place, and return the network. Its results stay the same to the last bit."""
        for step in self.layers():
            p = self.get_parameter(step.weight)
            if not isinstance(p.array, Packed):
                b = None if step.bias is None else self.get_parameter(step.bias).array
                hold(p, step.stored(p.array, b, p.mask))
        for name, bits in self.tables.items():
            p = self.get_parameter(name)
            if not isinstance(p.array, Packed):
                hold(p, table_codes(p.array, bits, p.mask))
        for p in self.parameters():
            p.requires_grad_(False)
        self._floats = ()
        return self

    def forward(self, x: Any) -> Any:
        """(N, ...) -> the network's result as floats; any batch size."""
        x = x if isinstance(x, Tensor) else wrap(x)
        if tuple(x.shape[1:]) != self.sample:
            raise ValueError(f"the network takes inputs (N, {', '.join(map(str, self.sample))}), got {tuple(x.shape)}")
        state = dict(self.named_parameters(remove_duplicate=False)) | dict(self.named_buffers(remove_duplicate=False))
        if self.deployed:
            with no_grad():
                y = self._run({0: x.array, -1: len(x)}, state, integers=True)
            return wrap(floats_of(y) if isinstance(y, Codes) else y)
        return self._run({0: x, -1: len(x)}, state, integers=False)

    def _run(self, held: dict[int, Any], state: dict[str, Tensor], integers: bool) -> Any:
        coded: set[int] = set()  # of floats: the ones that codes stand for

        def operand(index: int) -> Any:
            value = held[index]
            if integers and not isinstance(value, Codes):
                value = held[index] = codes_of(value, self.quants[index])
            elif not integers and index not in coded:
                value = held[index] = rounded(value, self.quants[index])
                coded.add(index)
            return value

        for cls, step, drop in zip(self._ops, self.steps, self._drop, strict=True):
            if isinstance(step, Float):
                held[step.out] = self._float(cls, step, held, state, integers)
            else:
                given = [operand(index) for index in reads(step)]
                if isinstance(step, (Conv2d, Linear)):
                    w, b = state[step.weight], None if step.bias is None else state[step.bias]
                    given += [w.array, None if b is None else b.array] if integers else [w, b]
                held[step.out] = step.integer(*given) if integers else step.straight(*given)
                if getattr(step, "y", None) is not None:
                    coded.add(step.out)
            for index in drop:
                del held[index]
        return held[self.output]

    def _float(self, cls: Any, step: Float, held: dict[int, Any], state: dict[str, Tensor], integers: bool) -> Any:
        if not integers:
            state = self._as_packed(step, state)
            out = cls(*filled(step.call.args, held, state), **filled(step.call.kwargs, held, state))
        else:
            plain = {i: _tensor(held[i]) for i in reads(step)}
            out = cls(*filled(step.call.args, plain, state), **filled(step.call.kwargs, plain, state))
        out = out[step.call.outs.index(step.out)] if isinstance(out, tuple) else out
        return out.array if integers else out

    def _as_packed(self, step: Float, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state with the op's weights as they will be packed: its own, and those that it shares with a layer."""
        names = {r.name for r in step.call.refs() if isinstance(r, State)}
        made = {s.weight: rounded_weight(state[s.weight], s.bias and state[s.bias], s) for s in self.layers()
                if s.weight in names}  # fmt: skip
        made |= {name: rounded_table(state[name], bits) for name, bits in self.tables.items() if name in names}
        return state | made if made else state

    def extra_repr(self) -> str:
        count = Counter(step.call.op if isinstance(step, Float) else type(step).__name__ for step in self.steps)
        listed = ", ".join(f"{n} {name}" for name, n in count.items())
        return f"{'deployed' if self.deployed else 'in training'}; {listed}"


def _tensor(value: Any) -> Any:
    """A result for a float op: a Tensor; the batch's size as it is."""
    if isinstance(value, int):
        return value
    return wrap(floats_of(value) if isinstance(value, Codes) else value)


def reads(step: Any) -> list[int]:
    """The numbers of the results that a step reads."""
    if isinstance(step, Float):
        return [r.index for r in step.call.refs() if isinstance(r, Value)]
    if isinstance(step, Cat):
        return list(step.xs)
    return [step.x, step.b] if isinstance(step, Add) else [step.x]


def quantize_static(
    model: Any, calibration: Any, *, bits: int | Mapping[str, int] = 8, activation_bits: int = 8,
    observer: Callable[[], Observer] = MinMax, deploy: bool = True,
) -> IntegerNet:  # fmt: skip
    """A network of integer steps that computes what `model` does, with ranges learned from `calibration`.

    Args:
        model: any Module whose ops do not depend on its input's values, or what `record` or `fold` made of it. It
            stays as it is.
        calibration: inputs (a Tensor, an array, or an iterable of batches, which may be tuples that begin with the
            input), of which the first batch is recorded.
        bits: 2 ... 8 of the weights; or a dict from names of weights or layers (``*`` stands for anything) to their
            bits, of which the last that fits counts, 8 where none does. Fewer than 8 are packed so in memory and in the
            file, and multiplied as int8.
        activation_bits: 2 ... 8 of all results but the network's input, which has 8.
        observer: makes the observer of each result (observers.py).
        deploy: pack the weights; False leaves them float for quantization-aware training (then call ``deploy_()``).

    Weights get one scale per output, activations one scale and zero point per tensor. Raises ValueError for
    calibration data that are empty or make NaN or infinity, for weights that are not finite, for bits outside 2 ... 8
    and names of no weight; TypeError for weights that are packed already or not float32.

    >>> from minidl import nn
    >>> x = np.random.default_rng(0).normal(size=(8, 1, 6, 6)).astype(np.float32)
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    >>> net = quantize_static(model.eval(), x)
    >>> print(net.extra_repr())
    deployed; 1 Conv2d, 1 Reshape, 1 Linear
    >>> bool(abs(net(x).array - model(wrap(x)).array).max() < 0.1)
    True
    """
    every = [activation_bits, *(bits.values() if isinstance(bits, Mapping) else [bits])]
    if any(isinstance(b, bool) or not isinstance(b, (int, np.integer)) or not 2 <= b <= 8 for b in every):
        raise ValueError(f"quantize_static: bits must be integers in 2 ... 8, got {bits!r} and {activation_bits!r}")
    data = _batches(calibration)
    net = fold(model if isinstance(model, Recorded) else record(model, data[0]))
    for name, p in net.named_parameters():
        if p.packed:
            raise TypeError(f"quantize_static: {name} is packed as {p.array.kind} already; call dequantize_ first")
        if p.array.dtype != np.float32:
            raise TypeError(f"quantize_static: {name} is {p.array.dtype}, not float32; call model.float() first")
        if not np.isfinite(p.array).all():
            raise ValueError(f"quantize_static: {name} holds NaN or infinity")
    state = {name: _copied(t) for name, t in net.named_state()}
    for step in net.steps:  # a weight that was made of others, by a norm for instance, is a layer's own from now on
        for ref in step.args[1:3] if step.op in LAYERS else ():
            if isinstance(ref, (State, Const)) and not isinstance(state[ref.name], Parameter):
                state[ref.name] = Parameter(state[ref.name].array.copy())
    net = Recorded(net.steps, net.output, state, net.sample)
    of_weights = _bits_of(bits, [name for name, t in state.items() if isinstance(t, Parameter)])
    made = _Builder(net, _ranges(net, data, observer, activation_bits), of_weights, data[0]).build()
    made._floats = net, of_weights, activation_bits
    return made.deploy_() if deploy else made


def _copied(t: Tensor) -> Tensor:
    if not isinstance(t, Parameter):
        return t
    p = Parameter(t.array.copy(), requires_grad=True)
    p.mask = t.mask
    return p


def _bits_of(bits: int | Mapping[str, int], names: list[str]) -> dict[str, int]:
    """Bits of each parameter. ValueError for a pattern that fits none."""
    table = bits if isinstance(bits, Mapping) else {"*": bits}
    found = dict.fromkeys(names, 8)
    for pattern, b in table.items():
        hits = [n for n in names if fnmatchcase(n, pattern) or fnmatchcase(n, pattern + ".*")]
        if not hits:
            raise ValueError(f"quantize_static: bits: nothing is called {pattern!r}; the parameters are {names}")
        found.update(dict.fromkeys(hits, int(b)))
    return found


def _ranges(net: Recorded, data: list[Tensor], observer: Callable[[], Observer], bits: int) -> dict[int, Quant]:
    """Scale and zero point of every result, as the network gives it in float."""
    seen: dict[int, Observer] = {0: observer()}

    def look(index: int, t: Tensor) -> None:
        if t.array.dtype.kind == "f":
            try:
                seen.setdefault(index, observer()).update(t.array)
            except ValueError as error:
                raise ValueError(f"quantize_static: the calibration data make {error}, at result {index}") from error

    with no_grad():
        for x in data:
            look(0, x)
            net.run(x, look)
    widths = {index: bits if index else 8 for index in seen}
    return {index: Quant(*o.parameters(widths[index]), widths[index]) for index, o in seen.items() if o.seen}


def _batches(calibration: Any) -> list[Tensor]:
    data = [x if isinstance(x, Tensor) else wrap(x) for x in batches(calibration)]
    data = [x for x in data if len(x)]
    if not data:
        raise ValueError("quantize_static: the calibration data are empty")
    return data


class _Builder:
    """Turns the ops of a folded network into integer steps."""

    def __init__(self, net: Recorded, quants: dict[int, Quant], bits: dict[str, int], example: Tensor):
        self.net, self.quants, self.bits = net, quants, bits
        self.example = np.concatenate([example.array[:1]] * 2)
        self.state = dict(net.named_state())
        self.steps: list[Any] = []
        self.maker: dict[int, Any] = {}  # by result: the step that made it
        self.same: dict[int, int] = {}  # results that another one stands for
        self.uses = Counter(r.index for s in net.steps for r in s.refs() if isinstance(r, Value))
        self.uses[net.output.index] += 1

    def build(self) -> IntegerNet:
        for step in self.net.steps:
            before = len(self.steps)
            if not self.integer(step):
                del self.steps[before:]
                self.floating(step)
        output = self.at(self.net.output)
        last = self.maker.get(output)
        if isinstance(last, (Conv2d, Linear)) and self.uses[output] == 1 and _unclamped(last):
            last.y = None  # nobody needs codes of the last layer
        layers = [s for s in self.steps if isinstance(s, (Conv2d, Linear))]
        for s in layers:
            shared = [other.x_quant.scale for other in layers if other.weight == s.weight]
            s.finest = min(shared) if len(shared) > 1 else 0.0
        state = {}
        for s in self.steps:
            names = (
                [r.name for r in s.call.refs() if not isinstance(r, Value)]
                if isinstance(s, Float)
                else [n for n in (getattr(s, "weight", None), getattr(s, "bias", None)) if n]
            )
            state.update({n: self.state[n] for n in names})
        read = {index for s in self.steps if not isinstance(s, Float) for index in reads(s)}
        quants = {index: quant for index, quant in self.quants.items() if index in read}
        return IntegerNet(self.steps, output, quants, state, self.net.sample, self._tables())

    def _tables(self) -> dict[str, int]:
        """Weights that float ops alone read, all of which take them packed."""
        taken = {s.weight for s in self.steps if isinstance(s, (Conv2d, Linear))}
        calls = {id(s.call): s.call for s in self.steps if isinstance(s, Float)}.values()
        read = {r for call in calls for r in call.refs() if isinstance(r, State) and r.name not in taken}
        able = {r for r in read if all(self._packable(r, call) for call in calls)}
        return {r.name: self.bits.get(r.name, 8) for r in sorted(able, key=lambda r: r.name)
                if isinstance(self.state[r.name], Parameter) and self.state[r.name].ndim > 1}  # fmt: skip

    def _packable(self, w: Any, step: Step) -> bool:
        """Whether a step reads this weight only where it may be packed; so does one that does not read it."""
        places = [i for i, _ in OPS.get(step.op, ())]
        return sum(r == w for r in step.refs()) == sum(step.args[i] == w for i in places if i < len(step.args))

    def at(self, ref: Any) -> int:
        return self.same.get(ref.index, ref.index)

    def add(self, step: Any) -> bool:
        self.steps.append(step)
        self.maker[step.out] = step
        return True

    def integer(self, step: Step) -> bool:
        """Add what the op is in integers; False if it is nothing."""
        rule = getattr(self, f"_{step.op}", None)
        if step.op == "cat":
            return self._cat_of(step, *step.args, **step.kwargs)
        if rule is None or step.kwargs or not isinstance(step.args[0], Value):
            return False
        x = self.at(step.args[0])
        if x not in self.quants or step.outs[0] not in self.quants:
            return False
        return bool(rule(step, x, step.outs[0], *step.args[1:]))

    def floating(self, step: Step) -> None:
        args = _renumbered(step.args, self.same)
        for out in [o for o in step.outs if self.uses[o]] or step.outs[:1]:
            self.add(Float(Step(step.op, args, step.kwargs, step.outs, step.scope), out, self.quants.get(out)))

    def _weights(self, step: Step, w: Any, b: Any) -> tuple[str, str | None] | None:
        """Names of weight and bias, as parameters that no other layer has; None if they are none."""
        if not isinstance(w, (State, Const)) or isinstance(b, Value):
            return None
        if self.state[w.name].ndim != LAYERS[step.op]:
            return None
        if not all(self._packable(w, other) for other in self.net.steps):
            return None
        return w.name, None if b is None else b.name

    def _conv2d(
        self, step: Step, x: int, out: int, w: Any, b: Any, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> bool:  # fmt: skip
        names = self._weights(step, w, b)
        if names is None:
            return False
        ph, pw = padding
        sides = (ph, ph, pw, pw)
        border = self.maker.get(x)
        if isinstance(border, Pad) and self.uses[x] == 1:  # the convolution looks over the edge itself
            left, right, top, bottom = border.border
            sides = (ph + top, ph + bottom, pw + left, pw + right)
            self.steps.remove(border)
            x = border.x
        return self.add(
            Conv2d(
                x, out, *names, self.quants[x], self.quants[out], stride=tuple(stride), padding=sides,
                dilation=tuple(dilation), groups=groups, **self._range(out, names[0]),
            )
        )  # fmt: skip

    def _range(self, out: int, weight: str | None = None) -> dict[str, Any]:
        """The codes that a step may give, and the bits of its weight."""
        more = {} if weight is None else {"bits": self.bits.get(weight, 8)}
        return {"low": self.quants[out].low, "high": self.quants[out].high} | more

    def _linear(self, step: Step, x: int, out: int, w: Any, b: Any = None) -> bool:
        names = self._weights(step, w, b)
        return names is not None and self.add(
            Linear(x, out, *names, self.quants[x], self.quants[out], **self._range(out, names[0]))
        )

    def _cat_of(self, step: Step, xs: Any, dim: int = 0) -> bool:
        """Operands that are results; of one scale and zero point the result has them, too."""
        out = step.outs[0]
        if out not in self.quants or not all(isinstance(x, Value) and self.at(x) in self.quants for x in xs):
            return False
        rank = len(self.net_shapes()[out])
        inputs = [self.at(x) for x in xs]
        if any(len(self.net_shapes()[x.index]) != rank for x in xs):
            return False
        quants = tuple(self.quants[x] for x in inputs)
        if len(set(quants)) == 1:
            self.quants[out] = quants[0]
        return self.add(Cat(tuple(inputs), out, dim % rank, quants, self.quants[out]))

    def _add(self, step: Step, x: int, out: int, other: Any) -> bool:
        if not isinstance(other, Value):
            return False
        b = self.at(other)
        if b not in self.quants or self.shapes_differ(step):
            return False
        return self.add(Add(x, b, out, self.quants[x], self.quants[b], self.quants[out], **self._range(out)))

    def shapes_differ(self, step: Step) -> bool:
        """Whether a sum broadcasts, which the kernel does not."""
        a, b = (r.index for r in step.refs())
        return self.net_shapes()[a] != self.net_shapes()[b]

    def net_shapes(self) -> dict[int, tuple[int, ...]]:
        """Shapes of all results for two inputs."""
        if not hasattr(self, "_shapes"):
            self._shapes = {0: (2, *self.net.sample)}
            with no_grad():
                self.net.run(wrap(self.example), lambda index, t: self._shapes.__setitem__(index, tuple(t.shape)))
        return self._shapes

    def _clamped(self, x: int, out: int, low: float, high: float) -> bool:
        maker, quant = self.maker.get(x), self.quants[out]
        if isinstance(maker, (Conv2d, Linear, Add)) and self.uses[x] == 1 and _unclamped(maker):
            # The layer's own output pipeline clamps; its codes cover what is left of the range.
            maker.y, maker.low, maker.high = quant, quant.code(low), quant.code(high)
            self.same[out] = x
            self.quants[x], self.uses[x] = quant, self.uses[out]
            return True
        quant = self.quants[out] = self.quants[x]
        return self.add(Clamp(x, out, quant.code(low), quant.code(high), quant))

    def _relu(self, step: Step, x: int, out: int) -> bool:
        return self._clamped(x, out, 0.0, np.inf)

    def _hard_range(self, step: Step, x: int, out: int, low: float, high: float) -> bool:
        return self._clamped(x, out, low, high)

    def _max_pool2d(
        self, step: Step, x: int, out: int, window: Any, stride: Any, padding: Any, dilation: Any, size: Any
    ) -> bool:
        if any(self.uses[o] for o in step.outs[1:]) or tuple(size) != self.net_shapes()[out][2:]:
            return False
        self.quants[out] = self.quants[x]
        how: Any = [tuple(int(n) for n in v) for v in (window, stride, padding, dilation, size)]
        return self.add(MaxPool2d(x, out, how[0], how[1], how[2], how[3], how[4], self.quants[x]))

    def _avg_pool2d(
        self, step: Step, x: int, out: int, window: Any, stride: Any, padding: Any, size: Any, weight: Any
    ) -> bool:
        share = self.state[weight.name].array if isinstance(weight, (State, Const)) else None
        if any(padding) or share is None or not (share == 1 / (window[0] * window[1])).all():
            return False
        how: Any = [tuple(int(n) for n in v) for v in (window, stride)]
        return self.add(AvgPool2d(x, out, how[0], how[1], self.quants[x], self.quants[out]))

    def _mean(self, step: Step, x: int, out: int, dims: Any = None, keep: bool = False) -> bool:
        """The mean over height and width is one window."""
        shape = self.net_shapes()[x]
        if len(shape) != 4 or dims is None or isinstance(dims, int) or sorted(d % 4 for d in dims) != [2, 3]:
            return False
        window = shape[2:]
        if keep:
            return self.add(AvgPool2d(x, out, window, window, self.quants[x], self.quants[out]))
        between = -2 - len(self.steps)  # a number that no result has
        self.quants[between] = self.quants[out]
        self.add(AvgPool2d(x, between, window, window, self.quants[x], self.quants[out]))
        return self.add(Reshape(between, out, (-1, shape[1]), self.quants[out]))

    def _reshape(self, step: Step, x: int, out: int, shape: Any) -> bool:
        if any(isinstance(n, Value) for n in shape):
            return False
        self.quants[out] = self.quants[x]
        return self.add(Reshape(x, out, tuple(int(n) for n in shape), self.quants[x]))

    def _pad_constant(self, step: Step, x: int, out: int, widths: Any, value: Any) -> bool:
        if value != 0 or len(widths) != 4 or any(widths[0]) or any(widths[1]) or min(map(min, widths)) < 0:
            return False
        self.quants[out] = self.quants[x]
        (top, bottom), (left, right) = widths[2], widths[3]
        return self.add(Pad(x, out, (left, right, top, bottom), self.quants[x]))


def _unclamped(step: Any) -> bool:
    return step.y is not None and (step.low, step.high) == (step.y.low, step.y.high)


def _renumbered(tree: Any, same: dict[int, int]) -> Any:
    if isinstance(tree, Value):
        return Value(same.get(tree.index, tree.index))
    if isinstance(tree, (tuple, list)):
        return type(tree)(_renumbered(t, same) for t in tree)
    return tree
