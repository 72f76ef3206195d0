"""Changing the dtype or the device of a module's parameters and buffers, in place."""

from __future__ import annotations

from typing import Any

from minidl import devices, dtypes
from minidl.nn.module.tree import Tree
from minidl.nn.parameter import Parameter
from minidl.storage import Packed
from minidl.tensors import Tensor, wrap


class Moving(Tree):
    """Types and devices: the part of :class:`Module` that casts and moves."""

    def to(self, *args: Any, dtype: Any = None, device: Any = None, non_blocking: bool = False) -> Any:
        """Move parameters and buffers: to(device), to(dtype), to(device, dtype) or to(tensor). Returns the module.

        It happens in place: the Parameter objects stay the same. A dtype must be floating point (TypeError otherwise)
        and applies to floating point tensors only.
        """
        for a in args:
            if isinstance(a, Tensor):
                dtype, device = a.dtype, a.device
            elif isinstance(a, devices.Device) or (isinstance(a, str) and a.partition(":")[0] in ("cpu", "cuda")):
                device = a
            elif not (a is None or isinstance(a, bool)):
                dtype = a
        kind = None
        if dtype is not None:
            kind = dtypes.as_numpy(dtype)
            if kind.kind != "f":
                raise TypeError(f"nn.Module.to only accepts floating point dtypes, but got desired dtype={dtype}")
        if device is not None:
            devices.Device(device)

        def change(array: Any) -> Any:
            if isinstance(array, Packed):
                return array if device is None else array.to(device)
            if kind is not None and array.dtype.kind == "f" and array.dtype != kind:
                array = array.astype(kind)
            return array if device is None else devices.move(array, device)

        for t in [*self.parameters(), *self.buffers()]:
            t.array = change(t.array)
            if t._grad is not None:
                t._grad = wrap(change(t._grad.array))
            if device is not None and isinstance(t, Parameter) and t.mask is not None:
                t.mask = devices.move(t.mask, device)
        return self

    def float(self) -> Any:
        """Floating point parameters and buffers as float32."""
        return self.to(dtype=dtypes.float32)

    def double(self) -> Any:
        """Floating point parameters and buffers as float64."""
        return self.to(dtype=dtypes.float64)

    def half(self) -> Any:
        """Floating point parameters and buffers as float16, which is for storage: few ops compute in it."""
        return self.to(dtype=dtypes.float16)

    def cpu(self) -> Any:
        """Parameters and buffers on the CPU."""
        return self.to(device="cpu")

    def cuda(self, device: Any = None) -> Any:
        """Parameters and buffers on a GPU."""
        return self.to(device="cuda" if device is None else device if not isinstance(device, int) else f"cuda:{device}")
