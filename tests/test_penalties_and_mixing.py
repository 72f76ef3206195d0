"""Penalties against their formulas; MixUp and CutMix: blends, labels, shares, the distribution of the share."""

import math

import numpy as np
import pytest
import torch

import minidl
from minidl import nn
from minidl.data.mixing import CutMix, MixUp, beta


def test_penalties_and_their_gradients():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    flat = np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])
    for penalty, value, slope in (
        (lambda m: nn.l1_penalty(m, 0.3), 0.3 * np.abs(flat).sum(), 0.3 * np.sign(flat)),
        (lambda m: nn.l2_penalty(m, 0.3), 0.3 * (flat**2).sum(), 0.6 * flat),
        (lambda m: nn.elastic_penalty(m, 0.3, 0.2), 0.3 * np.abs(flat).sum() + 0.2 * (flat**2).sum(),
         0.3 * np.sign(flat) + 0.4 * flat),
        (lambda m: nn.elastic_penalty(m.parameters()), 0.01 * (np.abs(flat) + flat**2).sum(),
         0.01 * np.sign(flat) + 0.02 * flat),
    ):  # fmt: skip
        model.zero_grad()
        y = penalty(model)
        assert y.item() == pytest.approx(value, rel=1e-13)
        y.backward()
        np.testing.assert_allclose(
            np.concatenate([p.grad.numpy().ravel() for p in model.parameters()]), slope, rtol=1e-13
        )
    w = minidl.tensor([1.0, -2.0], requires_grad=True)
    assert nn.l2_penalty(w, 1).item() == 5
    for bad in (
        lambda: nn.l1_penalty(w, -1),
        lambda: nn.l2_penalty(w, float("nan")),
        lambda: nn.elastic_penalty([], 1, 1),
    ):
        with pytest.raises(ValueError, match="negative|at least one"):
            bad()


def test_l2_is_half_the_weight_decay_of_sgd():
    ends = []
    for decay in (False, True):
        w = minidl.tensor([1.0, -2.0], requires_grad=True)
        optimizer = minidl.optim.SGD([w], 0.1, weight_decay=0.6 if decay else 0)
        for _ in range(3):
            optimizer.zero_grad()
            loss = (w * minidl.tensor([3.0, 1.0])).sum()
            (loss if decay else loss + nn.l2_penalty(w, 0.3)).backward()
            optimizer.step()
        ends.append(w.detach().numpy())
    np.testing.assert_allclose(*ends, rtol=1e-6)


@pytest.mark.parametrize(("a", "b"), [(0.05, 0.05), (0.5, 0.5), (1.0, 1.0), (2.0, 5.0), (30.0, 10.0)])
def test_the_share_is_beta_distributed(a, b):
    """Mean and variance within 5 standard errors; the distribution function at five points, too."""
    g, n = minidl.random.Generator(7), 3000
    x = np.array([beta(a, b, g) for _ in range(n)])
    mean, var = a / (a + b), a * b / ((a + b) ** 2 * (a + b + 1))
    assert abs(x.mean() - mean) <= 5 * math.sqrt(var / n)
    assert abs(x.var() - var) <= 5 * math.sqrt(((x - mean) ** 4).mean() / n)
    torch.manual_seed(0)
    y = (
        torch.distributions.Beta(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
        .sample((200_000,))
        .numpy()
    )
    for q in np.quantile(y, [0.1, 0.3, 0.5, 0.7, 0.9]):
        p = (y <= q).mean()
        assert abs((x <= q).mean() - p) <= 5 * math.sqrt(p * (1 - p) * (1 / n + 1 / len(y))) + 1e-9


def batch(n=6, shape=(2, 8, 8)):
    x = np.arange(1, n + 1, dtype=np.float64).reshape(-1, *(1,) * len(shape)) * np.ones(shape)
    return minidl.tensor(x), minidl.tensor(np.arange(n) % 3)


def test_mixup_blends_inputs_and_labels_alike():
    x, y = batch()
    minidl.random.manual_seed(3)
    u, v = MixUp(0.4, num_classes=3)(x, y)
    onehot = np.eye(3)[y.numpy()]
    share = (u.numpy()[1, 0, 0, 0] - 1) / (2 - 1)  # example 1 is 2, its partner 1
    assert 0 <= share <= 1
    np.testing.assert_allclose(u.numpy(), share * x.numpy() + (1 - share) * np.roll(x.numpy(), 1, 0), rtol=1e-12)
    np.testing.assert_allclose(v.numpy(), share * onehot + (1 - share) * np.roll(onehot, 1, 0), atol=1e-12)
    minidl.random.manual_seed(3)
    again = MixUp(0.4)(x, minidl.tensor(onehot))  # labels that are probabilities already
    np.testing.assert_array_equal(again[1].numpy(), v.numpy())
    assert v.dtype == x.dtype
    np.testing.assert_array_equal(x.numpy(), batch()[0].numpy())
    assert repr(MixUp(0.4, 3)) == "MixUp(alpha=0.4, num_classes=3)"


@pytest.mark.parametrize("shape", [(2, 9, 7), (9, 7)])
def test_cutmix_puts_a_rectangle_in_and_counts_its_area(shape):
    g = minidl.random.Generator(1)
    mix, areas = CutMix(num_classes=3, generator=g), []
    x, y = batch(6, shape)
    onehot = np.eye(3)[y.numpy()]
    for _ in range(40):
        u, v = mix(x, y)
        theirs = u.numpy() == np.roll(x.numpy(), 1, 0)
        assert (theirs | (u.numpy() == x.numpy())).all()
        box = theirs.reshape(-1, *shape[-2:])
        assert (box == box[0]).all()
        rows, columns = box[0].any(1), box[0].any(0)
        assert (box[0] == rows[:, None] & columns).all()
        for line in (rows, columns):
            assert np.abs(np.diff(line.astype(int))).sum() <= 2  # one stretch
        share = 1 - box[0].mean()
        np.testing.assert_allclose(v.numpy(), share * onehot + (1 - share) * np.roll(onehot, 1, 0), atol=1e-12)
        areas.append(box[0].mean())
    assert min(areas) < 0.1
    assert max(areas) > 0.4


def test_mixed_labels_train():
    x, y = batch(4, (3,))
    model = nn.Linear(3, 3).double()
    u, v = MixUp(num_classes=3)(x, y)
    nn.CrossEntropyLoss()(model(u), v).backward()
    assert model.weight.grad.abs().sum().item() > 0


def test_what_is_refused():
    x, y = batch()
    for bad, message in (
        (lambda: MixUp(0), "alpha should be positive"), (lambda: CutMix(-1), "alpha should be positive"),
        (lambda: MixUp()(x, y), "num_classes"), (lambda: MixUp(num_classes=3)(x, y[:3]), "6 inputs and 3 labels"),
        (lambda: CutMix(num_classes=3)(x[:, 0, 0], y), "batch of floats"),
        (lambda: MixUp(num_classes=3)(x.long(), y), "batch of floats"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            bad()
