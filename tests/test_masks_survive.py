"""A pruned weight stays exactly 0: under every optimizer, with momentum and decay, averaged, copied, saved, resumed."""

import copy
import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import nn, optim, random
from minidl.compress import Pruner, cubic, load_model, masks, nm_mask, prune_, save_model
from minidl.optim.swa_utils import AveragedModel, get_ema_avg_fn
from minidl.tensors import wrap
from minidl.train import Callback, Checkpoint, Prune, fit

OPTIMIZERS = {
    name: page
    for name, page in vars(optim).items()
    if inspect.isclass(page) and issubclass(page, optim.Optimizer) and page is not optim.Optimizer
}
EXTRAS = {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True, "amsgrad": True, "centered": True}


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def data():
    return wrap(random.normal((12, 6)).astype(np.float32)), wrap(np.arange(12) % 3)


def options(page):
    """With everything switched on that stores or adds something: momentum, decay."""
    taken = inspect.signature(page).parameters
    return {k: v for k, v in EXTRAS.items() if k in taken} | ({"lr": 0.05} if "lr" in taken else {})


def revived(model):
    return sum(int(np.count_nonzero(model.get_parameter(n).array[~m])) for n, m in masks(model).items())


def made(page, model):
    if page is optim.Muon:  # for matrices only
        return page([p for p in model.parameters() if p.ndim == 2], **options(page))
    return page(model.parameters(), **options(page))


def take(model, optimizer, steps):
    x, y = data()

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


def test_there_are_all_of_them():
    assert len(OPTIMIZERS) >= 16
    assert {"SGD", "Adam", "AdamW", "LBFGS", "Muon", "Lion", "ASGD"} <= set(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
@settings(max_examples=4)
@given(st.integers(0, 2**20), st.sampled_from([0.3, 0.8, 0.95]), st.integers(0, 3))
def test_no_weight_is_revived(name, seed, share, before):
    """Steps before pruning fill momenta with what would carry a weight away from 0."""
    random.manual_seed(seed)
    model = net()
    optimizer = made(OPTIMIZERS[name], model)
    take(model, optimizer, before)
    prune_(model, share)
    assert masks(model)
    kept = {n: model.get_parameter(n).array[m].copy() for n, m in masks(model).items()}
    take(model, optimizer, 3)
    assert revived(model) == 0
    assert any((model.get_parameter(n).array[m] != kept[n]).any() for n, m in masks(model).items())


def test_a_mask_on_the_gradient_only_would_not_do():
    """What the test above would see if optimizers forgot the masks: momentum revives weights in one step."""
    model = net()
    sgd = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    take(model, sgd, 3)
    prune_(model, 0.8)
    dropped = {n: ~m for n, m in masks(model).items()}
    for p in model.parameters():
        p.mask = None
    x, y = data()
    sgd.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    for n, m in dropped.items():
        model.get_parameter(n).grad.array[m] = 0
    sgd.step()
    assert all(np.count_nonzero(model.get_parameter(n).array[m]) > 0.9 * m.sum() for n, m in dropped.items())


def test_large_weights_step_in_compiled_calls_and_stay_zero():
    """Large parameters go another way through the optimizer than small ones."""
    model = nn.Sequential(nn.Linear(256, 300), nn.Tanh(), nn.Linear(300, 3))
    prune_(model, 0.9)
    x, y = wrap(random.normal((12, 256)).astype(np.float32)), wrap(np.arange(12) % 3)
    for page in (optim.SGD, optim.Adam, optim.AdamW):
        optimizer = page(model.parameters(), **options(page))
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        assert revived(model) == 0


def test_an_average_a_copy_and_a_file_stay_pruned(tmp_path):
    model = net()
    adam = optim.AdamW(model.parameters(), lr=0.05)
    average = AveragedModel(model, avg_fn=get_ema_avg_fn(0.9))
    take(model, adam, 2)
    average.update_parameters(model)
    prune_(model, 0.8)
    for _ in range(3):
        take(model, adam, 1)
        average.update_parameters(model)
        assert revived(average.module) == 0
        assert set(masks(average.module)) == set(masks(model))
    twin = copy.deepcopy(model)
    assert all((masks(twin)[n] == m).all() and masks(twin)[n] is not m for n, m in masks(model).items())
    take(twin, optim.SGD(twin.parameters(), lr=0.1, momentum=0.9), 3)
    assert revived(twin) == 0
    save_model(model, tmp_path / "net.safetensors")
    again = load_model(net, tmp_path / "net.safetensors")
    take(again, optim.Adam(again.parameters(), lr=0.1), 3)
    assert masks(again)
    assert revived(again) == 0
    other = net()
    other.load_state_dict(model.state_dict())
    take(other, optim.Adam(other.parameters(), lr=0.1), 3)
    assert masks(other)
    assert revived(other) == 0


class Killed(Callback):
    armed = True

    def on_step(self, run):
        if run.step == 7 and self.armed:
            raise KeyboardInterrupt


@pytest.mark.parametrize("page", [optim.SGD, optim.Adam])
def test_a_resumed_training_goes_on_pruning_to_the_same_bits(tmp_path, page):
    x, y = data()

    killed = Killed()

    def run(path, resume):
        random.manual_seed(5)
        model = net()
        pruner = Pruner(model, lambda t: cubic(t, 1, 14, 0.75))
        try:
            fit(
                model, (x, y), loss=nn.functional.cross_entropy, optimizer=made(page, model), epochs=6, batch_size=4,
                checkpoint=Checkpoint(path, every=1), resume=resume, callbacks=[Prune(pruner), killed],
                progress=False,
            )  # fmt: skip
        except KeyboardInterrupt:
            return None
        return model

    assert run(tmp_path / "cut.safetensors", False) is None
    killed.armed = False
    whole = run(tmp_path / "whole.safetensors", False)
    resumed = run(tmp_path / "cut.safetensors", True)
    assert revived(resumed) == 0
    assert 1 - np.mean(np.concatenate([m.ravel() for m in masks(resumed).values()])) == pytest.approx(0.75, abs=0.01)
    for a, b in zip(whole.parameters(), resumed.parameters()):
        assert (a.array == b.array).all()
        assert (a.mask is None and b.mask is None) or (a.mask == b.mask).all()
    with pytest.raises(ValueError, match="another model"):
        fit(
            net_ := net(), (x, y), loss=nn.functional.cross_entropy, optimizer=made(page, net_), progress=False,
            callbacks=[Prune(Pruner(whole, lambda t: 0.5))],
        )  # fmt: skip


# -- bad input --------------------------------------------------------------------------------------------------------


def test_bad_masks_change_nothing():
    p = net()[0].weight
    before = p.array.copy()
    for bad, message in (
        (np.ones((8, 5), bool), r"mask has shape \(8, 5\), the parameter \(8, 6\)"),
        (np.ones(48, bool), "mask has shape"),
        (np.full((8, 6), 2.0), "only 0 .* and 1"),
        (np.full((8, 6), np.nan), "only 0 .* and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            p.mask = bad
    assert p.mask is None
    assert (p.array == before).all()


def test_pruning_twice_is_the_larger_of_both_and_never_less():
    model = net()
    prune_(model, rule=lambda w: nm_mask(w, 1, 2))
    first = masks(model)
    prune_(model, 0.5)  # nothing to do: half is gone
    assert all((masks(model)[n] == m).all() for n, m in first.items())
    prune_(model, 0.75)
    assert all(not (masks(model)[n] & ~m).any() for n, m in first.items())


def test_infinite_weights_are_the_largest_and_zeros_stay_zeros():
    model = net()
    model[0].weight.array[0, 0] = np.inf
    model[0].weight.array[1, 1] = -np.inf
    model[0].weight.array[2] = 0
    prune_(model, 0.9)
    assert model[0].weight.mask[0, 0]
    assert model[0].weight.mask[1, 1]
    model[0].weight.mask = np.zeros((8, 6), bool)
    model[0].weight.apply_mask_()
    assert (model[0].weight.array == 0).all()  # not NaN, which 0 times infinity is
