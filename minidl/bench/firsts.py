"""What the first call of a kernel costs: with an empty cache of compiled kernels, and with a filled one.

Both are calls of a fresh process each, since a process compiles or loads a kernel once: importing Numba, compiling or
loading, and the call itself, all of which a user waits for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from minidl.bench.rows import ROWS
from minidl.bench.shapes import Shape, array_shapes

__all__ = ["first_calls"]


def first_calls(kernel: str, shapes: list[Shape], tier: str) -> dict[str, Any]:
    """Seconds of the first call ever and of the first of a process, on the smallest of the shapes; how many compiled
    functions the first call ever left in the cache, and how many the later one added (none, or the cache is at fault).
    """
    size = lambda s: sum(float(np.prod(a)) for a in array_shapes(s.section, s.numbers).values())
    shape = min(shapes, key=size)
    with tempfile.TemporaryDirectory(prefix="minidl-first-") as folder:
        ever = _one(kernel, dict(shape.numbers), tier, folder)
        compiled = _files(folder)
        again = _one(kernel, dict(shape.numbers), tier, folder)
        later = _files(folder) - compiled
    seconds = {"empty_cache": ever, "filled_cache": again}
    return {"kernel": kernel, "shape": shape.label, "tier": tier, **seconds, "compiled": compiled, "again": later}


def _files(folder: str) -> int:
    return sum(path.is_file() for path in Path(folder).rglob("*.bin"))


def _one(kernel: str, numbers: dict[str, Any], tier: str, cache: str) -> float:
    places = dict.fromkeys(("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"), cache)
    code = "from minidl.bench.firsts import child; child()"
    run = subprocess.run(
        [sys.executable, "-c", code, json.dumps([kernel, numbers, tier])],
        env={**os.environ, **places, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"the process that times the first call of {kernel} failed: {run.stderr.strip()[-500:]}")
    return float(run.stdout.split()[-1])


def child() -> None:
    """In the fresh process: one call, its seconds on stdout."""
    from minidl_kernels.cpu import machine

    kernel, numbers, tier = json.loads(sys.argv[1])
    row = ROWS[kernel]
    call = row.call(row.make(np.random.default_rng(0), numbers))
    start = time.perf_counter()
    with machine.use_tier(tier):
        call()
    print(time.perf_counter() - start)
