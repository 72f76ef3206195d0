"""Parameter and Buffer: the tensors that a Module registers when they are assigned to it."""

from __future__ import annotations

from typing import Any

import numpy as np

from minidl.devices import array_module, is_cuda_array
from minidl.storage import Packed
from minidl.tensors import Tensor


class Parameter(Tensor):
    """A tensor that a Module trains: assigned to a module's attribute, it becomes one of its parameters.

    Args:
        data: a Tensor or array, shared, not copied; or packed storage (:mod:`minidl.storage`), which has no gradient.
        requires_grad: whether gradients flow to it; ignored for packed storage.

    >>> Parameter(np.float32([1, 2]))
    Parameter containing:
    tensor([1., 2.], requires_grad=True)
    """

    def __init__(self, data: Any = None, requires_grad: bool = True):
        self.array = _array(data)
        if requires_grad and not self.packed:
            self.requires_grad_()

    @property
    def packed(self) -> bool:
        """Whether it holds packed storage, such as int8, in place of a float array."""
        return isinstance(self.array, Packed)

    @property
    def mask(self) -> Any:
        """Bool array of the parameter's shape, False where a weight is pruned and stays 0; None: nothing is pruned.

        Optimizers apply it after every update. Setting it changes no values: see `apply_mask_`. Raises ValueError for
        another shape, or values other than 0 and 1.
        """
        return self.__dict__.get("mask")

    @mask.setter
    def mask(self, value: Any) -> None:
        if value is not None:
            value = value.array if isinstance(value, Tensor) else array_module(value).asarray(value)
            if tuple(value.shape) != tuple(self.array.shape):
                raise ValueError(f"mask has shape {tuple(value.shape)}, the parameter {tuple(self.array.shape)}")
            if value.dtype != np.bool_:
                if not bool(((value == 0) | (value == 1)).all()):
                    raise ValueError("a mask holds only 0 (pruned) and 1 (kept)")
                value = value.astype(bool)
        self.__dict__["mask"] = value

    def apply_mask_(self) -> Parameter:
        """Set the pruned weights to 0, in place. Packed storage holds its zeros already."""
        mask, a = self.mask, self.array
        if mask is not None and is_cuda_array(a):
            a += 0
            array_module(a).copyto(a, 0, where=~mask)  # without a look at the sum, which the host would wait for
            self.bump()
        elif mask is not None and not self.packed:
            a *= mask  # 20 times as fast as a masked copy, whose branches cannot be foreseen
            a += 0  # -0.0 becomes 0.0
            with np.errstate(all="ignore"):
                finite = bool(np.isfinite(float(a.sum())))
            if not finite:  # 0 times NaN or infinity is not 0
                np.copyto(a, 0, where=~mask)
            self.bump()
        return self

    def requires_grad_(self, requires_grad: bool = True) -> Parameter:
        """Ask for gradients, in place. Raises RuntimeError for packed storage, which has none."""
        if requires_grad and self.packed:
            raise RuntimeError(
                f"a parameter packed as {self.array.kind} cannot require gradients: it is for inference; train the "
                "float model, then quantize it"
            )
        super().requires_grad_(requires_grad)
        return self

    def __deepcopy__(self, memo: dict) -> Any:
        out = super().__deepcopy__(memo)
        out._grad = None  # as torch: the copy of a parameter starts without a gradient
        return out


class Buffer(Tensor):
    """A tensor that belongs to a module's state but is not trained, such as a running mean.

    Args:
        data: a Tensor or array, shared, not copied.
        persistent: whether it is part of the module's ``state_dict``.
    """

    def __init__(self, data: Any = None, *, persistent: bool = True):
        self.array = _array(data)
        self.persistent = persistent


def clear_grad(t: Tensor, set_to_none: bool) -> None:
    """Forget a gradient, or fill it with zeros."""
    if set_to_none or t._grad is None:
        t._grad = None
    else:
        t._grad = t._grad.detach()
        t._grad.array[...] = 0
        t._grad.bump()


def _array(data: Any) -> Any:
    """The array to hold. Raises TypeError for what is no array, Tensor or packed storage."""
    if data is None:
        return np.empty(0, np.float32)
    if isinstance(data, Tensor):
        if data.node is not None and not isinstance(data, Parameter):
            data = data.detach()
        return data.array
    if isinstance(data, Packed) or hasattr(data, "dtype"):
        return np.asarray(data) if isinstance(data, np.generic) else data
    raise TypeError(f"a parameter is made of a Tensor or an array, not {type(data).__name__}")
