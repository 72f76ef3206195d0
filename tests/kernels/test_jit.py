"""How kernels are compiled, kept and announced. Each case is a process of its own with an empty cache."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNEL = """
from minidl_kernels.cpu.jit import cache_folder, jit

@jit
def double(n):
    return 2 * n

def make(factor):
    @jit(tag=f"times {factor}")
    def times(n):
        return factor * n
    return times

if __name__ == "__main__":
    assert double(21) == 42 and double(1.5) == 3.0
    assert make(3)(2) == 6 and make(5)(2) == 10
    print(cache_folder())
"""


def run(folder: Path, code: str = KERNEL, **settings: str) -> subprocess.CompletedProcess[str]:
    script = folder / "kernel.py"
    script.write_text(code)
    env = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), **settings}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


linux = pytest.mark.skipif(sys.platform != "linux", reason="where XDG_CACHE_HOME names the cache folder")


@linux
def test_compiled_once_announced_once(tmp_path):
    first, second = run(tmp_path), run(tmp_path)
    folder = Path(first.stdout.strip())
    assert folder.parent == tmp_path / "cache" / "minidl"
    assert first.stderr == f"minidl: compiling CPU kernels for this machine (once; cached in {folder})\n"
    assert second.stderr == "", "everything was cached"
    assert second.stdout == first.stdout
    assert len(list(folder.glob("*double*.bin"))) == 2, "one file per kernel and signature"
    assert len(list(folder.glob("*times*.bin"))) == 2, "and per tag"
    assert folder.stat().st_mode & 0o077 == 0, "what is run is this user's alone"


@linux
def test_damaged_files_only_cost_time(tmp_path):
    folder = Path(run(tmp_path).stdout.strip())
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    assert "compiling" in run(tmp_path).stderr
    assert run(tmp_path).stderr == ""


@linux
def test_an_edit_or_another_cpu_makes_new_code(tmp_path):
    folder = run(tmp_path).stdout
    assert run(tmp_path, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="").stdout != folder
    edited = KERNEL.replace(
        "if __name__",
        "import minidl_kernels.cpu.jit as j\nj.PACKAGE = __import__('pathlib').Path(__file__).parent\nif __name__",
    )
    assert run(tmp_path, edited).stdout != folder


@linux
def test_a_file_in_the_way_of_the_folder(tmp_path):
    (tmp_path / "cache").write_text("")
    (tmp_path / "temporary").mkdir()
    folder = Path(run(tmp_path, TMPDIR=str(tmp_path / "temporary")).stdout.strip())
    assert tmp_path / "temporary" in folder.parents


@linux
def test_a_folder_that_others_can_write_is_not_trusted(tmp_path):
    root = tmp_path / "cache" / "minidl"
    root.mkdir(parents=True)
    root.chmod(0o777)
    (tmp_path / "temporary").mkdir()
    folder = Path(run(tmp_path, TMPDIR=str(tmp_path / "temporary")).stdout.strip())
    assert root not in folder.parents


def test_a_closure_needs_a_tag():
    from minidl_kernels.cpu.jit import jit

    factor = 2
    with pytest.raises(TypeError, match="closure needs a tag"):

        @jit
        def double(n):
            return factor * n


def test_the_users_numba_is_left_alone():
    code = (
        "from numba import config\n"
        "before = dict(vars(config))\n"
        "import numpy as np, minidl_kernels as mk\n"
        "a = np.ones((30, 40), 'f')\n"
        "with mk.use(matmul='tiled'): mk.matmul(a, a.T)\n"
        "assert dict(vars(config)) == before"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_numba_is_imported_with_the_first_compiled_kernel_only():
    code = (
        "import sys, numpy as np, minidl_kernels as mk\n"
        "mk.set_num_threads(2); mk.which('matmul', np.ones((2, 2)), np.ones((2, 2)))\n"
        "mk.matmul(np.ones((2, 2)), np.ones((2, 2)))\n"
        "assert 'numba' not in sys.modules and 'llvmlite' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


FACTORY = """
import numpy as np
from minidl_kernels.cpu.jit import jit
from minidl_kernels.cpu.pool import parallel_for

def make(factor):
    @jit(inner=True)
    def body(task, slot, n, out):  # too large to be inlined
        total = 0
LINES
        out[task] = total + factor * n

    @jit(tag=f"times {factor}")
    def kernel(n, out):
        parallel_for(body, 3, 1, (n, out))
    return kernel

plain = lambda factor, n: sum((n + i) % (factor + i) for i in range(1, 200)) + factor * n
for factor in FACTORS:
    out = np.zeros(3, np.int64)
    make(factor)(2, out)
    assert (out == plain(factor, 2)).all(), factor
""".replace("LINES", "\n".join(f"        total += (n + {i}) % (factor + {i})" for i in range(1, 200)))


@linux
def test_loaded_and_fresh_kernels_of_one_factory_are_not_mixed_up(tmp_path):
    """Numba counts functions per process: without names of their own, the bodies of 3 as loaded and of 5 as compiled
    are one symbol."""
    assert "compiling" in run(tmp_path, FACTORY.replace("FACTORS", "(3,)")).stderr
    run(tmp_path, FACTORY.replace("FACTORS", "(3, 5)"))
    run(tmp_path, FACTORY.replace("FACTORS", "(7, 5, 3)"))
