"""minidl.explain: every op, layer and kernel tells all there is to tell; what it says is true."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest

import minidl
import minidl_kernels
from minidl import nn
from minidl.autograd import TABLE, Op, OpType
from minidl.bench import ceilings
from minidl.bench.ceilings import Ceilings
from minidl.cli import main
from minidl.inside import explain, looking, pages
from minidl.inside.counting import Counting, counted
from minidl.inside.explanations import KERNEL_FIELDS, LAYER_FIELDS, OP_FIELDS, names
from minidl_kernels import registry
from minidl_kernels.cpu import jit

NAMES = names()
OPS = [n for n in NAMES if n in TABLE]
KERNELS = [n for n in NAMES if n.startswith("minidl_kernels.")]
ABSTRACT = {"Module", "RNNBase", "RNNCellBase"}
LAYERS = [n for n in NAMES if isinstance(getattr(nn, n, None), type) and n not in ABSTRACT]
NO_BACKWARD = ("scatter_multiply", "floor_divide", "heaviside", "igamma", "igammac")  # torch has none either


def complete(found, wanted):
    for title in wanted:
        assert title in found, f"{title} is missing"
        assert found[title].strip(), f"{title} is empty"
    for f in found.fields:
        assert "WRONG" not in f.text, f.text
        assert "cannot be checked" not in f.text or found.name in NO_BACKWARD, f.text
    assert found.name in str(found)


def test_everything_is_known_by_name():
    assert {n.removeprefix("minidl_kernels.") for n in KERNELS} == set(registry.ops())
    assert set(OPS) == set(pages.all_ops())
    modules = {n for n in dir(nn) if isinstance(getattr(nn, n), type) and issubclass(getattr(nn, n), nn.Module)}
    assert modules <= set(LAYERS) | ABSTRACT


@pytest.mark.parametrize("name", OPS)
def test_every_op_tells_all(name):
    f = TABLE[name]
    found = explain(f, measure=False)
    complete(found, OP_FIELDS)
    if isinstance(f, OpType):
        assert pages.page(f).why, f"{f.__module__}: give {name} a line 'Why: ...' in its docstring"
        assert "def forward" in found["forward"] or "forward =" in found["forward"]


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_tells_all(name):
    complete(explain(name, measure=False), KERNEL_FIELDS)


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_tells_all(name):
    found = explain(name, measure=False)
    complete(found, ("what", "forward", "example") if found.kind == "container" else LAYER_FIELDS)


def _op_classes(base=Op):
    for c in base.__subclasses__():
        if c.__module__.startswith(("minidl.ops", "minidl.inplace")) and "forward" in c.__dict__:
            if not (c.__name__.startswith("_") and c.__subclasses__()):
                yield c
        yield from _op_classes(c)


def test_ops_that_stand_behind_a_function_say_why_too():
    assert [c for c in _op_classes() if not pages.page(c).why and "<locals>" not in c.__qualname__] == []


def test_examples_are_programs_that_run():
    """Some of them, by themselves; that all compute is tested above."""
    chosen = ["matmul", "view", "im2col", "cholesky", "LSTM"]
    for name in chosen:
        program = explain(name, measure=False)["example"]
        run = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True)
        assert run.returncode == 0, program + run.stderr
        assert run.stdout.strip()
    program = explain("minidl_kernels.softmax", measure=False)["example"]
    assert subprocess.run([sys.executable, "-c", program], capture_output=True).returncode == 0


# -- what is counted ---------------------------------------------------------------------------------------------------


def count(f, *arrays):
    with counted() as found:
        f(*[np.asarray(a).view(Counting) for a in arrays])
    return found


def test_operations_are_those_of_the_textbook():
    x, w = np.ones((5, 7), np.float32), np.ones((7, 3), np.float32)
    matmul = TABLE["matmul"]
    assert (count(matmul, x, w).flops, count(matmul, x, w).macs) == (2 * 5 * 7 * 3, 5 * 7 * 3)
    image, filters = np.ones((2, 4, 6, 6), np.float32), np.ones((8, 4, 3, 3), np.float32)
    conv = count(lambda a, b: minidl_kernels.conv2d(a, b), image, filters)
    taps = 2 * 8 * 4 * 4 * 4 * 3 * 3
    assert conv.macs == taps
    assert 2 * taps - 2 * 8 * 4 * 4 <= conv.flops <= 2 * taps  # the first product of a sum has nothing to be added to
    q = np.ones((1, 2, 5, 4), np.float32)
    attention = count(lambda a, b, c: minidl_kernels.attention(a, b, c)[0], q, q, q)
    assert attention.macs == 2 * (2 * 5 * 5 * 4)
    assert count(TABLE["exp"], x).flops == 35
    assert count(TABLE["sum"], x).flops == 34
    assert count(TABLE["add"], x, x[0]).flops == 35
    for move in (lambda a: TABLE["flip"](a, (0,)), TABLE["clone"], lambda a: TABLE["getitem"](a, 1)):
        assert count(move, x).flops == 0
    assert count(np.linalg.inv, np.eye(10)).flops == 2000


def test_counting_leaves_no_trace():
    assert minidl_kernels.call is registry.call
    model = nn.Linear(4, 3)
    explain(model, (2, 4), measure=False)
    assert type(model.weight.array) is np.ndarray
    assert model.weight.dtype == minidl.float32
    assert minidl_kernels.call is registry.call
    state = minidl.get_state()
    explain("dropout", measure=False)
    assert str(minidl.get_state()) == str(state), "the caller's random numbers go on as before"


def test_counted_and_uncounted_results_are_equal():
    x = np.linspace(-2, 2, 24, dtype=np.float32).reshape(4, 6)
    for name in ("softmax", "log_softmax", "cumsum"):
        with counted():
            y = TABLE[name](x.view(Counting), 1)
        np.testing.assert_allclose(np.asarray(y), TABLE[name](x, 1), rtol=1e-6)


# -- what is given ----------------------------------------------------------------------------------------------------


def test_inputs_and_shapes_may_be_given():
    by_shapes = explain(minidl.matmul, (8, 16), (16, 4), measure=False)
    by_inputs = explain(minidl.matmul, minidl.randn(8, 16), minidl.randn(16, 4), measure=False)
    assert "1.02 k FLOPs" in by_shapes["cost"]
    assert by_shapes["cost"] == by_inputs["cost"]
    assert "here (8, 16), (16, 4) -> (8, 4) float32" in by_shapes["shapes"]
    assert "tiled" in explain("minidl_kernels.linear", (64, 512), (64, 512), measure=False)["runs here"]
    with pytest.raises(RuntimeError, match="inner sizes differ"):
        explain("matmul", (2, 3), (4, 5), measure=False)
    with pytest.raises(TypeError, match="too few"):
        explain("matmul", shapes=[(2, 3)], measure=False)


def test_a_model_with_shared_parts():
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.BatchNorm1d(6))
    before = model[3].running_mean.clone()
    found = explain(model, (4, 6), measure=False)
    np.testing.assert_array_equal(model[3].running_mean.numpy(), before.numpy(), err_msg="explain moved statistics")
    assert found.kind == "model"
    assert "54 in all" in found["parameters"]  # shared weights count once
    assert "Sequential.0" in found["modules"]
    assert "right: backward agrees" in found["gradcheck"]
    with pytest.raises(TypeError, match="say on what to run"):
        explain(model)


def test_a_graph():
    x = minidl.randn(3, requires_grad=True)
    found = explain((x * x).exp().sum())
    assert "3 nodes lead to it, from 1 leaves with 3 elements" in found["what"]
    with pytest.raises(TypeError, match="has no graph"):
        explain(x)
    y = (x * x).sum()
    y.backward()
    assert "have been freed" in explain(y)["what"]


def test_an_op_of_ones_own():
    class cube(minidl.Op):
        """y = x^3;    dx = 3 x^2 dy

        Why: (x^3)' = 3 x^2.
        """

        def forward(ctx, x):
            ctx.save(x)
            return x * x * x

        def backward(ctx, dy):
            (x,) = ctx.saved
            return dy * 3 * x * x

    found = explain(cube, minidl.randn(4), measure=False)
    assert found["why"] == "(x^3)' = 3 x^2."
    assert "right" in found["gradcheck"]
    assert "right" in found["second derivative"]
    with pytest.raises(TypeError, match="has no example"):
        explain(cube)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("conv2", "conv2d"),
        ("Lineer", "Linear"),
        ("matmull", "matmul"),
        ("sofmax", "softmax"),
        ("minidl_kernels.gem", ""),
    ],
)
def test_unknown_names_get_suggestions(name, said):
    with pytest.raises(LookupError, match=f"no '{re.escape(name)}'.*{said}"):
        explain(name)


def test_what_cannot_be_explained():
    for thing in (3, None, len, [1]):
        with pytest.raises(TypeError, match="explain: an op, a layer"):
            explain(thing)


def test_names_as_people_write_them():
    assert explain("minidl.nn.Linear", measure=False).name == "Linear"
    assert explain("nn.functional.relu", measure=False).name == "relu"
    assert explain("Tensor.view", measure=False).name == "view"
    assert explain(minidl.Tensor.exp, measure=False).name == "exp"
    assert explain("minidl.true_divide", measure=False).name == "true_divide"
    assert explain("csr_linear", measure=False).kind == "kernel"


def test_the_place_on_the_roofline(monkeypatch):
    """Of a machine whose limits are given: 1 GB/s, a million million FLOP/s."""
    steps = tuple((size, 1e9) for size in (1000, 10**9))
    machine = Ceilings(1, "generic", {"f32": 1e12, "int8": 1e12}, dict.fromkeys(("read", "fill", "copy"), steps))
    monkeypatch.setattr(looking, "ceilings", lambda: machine)
    found = explain("matmul", (256, 256), (256, 256))
    assert re.search(r"takes .* here: .*FLOP/s", found["roofline"])
    # 768 KiB at 1 GB/s: 786 us, which is more than 33.6 M FLOPs take
    assert "it needs 786 us, bound by memory" in found["roofline"]
    assert "1 TFLOP/s at most with 1 thread;" in found["roofline"]
    assert "<svg" in found.html()


def test_limits_are_measured_once_and_kept(monkeypatch, tmp_path):
    steps = ((1000, 2e9), (10**9, 1e9))
    machine = Ceilings(2, "generic", {"f32": 1e12, "int8": 1e12}, dict.fromkeys(("read", "fill", "copy"), steps))
    asked = []
    monkeypatch.setattr(jit, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(ceilings, "measure_ceilings", lambda *a: asked.append(a) or machine)
    measured = looking._ceilings.__wrapped__
    assert measured(2, "generic") == machine
    assert measured(2, "generic") == machine
    assert len(asked) == 1
    for file in tmp_path.iterdir():
        file.write_text('{"rates": 3}')  # what cannot be read is measured again
    assert measured(2, "generic") == machine
    assert len(asked) == 2


@pytest.mark.slow
def test_measured_on_this_machine():
    found = explain("matmul", (256, 256), (256, 256))
    percent = float(re.search(r"that is ([\d.]+)% of the roofline", found["roofline"])[1])
    assert percent > 0


def test_the_page_is_whole_and_needs_no_network(tmp_path):
    explain("softmax", measure=False).save(str(tmp_path / "e.html"))
    text = (tmp_path / "e.html").read_text()
    assert not re.search(r"src=|@import|url\(|<link", text)
    assert "<h2>second derivative</h2>" in text
    assert "softmax" in explain("softmax", measure=False)._repr_html_()


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command(capsys, tmp_path):
    assert main(["explain", "tanh", "--quick"]) == 0
    assert "y = tanh x" in capsys.readouterr().out
    assert main(["explain", "matmul", "--quick", "--shapes", "8x16", "16x4"]) == 0
    assert "1.02 k FLOPs" in capsys.readouterr().out
    page = tmp_path / "m.html"
    assert main(["explain", "Linear", "--quick", "--html", str(page)]) == 0
    assert "<h2>parameters</h2>" in page.read_text()
    assert main(["explain"]) == 0
    out = capsys.readouterr().out
    assert "minidl_kernels.conv2d" in out
    assert "Conv2d" in out
    for wrong, said in [
        (["explain", "conv2"], "did you mean Conv2d, conv2d"),
        (["explain", "tanh", "--shapes", "2by3"], "sizes such as 64x128"),
        (["explain", "tanh", "--html", str(tmp_path / "no" / "x.html")], "a folder that exists"),
        (["explain", "matmul", "--quick", "--shapes", "2x3", "4x5"], "inner sizes differ"),
    ]:
        assert main(wrong) == 2
        assert said in capsys.readouterr().err


def test_in_colour_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["explain", "tanh", "--quick"]) == 0
    out = capsys.readouterr().out
    assert "formula" in out
    assert "y = tanh x" in out
