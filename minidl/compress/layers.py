"""A model looked at layer by layer: the time that each takes, its multiply-adds, its kernels, and what it can bear."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl.autograd import no_grad
from minidl.compress.prune import magnitude_mask, prunable
from minidl.compress.quantize import pack_weight
from minidl.devices import is_cuda_array, move
from minidl.nn.parameter import Parameter
from minidl.nn.summaries import _macs
from minidl.storage import Packed
from minidl.tensors import Tensor

__all__ = ["Ran", "bears", "precisions", "ran", "sqnr"]

Array = Any


@dataclass
class Ran:
    """What a module did in a forward pass: itself, without the modules that it called."""

    ms: float = 0.0
    macs: int | None = None
    kernels: list[str] = field(default_factory=list)


def ran(model: Any, x: Any, repeats: int = 20) -> tuple[dict[str, Ran], float]:
    """What each module did, by path; and the milliseconds of a whole pass that nobody times in parts.

    Passes of both kinds take turns, after three that are not counted; all times are means over the middle half of
    `repeats` passes, so that the parts of a pass add up; what the clock itself takes is measured and taken off. A
    batch norm and the relu behind it that run in one pass (nn/passes.py) do so here, too: the time is the norm's. GPUs
    are waited for after every module. `model` is in the mode that is to be looked at.
    """
    found: dict[str, Ran] = {}
    stack: list[list[float]] = []  # for each module that is running: the seconds of those that it called
    times: list[dict[str, float]] = []

    def timed(name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def around(work: Callable[[], Any]) -> Any:
            inner: list[float] = []
            stack.append(inner)
            begin = time.perf_counter()
            try:
                out = work()
                if isinstance(out, Tensor) and is_cuda_array(out.array):
                    out.array.device.synchronize()
            finally:
                stack.pop()
            seconds = time.perf_counter() - begin
            times[-1][name] = times[-1].get(name, 0.0) + seconds - sum(inner)
            if stack:
                stack[-1].append(seconds + clock_takes)  # which is nobody's work
            return out

        def run(*args: Any, **kwargs: Any) -> Any:
            return around(lambda: forward(*args, **kwargs))

        run.around = around  # type: ignore[attr-defined]  # for what is done in the module's place: nn/passes.py
        return run

    clock_takes = 0.0
    clock_takes = _unseen(timed("", lambda: None), times)
    modules = dict(model.named_modules())
    _look_once(model, modules, x, found)
    clocks = {name: timed(name, m.forward) for name, m in modules.items()}
    whole: list[float] = []
    with no_grad():
        for _ in range(3 + repeats):
            times.append({})
            for name, m in modules.items():
                m.__dict__["forward"] = clocks[name]
            try:
                model(x)
            finally:
                for m in modules.values():
                    del m.__dict__["forward"]
            begin = time.perf_counter()
            y = model(x)
            if isinstance(y, Tensor) and is_cuda_array(y.array):
                y.array.device.synchronize()
            whole.append(time.perf_counter() - begin)
    middle = _middle(sorted(times[3:], key=lambda t: sum(t.values())))
    for name in found:
        if not any(name in t for t in middle):  # the module before did its work in one pass with its own
            found[name].kernels = []
        found[name].ms = 1000 * sum(t.get(name, 0.0) for t in middle) / len(middle)
    plain = _middle(sorted(whole[3:]))
    return found, 1000 * sum(plain) / len(plain)


def _unseen(nothing: Callable[[], Any], times: list[dict[str, float]]) -> float:
    """Seconds that timing a call takes beside those it notes, measured: the least of some means."""
    means = []
    for _ in range(7):
        times.append({})
        begin = time.perf_counter()
        for _ in range(100):
            nothing()
        means.append((time.perf_counter() - begin - sum(times.pop().values())) / 100)
    return max(0.0, min(means))


def _middle(ordered: list[Any]) -> list[Any]:
    """The half between the quarters."""
    return ordered[len(ordered) // 4 : len(ordered) - len(ordered) // 4]


def _look_once(model: Any, modules: dict[str, Any], x: Any, found: dict[str, Ran]) -> None:
    """One pass that notes multiply-adds and kernels."""
    inside: list[str] = []
    handles = []
    with kernels.listen() as heard:

        def enter(name: str) -> Any:
            def hook(module: Any, args: tuple) -> None:
                _give(found, inside, heard)
                inside.append(name)
                found.setdefault(name, Ran())

            return hook

        def leave(name: str) -> Any:
            def hook(module: Any, args: tuple, kwargs: dict, out: Any) -> None:
                _give(found, inside, heard)
                inside.pop()
                n = _macs(module, args, kwargs, out)
                if n is not None:
                    found[name].macs = (found[name].macs or 0) + n

            return hook

        for name, m in modules.items():
            handles.append(m.register_forward_pre_hook(enter(name)))
            handles.append(m.register_forward_hook(leave(name), with_kwargs=True))
        try:
            with no_grad():
                model(x)
        finally:
            for handle in handles:
                handle.remove()


def _give(found: dict[str, Ran], inside: list[str], heard: list[tuple[str, str]]) -> None:
    """What was heard since the last time is the running module's."""
    if inside:
        for op, variant in heard:
            if (text := f"{op}: {variant}") not in found[inside[-1]].kernels:
                found[inside[-1]].kernels.append(text)
    heard.clear()


# -- what a layer can bear --------------------------------------------------------------------------------------------


def sqnr(w: Array, approximation: Array) -> float:
    """Signal to quantization noise in decibels, 10 log10(sum w^2 / sum (w - approximation)^2); infinite without noise.

    >>> round(sqnr(np.float32([3, 4]), np.float32([3, 4.5])), 2)
    20.0
    """
    w, a = (move(v, "cpu").astype(np.float64) for v in (w, approximation))
    noise = float(np.square(w - a).sum())
    signal = float(np.square(w).sum())
    return float("inf") if noise == 0 else 10 * float(np.log10(signal / noise)) if signal else float("-inf")


def precisions(p: Any, bits: tuple[int, ...]) -> dict[int, tuple[Packed, float]]:
    """A float32 weight in so many bits, with scales per output: the packed weight and its SQNR. Empty for others."""
    if p.packed or p.array.dtype != np.float32 or p.ndim < 2 or not np.isfinite(move(p.array, "cpu")).all():
        return {}
    made = {b: pack_weight(p.array, b, mask=p.mask) for b in bits}
    return {b: (packed, sqnr(p.array, packed.dequantize())) for b, packed in made.items()}


def bears(model: Any, score: Callable[[Any], float], bits: tuple[int, ...], prune: tuple[float, ...]) -> dict[str, Any]:
    """For each weight by name, the score when only this weight is compressed: {"int8": ..., "prune 50 %": ...}.

    Weights that are packed already, or read by layers that cannot take packed ones, are left out or only pruned. The
    model is as it was afterwards.
    """
    from minidl import nn

    readers = (nn.Linear, nn.Conv2d, nn.Embedding)
    able = {id(m.weight) for m in model.modules() if isinstance(m, readers)}
    found: dict[str, Any] = {}
    for name, p in prunable(model):
        if p.packed:
            continue
        tried: dict[str, float] = {}
        array, grad, wanted = p.array, p.grad, p.requires_grad
        try:
            if id(p) in able:
                for b, (packed, _) in precisions(p, bits).items():
                    _put(p, packed)
                    tried[f"int{b}"] = score(model)
                    p.array = array
            for share in prune:
                _put(p, array * magnitude_mask(array, share, p.mask))
                tried[f"prune {100 * share:g} %"] = score(model)
        finally:
            p.array = array
            p.bump()
            p.requires_grad_(wanted)
            p.grad = grad
        found[name] = tried
    return found


def _put(p: Parameter, array: Any) -> None:
    p.requires_grad_(False)
    p.array = array
    p.bump()
