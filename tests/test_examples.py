"""Every example runs in its quick mode, without warnings, and reaches its quick figure; slow: in full, over seeds."""

import argparse
import ast
import inspect
import pathlib
import re
import runpy
import subprocess
import sys
import time

import numpy as np
import pytest
from test_cli import environment, minidl_command

import minidl
from minidl import examples
from minidl.data import digits

pytestmark = pytest.mark.trains
FOLDER = pathlib.Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def example(monkeypatch, capsys):
    """Run an example, by its number, with these arguments; returns what it printed."""

    def run(number, *arguments):
        (path,) = FOLDER.glob(f"{number:02}_*.py")
        monkeypatch.setattr(sys, "argv", [str(path), *map(str, arguments)])
        runpy.run_path(str(path), run_name="__main__")
        return capsys.readouterr().out

    return run


def figures(printed):
    """What the pages print with `figure`: {name: (value, {baseline: value})}."""
    found = {}
    for name, value, beside in re.findall(r"^figure: (.*?) ([\d.e+-]+) \((.*)\)$", printed, re.M):
        pairs = (one.rpartition(" ") for one in beside.split(", "))
        found[name] = float(value), {baseline: float(number) for baseline, _, number in pairs}
    return found


# -- what each page must reach, quickly and in full: functions of its figures ------------------------------------------


def gradient_descent(found, printed, full):
    (error, beside) = found["relative error of autograd"]
    assert max(error, *beside.values()) < 1e-12
    # the median of several starts, in full: momentum and Adam get where plain descent does not
    heights = {name.strip(): float(r) for name, r in re.findall(r"^  (.{14}) r = (\S+)", printed, re.M)}
    assert len(heights) == 7
    assert max(heights["SGD, momentum"], heights["Adam"]) < heights["SGD"]


def cnn_digits(found, printed, full):
    accuracy, beside = found["test accuracy"]
    assert accuracy >= (0.98 if full else 0.95)
    assert beside["nearest mean"] == pytest.approx(0.91, abs=0.02)


def rnn_surnames(found, printed, full):
    accuracy, beside = found["test accuracy of the LSTM"]
    if full:
        assert accuracy > beside["naive Bayes"] > 0.7
    assert accuracy > 0.55 > 0.25 > beside["most frequent"]
    share = {n.strip(): float(x) for n, x in re.findall(r"60 steps ago, (.{16}) (\S+) of", printed)}
    assert share["RNN"] < 1e-3 * share["LSTM"] < 1e-6 * share["LSTM, b_f = 3"]
    assert share["RNN, weights x 5"] > 10


def lstm_sunspots(found, printed, full):
    share, beside = found["share of persistence's error"]
    assert share <= (0.65 if full else 0.75)
    assert beside["autoregression"] == pytest.approx(0.595, abs=0.001)
    assert found["mean absolute error"][1]["persistence"] == pytest.approx(25.44, abs=0.01)


def transformer_translation(found, printed, full):
    for measure in ("exactly right", "BLEU"):
        value, beside = found[f"translation, {measure}"]
        if full:
            assert value > max(beside["copy"], beside["nearest neighbour"])
    told, beside = found["category told"]
    assert told > (beside["naive Bayes"] if full else 0.5)


def gpt(found, printed, full):
    for kind, quickly in (("bits per character", 3.8), ("bits per character, characters", 4.2)):
        bits, beside = found[kind]
        assert bits < (min(beside["gzip"], beside["counts of order 3"]) if full else quickly)
    assert "none before" in printed
    assert "the same text with the cache" in printed
    for kind in ("question and answer", "summary"):
        bits, beside = found[f"bits per character of a {kind}"]
        assert bits < beside["before"]
    bits, beside = found["bits per character of code, fine-tuned"]
    assert bits < (min(beside["before"], beside["from scratch"]) if full else beside["before"])
    if full:
        accuracy, beside = found["accuracy on words"]
        assert accuracy > beside["larger class"]


REACHED = {1: gradient_descent, 2: cnn_digits, 3: rnn_surnames, 4: lstm_sunspots, 5: transformer_translation, 6: gpt}


def gan(found, printed, full):
    for game in ("DCGAN", "WGAN-GP"):
        confidence, beside = found[f"{game} confidence"]
        assert beside["of noise"] < 0.8 < 0.95 < beside["of real"]
        smallest, _ = found[f"{game} smallest class"]
        apart, test_images = found[f"{game} distance to the nearest training image"]
        assert apart > 0.5 * test_images["of real"]  # no copies
        assert apart < (2 if full else 3) * test_images["of real"]  # but digits
        assert smallest >= (5 if full else 0)
        assert confidence >= (0.85 if full else 0.5)


def diffusion(found, printed, full):
    distance, beside = found["energy distance, worst way"]
    assert distance < beside["ring"] if full else distance < beside["gaussian"]
    share, beside = found["share on a blob, worst way"]
    assert beside["real"] > 0.97
    assert beside["gaussian"] < beside["ring"] < 0.55  # a ring without blobs is no answer
    assert share > (0.8 if full else beside["gaussian"])
    for way in ("DDPM", "DDIM", "SDE", "ODE"):
        confidence, beside = found[f"{way} confidence"]
        apart, test_images = found[f"{way} distance to the nearest training image"]
        assert beside["of noise"] < 0.8  # what a classifier says of anything at all
        if full:
            assert confidence >= 0.85
            assert found[f"{way} smallest class"][0] >= 5
            assert 0.8 * test_images["of real"] < apart < 2 * test_images["of real"]  # no copies, but digits


def attention(found, printed, full):
    soft = ("additive", "dot", "scaled dot") if full else ("scaled dot",)
    hard = ("REINFORCE", "Gumbel", "top-4") if full else ("REINFORCE",)
    for name in (*soft, *hard):
        seen, beside = found[f"{name} looks at the digit"]
        assert beside["chance"] < 0.2
        assert seen >= (0.85 if full else 0.5)
    rows = re.findall(r"^(.{10})  +[\d.]+ +[\d.]+ +([\d,]+)", printed, re.M)
    cost = {name.strip(): int(macs.replace(",", "")) for name, macs in rows}
    assert cost["REINFORCE"] < cost["scaled dot"] / 10


def light_networks(found, printed, full):
    heaviest, beside = found["GMACs of the heaviest light network"]
    assert heaviest < beside["plain"] / 8
    accuracy, beside = found["texture accuracy"]
    assert accuracy >= 0.99
    assert beside["nearest mean on pixels"] < 0.65
    size, beside = found["megabytes, half pruned, trained on, int8"]
    assert size < beside["float32"] / 4
    accuracy, beside = found["texture accuracy, half pruned, trained on, int8"]
    if full:
        assert accuracy >= 0.95 > beside["only pruned"]


def resnet(found, printed, full):
    accuracy, beside = found["texture accuracy"]
    assert accuracy >= (0.95 if full else 0.75)
    assert beside["nearest mean on pixels"] == pytest.approx(0.6)
    assert beside["nearest mean on features"] >= (0.95 if full else 0.85)
    for name in ("digits accuracy", "digits accuracy, squeeze and excitation"):
        assert found[name][0] >= (0.98 if full else 0.93)
    deep, beside = found["digits accuracy, 44 layers" if full else "digits accuracy, 32 layers"]
    assert deep > (0.9 if full else 0.7) > 0.6 > beside["without skips"]


REACHED |= {7: gan, 8: diffusion, 9: attention, 10: resnet, 13: light_networks}


def prune(found, printed, full):
    accuracy, beside = found["accuracy at 80 % zeros"]
    assert accuracy >= beside["dense"] - (0.015 if full else 0.04)
    assert beside["random"] < 0.5
    assert found["bytes at 80 % zeros, of the dense file's"][0] < 0.26
    assert found["accuracy with half of the channels"][0] >= beside["dense"] - (0.015 if full else 0.1)
    own, others = map(float, re.search(r"its own initial values (\S+), others (\S+)", printed).groups())
    assert own > others
    once, slowly = map(float, re.search(r"at once (\S+), gradually (\S+),", printed).groups())
    assert min(once, slowly) > (0.94 if full else 0.5)


REACHED |= {11: prune}


def quantize(found, printed, full):
    accuracy, beside = found["accuracy of static int8"]
    assert beside["float"] >= (0.97 if full else 0.9)
    assert abs(accuracy - beside["float"]) <= (0.006 if full else 0.012)  # an image is .0028
    size, beside = found["bytes of static int8"]
    assert size <= 0.28 * beside["float"]
    assert "to the last bit: True" in printed
    assert "4 Conv2d, 1 Add, 1 MaxPool2d, 1 AvgPool2d, 1 Reshape, 2 Linear" in printed
    right = {
        name.strip(): float(x) for name, x in re.findall(r"^(\S.{23}) +([01]\.\d{4}) +[\d,]+ +\d+%", printed, re.M)
    }
    assert right["weights only, 2 bits"] < right["weights only, 4 bits"]


REACHED |= {12: quantize}


def test_every_page_says_here_what_it_must_reach():
    assert [int(path.name[:2]) for path in examples.pages(FOLDER)] == sorted(REACHED)


@pytest.mark.parametrize("number", REACHED)
def test_quick(number, example, tmp_path):
    """With every option that the page has; its picture is one, its weights load."""
    arguments = ["--quick", "--plot", tmp_path / "picture.png"]
    (path,) = FOLDER.glob(f"{number:02}_*.py")
    has_weights, goes_on = (f"{option}=None" not in path.read_text() for option in ("save", "resume"))
    if has_weights:
        arguments += ["--save", tmp_path / "weights.safetensors"]
    if goes_on:
        (tmp_path / "states").mkdir()
        arguments += ["--resume", tmp_path / "states" / "state.safetensors"]
    printed = example(number, *arguments)
    REACHED[number](figures(printed), printed, full=False)
    assert (tmp_path / "picture.png").read_bytes()[:4] == b"\x89PNG"
    if has_weights:
        assert minidl.load(tmp_path / "weights.safetensors")
    if goes_on:
        assert all(minidl.load(state) for state in (tmp_path / "states").iterdir())
        assert any((tmp_path / "states").iterdir())


LONG = (6, 8, 9)  # minutes each


@pytest.mark.slow
@pytest.mark.parametrize("number", [pytest.param(n, marks=pytest.mark.long if n in LONG else ()) for n in REACHED])
def test_full(number, example):
    """Seed 0; examples/README.md has the figures of seeds 0 to 2."""
    printed = example(number)
    REACHED[number](figures(printed), printed, full=True)


def test_every_page_stands_in_the_table():
    table = (FOLDER / "README.md").read_text()
    rows = [line for line in table.splitlines() if re.match(r"\| *\[\d\d", line)]
    assert [row.split("](")[1].split(")")[0] for row in rows] == [path.name for path in examples.pages(FOLDER)]
    for path in examples.pages(FOLDER):
        title = ast.get_docstring(ast.parse(path.read_text())).partition("\n")[0]
        assert 20 < len(title) <= 120
        assert title.endswith(".")


# -- the command, and what all pages share -----------------------------------------------------------------------------


def test_the_command_lists_and_runs(tmp_path):
    done = minidl_command("examples", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.findall(r"^(\d\d)  \w", done.stdout, re.M) == [path.name[:2] for path in examples.pages(FOLDER)]
    done = minidl_command("examples", "1", "--quick", "--seed", 3, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(figures(done.stdout)) == ["relative error of autograd"]
    done = minidl_command("examples", "02_cnn_digits", "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--data", "--quick", "--seed", "--plot", "--save", "--resume"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["99"], "no example '99'"),
        (["2", "--data", "none.npz"], "none.npz: No such file"),
        (["2", "--plot", "a.xyz"], "must end in one of"),
        (["2", "--plot", "none/a.png"], "there is no folder"),
        (["2", "--save", "a.pkl"], "must end in .safetensors or .npz"),
        (["2", "--resume", "none/a.npz"], "cannot write none/a.npz"),
        (["2", "--seed", "-1"], "is not in 0"),
        (["2", "--sead", "1"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_is_one_line_before_the_work_starts(tmp_path, arguments, words):
    done = minidl_command("examples", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_page_runs_by_its_path(tmp_path):
    """As `python examples/01_gradient_descent.py`, from any folder."""
    command = [sys.executable, "-W", "error", str(FOLDER / "01_gradient_descent.py"), "--quick"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")


def test_gradient_descent_equals_the_closed_form_for_other_starts(example):
    printed = example(1, "--quick", "--seed", 4)
    assert "0.98^100 theta_0" in printed


def test_digits_of_the_users_own(example, tmp_path):
    """Another size and only three classes, which are not numbered from 0, from an npz file."""
    images, labels = digits()
    few = np.isin(labels, (1, 2, 6))
    np.savez(tmp_path / "mine.npz", images=images[few, 1:], labels=labels[few])
    picture = tmp_path / "picture.png"
    printed = example(2, "--quick", "--seed", 3, "--data", tmp_path / "mine.npz", "--plot", picture)
    assert picture.exists()
    assert figures(printed)["test accuracy"][0] > 0.93


def test_a_training_goes_on_where_it_was(example, tmp_path):
    """A run that is resumed after its end trains no more and has the same figure."""
    arguments = ("--quick", "--resume", tmp_path / "state.npz")
    first = figures(example(2, *arguments))
    steps = minidl.load(tmp_path / "state.npz")["step"]
    assert steps > 100
    assert figures(example(2, *arguments)) == first
    assert minidl.load(tmp_path / "state.npz")["step"] == steps


@pytest.mark.slow
def test_a_training_that_was_killed_ends_as_if_it_had_not_been(tmp_path):
    """Killed without a word after some epochs, it goes on, and says and writes the same as one that was left alone."""
    page = [sys.executable, str(FOLDER / "04_lstm_sunspots.py")]
    options = lambda name: ["--resume", f"{name}-state.npz", "--save", f"{name}.npz"]
    whole, killed = (
        subprocess.Popen([*page, *options(name)], cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True)
        for name in ("whole", "killed")
    )
    state = tmp_path / "killed-state.npz"
    while killed.poll() is None and not (state.exists() and minidl.load(state)["epoch"] >= 3):
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    assert killed.returncode < 0, "it had ended before it could be killed"
    assert minidl.load(state)["epoch"] < 80
    assert not (tmp_path / "killed.npz").exists()
    again = subprocess.run([*page, *options("killed")], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    printed, _ = whole.communicate()
    assert figures(again.stdout) == figures(printed) != {}
    ours, theirs = (minidl.load(tmp_path / f"{name}.npz") for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


@pytest.mark.slow
def test_a_text_of_the_users_own_and_every_training_goes_on(example, tmp_path):
    """The second run finds pretraining and fine-tuning done, trains no more and has the same figures."""
    code = inspect.getsource(argparse)
    (tmp_path / "text.txt").write_text(code)
    arguments = ("--quick", "--data", tmp_path / "text.txt", "--resume", tmp_path / "state.npz")
    first = figures(example(6, *arguments))
    assert first["bits per character"][1] != {}
    steps = {path.name: minidl.load(path)["step"] for path in tmp_path.glob("state*.npz")}
    trainings = ("characters", "code", "code-from-scratch", "words-pretrained", "words-from-scratch", "summary")
    assert steps.keys() == {f"state-{name}.npz" for name in (*trainings, "question-and-answer")} | {"state.npz"}
    assert figures(example(6, *arguments)) == first
    assert {path.name: minidl.load(path)["step"] for path in tmp_path.glob("state*.npz")} == steps


def test_a_text_that_is_too_short(example, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("The same paragraph.\n\n" * 5000)
    with pytest.raises(SystemExit) as caught:
        example(6, "--data", tmp_path / "text.txt")
    assert caught.value.code == 2
    assert "characters without repetitions are too few" in capsys.readouterr().err


@pytest.mark.parametrize("number", [7, 8])
def test_images_whose_edges_do_not_fit(number, example, tmp_path, capsys):
    np.savez(tmp_path / "odd.npz", images=np.zeros((40, 9, 9), np.uint8), labels=np.arange(40) % 2)
    with pytest.raises(SystemExit) as caught:
        example(number, "--quick", "--data", tmp_path / "odd.npz")
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert "got images of (1, 9, 9)" in printed.err
    assert printed.out == ""  # before the work starts


def test_names_of_the_users_own(example, tmp_path):
    """Two kinds of words that their letters tell apart."""
    g = np.random.default_rng(0)
    words = lambda letters: {"".join(g.choice(list(letters), 6)) for _ in range(150)}
    rows = [*(f"{w},low" for w in words("abcdefg")), *(f"{w},high" for w in words("tuvwxyz"))]
    (tmp_path / "words.csv").write_text("word,kind\n" + "\n".join(rows) + "\n")
    printed = example(3, "--quick", "--data", tmp_path / "words.csv")
    assert figures(printed)["test accuracy of the LSTM"][0] > 0.9


def test_a_series_of_the_users_own(example, tmp_path):
    """A sine that has negative values, without a column of times."""
    values = 3 * np.sin(0.5 * np.arange(240))
    (tmp_path / "waves.csv").write_text("wave\n" + "\n".join(map(str, values)) + "\n")
    printed = example(4, "--quick", "--data", tmp_path / "waves.csv")
    assert figures(printed)["share of persistence's error"][0] < 0.3
    (tmp_path / "short.csv").write_text("wave\n1\n2\n")
    with pytest.raises(SystemExit) as caught:
        example(4, "--data", tmp_path / "short.csv")
    assert caught.value.code == 2


def test_pairs_of_the_users_own(example, tmp_path):
    rows = [f"{chr(97 + i % 26)}{chr(97 + i * 7 % 26)},{chr(65 + i % 26)}{chr(65 + i * 7 % 26)}" for i in range(60)]
    (tmp_path / "pairs.csv").write_text("low,high\n" + "\n".join(rows) + "\n")
    printed = example(5, "--quick", "--data", tmp_path / "pairs.csv")
    assert set(figures(printed)) == {"translation, exactly right", "translation, BLEU"}


@pytest.mark.parametrize(
    ("number", "rows", "words"),
    [
        (2, None, "all images are of class 3"),
        (3, [f"w{i},a" for i in range(60)], "60 texts of 1 classes"),
        (3, ["Ada,x", "Bob,y"], "2 texts of 2 classes"),
        (4, [f"{i},5" for i in range(200)], "the last 41 values are all the same"),
    ],
)
def test_data_that_there_is_nothing_to_learn_from(number, rows, words, example, tmp_path, capsys):
    path = tmp_path / ("one.npz" if rows is None else "rows.csv")
    if rows is None:
        np.savez(path, images=np.zeros((40, 8, 8), np.uint8), labels=np.full(40, 3))
    else:
        path.write_text("a,b\n" + "\n".join(rows) + "\n")
    with pytest.raises(SystemExit) as caught:
        example(number, "--quick", "--data", path)
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""
