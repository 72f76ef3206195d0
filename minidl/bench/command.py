"""The command: arguments checked before anything is timed, then measured, printed as it comes, written at the end."""

from __future__ import annotations

import argparse
import difflib
import functools
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import __version__
from minidl.bench import compare, peers, report
from minidl.bench.firsts import first_calls
from minidl.bench.kernels import Bench, Job, ladder_shape, smallest
from minidl.bench.rows import ROWS
from minidl.bench.shapes import Shape, ShapeError, read_shapes, shipped
from minidl.bench.timing import unit
from minidl.cli import UserError
from minidl.info import cpu_name
from minidl.io import atomic_write
from minidl.outputs import check_outputs
from minidl_kernels.cpu import machine

__all__ = ["main"]

SECONDS, MODEL_SECONDS = 0.4, 1.5
say = functools.partial(print, flush=True)


def main(arguments: argparse.Namespace) -> int:
    """Run it with the command's arguments. Returns the exit code: 1 where a fault or a real slowdown was found."""
    modes = [m for m in ("compare", "models", "self_test") if getattr(arguments, m)]
    if len(modes) > 1:
        raise UserError(f"--{modes[0].replace('_', '-')} and --{modes[1].replace('_', '-')} are different jobs")
    check_outputs(arguments.json, arguments.plot)
    if arguments.compare:
        _only(arguments, "--compare", "json")
        return _compare(arguments.compare[0], arguments.compare[1], arguments.json)
    if arguments.device == "cuda":
        _only(arguments, "--device cuda", "kernels", "peers", "shapes", "ladder", "json", "seconds", "quick")
        if modes:
            raise UserError(f"--device cuda and --{modes[0].replace('_', '-')} are different jobs")
        return _on_gpu(arguments)
    tier = _tier(arguments.tier)
    if arguments.self_test:
        _only(arguments, "--self-test", "tier")
        return _self_test(tier)
    counts = _threads(arguments.threads)
    seconds = arguments.seconds or (MODEL_SECONDS if arguments.models else SECONDS)
    if arguments.quick:
        seconds = min(seconds, 0.05)
    if arguments.models:
        _only(arguments, "--models", "kernels", "threads", "tier", "json", "seconds", "quick")
        return _models(arguments.kernels, counts, tier, seconds, arguments.json)
    return _kernels(arguments, counts, tier, seconds)


# -- arguments --------------------------------------------------------------------------------------------------------


def _only(arguments: argparse.Namespace, mode: str, *allowed: str) -> None:
    """Raises UserError for options that have no meaning in this mode."""
    options = {
        "kernels": "a kernel",
        "peers": "--peers",
        "threads": "--threads",
        "tier": "--tier",
        "shapes": "--shapes",
    }
    options |= {"ladder": "--ladder", "json": "--json", "plot": "--plot", "seconds": "--seconds", "quick": "--quick"}
    for name, option in options.items():
        if getattr(arguments, name) and name not in allowed:
            raise UserError(
                f"{mode} takes no {option.removeprefix('a ')}" if name == "kernels" else f"{mode} takes no {option}"
            )


def _tier(name: str | None) -> str:
    own, can = machine.machine().tier, machine.tiers()
    if name is not None and name not in can:
        known = name in machine.TIERS
        problem = f"this machine cannot run {name!r}" if known else f"there is no tier {name!r}"
        raise UserError(f"--tier: {problem}; it can run: {', '.join(can)}")
    return name or own


def _threads(text: str | None) -> list[int]:
    if text is None:
        return sorted({1, min(kernels.get_num_threads(), machine.machine().cores)})
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--threads: {text!r} is not a list of numbers such as 1,2") from None
    for n in counts:
        if not 1 <= n <= machine.machine().cores:
            # More threads than CPUs would wait for each other: no figure of a kernel.
            raise UserError(f"--threads: {n} is not in 1 ... {machine.machine().cores}, the CPUs there are")
    return list(dict.fromkeys(counts))


def _choice(what: str, names: Iterable[str], known: Sequence[str]) -> list[str]:
    """The names that were asked for, or all. Raises UserError, with what was probably meant."""
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known)}"
            raise UserError(f"there is no {what} {name!r}; {hint}")
    return list(dict.fromkeys(names)) or list(known)


def _peers(text: str | None) -> dict[str, Any]:
    """The pages of the peers: those that were asked for, else those that are installed."""
    if text is None:
        return {name: peers.load(name) for name in peers.present()}
    names = [] if text in ("", "none") else _choice("peer", text.split(","), list(peers.NAMES))
    try:
        return {name: peers.load(name) for name in names}
    except peers.MissingPeer as error:
        raise UserError(f"--peers: {error}") from error


def _shapes(path: str | None) -> list[Shape]:
    try:
        return list(shipped()) if path is None else read_shapes(path)
    except ShapeError as error:
        raise UserError(f"--shapes: {error}") from error
    except OSError as error:
        raise UserError(f"--shapes: {path}: {error.strerror or error}") from error


# -- kernels ----------------------------------------------------------------------------------------------------------


def _kernels(arguments: argparse.Namespace, counts: list[int], tier: str, seconds: float) -> int:
    asked = _choice("kernel", arguments.kernels, list(ROWS))
    shapes = _shapes(arguments.shapes)
    fitting = {k: [s for s in shapes if s.section == ROWS[k].section] for k in asked}
    if arguments.kernels or not any(fitting.values()):
        for kernel in asked:
            if not fitting[kernel]:
                raise UserError(
                    f"--shapes: {arguments.shapes} has no section {ROWS[kernel].section}, which {kernel} takes"
                )
    pages = {} if arguments.ladder else _peers(arguments.peers)
    start, busy = time.perf_counter(), _busy()
    bench = Bench(tier, pages, seconds)
    say(_about(tier, pages))
    for n in counts:
        bench.ceilings(n)
    say("\n".join(report.ceilings_lines(bench.measured())))
    rows: list[dict[str, Any]] = []
    firsts: list[dict[str, Any]] = []
    for kernel in asked:
        row, mine = ROWS[kernel], fitting[kernel]
        if not mine:
            continue
        if arguments.ladder:
            mine = [ladder_shape(row, mine)]
        elif arguments.quick:
            mine = [smallest(row, mine)]
        say(f"\n{kernel}")
        if not (arguments.ladder or arguments.quick):
            firsts.append(first_calls(kernel, mine, tier))
            ever, again = unit(firsts[-1]["empty_cache"]), unit(firsts[-1]["filled_cache"])
            compiles = f"compiles {firsts[-1]['compiled']} functions" if firsts[-1]["compiled"] else "compiles nothing"
            say(f"  first call on a new machine, which {compiles}: {ever}; first call of any later process: {again}")
        say(report.heading())
        network = None
        for shape in mine:
            if shape.network != network:
                network = shape.network
                say(f" {network}")
            job = Job(row, shape)
            for n in counts:
                found = bench.ladder(job, n) if arguments.ladder else bench.time(job, n)
                rows.append(found)
                if arguments.ladder:
                    _say_ladder(found)
                else:
                    say(f"{report.row_line(found)}  {shape.name}".rstrip())
    faults = sum(len(r["faults"]) for r in rows)
    ours = any(f["who"] not in pages for r in rows for f in r["faults"])
    if not arguments.ladder:
        say("\n" + "\n".join(report.summary_lines(rows)))
    say(f"{len(rows)} rows, {faults or 'no'} fault{'' if faults == 1 else 's'}, {time.perf_counter() - start:.0f} s")
    figures = {
        "format": compare.FORMAT,
        **_facts(tier, pages, seconds, busy),
        "ceilings": [c.to_dict() for c in bench.measured()],
        "first_calls": firsts,
        "ladder": bool(arguments.ladder),
        "rows": rows,
        "summary": [] if arguments.ladder else report.summary(rows),
    }
    _write(arguments.json, figures)
    if arguments.plot is not None:
        from minidl.bench.roofline import roofline

        mine_only = [c for c in bench.measured() if c.tier == tier]
        try:
            roofline(arguments.plot, f"minidl bench: {cpu_name()}, {tier}", rows, mine_only)
        except OSError as error:
            raise UserError(f"--plot: {error}") from error
        say(f"roofline in {arguments.plot}")
    return 1 if ours else 0


def _say_ladder(found: dict[str, Any]) -> None:
    """The rungs, slowest idea first, each with its gain over the one before."""
    say(f"  {found['shape']}")
    last = math.nan
    for name, told in found["contestants"].items():
        gain = f"   {last / told['seconds']:.1f} times the rung before" if last == last else ""
        say(report.row_line({**found, "faults": []}, name, f"  {name}") + gain)
        last = told["seconds"]
    for fault in found["faults"]:
        say(f"    FAULT: {fault['who']}: {fault['what']}")


def _on_gpu(arguments: argparse.Namespace) -> int:
    from minidl.bench.on_gpu import run, the_gpu

    the_gpu()  # says what is missing before anything else is looked at
    asked, shapes = _choice("kernel", arguments.kernels, list(ROWS)), _shapes(arguments.shapes)
    rows = {k: (ROWS[k], [s for s in shapes if s.section == ROWS[k].section]) for k in asked}
    seconds = 0.05 if arguments.quick else arguments.seconds or SECONDS
    rows = {k: (row, mine) for k, (row, mine) in rows.items() if mine}
    return run(rows, arguments.peers, seconds, arguments.quick, arguments.ladder, arguments.json, say)


# -- the other jobs ---------------------------------------------------------------------------------------------------


def _models(asked: list[str], counts: list[int], tier: str, seconds: float, json_file: str | None) -> int:
    from minidl.bench.models import MODELS, time_model

    names = _choice("model", asked, list(MODELS))
    pages = _peers("torch")
    rng, busy = np.random.default_rng(0), _busy()
    say(_about(tier, pages))
    say("\ntorch eager's time / ours, above 1 is faster than torch (95 % interval); of int8, our float's / ours;")
    say("peak memory of a step, and torch's / ours")
    records = []
    for name in names:
        for n in counts:
            found = time_model(name, n, pages, seconds, tier, rng)
            records.append(found)
            line = f"  {name:<11} {'x'.join(map(str, found['input'])):<12} {n:>2}"
            for what in ("step", "inference", "int8"):
                if what in found:
                    r, low, high = found[what]["ratio"]
                    ours = unit(found[what]["minidl"]["seconds"])
                    line += f"   {what} {ours:>8}  {r:.2f} ({low:.2f}-{high:.2f})"
            if "memory" in found:
                ours, theirs = (found["memory"][who] for who in ("minidl", "torch"))
                line += f"   memory {ours / 1e6:>5.1f} MB  {theirs / ours:.2f}"
            say(line + "".join(f"   FAULT: {f['who']} {f['what']}" for f in found["faults"]))
    for n in counts:
        ratios = [r["step"]["ratio"][0] for r in records if r["threads"] == n and "step" in r]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            say(f"training step, {report.threads_text(n)}: geometric mean {mean:.2f}, worst {min(ratios):.2f}")
        ratios = [r["memory"]["torch"] / r["memory"]["minidl"] for r in records if r["threads"] == n and "memory" in r]
        if ratios:
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            say(f"its peak memory, {report.threads_text(n)}: geometric mean {mean:.2f}, worst {min(ratios):.2f}")
    _write(json_file, {"format": "minidl bench models 1", **_facts(tier, pages, seconds, busy), "models": records})
    return 1 if any(r["faults"] for r in records) else 0


def _compare(before: str, after: str, json_file: str | None) -> int:
    found = compare.compare(compare.read(before), compare.read(after))
    say("\n".join(compare.compare_lines(found, before, after)))
    _write(json_file, found)
    return 1 if any(r["verdict"] == "slower" for r in found["rows"]) else 0


def _self_test(tier: str) -> int:
    from minidl.bench.selftest import self_test

    good = self_test(Bench(tier, {}, 0.02), say)
    say("every cheat was caught" if good else "NOT every cheat was caught")
    return 0 if good else 1


# -- facts and files --------------------------------------------------------------------------------------------------


def _about(tier: str, pages: dict[str, Any]) -> str:
    against = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in pages)
    line = f"minidl {__version__} on {cpu_name()}, tier {tier}" + (f", against {against}" if against else "")
    busy = _busy()
    if busy is not None and busy > 0.5:
        line += (
            f"\nother processes keep this machine busy (load {busy:.1f} on {machine.machine().cores} CPUs): "
            "expect wide intervals, and too little of what uses several threads"
        )
    return line


def _busy() -> float | None:
    """The load average of the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _facts(tier: str, pages: dict[str, Any], seconds: float, busy: float | None) -> dict[str, Any]:
    cpu = machine.machine()
    names = ("numpy", "numba", *pages)
    return {
        "minidl": __version__,
        "machine": {
            "cpu": cpu_name(),
            "arch": cpu.arch,
            "tier": cpu.tier,
            "cores": cpu.cores,
            "cache_bytes": [cpu.l1, cpu.l2, cpu.l3],
            "platform": platform.platform(terse=True),
            "python": platform.python_version(),
            "packages": {name: importlib.metadata.version(name) for name in names},
        },
        "load": busy,
        "settings": {"tier": tier, "peers": list(pages), "seconds": seconds},
        "utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _write(path: str | None, figures: dict[str, Any]) -> None:
    if path is None:
        return
    try:
        with atomic_write(path) as file:
            file.write(json.dumps(figures, indent=1, allow_nan=False).encode() + b"\n")
    except OSError as error:
        raise UserError(f"--json: {error}") from error
    say(f"figures in {path}")
