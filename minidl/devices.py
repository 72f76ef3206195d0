"""Where arrays live: which array module an array belongs to, moves between CPU and GPU, and "did a GPU answer?".

The device of a tensor is the device of its array: NumPy arrays are on the CPU, CuPy arrays on a GPU. There is no global
mode. This file is the only place in minidl that imports CuPy.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from minidl_kernels.cuda import memory

several = False  # whether an array was seen on another GPU than the first: from then on ops ask where their inputs are


class Device:
    """A device's name, ``cpu`` or ``cuda:N``, under torch's rules (``minidl.device("cuda")`` is ``cuda:0``)."""

    type: str
    index: int | None

    def __init__(self, device: str | Device = "cpu", index: int | None = None):
        if isinstance(device, Device):
            self.type, self.index = device.type, device.index
            return
        kind, _, number = str(device).partition(":")
        if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
            raise ValueError(f"unknown device {device!r}: use 'cpu', 'cuda' or 'cuda:N'")
        self.type = kind
        self.index = int(number) if number else (index if index is not None else (0 if kind == "cuda" else None))

    def __str__(self) -> str:
        return self.type if self.index is None else f"{self.type}:{self.index}"

    def __repr__(self) -> str:
        return f"device('{self}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (str, Device)) and str(self) == str(Device(other))

    def __hash__(self) -> int:
        return hash(str(self))


CPU = Device("cpu")


def cupy() -> ModuleType:
    """The CuPy module, imported on first use. Raises RuntimeError with the command that installs it."""
    try:
        import cupy as module
    except ImportError as error:
        raise RuntimeError(
            "device 'cuda' needs CuPy, which is not installed: pip install 'minidl[cuda]' (CUDA 13) or "
            "'minidl[cuda12]' (CUDA 12)"
        ) from error
    memory.watch(module)
    return module


def is_cuda_array(a: Any) -> bool:
    """Whether `a` is a CuPy array, told without importing CuPy."""
    return type(a).__module__.partition(".")[0] == "cupy" and "cupy" in sys.modules


def array_module(a: Any) -> ModuleType:
    """numpy or cupy, whichever `a` belongs to."""
    return cupy() if is_cuda_array(a) else np


def contiguous(a: Any, dtype: Any = None) -> Any:
    """`a` in C order without gaps, of `dtype` if given: itself where it is so already. numpy.ascontiguousarray for both
    kinds of array.
    """
    return array_module(a).ascontiguousarray(a, dtype)


def as_array(a: Any, dtype: Any = None) -> Any:
    """A number or an array as an array of `dtype` if given, where it is. numpy.asarray for both kinds of array."""
    return array_module(a).asarray(a, dtype)


def writeable(a: Any) -> bool:
    """Whether an array may be written to; CuPy's always may."""
    return getattr(a.flags, "writeable", True)


def device_of(a: Any) -> Device:
    """The device that holds array `a`."""
    global several
    if not is_cuda_array(a):
        return CPU
    several = several or a.device.id > 0
    return Device("cuda", a.device.id)


def on_two(arrays: Any) -> str:
    """What to say of arrays that are not all on one device; "" if they are."""
    where: dict[str, tuple[int, ...]] = {}  # the first on each
    for a in arrays:
        if hasattr(a, "dtype") and hasattr(a, "shape"):
            where.setdefault(str(device_of(a)), tuple(a.shape))
    if len(where) < 2:
        return ""
    found = " and ".join(f"{shape} on {device}" for device, shape in where.items())
    *others, gpu = sorted(where)  # "cpu" comes first
    return (
        f"the inputs are on two devices, {found}: move the data to the model, x.to('{gpu}'), or the model to the data, "
        f"model.to('{others[0]}'); a tensor made inside of forward() needs device=x.device"
    )


def away(values: Any) -> Any:
    """The GPU, as a context, of the CuPy arrays among `values` (Tensors, and sequences of either, count), where it is
    not the current one; else None. RuntimeError where they are on two.
    """
    arrays = list(_cuda_arrays(values))
    if not arrays:
        return None
    if len({a.device.id for a in arrays}) > 1:
        raise RuntimeError(on_two(arrays))
    return None if arrays[0].device.id == cupy().cuda.runtime.getDevice() else arrays[0].device


def first(values: Any) -> Any:
    """As `away`, of the first CuPy array there is."""
    array = next(_cuda_arrays(values), None)
    return None if array is None else away((array,))


def _cuda_arrays(values: Any) -> Iterator[Any]:
    for v in values:
        if isinstance(v, (list, tuple)):
            yield from _cuda_arrays(v)
        elif is_cuda_array(a := getattr(v, "array", v)):
            yield a


def at(values: Any) -> Any:
    """A context in which the GPU of such values is the current one."""
    return (away(values) if several else None) or contextlib.nullcontext()


def cuda_is_available() -> bool:
    """True when CuPy is installed and a GPU answers."""
    return why_no_cuda() is None


def why_no_cuda() -> str | None:
    """What is missing, CuPy, the driver or the GPU, and what to do; None when a GPU answers."""
    try:
        if cupy().cuda.runtime.getDeviceCount() > 0:
            return None
        return "CuPy counts no GPU; `nvidia-smi` lists those that the driver knows"
    except Exception as error:  # CuPy raises its own error types when no driver is there
        from minidl_kernels.cuda.launch import explained

        return explained(error) or str(error)


def move(a: Any, device: str | Device) -> Any:
    """Array `a` on `device`; the same object when it is there already. Raises RuntimeError when no GPU answers."""
    target = Device(device)
    if target == device_of(a):
        return a
    if target.type == "cpu":
        return cupy().asnumpy(a)
    missing = why_no_cuda()
    if missing is not None:
        cupy()  # says how to install it, when that is what is missing
        raise RuntimeError(f"device '{target}' was asked for, but CuPy finds no GPU on this machine: {missing}")
    global several
    count = cupy().cuda.runtime.getDeviceCount()
    if target.index is not None and target.index >= count:
        there = "there is only cuda:0" if count == 1 else f"there are cuda:0 ... cuda:{count - 1}"
        raise RuntimeError(f"device '{target}' was asked for, but {there}")
    several = several or target.index != 0
    with cupy().cuda.Device(target.index):
        return a.copy() if is_cuda_array(a) else cupy().asarray(a)
