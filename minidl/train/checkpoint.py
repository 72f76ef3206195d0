"""The state of a training in a file: enough to go on bit for bit, whole or not there at all."""

from __future__ import annotations

import glob
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from minidl import io
from minidl.io import CheckpointError
from minidl.storage import Packed

__all__ = ["Checkpoint", "fingerprint", "restore", "snapshot"]

FORMAT = "minidl.train 1"


class Checkpoint:
    """Where and how often `fit` saves its state.

    Args:
        path: a file that ends in .safetensors or .npz, in a folder that exists and can be written.
        every: "epoch", or a number of steps (updates of the weights). The start and the end are saved in any case.

    The file is replaced atomically: a kill at any moment, also during the write, leaves the last complete state.
    """

    def __init__(self, path: str | os.PathLike[str], every: int | str = "epoch") -> None:
        self.path = os.fspath(path)
        if not self.path.lower().endswith((".safetensors", ".npz")):
            raise ValueError(f"checkpoint: {self.path!r} must end in .safetensors or .npz")
        whole = isinstance(every, int) and not isinstance(every, bool) and every > 0
        if not whole and every != "epoch":
            raise ValueError(f"checkpoint: every must be 'epoch' or a positive number of steps, got {every!r}")
        self.every = every

    def exists(self) -> bool:
        """Whether there is such a file."""
        return os.path.lexists(self.path)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file. Raises OSError naming it if it cannot be written, and then leaves the old one."""
        io.save({"format": FORMAT, **state}, self.path)

    def load(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The saved state. Raises CheckpointError if the file is damaged or of another training than `own`."""
        if not self.exists():
            raise FileNotFoundError(
                f"resume: there is no checkpoint {self.path}; pass resume='auto' to start anew where there is none"
            )
        state = io.load(self.path)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise CheckpointError(f"{self.path}: not a checkpoint of minidl.train.fit")
        difference = _difference(state.get("fingerprint"), own)
        if difference:
            raise CheckpointError(f"{self.path}: belongs to another training: {difference}")
        return state

    def remove_leftovers(self) -> None:
        """Remove the temporary files that earlier runs left when they were killed while writing."""
        folder, name = os.path.split(os.path.realpath(self.path))
        for file in glob.glob(os.path.join(glob.escape(folder), f".{glob.escape(name[:100])}.*.tmp")):
            with suppress(OSError):
                os.unlink(file)


# -- the weights ---------------------------------------------------------------------------------------------


def snapshot(model: Any) -> dict[str, Any]:
    """A copy of the model's parameters, persistent buffers and masks, as arrays.

    Packed storage is left out: nothing trains it.
    """
    tensors, masks = {}, {}
    for name, value in model.state_dict().items():
        if isinstance(value, Packed):
            continue
        tensors[name] = value.array.copy()
        mask = getattr(value, "mask", None)
        if mask is not None:
            masks[name] = mask.copy()
    return {"tensors": tensors, "masks": masks}


def restore(model: Any, saved: Mapping[str, Any]) -> None:
    """Give the model the weights and masks of a snapshot of it, in the memory that it has."""
    for name, p in model.named_parameters(remove_duplicate=False):
        if name in saved["tensors"]:
            p.mask = saved["masks"].get(name)
    model.load_state_dict(saved["tensors"], strict=False)


# -- is it the same training? --------------------------------------------------------------------------------


def fingerprint(model: Any, optimizer: Any, **parts: Any) -> dict[str, Any]:
    """What must be equal for a checkpoint to fit: the model's tensors, what the optimizer updates, and `parts`."""
    tensors = {}
    for name, value in model.state_dict().items():
        if isinstance(value, Packed):
            check = 0
            for part in value.arrays().values():
                check = zlib.crc32(part.tobytes(), check)
            tensors[name] = f"{value.kind} {tuple(value.shape)} with checksum {check:08x}"
        else:
            tensors[name] = f"{value.array.dtype} {tuple(value.shape)}"
    names = {id(p): name for name, p in model.named_parameters()}
    groups = [[names.get(id(p), "loss") for p in group["params"]] for group in optimizer.param_groups]
    return {"model": tensors, "optimizer": type(optimizer).__name__, "parameter groups": groups, **parts}


def _difference(saved: Any, own: Mapping[str, Any]) -> str | None:
    """The first difference between two fingerprints in words, None if there is none."""
    if not isinstance(saved, dict) or not isinstance(saved.get("model"), dict):
        return "it does not say of which"
    theirs, ours = saved["model"], own["model"]
    for name in [*theirs, *ours]:
        if theirs.get(name) != ours.get(name):
            return f"its {name!r} is {theirs.get(name, 'missing')}, the model's is {ours.get(name, 'missing')}"
    for key, value in own.items():
        if saved.get(key) != value:
            return f"its {key}: {saved.get(key)!r}, here: {value!r}"
    return None
