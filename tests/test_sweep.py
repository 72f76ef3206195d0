"""minidl sweep: the points are what they are said to be, a killed sweep goes on, a budget is met or said not to be."""

import copy
import csv
import json

import numpy as np
import pytest

import minidl.nn.functional as F
from minidl import cli, nn, optim, random
from minidl.compress import latencies, meet_budget_, quantize_, report
from minidl.data import load_images
from minidl.sweep.points import means, wilson
from minidl.sweep.runs import MODELS, Plan, Sweep, maker


def plan(**changes):
    how = dict(model="mlp", channels=[0.0], prune=[0.0, 0.8], bits=[32, 8], seeds=[0], epochs=1, data="digits")
    return Plan(**{**how, **changes})


def images(seed):
    return load_images(None, 0.25, seed).scaled()


def sweep(folder, how=None):
    folder.mkdir(exist_ok=True)
    return Sweep(how or plan(), maker((how or plan()).model), images, str(folder))


SAME = ("seed", "channels", "prune", "bits", "accuracy", "n", "bytes", "parameters")  # all but what is timed


def test_a_killed_sweep_goes_on_to_the_same_points(tmp_path):
    whole = sweep(tmp_path / "whole")
    whole.resume()
    points = list(whole.run())
    assert len(points) == plan().size() == 4
    cut = sweep(tmp_path / "cut")
    cut.resume()
    for point, _ in zip(cut.run(), range(2)):
        assert point["accuracy"] > 0.5
    (tmp_path / "cut" / ".point-0-0.8-32.json.x.tmp").write_bytes(b"{")  # the kill came in the middle of a write
    again = sweep(tmp_path / "cut")
    done = again.resume()
    assert done == 3
    for path in (tmp_path / "cut").glob("model-0-0.8.safetensors"):
        path.write_bytes(path.read_bytes()[:100])
    list(again.run())
    key = lambda p: (p["prune"], p["bits"])
    for a, b in zip(sorted(points, key=key), sorted(again.points, key=key), strict=True):
        assert {k: a[k] for k in SAME} == {k: b[k] for k in SAME}
    third = sweep(tmp_path / "cut")
    assert third.resume() == 4
    assert list(third.run()) == []


def test_a_folder_of_another_sweep_is_refused(tmp_path):
    sweep(tmp_path / "s").resume()
    with pytest.raises(cli.UserError, match=r"another sweep \(bits differ\)"):
        sweep(tmp_path / "s", plan(bits=[32])).resume()
    (tmp_path / "s" / "plan.json").write_text("{")
    with pytest.raises(cli.UserError, match="damaged"):
        sweep(tmp_path / "s").resume()


def test_the_command_prints_and_writes(tmp_path, capsys):
    """With a model of the user's own, channels removed, and a budget."""
    (tmp_path / "mine.py").write_text(
        "from minidl import nn\n"
        "def make(image, classes):\n"
        "    return nn.Sequential(nn.Conv2d(image[0], 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, classes))\n"
    )
    arguments = [
        "sweep", f"{tmp_path / 'mine.py'}:make", "--quick", "--channels", "0,0.5", "--prune", "0,0.9", "--bits", "32,4",
        "--max-bytes", "5000", "--out", str(tmp_path / "out"), "--json", str(tmp_path / "s.json"),
        "--csv", str(tmp_path / "s.csv"), "--plot", str(tmp_path / "s.png"),
    ]  # fmt: skip
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "channels 50 %, prune 90 %, int4" in printed
    assert "3.weight" in printed
    assert "after:" in printed
    made = json.loads((tmp_path / "s.json").read_text())
    assert len(made["points"]) == 8
    assert {p["parameters"] for p in made["points"]} == {60 + 2170, 30 + 1090}
    rows = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert [r["name"] for r in rows][:2] == ["dense", "int4"]
    assert (tmp_path / "s.png").stat().st_size > 10_000
    by = {(p["channels"], p["prune"], p["bits"]): p for p in made["points"]}
    assert by[0, 0.9, 32]["bytes"] < 0.5 * by[0, 0, 32]["bytes"]
    assert by[0, 0, 4]["bytes"] < by[0, 0, 32]["bytes"]
    assert cli.main([*arguments[:-8], "--max-bytes", "10"]) == 1
    assert "NOT met" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "'none' is none of cnn"),
        (["nowhere.py:f"], "there is no file nowhere.py"),
        (["mlp", "--prune", "0,1"], "1 is no share"),
        (["mlp", "--prune", "half"], "'half' is no number"),
        (["mlp", "--bits", "16"], "neither 32 nor in 2 ... 8"),
        (["mlp", "--data", "nowhere.npz"], "nowhere.npz"),
        (["mlp", "--csv", "/no/such/place.csv"], "cannot write"),
        (["mlp", "--plot", "x.doc"], "the name must end in"),
    ],
)
def test_wrong_arguments(arguments, message, capsys):
    assert cli.main(["sweep", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_every_model_of_the_list_can_be_made_and_called():
    for make, _ in MODELS.values():
        model = make((1, 8, 8), 10).eval()
        assert tuple(model(nn.Buffer(np.zeros((2, 1, 8, 8), np.float32))).shape) == (2, 10)


# -- what points come to ----------------------------------------------------------------------------------------------


def point(seed, bits, accuracy, size, speed):
    return dict(
        seed=seed, channels=0.0, prune=0.0, bits=bits, accuracy=accuracy, n=400, bytes=size, ms=1 / speed, ms_one=1.0,
        speed=speed,
    )  # fmt: skip


def test_means_intervals_and_domination():
    found = means(
        [
            point(0, 32, 0.98, 1000, 1.0), point(1, 32, 0.96, 1000, 1.0), point(0, 8, 0.97, 300, 1.5),
            point(1, 8, 0.97, 300, 1.5), point(0, 4, 0.90, 400, 1.2), point(0, 2, 0.5, 100, 1.0),
        ]
    )  # fmt: skip
    by = {m.bits: m for m in found}
    assert by[32].accuracy == pytest.approx(0.97)
    assert (by[32].least, by[32].most, by[32].seeds) == (0.96, 0.98, 2)
    assert by[32].low < 0.97 < by[32].high
    assert {bits: m.dominated for bits, m in by.items()} == {32: True, 8: False, 4: True, 2: False}
    assert [m.name for m in found] == ["dense", "int8", "int4", "int2"]


def test_the_interval_covers():
    """Of 2000 draws of 200 images, at least 93 % lie where the interval says: 95 % less four standard errors."""
    n, p = 200, 0.97
    hits = (random.uniform((2000, n)) < p).sum(1)
    inside = [low <= p <= high for low, high in (wilson(h / n, n) for h in hits)]
    assert np.mean(inside) > 0.93


# -- budgets ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classifier():
    """Two layers, of which the second is all that matters, and data that it tells apart."""
    random.manual_seed(2)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    x = random.normal((200, 8)).astype(np.float32)
    return model.eval(), x, model(nn.Buffer(x)).array.argmax(1)


def test_a_budget_of_bytes_is_met_and_explained(classifier):
    model, x, y = copy.deepcopy(classifier[0]), *classifier[1:]
    assert report(model).bytes > 2500
    found = meet_budget_(model, (x, y), max_bytes=1200)
    assert found.met
    made = report(model)
    assert found.bytes == made.bytes <= 1200
    assert found.accuracy == (model(nn.Buffer(x)).array.argmax(1) == y).mean()
    assert found.dense[1] == 1.0
    text = str(found)
    assert "2.weight" in text or "0.weight" in text
    assert "taken" in text
    assert all(a.bytes > b.bytes for a, b in zip(found.steps, found.steps[1:]) if b.taken)


def test_accuracy_is_kept_and_a_step_too_far_is_taken_back(classifier):
    model, x, y = copy.deepcopy(classifier[0]), *classifier[1:]
    found = meet_budget_(model, (x, y), min_accuracy=0.97)
    assert found.met
    assert (model(nn.Buffer(x)).array.argmax(1) == y).mean() == found.accuracy >= 0.97
    assert any(s.taken for s in found.steps)
    assert found.bytes == report(model).bytes < found.dense[0] / 2
    back = [s for s in found.steps if not s.taken]
    assert all("below 0.97" in s.why for s in back)


def test_limits_that_cannot_be_met_are_named(classifier):
    model, x, y = copy.deepcopy(classifier[0]), *classifier[1:]
    found = meet_budget_(model, (x, y), max_bytes=100)
    assert not found.met
    assert "NOT met" in str(found)
    assert "too many" in found.missed()[0]
    model = copy.deepcopy(classifier[0]).train()
    found = meet_budget_(model, (x, y), max_ms=1e-6)
    assert "whole channels" in found.missed()[0]
    assert model.training
    assert all(s.taken or s.why == "taken back: not faster" for s in found.steps)
    assert "already before" in meet_budget_(model, (x, 3 - y), min_accuracy=0.99).missed()[0]


@pytest.mark.trains
def test_a_budget_with_retraining_removes_channels_where_bytes_need_it(classifier):
    model, x, y = copy.deepcopy(classifier[0]), *classifier[1:]
    calls = []

    def retrain(m):
        calls.append(m)
        m.train()
        adam = optim.Adam([p for p in m.parameters() if p.requires_grad], lr=0.01)
        for _ in range(60):
            adam.zero_grad()
            F.cross_entropy(m(nn.Buffer(x)), nn.Buffer(y)).backward()
            adam.step()

    alone = meet_budget_(copy.deepcopy(model), (x, y), max_bytes=600, min_accuracy=0.9)
    assert not alone.met
    found = meet_budget_(model, (x, y), max_bytes=600, min_accuracy=0.9, retrain=retrain)
    assert found.met, str(found)
    assert calls
    assert model[0].weight.shape[0] < 64
    first = found.steps[0]
    assert (first.name, first.treatment, first.taken) == ("all", "25 % of channels, retrained", True)
    assert found.bytes == report(model).bytes <= 600
    assert (model(nn.Buffer(x)).array.argmax(1) == y).mean() == found.accuracy >= 0.9


def test_a_step_that_is_taken_back_leaves_what_retraining_changed(classifier):
    model, x, y = copy.deepcopy(classifier[0]), *classifier[1:]
    before = {n: p.array.copy() for n, p in model.named_parameters()}

    def harm(m):
        for p in m.parameters():
            if p.requires_grad:
                p.array[...] = 0

    found = meet_budget_(model, (x, y), max_bytes=600, min_accuracy=0.9, retrain=harm)
    assert not found.met
    assert any("taken back" in s.why for s in found.steps)
    floats = {n: p for n, p in model.named_parameters() if not p.packed and p.mask is None}
    assert {"0.bias", "2.bias"} <= set(floats)
    assert all((p.array == before[n]).all() for n, p in floats.items())


def test_budgets_refuse(classifier):
    model, x, y = classifier
    before = {n: p.array.copy() for n, p in model.named_parameters()}
    for limits, message in (({}, "at least one"), ({"max_bytes": 0}, "positive"), ({"max_ms": -1.0}, "positive")):
        with pytest.raises(ValueError, match=message):
            meet_budget_(model, (x, y), **limits)
    with pytest.raises(ValueError, match="hold no batch"):
        meet_budget_(model, [], max_bytes=10)
    assert all((p.array == before[n]).all() for n, p in model.named_parameters())
    with pytest.raises(TypeError, match="packed as int8 already"):
        meet_budget_(quantize_(copy.deepcopy(model)), (x, y), max_bytes=10)
    assert latencies({"a": lambda: None}, 1, 0)["a"] >= 0
