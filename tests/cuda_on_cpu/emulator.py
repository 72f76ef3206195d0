"""Runs an unmodified CUDA C++ source on the CPU: g++, the shim, the runtime, called through ctypes.

    module = Module(source, options=("-DT=float",), checked=True)
    module.launch("kernel", grid, block, arguments, shared=0, order="random", seed=1)

Arguments are NumPy arrays (the device's memory) and NumPy scalars of exactly the declared type; arrays are written in
place. `checked` builds with the checker of runtime/checker.cpp behind g++'s hooks. Findings raise KernelError.
"""

import ctypes
import functools
import hashlib
import os
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from translate import entries, translate

HERE = Path(__file__).resolve().parent
ORDERS = {"forward": 0, "reverse": 1, "random": 2}
GLOBAL, SHARED, CONSTANT = 0, 1, 2  # as runtime.h
STATIC_SHARED = 48 << 10  # bytes that a kernel gets without asking for more, on every architecture
CANARY = 1 << 14  # bytes on both sides of an array

_COMMON = (
    "-std=c++17", "-fPIC", "-g", "-w", "-fno-strict-aliasing", "-fno-threadsafe-statics", "-fno-gnu-unique",
    "-ffp-contract=fast", "-mfma",
)  # fmt: skip
_FAST = ("-O2",)
_CHECKED = (
    "-O1", "-fsanitize=thread,signed-integer-overflow,bounds,shift,integer-divide-by-zero,alignment",
    "--param", "tsan-instrument-func-entry-exit=0",
)  # fmt: skip


class KernelError(AssertionError):
    """What the emulator found wrong with a kernel or its launch."""


def cache():
    """Where builds are kept, by the hash of all that goes into them."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "minidl" / "cuda_on_cpu"
    path.mkdir(parents=True, exist_ok=True)
    return path


def _hash(*parts):
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _run(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise KernelError(f"{command[0]} is not installed: the tests of CUDA kernels need g++ and binutils") from None
    if done.returncode:
        raise KernelError(f"{command[0]} failed:\n{done.stderr[:4000]}")
    return done.stdout


@functools.cache
def _texts(folder):
    return tuple(p.read_text() for p in sorted((HERE / folder).iterdir()) if p.suffix in (".h", ".cpp"))


@functools.cache
def _runtime():
    """The compiled runtime."""
    target = cache() / f"runtime-{_hash(*_texts('runtime'))}.o"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            objects = []
            for name in ("fibers", "checker"):
                objects.append(f"{folder}/{name}.o")
                _run(
                    "g++", "-std=c++17", "-O2", "-fPIC", "-c", str(HERE / "runtime" / f"{name}.cpp"), "-o", objects[-1]
                )
            _run("ld", "-r", "-o", f"{folder}/runtime.o", *objects)
            os.replace(f"{folder}/runtime.o", target)
    return target


@functools.cache
def _shim(flags):
    """The folder with the shim compiled in advance for these flags: a kernel then takes half the time."""
    target = cache() / f"shim-{_hash(*_texts('shim'), *flags)}"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            own = Path(folder) / "shim"
            own.mkdir()
            for path in (HERE / "shim").iterdir():
                (own / path.name).write_text(path.read_text())
            for name in ("cuda_fp16.h", "cuda_bf16.h"):  # what they hold, the shim provides
                (own / name).write_text("")
            _run("g++", *flags, "-x", "c++-header", str(own / "cuda.h"), "-o", str(own / "cuda.h.gch"))
            try:
                os.rename(own, target)
            except OSError:  # another process was first
                if not target.exists():
                    raise
    return target


def _symbols(path):
    """(address, size, type, name) of what an object file defines."""
    lines = _run("nm", "-S", "--defined-only", str(path)).splitlines()
    return [line.split() for line in lines if len(line.split()) == 4]


def _plain(name):
    """The variable's own name in a mangled one: _ZZ6kernelE4tile -> tile."""
    found = re.search(r"E\d+([A-Za-z]\w*?)(_\d+)?$", name)
    return found[1] if found else name


class Module:
    """A source, built. `options` as for NVRTC; those that are no definitions (-D) are NVRTC's alone."""

    def __init__(self, source, options=(), checked=True):
        self.names, self.checked = entries(source), checked
        defines = tuple(o for o in options if o.startswith("-D"))
        text = translate(source) + "\n#undef T\n" + "\n".join(f"EMU_EXPORT({name})" for name in self.names)
        flags = (*_COMMON, *(_CHECKED if checked else _FAST))
        key = _hash(text, *flags, *defines, *_texts("shim"), *_texts("runtime"), *_texts("."))
        self.path = cache() / f"{key}.so"
        if not self.path.exists():
            self._build(text, flags, defines)
        self.library = ctypes.CDLL(str(self.path))
        self.library.emu_findings.restype = ctypes.c_char_p
        launch = self.library.emu_launch
        table = [line.split() for line in self.path.with_suffix(".symbols").read_text().splitlines()]
        offset = next(int(address, 16) for address, _, _, name in table if name == "emu_launch")
        self.base = ctypes.cast(launch, ctypes.c_void_p).value - offset
        # Statics of functions are the shared arrays; what else the kernel's object defines is constant memory.
        self.statics = [
            (
                self.base + int(address, 16),
                int(size, 16),
                SHARED if self._is_shared(kind, name) else CONSTANT,
                _plain(name),
            )
            for address, size, kind, name in table
            if name != "emu_launch"
        ]

    @staticmethod
    def _is_shared(kind, name):
        return name.startswith("_ZZ") and kind not in "rR"

    def _build(self, text, flags, defines):
        with tempfile.TemporaryDirectory(dir=cache()) as folder:
            (Path(folder) / "kernel.cpp").write_text(text)
            shim, at = _shim(flags), f"{folder}/kernel"
            _run("g++", *flags, *defines, "-I", str(shim), "-include", "cuda.h", "-c", f"{at}.cpp", "-o", f"{at}.o")
            _run("g++", "-shared", "-Wl,-z,defs", "-o", f"{at}.so", f"{at}.o", str(_runtime()))
            own = {name for *_, name in _symbols(f"{at}.o")}
            kept = [s for s in _symbols(f"{at}.so") if s[3] == "emu_launch" or (s[3] in own and s[2] in "bBdDuVrR")]
            Path(f"{at}.symbols").write_text("\n".join(" ".join(s) for s in kept))
            os.replace(f"{at}.symbols", self.path.with_suffix(".symbols"))
            os.replace(f"{at}.so", self.path)

    def signature(self, name):
        """A letter (Pointer, integer, float) and a size in bytes for each parameter of a kernel."""
        found = (ctypes.c_int * 64)()
        n = getattr(self.library, f"emu_signature_{name}")(found)
        return [(chr(v >> 8), v & 255) for v in found[:n]]

    def launch(self, name, grid, block, args, shared=0, order="forward", seed=0, most_shared=STATIC_SHARED, reached=()):
        """Run a kernel to its end. KernelError for a launch that CUDA refuses, and for every finding. `reached` are
        arrays that the kernel finds by an address in its arguments: used where they are, not copied.
        """
        if name not in self.names:
            raise KernelError(f"there is no kernel {name!r}; there are: {', '.join(self.names)}")
        grid, block = (tuple(map(int, (*g, 1, 1)[:3])) for g in (grid, block))
        bad = np.prod(block) > 1024 or block[2] > 64 or max(grid[1:]) > 65535 or grid[0] >= 1 << 31
        if bad or min(grid + block) < 1:
            raise KernelError(f"{name}: invalid launch configuration {grid} x {block}")
        static = sum(size for _, size, kind, _ in self.statics if kind == SHARED)
        if shared > most_shared or (shared and static + shared > max(most_shared, STATIC_SHARED)):
            raise KernelError(f"{name}: {shared} bytes of dynamic shared memory need max_dynamic_shared_size_bytes")
        memory = _Memory(self, name, args)
        for a in reached:
            self._region(a.ctypes.data, a.nbytes, GLOBAL, "an array reached by its address", self.checked)
        for address, size, kind, label in self.statics:
            self._region(address, size, kind, label, self.checked and kind == SHARED)
        sizes = [(ctypes.c_uint * 3)(*size) for size in (grid, block)]
        entry, dynamic = getattr(self.library, f"emu_entry_{name}"), ctypes.c_size_t(shared)
        how = (dynamic, ORDERS[order], ctypes.c_uint64(seed), int(self.checked))
        found = self.library.emu_launch(entry, memory.pointers, *sizes, *how)
        memory.check_canaries(name)
        if found:
            text = self._with_lines(self.library.emu_findings().decode())
            raise KernelError(f"{name} [{order}]: {found} finding(s)\n{text}")
        memory.copy_back()

    def _region(self, address, size, kind, label, shadowed):
        self.library.emu_add_region(
            ctypes.c_void_p(address), ctypes.c_size_t(size), kind, label.encode(), int(shadowed)
        )

    def _with_lines(self, text):
        """Return addresses in findings as lines of the source."""

        def line(match):
            if not match[1].startswith("0x"):
                return ""
            out = _run("addr2line", "-e", str(self.path), hex(int(match[1], 16) - self.base - 1))
            return "line " + out.rsplit(":", 1)[-1].split()[0]

        return re.sub(r"@(0x[0-9a-f]+|\(nil\))", line, text)


class _Memory:
    """The arguments of one launch: copies of the arrays between canaries of NaN, so that a stray hits no neighbour."""

    def __init__(self, module, name, args):
        signature = module.signature(name)
        if len(signature) != len(args):
            raise KernelError(f"{name} takes {len(signature)} arguments, got {len(args)}")
        self.arrays, self._held = {}, []
        self.pointers = (ctypes.c_void_p * len(args))()
        module.library.emu_reset()
        for i, (a, (kind, size)) in enumerate(zip(args, signature)):
            value = self._array(module, i, a, kind) if isinstance(a, np.ndarray) else self._scalar(i, a, kind, size)
            self._held.append(value)
            self.pointers[i] = ctypes.addressof(value)

    def _array(self, module, i, a, kind):
        if kind != "P":
            raise KernelError(f"argument {i}: an array for a parameter that is no pointer")
        if not a.flags.c_contiguous:
            raise KernelError(f"argument {i}: not C-contiguous")
        address = a.ctypes.data
        if address not in self.arrays:
            raw = np.full(a.nbytes + 2 * CANARY + 272, 0xFF, np.uint8)
            start = -raw.ctypes.data % 256 + CANARY + address % 16  # a view stays as unaligned as it is
            raw[start : start + a.nbytes] = a.reshape(-1).view(np.uint8)
            self.arrays[address] = (a, raw, start)
            module._region(raw.ctypes.data + start, a.nbytes, GLOBAL, f"argument {i}", module.checked)
        _, raw, start = self.arrays[address]
        return ctypes.c_void_p(raw.ctypes.data + start)

    @staticmethod
    def _scalar(i, a, kind, size):
        v = np.asarray(a)  # CuPy packs int as int64 and float as float64
        if kind == "P" and v.dtype == np.uintp and not v:
            return ctypes.c_void_p(0)  # a null pointer
        if v.itemsize != size or {"u": "i", "b": "i"}.get(v.dtype.kind, v.dtype.kind) != kind:
            raise KernelError(f"argument {i}: {v.dtype} by value for a parameter of {size} bytes, kind {kind!r}")
        return ctypes.create_string_buffer(v.tobytes())

    def check_canaries(self, name):
        for a, raw, start in self.arrays.values():
            if (raw[start - CANARY : start] != 0xFF).any() or (raw[start + a.nbytes :] != 0xFF).any():
                raise KernelError(f"{name}: OUT OF BOUNDS write, found by a canary")

    def copy_back(self):
        for a, raw, start in self.arrays.values():
            bytes_of = a.reshape(-1).view(np.uint8)
            if a.flags.writeable:
                bytes_of[:] = raw[start : start + a.nbytes]
            elif (bytes_of != raw[start : start + a.nbytes]).any():
                raise KernelError("a kernel wrote into an array that is read-only")
