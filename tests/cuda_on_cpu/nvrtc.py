"""NVRTC with exactly the options that CuPy gives it, on a machine without a GPU, and what it says about resources.

    python tests/cuda_on_cpu/nvrtc.py 80 90 100 120

compiles every kernel for these chips. In an environment with nothing but the wheel and `minidl[cuda]` or
`minidl[cuda12]` it shows that these suffice.
"""

import re
import sys
from typing import NamedTuple

from cupy._core import core
from cupy.cuda import compiler, nvrtc

from minidl_kernels.cuda import launch

SOURCES = sorted(str(p.relative_to(launch.ROOT)) for p in launch.ROOT.rglob("*.cu"))


class Resources(NamedTuple):
    """Of one kernel on one architecture: registers of a thread, bytes spilled, of stack and of static shared memory."""

    registers: int
    spilled: int
    stack: int
    shared: int


def cupy_options(options):
    """The options that CuPy's RawModule passes on, but for the architecture, which it asks the GPU for."""
    seen = []
    real = compiler._compile_module_with_cache
    compiler._compile_module_with_cache = lambda source, options=(), **how: seen.append(options)
    try:
        core.compile_with_cache("", tuple(options), prepend_cupy_headers=False)
    finally:
        compiler._compile_module_with_cache = real
    return (*seen[0], "-ftz=true", "--device-as-default-execution-space")


def compile(code, options, architecture):
    """{kernel: Resources} and the machine code. AssertionError with NVRTC's log where it does not compile."""
    options = (*cupy_options(options), f"-arch=sm_{architecture}", "--ptxas-options=-v")
    program = nvrtc.createProgram(code, "kernel.cu", (), ())
    try:
        nvrtc.compileProgram(program, options)
        return read_log(nvrtc.getProgramLog(program)), nvrtc.getCUBIN(program)
    except nvrtc.NVRTCError:
        raise AssertionError(nvrtc.getProgramLog(program)) from None
    finally:
        nvrtc.destroyProgram(program)


def read_log(log):
    """{kernel: Resources} from what --ptxas-options=-v prints."""
    found = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part.partition("'")[0]
        stack, stores, loads = map(
            int, re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part).groups()
        )
        used = re.search(r"Used (\d+) registers(.*)", part)
        shared = re.search(r"(\d+) bytes smem", used[2])
        found[name] = Resources(int(used[1]), stores + loads, stack, int(shared[1]) if shared else 0)
    return found


def version():
    """NVRTC's version, "13.5"."""
    return ".".join(map(str, nvrtc.getVersion()))


def architectures():
    """What this NVRTC compiles for."""
    return nvrtc.getSupportedArchs()


def dtypes(source):
    """Those that make different kernels of a source."""
    return ("float32", "float64") if re.search(r"\bT\b", re.sub(r"//.*", "", launch.source(source))) else ("float32",)


def main(chips):
    """A line for each chip; AssertionError with NVRTC's log where something does not compile."""
    print(f"NVRTC {version()} knows the chips {', '.join(map(str, architectures()))}")
    for chip in chips:
        count, spilled = 0, []
        for source in SOURCES:
            for dtype in dtypes(source):
                found, _ = compile(launch.code(source, dtype), launch.OPTIONS, chip)
                count += len(found)
                spilled += [f"{kernel} ({dtype})" for kernel, used in found.items() if used.spilled or used.stack]
        print(
            f"sm_{chip}: {count} kernels of {len(SOURCES)} files; spilled: {', '.join(spilled) or 'none'}", flush=True
        )


if __name__ == "__main__":
    main([int(chip) for chip in sys.argv[1:]] or [80, 90])
