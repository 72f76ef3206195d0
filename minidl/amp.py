"""Mixed precision, as far as minidl goes: not at all, and it says so.

minidl computes in the dtype of its tensors; float16 halves the memory of arrays and is no faster on a CPU, and bfloat16
is not held. Programs with a switch run with it switched off: ``autocast(..., enabled=False)`` and
``GradScaler(enabled=False)`` change nothing. As in torch, asking for CUDA where there is none warns and switches off.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

from minidl.devices import Device, cuda_is_available
from minidl.tensors import Tensor

__all__ = ["GradScaler", "autocast"]


def _check(what: str, device: str, enabled: bool) -> bool:
    """False when switched off; warns where torch does, else raises NotImplementedError."""
    if not enabled:
        return False
    if Device(device).type == "cuda" and not cuda_is_available():
        warnings.warn(f"{what}: CUDA is not available; disabled", UserWarning, stacklevel=3)
        return False
    raise NotImplementedError(
        f"{what}: minidl has no mixed precision, it computes in the dtype of its tensors. Pass enabled=False to run in "
        "the model's own precision"
    )


class autocast:
    """A context manager and decorator that changes nothing; with enabled=True it raises NotImplementedError."""

    def __init__(
        self, device_type: str = "cuda", dtype: Any = None, enabled: bool = True, cache_enabled: bool | None = None
    ) -> None:
        _check("autocast", device_type, enabled)

    def __enter__(self) -> autocast:
        return self

    def __exit__(self, *_: Any) -> None:
        return None

    def __call__(self, func: Callable) -> Callable:
        @wraps(func)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return func(*args, **kwargs)

        return wrapped


class GradScaler:
    """Scales no loss: ``scale(loss)`` is the loss, ``step(optimizer)`` its step.

    With enabled=True it raises NotImplementedError.
    """

    def __init__(
        self, device: str = "cuda", init_scale: float = 65536.0, growth_factor: float = 2.0,
        backoff_factor: float = 0.5, growth_interval: int = 2000, enabled: bool = True,
    ) -> None:  # fmt: skip
        _check("GradScaler", device, enabled)

    def scale(self, outputs: Tensor) -> Tensor:
        """The very loss."""
        return outputs

    def unscale_(self, optimizer: Any) -> None:
        """Nothing to do: no gradient was scaled."""

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """``optimizer.step()``."""
        return optimizer.step(*args, **kwargs)

    def update(self, new_scale: Any = None) -> None:
        """Nothing to do: there is no scale."""

    def is_enabled(self) -> bool:
        """False."""
        return False

    def get_scale(self) -> float:
        """1.0."""
        return 1.0

    def state_dict(self) -> dict:
        """Empty."""
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Nothing to load."""
