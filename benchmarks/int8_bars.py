"""The bars of int8, measured here: accuracy on the digits over seeds, bytes and milliseconds of four networks.

    python -m benchmarks.int8_bars [--seeds 0,1,2] [--threads N] [--repeats N]

Accuracy: a CNN trained in float, then in int8 with weights only, dynamic, static by layer, static from end to end, and
pruned to 80 % zeros, retrained, and static from end to end; all on the images that it was not trained on. Speed and
bytes: each network as one file from end to end in int8 beside its own float network, calls in turns, medians; a bar is
held where the int8 network is at least 1.5 times as fast and at most 27 % of the bytes.
"""

from __future__ import annotations

import argparse
import copy
import functools
import os
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

import minidl
from minidl import models, nn, optim, random
from minidl.autograd import no_grad
from minidl.compress import latencies, prune_, quantize_, quantize_static, record, save_net
from minidl.compress.reports import table
from minidl.data import digits
from minidl.nn import functional as F
from minidl.tensors import wrap


def train(model: Any, x: np.ndarray, y: np.ndarray, rows: np.ndarray, epochs: int, rate: float, seed: int) -> None:
    optimizer, order = optim.Adam(model.parameters(), lr=rate), rows.copy()
    schedule = optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-len(rows) // 32))
    generator = np.random.default_rng(seed)
    for _ in range(epochs):
        generator.shuffle(order)
        for i in range(0, len(order), 32):
            some = order[i : i + 32]
            loss = F.cross_entropy(model(wrap(x[some])), wrap(y[some]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


def accuracies(seed: int) -> dict[str, float]:
    """Test accuracy of each form."""
    x, y = digits()
    x = x[:, None].astype(np.float32) / 16
    order = np.random.default_rng(seed).permutation(len(x))
    rows, test = order[:1437], order[1437:]
    random.manual_seed(seed)
    model = nn.Sequential(models.DigitsCNN(width=24))
    train(model, x, y, rows, 12, 2e-3, seed)
    model.eval()
    pruned = prune_(copy.deepcopy(model).train(), 0.8)
    train(pruned, x, y, rows, 8, 1e-3, seed)
    seen = x[rows[:256]]
    nets = {
        "float": model,
        "int8 weights": quantize_(copy.deepcopy(model), weight_only=True),
        "dynamic": quantize_(copy.deepcopy(model)),
        "static layers": quantize_(copy.deepcopy(model), calibration=seen),
        "end to end": quantize_static(model, seen),
        "80 % pruned": pruned.eval(),
        "pruned, int8": quantize_static(pruned, seen),
    }
    with no_grad():
        return {k: float((net(wrap(x[test])).array.argmax(1) == y[test]).mean()) for k, net in nets.items()}


def networks() -> dict[str, tuple[Callable[[], Any], Callable[[], np.ndarray]]]:
    """A network and a batch of its inputs each."""
    draw = np.random.default_rng(0)
    images = lambda *size: lambda: draw.normal(size=size).astype(np.float32)
    return {
        "DigitsCNN, 256 digits": (lambda: nn.Sequential(models.DigitsCNN(width=24)), images(256, 1, 8, 8)),
        "mnist_cnn, 64 of 28 x 28": (models.mnist_cnn, images(64, 1, 28, 28)),
        "ResNet-18, 4 of 64 x 64": (models.resnet18, images(4, 3, 64, 64)),
        "GPT of 12.6 M, 4 x 128 tokens": (
            lambda: models.GPT(512, context=128, dim=512, heads=8, layers=4), lambda: draw.integers(0, 512, (4, 128))
        ),
        "EfficientNet-Lite0, 2 images": (models.efficientnet_lite0, images(2, 3, 224, 224)),
    }  # fmt: skip


def measured(name: str, make: Callable[[], Any], data: Callable[[], np.ndarray], repeats: int) -> tuple[str, ...]:
    model, x = make().eval(), data()
    net = quantize_static(model, x)
    with tempfile.TemporaryDirectory() as folder, no_grad():
        whole = save_net(record(model, x), os.path.join(folder, "float.safetensors"))
        small = save_net(net, os.path.join(folder, "int8.safetensors"))
        calls = {"float": functools.partial(model, wrap(x)), "int8": functools.partial(net, wrap(x))}
        ms = latencies(calls, repeats)
        a, b = (call().array.reshape(len(x), -1).astype(np.float64) for call in calls.values())
    cosine = float(((a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))).mean())
    faster, share = ms["float"] / ms["int8"], small / whole
    held = "held" if faster >= 1.5 and share <= 0.27 else "MISSED"
    return (
        name, f"{ms['float']:.2f}", f"{ms['int8']:.2f}", f"{faster:.2f}", f"{whole / 1e6:.3f}", f"{small / 1e6:.3f}",
        f"{100 * share:.1f} %", f"{cosine:.4f}", held,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", type=int, help="default: all")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", choices=("accuracy", "speed"))
    arguments = parser.parse_args()
    if arguments.threads:
        minidl.set_num_threads(arguments.threads)
    if arguments.only != "speed":
        found = {seed: accuracies(seed) for seed in map(int, arguments.seeds.split(","))}
        forms = list(next(iter(found.values())))
        print(
            "\n".join(
                table(("seed", *forms), [(str(s), *(f"{row[k]:.4f}" for k in forms)) for s, row in found.items()])
            )
        )
        int8 = max(abs(r[k] - r["float"]) for r in found.values() for k in forms[1:5])
        both = max(r["float"] - r["pruned, int8"] for r in found.values())
        print(
            f"int8 differs from float by {100 * int8:.2f} points at most: {'held' if int8 <= 0.005 else 'MISSED'} (0.5)"
        )
        print(f"pruned and int8 lose {100 * both:.2f} points at most: {'held' if both <= 0.01 else 'MISSED'} (1)")
    if arguments.only != "accuracy":
        random.manual_seed(0)
        rows = [measured(name, make, data, arguments.repeats) for name, (make, data) in networks().items()]
        head = ("", "ms float", "ms int8", "times as fast", "MB float", "MB int8", "bytes", "cosine", "bar")
        print("\n".join(table(head, rows)))


if __name__ == "__main__":
    main()
