"""``minidl info``: versions, CPU, threads, BLAS, GPU, kernel cache, and what each kernel would run here."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import platform
import re
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

import minidl_kernels as kernels
from minidl import __version__, devices
from minidl.compress.reports import table

__all__ = ["cpu_name", "gather", "main"]

# Features worth a line in the overview; JSON has all of them.
_NAMED = (
    "sse4.2", "avx", "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni", "avx512bf16",
    "avx512fp16", "avxvnni", "amx-tile", "amx-int8", "amx-bf16", "neon", "dotprod", "i8mm", "sve", "sve2",
)  # fmt: skip


def main(arguments: argparse.Namespace) -> None:
    """Print it, as text or as JSON."""
    facts = gather()
    print(json.dumps(facts, indent=2) if arguments.json else as_text(facts))


def gather() -> dict[str, Any]:
    """All facts as plain values. Compiles nothing."""
    from minidl_kernels.cpu import machine

    cpu = machine.machine()
    return {
        "minidl": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(terse=True),
        "packages": {name: _version(name) for name in ("numpy", "numba", "safetensors", "tqdm", "matplotlib")},
        "cpu": {
            "name": cpu_name(),
            "arch": cpu.arch,
            "tier": cpu.tier,
            "tiers": list(machine.tiers()),
            "features": sorted(cpu.features),
            "cores": cpu.cores,
            "cache_bytes": {"l1": cpu.l1, "l2": cpu.l2, "l3": cpu.l3},
        },
        "threads": kernels.get_num_threads(),
        "blas": _blas(),
        "gpu": _gpu(),
        "cache": _cache(),
        "kernels": _kernels(),
        "cuda": _cuda(),
    }


WIDTH = 60  # of a list of variants


def as_text(facts: dict[str, Any]) -> str:
    """The overview that people read."""
    cpu, blas, gpu, cache = facts["cpu"], facts["blas"], facts["gpu"], facts["cache"]
    packages = ", ".join(f"{name} {version or 'not installed'}" for name, version in facts["packages"].items())
    sizes = ", ".join(f"{name.upper()} {_size(n)}" for name, n in cpu["cache_bytes"].items() if n)
    shown = [f for f in _NAMED if f in cpu["features"]]
    lines = [
        ("minidl", f"{facts['minidl']} on {facts['python']}, {facts['platform']}"),
        ("packages", packages),
        ("CPU", f"{cpu['name']} ({cpu['arch']}), {_count(cpu['cores'], 'core')}, {sizes}"),
        ("tier", f"{cpu['tier']} (this machine can run: {', '.join(cpu['tiers'])})"),
        ("features", " ".join(shown) or "none that kernels name"),
        ("threads", f"{facts['threads']} (minidl.set_num_threads changes it)"),
        ("BLAS", f"{blas['name']} {blas['version']}".strip()),
        ("GPU", gpu["status"]),
        ("cache", f"{cache['folder']} ({_count(cache['files'], 'kernel')}, {_size(cache['bytes'])})"),
    ]
    out = [f"{name:<9} {text}" for name, text in lines]
    rows = []
    for k in facts["kernels"]:
        others = textwrap.wrap(", ".join(v for v in k["variants"] if v != k["runs"]), WIDTH) or [""]
        rows += [(k["op"], k["shapes"], k["runs"], others[0]), *(("", "", "", more) for more in others[1:])]
    on_gpu = [(op, ", ".join(variants)) for op, variants in facts["cuda"].items()]
    tables = (
        table(("kernel", "for float32 or int8 of", "runs", "could also run"), rows, left=4),
        table(("on a GPU", "variants"), on_gpu, left=2),
    )
    return "\n".join([*out, *(line for t in tables for line in ("", *t))])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_name() -> str:
    """What the CPU calls itself; under virtual machines that may be wrong."""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or "unknown CPU"


def _blas() -> dict[str, str]:
    """The BLAS that NumPy was built with."""
    config = np.show_config(mode="dicts") or {}
    found = config.get("Build Dependencies", {}).get("blas", {})
    return {"name": str(found.get("name", "unknown")), "version": str(found.get("version", ""))}


def _gpu() -> dict[str, Any]:
    """Whether CuPy is there and a GPU answers."""
    if importlib.util.find_spec("cupy") is None:
        return {"cupy": None, "answers": False, "status": "none: CuPy is not installed (pip install 'minidl[cuda]')"}
    try:
        cupy = devices.cupy()
        version = cupy.__version__
    except Exception as problem:  # a broken installation is a fact to show, whatever it raises
        return {"cupy": None, "answers": False, "status": f"none: CuPy is installed but does not load ({problem})"}
    if not devices.cuda_is_available():
        why = devices.why_no_cuda()
        status = f"none: CuPy {version} is installed, but no GPU answers: {why}"
        return {"cupy": version, "answers": False, "status": status}
    found = cupy.cuda.runtime.getDeviceProperties(0)
    name, memory = found["name"].decode(), found["totalGlobalMem"]
    status = f"{name}, {_size(memory)}, CuPy {version}"
    return {"cupy": version, "answers": True, "name": name, "bytes": memory, "status": status}


def _cache() -> dict[str, Any]:
    """The folder of compiled kernels, this version's and earlier ones'."""
    from minidl_kernels.cpu import jit

    folder = jit.cache_folder()
    files = [f for f in folder.iterdir() if f.suffix == ".bin"]
    return {"folder": str(folder), "files": len(files), "bytes": sum(f.stat().st_size for f in files)}


def _kernels() -> list[dict[str, Any]]:
    """What each operation runs for shapes as they occur: (op, shapes, the variant that runs, all variants)."""
    f = lambda *shape: np.zeros(shape, np.float32)
    i = lambda *shape: np.zeros(shape, np.int8)
    heads = f(1, 8, 256, 64)
    lse = f(1, 8, 256)
    image, filters, y = f(64, 16, 8, 8), f(32, 16, 3, 3), f(64, 32, 8, 8)
    calls: list[tuple[str, str, tuple]] = [
        ("matmul", "(8, 8) @ (8, 8)", (f(8, 8), f(8, 8))),
        ("matmul", "(1024, 1024) @ (1024, 1024)", (f(1024, 1024), f(1024, 1024))),
        ("linear", "x (1, 512), w (64, 512)", (f(1, 512), f(64, 512))),
        ("linear", "x (64, 512), w (64, 512)", (f(64, 512), f(64, 512))),
        ("conv2d", "x (64, 16, 8, 8), w (32, 16, 3, 3)", (image, filters, None, 1, 1)),
        ("conv2d_dx", "dy (64, 32, 8, 8), w (32, 16, 3, 3)", (y, filters, image.shape, 1, 1)),
        ("conv2d_dw", "dy (64, 32, 8, 8), x (64, 16, 8, 8)", (y, image, filters.shape, 1, 1)),
        ("attention", "q, k, v (1, 8, 256, 64)", (heads, heads, heads)),
        ("attention_backward", "q, k, v (1, 8, 256, 64)", (heads, heads, heads, heads, heads, lse)),
        ("int8_matmul", "(64, 512) @ (512, 64)", (i(64, 512), i(512, 64))),
        ("int8_linear", "x (1, 512), w (64, 512)", (f(1, 512), i(64, 512), f(64))),
        ("int8_linear", "x (64, 512), w (64, 512)", (f(64, 512), i(64, 512), f(64))),
        ("int8_conv2d", "x (64, 16, 8, 8), w (32, 16, 3, 3)", (image, i(32, 16, 3, 3), f(32), None, 1, 1)),
    ]
    return [
        {"op": op, "shapes": shapes, "runs": kernels.which(op, *args), "variants": list(kernels.variants(op, "cpu"))}
        for op, shapes, args in calls
    ]


def _cuda() -> dict[str, list[str]]:
    """The CUDA variants of each operation that has any."""
    from minidl_kernels.registry import ops

    return {op: list(found) for op in ops() if (found := kernels.variants(op, "cuda"))}


def _size(n: int) -> str:
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n >= step:
            return f"{n / step:.1f} {unit}".replace(".0 ", " ")
    return f"{n} bytes"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
