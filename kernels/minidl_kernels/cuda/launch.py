"""From a .cu file to a running kernel: the only caller of CuPy's kernel API.

    softmax = kernel("prob/prob.cu", "softmax", x.dtype)
    softmax(rows, 128, x, y, n)                     # grid, block, then the kernel's own arguments

CuPy passes whatever it is given as raw bytes. Here every argument is checked against the parameter list of the .cu file
itself: arrays have the declared dtype, are C-contiguous and on the current device; numbers are cast to the declared
width, and refused where they do not fit. One source serves float32 and float64: `#define T float` goes in front of it.

The same strings are compiled for real chips and run on a CPU by tests/cuda_on_cpu.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from . import memory

ROOT = Path(__file__).resolve().parent.parent

# Types of elements and of numbers, as a .cu file writes them. T is the dtype that the kernel was asked for.
C_TYPES = {
    "float": "float32", "double": "float64", "int": "int32", "long long": "int64", "unsigned": "uint32",
    "unsigned long long": "uint64", "signed char": "int8", "unsigned char": "uint8", "bool": "bool",
    "unsigned short": "uint16",
}  # fmt: skip
C_NAMES = {dtype: name for name, dtype in C_TYPES.items()}

MOST_COUNTED = (1 << 31) - 1 - (1 << 10)  # an int that a block, and a step of a loop, can go beyond without wrapping
STATIC_SHARED = 48 << 10  # bytes that a block gets without asking
MOST_SHARED = 96 << 10  # bytes that our kernels may ask for: sm_80 has 163 KiB, sm_86 and sm_120 99 KiB

INSTALL = "pip install 'minidl[cuda]' (CUDA 13) or 'minidl[cuda12]' (CUDA 12)"


class Parameter(NamedTuple):
    """One parameter of a kernel: its name, its dtype, and whether it is an array."""

    name: str
    dtype: np.dtype[Any]
    array: bool


def cupy() -> ModuleType:
    """The CuPy module. RuntimeError with the command that installs it."""
    try:
        module = import_module("cupy")
    except ImportError as error:
        raise RuntimeError(f"CUDA kernels need CuPy, which is not installed: {INSTALL}") from error
    memory.watch(module)
    return module


@functools.cache
def source(path: str) -> str:
    """The text of a .cu file, named from the package's folder, with the files that it includes put in."""
    return re.sub(r'^#include "([\w./]+)"$', lambda m: source(m[1]), text(path), flags=re.M)


def text(path: str) -> str:
    """A file's text as it stands."""
    return (ROOT / path).read_text()


_ENTRY = r'extern\s+"C"\s+__global__\s+void\s+(?:__launch_bounds__\s*\([^)]*\)\s*)?{}\s*\(([^)]*)\)'


def entries(path: str) -> list[str]:
    """The kernels of a .cu file."""
    return [m[0] for m in re.findall(_ENTRY.format(r"(\w+)"), source(path))]


def parameters(path: str, entry: str, dtype: str) -> tuple[Parameter, ...]:
    """A kernel's parameters, read from its declaration. ValueError where there is no such kernel."""
    found = re.search(_ENTRY.format(re.escape(entry)), source(path))
    if not found:
        raise ValueError(f"{path} has no kernel {entry!r}; it has: {', '.join(entries(path))}")
    listed = []
    for text in found[1].split(","):
        words = text.replace("__restrict__", "").replace("const ", "")
        kind, star, name = re.fullmatch(r"\s*([\w ]+?)\s*(\*?)\s*(\w+)\s*", words).groups()  # type: ignore[union-attr]
        listed.append(Parameter(name, np.dtype(dtype if kind == "T" else C_TYPES[kind]), bool(star)))
    return tuple(listed)


OPTIONS = ("--std=c++17",)


def code(path: str, dtype: str) -> str:
    """What is compiled: a .cu file with T defined; lines keep their numbers."""
    return f"#define T {C_NAMES[dtype]}\n#line 1\n{source(path)}"


class Kernel:
    """A kernel for one dtype. Compiled at the first launch, then kept per device."""

    def __init__(self, path: str, entry: str, dtype: str) -> None:
        self.path, self.entry, self.dtype = path, entry, dtype
        self.parameters = parameters(path, entry, dtype)
        self._functions: dict[int, Any] = {}

    def __call__(self, grid: Any, block: Any, *args: Any, shared: int = 0) -> None:
        """Launch on CuPy's current stream. Nothing runs where the grid is empty.

        grid and block are a size or a tuple of them; `shared` is in bytes. None stands for an array that is left out.
        Raises TypeError for a wrong dtype or count of arguments, ValueError for a wrong layout, size or device.
        """
        grid, block = (tuple(v) if isinstance(v, tuple) else (v,) for v in (grid, block))
        if 0 in grid:
            return
        for size, most, axis in zip(grid, ((1 << 31) - 1, 65535, 65535), "xyz"):
            if size > most:
                raise ValueError(f"{self.entry}: {size} blocks along {axis} are more than the {most} that CUDA has")
        if shared > MOST_SHARED:
            raise ValueError(f"{self.entry}: {shared} bytes of shared memory are more than {MOST_SHARED}")
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.entry} takes {len(self.parameters)} arguments, got {len(args)}")
        module = cupy()
        device = module.cuda.runtime.getDevice()
        checked = [self._argument(p, a, device) for p, a in zip(self.parameters, args)]
        function = self._functions.get(device)
        if function is None:
            function = self._functions[device] = self._compile(module)
        if shared > STATIC_SHARED and function.max_dynamic_shared_size_bytes < shared:
            function.max_dynamic_shared_size_bytes = shared
        function(grid, block, tuple(checked), shared_mem=shared)
        if _debugging:
            module.cuda.runtime.deviceSynchronize()

    def _argument(self, p: Parameter, a: Any, device: int) -> Any:
        if not p.array:
            return _number(self.entry, p, a)
        if a is None:
            return np.uintp(0)
        if type(a).__module__.partition(".")[0] != "cupy":
            raise TypeError(f"{self.entry}: {p.name} must be a CuPy array, got {type(a).__name__}")
        if a.dtype != p.dtype:
            raise TypeError(f"{self.entry}: {p.name} must be {p.dtype}, got {a.dtype}")
        if not a.flags.c_contiguous:
            raise ValueError(f"{self.entry}: {p.name} must be C-contiguous; cupy.ascontiguousarray makes it so")
        if a.device.id != device:
            raise ValueError(
                f"{self.entry}: {p.name} is on cuda:{a.device.id}, but the current device is cuda:{device}; "
                f"use `with cupy.cuda.Device({a.device.id})`"
            )
        return a

    def _compile(self, module: ModuleType) -> Any:
        try:
            return module.RawModule(code=code(self.path, self.dtype), options=OPTIONS).get_function(self.entry)
        except Exception as error:
            missing = explained(error)
            if missing is None:
                raise
            raise RuntimeError(f"{self.entry} could not be compiled: {missing}") from error


def _number(entry: str, p: Parameter, a: Any) -> np.generic:
    """A number as the declared type. ValueError where an integer does not fit."""
    if p.dtype.kind in "iu":
        limits = np.iinfo(p.dtype)
        if not limits.min <= a <= (MOST_COUNTED if p.dtype == np.int32 else limits.max):
            raise ValueError(
                f"{entry}: {p.name} = {a} does not fit {p.dtype}: the arrays are too large for this kernel"
            )
        return p.dtype.type(int(a))
    with np.errstate(over="ignore"):
        return p.dtype.type(a)


@functools.cache
def _kernel(path: str, entry: str, dtype: str) -> Kernel:
    return Kernel(path, entry, dtype)


def kernel(path: str, entry: str, dtype: Any = "float32") -> Kernel:
    """The kernel `entry` of a .cu file, made once for each dtype."""
    return _kernel(path, entry, np.dtype(dtype).name)


# --- what is missing ---


def explained(error: BaseException) -> str | None:
    """What to do about an error of CuPy or CUDA that a setup explains; None for any other."""
    text = f"{type(error).__name__}: {error}"
    if "DynamicLibNotFoundError" in text or "libnvrtc" in text or "nvrtc64" in text:
        return f"CuPy does not find NVRTC, the compiler of CUDA C++; {INSTALL} brings it"
    if "CUDA headers" in text or "cuda_fp16.h" in text:
        return f"CuPy does not find CUDA's headers; {INSTALL} brings them"
    if "cudaErrorInsufficientDriver" in text:
        runtime = cupy().cuda.runtime
        has, wants = (
            f"{v // 1000}.{v % 1000 // 10}" for v in (runtime.driverGetVersion(), runtime.runtimeGetVersion())
        )
        if has == "0.0":
            return "there is no NVIDIA driver on this machine; with one, `nvidia-smi` shows it"
        return (
            f"the NVIDIA driver is too old: it is for CUDA {has}, CuPy for CUDA {wants}; install a newer driver, or "
            "pip install 'minidl[cuda12]' in place of CuPy for CUDA 13"
        )
    if "cudaErrorNoDevice" in text:
        return "the NVIDIA driver finds no GPU; see `nvidia-smi` and the variable CUDA_VISIBLE_DEVICES"
    if "invalid value for --gpu-architecture" in text or "unsupported gpu architecture" in text.lower():
        return f"this NVRTC is older than the GPU: {INSTALL}, in the latest version"
    return None


# --- several GPUs ---


def at_home(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A variant that runs on the GPU of its arrays, whichever is current. TypeError where they are on two."""

    @functools.wraps(kernel)
    def run(*args: Any) -> Any:
        arrays = [a for arg in args for a in (arg if type(arg) is tuple else (arg,)) if hasattr(a, "device")]
        numbers = {a.device.id for a in arrays}
        if len(numbers) > 1:
            where = ", ".join(f"{tuple(a.shape)} on cuda:{a.device.id}" for a in arrays)
            raise TypeError(f"{kernel.__name__}: all arrays must be on one GPU, got {where}; move them first")
        if numbers == {cupy().cuda.runtime.getDevice()}:
            return kernel(*args)
        with arrays[0].device:
            return kernel(*args)

    return run


# --- what the families use ---


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def contiguous(*arrays: Any) -> tuple[Any, ...]:
    """The arrays, None kept, each C-contiguous: a copy where it is not."""
    module = cupy()
    return tuple(None if a is None else module.ascontiguousarray(a) for a in arrays)


def aligned(a: Any, size: int) -> Any:
    """C-contiguous and at an address that `size` divides, for kernels that read so many bytes at once: a copy where it
    is not.
    """
    (a,) = contiguous(a)
    return a.copy() if a.data.ptr % size else a


def counted(op: str, n: int) -> int:
    """n, a product of sizes that a kernel counts in 32 bits. ValueError where it is too large for that."""
    if n > MOST_COUNTED:
        raise ValueError(
            f"{op}: {n} places are more than the {MOST_COUNTED} that its kernel can count; split the batch"
        )
    return n


def squares(op: str, m: int, n: int, side: int) -> int:
    """Blocks that each make side x side results of (m, n), as cuda/blocks.cuh counts them."""
    return ceil_div(counted(op, m), side) * ceil_div(counted(op, n), side)


def rows(a: Any) -> int:
    """How many rows there are: the product of all axes but the last."""
    return math.prod(a.shape[:-1])


def lanes(n: int, most: int = 256) -> int:
    """Threads for n columns: a power of two from a warp to `most`."""
    return min(most, max(32, 1 << max(n - 1, 0).bit_length()))


# --- debugging ---

_debugging = False


class debug:
    """In this block every launch is waited for, so that a fault shows where it was made, and indices are checked on the
    host. Slow: for looking for mistakes.

    >>> from minidl_kernels.cuda import launch
    >>> with launch.debug():
    ...     pass
    """

    def __enter__(self) -> None:
        global _debugging
        self._before, _debugging = _debugging, True

    def __exit__(self, *exc: object) -> None:
        global _debugging
        _debugging = self._before


def check_index(op: str, what: str, index: Any, most: int, besides: int | None = None) -> None:
    """IndexError where an index is outside 0 .. most - 1 and not `besides`; only while debugging: it needs a copy to
    the host. Otherwise kernels give NaN for such an index, or leave it out; they never touch memory there.
    """
    if not _debugging or not index.size:
        return
    values = cupy().asnumpy(index)
    bad = (values < 0) | (values >= most)
    if besides is not None:
        bad &= values != besides
    if bad.any():
        raise IndexError(f"{op}: {what} {int(values[bad][0])} is out of bounds: there are {most}")


def spread(n: int, threads: int = 256) -> int:
    """Blocks for n elements where each thread steps over the grid: enough to fill a GPU, not more."""
    return min(ceil_div(n, threads), 1 << 12)
