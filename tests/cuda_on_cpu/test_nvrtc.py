"""Every .cu file compiles for real chips by the compiler and with the options that CuPy uses, within its budget.

budget.csv is the reviewed list of what each kernel needs; `python tests/cuda_on_cpu/test_nvrtc.py` writes it anew.
"""

import csv
import re
from pathlib import Path

import nvrtc
import pytest
from nvrtc import SOURCES, dtypes

from minidl_kernels.cuda import launch

BUDGET = Path(__file__).resolve().parent / "budget.csv"
COLUMNS = ("source", "dtype", "kernel", "threads", "sm_80", "sm_90", "shared")
REGISTERS, STATIC_SHARED = 1 << 16, 48 << 10  # of a multiprocessor; of a block without asking for more


def threads(source, kernel):
    """The largest block, from the kernel's launch bounds."""
    return int(re.search(rf"__launch_bounds__\((\d+)[^)]*\)\s+{kernel}\s*\(", launch.source(source))[1])


def compiled(source, dtype, architecture):
    return nvrtc.compile(launch.code(source, dtype), launch.OPTIONS, architecture)


def written():
    with BUDGET.open() as file:
        return {(r["source"], r["dtype"], r["kernel"]): r for r in csv.DictReader(file)}


PAIRS = [(source, dtype) for source in SOURCES for dtype in dtypes(source)]


BUILDS = [
    pytest.param(source, dtype, chip, marks=[pytest.mark.slow] if dtype == "float64" else [])
    for source, dtype in PAIRS
    for chip in (80, 90)
]


@pytest.mark.parametrize(("source", "dtype", "chip"), BUILDS)
def test_kernels_keep_their_budget(source, dtype, chip):
    budget = written()
    found, code = compiled(source, dtype, chip)
    assert code[:4] == b"\x7fELF"
    assert set(found) == set(launch.entries(source))
    for kernel, used in found.items():
        where, row = f"{kernel} of {source} for {dtype}, sm_{chip}", budget[source, dtype, kernel]
        assert used.spilled == used.stack == 0, f"{where} spills registers or indexes them at run time: {used}"
        assert used.registers * threads(source, kernel) <= REGISTERS, where
        assert used.shared <= STATIC_SHARED, where
        assert used.registers == int(row[f"sm_{chip}"]), f"{where}: {used.registers} registers, not as listed"
        assert used.shared == int(row["shared"]), where
        assert threads(source, kernel) == int(row["threads"])


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [100, 120])
def test_kernels_compile_for_newer_chips(architecture):
    assert architecture in nvrtc.architectures()
    for source in SOURCES:
        found, _ = compiled(source, "float32", architecture)
        assert all(used.spilled == used.stack == 0 for used in found.values()), (source, found)


def test_the_budget_lists_every_kernel_and_no_other():
    assert len(SOURCES) > 10
    expected = {(s, d, k) for s, d in PAIRS for k in launch.entries(s)}
    assert set(written()) == expected


def test_a_kernel_that_spills_is_seen():
    """255 registers do not hold 400 values."""
    code = """
    extern "C" __global__ void __launch_bounds__(1024) k(float* x, int n) {
      float v[100];
      for (int i = 0; i < 100; i++) v[i] = x[i * n];
      for (int j = 0; j < n; j++)
        for (int i = 0; i < 100; i++) v[i] = v[i] * v[(i + 1) % 100] + x[j];
      for (int i = 0; i < 100; i++) x[i * n] = v[i];
    }"""
    found, _ = nvrtc.compile(code, (), 90)
    assert found["k"].spilled + found["k"].stack > 0


def test_what_is_no_cuda_fails_with_the_compilers_words():
    with pytest.raises(AssertionError, match=r'kernel.cu\(1\): error: identifier "INFINITY" is undefined'):
        nvrtc.compile('extern "C" __global__ void k(float* x) { x[0] = INFINITY; }', (), 80)


def write_budget():
    """The list as it is now."""
    with BUDGET.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for source, dtype in PAIRS:
            older, newer = (compiled(source, dtype, a)[0] for a in (80, 90))
            for kernel in launch.entries(source):
                a, b = older[kernel], newer[kernel]
                table.writerow([source, dtype, kernel, threads(source, kernel), a.registers, b.registers, b.shared])


if __name__ == "__main__":
    write_budget()
