"""What a model holds and how it does: parameters, nonzeros, bytes, loss, accuracy, milliseconds; nothing estimated."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from minidl.compress import layers
from minidl.compress.files import save_model, stored_bytes
from minidl.devices import array_module, is_cuda_array
from minidl.nn.parameter import Parameter
from minidl.storage import Packed
from minidl.tensors import Tensor, wrap

__all__ = ["Report", "Row", "latencies", "report"]


@dataclass(frozen=True)
class Row:
    """One layer: its path, its class, the shape and storage of its weight, and what its own parameters come to.

    With data also:

        ms        milliseconds of its own in a forward pass of the batch, without the layers that it calls
        macs      multiply-adds of linear, convolution and attention layers; None for others
        flops     floating point operations: 2 for each multiply-add
        kernels   the kernels that ran, as "operation: variant"
        at        bytes with its weight in so many bits, {8: ..., 4: ...}; of float32 weights
        sqnr      signal to noise of its weight in so many bits, decibels
        drop      points of accuracy lost (without classes: loss gained) when only this layer is compressed
    """

    name: str
    layer: str
    shape: tuple[int, ...]
    storage: str
    parameters: int
    nonzeros: int
    bytes: int
    ms: float | None = None
    macs: int | None = None
    kernels: tuple[str, ...] = ()
    at: dict[int, int] = field(default_factory=dict)
    sqnr: dict[int, float] = field(default_factory=dict)
    drop: dict[str, float] = field(default_factory=dict)

    @property
    def flops(self) -> int | None:
        """2 for each multiply-add."""
        return None if self.macs is None else 2 * self.macs


@dataclass(frozen=True)
class Report:
    """A model's layers and totals; `print(report)` shows the table.

    Attributes:
        rows: one for each layer that has parameters or buffers of its own; with data also for those that take time.
        parameters, nonzeros: numbers of the parameters.
        bytes: what parameters and buffers take in a file of `save_model`, without the file's header.
        loss, accuracy: over the given data; None without data, accuracy also when the targets are no classes.
        infer_ms_batch, infer_ms_one: median milliseconds for a batch of `batch` inputs, and for one; None without data.
        file_bytes: the size of the file of `save_model`, measured with data: `bytes`, and the rest is its header.
        layers_ms, pass_ms: the sum of the layers' milliseconds, and of passes in between, which nothing cut into parts:
            they differ by what looking on costs.
    """

    rows: tuple[Row, ...]
    parameters: int
    nonzeros: int
    bytes: int
    loss: float | None = None
    accuracy: float | None = None
    infer_ms_batch: float | None = None
    infer_ms_one: float | None = None
    batch: int | None = None
    file_bytes: int | None = None
    layers_ms: float | None = None
    pass_ms: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        fields = {k: v for k, v in vars(self).items() if k != "rows"}
        rows = [{**vars(r), "shape": list(r.shape), "flops": r.flops, "kernels": list(r.kernels)} for r in self.rows]
        return {"layers": rows, **fields}

    def __str__(self) -> str:
        head = ("layer", "", "weight", "stored as", "parameters", "nonzeros", "", "bytes")
        body = [
            (
                r.name, r.layer, "x".join(map(str, r.shape)), r.storage,
                f"{r.parameters:,}", f"{r.nonzeros:,}", _percent(r.nonzeros, r.parameters), f"{r.bytes:,}",
            )
            for r in self.rows
        ]  # fmt: skip
        total = (
            "total", "", "", "", f"{self.parameters:,}", f"{self.nonzeros:,}",
            _percent(self.nonzeros, self.parameters), f"{self.bytes:,}",
        )  # fmt: skip
        lines = table(head, [*body, total], left=4, rule_before_last=True)
        measured = []
        if self.loss is not None:
            measured.append(f"loss {self.loss:.4f}")
        if self.accuracy is not None:
            measured.append(f"accuracy {self.accuracy:.4f}")
        if self.infer_ms_batch is not None and self.infer_ms_one is not None:
            measured.append(f"{self.infer_ms_batch:.3f} ms for {self.batch}, {self.infer_ms_one:.3f} ms for one")
        if self.file_bytes is not None:
            measured.append(f"{self.file_bytes:,} bytes on disk, {self.file_bytes - self.bytes:,} of them header")
        text = [*lines, *([", ".join(measured)] if measured else [])]
        if self.layers_ms is not None:
            text += ["", *self._ran(), "", *self._borne()]
        return "\n".join(text).rstrip()

    def _ran(self) -> list[str]:
        """Time and operations."""
        rows = [r for r in self.rows if r.ms is not None]
        body = [
            (
                r.name, r.layer, "; ".join(r.kernels), _count(r.macs), _count(r.flops), f"{r.ms:.3f}",
                _percent(r.ms, self.layers_ms),
            )
            for r in rows
        ]  # fmt: skip
        macs = sum(r.macs or 0 for r in rows)
        total = ("total", "", "", f"{macs:,}", f"{2 * macs:,}", f"{self.layers_ms:.3f}", "")
        head = ("layer", "", "kernel", "MACs", "FLOPs", "ms", "")
        lines = table(head, [*body, total], left=3, rule_before_last=True)
        title = f"one forward pass of {self.batch}, layer by layer ({self.pass_ms:.3f} ms when not cut in parts):"
        return [title, *lines]

    def _borne(self) -> list[str]:
        """What other precisions would take and cost."""
        bits = sorted({b for r in self.rows for b in r.at}, reverse=True)
        ways = list(dict.fromkeys(way for r in self.rows for way in r.drop))
        rows = [r for r in self.rows if r.at or r.drop]
        if not rows:
            return []
        head = ["layer", "bytes", *(f"int{b}" for b in bits), *(f"dB at {b}" for b in bits), *ways]
        sign = 100 if self.accuracy is not None else 1
        body = [
            [
                r.name, f"{r.bytes:,}", *(f"{r.at[b]:,}" if b in r.at else "" for b in bits),
                *(f"{r.sqnr[b]:.1f}" if b in r.sqnr else "" for b in bits),
                *(f"{sign * r.drop[w]:+.2f}" if w in r.drop else "" for w in ways),
            ]
            for r in rows
        ]  # fmt: skip
        what = "points of accuracy lost" if self.accuracy is not None else "loss gained"
        return [
            "bytes and signal to noise of the weight in so many bits"
            + (f"; {what} when only that layer is compressed:" if ways else ":"),
            *table(head, body),
        ]


def report(
    model: Any,
    data: Any = None,
    *,
    loss: Callable[[Any, Any], Any] | None = None,
    repeats: int = 20,
    bits: Sequence[int] = (8, 4),
    prune: Sequence[float] = (0.5, 0.8),
    sensitivity: bool = True,
) -> Report:
    """Count a model's parameters layer by layer; with `data` also measure its loss, accuracy, time, and each layer's.

    Args:
        data: (x, y), arrays or Tensors, or an iterable of such batches, a DataLoader for instance. The model runs in
            evaluation mode, without gradients, and is left in the mode it was in. Times are of the first batch.
        loss: of (output, target), a mean over the batch; default cross_entropy.
        repeats: how often the inference is timed.
        bits: the precisions to try for each weight, 2 ... 8.
        prune: the sparsities to try for each weight.
        sensitivity: evaluate the model with each layer alone compressed, in each of these ways. That takes an
            evaluation for each layer and way; False leaves it out.

    Raises ValueError for data without a batch, TypeError for inputs without targets.

    >>> from minidl import nn
    >>> print(report(nn.Sequential(nn.Linear(3, 2), nn.ReLU())))
    layer          weight  stored as  parameters  nonzeros           bytes
    0      Linear  2x3     float32             8         8  100.0 %     32
    ----------------------------------------------------------------------
    total                                      8         8  100.0 %     32
    """
    rows = tuple(_rows(model))
    totals = {
        "parameters": sum(r.parameters for r in rows),
        "nonzeros": sum(r.nonzeros for r in rows),
        "bytes": sum(r.bytes for r in rows),
    }
    if data is None:
        return Report(rows, **totals)
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        mean, accuracy, x = _score(model, data, loss)
        ms = latencies({"batch": lambda: model(x), "one": lambda: model(wrap(x.array[:1]))}, repeats)
        rows, pass_ms = _measured(model, rows, x, repeats, tuple(bits))
        if sensitivity:
            rows = _with_drops(model, rows, data, loss, mean, accuracy, tuple(bits), tuple(prune))
    finally:
        for module, mode in modes:
            module.training = mode
    return Report(
        rows, **totals, loss=mean, accuracy=accuracy, infer_ms_batch=ms["batch"], infer_ms_one=ms["one"], batch=len(x),
        file_bytes=_file_bytes(model),
        layers_ms=sum(r.ms or 0.0 for r in rows), pass_ms=pass_ms,
    )  # fmt: skip


def _file_bytes(model: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return save_model(model, os.path.join(folder, "model.safetensors"))


def _measured(model: Any, rows: tuple[Row, ...], x: Any, repeats: int, bits: tuple) -> tuple[tuple[Row, ...], float]:
    """The rows with times, operations, kernels and precisions, and rows for what has no parameters but takes time."""
    found, total = layers.ran(model, x, repeats)
    own = {r.name: r for r in rows}
    made = []
    seen: set[int] = set()  # weights: a shared one is held by the first layer that has it
    for name, module in model.named_modules():
        title = name or type(module).__name__
        row = own.get(title)
        if name not in found:
            made += [row] if row is not None else []
            continue
        did = found[name]
        if row is None:
            row = Row(title, type(module).__name__, (), "", 0, 0, 0)
        at: dict[int, int] = {}
        noise: dict[int, float] = {}
        weight = module._parameters.get("weight")
        if weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            for b, (packed, db) in layers.precisions(weight, bits).items():
                at[b] = row.bytes - stored_bytes(weight) + stored_bytes(_as_packed(packed, weight.mask))
                noise[b] = db
        made.append(replace(row, ms=did.ms, macs=did.macs, kernels=tuple(did.kernels), at=at, sqnr=noise))
    return tuple(made), total


def _as_packed(packed: Any, mask: Any) -> Any:
    p = Parameter(packed)
    p.mask = mask
    return p


def _with_drops(
    model: Any, rows: tuple[Row, ...], data: Any, loss: Any, mean: float, accuracy: float | None, bits: tuple,
    prune: tuple,
) -> tuple[Row, ...]:  # fmt: skip
    """The rows with what is lost when only that layer is compressed."""

    def lost(changed: Any) -> float:
        other, share, _ = _score(changed, data, loss)
        return other - mean if accuracy is None or share is None else accuracy - share

    found = layers.bears(model, lost, bits, prune)
    names = {id(p): name for name, p in model.named_parameters()}
    made = []
    for row in rows:
        try:
            weight = model.get_submodule(row.name)._parameters.get("weight")
        except AttributeError:
            weight = model._parameters.get("weight")
        made.append(replace(row, drop=found.pop(names.get(id(weight), ""), {})))
    return tuple(made)


def _rows(model: Any) -> Iterable[Row]:
    seen: set[int] = set()
    for name, module in model.named_modules():
        parameters = nonzeros = size = 0
        shape: tuple[int, ...] = ()
        storage = ""
        stored = set(module.state_dict(keep_vars=True))
        own = dict(module.named_parameters(recurse=False))
        tensors = {**own, **dict(module.named_buffers(recurse=False))}
        for key, t in tensors.items():
            if id(t) in seen:
                continue
            seen.add(id(t))
            if key in own:
                parameters += t.numel()
                nonzeros += nonzero(t)
                if not storage or t.ndim > len(shape):
                    shape, storage = tuple(t.shape), _storage(t)
            if key in stored:
                size += stored_bytes(t)
        if parameters or size:
            yield Row(name or type(module).__name__, type(module).__name__, shape, storage, parameters, nonzeros, size)


def nonzero(t: Tensor) -> int:
    """How many elements are not 0; of packed storage, how many codes."""
    if isinstance(t.array, Packed):
        return t.array.nonzeros()
    a = t.array
    return int(array_module(a).count_nonzero(a))


def _storage(t: Tensor) -> str:
    kind = t.array.kind if isinstance(t.array, Packed) else str(t.array.dtype)
    return kind if getattr(t, "mask", None) is None else f"{kind}, pruned"


def _count(n: int | None) -> str:
    return "" if n is None else f"{n:,}"


def _percent(part: Any, whole: Any) -> str:
    return f"{100 * part / whole:.1f} %" if whole else ""


def _score(model: Any, data: Any, loss: Callable[[Any, Any], Any] | None) -> tuple[float, float | None, Tensor]:
    """Mean loss, accuracy if the targets are classes, and the first batch."""
    from minidl import metrics
    from minidl.autograd import no_grad
    from minidl.nn.functional import cross_entropy

    loss = cross_entropy if loss is None else loss
    total, n, first = 0.0, 0, None
    hits: Any = None
    pair = isinstance(data, (tuple, list)) and len(data) == 2 and all(hasattr(a, "shape") for a in data)
    with no_grad():
        for batch in [data] if pair else data:
            if not isinstance(batch, (tuple, list)) or len(batch) != 2:
                raise TypeError(
                    f"report: data must be (x, y) or batches of it, inputs with their targets; got as a batch "
                    f"{type(batch).__name__}; without targets, report(model) tells the sizes alone"
                )
            x, y = (a if isinstance(a, Tensor) else wrap(a) for a in batch)
            if len(x) == 0:
                continue
            out = model(x)
            total += float(loss(out, y).array) * len(x)
            n += len(x)
            if first is None:
                first = x
                hits = metrics.Running(metrics.accuracy) if y.array.dtype.kind in "iu" and out.ndim > y.ndim else None
            if hits is not None:
                hits.update(out, y)
    if first is None:
        raise ValueError("report: the data hold no batch")
    return total / n, None if hits is None else hits.value(), first


def latencies(calls: Mapping[str, Callable[[], Any]], repeats: int = 20, seconds: float = 0.3) -> dict[str, float]:
    """Median milliseconds of each call, timed in turns so that all see the same machine.

    Every call runs three times first (compilation, caches), then once in each of `repeats` rounds; rounds go on while
    less than `seconds` were measured for each call, up to ten times `repeats`. Gradients are off. A GPU is waited for.
    """
    from minidl.autograd import no_grad

    times: dict[str, list[float]] = {name: [] for name in calls}
    with no_grad():
        for call in calls.values():
            for _ in range(3):
                _finish(call())
        start, rounds = time.perf_counter(), 0
        while rounds < repeats or (rounds < 10 * repeats and time.perf_counter() - start < seconds * len(calls)):
            rounds += 1
            # Back and forth, so that none always comes after the same other.
            for name, call in list(calls.items())[:: 1 if rounds % 2 else -1]:
                begin = time.perf_counter()
                _finish(call())
                times[name].append(time.perf_counter() - begin)
    return {name: 1000 * statistics.median(found) for name, found in times.items()}


def _finish(y: Any) -> None:
    a = y.array if isinstance(y, Tensor) else y
    if is_cuda_array(a):
        a.device.synchronize()


def table(
    head: Iterable[str], body: Iterable[Iterable[str]], left: int = 1, rule_before_last: bool = False
) -> list[str]:
    """Lines of a table in columns: the first `left` of them flush left, the others flush right."""
    rows = [tuple(head), *map(tuple, body)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths))).rstrip()
        for r in rows
    ]
    if rule_before_last:
        lines.insert(-1, "-" * max(map(len, lines)))
    return lines
