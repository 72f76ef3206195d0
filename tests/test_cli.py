"""The command line as its user meets it: in processes of its own, with good and bad input."""

import gzip
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

import minidl
import minidl_kernels as kernels
from minidl.data import digits

ROOT = pathlib.Path(minidl.__file__).parents[1]
KERNELS = pathlib.Path(kernels.__file__).parents[1]


def environment(*first):
    """What the command needs to find this checkout, with folders that come first."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*first, ROOT, KERNELS]))}


def minidl_command(*arguments, cwd, env=None):
    return subprocess.run(
        [sys.executable, "-m", "minidl", *map(str, arguments)],
        cwd=cwd,
        env=env or environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def refused(done, *words):
    """The exit code of a user's mistake, one line that says why, nothing printed before it."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    line, end, rest = done.stderr.partition("\n")
    assert (end, rest) == ("\n", ""), done.stderr
    assert line.startswith("minidl demo: error: ")
    for word in words:
        assert word in line


# -- usage ------------------------------------------------------------------------------------------------------------


def test_version_and_help(tmp_path):
    done = minidl_command("--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"minidl {minidl.__version__}\n", "")
    for arguments, words in (
        (["--help"], ["demo", "info", "--version"]),
        (["demo", "--help"], ["--data", "--seed", "--quick", "--json", "--plot", "--out"]),
    ):
        done = minidl_command(*arguments, cwd=tmp_path)
        assert done.returncode == 0
        assert all(word in done.stdout for word in words)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dmo"],
        ["demo", "--bogus"],
        ["demo", "--see", "1"],  # no abbreviations, which would change meaning when options are added
        ["demo", "extra"],
        ["demo", "--seed"],
        ["demo", "--seed", "-1"],
        ["demo", "--seed", "1.5"],
        ["demo", "--seed", "x"],
        ["demo", "--seed", str(2**63)],
        ["demo", "--epochs", "0"],
        ["info", "--quick"],
    ],
)
def test_wrong_usage(tmp_path, arguments):
    done = minidl_command(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "usage: minidl" in done.stderr
    assert "Traceback" not in done.stderr


# -- bad data ---------------------------------------------------------------------------------------------------------


def idx(array, code=8):
    return struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape) + array.tobytes()


def images(n=40, *shape, classes=4):
    return np.arange(n * np.prod(shape or (8, 8))).reshape(n, *(shape or (8, 8))).astype(np.uint8), np.arange(
        n
    ) % classes


def bad_data():
    """name -> (files to make: name -> bytes or arrays of an npz, what to pass as --data, words of the message)"""
    x, y = images()
    nan, floats = x.astype(np.float32), x.astype(np.float32)
    nan[3, 0, 0] = np.nan
    floats[5, 1, 1] = np.inf
    huge = struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**10, 2**10)
    folder = {"train-images-idx3-ubyte": idx(x), "train-labels-idx1-ubyte": idx(y.astype(np.uint8))}
    small = lambda count: (x[:count], y[:count])
    return {
        "missing": ({}, "no.npz", ["no.npz", "No such file"]),
        "folder without data": ({"other.txt": b"?"}, ".", ["train-images-idx3-ubyte"]),
        "text": ({"d.npz": b"hello"}, "d.npz", ["d.npz", "neither"]),
        "empty file": ({"d.npz": b""}, "d.npz", ["neither"]),
        "pickle": ({"d.npz": {"x": np.array([[print]] * 3), "y": y[:3]}}, "d.npz", ["pickled", "never loaded"]),
        "other names": ({"d.npz": {"a": x, "b": y}}, "d.npz", ["x, y"]),
        "NaN": ({"d.npz": {"x": nan, "y": y}}, "d.npz", ["image 3", "NaN"]),
        "infinity": ({"d.npz": {"x": floats, "y": y}}, "d.npz", ["image 5", "infinite"]),
        "negative label": ({"d.npz": {"x": x, "y": y - 1}}, "d.npz", ["label -1"]),
        "label out of range": ({"d.npz": {"x": x, "y": y + 70_000}}, "d.npz", ["label 70000"]),
        "labels of float": ({"d.npz": {"x": x, "y": y / 2}}, "d.npz", ["labels must be integers"]),
        "too few labels": ({"d.npz": {"x": x, "y": y[:-1]}}, "d.npz", ["40 images, but 39 labels"]),
        "no images": ({"d.npz": {"x": x[:0], "y": y[:0]}}, "d.npz", ["no images"]),
        "too few images": ({"d.npz": dict(zip("xy", small(2)))}, "d.npz", ["2 items", "leaves a part empty"]),
        "vectors": ({"d.npz": {"x": x.reshape(40, 64), "y": y}}, "d.npz", ["images must be"]),
        "one class": ({"d.npz": {"x": x, "y": y * 0}}, "d.npz", ["nothing to tell apart"]),
        "too small": ({"d.npz": {"x": x[:, :1], "y": y}}, "d.npz", ["1 x 8"]),
        "too large": ({"d.npz": {"x": np.zeros((4, 2, 513), "u1"), "y": y[:4] % 2}}, "d.npz", ["2 x 513"]),
        "out of proportion": (
            {"d.npz": {"x_train": x * 1e-30, "y_train": y, "x_test": x * 1e30, "y_test": y}},
            "d.npz",
            ["out of all proportion"],
        ),
        "idx without labels": ({"a-images-idx3-ubyte": idx(x)}, "a-images-idx3-ubyte", ["a-labels-idx1-ubyte"]),
        "truncated idx": ({**folder, "train-images-idx3-ubyte": idx(x)[:-9]}, ".", ["declares 2560 bytes"]),
        "idx that declares too much": ({**folder, "train-images-idx3-ubyte": huge}, ".", ["more than the limit"]),
        "truncated gzip": (
            {
                "train-images-idx3-ubyte.gz": gzip.compress(idx(x))[:-20],
                "train-labels-idx1-ubyte": folder["train-labels-idx1-ubyte"],
            },
            ".",
            ["gzip file is truncated"],
        ),
        "test labels that training lacks": (
            {"d.npz": {"x_train": x, "y_train": y % 3, "x_test": x, "y_test": y}},
            "d.npz",
            ["never occur in training"],
        ),
    }


@pytest.mark.parametrize("fault", bad_data())
def test_bad_data(tmp_path, fault):
    files, path, words = bad_data()[fault]
    for name, content in files.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        else:
            np.savez(tmp_path / name, allow_pickle=True, **content)
    before = sorted(p.name for p in tmp_path.iterdir())
    done = minidl_command("demo", "--data", path, "--json", "out.json", "--out", "models", cwd=tmp_path)
    refused(done, "--data: ", *words)
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_npz_cut_anywhere(tmp_path):
    x, y = images()
    np.savez(tmp_path / "d.npz", x=x, y=y)
    raw = (tmp_path / "d.npz").read_bytes()
    for length in (10, len(raw) // 2, len(raw) - 1):
        (tmp_path / "d.npz").write_bytes(raw[:length])
        refused(minidl_command("demo", "--data", "d.npz", cwd=tmp_path), "d.npz", "not a whole npz archive")


# -- bad outputs: refused before the training -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--out", "file"], ["--out", "is a file"]),
        (["--out", "file/models"], ["--out", "is a file"]),
        (["--out", "/proc/minidl"], ["--out", "cannot write in the folder /proc"]),
        (["--json", "folder"], ["--json", "a folder"]),
        (["--json", ""], ["--json", "no name"]),
        (["--json", "missing/a.json"], ["--json", "no folder"]),
        (["--json", "/proc/a.json"], ["--json", "cannot write in the folder /proc"]),
        (["--plot", "missing/a.png"], ["--plot", "no folder"]),
        (["--plot", "picture"], ["--plot", "must end in", ".png"]),
        (["--plot", "picture.doc"], ["--plot", "must end in", ".svg"]),
        (["--plot", "a.svg", "--json", "folder/../a.svg"], ["same file"]),
    ],
)
def test_outputs_that_cannot_be_written(tmp_path, arguments, words):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    refused(minidl_command("demo", *arguments, cwd=tmp_path), *words)
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_a_picture_without_matplotlib(tmp_path):
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "matplotlib.py").write_text("raise ImportError('No module named matplotlib')")
    done = minidl_command("demo", "--plot", "a.png", cwd=tmp_path, env=environment(tmp_path / "without"))
    refused(done, "--plot", "pip install 'minidl[plot]'")


# -- interrupted ------------------------------------------------------------------------------------------------------


def test_ctrl_c_leaves_nothing_half_done(tmp_path):
    arguments = ["demo", "--epochs", "100000", "--json", "a.json", "--out", "models"]
    running = subprocess.Popen(
        [sys.executable, "-m", "minidl", *arguments],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert running.stderr is not None
        for line in running.stderr:  # a line for each epoch: the training is under way
            if line.startswith("epoch"):
                break
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)
        said = running.stderr.read()
        assert running.wait(60) == 130
    finally:
        running.kill()
        running.stderr.close()
    assert said.endswith("minidl demo: interrupted\n")
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


# -- info -------------------------------------------------------------------------------------------------------------


def test_info_tells_what_is_so(tmp_path):
    done = minidl_command("info", "--json", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    facts = json.loads(done.stdout)
    assert facts["minidl"] == minidl.__version__
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["threads"] >= 1
    assert facts["cpu"]["tier"] in facts["cpu"]["tiers"]
    assert pathlib.Path(facts["cache"]["folder"]).is_dir()
    assert {k["op"] for k in facts["kernels"]} >= {
        "matmul", "linear", "conv2d", "conv2d_dx", "conv2d_dw", "attention", "attention_backward",
        "int8_matmul", "int8_linear", "int8_conv2d",
    }  # fmt: skip
    for row in facts["kernels"]:
        assert row["runs"] in row["variants"]
        assert row["runs"] != "reference"
        assert set(row["variants"]) == set(kernels.variants(row["op"], "cpu"))


def test_info_as_text(tmp_path):
    done = minidl_command("info", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("CPU", "tier", "threads", "BLAS", "GPU", "cache", "int8_linear", "attention_backward", np.__version__):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) < 140


def test_a_reader_that_goes_away(tmp_path):
    """`minidl info | head -1`: no complaint about the pipe."""
    script = f"{sys.executable} -m minidl info | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "m0\n"
    assert done.stderr == ""


def test_the_command_starts_light():
    script = "import sys, minidl.cli; print([m for m in ('numba', 'cupy', 'tqdm', 'matplotlib') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


def test_the_digits_are_the_users_too(tmp_path):
    """The shipped digits as a user's idx folder, with a test part of its own: the same job, other files."""
    x, y = digits()
    for name, part in (("train", slice(0, 300)), ("t10k", slice(300, 400))):
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx(x[part]))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(y[part].astype(np.uint8))))
    done = minidl_command("demo", "--data", ".", "--epochs", 2, "--seed", 5, "--json", "/dev/stdout", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout[done.stdout.index("\n{") : done.stdout.rindex("}\n") + 1])
    assert figures["data"] == {"source": ".", "image": [1, 8, 8], "classes": 10, "train": 300, "test": 100}
    assert figures["train"]["steps"] == 2 * 5
