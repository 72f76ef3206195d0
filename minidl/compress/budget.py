"""A budget: which weight takes which treatment so that the model gets small, fast or stays accurate enough.

Every weight is tried alone in several ways, and it is measured what that costs in accuracy and saves in the file.
Then, one step after the other, the treatment is taken that costs least for what it saves, and the model as it then is
is measured anew, until the budget is met or nothing is left to take. Each step says why.

With a way to train the model, steps that cost accuracy are made good by retraining before they are judged, and a limit
on time, or on bytes that no treatment of the weights would meet, by removing channels first.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minidl.compress.files import stored_bytes
from minidl.compress.prune import magnitude_mask, prunable, prune_channels_
from minidl.compress.quantize import pack_int8, pack_weight
from minidl.compress.reports import _score, latencies, table
from minidl.compress.slimming import slim
from minidl.storage import Packed
from minidl.tensors import wrap

__all__ = ["Budget", "Step", "meet_budget_"]

Array = Any


@dataclass(frozen=True)
class Step:
    """One decision: a weight, its treatment, what that did when measured alone, and the whole model afterwards."""

    name: str
    treatment: str
    cost: float
    saved: int
    bytes: int
    accuracy: float
    ms: float
    taken: bool
    why: str


@dataclass
class Budget:
    """What was decided; `print(budget)` explains it. `met`: whether all limits hold, as measured at the end."""

    max_bytes: int | None
    max_ms: float | None
    min_accuracy: float | None
    steps: list[Step] = field(default_factory=list)
    bytes: int = 0
    accuracy: float = 0.0
    ms: float = 0.0
    dense: tuple[int, float, float] = (0, 0.0, 0.0)

    @property
    def met(self) -> bool:
        """All limits hold."""
        return not self.missed()

    def missed(self) -> list[str]:
        """The limits that do not hold, in words."""
        out = []
        if self.max_bytes is not None and self.bytes > self.max_bytes:
            out.append(f"{self.bytes:,} bytes, {self.bytes - self.max_bytes:,} too many; prune and retrain, or slim")
        if self.max_ms is not None and self.ms > self.max_ms:
            out.append(
                f"{self.ms:.3f} ms, {self.ms - self.max_ms:.3f} too many: fewer bits are not faster here, whole "
                "channels are (prune_channels_, slim)"
            )
        if self.min_accuracy is not None and self.accuracy < self.min_accuracy:
            out.append(f"accuracy {self.accuracy:.4f}, below {self.min_accuracy:.4f} already before compression")
        return out

    def __str__(self) -> str:
        head = ("weight", "treatment", "", "alone", "saves", "then bytes", "accuracy", "ms")
        body = [
            (
                s.name, s.treatment, "taken" if s.taken else s.why, f"{100 * s.cost:+.2f}", f"{s.saved:,}",
                f"{s.bytes:,}", f"{s.accuracy:.4f}", f"{s.ms:.3f}",
            )
            for s in self.steps
        ]  # fmt: skip
        size, accuracy, ms = self.dense
        lines = [f"before: {size:,} bytes, accuracy {accuracy:.4f}, {ms:.3f} ms"]
        if body:
            lines += ["alone: points of accuracy lost when nothing else is compressed", *table(head, body, left=3)]
        lines.append(f"after:  {self.bytes:,} bytes, accuracy {self.accuracy:.4f}, {self.ms:.3f} ms")
        return "\n".join([*lines, *(f"NOT met: {m}" for m in self.missed())])


def _treatments() -> dict[str, Callable[[Array, Array | None], tuple[Any, Array | None]]]:
    """By name: weight and mask -> what takes its place, and the mask then. From the mildest to the strongest."""

    def pruned(share: float, then: Callable[[Array, Array], Any]) -> Any:
        def treat(w: Array, mask: Array | None) -> tuple[Any, Array]:
            kept = magnitude_mask(w, share, mask)
            return then(w * kept, kept), kept

        return treat

    return {
        "int8": lambda w, mask: (pack_int8(w, mask=mask), mask),
        "int4": lambda w, mask: (pack_weight(w, 4, mask=mask), mask),
        "prune 50 %": pruned(0.5, lambda w, m: w),
        "prune 50 %, int8": pruned(0.5, lambda w, m: pack_int8(w, mask=m)),
        "prune 80 %, int8": pruned(0.8, lambda w, m: pack_int8(w, mask=m)),
    }


def meet_budget_(
    model: Any,
    data: Any,
    *,
    max_bytes: int | None = None,
    max_ms: float | None = None,
    min_accuracy: float | None = None,
    skip: str | Iterable[str] = (),
    retrain: Callable[[Any], Any] | None = None,
) -> Budget:
    """Compress a classifier in place, weight by weight, until it meets the limits; returns what was decided and why.

    Args:
        data: (x, y) or batches of that, on which every accuracy and time is measured: not those that you test on.
        max_bytes: of the parameters and buffers in a file of `save_model`.
        max_ms: of a forward pass of the first batch.
        min_accuracy: a step that falls below it is taken back; with no other limit, as small as that allows.
        skip: names of parameters or modules to leave alone; ``*`` stands for anything.
        retrain: ``retrain(model)`` trains what is still float, in place, a little, on other data than `data`; with an
            optimizer of its own, since `max_ms` is then met by removing channels, after which parameters have new
            shapes, and so is a `max_bytes` that no treatment of weights would meet. It is called after each step
            that cost accuracy. Without it nothing is trained.

    If the limits cannot be met, the model is as far on the way as it came, and `missed()` says what is missing.
    Raises ValueError without a limit, for a limit that is not positive, and for data that are no classification;
    TypeError for weights that are packed already.
    """
    from minidl import nn

    limits = {"max_bytes": max_bytes, "max_ms": max_ms, "min_accuracy": min_accuracy}
    if all(v is None for v in limits.values()):
        raise ValueError("meet_budget_: give at least one of max_bytes, max_ms and min_accuracy")
    for name, v in limits.items():
        if v is not None and not v > 0:
            raise ValueError(f"meet_budget_: {name} must be positive, got {v}")
    readers = (nn.Linear, nn.Conv2d)
    able = {id(m.weight) for m in model.modules() if isinstance(m, readers)}
    weights = {}
    for name, p in prunable(model, skip):
        if isinstance(p.array, Packed):
            raise TypeError(f"meet_budget_: {name} is packed as {p.array.kind} already; call dequantize_(model) first")
        if id(p) in able and p.array.dtype == np.float32:
            weights[name] = p
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        return _search(model, data, weights, Budget(max_bytes, max_ms, min_accuracy), retrain, skip)
    finally:
        for m, mode in modes:
            m.training = mode


def _search(
    model: Any, data: Any, weights: dict[str, Any], budget: Budget, retrain: Callable[[Any], Any] | None, skip: Any
) -> Budget:
    if not (isinstance(data, (tuple, list)) or hasattr(data, "__len__")):
        data = list(data)

    def measure() -> tuple[int, float, float]:
        _, accuracy, x = _score(model, data, None)
        if accuracy is None:
            raise ValueError("meet_budget_: the data are no classification, so there is no accuracy to keep")
        size = sum({id(t): stored_bytes(t) for t in model.state_dict(keep_vars=True).values()}.values())
        return size, accuracy, latencies({"": lambda: model(wrap(x.array))}, 10, 0.05)[""]

    budget.dense = now = measure()
    budget.bytes, budget.accuracy, budget.ms = now
    if retrain is not None:
        _fewer_channels(model, data, list(weights), budget, retrain, skip, measure)
        weights = {name: p for name, p in model.named_parameters() if name in weights}
        now = budget.bytes, budget.accuracy, budget.ms
    floats = {name: (p.array, p.mask, p.requires_grad) for name, p in weights.items()}
    options = []  # name, treatment, what it makes, cost, bytes
    for name, p in weights.items():
        for way, treat in _treatments().items():
            made = treat(floats[name][0], floats[name][1])
            _put(p, *made)
            _, accuracy, _ = _score(model, data, None)
            options.append((name, way, made, now[1] - (accuracy or 0.0), stored_bytes(p)))
            _restore(p, *floats[name])
    held = {name: (stored_bytes(p), 0.0) for name, p in weights.items()}

    def wanted() -> bool:
        if budget.max_bytes is not None and budget.bytes > budget.max_bytes:
            return True
        if budget.max_ms is not None and budget.ms > budget.max_ms:
            return True
        return budget.max_bytes is None and budget.max_ms is None

    while wanted():
        able = [o for o in options if o[4] < held[o[0]][0]]
        if not able:
            break
        # least accuracy for the bytes; of those that cost nothing the one that saves most
        rate = lambda o: (
            max(0.0, o[3] - held[o[0]][1]) / (held[o[0]][0] - o[4]), -(held[o[0]][0] - o[4])
        )  # fmt: skip
        best = min(able, key=rate)
        options.remove(best)
        name, way, made, cost, size = best
        p, saved = weights[name], held[name][0] - size
        before = _held(model)
        rival = copy.deepcopy(model) if budget.max_ms is not None else None
        if retrain is not None:  # since it was tried, the weight may have been trained
            made = _treatments()[way](*floats[name][:2])
            size = stored_bytes(p)
        _put(p, *made)
        now = measure()
        if retrain is not None and now[1] < budget.accuracy and any(q.requires_grad for q in model.parameters()):
            retrain(model)
            model.eval()
            now, way = measure(), f"{way}, retrained"
        size = stored_bytes(p)
        faster = rival is None or _faster(model, rival, data)
        taken, why = True, ""
        if budget.min_accuracy is not None and now[1] < budget.min_accuracy:
            taken, why = False, f"taken back: below {budget.min_accuracy:.4f}"
        elif budget.max_bytes is None and not faster:
            taken, why = False, "taken back: not faster"
        budget.steps.append(Step(name, way, cost, saved, *now, taken, why))
        if taken:
            held[name] = size, cost
            floats |= {n: (q.array, q.mask, q.requires_grad) for n, q in weights.items() if not q.packed}
            budget.bytes, budget.accuracy, budget.ms = now
        else:
            _put_back(before)
    return budget


def _least(model: Any, names: list[str], now: int) -> int:
    """Bytes with the strongest treatment of all weights."""
    for name in names:
        p = model.get_parameter(name)
        before, whole = (p.array, p.mask, p.requires_grad), stored_bytes(p)
        _put(p, *_treatments()["prune 80 %, int8"](p.array, p.mask))
        now -= max(0, whole - stored_bytes(p))
        _restore(p, *before)
    return now


def _fewer_channels(
    model: Any, data: Any, names: list[str], budget: Budget, retrain: Callable[[Any], Any], skip: Any,
    measure: Callable[[], Any],
) -> None:  # fmt: skip
    """Remove a quarter of the channels that are left, retrain, and again, until time and bytes are in reach."""
    x = _score(model, data, None)[2][:1]

    def needed() -> bool:
        slow = budget.max_ms is not None and budget.ms > budget.max_ms
        return slow or (budget.max_bytes is not None and _least(model, names, budget.bytes) > budget.max_bytes)

    while needed():
        size, accuracy, before = budget.bytes, budget.accuracy, dict(model.__dict__)
        try:
            small = slim(prune_channels_(copy.deepcopy(model), 0.25, x, skip=skip), x)
        except ValueError as problem:
            reason = str(problem).splitlines()[0]
            why = f"no more channels can go: {reason}"
            budget.steps.append(Step("all", "25 % of channels", 0.0, 0, size, accuracy, budget.ms, False, why))
            return
        retrain(small)
        small.eval()
        model.__dict__.update(small.__dict__)
        now: tuple[int, float, float] = measure()
        taken, why = True, ""
        if budget.min_accuracy is not None and now[1] < budget.min_accuracy:
            taken, why = False, f"taken back: below {budget.min_accuracy:.4f}"
            model.__dict__.update(before)
        cost = accuracy - now[1]
        budget.steps.append(Step("all", "25 % of channels, retrained", cost, size - now[0], *now, taken, why))
        if not taken:
            return
        budget.bytes, budget.accuracy, budget.ms = now


def _held(model: Any) -> list[tuple[Any, Any, Any, bool]]:
    """All parameters and buffers, with their values: retraining changes more than one of them."""
    return [
        (t, t.array if getattr(t, "packed", False) else t.array.copy(), getattr(t, "mask", None), t.requires_grad)
        for t in model.state_dict(keep_vars=True).values()
    ]


def _put_back(held: list[tuple[Any, Any, Any, bool]]) -> None:
    for t, array, mask, trained in held:
        if hasattr(t, "mask"):
            _restore(t, array, mask, trained)
        else:
            t.array = array
            t.bump()


def _faster(model: Any, rival: Any, data: Any) -> bool:
    """Whether it is, by 5 % at least, timed in turns: what the machine does besides meets both."""
    x = _score(model, data, None)[2]
    ms = latencies({"now": lambda: model(x), "before": lambda: rival(x)}, 10, 0.05)
    return ms["now"] < 0.95 * ms["before"]


def _put(p: Any, array: Any, mask: Array | None) -> None:
    p.requires_grad_(False)
    p.grad = None
    p.mask = None
    p.array = array
    p.mask = mask
    p.bump()


def _restore(p: Any, array: Any, mask: Array | None, trained: bool) -> None:
    _put(p, array, mask)
    if not p.packed:
        p.requires_grad_(trained)
