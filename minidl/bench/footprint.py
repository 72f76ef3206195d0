"""Peak memory of a training step, measured in a process of its own, since a process never gives all of it back.

The process imports the library and trains the network for three steps, so that code which is loaded or compiled at its
first use is there; then it drops all that. What counts is how far its resident memory then rises at most while the
network's gradients, its optimizer and three steps are made anew: gradients, the optimizer's state, everything kept for
the backward pass, and our own scratch memory; not the weights, nor what torch keeps for itself from call to call.

    python -m minidl.bench.footprint resnet18 torch 2 amx        prints bytes

Linux only: the kernel keeps the highest resident size of a process (VmHWM), and forgets it when asked to (proc(5),
/proc/pid/clear_refs).
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["peak", "rise"]

STEPS = 3
_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def _field(name: str) -> int:
    """A field of this process's status, in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def rise(call: Callable[[], Any]) -> int:
    """Bytes by which the resident memory of this process rises at most while `call` runs. OSError where the system does
    not tell.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # what was freed goes back to the system
    if trim is not None:
        trim(0)
    _CLEAR.write_text("5")
    before = _field("VmRSS")
    call()
    return max(0, _field("VmHWM") - before)


def peak(model: str, library: str, nthreads: int, tier: str) -> int | None:
    """Bytes of a training step of a network of models.py in "minidl" or "torch"; None where that cannot be measured."""
    if not (_CLEAR.exists() and _STATUS.exists()):
        return None
    command = [sys.executable, "-m", __name__, model, library, str(nthreads), tier]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        raise RuntimeError(f"{library}'s {model} did not train in a process of its own:\n{done.stderr[-2000:]}")
    return int(done.stdout.split()[-1])


def _measured(name: str, library: str, nthreads: int, tier: str) -> int:
    from minidl.bench.models import MODELS, step
    from minidl_kernels.cpu import machine, threads, workspace

    lib, model, rng = importlib.import_module(library), MODELS[name], np.random.default_rng(0)
    tensor = importlib.import_module("torch").from_numpy if library == "torch" else lib.tensor
    if library == "torch":
        lib.set_num_threads(nthreads)

    floats = rng.standard_normal(model.shape, np.float32)
    x: np.ndarray = rng.integers(0, model.tokens, model.shape) if model.tokens else floats

    def train(net: Any) -> None:
        run = step(net, lib.nn.CrossEntropyLoss(), lib.optim.Adam(net.parameters(), 1e-4), *batch)
        for _ in range(STEPS):
            run().item()

    with machine.use_tier(tier), threads.threads(nthreads):
        batch = tensor(x), tensor(rng.integers(0, model.classes, model.shape[0]))
        train(model.build(lib.nn))
        workspace.forget()
        net = model.build(lib.nn)
        return rise(lambda: train(net))


if __name__ == "__main__":
    print(_measured(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
