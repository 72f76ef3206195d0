"""DLPack: tensors passed between libraries without copying (dmlc.github.io/dlpack)."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl import devices
from minidl.tensors import Tensor, wrap

__all__ = ["from_dlpack"]

_CPU, _CUDA = 1, 2  # device types of the standard


def from_dlpack(x: Any) -> Tensor:
    """A Tensor on the memory of another library's tensor (torch, JAX, CuPy ...), shared, not copied.

    Raises TypeError for what has no ``__dlpack__``; BufferError or RuntimeError, the other library's own, for what
    cannot be shared, such as bfloat16 or a torch tensor that requires gradients; ValueError for another device.

    >>> import numpy as np
    >>> a = np.zeros(2, np.float32)
    >>> t = from_dlpack(a)
    >>> a[0] = 5
    >>> t
    tensor([5., 0.])
    """
    if not hasattr(x, "__dlpack__") or not hasattr(x, "__dlpack_device__"):
        raise TypeError(f"from_dlpack: a {type(x).__name__} has no __dlpack__ and __dlpack_device__")
    kind = int(x.__dlpack_device__()[0])
    if kind == _CPU:
        return wrap(np.from_dlpack(x))
    if kind == _CUDA:
        return wrap(devices.cupy().from_dlpack(x))
    raise ValueError(f"from_dlpack: memory of device type {kind} is neither the CPU's nor CUDA's")
