"""Which weights of a model may be packed, by what they are read, and a look at the inputs that meet them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from minidl.autograd import Watcher, no_grad
from minidl.compress.prune import prunable
from minidl.compress.record import Recorded, State
from minidl.devices import is_cuda_array
from minidl.storage import Packed

__all__ = ["OPS", "Met", "Readable", "batches", "evaluating", "readable"]

# The ops that take packed weights, with the place of the weight among their arguments and the kind of reading:
# "linear" and "conv" are products with the input, "recurrent" with a state, "table" gives rows, "transposed" is a
# transposed convolution, whose activations stay float.
OPS: dict[str, tuple[tuple[int, str], ...]] = {
    "linear": ((1, "linear"),),
    "conv2d": ((1, "conv"),),
    "conv2d_dx": ((1, "transposed"),),
    "lookup": ((1, "table"),),
    "rnn_scan": ((2, "recurrent"),),
    "gru_scan": ((2, "recurrent"),),
    "lstm_scan": ((3, "recurrent"),),
    "projected_lstm_scan": ((3, "recurrent"), (4, "recurrent")),
}
SUPPORTED = (
    "Linear, Conv2d, Conv1d, ConvTranspose1d, ConvTranspose2d, Embedding, MultiheadAttention, CausalSelfAttention, "
    "RNN, LSTM or GRU, nor one of their cells,"
)


@dataclass
class Readable:
    """A weight that may be packed, and the kinds of its readers (see OPS)."""

    p: Any
    kinds: set[str]


def _layers() -> tuple[tuple[Any, tuple[str, ...], str], ...]:
    """(layer, names of its weights or their beginnings, kind) of the modules that take packed weights."""
    from minidl import nn

    return (
        (nn.Linear, ("weight",), "linear"),
        ((nn.Conv1d, nn.Conv2d), ("weight",), "conv"),
        ((nn.ConvTranspose1d, nn.ConvTranspose2d), ("weight",), "transposed"),
        (nn.Embedding, ("weight",), "table"),
        (nn.MultiheadAttention, ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"), "linear"),
        (nn.CausalSelfAttention, ("in_proj_weight",), "linear"),
        ((nn.RNNBase, nn.RNNCellBase), ("weight_ih",), "linear"),
        ((nn.RNNBase, nn.RNNCellBase), ("weight_hh", "weight_hr"), "recurrent"),
    )


def _kind(module: Any, name: str) -> str | None:
    """How a module reads its parameter of this name when it is packed; None if it cannot."""
    if getattr(module, "max_norm", None) is not None:  # an embedding that changes its rows
        return None
    for layer, names, kind in _layers():
        exact = kind != "recurrent" and names != ("weight_ih",)
        if isinstance(module, layer) and any(name == n if exact else name.startswith(n) for n in names):
            return kind
    return None


def _users(model: Any) -> Iterator[tuple[Any, str, str | None]]:
    """(parameter, name of a reader, kind of reading or None) for all readers of all parameters."""
    if isinstance(model, Recorded):
        for step in model.steps:
            places = dict(OPS.get(step.op, ()))
            for i, arg in enumerate(step.args):
                if isinstance(arg, State):
                    yield (
                        model.get_parameter(arg.name) if arg.name in dict(model.named_parameters()) else None,
                        (f"op {step.op}"),
                        places.get(i),
                    )
        return
    for path, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
            yield p, path or type(module).__name__, _kind(module, name)


def readable(model: Any, skip: str | Iterable[str], who: str) -> dict[str, Readable]:
    """The float weights of a model that may be packed, by name. A model that `record` or `fold` made will do.

    Raises ValueError where one is shared with a reader that cannot take it packed, and if there is none.
    """
    users: dict[int, list[tuple[str, str | None]]] = {}
    for p, reader, kind in _users(model):
        users.setdefault(id(p), []).append((reader, kind))
    found = {}
    for name, p in prunable(model, skip):
        kinds = {kind for _, kind in users.get(id(p), ()) if kind is not None}
        if not kinds or isinstance(p.array, Packed):
            continue
        others = [reader for reader, kind in users[id(p)] if kind is None]
        if others:
            raise ValueError(
                f"{who}: {name} is shared with {', '.join(others)}, which cannot read packed weights; pass "
                f"skip={name!r}"
            )
        found[name] = Readable(p, kinds)
    if not found:
        raise ValueError(f"{who}: the model has no {SUPPORTED} with a float weight left to quantize")
    return found


@dataclass
class Met:
    """An op met a weight: `x` is what the weight was multiplied with, None for rows of a table."""

    name: str
    op: str
    x: Any
    args: tuple


class Meetings(Watcher):
    """Calls `met` whenever an op reads one of these weights, or a part of one."""

    def __init__(self, weights: dict[str, Readable], met: Callable[[Met], None]):
        self.met = met
        self.spans = [(*_span(w.p.array), name) for name, w in weights.items()]

    def ran(self, ctx: Any, inputs: Any, args: tuple, kwargs: dict, out: Any) -> None:
        op = type(ctx).__name__
        for place, _ in OPS.get(op, ()):
            w = getattr(inputs[place], "array", inputs[place])
            if isinstance(w, Packed):
                continue
            begin = _span(w)[0]
            for first, end, name in self.spans:
                if first <= begin < end:
                    self.met(Met(name, op, _multiplied(op, place, inputs, out), tuple(inputs)))


def _span(a: Any) -> tuple[int, int]:
    """Where an array lies in memory."""
    begin = a.data.ptr if is_cuda_array(a) else a.__array_interface__["data"][0]
    return begin, begin + max(a.nbytes, 1)


def _multiplied(op: str, place: int, inputs: Any, out: Any) -> Any:
    if op == "lookup":
        return None
    if not op.endswith("_scan"):
        return inputs[0].array
    if (op, place) == ("projected_lstm_scan", 4):
        return np.array([-1, 1], np.float32)  # o tanh(c), which lies between
    return np.concatenate(
        [inputs[1].array.reshape(-1), out[0].array.reshape(-1)]
    )  # the states that went in and came out


def meet(model: Any, data: Any, weights: dict[str, Readable], met: Callable[[Met], None]) -> None:
    """Run a model on data in evaluation and without gradients, and show `met` every reading of `weights`."""
    with Meetings(weights, met):
        evaluating(model, data)


def evaluating(model: Any, data: Any) -> None:
    """Run a model on data in evaluation and without gradients; its modes are as before, then. ValueError if empty."""
    training = [(m, m.training) for m in model.modules()]
    model.eval()
    n = 0
    try:
        with no_grad():
            for x in batches(data):
                if len(x):
                    n += len(x)
                    model(x)
    finally:
        for module, mode in training:
            module.training = mode
    if n == 0:
        raise ValueError("the calibration data are empty")


def batches(data: Any) -> Iterable[Any]:
    """Inputs as Tensors, batch by batch, from a Tensor, an array, or an iterable of batches or (batch, ...) tuples."""
    from minidl.tensors import Tensor, wrap

    if isinstance(data, (Tensor, np.ndarray)) or is_cuda_array(data):
        array = data.array if isinstance(data, Tensor) else data
        return (wrap(array[i : i + 256]) for i in range(0, len(array), 256))

    def first(batch: Any) -> Any:
        x = batch[0] if isinstance(batch, (tuple, list)) else batch
        return x if isinstance(x, Tensor) else wrap(x)

    return map(first, data)
