"""Helpers around training, under torch.utils's names."""

from importlib import import_module as _import_module
from typing import Any as _Any

from minidl.utils import checkpoint

__all__ = ["checkpoint", "data"]


def __getattr__(name: str) -> _Any:
    if name == "data":
        return _import_module("minidl.utils.data")
    hint = ": use minidl.train.fit's history, minidl.plots or a CSV file" if name == "tensorboard" else ""
    raise AttributeError(f"module 'minidl.utils' has no attribute {name!r}{hint}")
