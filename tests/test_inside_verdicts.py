"""Trace.blame on whole programs: models, kinks, ops of one's own. Faults in each op: tests/ops/test_blame.py."""

from __future__ import annotations

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import nn
from minidl.inside.verdicts import APART, BENT, RIGHT, UNKNOWN
from minidl.models import DigitsCNN


def cnn():
    minidl.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(64, 3),
    )  # fmt: skip


def test_a_model_in_float32_is_right():
    net, x, y = cnn(), minidl.randn(6, 1, 8, 8), minidl.randint(0, 3, (6,))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    t = minidl.trace(lambda: F.cross_entropy(net(x), y))
    after = net.state_dict()
    found = t.blame()
    assert not found
    # ReLU's zeros are equal, and which of equals is the greatest has no derivative
    assert [v.op for v in found.verdicts if v.verdict != RIGHT] in ([], ["max_pool2d"]), str(found)
    assert t.position == 0
    for key, v in net.state_dict().items():
        np.testing.assert_array_equal(v.numpy(), after[key].numpy(), err_msg="the trial moved running statistics")
    assert not np.array_equal(state["1.running_mean"].numpy(), after["1.running_mean"].numpy()), (
        "the forward moves them"
    )


@pytest.mark.slow
def test_recurrent_and_attention_models_are_right():
    minidl.manual_seed(0)
    x, y = minidl.randn(3, 5, 8), minidl.randint(0, 3, (3,))
    lstm, head = nn.LSTM(8, 6, batch_first=True, bidirectional=True), nn.Linear(12, 3)
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    for loss in (
        lambda: F.cross_entropy(head(lstm(x)[0][:, -1]), y),
        lambda: encoder(x).square().mean(),
        lambda: F.cross_entropy(DigitsCNN()(minidl.randn(2, 1, 8, 8)), minidl.tensor([1, 2])),
    ):
        found = minidl.trace(loss).blame()
        assert not found, str(found)
        assert all(v.verdict in (RIGHT, BENT) for v in found.verdicts), str(found)


def test_a_wrong_float32_backward_is_seen_where_float64_is_right():
    class twice(minidl.Op):
        def forward(ctx, x):
            ctx.single = x.dtype == np.float32
            return x * 2

        def backward(ctx, dy):
            return dy * (2.5 if ctx.single else 2)

    x = minidl.ones(40, requires_grad=True)
    found = minidl.trace(lambda: twice(x).sum()).blame()
    assert found.first.op == "twice"
    assert "it gave 2.5 for the gradient that arrived; in float64 that is 2" in found.first.reason


def test_the_first_wrong_node_its_module_and_line_are_named():
    class halved(minidl.Op):
        def forward(ctx, x):
            return x * 2

        def backward(ctx, dy):
            return dy

    class Half(nn.Module):
        def forward(self, x):
            return halved(x)  # here

    net = nn.Sequential(nn.Linear(3, 3), Half(), nn.Linear(3, 3), Half(), nn.Tanh())
    x = minidl.randn(2, 3)
    found = minidl.trace(lambda: net(x).sum()).blame()
    assert [(v.op, v.module) for v in found.wrong] == [("halved", "Sequential.3"), ("halved", "Sequential.1")]
    assert found.first.source.endswith("return halved(x)  # here")
    assert "The first wrong backward:\n  step 3, halved in Sequential.3 at test_inside_verdicts.py:" in str(found)
    assert "Sequential.1" in found._repr_html_()
    stopped = minidl.trace(lambda: net(x).sum()).blame(stop=True)
    assert len(stopped.verdicts) == 3


def test_one_wrong_element_among_thousands_is_found():
    class almost(minidl.Op):
        def forward(ctx, x):
            return x * 2

        def backward(ctx, dy):
            dy = dy * 2
            dy[7, 31] *= 1.01
            return dy

    x = minidl.randn(64, 64, requires_grad=True)
    found = minidl.trace(lambda: almost(x).sum()).blame()
    assert found.first.op == "almost"
    assert found.first.reason.startswith("at [7, 31] backward gives ")


def test_where_there_is_no_derivative_nobody_is_accused():
    x = minidl.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    found = minidl.trace(lambda: F.relu(x).sum()).blame()
    assert not found
    assert [v.verdict for v in found.verdicts] == [RIGHT, BENT]
    assert "its slopes on both sides differ at [1], where the input is 0" in str(found)
    zeros = minidl.zeros(30, 30, requires_grad=True)
    assert [v.verdict for v in minidl.trace(lambda: F.relu(zeros).sum()).blame().verdicts] == [RIGHT, BENT]
    tie = minidl.ones(3, requires_grad=True)
    assert not minidl.trace(lambda: tie.amax()).blame()


def test_curved_functions_are_not_accused():
    for values in ([1e-3, 1e-4], [1e-5, 3.0], [1e4, 1e-6]):
        x = minidl.tensor(values, dtype=minidl.float64, requires_grad=True)
        for f in (minidl.log, minidl.reciprocal, minidl.sqrt):
            found = minidl.trace(lambda f=f, x=x: f(x).sum()).blame()
            assert not found, str(found)


def test_what_cannot_be_judged_is_said():
    w = minidl.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"minidl.trace\(lambda: "):
        minidl.trace((w * 2).sum()).blame()
    before = w * 2
    found = minidl.trace(lambda: before.sum()).blame()
    assert [v.verdict for v in found.verdicts] == [RIGHT, UNKNOWN]
    assert "outside of the function" in str(found)
    found = minidl.trace(lambda: (w - 1).log().sum()).blame()
    assert [v.verdict for v in found.verdicts][1] == UNKNOWN
    hard = minidl.tensor([1.0, 0.0, 0.0])
    found = minidl.trace(lambda: minidl.autograd.TABLE["straight_through"](w, hard).sum()).blame()
    assert [v.verdict for v in found.verdicts] == [RIGHT, APART]


def test_functions_written_for_torch_are_tried_too():
    class Cube(minidl.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return dy * factor * x**2

    x = minidl.tensor([1.0, 2.0], requires_grad=True)
    factor = 3
    assert not minidl.trace(lambda: Cube.apply(x).sum()).blame()
    factor = 2
    assert minidl.trace(lambda: Cube.apply(x).sum()).blame().first.op == "CubeBackward"


def test_changes_in_place_are_tried_on_the_values_that_were_there():
    x = minidl.randn(3, 4, requires_grad=True)

    def loss():
        y = x * 2
        y[0] = y[1].exp()
        y += 1
        y[:, 1:].mul_(3.0)
        return (y * y).sum()

    found = minidl.trace(loss).blame()
    assert {v.verdict for v in found.verdicts} == {RIGHT}, str(found)
