"""What this CPU offers, probed when asked: by feature, never by name (names are wrong under virtual machines).

Kernels are written once for vectors of some width; a *tier* says which width and which instructions:

    amx          avx512vnni and the tile unit for int8, where the kernel lets this process use it
    avx512vnni   avx512 and the int8 dot product vpdpbusd
    avx512       512-bit vectors, 32 registers, masks
    avx2         256-bit vectors, 16 registers, fused multiply-add
    generic      128-bit vectors, no instruction named: any CPU, Arm included
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

TIERS = ("amx", "avx512vnni", "avx512", "avx2", "generic")

_AVX2 = {"avx2", "fma"}
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
_NEEDS: dict[str, set[str]] = {
    "amx": _AVX512 | {"avx512vnni", "amx-tile", "amx-int8"},
    "avx512vnni": _AVX512 | {"avx512vnni"},
    "avx512": _AVX512,
    "avx2": _AVX2,
    "generic": set(),
}


class Machine(NamedTuple):
    """What kernels need to know of the CPU.

    features  LLVM's names of the instruction sets that kernels may be compiled for
    tier      the best of TIERS
    cores     CPUs that this process may run on
    l1, l2    bytes of data cache per core;  l3  bytes of the shared cache (0 where there is none)
    """

    arch: str
    features: frozenset[str]
    tier: str
    cores: int
    l1: int
    l2: int
    l3: int


@functools.cache
def machine() -> Machine:
    """Probe this machine (once)."""
    features = _features()
    tier = next(t for t in TIERS if features >= _NEEDS[t] and (t != "amx" or amx_permitted()))
    l1, l2, l3 = _caches()
    return Machine(platform.machine(), features, tier, cores(), l1, l2, l3)


def _read(path: str) -> str:
    with open(path) as file:  # pathlib takes 5 ms to import
        return file.read().strip()


def cores() -> int:
    """CPUs that this process may run on: its affinity, and the quota of its container."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = _read("/sys/fs/cgroup/cpu.max").split()
        n = min(n, max(1, round(int(quota) / int(period))))
    return n


def _features() -> frozenset[str]:
    """The features that Numba compiles for: those of the host, or what NUMBA_CPU_NAME / NUMBA_CPU_FEATURES say."""
    import llvmlite.binding as llvm
    from numba.core import config

    if config.CPU_FEATURES is not None:
        return frozenset(f[1:] for f in config.CPU_FEATURES.split(",") if f.startswith("+"))
    if config.CPU_NAME not in (None, "host"):
        return frozenset()  # a named CPU: nothing is known but its name
    try:
        found = {name for name, present in llvm.get_host_cpu_features().items() if present}
    except RuntimeError:  # LLVM cannot tell on this platform
        return frozenset()
    if not config.ENABLE_AVX:
        found = {name for name in found if not name.startswith(("avx", "amx"))}
    return frozenset(found)


@functools.cache
def amx_permitted() -> bool:
    """Ask the operating system for the tile registers (once per process); True where it grants them."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    arch_prctl, req_xcomp_perm, xtiledata = 158, 0x1023, 18
    return ctypes.CDLL(None).syscall(arch_prctl, req_xcomp_perm, xtiledata) == 0


def _caches() -> tuple[int, int, int]:
    """Bytes of L1 data, L2 and L3 from Linux' sysfs; modest guesses elsewhere."""
    found = {1: 32 << 10, 2: 512 << 10, 3: 0}
    for number in range(8):
        index = f"/sys/devices/system/cpu/cpu0/cache/index{number}/"
        with contextlib.suppress(OSError, ValueError, KeyError):
            if _read(index + "type") == "Instruction":
                continue
            size = _read(index + "size")
            found[int(_read(index + "level"))] = int(size[:-1]) << {"K": 10, "M": 20, "G": 30}[size[-1]]
    return found[1], found[2], found[3]


class _Chosen(threading.local):
    tier: str | None = None


_chosen = _Chosen()


def tier() -> str:
    """The tier that kernels called from this thread are compiled for: the machine's own, or that of an enclosing
    `use_tier`.
    """
    return _chosen.tier or machine().tier


_FLOATS = {"amx": "avx512", "avx512vnni": "avx512"}


def floats() -> str:
    """`tier()` as far as vectors of floats go: those of amx and avx512vnni are avx512's, so their kernels are too."""
    name = tier()
    return _FLOATS.get(name, name)


def tiers() -> tuple[str, ...]:
    """The tiers this machine can run, best first."""
    best = TIERS.index(machine().tier)
    return tuple(t for t in TIERS[best:] if machine().features >= _NEEDS[t])


def multiplies_bfloat16() -> bool:
    """Whether this thread's tier has the tile unit, and the unit takes bfloat16."""
    return tier() == "amx" and "amx-bf16" in machine().features


@contextlib.contextmanager
def use_tier(name: str) -> Iterator[None]:
    """Run kernels as a lesser CPU would, in this thread. Raises ValueError for a tier that this machine cannot run."""
    if name not in TIERS:
        raise ValueError(f"there is no tier {name!r}; there are: {', '.join(TIERS)}")
    if name not in tiers():
        raise ValueError(
            f"this machine is {machine().tier!r} and cannot run {name!r}; it can run: {', '.join(tiers())}"
        )
    before, _chosen.tier = _chosen.tier, name
    try:
        yield
    finally:
        _chosen.tier = before
