"""The other contestants: one page per library, imported only where it is asked for.

A page has a function for each kernel that the library can do: the kernel's name, the kernel's arguments (NumPy arrays),
and it returns a call without arguments that does the same job once and returns the result. What can be done once for
all calls (wrapping memory, building a session) is done before. `start(nthreads)` sets the library's threads.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

__all__ = ["NAMES", "MissingPeer", "find", "load", "present"]

# Library -> the packages that its page imports. `pip install 'minidl[bench]'` brings them all.
# CuPy's is for a GPU, where `minidl bench --device cuda` asks for it.
NAMES = {"numpy": ("numpy",), "torch": ("torch",), "onnxruntime": ("onnxruntime", "onnx")}
ON_GPU = {"cupy": ("cupy",)}


class MissingPeer(Exception):
    """A library that was asked for is not here; the message says how to install it."""


def load(name: str) -> Any:
    """The page of a library. Raises MissingPeer."""
    for package in (NAMES | ON_GPU)[name]:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise MissingPeer(f"{name}: {error} (pip install 'minidl[bench]' brings the peers)") from error
    return importlib.import_module(f"minidl.bench.peers.with_{name}")


def present() -> list[str]:
    """The libraries that are installed."""
    return [name for name, needed in NAMES.items() if all(importlib.util.find_spec(package) for package in needed)]


def find(page: Any, kernel: str, args: tuple[Any, ...]) -> Callable[[], Any] | None:
    """The peer's contestant for a kernel, or None where it has none for these arguments."""
    make = getattr(page, kernel, None)
    return None if make is None else make(*args)
