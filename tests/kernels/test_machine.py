"""The probe of the CPU, and scratch memory."""

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from minidl_kernels.cpu import machine, workspace
from minidl_kernels.cpu.simd import VECTOR_BYTES
from minidl_kernels.cpu.tile import tile


def test_the_probe_agrees_with_the_system():
    found = machine.machine()
    assert found.tier == machine.tiers()[0] == machine.tier()
    assert machine.tiers()[-1] == "generic"
    assert found.cores >= 1
    assert 8 << 10 <= found.l1 < found.l2
    if platform.machine() == "x86_64" and Path("/proc/cpuinfo").exists():
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
        assert ("avx2" in found.features) == ("avx2" in flags)
        assert ("avx512vnni" in found.features) == ("avx512_vnni" in flags)


def test_a_lesser_tier_can_be_chosen_and_a_better_one_cannot(monkeypatch):
    with machine.use_tier("generic"):
        assert machine.tier() == "generic"
        seen = []
        other = threading.Thread(target=lambda: seen.append(machine.tier()))
        other.start()
        other.join()
        assert seen == [machine.machine().tier], "the choice is this thread's"
    assert machine.tier() == machine.machine().tier
    with pytest.raises(ValueError, match="no tier 'sse9'"), machine.use_tier("sse9"):
        pass
    poor = machine.Machine("x86_64", frozenset({"avx2", "fma"}), "avx2", 2, 32768, 262144, 0)
    monkeypatch.setattr(machine, "machine", lambda: poor)
    assert machine.tiers() == ("avx2", "generic")
    with pytest.raises(ValueError, match="cannot run 'avx512'"), machine.use_tier("avx512"):
        pass


@pytest.mark.parametrize("name", machine.TIERS)
def test_kernels_of_floats_are_compiled_once_for_vectors_of_one_length(name, monkeypatch):
    monkeypatch.setattr(machine, "tier", lambda: name)
    for kind in ("f32", "f64"):
        ours, own = tile(machine.floats(), kind), tile(name, kind)
        assert (ours.rows, ours.cols, ours.lanes) == (own.rows, own.cols, own.lanes)
    assert machine._NEEDS[machine.floats()] <= machine._NEEDS[name], "runs wherever the tier does"
    assert len({VECTOR_BYTES[t] for t in machine.TIERS}) == 3
    assert machine.floats() in ("avx512", "avx2", "generic")


@pytest.mark.parametrize(
    ("settings", "tier"),
    [
        ({"NUMBA_CPU_NAME": "generic"}, "generic"),
        ({"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma,-avx512f"}, "avx2"),
        ({"NUMBA_ENABLE_AVX": "0"}, "generic"),
    ],
)
def test_numbas_own_settings_bound_the_tier(settings, tier):
    """What Numba is told not to compile for is not used: the result is right there too."""
    if "avx2" not in machine.machine().features and tier == "avx2":
        tier = "generic"
        settings = {"NUMBA_CPU_NAME": "generic"}
    code = (
        "import numpy as np, minidl_kernels as mk\n"
        "from minidl_kernels.cpu import machine\n"
        "a = np.ones((30, 40), 'f')\n"
        "with mk.use(matmul='tiled'): assert (mk.matmul(a, a.T) == 40).all()\n"
        "print(machine.tier())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == tier


def test_large_results_begin_on_a_cache_line():
    for shape in ((0,), (3, 5), (64, 257), (1, 300, 300)):
        for dtype in (np.int8, np.float32):
            a, b = workspace.empty(shape, dtype), workspace.empty(shape, dtype)
            assert (a.shape, a.dtype) == (shape, dtype)
            assert a.flags.c_contiguous
            assert a.flags.writeable
            assert a.nbytes < workspace.LARGE or workspace.address(a) % 64 == 0
            assert not np.may_share_memory(a, b)
            a[...] = 1


def test_workspaces_are_aligned_reused_and_bounded(monkeypatch):
    monkeypatch.setattr(workspace, "KEEP", 1 << 20)
    monkeypatch.setattr(workspace, "_free", workspace._Free())
    with workspace.borrow(1000) as first, workspace.borrow(1000) as second:
        assert first % 64 == second % 64 == 0
        assert abs(first - second) >= 1000, "a nested borrow gets other memory"
    with workspace.borrow(900) as again:
        assert again in (first, second)
    assert workspace.kept() == 2000
    with workspace.borrow(2 << 20):
        pass
    assert workspace.kept() <= 1 << 20, "more than KEEP goes back"
    with pytest.raises(RuntimeError), workspace.borrow(64):
        raise RuntimeError
    assert workspace.kept() >= 64, "a failed kernel gives its memory back"
    seen = []
    with workspace.borrow(64) as mine:
        other = threading.Thread(target=lambda: seen.append(workspace.kept()))
        other.start()
        other.join()
    assert mine
    assert seen == [0], "each thread has its own"
