"""Averages of lists of weights, their schedule, and the statistics of averaged models, against torch."""

import numpy as np
import pytest
import torch

import minidl
from minidl import nn, optim

LIBS = (minidl, minidl.nn, minidl.optim.swa_utils), (torch, torch.nn, torch.optim.swa_utils)


@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("decay", [None, 0.9])
def test_averages_of_lists_are_the_averages(decay, use_buffers):
    """The same operations in the same order as avg_fn's, so the same bits."""
    utils = optim.swa_utils
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    single = utils.get_swa_avg_fn() if decay is None else utils.get_ema_avg_fn(decay)
    several = utils.get_swa_multi_avg_fn() if decay is None else utils.get_ema_multi_avg_fn(decay)
    a = utils.AveragedModel(model, None, single, None, use_buffers)
    b = utils.AveragedModel(model, None, None, several, use_buffers)
    rng = np.random.default_rng(0)
    for _ in range(4):
        for t in [*model.parameters(), *model.buffers()]:
            t.array[...] = 3 * rng.standard_normal(t.shape)
        a.update_parameters(model), b.update_parameters(model)
    assert list(a.state_dict()) == list(b.state_dict())
    for x, y in zip(a.state_dict().values(), b.state_dict().values()):
        np.testing.assert_array_equal(x.numpy(), y.numpy())
    assert not np.array_equal(a.module[0].weight.detach().numpy(), model[0].weight.detach().numpy())
    with pytest.raises(AssertionError, match="Only one of"):
        utils.AveragedModel(model, avg_fn=single, multi_avg_fn=several)
    with pytest.raises(ValueError, match="Invalid decay value"):
        utils.get_ema_multi_avg_fn(2)


@pytest.mark.parametrize("options", [
    {"swa_lr": 0.05}, {"swa_lr": [0.05, 0.4], "anneal_epochs": 4, "anneal_strategy": "linear"},
    {"swa_lr": 0.05, "anneal_epochs": 0}, {"swa_lr": 0.05, "anneal_epochs": 3, "anneal_strategy": "cos"},
])  # fmt: skip
@pytest.mark.parametrize("chained", [False, True])
def test_swalr_is_torchs(options, chained):
    """Each step divides by 1 - a and multiplies by it again: a few roundings a step, far below 1e-12."""
    paths = []
    for lib, layers, utils in LIBS:
        groups = [{"params": layers.Linear(2, 2).parameters(), "lr": lr} for lr in (0.2, 0.1)]
        optimizer = lib.optim.SGD(groups, lr=0.1)
        other = lib.optim.lr_scheduler.ExponentialLR(optimizer, 0.9) if chained else None
        scheduler = utils.SWALR(optimizer, **options)
        seen = [[g["lr"] for g in optimizer.param_groups]]
        for step in range(14):
            optimizer.step()
            if chained and step < 3:
                other.step()
            else:
                scheduler.step()
            seen.append([g["lr"] for g in optimizer.param_groups])
            if step == 5:
                state = scheduler.state_dict()
                scheduler = utils.SWALR(optimizer, **options)
                scheduler.load_state_dict(state)
        assert scheduler.get_last_lr() == seen[-1]
        paths.append(seen)
    np.testing.assert_allclose(*paths, rtol=1e-12)


def test_swalr_refuses_what_torch_refuses():
    for lib, layers, utils in LIBS:
        optimizer = lib.optim.SGD(layers.Linear(2, 2).parameters(), lr=0.1)
        for options, message in [
            ({"anneal_strategy": "step"}, "anneal_strategy must be one of"), ({"anneal_epochs": -1}, "anneal_epochs"),
            ({"anneal_epochs": 1.5}, "anneal_epochs"), ({"swa_lr": [0.1, 0.2]}, "swa_lr"),
        ]:  # fmt: skip
            with pytest.raises(ValueError, match=message):
                utils.SWALR(optimizer, **{"swa_lr": 0.1, **options})


@pytest.mark.parametrize("kind", ["tensor", "list", "tuple"])
def test_update_bn_is_torchs(kind):
    """Means of 3 batches of 5: at most 20 roundings of numbers of size 10 in float32."""
    rng = np.random.default_rng(1)
    batches = [rng.standard_normal((5, 3, 4)).astype(np.float32) * 2 + 1 for _ in range(3)]
    stats = []
    for lib, layers, utils in LIBS:
        model = layers.Sequential(layers.BatchNorm1d(3, momentum=0.3), layers.ReLU(), layers.BatchNorm1d(3)).eval()
        model[0](lib.tensor(batches[0])), model.train()(lib.tensor(batches[1])), model.eval()
        data = [lib.tensor(b) if kind == "tensor" else [lib.tensor(b), 0] for b in batches]
        data = [tuple(b) for b in data] if kind == "tuple" else data
        utils.update_bn(data, model, "cpu" if kind == "list" else None)
        assert not model.training
        assert [m.momentum for m in (model[0], model[2])] == [0.3, 0.1]
        stats.append({k: v.detach().numpy() for k, v in model.state_dict().items()})
    assert list(stats[0]) == list(stats[1])
    for k, ours in stats[0].items():
        np.testing.assert_allclose(ours, stats[1][k], rtol=0, atol=20 * 6e-8 * 10, err_msg=k)
    assert stats[0]["0.num_batches_tracked"] == 3


def test_update_bn_puts_things_back_after_an_error_and_leaves_others_alone():
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=0.3))
    with pytest.raises(ValueError, match="expected 2D or 3D"):
        optim.swa_utils.update_bn([minidl.ones(3)], model)
    assert model[0].momentum == 0.3
    assert model.training
    plain = nn.Linear(2, 2)
    optim.swa_utils.update_bn([None], plain)  # nothing to do: the data is not read
