"""The main job, end to end: the figures it shows are those of the models it makes."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from test_cli import environment, minidl_command

import minidl
from minidl import demo, metrics
from minidl.cli import UserError
from minidl.compress import load_model, masks, report
from minidl.data import load_images
from minidl.models import DigitsCNN
from minidl.storage import Int8
from minidl.train import predict

KEYS = ("accuracy", "loss", "parameters", "nonzeros", "bytes", "infer_ms_batch", "infer_ms_one")
FOUR = ("dense", "pruned", "int8", "pruned_int8")


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """One quick run as a command: its folder, its figures, its output."""
    folder = tmp_path_factory.mktemp("demo")
    arguments = ["--quick", "--seed", 3, "--json", "a.json", "--plot", "a.png", "--out", "kept/models"]
    done = minidl_command("demo", *arguments, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, json.loads((folder / "a.json").read_text()), done


def test_the_files_are_the_models_of_the_figures(quick):
    folder, figures, _ = quick
    assert sorted(os.listdir(folder)) == ["a.json", "a.png", "kept"]
    assert sorted(os.listdir(folder / "kept" / "models")) == sorted(f"{name}.safetensors" for name in FOUR)
    data = load_images(test_size=demo.TEST_SHARE, seed=3).scaled()
    for name in FOUR:
        path = folder / "kept" / "models" / f"{name}.safetensors"
        model, shown = load_model(DigitsCNN, path), figures[name]
        logits = predict(model, data.x_test)
        assert shown["accuracy"] == metrics.accuracy(logits, data.y_test)
        assert shown["recall"] == metrics.recall(logits, data.y_test).tolist()
        loss = minidl.nn.functional.cross_entropy(logits, minidl.tensor(data.y_test)).item()
        assert shown["loss"] == loss
        counted = report(model)
        assert (shown["parameters"], shown["nonzeros"]) == (counted.parameters, counted.nonzeros)
        assert shown["bytes"] == path.stat().st_size
        assert 0 < shown["infer_ms_one"] < shown["infer_ms_batch"]
        assert bool(masks(model)) == name.startswith("pruned")
        assert [isinstance(p.array, Int8) for p in model.parameters()] == ["int8" in name, False] * 4


def test_the_figures_hang_together(quick):
    _, figures, _ = quick
    assert all(set(KEYS) <= set(figures[name]) for name in FOUR)
    assert figures["train"]["steps"] == 2 * 22
    assert 0 < figures["train"]["first_step_seconds"] < figures["train"]["seconds"] + 60
    dense, pruned, small = (figures[name] for name in ("dense", "pruned", "pruned_int8"))
    weights = dense["parameters"] - (16 + 32 + 64 + 10)
    assert dense["parameters"] - pruned["nonzeros"] >= round(0.8 * weights)
    assert pruned["bytes"] < dense["bytes"] / 3
    assert figures["int8"]["bytes"] < dense["bytes"] / 3
    assert small["bytes"] < dense["bytes"] / 8
    assert [k["kernel"] for k in figures["kernels"]] == ["int8_conv2d", "int8_conv2d", "int8_linear", "int8_linear"]
    assert all(k["variant"] != "reference" for k in figures["kernels"])


def test_what_is_printed_is_what_was_measured(quick):
    _, figures, done = quick
    for name, title in demo.NAMES.items():
        s = figures[name]
        row = next(line for line in done.stdout.splitlines() if line.startswith(f"{title}  "))
        shown = row.removeprefix(title).split()
        assert shown == [
            f"{s['accuracy']:.4f}",
            f"{s['loss']:.4f}",
            f"{s['parameters']:,}",
            f"{s['nonzeros']:,}",
            f"{s['bytes']:,}",
            f"{s['infer_ms_batch']:.3f}",
            f"{s['infer_ms_one']:.3f}",
        ]
    assert done.stdout.count("predictions equal bit for bit") == 4
    assert "every pruned weight stayed zero" in done.stdout
    for c, recall in enumerate(figures["dense"]["recall"]):
        assert f"{c}: {recall:.3f}" in done.stdout
    assert done.stderr.count("epoch") == 2 + 1  # no terminal: a line for each epoch


def test_the_picture_is_one(quick):
    folder, _, _ = quick
    raw = (folder / "a.png").read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(raw) > 20_000


def test_the_same_seed_gives_the_same_models(quick):
    _, figures, _ = quick
    again = demo.run(seed=3, quick=True)
    for name in FOUR:
        for key in ("accuracy", "loss", "nonzeros", "bytes", "recall"):
            assert again[name][key] == figures[name][key]


def test_gains_in_time_are_claimed_only_if_measured():
    def entry(ms, one=1.0, size=100):
        return dict(accuracy=0.9, bytes=size, infer_ms_batch=ms, infer_ms_one=one)

    scores = {"dense": entry(10.0), "pruned": entry(10.2), "int8": entry(5.0, 0.5), "pruned_int8": entry(5.0, 2.0, 10)}
    pruned, int8, both, *_ = demo._findings(scores)
    assert "not faster here" in pruned
    assert "; faster: speed x 2.00 for a batch, x 2.00 for one image" in int8
    assert "10.0 times smaller, +0.00 points of accuracy; in part faster: speed x 2.00" in both


def test_colour_images_and_many_classes(tmp_path, capsys):
    """28 classes of 20x24 colour images, told apart by where a square is; a class that the test part lacks."""
    g = minidl.random.Generator(7)
    y = np.arange(28 * 12) % 28
    x = g.uniform((len(y), 20, 24, 3)).astype(np.float32)
    for i, c in enumerate(y):
        x[i, 5 * (c // 7) : 5 * (c // 7) + 5, 3 * (c % 7) : 3 * (c % 7) + 4] += 3
    test = (np.arange(len(y)) < 28) & (y != 4)
    np.savez(tmp_path / "d.npz", x_train=x[~test], y_train=y[~test], x_test=x[test], y_test=y[test])
    paths = {"json_file": str(tmp_path / "a.json"), "plot_file": str(tmp_path / "a.svg")}
    figures = demo.run(str(tmp_path / "d.npz"), epochs=8, **paths)
    assert figures["data"]["image"] == [3, 20, 24]
    assert figures["dense"]["accuracy"] > 0.8
    assert json.loads((tmp_path / "a.json").read_text())["dense"]["recall"][4] is None
    assert "(the lowest 20 of 28 classes)" in capsys.readouterr().out
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")


def test_a_full_disk_is_reported(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "save_model", full)
    with pytest.raises(UserError, match="No space left"):
        demo.run(quick=True, json_file=str(tmp_path / "a.json"))
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_file_is_noticed(monkeypatch):
    """The comparison after loading can fail: a saver that loses a bit is caught."""
    real = demo.save_model

    def lossy(model, path):
        model = minidl.compress.load_model(DigitsCNN(), path) if os.path.exists(path) else model
        size = real(model, path)
        model.fc2.bias.array[0] += 1
        return size

    monkeypatch.setattr(demo, "save_model", lossy)
    with pytest.raises(RuntimeError, match="does not give the predictions"):
        demo.run(quick=True)


@pytest.mark.slow
@pytest.mark.trains
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_full_job_reaches_its_figures(tmp_path, seed):
    done = minidl_command("demo", "--seed", seed, "--json", "a.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "a.json").read_text())
    assert figures["dense"]["accuracy"] >= 0.975
    for name in FOUR[1:]:
        assert figures[name]["accuracy"] >= figures["dense"]["accuracy"] - 0.01


@pytest.mark.slow
@pytest.mark.trains
def test_the_first_run_compiles_once_and_says_so(tmp_path):
    """With an empty cache folder; the second run compiles nothing. How long it takes is measured, not tested."""
    env = {**environment(), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "minidl", "demo", "--json", "a.json"]
    said = []
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=True)
        said.append(done.stderr)
    assert "compiling CPU kernels" in said[0]
    assert "compiling" not in said[1]
