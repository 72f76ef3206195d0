"""How long ``import minidl`` takes beside ``import numpy``: ``python -m benchmarks.startup``. The bar is 1.3 times."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from statistics import median

RUNS = 15
# With byte code, as an installed package has it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def seconds(statement: str) -> float:
    """Wall time of a fresh interpreter that runs one statement."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True, env=ENVIRONMENT)
    return time.perf_counter() - start


def main() -> None:
    """Take turns, so that a slow moment hits both."""
    times: dict[str, list[float]] = {"pass": [], "import numpy": [], "import minidl": []}
    for statement in times:
        seconds(statement)
    for _ in range(RUNS):
        for statement, found in times.items():
            found.append(seconds(statement))
    base = median(times["pass"])
    for statement, found in times.items():
        print(f"{statement:14s} {median(found) * 1e3:7.1f} ms")
    numpy, minidl = (median(times[s]) for s in ("import numpy", "import minidl"))
    alone = (minidl - base) / (numpy - base)
    print(f"minidl / numpy: {minidl / numpy:.2f} as whole processes, {alone:.2f} without the interpreter's own start")


if __name__ == "__main__":
    main()
