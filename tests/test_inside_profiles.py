"""minidl.profile: rows sum to the wall time, every op and module is there, and nothing of it stays behind."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import nn
from minidl.bench.ceilings import Ceilings
from minidl.inside import looking, profile
from minidl.inside.profiles import BACKWARD, FORWARD, MODULE, STEP


def training():
    minidl.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.2), nn.Linear(8 * 36, 10))
    optimizer = minidl.optim.SGD(net.parameters(), lr=0.1)
    x, y = minidl.randn(16, 1, 8, 8), minidl.randint(0, 10, (16,))

    def step():
        loss = F.cross_entropy(net(x), y) + 0.001 * sum((p * p).sum() for p in net.parameters())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return net, step


def test_rows_sum_to_the_wall_time():
    _, step = training()
    step()
    start = time.perf_counter()
    with profile() as p:
        for _ in range(3):
            step()
            time.sleep(0.002)
    wall = time.perf_counter() - start
    for rows in (p.by_op(), p.by_module()):
        assert sum(r.seconds for r in rows) == pytest.approx(p.seconds, rel=1e-9)
        assert all(r.forward >= 0 and r.backward >= 0 for r in rows)
    # switching on and off is the only difference; 5 % or, of so short a run, half a second, should the machine be busy
    assert 0 <= wall - p.seconds < 0.05 * wall + 0.5
    other = next(r for r in p.by_op() if r.name == "(other Python)")
    assert other.seconds >= 0.006


def test_every_op_module_and_step_is_there():
    net, step = training()
    with profile() as p:
        step()
    ops = {r.name: r for r in p.by_op()}
    assert {"conv2d", "relu", "linear", "add", "mul", "sum", "softmax_loss"} <= set(ops)  # a + b takes no short way
    assert {"(SGD.step)", "(the walk back)", "(calls of modules)", "(other Python)"} <= set(ops)
    assert ops["conv2d"].forward > 0
    assert ops["conv2d"].backward > 0
    assert ops["conv2d"].calls == 2
    modules = {r.name: r for r in p.by_module()}
    assert {f"Sequential.{i}" for i in range(5)} | {"Sequential", "outside of modules"} == set(modules)
    assert modules["Sequential.4"].backward > 0
    kinds = {e.kind for e in p.events}
    assert kinds == {FORWARD, BACKWARD, MODULE, STEP, "walk back"}
    assert len(net) == 5


def test_results_do_not_change_and_nothing_stays_behind():
    before = minidl.nn.Sequential.__call__, minidl.autograd.backward, minidl.autograd.TABLE["exp"].forward
    net, step = training()
    with profile():
        step()
    again, step = training()
    step()
    for a, b in zip(net.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(a.array, b.array)
    assert before == (minidl.nn.Sequential.__call__, minidl.autograd.backward, minidl.autograd.TABLE["exp"].forward)
    assert not minidl.autograd.state.watch
    with pytest.raises(ZeroDivisionError):
        with profile() as p:
            minidl.ones(2).exp()
            1 / 0
    assert p.seconds > 0
    assert before[2] is minidl.autograd.TABLE["exp"].forward
    with profile():
        with pytest.raises(RuntimeError, match="another profile"):
            with profile():
                pass
    with pytest.raises(RuntimeError, match="inner sizes"):
        with profile():
            minidl.ones(2, 3) @ minidl.ones(2, 3)


def test_shared_modules_second_derivatives_and_other_threads():
    shared = nn.Linear(4, 4)
    net = nn.Sequential(shared, nn.Tanh(), shared)
    x = minidl.randn(3, 4, requires_grad=True)
    done = []

    def beside():
        done.append(minidl.ones(3).sin())

    with profile() as p:
        (dx,) = minidl.autograd.grad(net(x).sum(), x, create_graph=True)
        dx.square().sum().backward()
        thread = threading.Thread(target=beside)
        thread.start()
        thread.join()
    assert "sin" not in {r.name for r in p.by_op()}
    assert done
    assert sum(r.seconds for r in p.by_module()) == pytest.approx(p.seconds, rel=1e-9)
    assert {"Sequential.0", "Sequential.1"} <= {r.name for r in p.by_module()}


def test_memory_at_its_peak():
    x = minidl.ones(1_000_000)
    (x + 1).exp()  # what is imported at the first call is not the point
    with profile(memory=True) as p:
        y = x + 1
        y.exp()
    peaks = {r.name: r.peak for r in p.by_op()}
    assert 4_000_000 <= peaks["exp"] < 5_000_000
    assert 8_000_000 <= p.peak < 9_000_000
    assert "at most" in str(p)


def test_share_of_the_roofline(monkeypatch):
    """Of a machine whose limits are given here; that they are measured is tests/test_bench.py's and explain's."""
    steps = tuple((size, 1e9) for size in (1000, 10**9))
    machine = Ceilings(1, "generic", {"f32": 1e12, "int8": 1e12}, dict.fromkeys(("read", "fill", "copy"), steps))
    monkeypatch.setattr(looking, "ceilings", lambda: machine)
    a = minidl.randn(128, 128)
    w = minidl.randn(128, 128, requires_grad=True)
    with profile(roofline=True) as p:
        (a @ w).sum().backward()
        a.reshape(-1)
    rows = {r.name: r for r in p.by_op()}
    # forward 2 K M N, backward the same again (a wants no gradient)
    assert rows["matmul"].flops == 2 * 2 * 128**3
    # bytes bind: at least a, w and y forwards, dy and dw backwards, 64 KiB each
    floor = 5 * 65536 / 1e9
    assert rows["matmul"].roofline == pytest.approx(floor / rows["matmul"].seconds, rel=1e-6)
    assert "roofline" in str(p)
    assert rows["reshape"].flops == 0
    assert rows["reshape"].roofline is None


def test_chromes_trace(tmp_path):
    _, step = training()
    with profile() as p:
        step()
    p.save(str(tmp_path / "t.json"))
    events = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert len(events) == len(p.events)
    assert all(e["ph"] == "X" and e["dur"] >= 0 and e["ts"] >= 0 for e in events)
    outer = next(e for e in events if e["name"] == "Sequential")
    inner = next(e for e in events if e["name"] == "conv2d" and e["cat"] == FORWARD)
    assert outer["ts"] <= inner["ts"]
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 1
    assert inner["args"]["module"] == "Sequential.0"
    assert "Sequential.0" in p._repr_html_()
