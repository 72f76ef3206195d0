"""When a GPU's memory runs out: what is kept for reuse is freed and the allocation tried once more; if that fails too,
an error says how much was asked for, what is where, and what helps.
"""

from __future__ import annotations

import gc
from types import ModuleType
from typing import Any


class OutOfMemoryError(MemoryError, RuntimeError):
    """A GPU's memory does not suffice: MemoryError as CuPy's, RuntimeError as torch's."""


_watched: set[int] = set()


def watch(module: ModuleType) -> None:
    """Put the second try before the allocator of a cupy module, whichever it is; once for each module."""
    if id(module) in _watched:
        return
    before = module.cuda.get_allocator()

    def allocate(size: int) -> Any:
        try:
            return before(size)
        except MemoryError:
            gc.collect()  # arrays in reference cycles
            module.get_default_memory_pool().free_all_blocks()
        try:
            return before(size)
        except MemoryError as error:
            raise OutOfMemoryError(_advice(module, size)) from error

    try:
        module.cuda.set_allocator(allocate)
    except ValueError:  # inside of the caller's own `with cupy.cuda.using_allocator(...)`: theirs for now
        return
    _watched.add(id(module))


def _advice(module: ModuleType, size: int) -> str:
    pool, runtime = module.get_default_memory_pool(), module.cuda.runtime
    free, total = runtime.memGetInfo()
    used, held = pool.used_bytes(), pool.total_bytes()
    return (
        f"cuda:{runtime.getDevice()} is out of memory: {_size(size)} were asked for, {_size(free)} of its "
        f"{_size(total)} are free, {_size(used)} are held by arrays of this process and {_size(held - used)} "
        "kept for reuse, after unused blocks were freed. What helps: smaller batches; no_grad() where nothing is "
        "trained; loss.item() in place of loss where it is only summed up, as a loss keeps its whole graph; "
        "utils.checkpoint; ending other programs on this GPU (nvidia-smi lists them)"
    )


def _size(n: int) -> str:
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= step:
            return f"{n / step:.1f} {unit}"
    return f"{n} bytes"
