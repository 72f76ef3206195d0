"""Networks pruned and trained on: accuracy before and after, bytes on disk, milliseconds beside the dense one.

    python -m benchmarks.pruned_networks [resnet] [gpt] [efficientnet] [--seed N] [--threads N]

resnet        ResNet-8 of minidl.models, trained here on the digits of the package
gpt           minidl.models.GPT, trained here on the documentation of Python by characters; heads and neurons go
efficientnet  EfficientNet-Lite0 with its ImageNet weights and a new head on surfaces: photographs of scikit-image in
              patches, left halves to train, right halves to test

Unstructured: weights of least magnitude, of all layers together. Structured: channels, neurons and heads of least L2
norm, the same share in each layer, removed by `slim`. Milliseconds are medians of calls in turns.
"""

from __future__ import annotations

import argparse
import copy
import functools
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import minidl
import minidl.nn.functional as F
from minidl import models, nn, optim
from minidl.compress import latencies, prune_, prune_channels_, save_model, slim
from minidl.compress.reports import table
from minidl.data import CharTokenizer, load_images, texture_patches
from minidl.data.transforms import Resize
from minidl.train import fit, predict


@dataclass
class Case:
    """A trained network, and how to go on."""

    name: str
    model: Any
    metric: str
    score: Callable[[Any], float]
    train: Callable[[Any], None]  # after pruning
    x: Any  # what is timed; its first row shows the structure
    weights: float  # shares to prune
    channels: float


def fitted(model: Any, x: Any, y: Any, epochs: int, rate: float, batch: int = 64, kind: Any = optim.AdamW) -> None:
    """Trained in place; the rate goes down to 0 along a cosine."""
    optimizer = kind(model.parameters(), lr=rate)
    steps = epochs * -(-len(x) // batch)
    fit(
        model,
        (x, y),
        loss=nn.functional.cross_entropy,
        optimizer=optimizer,
        scheduler=optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
        scheduler_per="step",
        epochs=epochs,
        batch_size=batch,
        progress=False,
    )


def resnet(seed: int) -> Case:
    data = load_images(None, seed=seed).scaled()
    model = models.resnet_cifar(8, 10, in_channels=1)
    fitted(model, data.x_train, data.y_train, 5, 4e-3)
    accuracy = lambda m: float((predict(m, data.x_test).array.argmax(1) == data.y_test).mean())
    again = lambda m: fitted(m, data.x_train, data.y_train, 4, 2e-3)
    return Case("ResNet-8, digits", model, "accuracy", accuracy, again, minidl.tensor(data.x_test[:64]), 0.8, 0.5)


def gpt(seed: int) -> Case:
    from pydoc_data.topics import topics

    text = "\n\n".join(dict.fromkeys("\n\n".join(topics[k] for k in sorted(topics)).split("\n\n")))
    tokenizer = CharTokenizer.train(text)
    ids, context = np.array(tokenizer.encode(text)), 64
    cut = int(0.95 * len(ids))
    model = models.GPT(len(tokenizer.vocab), context, dim=96, heads=6, layers=3)
    held = minidl.tensor(ids[cut : cut + 128 * (context + 1)].reshape(128, context + 1))

    def train(m: Any, steps: int, rate: float) -> None:
        draw = np.random.default_rng(seed)
        adam = optim.AdamW(m.parameters(), lr=rate)
        schedule = optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        m.train()
        for _ in range(steps):
            at = draw.integers(0, cut - context - 1, 32)
            rows = minidl.tensor(np.stack([ids[i : i + context + 1] for i in at]))
            loss = F.cross_entropy(m(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()

    def bits(m: Any) -> float:
        with minidl.no_grad():
            logits = m.eval()(held[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1), held[:, 1:].flatten()).item() / math.log(2)

    train(model, 300, 3e-3)
    again = functools.partial(train, steps=150, rate=1e-3)
    return Case("GPT, text", model, "bits / character", bits, again, held[:16, :-1], 0.5, 1 / 3)


def efficientnet(seed: int) -> Case:
    pixels = texture_patches()
    scaled = lambda p: np.asarray(Resize((96, 96))(p[:, None].astype(np.float32)))
    seen = lambda p: np.repeat((scaled(p) - 127) / 128, 3, axis=1)
    x, x_test = seen(pixels.x_train), seen(pixels.x_test)
    model = models.efficientnet_lite0().eval()
    with minidl.no_grad():
        features = np.concatenate([model.features(minidl.tensor(part)).array for part in np.array_split(x, 12)])
    model._fc = nn.Linear(1280, pixels.num_classes)
    fitted(model._fc, features, pixels.y_train, 40, 1e-3)
    accuracy = lambda m: float((predict(m, x_test).array.argmax(1) == pixels.y_test).mean())

    def again(m: Any) -> None:
        for norm in m.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = 0.1  # new statistics, faster than by 1 % a step
        fitted(m, x, pixels.y_train, 3, 0.01, 32, functools.partial(optim.SGD, momentum=0.9))

    return Case("EfficientNet-Lite0, surfaces", model, "accuracy", accuracy, again, minidl.tensor(x_test[:1]), 0.5, 0.3)


def rows(case: Case, repeats: int) -> list[tuple[str, ...]]:
    """The dense network, and the pruned ones at once and trained on."""
    dense = case.model.eval()
    sparse = prune_(copy.deepcopy(dense), case.weights)
    thin = slim(prune_channels_(copy.deepcopy(dense), case.channels, case.x[:1]), case.x[:1])
    made = {"dense": dense, f"{case.weights:.0%} of weights": sparse, f"{case.channels:.0%} of channels": thin}
    for name in list(made)[1:]:
        made[f"{name}, trained on"] = copy.deepcopy(made[name])
        case.train(made[f"{name}, trained on"])
    for m in made.values():
        m.eval()
    with minidl.no_grad():
        ms = latencies({name: functools.partial(m, case.x) for name, m in made.items()}, repeats)
    out: list[tuple[str, ...]] = []
    for name, m in made.items():
        with tempfile.TemporaryDirectory() as folder:
            size = save_model(m, os.path.join(folder, "model.safetensors"))
        speed = ms["dense"] / ms[name]
        out.append((case.name, name, f"{case.score(m):.3f}", f"{size:,}", f"{ms[name]:.2f}", f"{speed:.2f}"))
    return out


def main() -> None:
    cases = {"resnet": resnet, "gpt": gpt, "efficientnet": efficientnet}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", choices=[[], *cases], help="default: all three")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="default: all")
    parser.add_argument("--repeats", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.threads:
        minidl.set_num_threads(arguments.threads)
    for name in arguments.networks or cases:
        minidl.manual_seed(arguments.seed)
        case = cases[name](arguments.seed)
        head = ("", "", case.metric, "bytes", "ms", "times as fast")
        print("\n".join(table(head, rows(case, arguments.repeats), left=2)), flush=True)


if __name__ == "__main__":
    main()
