"""Whole networks in one file: the ops or integer steps beside the weights, so that loading needs none of the code.

A file holds a dict as `minidl.io.save` writes it: "net" ("recorded" or "integer"), "steps", "output", "sample", and
"state", the parameters and buffers by name, parameters as small as `save_model` makes them (masks as bits, packed
weights packed). Of the ops in a file only those of minidl itself are known, by name; nothing else can be called.
"""

from __future__ import annotations

import math
import os
from functools import partial
from typing import Any

import numpy as np

from minidl import dtypes
from minidl.autograd import no_grad
from minidl.compress.files import decode, encode
from minidl.compress.net_checks import check_flow, check_layers, check_sizes, fit_fields
from minidl.compress.quantize.static import Float, IntegerNet
from minidl.compress.quantize.steps import Quant, pair, plain, steps_by_name
from minidl.compress.record import Const, Recorded, State, Step, Value, ops
from minidl.io import CheckpointError, load, save
from minidl.io.npz import MAX_BYTES
from minidl.nn.parameter import Buffer, Parameter
from minidl.storage import Packed
from minidl.tensors import Tensor, wrap

__all__ = ["load_net", "save_net"]

Path = str | os.PathLike[str]
SMALLEST, LARGEST = (float(v) for v in (np.finfo(np.float32).smallest_normal, np.finfo(np.float32).max))


def save_net(net: Recorded | IntegerNet, path: Path) -> int:
    """Write a network that `record`, `fold` or `quantize_static` made, whole or not at all; returns the file's bytes.

    `path` ends in .safetensors (or .npz). Raises TypeError for another kind of model (save_model writes its state,
    record makes a network of it), and for an op whose arguments are no plain values.

    >>> import tempfile
    >>> from minidl import nn
    >>> from minidl.compress import record
    >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
    >>> x = np.ones((2, 3), np.float32)
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> size = save_net(record(model, x), path)
    >>> bool((load_net(path)(wrap(x)) == model(wrap(x))).all())
    True
    """
    if not isinstance(net, (Recorded, IntegerNet)):
        raise TypeError(
            f"save_net writes what record or quantize_static made, not a {type(net).__name__}; record(model, example) "
            "first, or save_model for its state alone"
        )
    params = dict(net.named_parameters(remove_duplicate=False))
    made: dict[int, Any] = {}  # a parameter that has two names is one object in the file
    for t in params.values():
        if id(t) not in made:
            made[id(t)] = encode(t)
    content: dict[str, Any] = {
        "net": "recorded" if isinstance(net, Recorded) else "integer",
        "sample": list(net.sample),
        "parameters": {name: made[id(t)] for name, t in params.items()},
        "buffers": {name: wrap(t.array) for name, t in net.named_buffers(remove_duplicate=False)},
    }
    if isinstance(net, Recorded):
        content |= {"output": net.output.index, "steps": [_call(s) for s in net.steps]}
    else:
        steps = [
            {"step": "Float", "call": _call(s.call), "out": s.out, "y": s.y and pair(s.y)}
            if isinstance(s, Float) else plain(s)
            for s in net.steps
        ]  # fmt: skip
        quants = {str(i): pair(q) for i, q in net.quants.items()}
        content |= {"output": net.output, "steps": steps, "quants": quants, "tables": net.tables}
    save(content, path)
    return os.path.getsize(path)


def load_net(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """The network in a file of `save_net`, ready to run; nothing of the code that made it is needed.

    Raises CheckpointError, naming the file and the reason, for a file that is missing, truncated or inconsistent, holds
    no network, asks for an op that minidl does not have, or whose network does not run: it runs once, on zeros.
    """
    content = load(path, max_bytes=max_bytes)
    if not isinstance(content, dict) or content.get("net") not in ("recorded", "integer"):
        raise CheckpointError(f"{path}: holds no network; load_model reads the state of a model into it")
    try:
        net = _network(content, path, max_bytes)
        _run_once(net, max_bytes)
        return net
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as problem:
        raise CheckpointError(f"{path}: its network is inconsistent ({problem!r})") from problem


def _network(content: dict[str, Any], path: Path, max_bytes: int) -> Any:
    state: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}
    for name, value in content["parameters"].items():
        key = _key(value)
        if key not in made:
            if isinstance(value, dict):
                value = decode(value, partial(_damaged, path, name), max_bytes)
            p = Parameter(value)
            p.mask = getattr(value, "mask", None)
            made[key] = p
        state[name] = made[key]
    for name, value in content["buffers"].items():
        state[name] = Buffer(value.array if isinstance(value, Tensor) else value)
    sample, known = check_sizes("its sample", content["sample"]), ops()
    net: Any
    if content["net"] == "recorded":
        steps = [_step(record, known) for record in content["steps"]]
        check_flow(steps, content["output"])
        net = Recorded(steps, Value(content["output"]), state, sample)
        read = [ref for step in steps for ref in step.refs()]
    else:
        kinds = steps_by_name()
        built: list[Any] = []
        for record in content["steps"]:
            record = dict(record)
            name = record.pop("step")
            if name == "Float":
                built.append(Float(_step(record["call"], known), record["out"], _quant(record["y"])))
                continue
            if "quants" in record:
                record["quants"] = tuple(_quant(q) for q in record["quants"])
            for part in ("x_quant", "b_quant", "y"):
                if part in record:
                    record[part] = _quant(record[part])
            fit_fields(kinds[name], record)
            built.append(kinds[name](**record))
        quants = {int(i): _quant(q) for i, q in content["quants"].items()}
        if None in quants.values():
            raise ValueError(f"its scales are {content['quants']!r}")
        tables = content.get("tables", {})
        if not all(type(b) is int and 2 <= b <= 8 and name in state for name, b in tables.items()):
            raise ValueError(f"its tables are {tables!r}")
        check_flow(built, content["output"], quants)  # type: ignore[arg-type]
        net = IntegerNet(built, content["output"], quants, state, sample, tables)  # type: ignore[arg-type]
        read = [ref for s in built if isinstance(s, Float) for ref in s.call.refs()]
        read += [State(n) for s in net.layers() for n in (s.weight, s.bias) if n is not None]
    missing = {ref.name for ref in read if not isinstance(ref, Value)} - set(state)
    if missing:
        raise ValueError(f"its steps read {sorted(missing)}, which are not there")
    if isinstance(net, IntegerNet):
        check_layers(net.layers(), state, content["parameters"])
    return net.eval()


def _run_once(net: Any, max_bytes: int) -> None:
    """Raises ValueError for a network that does not run: on one input of zeros, floats or, for tokens, integers."""
    if 8 * math.prod(net.sample) > max_bytes:
        raise ValueError(f"it takes inputs of shape {net.sample}, more than the limit of {max_bytes} bytes")
    problems = []
    for dtype in (np.float32, np.int64):
        try:
            with no_grad(), np.errstate(all="ignore"):
                net(wrap(np.zeros((1, *net.sample), dtype)))
            return
        except Exception as problem:  # whatever an op makes of arguments that are not its own
            problems.append(problem)
    raise ValueError(f"it does not run: {problems[0]!r}")


def _damaged(path: Path, name: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: {name!r} {reason}")


def _key(value: Any) -> int:
    if isinstance(value, Tensor):
        return id(value.array)
    held = [next(iter(v.arrays().values())) if isinstance(v, Packed) else v for v in value.values()]
    return hash(tuple(id(v) for v in held if isinstance(v, np.ndarray)))


def _quant(values: Any) -> Quant | None:
    if values is None:
        return None
    scale, zero, *bits = values
    bits = bits or [8]
    whole = len(bits) == 1 and type(bits[0]) is int and 2 <= bits[0] <= 8 and type(zero) is int
    if not (whole and isinstance(scale, float) and SMALLEST <= scale <= LARGEST and -128 <= zero <= 127):
        raise ValueError(f"{values!r} is no scale and zero point")
    return Quant(scale, zero, bits[0])


def _call(step: Step) -> dict[str, Any]:
    return {
        "op": step.op, "args": _plain(step.args, step), "kwargs": _plain(step.kwargs, step), "outs": list(step.outs),
        "scope": step.scope,
    }  # fmt: skip


def _step(record: dict[str, Any], known: dict[str, Any]) -> Step:
    if record["op"] not in known:
        raise ValueError(f"minidl has no op {record['op']!r}")
    args, kwargs, outs, where = (record[key] for key in ("args", "kwargs", "outs", "scope"))
    args, kwargs = _args(args), _args(kwargs)
    if not (isinstance(args, tuple) and isinstance(kwargs, dict) and isinstance(where, str)):
        raise ValueError(f"op {record['op']} is called with {args!r}, {kwargs!r} in {where!r}")
    return Step(record["op"], args, kwargs, tuple(outs), where)


def _plain(tree: Any, step: Step) -> Any:
    """Arguments as values that a file can hold."""
    if isinstance(tree, Value):
        return {"value": tree.index}
    if isinstance(tree, State):
        return {"state": tree.name}
    if isinstance(tree, Const):
        return {"const": tree.index}
    if isinstance(tree, slice):
        return {"slice": [tree.start, tree.stop, tree.step]}
    if tree is Ellipsis:
        return {"ellipsis": True}
    if isinstance(tree, (np.dtype, dtypes.DType)) or (isinstance(tree, type) and issubclass(tree, np.generic)):
        return {"dtype": dtypes.as_numpy(tree).name}
    if isinstance(tree, dict):
        return {"dict": [[k, _plain(v, step)] for k, v in tree.items()]}
    if isinstance(tree, (tuple, list)):
        return type(tree)(_plain(t, step) for t in tree) if type(tree) in (tuple, list) else tuple(map(int, tree))
    if tree is None or isinstance(tree, (bool, int, float, str, np.generic)):
        return tree
    raise TypeError(f"save_net: op {step.op} in {step.scope or 'the network'} has an argument {type(tree).__name__}")


def _args(tree: Any) -> Any:
    if isinstance(tree, dict):
        ((kind, value),) = tree.items()
        makers: dict[str, Any] = {
            "value": Value, "state": State, "const": Const, "dtype": np.dtype, "slice": lambda v: slice(*v),
            "ellipsis": lambda v: Ellipsis, "dict": lambda v: {k: _args(t) for k, t in v},
        }  # fmt: skip
        return makers[kind](value)
    if isinstance(tree, (tuple, list)):
        return type(tree)(_args(t) for t in tree)
    return tree
