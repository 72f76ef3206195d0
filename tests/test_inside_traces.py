"""minidl.trace: the same walk as backward(), to the last bit and in the same order, standing still between steps."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import nn
from minidl.autograd import Watcher
from minidl.inside import diamond
from minidl.inside.diamonds import paths


def network():
    minidl.manual_seed(3)
    shared = nn.Linear(6, 6)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), shared, nn.LayerNorm(6), shared, nn.Tanh(), nn.Linear(6, 3))
    return net, minidl.randn(5, 4), minidl.randint(0, 3, (5,))


def several_outputs():
    x = minidl.randn(4, 5, requires_grad=True)
    values, _ = minidl.sort(x, dim=1)
    first, *rest = minidl.split(values, 2, dim=1)
    y = (first * first).sum() + sum(r.exp().sum() for r in rest)
    return y, [x]


class Order(Watcher):
    def __init__(self):
        self.nodes = []

    def stepped(self, node, slots, grads):
        self.nodes.append(node)


def test_the_walk_is_the_engines():
    net, x, y = network()
    loss = F.cross_entropy(net(x), y) + 0.1 * sum((p * p).sum() for p in net.parameters())
    t = minidl.trace(loss).run()
    with Order() as order:
        loss.backward()
    assert [s.node for s in t.steps] == order.nodes == t.nodes
    found = t.gradients()
    assert set(map(id, found)) == set(map(id, net.parameters()))
    for p in net.parameters():
        np.testing.assert_array_equal(found[p], p.grad.array)


def test_ops_with_several_outputs_and_unused_ones():
    minidl.manual_seed(1)
    y, (x,) = several_outputs()
    t = minidl.trace(y).run()
    y.backward()
    np.testing.assert_array_equal(t.gradients()[x], x.grad.array)


def test_hooks_change_what_is_handed_on():
    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    h = x * 3.0
    h.register_hook(lambda g: g * 10)
    x.register_hook(lambda g: g + 1)
    y = (h * h).sum()
    t = minidl.trace(y).run()
    y.backward()
    np.testing.assert_array_equal(t.gradients()[x], x.grad.array)


def test_stepping_back_and_forth():
    net, x, y = network()
    loss = F.cross_entropy(net(x), y)
    t = minidl.trace(loss)
    assert len(t) == len(t.nodes) > 5
    assert t.position == 0
    with pytest.raises(StopIteration):
        t.back()
    first, second = t.step(), t.step()
    assert t.back() is second
    assert t.step() is second
    assert first.op == "softmax_loss"
    assert first.module == ""
    assert second.module == "Sequential.6"
    assert "test_inside_traces.py" in first.source
    # a shared layer's weight gets one gradient per use; the sum after the first is not complete
    weight = net[2].weight
    t.run()
    given = [c for s in t.steps for c in s.given if c.to is weight]
    assert [(c.number, c.expected, c.complete) for c in given] == [(1, 2, False), (2, 2, True)]
    np.testing.assert_array_equal(given[1].total, given[0].gradient + given[1].gradient)
    with pytest.raises(StopIteration):
        t.step()
    assert t.run_to("standardize").module == "Sequential.3"
    assert t.run_to(1) is first
    assert t.run_to(t.nodes[3]).number == 4
    assert t.run_to("Sequential.0").op == "linear"
    assert all(p.grad is None for p in net.parameters()), "a trace adds to no .grad"
    loss.backward()  # and has not freed the graph


def test_names_come_from_the_callers_variables_or_are_given():
    net, x, y = network()
    hidden = net(x)
    t = minidl.trace(F.cross_entropy(hidden, y)).run()
    text = "\n".join(t.text(s) for s in t.steps)
    assert "to net.6.weight: " in text
    assert "hidden, linear" in text
    t = minidl.trace(F.cross_entropy(net(x), y), names=net).run()
    assert "to 6.weight: " in t.text(t.run_to("Sequential.6"))
    t = minidl.trace(F.cross_entropy(net(x), y), names={"the last": net[6].weight})
    assert "to the last: " in t.text(t.run_to("Sequential.6"))


def test_what_cannot_be_traced_is_said():
    w = minidl.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="single element"):
        minidl.trace(lambda: w * 2)
    assert minidl.inside.trace(w * 2, minidl.ones(3)).run().gradients()[w].tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="no op that made it"):
        minidl.trace(minidl.tensor(1.0))
    with pytest.raises(TypeError, match="a Tensor is expected"):
        minidl.inside.trace(3)
    with pytest.raises(TypeError, match="not NoneType"):
        minidl.trace(lambda: None)
    y = w.exp().sum()
    y.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        minidl.trace(y)
    leaf = minidl.tensor(2.0, requires_grad=True)
    assert minidl.trace(leaf).gradients()[leaf] == 1
    t = minidl.trace(w.exp().sum())
    with pytest.raises(KeyError, match="there are: exp"):
        t.run_to("expp")
    with pytest.raises(KeyError, match="only 1 to 2"):
        t.run_to(3)
    with pytest.raises(KeyError, match="leaf"):
        t.run_to(w)
    with pytest.raises(KeyError, match="not part"):
        t.run_to((w * 2).sum())


def test_a_matrix_still_has_its_trace():
    assert minidl.trace(minidl.tensor([[1.0, 2.0], [3.0, 4.0]])).item() == 5
    with pytest.raises(RuntimeError, match="a matrix is expected"):
        minidl.trace(minidl.ones(3))


def test_the_diamond_in_a_wrong_order_loses_a_gradient():
    x, t, orders = diamond()
    right = {name: t.in_order(order)[x] for name, order in orders.items()}
    assert right == {"topological": 138, "too early": 108}
    t.run()
    assert t.gradients()[x] == 138
    assert paths(12) == 2**13 - 1
    command = [sys.executable, "-W", "error", "-m", "minidl.inside.diamonds"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "5 of the 23 are lost" in run.stdout


def test_the_page_is_whole_and_needs_no_network(tmp_path):
    net, x, y = network()
    net.add_module("<b>", nn.Identity())
    t = minidl.trace(F.cross_entropy(net(x), y))
    t.save(str(tmp_path / "t.html"))
    text = (tmp_path / "t.html").read_text()
    assert t.position == 0
    assert text.count('<section class="step') == len(t) + 1
    assert 'type="range"' in text
    assert not re.search(r"https?:|src=|@import|url\(", text.replace('xmlns="http://www.w3.org/2000/svg"', ""))
    assert "Sequential.6" in t._repr_html_()
    with pytest.raises(OSError, match="."):
        t.save(str(tmp_path / "no" / "t.html"))


def test_a_hundred_thousand_nodes(tmp_path):
    x = minidl.tensor(1.0, requires_grad=True)
    y = x
    for _ in range(100_000):
        y = y + x
    start = time.monotonic()
    t = minidl.trace(y)
    t.step()
    assert "next: add" in str(t)
    t.save(str(tmp_path / "t.html"))
    assert (tmp_path / "t.html").stat().st_size < 1_000_000
    assert "first 300 of 100,000 steps" in (tmp_path / "t.html").read_text()
    t.run_to(2000)
    assert t.gradients()[x] == 2000
    assert time.monotonic() - start < 60  # a quadratic walk would take hours


def test_the_page_marks_each_step_in_the_graph(tmp_path):
    def marks(t):
        t.save(str(tmp_path / "t.html"))
        text = (tmp_path / "t.html").read_text()
        box, last = re.search(r"const BOX = (\[.*?\]), LAST = (\[.*?\]);", text).groups()
        return json.loads(box), json.loads(last), text

    x = minidl.tensor(3.0, requires_grad=True)
    a = x * x
    b = a * a
    y = b + a * 5
    box, last, text = marks(minidl.trace(y))
    titles = re.findall(r'<rect class="op".*?</text>', text, re.S)
    assert [re.search(r">([^<]*)</text>", titles[i])[1] for i in box] == [
        "add -&gt; y",
        "mul",
        "mul -&gt; b",
        "mul -&gt; a",
    ]
    assert [last[i] for i in box] == [1, 2, 3, 4]
    assert text.count("<rect") == len(last) == 6
    # A larger graph is drawn by modules, and a box is done with the last of its steps.
    deep = nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.LayerNorm(4)) for _ in range(30)])
    t = minidl.trace(deep(minidl.randn(2, 4)).sum())
    box, last, text = marks(t)
    assert len(box) == len(t) > 60
    assert text.count("<rect") == len(last) < 50
    for step, number in enumerate(box, 1):
        assert step <= last[number] <= len(t)
    assert marks(minidl.trace(minidl.tensor(2.0, requires_grad=True)))[:2] == ([], [])
