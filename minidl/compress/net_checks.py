"""Whether the steps in a network's file are steps: every field of its type and in its range, nothing read before it is
made. What fits together no worse than that is left to the kernels, which check shapes before they touch memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from typing import Any

from minidl.compress.quantize.static import Float, reads
from minidl.compress.quantize.steps import Conv2d, Linear, Quant
from minidl.compress.record import Step, Value
from minidl.storage import Packed

__all__ = ["check_flow", "check_layers", "check_sizes", "fit_fields"]

LONGEST = 2**31 - 1  # of an axis, and of a number of a result
WIDEST = 1 << 12  # of windows, strides, dilations and borders: a hostile one would ask for all memory there is
APART = 1e30  # scales of what is read and of the result: the quotient is to be a float32

RANGES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("x", "b", "xs", "out"), (-LONGEST, LONGEST)), "dim": (-4, 3),
    "shape": (-1, LONGEST), "low": (-128, 127), "high": (-128, 127), "bits": (2, 8), "groups": (1, LONGEST),
    "size": (0, LONGEST), "padding": (0, WIDEST), "border": (-WIDEST, WIDEST), "window": (1, WIDEST),
    "stride": (1, WIDEST), "dilation": (1, WIDEST),
}  # fmt: skip


def _whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _fits(kind: str, name: str, value: Any) -> bool:
    """Whether a value is what a field's annotation says, numbers in their range."""
    if kind.endswith(" | None"):
        return value is None or _fits(kind.removesuffix(" | None"), name, value)
    if kind.startswith("tuple["):
        *items, last = kind[len("tuple[") : -1].split(", ")
        count = None if last == "..." else len(items) + 1
        return (
            type(value) is tuple
            and count in (None, len(value))
            and all(_fits((*items, last)[0], name, v) for v in value)
        )
    simple: dict[str, Callable[[], bool]] = {
        "int": lambda: _whole(value, *RANGES[name]),
        "float": lambda: type(value) is float and 0 <= value < float("inf"),
        "str": lambda: type(value) is str,
        "Quant": lambda: isinstance(value, Quant),
    }
    return simple[kind]()


def fit_fields(kind: Any, record: dict[str, Any]) -> None:
    """Raises ValueError unless the record has the fields of this kind of step and each is of its type and range."""
    wanted = {f.name: f for f in fields(kind) if f.name != "ready"}
    needed = {name for name, f in wanted.items() if f.default is MISSING}
    if not needed <= set(record) <= set(wanted):
        raise ValueError(f"a step {kind.__name__} has {sorted(record)}, not {sorted(wanted)}")
    for name, value in record.items():
        if not _fits(str(wanted[name].type), name, value):
            raise ValueError(f"a step {kind.__name__} has {name} = {value!r}, which is no {wanted[name].type} in range")
    given = [record[part] for part in ("x_quant", "b_quant") if part in record] + list(record.get("quants", ()))
    if (y := record.get("y")) is not None and any(q.scale > APART * y.scale for q in given):
        raise ValueError(f"a step {kind.__name__} has results of scale {y.scale}, far below that of what it reads")


def check_sizes(what: str, sizes: Any) -> tuple[int, ...]:
    """Axes of an array. Raises ValueError for anything else."""
    if not isinstance(sizes, (list, tuple)) or not all(_whole(n, 0, LONGEST) for n in sizes):
        raise ValueError(f"{what} is {sizes!r}, which is no shape")
    return tuple(sizes)


def check_flow(steps: Iterable[Any], output: Any, quants: dict[int, Quant] | None = None) -> None:
    """Raises ValueError where a step reads what no step before it made, makes what is there already, or reads floats
    as codes without a scale; and for an output that nothing makes.
    """
    made, codes = {0, -1}, set(quants or ())
    for i, step in enumerate(steps):
        recorded = isinstance(step, Step)
        read = [r.index for r in step.refs() if isinstance(r, Value)] if recorded else reads(step)
        outs = step.outs if recorded else (step.out,)
        if any(type(n) is not int or n not in made for n in read):
            raise ValueError(f"step {i} reads results {read}, of which some were not made before")
        call = step if recorded else getattr(step, "call", None)
        if call is not None and all(isinstance(r, Value) and r.index == -1 for r in call.refs()):
            raise ValueError(f"step {i}, {call.op}, reads no tensor")
        if not outs or any(not _whole(n, -LONGEST, LONGEST) or n in made for n in outs):
            raise ValueError(f"step {i} makes results {outs}: other numbers than 0 and -1, each made once")
        if isinstance(step, Float) and step.out not in step.call.outs:
            raise ValueError(f"step {i} gives result {step.out}, its op makes {step.call.outs}")
        if not recorded and not isinstance(step, Float) and not codes.issuperset(read):
            raise ValueError(f"step {i} reads results {read} as codes, of which some have no scale")
        if getattr(step, "y", None) is not None and not isinstance(step, Float):
            codes.update(outs)
        made.update(outs)
    if type(output) is not int or output not in made - {-1}:
        raise ValueError(f"its output is result {output!r}, which no step makes")


def check_layers(layers: Iterable[Any], state: dict[str, Any], parameters: Iterable[str]) -> None:
    """Raises ValueError where a layer's weight is no parameter of the axes it takes, or its bias does not fit."""
    parameters = set(parameters)
    for layer in layers:
        axes = {Linear: 2, Conv2d: 4}[type(layer)]
        w, b = state[layer.weight], None if layer.bias is None else state[layer.bias]
        if layer.weight not in parameters or w.ndim != axes:
            raise ValueError(f"{layer.weight!r} of shape {tuple(w.shape)} is no weight of {type(layer).__name__}")
        if b is not None and (isinstance(b.array, Packed) or tuple(b.shape) != (w.shape[0],)):
            raise ValueError(f"{layer.bias!r} of shape {tuple(b.shape)} is no bias of {w.shape[0]} outputs")
