"""Transfer and distillation: what is frozen stays to the last bit, whoever trains; what is taught arrives."""

import copy

import numpy as np
import pytest
import torch

from minidl import nn, optim, random
from minidl.compress import Distillation, distillation_loss, freeze_, groups_by_depth, new_head_, swap_, unfreeze_
from minidl.tensors import wrap
from minidl.train import fit


def net():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)), nn.Flatten(), nn.Linear(16, 5)
    )


def data(n=24, classes=3):
    x = random.normal((n, 1, 4, 4)).astype(np.float32)
    return x, np.arange(n) % classes


def bits(model):
    return {n: t.array.tobytes() for n, t in [*model.named_parameters(), *model.named_buffers()]}


@pytest.mark.parametrize("by", ["fit", "loop"])
@pytest.mark.parametrize("page", [optim.SGD, optim.AdamW])
def test_a_frozen_body_is_bit_unchanged(by, page):
    """Weights, biases and running statistics, under momentum and decay, in training mode; only the head moves."""
    model = net()
    new_head_(model, 3)
    freeze_(model, "0")
    before = bits(model)
    x, y = data()
    how = {"momentum": 0.9} if page is optim.SGD else {}
    optimizer = page(model.parameters(), lr=0.1, weight_decay=0.1, **how)
    if by == "fit":
        fit(model, (x, y), loss=nn.functional.cross_entropy, optimizer=optimizer, epochs=2, progress=False)
    else:
        model.train()
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(wrap(x)), wrap(y)).backward()
            optimizer.step()
    after = bits(model)
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {"2.weight", "2.bias"}


def test_what_is_thawed_moves_again():
    model = net()
    freeze_(model)
    assert not any(p.requires_grad for p in model.parameters())
    unfreeze_(model, ["0.1", "2"])
    thawed = [n for n, p in model.named_parameters() if p.requires_grad]
    assert thawed == ["0.1.weight", "0.1.bias", "2.weight", "2.bias"]
    x, _ = data()
    before = bits(model)
    model.train()
    model(wrap(x))
    assert bits(model)["0.1.running_mean"] != before["0.1.running_mean"]
    assert model[0][3].training is False  # the dropout is frozen still
    twin = copy.deepcopy(freeze_(model, "0.1"))
    before = bits(twin)
    twin.train()
    twin(wrap(x))
    assert bits(twin) == before


def test_a_layer_that_is_assigned_is_shared_and_a_copy_is_not():
    """The mistake of the literature's sample: the pretrained net learns the new task."""
    body = nn.Linear(4, 4)
    for taken, changed in ((body, True), (copy.deepcopy(body), False)):
        before = bits(body)
        model = nn.Sequential(taken, nn.Linear(4, 2))
        sgd = optim.SGD(model.parameters(), lr=0.1)
        nn.functional.cross_entropy(model(wrap(np.ones((2, 4), np.float32))), wrap(np.array([0, 1]))).backward()
        sgd.step()
        assert (bits(body) != before) is changed


def test_rates_fall_with_depth_and_frozen_layers_are_left_out():
    model = net()
    freeze_(model, "0.0")
    groups = groups_by_depth(model, 0.1, decay=0.5)
    assert [(g["name"], g["lr"], len(g["params"])) for g in groups] == [("0.1", 0.05, 2), ("2", 0.1, 2)]
    before = {n: p.array.copy() for n, p in model.named_parameters()}
    for p in model.parameters():
        if p.requires_grad:
            p.grad = wrap(np.ones(p.shape, np.float32))
    optim.SGD(groups, lr=1.0).step()
    steps = {n: float((before[n] - p.array).max()) for n, p in model.named_parameters()}
    # one float32 subtraction of numbers near 1
    assert steps == pytest.approx(
        {"0.0.weight": 0, "0.0.bias": 0, "0.1.weight": 0.05, "0.1.bias": 0.05, "2.weight": 0.1, "2.bias": 0.1}, abs=1e-6
    )


def test_transfer_beats_a_fresh_net_on_few_examples():
    """Taught to tell which half of the image is brighter, a net learns the opposite question from 8 examples."""
    x = random.normal((400, 1, 4, 4)).astype(np.float32)
    y = (x[:, :, :2].mean((1, 2, 3)) > x[:, :, 2:].mean((1, 2, 3))).astype(np.int64)
    loss = nn.functional.cross_entropy

    def trained(model, n, labels, params):
        optimizer = optim.Adam(params, lr=0.02)
        fit(model, (x[:n], labels[:n]), loss=loss, optimizer=optimizer, epochs=3200 // max(n, 80), progress=False)
        model.eval()
        return float((model(wrap(x[200:])).array.argmax(1) == labels[200:]).mean())

    make = lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 2))
    teacher = make()
    assert trained(teacher, 200, y, teacher.parameters()) > 0.9
    body = copy.deepcopy(teacher)
    new_head_(body, 2)
    freeze_(body, "1")
    moved, fresh = trained(body, 8, 1 - y, body.parameters()), make()
    assert moved > trained(fresh, 8, 1 - y, fresh.parameters()) + 0.05


def test_bad_names_and_rates():
    model = net()
    for call, error, message in (
        (lambda: freeze_(model, "body"), ValueError, "nothing is called 'body'; the modules are 0, 0.0"),
        (lambda: unfreeze_(model, ["0", "7.*"]), ValueError, "nothing is called '7"),
        (lambda: new_head_(model, 0), ValueError, "at least one class"),
        (lambda: new_head_(nn.Sequential(nn.ReLU()), 3), ValueError, "holds no Linear"),
        (lambda: swap_(model, "5", nn.ReLU()), AttributeError, "5"),
        (lambda: groups_by_depth(model, 0), ValueError, "must be positive"),
        (lambda: groups_by_depth(freeze_(net()), 0.1), ValueError, "every parameter is frozen"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert all(p.requires_grad for p in model.parameters())


# -- distillation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.0), (1.0, 1.0), (4.0, 0.9), (2.5, 0.3)])
def test_the_loss_is_its_formula(temperature, alpha):
    s, t, y = random.normal((6, 5)), random.normal((6, 5)), np.arange(6) % 5
    a, b = torch.tensor(s, requires_grad=True), torch.tensor(t)
    soft = torch.nn.functional.softmax(b / temperature, 1)
    mine = torch.nn.functional.log_softmax(a / temperature, 1)
    want = alpha * temperature**2 * (soft * (soft.log() - mine)).sum(1).mean()
    want = want + (1 - alpha) * torch.nn.functional.cross_entropy(a, torch.tensor(y))
    want.backward()
    x = wrap(s.copy()).requires_grad_()
    found = distillation_loss(x, wrap(t), wrap(y), temperature, alpha)
    found.backward()
    assert found.item() == pytest.approx(want.item(), rel=1e-5)
    np.testing.assert_allclose(x.grad.array, a.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_a_student_learns_from_a_teacher_without_labels_and_the_teacher_stays():
    x, y = data(60)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train()
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    before = bits(teacher)
    loss = Distillation(student, teacher, alpha=1.0)
    optimizer = optim.Adam(student.parameters(), lr=0.05)
    history = fit(student, (x, y), loss=loss, optimizer=optimizer, epochs=25, validation=(x, y), progress=False)
    assert bits(teacher) == before
    assert teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    teacher.eval()
    agree = (student(wrap(x)).array.argmax(1) == teacher(wrap(x)).array.argmax(1)).mean()
    assert agree > 0.9
    assert history["val_loss"][-1] < 0.3 * history["val_loss"][0]
    loss.stop()
    assert not student._forward_pre_hooks


def test_distillation_refuses():
    x = wrap(np.ones((2, 3), np.float32))
    for call, error, message in (
        (lambda: distillation_loss(x, x, temperature=0), ValueError, "temperature must be positive"),
        (lambda: distillation_loss(x, x, alpha=1.5), ValueError, "alpha in"),
        (lambda: distillation_loss(x, wrap(np.ones((2, 4), np.float32))), ValueError, "same classes"),
        (lambda: Distillation(nn.Linear(3, 3), nn.Linear(3, 3))(x, None), RuntimeError, "call the student first"),
    ):
        with pytest.raises(error, match=message):
            call()
