"""summary(model): what a model is made of, and what one forward pass of it takes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from minidl import random
from minidl.autograd import no_grad
from minidl.nn.attention import MultiheadAttention
from minidl.nn.conv import _Conv
from minidl.nn.linear import Bilinear, Linear
from minidl.nn.module import Module
from minidl.nn.module.unregistered import unregistered
from minidl.tensors import Tensor, wrap


class Row(NamedTuple):
    """One module: its path, class, output shape (None: did not run), and counts of its own parameters."""

    name: str
    kind: str
    output: Any
    params: int
    trainable: int
    pruned: int
    nbytes: int
    macs: int | None


class Summary:
    """What summary() returns; ``print`` it for the table.

    Attributes: `rows`, one for each module, and the totals `params`, `trainable`, `pruned`, `nbytes` (parameters and
    buffers as stored) and `macs` (None without an input); `unregistered`, a sentence for each plain list of layers.
    """

    def __init__(self, rows: list[Row], title: str, ran: bool, unregistered: Sequence[str] = ()):
        self.rows, self.title, self.unregistered = rows, title, list(unregistered)
        self.params = sum(r.params for r in rows)
        self.trainable = sum(r.trainable for r in rows)
        self.pruned = sum(r.pruned for r in rows)
        self.nbytes = sum(r.nbytes for r in rows)
        self.macs = sum(r.macs or 0 for r in rows) if ran else None

    def __str__(self) -> str:
        head = ["Layer", "Type", *(["Output shape"] if self.macs is not None else []), "Params", "Trainable", "Bytes"]
        if self.macs is not None:
            head.append("MACs")
        table = [head]
        for r in self.rows:
            line = [r.name or self.title, r.kind, f"{r.params:,}", f"{r.trainable:,}", f"{r.nbytes:,}"]
            if self.macs is not None:
                line.insert(2, "-" if r.output is None else _shape_text(r.output))
                line.append("-" if r.macs is None else f"{r.macs:,}")
            table.append(line)
        texts = len(head) - (4 if self.macs is not None else 3)  # columns of words, the others are numbers
        widths = [max(len(line[i]) for line in table) for i in range(len(head))]
        lines = [
            "  ".join(
                c.ljust(w) if i < texts else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
            )
            for line in table
        ]
        rule = "-" * max(len(line) for line in lines)
        totals = [
            f"Parameters: {self.params:,} ({self.trainable:,} trainable, {self.pruned:,} pruned)",
            f"Stored: {self.nbytes:,} bytes (parameters and buffers)",
        ]
        if self.macs is not None:
            totals.append(
                f"Multiply-adds of one forward pass (MACs; linear, convolution and attention layers): {self.macs:,}"
            )
        totals += [f"Not counted: {sentence}" for sentence in self.unregistered]
        return "\n".join([lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:]), rule, *totals])

    __repr__ = __str__


def summary(model: Module, input_size: Any = None) -> Summary:
    """A table of the model's modules: parameters, trainable ones, bytes as stored; with an input also shapes and MACs.

    Args:
        input_size: an input's shape with its batch, such as (1, 3, 32, 32), for zeros of the model's dtype; or an
            example input: a Tensor, an array, or a tuple or list of Tensors for a model of several arguments. None: the
            model is not run.

    The pass runs in evaluation mode without gradients; modes, statistics and random state are as before afterwards. A
    shared module's or parameter's counts stand where it comes first. MACs are counted from the shapes, pruned weights
    included: how many of them run faster is a matter for measurement.

    >>> from minidl import nn
    >>> print(nn.summary(nn.Sequential(nn.Linear(8, 4), nn.ReLU()), (2, 8)))
    Layer       Type        Output shape  Params  Trainable  Bytes  MACs
    --------------------------------------------------------------------
    Sequential  Sequential  (2, 4)             0          0      0     -
    0           Linear      (2, 4)            36         36    144    64
    1           ReLU        (2, 4)             0          0      0     -
    --------------------------------------------------------------------
    Parameters: 36 (36 trainable, 0 pruned)
    Stored: 144 bytes (parameters and buffers)
    Multiply-adds of one forward pass (MACs; linear, convolution and attention layers): 64
    """
    shapes: dict[int, Any] = {}
    macs: dict[int, int] = {}
    if input_size is not None:
        _run(model, _inputs(model, input_size), shapes, macs)
    seen: set[int] = set()
    rows = []
    for name, module in model.named_modules():
        params = trainable = pruned = nbytes = 0
        for p in [*module._parameters.values(), *module._buffers.values()]:
            if p is None or id(p) in seen:
                continue
            seen.add(id(p))
            nbytes += p.array.nbytes
            if any(p is own for own in module._parameters.values()):
                params += p.numel()
                trainable += p.numel() if p.requires_grad else 0
                mask = getattr(p, "mask", None)
                pruned += 0 if mask is None else int(mask.size - mask.sum())
        kind = type(module).__name__
        rows.append(Row(name, kind, shapes.get(id(module)), params, trainable, pruned, nbytes, macs.get(id(module))))
    return Summary(rows, type(model).__name__, input_size is not None, unregistered(model))


def _inputs(model: Module, given: Any) -> tuple:
    if isinstance(given, Tensor):
        return (given,)
    if isinstance(given, np.ndarray):
        return (wrap(given),)
    if isinstance(given, (tuple, list)) and given and all(isinstance(a, Tensor) for a in given):
        return tuple(given)
    if isinstance(given, Sequence) and all(isinstance(n, (int, np.integer)) for n in given):
        floats = [t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()]
        return (wrap(np.zeros(tuple(given), floats[0].array.dtype if floats else np.float32)),)
    raise TypeError(f"input_size must be a shape, a Tensor, an array or a tuple of Tensors, not {given!r}")


def _run(model: Module, inputs: tuple, shapes: dict, macs: dict) -> None:
    def note(module: Module, args: tuple, kwargs: dict, output: Any) -> None:
        shapes[id(module)] = _shapes(output)
        n = _macs(module, args, kwargs, output)
        if n is not None:
            macs[id(module)] = macs.get(id(module), 0) + n

    modules = list(model.modules())
    modes = [m.training for m in modules]
    handles = [m.register_forward_hook(note, with_kwargs=True) for m in modules]
    generator = random.get_state()
    try:
        model.eval()
        with no_grad():
            model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for m, mode in zip(modules, modes, strict=True):
            m.training = mode
        random.set_state(generator)


def _shapes(output: Any) -> Any:
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, (tuple, list)):
        return [_shapes(o) for o in output]
    return [_shapes(o) for o in output.values()] if isinstance(output, dict) else None


def _shape_text(shape: Any) -> str:
    if shape is None:
        return "-"
    return str(shape) if isinstance(shape, tuple) else "[" + ", ".join(_shape_text(s) for s in shape) + "]"


def _macs(module: Module, args: tuple, kwargs: dict, output: Any) -> int | None:
    """Multiply-adds of the products in this module itself, not in its children; None for a module without any."""
    if isinstance(module, Linear):
        return output.numel() * module.in_features
    if isinstance(module, Bilinear):
        return output.numel() * module.in1_features * (module.in2_features + 1)
    if isinstance(module, _Conv):
        # each weight meets every output place (of a transposed convolution: every input place)
        x = args[0] if args else kwargs["x"]
        t = x if module.transposed else output
        return prod(t.shape[-module.dims :]) * prod(t.shape[: -module.dims - 1]) * module.weight.numel()
    if isinstance(module, MultiheadAttention):
        given = [*args[:3], *(kwargs[k] for k in ("query", "key", "value") if k in kwargs)]
        q, k, v = given
        n, e = q.numel() // q.shape[-1], module.embed_dim
        s = k.shape[-2] if module.batch_first or k.ndim == 2 else k.shape[0]
        s += (module.bias_k is not None) + module.add_zero_attn
        return n * e * e + (k.numel() + v.numel()) * e + 2 * n * s * e
    return None
