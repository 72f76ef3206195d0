"""``minidl demo``: train a small CNN on real digits, prune it, quantize it, and measure what that gained and cost.

Everything that the user gave is checked before the training starts, and every number in the table is measured here:
the accuracy on images that were never trained on, the bytes of the files as they lie on disk, the time of the models as
they were loaded back from these files.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import __version__, metrics, nn, optim, random
from minidl.cli import UserError
from minidl.compress import latencies, load_model, masks, prune_, quantize_, save_model, sparsity
from minidl.compress.reports import nonzero, table
from minidl.data import DataError, ImageData, load_images
from minidl.io import atomic_write
from minidl.models import DigitsCNN
from minidl.outputs import check_outputs, try_writing
from minidl.storage import Packed
from minidl.tensors import wrap
from minidl.train import Callback, History, NonFiniteLoss, Run, fit, predict

__all__ = ["main", "run"]

TEST_SHARE = 0.25  # of data that have no test part of their own
PRUNED = 0.8
BATCH, RATE = 64, 0.005
say = functools.partial(print, flush=True)  # in step with the progress on stderr, also in a log file
NAMES = {"dense": "dense", "pruned": "pruned", "int8": "int8", "pruned_int8": "pruned + int8"}


def main(arguments: argparse.Namespace) -> None:
    """Run it with the command's arguments."""
    run(
        data=arguments.data,
        seed=arguments.seed,
        epochs=arguments.epochs,
        quick=arguments.quick,
        json_file=arguments.json,
        plot_file=arguments.plot,
        out=arguments.out,
    )


def run(
    data: str | None = None,
    seed: int = 0,
    epochs: int | None = None,
    quick: bool = False,
    json_file: str | None = None,
    plot_file: str | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Do the whole job; returns the figures that `json_file` receives. Raises UserError for what a user can mend."""
    start = time.perf_counter()
    _check_outputs(json_file, plot_file, out)
    images, source = _images(data, seed)
    random.manual_seed(seed)
    shape, classes = images.x_train.shape[1:], images.num_classes
    model = _usable(lambda: DigitsCNN(shape, classes))
    x_test, y_test = images.x_test, images.y_test
    if epochs is None:
        epochs = max(2, min(25, round(35_000 / len(images.x_train))))  # large data need fewer passes
        epochs = max(1, epochs // 10) if quick else epochs
    say(f"minidl {__version__}: seed {seed}, {_count(kernels.get_num_threads(), 'thread')}, CPU tier {_tier()}")
    say(f"data    {source}: {'x'.join(map(str, shape[1:]))} pixels, {classes} classes,")
    say(f"        {len(images.x_train):,} images to train on, {len(x_test):,} held out to test on")

    _headline("Train a dense model")
    dense = _Training(model, images, epochs, RATE, start)
    say(
        f"{dense.steps:,} steps in {dense.seconds:.1f} s, "
        f"the first of them done {dense.first_step_seconds:.1f} s after the start"
    )
    models: dict[str, Any] = {"dense": model}
    scores = {"dense": _score(model, x_test, y_test)}
    say(f"test loss {scores['dense']['loss']:.4f}, accuracy {scores['dense']['accuracy']:.4f}; recall of each class:")
    say(_recalls(scores["dense"]["recall"]))

    _headline(f"Prune {PRUNED:.0%} of the weights and retrain the rest")
    models["pruned"] = prune_(copy.deepcopy(model), PRUNED)
    before = _score(models["pruned"], x_test, y_test)
    again = _Training(models["pruned"], images, max(1, epochs // 3), RATE / 2)
    scores["pruned"] = _score(models["pruned"], x_test, y_test)
    say(f"accuracy {before['accuracy']:.4f} right after pruning, {scores['pruned']['accuracy']:.4f} after retraining")
    kept = "every" if _masks_hold(models["pruned"]) else "NOT every"
    say(f"{sparsity(models['pruned']):.1%} of the weights are zero; {kept} pruned weight stayed zero in retraining")

    _headline("Quantize to int8")
    for name, of in (("int8", "dense"), ("pruned_int8", "pruned")):
        models[name] = quantize_(copy.deepcopy(models[of]))
        scores[name] = _score(models[name], x_test, y_test)
    ran = _integer_kernels(models["int8"], x_test[:BATCH])
    say("weights int8 with a scale per output channel, activations int8 as they come, sums int32:")
    say("\n".join(table(("layer", "kernel", "variant"), ran, left=3)))

    _headline("Save, load back, compare, and time what was loaded")
    make = lambda: DigitsCNN(shape, classes)
    with _folder(out) as folder:
        for name in models:
            scores[name] |= _saved(models, name, os.path.join(folder, f"{name}.safetensors"), make, x_test)
    n = min(256, len(x_test))
    _time(models, scores, x_test[:n])
    head, rows = _table(scores, n)
    say("\n".join(table(head, rows)))
    say("\n".join(_findings(scores)))

    figures = {
        **{name: {k: scores[name][k] for k in _KEYS} for name in NAMES},
        "train": {"seconds": dense.seconds, "steps": dense.steps, "first_step_seconds": dense.first_step_seconds},
        "retrain": {"seconds": again.seconds, "steps": again.steps},
        "seconds": time.perf_counter() - start,
        "seed": seed,
        "epochs": epochs,
        "quick": quick,
        "data": {
            "source": data or "digits",
            "image": list(shape),
            "classes": classes,
            "train": len(images.x_train),
            "test": len(x_test),
        },
        "batch": n,
        "kernels": [dict(zip(("layer", "kernel", "variant"), row)) for row in ran],
        "machine": {"minidl": __version__, "threads": kernels.get_num_threads(), "tier": _tier()},
    }
    say()
    with _writing():
        if json_file is not None:
            with atomic_write(json_file) as file:
                file.write(json.dumps(_finite(figures), indent=2, allow_nan=False).encode() + b"\n")
            say(f"figures in {json_file}")
        if plot_file is not None:
            from minidl.plots import demo_picture

            confusion = metrics.confusion_matrix(predict(model, x_test), y_test, num_classes=classes)
            title = f"minidl demo: {source}, seed {seed}"
            demo_picture(plot_file, title, dense.history, again.history, confusion, head, rows)
            say(f"picture in {plot_file}")
    if out is not None:
        say(f"models in {out}: minidl.compress.load_model(minidl.models.DigitsCNN({shape}, {classes}), FILE) loads one")
    say(f"done in {time.perf_counter() - start:.1f} s")
    return figures


_KEYS = ("accuracy", "loss", "parameters", "nonzeros", "bytes", "infer_ms_batch", "infer_ms_one", "recall")

# -- before anything starts -------------------------------------------------------------------------------------------


def _check_outputs(json_file: str | None, plot_file: str | None, out: str | None) -> None:
    """Raises UserError unless all three can be written, by trying to."""
    check_outputs(json_file, plot_file)
    if out is not None:
        if os.path.lexists(out) and not os.path.isdir(out):
            raise UserError(f"--out: {out} is a file, not a folder")
        existing = os.path.realpath(out)
        while not os.path.isdir(existing):  # the folder itself is made once there is something to put in
            if os.path.lexists(existing):
                raise UserError(f"--out: cannot make the folder {out}: {existing} is a file")
            existing = os.path.dirname(existing)
        try_writing("--out", existing)


def _images(path: str | None, seed: int) -> tuple[ImageData, str]:
    """The data, scaled, and what to call them."""
    try:
        raw = load_images(path, TEST_SHARE, seed)
    except (DataError, OSError) as error:
        raise UserError(f"--data: {error}") from error
    if raw.num_classes < 2:
        raise UserError(f"--data: {path}: all labels are {raw.y_train[0]}: there is nothing to tell apart")
    images = raw.scaled()
    if not np.isfinite(images.x_test).all():
        raise UserError(f"--data: {path}: the test images are out of all proportion to the training images")
    name = "the package's handwritten digits" if path is None else os.path.basename(os.path.normpath(path))
    return images, name


def _usable(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ValueError as error:
        raise UserError(f"--data: {error}") from error


# -- training and testing ---------------------------------------------------------------------------------------------


class _Training:
    """One call of fit: its history, number of steps, seconds, and when the first step was done, from `start`."""

    def __init__(self, model: Any, images: ImageData, epochs: int, rate: float, start: float | None = None) -> None:
        begin = time.perf_counter()
        start = begin if start is None else start
        steps = epochs * math.ceil(len(images.x_train) / BATCH)
        optimizer = optim.AdamW(model.parameters(), lr=rate)
        watch = _FirstStep()
        try:
            self.history: History = fit(
                model,
                (images.x_train, images.y_train),
                loss=nn.functional.cross_entropy,
                optimizer=optimizer,
                epochs=epochs,
                batch_size=BATCH,
                validation=(images.x_test, images.y_test),
                metrics=["accuracy"],
                scheduler=optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps),
                scheduler_per="step",
                callbacks=[watch],
                progress=True,
            )
        except NonFiniteLoss as error:
            raise UserError(f"the training failed: {error}") from error
        self.seconds = time.perf_counter() - begin
        self.steps = len(self.history.steps["loss"])
        self.first_step_seconds = watch.at - start


class _FirstStep(Callback):
    """Notes when the first update of the weights was done."""

    at = math.nan

    def on_step(self, run: Run) -> None:
        if run.step == 1:
            self.at = time.perf_counter()


def _score(model: Any, x: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Loss, accuracy and recall of each class, and what the parameters come to."""
    logits = predict(model, x)
    return {
        "loss": nn.functional.cross_entropy(logits, wrap(y)).item(),
        "accuracy": metrics.accuracy(logits, y),
        "recall": metrics.recall(logits, y).tolist(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "nonzeros": sum(nonzero(p) for p in model.parameters()),
    }


def _recalls(recall: list[float], most: int = 20) -> str:
    """A line of ten classes each; of many classes the ones that did worst."""
    shown = list(enumerate(recall))
    note = ""
    if len(shown) > most:
        shown = sorted((c for c in shown if c[1] == c[1]), key=lambda c: c[1])[:most]
        note = f"\n(the lowest {len(shown)} of {len(recall)} classes)"
    cells = [f"{c}: {r:.3f}" if r == r else f"{c}:   -  " for c, r in shown]
    return "\n".join("  " + "  ".join(cells[i : i + 10]) for i in range(0, len(cells), 10)) + note


def _masks_hold(model: Any) -> bool:
    """Whether every weight that was pruned is still exactly zero."""
    return not any(model.get_parameter(name).array[~mask].any() for name, mask in masks(model).items())


def _integer_kernels(model: Any, x: np.ndarray) -> list[tuple[str, str, str]]:
    """(layer, kernel, variant) of every packed layer, asked with the very arrays that the layer is given."""
    ran = []

    def watch(name: str) -> Callable[[Any, tuple], None]:
        def hook(layer: Any, args: tuple) -> None:
            a, w, b = args[0].array, layer.weight.array, None if layer.bias is None else layer.bias.array
            conv = isinstance(layer, nn.Conv2d)
            kernel = "int8_conv2d" if conv else "int8_linear"
            how = (layer.stride, layer.padding, layer.dilation, layer.groups) if conv else ()
            ran.append((name, kernel, kernels.which(kernel, a, w.q, w.scale, b, *how, w.x_scale)))

        return hook

    packed = [
        (n, m)
        for n, m in model.named_modules()
        if isinstance(getattr(getattr(m, "weight", None), "array", None), Packed)
    ]
    handles = [m.register_forward_pre_hook(watch(n)) for n, m in packed]
    try:
        predict(model, x)
    finally:
        for handle in handles:
            handle.remove()
    return ran


# -- files and times --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _folder(out: str | None) -> Iterator[str]:
    """The folder for the models: the user's, or one that is gone afterwards."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="minidl-demo-") as folder:
            yield folder
        return
    with _writing():
        os.makedirs(out, exist_ok=True)
    yield out


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    """A disk that is full, or a folder that went away since it was checked."""
    try:
        yield
    except OSError as error:
        raise UserError(str(error)) from error


def _saved(models: dict[str, Any], name: str, path: str, make: Callable[[], Any], x: np.ndarray) -> dict[str, Any]:
    """Save a model and put the one that comes back in its place, if it gives the same logits bit for bit."""
    with _writing():
        size = save_model(models[name], path)
    loaded = load_model(make, path)
    before, after = predict(models[name], x).array, predict(loaded, x).array
    if before.tobytes() != after.tobytes():
        raise RuntimeError(f"{path}: the model that was loaded back does not give the predictions of the one saved")
    say(f"{os.path.basename(path):<24} {size:>9,} bytes, loaded back: all {len(x):,} predictions equal bit for bit")
    models[name] = loaded.eval()
    return {"bytes": size}


def _time(models: dict[str, Any], scores: dict[str, Any], x: np.ndarray) -> None:
    """Enter the median times of all models, measured in turns, for a batch and for single images."""
    for key, part in (("infer_ms_batch", x), ("infer_ms_one", x[:1])):
        found = latencies({name: functools.partial(m, wrap(part)) for name, m in models.items()}, repeats=30)
        for name, ms in found.items():
            scores[name][key] = ms


def _table(scores: dict[str, Any], batch: int) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    head: tuple[str, ...] = (
        "model",
        "accuracy",
        "loss",
        "parameters",
        "nonzeros",
        "bytes on disk",
        f"ms for {batch}",
        "ms for 1",
    )
    rows: list[tuple[str, ...]] = [
        (
            title, f"{s['accuracy']:.4f}", f"{s['loss']:.4f}", f"{s['parameters']:,}", f"{s['nonzeros']:,}",
            f"{s['bytes']:,}", f"{s['infer_ms_batch']:.3f}", f"{s['infer_ms_one']:.3f}",
        )
        for title, s in ((NAMES[name], scores[name]) for name in NAMES)
    ]  # fmt: skip
    return head, rows


def _findings(scores: dict[str, Any]) -> list[str]:
    """What each compressed model gained and cost beside the dense one; where it is not faster, that is said."""
    dense = scores["dense"]
    lines = []
    for name in ("pruned", "int8", "pruned_int8"):
        s = scores[name]
        points = 100 * (s["accuracy"] - dense["accuracy"])
        batch, one = (dense[key] / s[key] for key in ("infer_ms_batch", "infer_ms_one"))
        # Medians within 5 % of each other are the machine's noise.
        verdict = (
            "faster" if min(batch, one) > 1.05 else "in part faster" if max(batch, one) > 1.05 else "not faster here"
        )
        lines.append(
            f"{NAMES[name]}: {dense['bytes'] / s['bytes']:.1f} times smaller, {points:+.2f} points of accuracy; "
            f"{verdict}: speed x {batch:.2f} for a batch, x {one:.2f} for one image"
        )
    lines.append(
        "Scattered zeros make the file smaller, not the model faster: these kernels multiply zeros like other weights."
    )
    lines.append(
        "Faster are large layers with 90 % zeros, or 2 of 4 weights (minidl.compress.pack_ measures, and says why "
        "not), and networks without half of their channels (prune_channels_, slim): python -m benchmarks.compression"
    )
    return lines


# -- words ------------------------------------------------------------------------------------------------------------


def _headline(text: str) -> None:
    say(f"\n{text}")
    say("-" * len(text))


def _tier() -> str:
    from minidl_kernels.cpu import machine

    return machine.tier()


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _finite(x: Any) -> Any:
    """The same with None for NaN (the recall of a class that has no test image), which JSON does not know."""
    if isinstance(x, dict):
        return {k: _finite(v) for k, v in x.items()}
    if isinstance(x, list):
        return [_finite(v) for v in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
