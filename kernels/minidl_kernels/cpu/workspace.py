"""Scratch memory for kernels: aligned to cache lines, kept for the next call, bounded, per thread.

A fresh large array costs page faults (0.25 us per 4 KiB: more than filling it), and `np.empty` aligns to 16 bytes
only, so that every other load of a 64-byte vector touches two cache lines. Packed panels therefore live here:

    with workspace.borrow(nbytes) as address:
        kernel(..., address)

Results that are large and written once are made by `empty`, on a cache line too.

Buffers belong to the Python thread that borrows: no lock, and a kernel called from many threads never shares scratch.
A nested borrow gets another buffer. At most `KEEP` bytes per thread are kept; the rest goes back to the system.
Contents are whatever was left there.
"""

from __future__ import annotations

import ctypes
import math
import threading
from typing import Any

import numpy as np

ALIGN = 64
KEEP = 64 << 20
LARGE = 16 << 10  # bytes; of less, making views takes longer than is won


# In CPython an object's id is its address; NumPy's array struct goes on, after the object's header, with the pointer
# to its first element (`PyArrayObject_fields`, a part of NumPy's binary interface). `__array_interface__` tells the
# same in a microsecond: as long as a product of 32 x 32 matrices takes.
_HEADER = object.__basicsize__
_pointer_at = ctypes.c_size_t.from_address


def address(a: np.ndarray | None) -> int:
    """Of an array's first element; 0 for None."""
    return 0 if a is None else _pointer_at(id(a) + _HEADER).value


_probe = np.empty(0, np.uint8)
if _probe.__array_interface__["data"][0] != address(_probe):
    raise ImportError("minidl's CPU kernels need CPython and NumPy's array struct; this interpreter has another one")


class _Free(threading.local):
    def __init__(self) -> None:
        self.buffers: list[tuple[int, int, np.ndarray]] = []  # (size, address, memory), smallest first


_free = _Free()


class borrow:
    """`with borrow(nbytes) as address`: at least `nbytes` of memory at an address that is a multiple of 64."""

    __slots__ = ("_buffer", "_buffers", "_nbytes")

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes

    def __enter__(self) -> int:
        self._buffers = buffers = _free.buffers
        for i, buffer in enumerate(buffers):
            if buffer[0] >= self._nbytes:
                self._buffer = buffers.pop(i)
                return self._buffer[1]
        memory = np.empty(self._nbytes + ALIGN, np.uint8)
        start: int = memory.__array_interface__["data"][0]
        self._buffer = (self._nbytes, start + -start % ALIGN, memory)
        return self._buffer[1]

    def __exit__(self, *exc: object) -> None:
        buffers = self._buffers
        buffers.append(self._buffer)
        if len(buffers) == 1 and self._buffer[0] <= KEEP:
            return
        buffers.sort(key=lambda b: b[0])
        # Too much kept: the smallest go first, since a large buffer serves small wishes too; one that is too large
        # alone goes as well.
        kept = sum(b[0] for b in buffers)
        while buffers and kept > KEEP:
            kept -= buffers.pop(0)[0]


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """A fresh array that begins on a cache line, where that pays: in memory of `np.empty` every 64-byte vector of a row
    lies across two.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes < LARGE:
        return np.empty(shape, dtype)
    memory = np.empty(nbytes + ALIGN, np.uint8)
    skip = -address(memory) % ALIGN
    return memory[skip : skip + nbytes].view(dtype).reshape(shape)


def forget() -> None:
    """Give back what this thread keeps."""
    _free.buffers.clear()


def kept() -> int:
    """Bytes that this thread keeps for its next calls."""
    return sum(b[0] for b in _free.buffers)
