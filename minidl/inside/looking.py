"""What a computation does here and now: the kernels it calls, the operations it counts, the time it takes."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

import minidl_kernels
from minidl.autograd import Op, Watcher, grad, no_grad
from minidl.inside.counting import Count, Counting, counted
from minidl.tensors import Tensor, wrap
from minidl_kernels import registry

__all__ = ["Cost", "KernelCall", "RanOps", "ceilings", "cost", "graph_nodes", "kernels_called", "tensors", "timed"]


def tensors(y: Any) -> Iterator[Tensor]:
    """The Tensors in a result: itself, or those in tuples, lists and dicts."""
    if isinstance(y, Tensor):
        yield y
    elif isinstance(y, (tuple, list)):
        for part in y:
            yield from tensors(part)
    elif isinstance(y, dict):
        yield from tensors(list(y.values()))


# -- kernels ----------------------------------------------------------------------------------------------------------


@dataclass
class KernelCall:
    """A call of a kernel: its name, its arguments, and the variant that ran."""

    name: str
    args: tuple
    variant: str


class kernels_called:
    """``with kernels_called() as calls:`` the list of this thread's calls of kernels, in order."""

    _lock = threading.RLock()
    _lists: dict[int, list[list[KernelCall]]] = {}

    def __enter__(self) -> list[KernelCall]:
        self.calls: list[KernelCall] = []
        with self._lock:
            if not self._lists:
                minidl_kernels.call = _call  # type: ignore[assignment]
            self._lists.setdefault(threading.get_ident(), []).append(self.calls)
        return self.calls

    def __exit__(self, *_: Any) -> None:
        with self._lock:
            mine = self._lists[threading.get_ident()]
            mine.remove(self.calls)
            if not mine:
                del self._lists[threading.get_ident()]
            if not self._lists:
                minidl_kernels.call = registry.call


def _call(name: Any, args: tuple) -> Any:
    y = registry.call(name, args)
    lists = kernels_called._lists.get(threading.get_ident())
    if lists:
        op = registry.ops()[name]
        found = KernelCall(name, args, registry.choose(op, [registry._normal(a) for a in args]).name)
        for calls in lists:
            calls.append(found)
    return y


# -- ops --------------------------------------------------------------------------------------------------------------


class RanOps(Watcher):
    """The ops that ran on Tensors, in order, as (op, its inputs' shapes, its outputs)."""

    def __init__(self) -> None:
        self.ran_ops: list[tuple[Any, list, Any]] = []

    def ran(self, ctx: Any, inputs: Any, args: tuple, kwargs: dict, out: Any) -> None:
        self.ran_ops.append((ctx, [tuple(a.shape) for a in inputs if isinstance(a, Tensor)], out))


def graph_nodes(ys: list[Tensor]) -> list[Any]:
    """All nodes behind some Tensors, each once."""
    found: dict[Any, None] = {}
    stack = [y.node for y in ys if y.node is not None]
    while stack:
        node = stack.pop()
        if node not in found:
            found[node] = None
            stack += [p for p in node.parents if isinstance(p, Op)]
    return list(found)


# -- costs ------------------------------------------------------------------------------------------------------------


@dataclass
class Cost:
    """Operations of a forward and of the backward after it, and the bytes that go in and come out of the forward."""

    forward: Count
    backward: Count | None
    read: int
    written: int

    @property
    def bytes(self) -> int:
        """Read and written."""
        return self.read + self.written

    @property
    def intensity(self) -> float:
        """Operations per byte of the forward."""
        return self.forward.flops / self.bytes if self.bytes else 0.0


def cost(f: Callable, leaves: list[Tensor], extra: list[Tensor] | None = None) -> Cost:
    """Count what f(*leaves) computes, and its backward; `extra` are the parameters that it reads besides.

    The parameters' arrays count while they are read here, and are put back afterwards.
    """
    parameters = extra or []
    kept = [p.array for p in parameters]
    try:
        for p in parameters:
            if isinstance(p.array, np.ndarray):
                p.array = p.array.view(Counting)
        with counted() as forward:
            given = [wrap(t.array.view(Counting), True) for t in leaves]
            ys = list(tensors(f(*given)))
        wants = [*given, *(p for p in parameters if p.requires_grad)]
        roots = [y for y in ys if y.requires_grad]
        backward = None
        if roots and wants:
            seeds = [wrap(np.ones(y.array.shape, y.array.dtype).view(Counting)) for y in roots]
            with counted() as backward:
                try:
                    grad(roots, wants, seeds, allow_unused=True)
                except NotImplementedError:
                    backward = None
    finally:
        for p, array in zip(parameters, kept):
            p.array = array
    read = sum(t.nbytes for t in leaves) + sum(p.array.nbytes for p in parameters)
    return Cost(forward, backward, read, sum(y.nbytes for y in ys))


def timed(f: Callable[[], Any], seconds: float = 0.02) -> float:
    """The median time of a call, after one to warm up."""
    with no_grad():
        f()
        times: list[float] = []
        end = perf_counter() + seconds
        while len(times) < 5 or perf_counter() < end:
            start = perf_counter()
            f()
            times.append(perf_counter() - start)
            if len(times) >= 1000:
                break
    return median(times)


@functools.cache
def _ceilings(threads: int, tier: str) -> Any:
    """Measured once and kept beside the compiled kernels, which belong to this machine, too."""
    from minidl.bench.ceilings import Ceilings, measure_ceilings
    from minidl.io import atomic_write
    from minidl_kernels.cpu import jit

    file = jit.cache_folder() / f"ceilings-{platform.node()}-{tier}-{threads}.json"
    try:
        kept = json.loads(file.read_text())
        streams = {name: tuple((int(n), float(v)) for n, v in steps) for name, steps in kept["streams"].items()}
        return Ceilings(threads, tier, {k: float(v) for k, v in kept["rates"].items()}, streams)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        found = measure_ceilings(threads, tier, 0.15)
    with contextlib.suppress(OSError), atomic_write(str(file)) as out:
        out.write(json.dumps(found.to_dict()).encode())
    return found


def ceilings() -> Any:
    """What this machine can do at most with the threads in use: measured when first asked for, in a second or two."""
    from minidl_kernels.cpu import machine

    return _ceilings(minidl_kernels.get_num_threads(), machine.machine().tier)
