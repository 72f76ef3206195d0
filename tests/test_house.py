"""The house keeps its order: which way imports point, what an import costs, what the wheel holds, that examples run."""

import ast
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import tomllib
import zipfile

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = {"minidl": ROOT / "minidl", "minidl_kernels": ROOT / "kernels" / "minidl_kernels"}

# The floors of minidl, from the ground up. A module imports from its own floor and from those below.
FLOORS = [
    {"devices", "dtypes", "storage", "cuda", "backends"},
    {"tensors", "autograd", "random", "inplace", "interop", "printing", "amp", "compat"},
    {"ops"},
    {"nn", "linalg", "gradchecks", "func", "derivatives", "special", "testing", "distributions"},
    {"optim", "compress", "io", "models", "data", "metrics", "onnx", "utils"},
    {"train"},
    {"cli", "bench", "demo", "examples", "info", "inside", "outputs", "plots", "stub", "sweep"},
    {"__main__"},
]
TABLE_OF_CONTENTS = "__init__"  # lists the public names of every floor; only the floors of commands may import it

# What may be imported where, apart from the standard library. minidl and its kernels never import torch; the pages of
# the benchmark's peers do, and they are imported only where the peer is asked for.
ALLOWED = {
    "minidl": {"minidl", "minidl_kernels", "numpy", "safetensors", "tqdm", "matplotlib", "cupy", "PIL", "rich"},
    "minidl_kernels": {"minidl_kernels", "numpy", "numba", "llvmlite", "cupy", "cupyx"},
}
NOT_AT_THE_TOP = {
    "minidl": {"safetensors", "tqdm", "matplotlib", "cupy", "PIL", "rich"},
    "minidl_kernels": {"cupy", "cupyx"},
}

PAGES = {
    "minidl.bench.peers.with_torch": {"torch"},
    "minidl.bench.peers.with_onnxruntime": {"onnxruntime", "onnx"},
    "minidl.onnx.writer": {"onnx"},
    "minidl.bench.on_gpu": {"torch"},  # asked for by name, as a peer
    "minidl.bench.ceilings": {"numba", "llvmlite"},  # writes the loops that find the machine's limits
}


def modules(package):
    """(dotted name, path) of every module of a package, as the checkout has it."""
    top = PACKAGES[package]
    for path in sorted(top.rglob("*.py")):
        parts = path.relative_to(top.parent).with_suffix("").parts
        yield ".".join(parts), path


def imports(name, source):
    """(imported module, with the name taken from it if any; whether inside a function) for each import in a source."""
    package = name.split(".") if name.endswith(".__init__") else name.split(".")[:-1]
    package = [part for part in package if part != "__init__"]

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, inside
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else []
                start = ".".join([*base, *([child.module] if child.module else [])])
                for alias in child.names:
                    yield f"{start}.{alias.name}", inside
            elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                # What stands under the test is read by type checkers only; the other branch runs.
                yield from visit(ast.Module(child.orelse, []), inside)
                continue
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from visit(child, inside or function)

    yield from visit(ast.parse(source), False)


def room(dotted):
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else TABLE_OF_CONTENTS


def floor(name):
    for i, rooms in enumerate(FLOORS):
        if name in rooms:
            return i
    return None


def wrong_turns(name, source):
    """The imports of one module of minidl that do not point down."""
    here = floor(room(name))
    if here is None:
        if room(name) == TABLE_OF_CONTENTS:
            return []
        return [f"{name}: give the room {room(name)!r} a floor in FLOORS"]
    faults = []
    for target, _ in imports(name, source):
        if target.split(".")[0] != "minidl":
            continue
        there = floor(room(target))
        if there is None:
            if here < floor("cli"):
                faults.append(f"{name} imports {target}: name the page it comes from, not the table of contents")
        elif there > here:
            faults.append(f"{name} imports {target}, {there - here} floors up")
    return faults


def foreign(package, name, source):
    """The imports of one module that its package may not make, or not at the top of a module."""
    faults = []
    for target, inside in imports(name, source):
        top = target.split(".")[0]
        if top in sys.stdlib_module_names or top in PAGES.get(name, ()):
            continue
        if top not in ALLOWED[package]:
            faults.append(f"{name} imports {target}")
        elif top in NOT_AT_THE_TOP[package] and not inside:
            faults.append(f"{name} imports {target} at the top; do it inside the function that needs it")
    return faults


def test_imports_point_down():
    found = list(modules("minidl"))
    assert len(found) > 20
    assert [fault for name, path in found for fault in wrong_turns(name, path.read_text())] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_only_what_is_allowed_is_imported(package):
    found = list(modules(package))
    assert len(found) > 10
    assert [fault for name, path in found for fault in foreign(package, name, path.read_text())] == []


def test_the_reader_of_imports_sees_what_is_wrong():
    """Planted faults: each must be caught, and each lawful neighbour must pass."""
    for name, source in [
        ("minidl.random", "from minidl.ops import arithmetic"),
        ("minidl.random", "import minidl.nn.functional"),
        ("minidl.ops.conv", "def f():\n    from minidl.nn import Module"),
        ("minidl.tensors", "from minidl.ops.linalg import matmul"),
        ("minidl.tensors", "def f():\n    from minidl.ops.linalg import matmul"),
        ("minidl.ops.conv", "from .. import nn"),
        ("minidl.nn.functional", "from minidl import Tensor"),
        ("minidl.nn.functional", "import minidl"),
        ("minidl.attic", "import numpy"),
        ("minidl.data.loader", "if True:\n    import minidl.train"),
        ("minidl.tensors", "if TYPE_CHECKING:\n    import numpy\nelse:\n    from minidl.nn import Module"),
    ]:
        assert wrong_turns(name, source), (name, source)
    for name, source in [
        ("minidl.nn.functional", "from minidl.ops import conv\nfrom minidl import random, ops\nfrom . import init"),
        ("minidl.tensors", "if TYPE_CHECKING:\n    from minidl.nn import Module\nelse:\n    import numpy"),
        ("minidl.cli", "import minidl"),
        ("minidl.data.loader", "from minidl.io.npz import read_npz"),
    ]:
        assert wrong_turns(name, source) == [], (name, source)
    for package, source in [
        ("minidl", "import torch"),
        ("minidl", "def f():\n    from torch import nn"),
        ("minidl", "import numba"),
        ("minidl", "from tqdm import tqdm"),
        ("minidl_kernels", "from minidl.tensors import Tensor"),
        ("minidl_kernels", "def f():\n    import minidl"),
        ("minidl_kernels", "try:\n    import cupy\nexcept ImportError:\n    pass"),
        ("minidl_kernels", "import scipy.linalg"),
    ]:
        assert foreign(package, f"{package}.page", source), (package, source)
    assert foreign("minidl", "minidl.page", "import numpy.linalg\ndef f():\n    import cupy") == []
    assert foreign("minidl", "minidl.bench.peers.with_torch", "import torch") == []
    assert foreign("minidl", "minidl.bench.rows", "import torch") != []


def test_importing_is_light():
    heavy = ["numba", "llvmlite", "cupy", "tqdm", "matplotlib", "torch", "safetensors", "scipy", "PIL"]
    for statement in ("import minidl", "import minidl_kernels", "import minidl.data, minidl.io"):
        code = f"{statement}, sys; print([m for m in {heavy} if m in sys.modules])"
        run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
        assert run.stdout == "[]\n", statement + run.stdout + run.stderr


def test_versions_agree():
    written = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    code = "import minidl; print(minidl.__version__)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == written, run.stderr
    installed = {d.version for d in importlib.metadata.distributions() if d.metadata["Name"] == "minidl"}
    assert installed <= {written}


def shipped(top):
    """The files of a package that users need: all but byte code and what editors leave behind."""
    return {
        path
        for path in top.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".pyc", ".tmp", ".swp")
    }


@pytest.mark.slow
def test_the_wheel_holds_every_file_and_works_without_the_checkout(tmp_path):
    source = tmp_path / "source"
    for top in PACKAGES.values():
        shutil.copytree(top, source / top.relative_to(ROOT), ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "examples", source / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path / "wheel"), str(source)]
    run = subprocess.run(build, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (wheel,) = (tmp_path / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = next(archive.read(n).decode() for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        scripts = next(archive.read(n).decode() for n in archive.namelist() if n.endswith("entry_points.txt"))
        assert any(n.endswith("licenses/LICENSE") for n in archive.namelist())
    pages = {f"examples/{path.name}" for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".md")}
    assert {name.partition(".data/data/share/minidl/")[2] for name in inside if ".data/" in name} == pages
    expected = {path.relative_to(top.parent).as_posix() for top in PACKAGES.values() for path in shipped(top)}
    assert {name for name in inside if ".data/" not in name} == expected
    assert {"minidl/data/digits.npz", "minidl/data/digits.md", "minidl/py.typed"} <= inside
    assert "minidl = minidl.cli:main" in scripts
    needs = {line.split(": ")[1].split(">")[0] for line in metadata.splitlines() if line.startswith("Requires-Dist")}
    assert {n for n in needs if "extra" not in n} >= {"numpy", "numba", "safetensors", "tqdm"}

    target = tmp_path / "installed"
    install = [*pip, "install", "--no-deps", "--prefix", str(target), str(wheel)]
    run = subprocess.run(install, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (target,) = target.rglob("site-packages")
    code = f"""
import sys
sys.path.insert(0, {str(target)!r})
import minidl, minidl_kernels, minidl.data
for module in (minidl, minidl_kernels, minidl.data):
    assert module.__file__.startswith({str(target)!r}), module.__file__
print(minidl.data.load_images().x_test.shape)
import minidl.cli
minidl.cli.main(["examples", "1", "--quick"])
"""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=clean)
    assert run.stdout.startswith("(359, 8, 8)\n"), run.stderr
    assert "figure: relative error" in run.stdout, run.stderr


def documented(path):
    """Whether a docstring of the module holds an example."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ">>> " in (ast.get_docstring(node) or ""):
            return True
    return False


def test_tensor_has_all_its_methods_at_once():
    """Pages that are read later, with nn or by name, attach none that Tensor has no place for."""
    code = (
        "import minidl, pathlib, importlib\n"
        "before = set(vars(minidl.Tensor))\n"
        "for page in pathlib.Path(minidl.__file__).parent.glob('ops/*.py'):\n"
        "    importlib.import_module(f'minidl.ops.{page.stem}')\n"
        "print(set(vars(minidl.Tensor)) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"


def test_pages_read_later_hold_what_the_list_says():
    """minidl/ops/later.py against the pages: every name and method, each page read by its own names alone."""
    code = (
        "import builtins, sys, minidl\n"
        "from minidl.ops.later import METHODS, NAMES\n"
        "real, attached = setattr, {}\n"
        "def recorded(owner, name, value):\n"
        "    real(owner, name, value)\n"
        "    frame = sys._getframe(1)\n"
        "    while owner is minidl.Tensor and frame:\n"
        "        page = frame.f_globals['__name__']\n"
        "        if frame.f_code.co_name == '<module>' and page.startswith('minidl.ops.'):\n"
        "            attached.setdefault(page[len('minidl.ops.'):], set()).add(name)\n"
        "            break\n"
        "        frame = frame.f_back\n"
        "read_now = {m for m in sys.modules if m.startswith('minidl.ops.')}\n"
        "builtins.setattr = recorded\n"
        "for page, names in NAMES.items():\n"
        "    assert f'minidl.ops.{page}' not in read_now, page\n"
        "    for name in names.split():\n"
        "        assert getattr(minidl, name) is getattr(sys.modules[f'minidl.ops.{page}'], name), name\n"
        "for page, names in METHODS.items():\n"
        "    for name in names.split():\n"
        "        getattr(minidl.Tensor, name)\n"
        "    assert attached[page] == set(names.split()), page\n"
        "assert not set(attached) - set(METHODS), set(attached) - set(METHODS)\n"
        "assert len(attached) > 10"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_docstring_examples_are_collected():
    """Plain `pytest` runs the examples of every module that has any."""
    wanted = {str(path.relative_to(ROOT)) for package in PACKAGES for _, path in modules(package) if documented(path)}
    assert len(wanted) > 5
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    collected = {line.split("::")[0] for line in run.stdout.splitlines() if "::" in line}
    assert wanted <= collected, wanted - collected
    assert "tests/test_house.py" in collected
