"""torch.cuda's names: is a GPU there, how many, and waiting for it. Arrays on a GPU are CuPy's.

>>> import minidl
>>> device = minidl.device("cuda" if minidl.cuda.is_available() else "cpu")
"""

from __future__ import annotations

from typing import Any

from minidl.devices import Device, cuda_is_available, cupy, why_no_cuda
from minidl_kernels.cuda.memory import OutOfMemoryError

__all__ = [
    "OutOfMemoryError", "current_device", "device_count", "empty_cache", "get_device_name", "is_available",
    "is_bf16_supported", "manual_seed", "manual_seed_all", "memory_allocated", "memory_reserved", "set_device",
    "synchronize",
]  # fmt: skip


def is_available() -> bool:
    """True when CuPy is installed and a GPU answers."""
    return cuda_is_available()


def device_count() -> int:
    """The number of GPUs; 0 without CuPy."""
    return cupy().cuda.runtime.getDeviceCount() if cuda_is_available() else 0


def _index(device: Any) -> int:
    """The number of a GPU. Raises RuntimeError where there is none."""
    missing = why_no_cuda()
    if missing is not None:
        cupy()  # says how to install it, when that is what is missing
        raise RuntimeError(f"CuPy finds no GPU on this machine; ask minidl.cuda.is_available() first: {missing}")
    if device is None:
        return cupy().cuda.runtime.getDevice()
    return device if isinstance(device, int) else Device(device).index or 0


def current_device() -> int:
    """The number of the GPU that is used when none is named. Raises RuntimeError without a GPU, as all below."""
    return _index(None)


def set_device(device: Any) -> None:
    """Choose the GPU that is used when none is named."""
    cupy().cuda.runtime.setDevice(_index(device))


def get_device_name(device: Any = None) -> str:
    """A GPU's name, as its maker calls it."""
    return cupy().cuda.runtime.getDeviceProperties(_index(device))["name"].decode()


def synchronize(device: Any = None) -> None:
    """Wait until a GPU has finished what it was given."""
    with cupy().cuda.Device(_index(device)):
        cupy().cuda.runtime.deviceSynchronize()


def is_bf16_supported(including_emulation: bool = True) -> bool:
    """False: minidl's tensors do not hold bfloat16."""
    return False


def empty_cache() -> None:
    """Give memory that is kept for reuse back to the GPU; nothing to do without one."""
    if cuda_is_available():
        cupy().get_default_memory_pool().free_all_blocks()


def memory_allocated(device: Any = None) -> int:
    """Bytes that arrays hold on a GPU; 0 without one."""
    return _of_pool("used_bytes", device)


def memory_reserved(device: Any = None) -> int:
    """Bytes that a GPU's pool holds, in use or not; 0 without a GPU."""
    return _of_pool("total_bytes", device)


def _of_pool(name: str, device: Any) -> int:
    if not cuda_is_available():
        return 0
    with cupy().cuda.Device(_index(device)):
        return getattr(cupy().get_default_memory_pool(), name)()


def manual_seed(seed: int) -> None:
    """Of no effect: numbers for arrays on a GPU come from the one generator that `minidl.manual_seed` seeds."""


manual_seed_all = manual_seed
