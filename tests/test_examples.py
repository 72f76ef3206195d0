"""Every example runs in its quick mode, without warnings, and reaches the figure that its page states."""

import pathlib
import re
import runpy
import sys

import numpy as np
import pytest

import minidl
from minidl.data import digits

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def example(monkeypatch, capsys):
    """Run an example with these arguments; returns what it printed."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(FOLDER / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def gradient_descent(example, tmp_path):
    printed = example("01_gradient_descent.py", "--quick", "--plot", tmp_path / "way.png")
    errors = [float(e) for e in re.findall(r"relative error (\S+)", printed)]
    assert len(errors) == 3
    assert max(errors) < 1e-12
    assert (tmp_path / "way.png").stat().st_size > 1000


def mlp_digits(example, tmp_path):
    printed = example(
        "02_mlp_digits.py", "--quick", "--plot", tmp_path / "curves.png", "--save", tmp_path / "mlp.safetensors"
    )
    accuracy, baseline = map(float, re.search(r"accuracy (\S+), nearest mean (\S+)", printed).groups())
    assert accuracy > 0.93
    assert baseline == pytest.approx(0.92, abs=0.005)
    assert "bit for bit" in printed
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert list(minidl.load(tmp_path / "mlp.safetensors")) == ["0.weight", "0.bias", "3.weight", "3.bias"]


EXAMPLES = {"01_gradient_descent.py": gradient_descent, "02_mlp_digits.py": mlp_digits}


@pytest.mark.parametrize("name", sorted({*EXAMPLES, *(path.name for path in FOLDER.glob("*.py"))}))
def test_example(name, example, tmp_path):
    assert name in EXAMPLES, f"say here what {name} must reach"
    EXAMPLES[name](example, tmp_path)


def test_gradient_descent_equals_the_closed_form_after_1000_steps(example):
    printed = example("01_gradient_descent.py", "--seed", 4)
    assert "0.98^1000 theta_0" in printed


def test_digits_of_the_users_own(example, tmp_path, capsys):
    """Another size and only three classes, from an npz file."""
    images, labels = digits()
    few = labels < 3
    np.savez(tmp_path / "mine.npz", images=images[few, 1:], labels=labels[few])
    printed = example("02_mlp_digits.py", "--quick", "--seed", 3, "--data", tmp_path / "mine.npz")
    assert float(re.search(r"accuracy (\S+),", printed)[1]) > 0.93
    with pytest.raises(SystemExit) as caught:
        example("02_mlp_digits.py", "--data", tmp_path / "none.npz")
    assert caught.value.code == 2
    assert "none.npz: No such file" in capsys.readouterr().err
