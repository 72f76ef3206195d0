"""The command: arguments checked before anything is trained, points printed as they come, written at the end."""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import functools
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

from minidl import __version__, metrics
from minidl.cli import UserError
from minidl.compress import meet_budget_
from minidl.compress.reports import table
from minidl.data import DataError, ImageData, load_images
from minidl.io import atomic_write
from minidl.outputs import check_outputs, try_writing
from minidl.sweep.points import Mean, means
from minidl.sweep.runs import RATE, Plan, Sweep, maker, train
from minidl.train import predict

__all__ = ["main"]

say = functools.partial(print, flush=True)


def main(arguments: argparse.Namespace) -> int:
    """Run it with the command's arguments. Returns 1 if a budget was given and not met."""
    check_outputs(arguments.json, arguments.plot)
    if arguments.csv is not None:
        folder = os.path.dirname(os.path.realpath(arguments.csv))
        if not os.path.isdir(folder) or os.path.isdir(arguments.csv):
            raise UserError(f"--csv: cannot write {arguments.csv}")
        try_writing("--csv", folder)
    make, images = maker(arguments.model), functools.cache(lambda seed: _images(arguments.data, seed))
    count = len(images(0).x_train)
    epochs = arguments.epochs or max(2, min(20, round(30_000 / count)))
    plan = Plan(
        model=arguments.model,
        channels=_shares("--channels", arguments.channels, "0"),
        prune=_shares("--prune", arguments.prune, "0,0.5,0.8,0.9,0.95" if not arguments.quick else "0,0.8"),
        bits=_bits(arguments.bits or ("32,8,4" if not arguments.quick else "32,8")),
        seeds=list(range(arguments.seeds or (1 if arguments.quick else 3))),
        epochs=max(1, epochs // 10) if arguments.quick else epochs,
        data=arguments.data or "digits",
    )
    with _folder(arguments.out) as folder:
        sweep = Sweep(plan, make, images, folder)
        before = sweep.resume()
        say(f"minidl {__version__} sweep {plan.model}: {plan.size()} points, {plan.epochs} epochs, {plan.data}")
        if before:
            say(f"{before} points are in {folder} already")
        _walk(sweep, plan.size())
        found = means(sweep.points)
        say("\n".join(_table(found)))
        code = _budget(sweep, arguments) if _limits(arguments) else 0
    _write(arguments, plan, sweep.points, found)
    return code


def _walk(sweep: Sweep, size: int) -> None:
    """Make the points, with a bar on a terminal and lines elsewhere."""
    from tqdm.std import tqdm

    bar = tqdm(total=size, initial=len(sweep.points), unit="point", file=sys.stderr, disable=not sys.stderr.isatty())
    with bar:
        for p in sweep.run():
            bar.update()
            tqdm.write(
                f"seed {p['seed']}: without {100 * p['channels']:g} % of channels, {100 * p['prune']:g} % pruned, "
                f"{p['bits']} bits: "
                f"accuracy {p['accuracy']:.4f}  {p['bytes']:,} bytes  {p['ms']:.3f} ms",
                file=sys.stdout,
            )


def _table(found: list[Mean]) -> list[str]:
    head = ("", "accuracy", "95 %", "seeds", "bytes", "ms batch", "ms one", "speed", "")
    body = [
        (
            m.name, f"{m.accuracy:.4f}", f"{m.low:.3f} - {m.high:.3f}", f"{m.least:.3f} - {m.most:.3f}",
            f"{round(m.bytes):,}", f"{m.ms:.3f}", f"{m.ms_one:.3f}", f"x {m.speed:.2f}",
            "dominated" if m.dominated else "",
        )
        for m in found
    ]  # fmt: skip
    return ["", *table(head, body)]


def _limits(arguments: argparse.Namespace) -> dict[str, Any]:
    names = ("max_bytes", "max_ms", "min_accuracy")
    return {n: getattr(arguments, n) for n in names if getattr(arguments, n) is not None}


def _budget(sweep: Sweep, arguments: argparse.Namespace) -> int:
    """Compress the first seed's dense model to the limits, deciding on some training images, retraining on the rest."""
    seed = sweep.plan.seeds[0]
    images = sweep.images(seed)
    model = copy.deepcopy(sweep._trained(seed, 0.0, 0.0, images, None))
    n = max(1, min(len(images.x_train) // 3, 1000))
    rest = images._replace(x_train=images.x_train[:-n], y_train=images.y_train[:-n])
    again = functools.partial(train, images=rest, epochs=max(1, sweep.plan.epochs // 4), rate=RATE / 2)
    held = (images.x_train[-n:], images.y_train[-n:])
    found = meet_budget_(model, held, **_limits(arguments), retrain=again)
    limits = ", ".join(f"{k} {v:g}" for k, v in _limits(arguments).items())
    say(f"\nbudget: {limits}; decided on {n} training images, retrained on the other {len(rest.x_train)}")
    say(str(found))
    right = metrics.accuracy(predict(model, images.x_test), images.y_test)
    say(f"accuracy on the test images: {float(right):.4f}")
    return 0 if found.met else 1


def _write(arguments: argparse.Namespace, plan: Plan, points: list[dict[str, Any]], found: list[Mean]) -> None:
    rows = [{"name": m.name, **vars(m), "time": m.time} for m in found]
    try:
        if arguments.json is not None:
            with atomic_write(arguments.json) as file:
                text = json.dumps({"plan": vars(plan), "means": rows, "points": points}, indent=2)
                file.write(text.encode() + b"\n")
            say(f"figures in {arguments.json}")
        if arguments.csv is not None:
            lines = io.StringIO()
            writer = csv.DictWriter(lines, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
            with atomic_write(arguments.csv) as file:
                file.write(lines.getvalue().encode())
            say(f"table in {arguments.csv}")
        if arguments.plot is not None:
            from minidl.sweep.picture import draw

            seeds = f"{len(plan.seeds)} seed{'' if len(plan.seeds) == 1 else 's'}"
            draw(arguments.plot, f"minidl sweep {plan.model}: {plan.data}, {seeds}", found)
            say(f"picture in {arguments.plot}")
    except OSError as error:
        raise UserError(str(error)) from error


@contextlib.contextmanager
def _folder(out: str | None) -> Iterator[str]:
    """The folder that remembers the points: the user's, or one that is gone afterwards."""
    if out is None:
        with tempfile.TemporaryDirectory(prefix="minidl-sweep-") as folder:
            yield folder
        return
    try:
        os.makedirs(out, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out: cannot make the folder {out}: {error.strerror}") from error
    try_writing("--out", out)
    yield out


def _images(path: str | None, seed: int) -> ImageData:
    try:
        return load_images(path, 0.25, seed).scaled()
    except (DataError, OSError) as error:
        raise UserError(f"--data: {error}") from error


def _shares(option: str, text: str | None, default: str) -> list[float]:
    out = []
    for part in (default if text is None else text).split(","):
        try:
            share = float(part)
        except ValueError:
            raise UserError(f"{option}: {part!r} is no number; a list is wanted, such as 0,0.5,0.9") from None
        if not 0 <= share < 1:
            raise UserError(f"{option}: {part} is no share in [0, 1)")
        out.append(share)
    return list(dict.fromkeys(out))


def _bits(text: str) -> list[int]:
    out = []
    for part in text.split(","):
        if not part.strip().isdigit() or not (int(part) == 32 or 2 <= int(part) <= 8):
            raise UserError(f"--bits: {part!r} is neither 32 nor in 2 ... 8")
        out.append(int(part))
    return list(dict.fromkeys(out))
