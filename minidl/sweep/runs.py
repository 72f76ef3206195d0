"""Training, compressing and measuring, point by point; every point is on disk before the next begins."""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from minidl import metrics, nn, optim, random
from minidl.cli import UserError
from minidl.compress import latencies, load_model, pack_, prune_, prune_channels_, quantize_, save_model, slim
from minidl.data import ImageData
from minidl.io import CheckpointError, atomic_write
from minidl.models import DigitsCNN, mnist_cnn, resnet_cifar
from minidl.tensors import wrap
from minidl.train import fit, predict

__all__ = ["MODELS", "Plan", "Sweep", "maker"]

BATCH, RATE, TIMED = 64, 0.005, 256


def _mlp(image: tuple[int, ...], classes: int) -> Any:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(int(np.prod(image)), 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(),
        nn.Linear(128, classes),
    )  # fmt: skip


MODELS: dict[str, tuple[Callable[..., Any], str]] = {
    "cnn": (lambda image, classes: DigitsCNN(image, classes), "the demo's two convolutions"),
    "mlp": (_mlp, "three dense layers"),
    "mnist-cnn": (lambda image, classes: mnist_cnn(classes, image), "1.2 million parameters for 28 x 28"),
    "resnet": (lambda image, classes: resnet_cifar(8, classes, in_channels=image[0]), "ResNet-8 for small images"),
}


def maker(model: str) -> Callable[..., Any]:
    """make(image, classes) of a model's name, or of FILE.py:FUNCTION. Raises UserError."""
    if model in MODELS:
        return MODELS[model][0]
    path, colon, function = model.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise UserError(f"MODEL: {model!r} is none of {', '.join(MODELS)}; your own is FILE.py:FUNCTION")
    if not os.path.isfile(path):
        raise UserError(f"MODEL: there is no file {path}")
    spec = importlib.util.spec_from_file_location("users_model", path)
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(page)
    except Exception as error:
        raise UserError(f"MODEL: {path} cannot be run: {type(error).__name__}: {error}") from error
    if not callable(getattr(page, function, None)):
        raise UserError(f"MODEL: {path} has no function {function}(image_shape, classes)")
    return getattr(page, function)


def train(model: Any, images: ImageData, epochs: int, rate: float) -> None:
    """Train what is float, in place: AdamW, its rate down to 0 along a cosine."""
    optimizer = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    batches = -(-len(images.x_train) // BATCH)
    fit(
        model,
        (images.x_train, images.y_train),
        loss=nn.functional.cross_entropy,
        optimizer=optimizer,
        scheduler=optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * batches),
        scheduler_per="step",
        epochs=epochs,
        batch_size=BATCH,
        progress=False,
    )


@dataclass
class Plan:
    """What is to be swept. `epochs` are those of the dense training; each pruned model retrains for half of that."""

    model: str
    channels: list[float]
    prune: list[float]
    bits: list[int]
    seeds: list[int]
    epochs: int
    data: str

    def settings(self) -> Iterator[tuple[float, float]]:
        """(share of channels, sparsity) of each model that is trained."""
        for channels in self.channels:
            for prune in self.prune:
                yield channels, prune

    def size(self) -> int:
        """How many points there are."""
        return len(self.seeds) * len(self.channels) * len(self.prune) * len(self.bits)


class Sweep:
    """The points of a plan, made one after the other in a folder that remembers them."""

    def __init__(self, plan: Plan, make: Callable[..., Any], images: Callable[[int], ImageData], folder: str) -> None:
        self.plan, self.make, self.images, self.folder = plan, make, images, folder
        self.points: list[dict[str, Any]] = []

    def resume(self) -> int:
        """Read what the folder has of this very plan; returns the number of points. UserError if it is another's."""
        path = os.path.join(self.folder, "plan.json")
        ours = asdict(self.plan)
        if os.path.exists(path):
            try:
                with open(path, encoding="utf-8") as file:
                    theirs = json.load(file)
            except ValueError as error:
                raise UserError(f"--out: {path} is damaged ({error}); remove the folder to start anew") from error
            differing = [k for k in ours if not isinstance(theirs, dict) or theirs.get(k) != ours[k]]
            if differing:
                raise UserError(
                    f"--out: {self.folder} is of another sweep ({', '.join(differing)} differ): give the same options "
                    "to go on, or another folder"
                )
        else:
            self._write("plan.json", ours)
        for point in sorted(os.listdir(self.folder)):
            if point.startswith("point-") and point.endswith(".json"):
                with open(os.path.join(self.folder, point), encoding="utf-8") as file:
                    self.points.append(json.load(file))
        return len(self.points)

    def run(self) -> Iterator[dict[str, Any]]:
        """Make the points that are missing. Each is written whole before it is given."""
        done = {(p["seed"], p["channels"], p["prune"], p["bits"]) for p in self.points}
        for seed in self.plan.seeds:
            images = self.images(seed)
            dense: Any = None
            for channels, prune in self.plan.settings():
                todo = [b for b in self.plan.bits if (seed, channels, prune, b) not in done]
                if not todo:
                    continue
                if dense is None:
                    dense = self._trained(seed, 0.0, 0.0, images, None)
                model = dense if not channels and not prune else self._trained(seed, channels, prune, images, dense)
                for bits in todo:
                    point = self._measured(model, dense, seed, channels, prune, bits, images)
                    self.points.append(point)
                    self._write(f"point-{seed}-{channels:g}-{prune:g}-{bits}.json", point)
                    yield point

    def _trained(self, seed: int, channels: float, prune: float, images: ImageData, dense: Any) -> Any:
        """The model of a setting: from the folder if it is there, else trained, or pruned and retrained."""
        path = os.path.join(self.folder, f"model-{seed}-{channels:g}-{prune:g}.safetensors")
        random.manual_seed(seed)
        shape = images.x_train.shape[1:]
        model = self.make(shape, images.num_classes) if dense is None else copy.deepcopy(dense)
        x = wrap(images.x_train[:1])
        if channels:
            model = slim(prune_channels_(model, channels, x), x)
        if prune:
            prune_(model, prune)
        if os.path.exists(path):
            try:
                return load_model(model, path).eval()
            except CheckpointError:
                os.unlink(path)  # of an interrupted or older run: it is made again
        steps = max(1, self.plan.epochs if dense is None else -(-self.plan.epochs // 2))
        train(model, images, steps, RATE if dense is None else RATE / 2)
        save_model(model, path)
        return model.eval()

    def _measured(
        self, model: Any, dense: Any, seed: int, channels: float, prune: float, bits: int, images: ImageData
    ) -> dict[str, Any]:
        """Accuracy on the test images, bytes of the file, milliseconds beside the dense model's, in turns."""
        small = copy.deepcopy(model)
        if bits < 32:
            quantize_(small, bits)
        elif prune:
            pack_(small)
        small.eval()
        logits = predict(small, images.x_test)
        with tempfile.TemporaryDirectory() as folder:
            size = save_model(small, os.path.join(folder, "model.safetensors"))
        batch, one = wrap(images.x_test[:TIMED]), wrap(images.x_test[:1])
        ms = latencies({"dense": lambda: dense(batch), "small": lambda: small(batch)}, 15, 0.1)
        ms_one = latencies({"small": lambda: small(one)}, 15, 0.05)["small"]
        return {
            "seed": seed, "channels": channels, "prune": prune, "bits": bits,
            "accuracy": float(metrics.accuracy(logits, images.y_test)), "n": len(images.y_test), "bytes": size,
            "ms": ms["small"], "ms_one": ms_one, "speed": ms["dense"] / ms["small"],
            "parameters": sum(p.numel() for p in small.parameters()),
        }  # fmt: skip

    def _write(self, name: str, value: Any) -> None:
        with atomic_write(os.path.join(self.folder, name)) as file:
            file.write(json.dumps(value).encode() + b"\n")
