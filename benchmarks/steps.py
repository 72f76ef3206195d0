"""A training step beside torch's, same network, data and optimizer: ``python -m benchmarks.steps [network ...]``.

Each network is built in both, torch's weights are loaded into minidl's, and the losses of the first steps must agree
before anything is timed. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import minidl
import minidl.nn
import minidl.optim
from benchmarks.timing import measure, unit


def mlp(nn: Any) -> Any:
    """64-128-10."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn(nn: Any) -> Any:
    """The digits network: two 3x3 convolutions, pooling, two linear layers, on 8 x 8 images."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def mnist(nn: Any) -> Any:
    """The mission's network on 28 x 28 images, 1,199,882 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64 * 12 * 12, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def attention(nn: Any) -> Any:
    """Two transformer encoder layers of width 64 on 64 steps, then a classifier of all of them."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
    return nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Flatten(), nn.Linear(64 * 64, 10))


NETWORKS: dict[str, tuple[Callable, tuple[int, ...]]] = {
    "mlp": (mlp, (32, 64)),
    "cnn": (cnn, (64, 1, 8, 8)),
    "mnist": (mnist, (64, 1, 28, 28)),
    "attention": (attention, (16, 64, 64)),
}


def step(model: Any, loss: Callable, optimizer: Any, x: Any, t: Any) -> Callable[[], Any]:
    """One training step as a function."""

    def run() -> Any:
        optimizer.zero_grad()
        value = loss(model(x), t)
        value.backward()
        optimizer.step()
        return value

    return run


def contestants(name: str) -> dict[str, Callable[[], Any]]:
    """The step in both libraries, from the same weights. Raises SystemExit when the losses differ."""
    build, shape = NETWORKS[name]
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal(shape, np.float32), rng.integers(0, 10, shape[0])
    theirs, ours = build(torch.nn), build(minidl.nn)
    ours.load_state_dict({k: minidl.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    a = step(
        ours,
        minidl.nn.CrossEntropyLoss(),
        minidl.optim.Adam(ours.parameters(), 1e-4),
        minidl.tensor(x),
        minidl.tensor(t),
    )
    b = step(
        theirs,
        torch.nn.CrossEntropyLoss(),
        torch.optim.Adam(theirs.parameters(), 1e-4),
        torch.from_numpy(x),
        torch.from_numpy(t),
    )
    for _ in range(3):
        la, lb = a().item(), b().item()
        if not math.isclose(la, lb, rel_tol=1e-3):
            raise SystemExit(f"{name}: minidl's loss {la} is not torch's {lb}; nothing is timed")
    return {"minidl": a, "torch": b}


def main(argv: list[str] | None = None) -> int:
    """Time the networks and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description=__doc__)
    parser.add_argument("network", nargs="*", choices=[[], *NETWORKS])
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--seconds", type=float, default=2.0)
    args = parser.parse_args(argv)
    if args.threads:
        minidl.set_num_threads(args.threads)
    torch.set_num_threads(minidl.get_num_threads())
    print(f"{minidl.get_num_threads()} threads; ratio = torch's time / ours, above 1 is faster than torch")
    for name in args.network or NETWORKS:
        times = measure(contestants(name), args.seconds)
        ratio = times["torch"] / times["minidl"]
        print(f"{name:10s} {unit(times['minidl'])}   torch {unit(times['torch'])}   x{ratio:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
