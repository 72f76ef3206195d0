"""How many threads kernels use, and BLAS while kernels call it.

The count is one per process, as torch's; `threads(n)` sets it for a block in one thread. The threads themselves are
in pool.py. BLAS gets one while a kernel is inside it: it rounds differently for each number of threads. Nothing here
imports Numba.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import operator
import sys
import threading
from collections.abc import Callable, Iterator

from . import machine

MAX_THREADS = 256

_count: int | None = None


class _Local(threading.local):
    count: int | None = None


_local = _Local()


def _checked(n: int) -> int:
    if isinstance(n, bool):
        raise TypeError(f"the number of threads must be an integer, got {n!r}")
    try:
        n = operator.index(n)
    except TypeError:
        raise TypeError(f"the number of threads must be an integer, got {n!r}") from None
    if n < 1:
        raise ValueError(f"the number of threads must be at least 1, got {n}")
    return min(n, MAX_THREADS)


def set_num_threads(n: int) -> None:
    """Use `n` threads in every kernel of this process from now on (at most 256 count). ValueError below 1, TypeError
    for no integer.
    """
    global _count
    _count = _checked(n)


def get_num_threads() -> int:
    """The number of threads that a kernel called here and now uses: what was set, else the CPUs this process may run
    on.
    """
    global _count
    if _local.count is not None:
        return _local.count
    if _count is None:
        _count = min(machine.cores(), MAX_THREADS)
    return _count


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """Use `n` threads in the kernels that this Python thread calls inside the block.

    >>> with threads(1):
    ...     get_num_threads()
    1
    """
    before, _local.count = _local.count, _checked(n)
    try:
        yield
    finally:
        _local.count = before


# --- BLAS -----------------------------------------------------------------------------------------------------------


@functools.cache
def _blas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """The get and set functions of the BLAS that NumPy loaded, or None where it offers none (Accelerate asks for
    nothing).
    """
    for library in _loaded_blas():
        for get, put in (
            ("scipy_openblas_get_num_threads64_", "scipy_openblas_set_num_threads64_"),
            ("scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
            ("openblas_get_num_threads64_", "openblas_set_num_threads64_"),
            ("openblas_get_num_threads", "openblas_set_num_threads"),
            ("MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
            ("bli_thread_get_num_threads", "bli_thread_set_num_threads"),
        ):
            try:
                getter, setter = library[get], library[put]
            except AttributeError:
                continue
            wide = ctypes.c_int64 if put.startswith("bli") else ctypes.c_int
            getter.argtypes, getter.restype = (), wide
            setter.argtypes, setter.restype = (wide,), None
            return getter, setter
    return None


def _loaded_blas() -> Iterator[ctypes.PyDLL]:
    """NumPy's linear algebra module, through which the loader finds the symbols of the BLAS it links."""
    import numpy as np

    module = np._core._multiarray_umath.__file__  # type: ignore[attr-defined]
    if sys.platform != "win32":
        yield ctypes.PyDLL(module)
        return
    # Windows looks a symbol up in one library only; the wheel keeps OpenBLAS in a folder beside the package.
    from pathlib import Path

    for path in Path(np.__file__).parent.parent.glob("numpy.libs/*openblas*.dll"):
        yield ctypes.PyDLL(str(path))


class _OneBlasThread:
    """`with one_blas_thread:` NumPy's BLAS runs on one thread until the last who asked for that, in any Python thread,
    has left the block; then it has the user's count again.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.users = 1  # the count to give back

    def __enter__(self) -> None:
        functions = _blas()
        if functions is None:
            return
        with self.lock:
            if not self.inside:
                self.users = functions[0]()
                if self.users != 1:
                    functions[1](1)
            self.inside += 1

    def __exit__(self, *exc: object) -> None:
        functions = _blas()
        if functions is None:
            return
        with self.lock:
            self.inside -= 1
            if not self.inside and self.users != 1:
                functions[1](self.users)


one_blas_thread = _OneBlasThread()
