"""Memory that an array leaves is kept for the next one.

A training step makes and drops the same large arrays again and again. glibc hands every block above 128 KiB to 32 MiB
back to the system when it is freed, and the next array pays for fresh pages: 0.25 us per 4 KiB, more than filling them.
Here blocks of up to 32 MiB (the most glibc allows) stay in the heap, of which up to 256 MiB may lie free at its end.

It holds for the whole process. MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_ or GLIBC_TUNABLES in the environment win:
whoever sets them is left alone. Other systems than Linux with glibc are as they were.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_BLOCK, KEPT = 32 << 20, 256 << 20

_THE_USERS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep() -> bool:
    """Ask the C library to keep freed memory; whether it does."""
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _THE_USERS):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK) and library.mallopt(M_TRIM_THRESHOLD, KEPT))
