"""Two runs of the benchmark: what really changed, and what is noise.

A row that both runs have is judged by the ratio of its times, before / after, and the interval of that ratio: a
bootstrap over the blocks of each run. Two things could make a change where there is none:

    many rows     of a hundred intervals at 95 % five miss by chance: the level is raised with the number of rows
                  (Bonferroni), to 1 - 0.05 / rows
    the machine   another day it may be faster as a whole, or a neighbour may disturb it: the peers, which did not
                  change between the runs, show by how much, and so do the machine's own ceilings. A change counts
                  where its whole interval lies beyond what 9 of 10 of these controls stay within, and beyond 3 %
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from minidl.bench.timing import ratio, unit
from minidl.cli import UserError
from minidl.compress.reports import table

__all__ = ["compare", "compare_lines", "read"]

LEAST = 0.03  # a smaller change is not worth a word
FORMAT = "minidl bench 1"
Key = tuple[str, str, int, str]


def read(path: str) -> dict[str, Any]:
    """A file that `minidl bench --json` wrote. Raises UserError for anything else."""
    try:
        with open(path, "rb") as file:
            data = json.loads(file.read(1 << 28))
    except OSError as error:
        raise UserError(f"--compare: {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--compare: {path}: not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"--compare: {path}: not a file of minidl bench --json ({FORMAT!r} is missing)")
    try:
        for row in data["rows"]:
            _key(row)
            for told in row["contestants"].values():
                blocks = told["blocks"]
                if not blocks or not all(isinstance(b, (int, float)) and 0 < b < math.inf for b in blocks):
                    raise ValueError(f"{row['kernel']} {row['shape']} has blocks that are no times")
        for c in data["ceilings"]:
            float(c["rates"]["f32"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"--compare: {path}: damaged: {type(error).__name__}: {error}") from error
    return data


def _key(row: Mapping[str, Any]) -> Key:
    return str(row["kernel"]), str(row["shape"]), int(row["threads"]), str(row["tier"])


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """The rows that both have, each with its ratio before / after (above 1: faster now) and a verdict.

    verdict is "faster", "slower" or "same". Raises UserError where the two have no row in common.
    """
    a, b = ({_key(r): r["contestants"] for r in run["rows"]} for run in (before, after))
    common = [k for k in a if k in b and "minidl" in a[k] and "minidl" in b[k]]
    if not common:
        raise UserError("--compare: the two files have no row in common")
    controls = [
        float(np.median(a[k][peer]["blocks"]) / np.median(b[k][peer]["blocks"]))
        for k in common
        for peer in a[k]
        if peer != "minidl" and peer in b[k]
    ]
    rates = [{(c["threads"], c["tier"]): c["rates"]["f32"] for c in run["ceilings"]} for run in (before, after)]
    controls += [rates[1][k] / rates[0][k] for k in rates[0] if k in rates[1]]
    noise = float(np.quantile(np.abs(np.log(controls)), 0.9)) if controls else 0.0
    limit = max(noise, math.log1p(LEAST))
    level = 1 - 0.05 / len(common)
    rows = []
    for k in common:
        blocks = a[k]["minidl"]["blocks"], b[k]["minidl"]["blocks"]
        r, low, high = ratio(*blocks, paired=False, level=level)
        verdict = "faster" if math.log(low) > limit else "slower" if math.log(high) < -limit else "same"
        seconds = [float(np.median(x)) for x in blocks]
        rows.append({
            "kernel": k[0], "shape": k[1], "threads": k[2], "tier": k[3], "before": seconds[0], "after": seconds[1],
            "ratio": r, "interval": [low, high], "verdict": verdict,
        })  # fmt: skip
    return {
        "rows": rows,
        "noise": math.expm1(limit),
        "controls": len(controls),
        "missing": [" ".join(map(str, k)) for k in a if k not in b] + [" ".join(map(str, k)) for k in b if k not in a],
    }


def compare_lines(found: Mapping[str, Any], before: str, after: str) -> list[str]:
    """The rows that changed, the number of those that did not, and what the controls say."""
    rows = found["rows"]
    changed = [r for r in rows if r["verdict"] != "same"]
    lines = [
        f"{os.path.basename(before)} -> {os.path.basename(after)}: {len(rows)} rows in both; a change counts beyond "
        f"{found['noise']:.0%}, which {found['controls']} controls (peers, ceilings) set"
    ]
    body = [
        (
            r["kernel"], r["shape"], str(r["threads"]), r["verdict"], unit(r["before"]), unit(r["after"]),
            f"{r['ratio']:.2f}", f"({r['interval'][0]:.2f}-{r['interval'][1]:.2f})",
        )
        for r in sorted(changed, key=lambda r: r["ratio"])
    ]  # fmt: skip
    if body:
        head = ("kernel", "shape", "threads", "", "before", "after", "before / after", "")
        lines += table(head, body, left=4)
    count = {v: sum(r["verdict"] == v for r in rows) for v in ("faster", "slower", "same")}
    lines.append(f"{count['faster']} faster, {count['slower']} slower, {count['same']} the same within noise")
    if found["missing"]:
        lines.append(f"{len(found['missing'])} rows are in one file only, such as {found['missing'][0]}")
    return lines
