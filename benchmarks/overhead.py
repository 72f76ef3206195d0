"""What a call costs before the arithmetic starts: ``python -m benchmarks.overhead [row ...]``.

Small ops and a small training step, in minidl, torch and (where there is a like) NumPy, each on one thread and then on
the default number of threads. Results are compared before anything is timed. The contestants take turns in short bursts
and of each the fastest burst counts as well as the median one: on a machine that others use too, the fastest is what
the code costs, the median what a user waits. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter_ns
from typing import Any, NamedTuple

import numpy as np
import torch

import minidl
import minidl.data
import minidl.nn
import minidl.optim
from minidl.bench.models import step


class Row(NamedTuple):
    """One thing to time: a function for each library, and how many calls make a burst."""

    name: str
    minidl: Callable[[], Any]
    torch: Callable[[], Any]
    numpy: Callable[[], Any] | None = None
    calls: int = 200


RNG = np.random.default_rng(0)


def both(*shape: int, grad: bool = False) -> tuple[Any, Any]:
    """The same float32 numbers as a Tensor of either library."""
    a = RNG.standard_normal(shape, np.float32)
    return minidl.tensor(a, requires_grad=grad), torch.tensor(a, requires_grad=grad)


def op(name: str, f: Callable[..., Any], *operands: tuple[Any, Any], numpy: bool = True, calls: int = 200) -> Row:
    """A row that calls the same function on both libraries' operands, and on the arrays themselves."""
    a, b = [ours for ours, _ in operands], [theirs for _, theirs in operands]
    arrays = [ours.array for ours in a]
    # `f` is written out for each number of operands: a call with *arguments would add to what is measured.
    if len(operands) == 1:
        (x,), (y,), (z,) = a, b, arrays
        return Row(name, lambda: f(x), lambda: f(y), (lambda: f(z)) if numpy else None, calls)
    (x, x2), (y, y2), (z, z2) = a, b, arrays
    return Row(name, lambda: f(x, x2), lambda: f(y, y2), (lambda: f(z, z2)) if numpy else None, calls)


def ops() -> list[Row]:
    """The small ops."""
    x, y = both(10), both(10)
    p, q = both(10, grad=True), both(10, grad=True)
    m, n, bias = both(8, 8, grad=True), both(8, 8, grad=True), both(8, grad=True)
    number = both(1)
    labels = RNG.integers(0, 8, 8)
    t, u = minidl.tensor(labels), torch.tensor(labels)
    linear, theirs = minidl.nn.Linear(8, 8), torch.nn.Linear(8, 8)
    theirs.load_state_dict({k: torch.from_numpy(v.numpy(force=True)) for k, v in linear.state_dict().items()})
    loss = minidl.nn.functional.cross_entropy
    return [
        op("a + b", lambda a, b: a + b, x, y),
        op("a + b, a wants grad", lambda a, b: a + b, p, y),
        op("a + b, both want grad", lambda a, b: a + b, p, q),
        op("a * b", lambda a, b: a * b, p, q),
        op("a * 2", lambda a: a * 2, p),
        op("2 - a", lambda a: 2 - a, p),
        op("a < b", lambda a, b: a < b, p, q),
        op("a.relu()", lambda a: a.relu(), p, numpy=False),
        op("a.exp()", lambda a: a.exp(), p, numpy=False),
        op("a.sum()", lambda a: a.sum(), p),
        op("a.sum(0)", lambda a: a.sum(0), m),
        op("a[0]", lambda a: a[0], m),
        op("a.reshape(2, 5)", lambda a: a.reshape(2, 5), p),
        op("a.view(2, 5)", lambda a: a.view(2, 5), p, numpy=False),
        op("a.T", lambda a: a.T, m),
        op("a @ b, 8 x 8", lambda a, b: a @ b, m, n),
        Row(
            "F.linear, 8 x 8",
            lambda: minidl.nn.functional.linear(m[0], n[0], bias[0]),
            lambda: torch.nn.functional.linear(m[1], n[1], bias[1]),
        ),
        Row("Linear(8, 8)", lambda: linear(m[0]), lambda: theirs(m[1])),
        Row(
            "F.cross_entropy, 8 x 8",
            lambda: loss(m[0], t),
            lambda: torch.nn.functional.cross_entropy(m[1], u),
            calls=50,
        ),
        op("a.item()", lambda a: a.item(), number),
        Row("with no_grad()", lambda: _enter(minidl.no_grad()), lambda: _enter(torch.no_grad())),
        op("20 ops and backward", chain, p, q, numpy=False, calls=5),
        batches(),
    ]


def _enter(context: Any) -> None:
    with context:
        pass


def chain(a: Any, b: Any) -> Any:
    """Twenty nodes forward and back; the gradient of `a`."""
    a.grad = b.grad = None
    y = a
    for _ in range(10):
        y = y * b + a
    y.backward(b.detach())
    return a.grad


def batches() -> Row:
    """Ten batches of 32 from a TensorDataset."""
    x = RNG.standard_normal((320, 8), np.float32)
    ours = minidl.data.DataLoader(minidl.data.TensorDataset(minidl.tensor(x)), 32)
    theirs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(x)), 32)
    return Row("10 batches of 32", lambda: [b for (b,) in ours][-1], lambda: [b for (b,) in theirs][-1], calls=1)


def mlp(nn: Any) -> Any:
    """64-128-10."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def training(name: str) -> list[Row]:
    """The step of an MLP 64-128-10 on 32 rows, and the optimizer's part of it."""
    theirs, ours = mlp(torch.nn), mlp(minidl.nn)
    ours.load_state_dict({k: minidl.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    x, t = RNG.standard_normal((32, 64), np.float32), RNG.integers(0, 10, 32)
    mine = getattr(minidl.optim, name)(ours.parameters(), 1e-4)
    other = getattr(torch.optim, name)(theirs.parameters(), 1e-4)
    run = step(ours, minidl.nn.CrossEntropyLoss(), mine, minidl.tensor(x), minidl.tensor(t))
    peer = step(theirs, torch.nn.CrossEntropyLoss(), other, torch.from_numpy(x), torch.from_numpy(t))
    return [
        Row(f"MLP step, {name}", run, peer, calls=20),
        Row(f"{name}.step(), 4 parameters", mine.step, other.step, calls=20),
    ]


def values(result: Any) -> Any:
    """What a function gave, as an array."""
    if isinstance(result, (minidl.Tensor, torch.Tensor)):
        return result.detach().numpy()
    return np.asarray(0.0 if result is None else result)


def check(row: Row) -> None:
    """Raise SystemExit unless the libraries agree on the result."""
    ours, theirs = values(row.minidl()), values(row.torch())
    if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=1e-4, atol=1e-5):
        raise SystemExit(f"{row.name}: minidl gives {ours}, torch {theirs}; nothing is timed")


def bursts(contestants: Mapping[str, Callable[[], Any]], calls: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Microseconds per call of each contestant, in its fastest and its median burst, over about so many seconds."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    gc.collect()
    gc.disable()  # else one contestant pays for what another left behind
    try:
        end = perf_counter_ns() + seconds * 1e9
        while perf_counter_ns() < end or len(found["minidl"]) < 5:
            for name, call in contestants.items():
                call()  # back into the caches
                start = perf_counter_ns()
                for _ in range(calls):
                    call()
                found[name].append((perf_counter_ns() - start) / calls / 1e3)
    finally:
        gc.enable()
    return {name: (min(times), median(times)) for name, times in found.items()}


def main(argv: list[str] | None = None) -> int:
    """Time the rows and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("row", nargs="*", help="parts of the names of the rows to time; all, if none is given")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    args = parser.parse_args(argv)
    default = minidl.get_num_threads()
    for threads in dict.fromkeys((1, default)):
        minidl.set_num_threads(threads)
        torch.set_num_threads(threads)
        print(
            f"{threads} thread{'s' * (threads > 1)}; us per call, fastest (median) burst; ratio = torch's time / ours, "
            "above 1 is faster than torch"
        )
        for row in [*ops(), *training("Adam"), *training("SGD")]:
            if args.row and not any(part in row.name for part in args.row):
                continue
            check(row)
            runs = {"minidl": row.minidl, "torch": row.torch, **({"numpy": row.numpy} if row.numpy else {})}
            times = bursts(runs, row.calls, args.seconds)
            shown = "".join(f"   {name} {least:7.2f} ({middle:7.2f})" for name, (least, middle) in times.items())
            ratio, middle = (times["torch"][k] / times["minidl"][k] for k in (0, 1))
            print(f"{row.name:26s} x{ratio:.2f} ({middle:.2f}){shown}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
