"""Pruning: the rules on arrays, and models that stay what they are while their weights go."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidl import nn, optim, random
from minidl.compress import (
    fan_in_mask,
    magnitude_mask,
    magnitude_masks,
    masks,
    prune_,
    quantize_,
    random_mask,
    remove_masks_,
    rms_mask,
    sparsity,
)
from minidl.tensors import wrap

weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6),
    elements=st.floats(-4, 4, width=32),
)
shares = st.floats(0, 1, exclude_max=True)


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


# -- rules ------------------------------------------------------------------------------------------------------------


@given(weights, shares)
def test_magnitude_drops_exactly_the_smallest(w, share):
    mask = magnitude_mask(w, share)
    assert mask.shape == w.shape
    assert mask.dtype == bool
    assert (~mask).sum() == round(share * w.size)
    if mask.any() and not mask.all():
        assert abs(w[~mask]).max() <= abs(w[mask]).min()


@given(weights, shares, st.integers(0, 2**32))
def test_random_drops_exactly_that_many(w, share, seed):
    first = random_mask(w.shape, share, random.Generator(seed))
    assert (~first).sum() == round(share * w.size)
    assert (first == random_mask(w.shape, share, random.Generator(seed))).all()


@given(weights, shares, shares)
def test_what_was_dropped_goes_first(w, one, two):
    one, two = sorted((one, two))
    for rule in (magnitude_mask, lambda w, share, mask=None: random_mask(w.shape, share, None, mask)):
        first = rule(w, one)
        second = rule(w, two, first)
        assert not (second & ~first).any()
        assert (~second).sum() == round(two * w.size)


def test_ties_go_in_order_and_signs_do_not_matter():
    assert magnitude_mask(np.float32([1, -1, 1, -1]), 0.5).tolist() == [False, False, True, True]
    assert magnitude_mask(np.float32([-3, 2, -1, 0]), 0.5).tolist() == [True, True, False, False]


def test_global_compares_all_layers():
    small, large = np.full((2, 3), 0.1, np.float32), np.full((3, 2), 1.0, np.float32)
    first, second = magnitude_masks([small, large], 0.5)
    assert not first.any()
    assert second.all()
    assert magnitude_masks([], 0.5) == []


@given(weights.filter(lambda w: w.ndim >= 2 and w.size), st.floats(0, 3))
def test_threshold_rules_are_their_formulas(w, lam):
    norm = math.sqrt(sum(float(v) ** 2 for v in w.ravel()))
    fan_in = math.prod(w.shape[1:])
    # the same numbers up to the rounding of a sum of squares: compare away from the threshold
    for mask, tau in (
        (fan_in_mask(w, lam), lam * norm / fan_in),
        (rms_mask(w, lam), lam * norm / math.sqrt(w.size)),
    ):
        assert mask[abs(w) > tau * (1 + 1e-6)].all()
        assert not mask[abs(w) < tau * (1 - 1e-6)].any()


def test_the_fan_in_rule_keeps_the_large_weights():
    """The rule as it is often written down keeps |w| < threshold, which throws the network away."""
    w = random.Generator(3).normal((64, 256)).astype(np.float32)
    mask = fan_in_mask(w, 0.01)
    assert mask.mean() > 0.98
    assert abs(w[mask]).min() > abs(w[~mask]).max()


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, math.nan, math.inf, "0.5", None, True])
def test_sparsity_outside_its_range(share):
    with pytest.raises(ValueError, match="sparsity must be a number in"):
        magnitude_mask(np.ones((2, 2), np.float32), share)
    with pytest.raises(ValueError, match="sparsity must be a number in"):
        random_mask((2, 2), share)


def test_bad_weights_and_thresholds():
    w = np.float32([[1, 2], [np.nan, 4]])
    for rule in (lambda: magnitude_mask(w, 0.5), lambda: fan_in_mask(w, 1.0), lambda: rms_mask(w, 1.0)):
        with pytest.raises(ValueError, match=r"holds NaN, the first at \[1, 0\]"):
            rule()
    with pytest.raises(ValueError, match="lambda must be 0 or more"):
        rms_mask(np.ones(3, np.float32), math.nan)
    with pytest.raises(ValueError, match="needs a weight"):
        fan_in_mask(np.ones(3, np.float32), 1.0)


# -- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("rule", ["magnitude", "random"])
def test_prune_keeps_objects_names_and_biases(scope, rule):
    model = net()
    before = dict(model.named_parameters())
    biases = {name: p.array.copy() for name, p in before.items() if name.endswith("bias")}
    arrays = {name: p.array for name, p in before.items()}
    assert prune_(model, 0.75, scope=scope, rule=rule) is model
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] and after[name].array is arrays[name] for name in before)
    assert all((after[name].array == b).all() and after[name].mask is None for name, b in biases.items())
    kept = masks(model)
    assert set(kept) == {"0.weight", "3.weight", "5.weight"}
    assert all(not after[name].array[~mask].any() for name, mask in kept.items())
    total = sum(m.size for m in kept.values())
    assert sum((~m).sum() for m in kept.values()) == round(0.75 * total)
    assert sparsity(model) == pytest.approx(0.75, abs=1 / total)
    if scope == "layer":
        assert all((~m).sum() == round(0.75 * m.size) for m in kept.values())


def test_pruned_weights_stay_zero_through_training_with_momentum():
    """Masking gradients alone lets momentum revive weights; masks are applied after the update."""
    model = net()
    opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = wrap(random.normal((6, 1, 4, 4))), wrap(np.array([0, 1, 2, 0, 1, 2]))

    def step():
        opt.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        opt.step()

    for _ in range(3):
        step()
    state = {id(p): id(opt.state[p]["momentum_buffer"]) for p in model.parameters()}
    prune_(model, 0.8)
    kept = {name: (p, p.array[p.mask].copy()) for name, p in model.named_parameters() if p.mask is not None}
    for _ in range(5):
        step()
    assert {id(p): id(opt.state[p]["momentum_buffer"]) for p in model.parameters()} == state
    for p, _ in kept.values():
        assert not p.array[~p.mask].any()
    assert any((p.array[p.mask] != values).any() for p, values in kept.values())


def test_pruning_in_steps_never_brings_a_weight_back():
    model = net()
    prune_(model, 0.5, rule="random")
    first = {name: m.copy() for name, m in masks(model).items()}
    prune_(model, 0.8)
    second = masks(model)
    assert all(not (second[name] & ~first[name]).any() for name in first)
    assert sparsity(model) == pytest.approx(0.8, abs=0.01)
    prune_(model, 0.3)
    assert sparsity(model) == pytest.approx(0.8, abs=0.01)


def test_a_function_as_rule_and_names_to_skip():
    model = net()
    prune_(model, rule=lambda w: rms_mask(w, 1.0), skip=["0", "5.*"])
    assert set(masks(model)) == {"3.weight"}
    w = model[3].weight
    assert (w.mask == (w.array != 0)).all()
    assert 0 < w.mask.mean() < 1


def test_removing_masks_leaves_the_zeros():
    model = quantize_(prune_(net(), 0.8), skip="5")
    assert remove_masks_(model) is model
    assert masks(model) == {}
    assert model[3].weight.array.mask is None
    assert 0.79 < sparsity(model) < 0.9


def test_errors_leave_the_model_as_it_was():
    model = net()
    before = {name: p.array.copy() for name, p in model.named_parameters()}
    bad = [
        (dict(sparsity=1.0), ValueError, "sparsity"),
        (dict(scope="column"), ValueError, "scope must be"),
        (dict(rule="best"), ValueError, "rule must be"),
        (dict(skip="6.weight"), ValueError, "nothing is called '6.weight'"),
        (dict(skip=["0", "3", "5"]), ValueError, "no weights to prune"),
        (dict(sparsity=0.5, rule=lambda w: w > 0), ValueError, "leave sparsity out"),
        (dict(rule=lambda w: w), ValueError, "bool mask"),
        (dict(rule=lambda w: w[0] > 0), ValueError, "bool mask"),
    ]
    for arguments, error, message in bad:
        with pytest.raises(error, match=message):
            prune_(model, **arguments)
    model[5].weight.array[0, 0] = before["5.weight"][0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN") as caught:
        prune_(model, 0.5, scope="layer")
    assert "while pruning 5.weight" in caught.value.__notes__
    assert masks(model) == {}
    assert all(np.array_equal(p.array, before[name], equal_nan=True) for name, p in model.named_parameters())


def test_packed_weights_are_refused_with_advice():
    with pytest.raises(TypeError, match=r"0\.weight is packed as int8.*dequantize_"):
        prune_(quantize_(net()), 0.5)
