"""The rules of pruning against their definitions, written out by brute force."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidl import nn, optim, random
from minidl.compress import (
    Movement,
    Pruner,
    block_mask,
    channel_mask,
    cubic,
    head_mask,
    magnitude_mask,
    masks,
    nm_mask,
    output_norms,
    prune_,
    rewind_,
    rounds,
    snip,
    sparsity,
    taylor,
    wanda,
)
from minidl.tensors import wrap

matrices = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.floats(-4, 4, width=32)
)


def data(n=12):
    x = random.normal((n, 6)).astype(np.float32)
    return wrap(x), wrap(np.arange(n) % 3)


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


# -- patterns ---------------------------------------------------------------------------------------------------------


@given(st.data())
def test_n_of_m_keeps_the_largest_of_each_group(draw):
    m = draw.draw(st.integers(1, 8))
    n = draw.draw(st.integers(1, m))
    shape = (draw.draw(st.integers(1, 4)), m * draw.draw(st.integers(1, 4)))
    w = draw.draw(hnp.arrays(np.float32, shape, elements=st.floats(-4, 4, width=32)))
    mask = nm_mask(w, n, m)
    for kept, group in zip(mask.reshape(-1, m), abs(w).reshape(-1, m)):
        assert kept.sum() == n
        assert n == m or group[kept].min() >= group[~kept].max()


def test_n_of_m_runs_along_the_inputs_of_one_output():
    w = random.normal((3, 4, 2, 2)).astype(np.float32)
    assert (nm_mask(w).reshape(3, 4, 4).sum(-1) == 2).all()
    with pytest.raises(ValueError, match="groups of 5"):
        nm_mask(w, 2, 5)
    with pytest.raises(ValueError, match="n may not exceed m"):
        nm_mask(w, 5, 4)
    for bad in (0, True, 2.0, "2"):
        with pytest.raises(ValueError, match="whole number"):
            nm_mask(w, bad, 4)


@given(matrices, st.floats(0, 1, exclude_max=True), st.integers(1, 4), st.integers(1, 4))
def test_blocks_go_as_a_whole_the_weakest_first(w, share, r, c):
    mask = block_mask(w, share, (r, c))
    strengths, kept = [], []
    for i in range(0, w.shape[0], r):
        for j in range(0, w.shape[1], c):
            block, m = w[i : i + r, j : j + c], mask[i : i + r, j : j + c]
            assert m.all() or not m.any()
            strengths.append(np.square(block, dtype=np.float64).mean())
            kept.append(m.all())
    kept, strengths = np.array(kept), np.array(strengths)
    assert (~kept).sum() == round(share * len(kept))
    if kept.any() and not kept.all():
        # a mean of at most 16 float64 squares, in another order of summation
        assert strengths[kept].min() >= strengths[~kept].max() * (1 - 16 * np.finfo(np.float64).eps)


@pytest.mark.parametrize("block", [(0, 1), (1,), 3, (1, 2.0), (True, 1)])
def test_bad_blocks(block):
    with pytest.raises(ValueError, match="block must be"):
        block_mask(np.ones((2, 2), np.float32), 0.5, block)


# -- structure --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [1, 2])
def test_channels_by_their_norm(norm):
    w = random.normal((7, 3, 2, 2)).astype(np.float32)
    by_hand = np.array([np.linalg.norm(row.ravel().astype(np.float64), norm) for row in w])
    # sums of 12 terms, in another order
    np.testing.assert_allclose(output_norms(w, norm), by_hand, rtol=12 * np.finfo(np.float64).eps)
    mask = channel_mask(w, 3 / 7, norm)
    gone = ~mask.reshape(7, -1).any(1)
    assert mask.reshape(7, -1)[~gone].all()
    assert set(np.flatnonzero(gone)) == set(np.argsort(by_hand)[:3])
    assert (output_norms(w, norm, axis=1).shape) == (3,)


def test_channels_by_given_scores_and_heads():
    w = np.ones((4, 2), np.float32)
    assert channel_mask(w, 0.5, scores=np.array([3, 1, 2, 4]))[:, 0].tolist() == [True, False, False, True]
    with pytest.raises(ValueError, match="scores of shape"):
        channel_mask(w, 0.5, scores=np.ones(3))
    with pytest.raises(ValueError, match="norm must be"):
        output_norms(w, 3)
    w = np.repeat(np.float32([2, 1, 3]), 2)[:, None] * np.ones((6, 5), np.float32)
    assert head_mask(w, 3, 1 / 3)[:, 0].tolist() == [True, True, False, False, True, True]
    assert (head_mask(np.ascontiguousarray(w.T), 3, 1 / 3, axis=1) == head_mask(w, 3, 1 / 3).T).all()
    with pytest.raises(ValueError, match="not 4 heads"):
        head_mask(w, 4, 0.5)


# -- scores that data give --------------------------------------------------------------------------------------------


def test_snip_and_taylor_are_products_with_the_gradient():
    model, (x, y) = net(), data()
    model[0].weight.grad = kept = wrap(np.ones((8, 6), np.float32))
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    found, squares = (
        snip(model, batches, nn.functional.cross_entropy),
        taylor(model, batches, nn.functional.cross_entropy),
    )
    assert model[0].weight.grad is kept
    assert model[2].weight.grad is None
    gradients = []
    for bx, by in batches:
        model.zero_grad()
        nn.functional.cross_entropy(model(bx), by).backward()
        gradients.append({n: p.grad.numpy().copy() for n, p in model.named_parameters()})
    for name in ("0.weight", "2.weight"):
        w = model.get_parameter(name).array
        # two products and a sum of float32
        np.testing.assert_allclose(found[name], abs(w * (gradients[0][name] + gradients[1][name]) / 2), rtol=1e-6)
        np.testing.assert_allclose(
            squares[name], w**2 * (gradients[0][name] ** 2 + gradients[1][name] ** 2) / 2, rtol=1e-6
        )


def test_snip_finds_the_weights_that_matter():
    """Only the first two inputs say anything of the target; their weights are the last to go."""
    x, y = data(60)
    y = wrap((x.array[:, 0] > 0).astype(np.int64))
    model = nn.Sequential(nn.Linear(6, 2))
    model[0].weight.array[...] = 0.1
    scores = snip(model, (x, y), nn.functional.cross_entropy)["0.weight"]
    assert scores.sum(0).argmax() == 0
    prune_(model, 10 / 12, rule={"0.weight": scores})
    assert model[0].weight.mask[:, 0].all()


def test_wanda_is_weight_times_input_norm_within_rows():
    model, (x, _) = net(), data()
    scores = wanda(model, [x[:5], (x[5:], None)])
    norms = np.linalg.norm(x.numpy().astype(np.float64), axis=0)
    np.testing.assert_allclose(scores["0.weight"], abs(model[0].weight.array) * norms, rtol=1e-6)
    prune_(model, 0.5, rule=scores, scope="row")
    assert (model[0].weight.mask.sum(1) == 3).all()
    assert (model[2].weight.mask.sum(1) == 4).all()
    assert model.training
    with pytest.raises(ValueError, match="at least one batch"):
        wanda(model, [])


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_wanda_in_groups(groups):
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=groups))
    x = random.normal((2, 4, 5, 5)).astype(np.float32)
    scores = wanda(model, wrap(x))["0.weight"]
    norms = np.sqrt(np.square(x, dtype=np.float64).sum((0, 2, 3)))
    w, each = model[0].weight.array, 4 // groups
    for n in range(8):
        for c in range(each):
            met = norms[n // (8 // groups) * each + c]
            np.testing.assert_allclose(scores[n, c], abs(w[n, c]) * met, rtol=1e-6)


def test_scores_that_do_not_fit():
    model = net()
    good = {name: abs(model.get_parameter(name).array) for name in ("0.weight", "2.weight")}
    for rule, message in (
        ({"0.weight": good["0.weight"]}, "no scores for 2.weight"),
        (good | {"2.weight": np.ones((3, 3))}, r"shape \(3, 3\), not \(3, 8\)"),
        (good | {"2.weight": np.full((3, 8), np.nan)}, "holds NaN"),
    ):
        with pytest.raises(ValueError, match=message):
            prune_(model, 0.5, rule=rule)
        assert masks(model) == {}
    model[0].bias.requires_grad_(False)
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="frozen"):
        snip(model, data(), nn.functional.cross_entropy)
    with pytest.raises(ValueError, match="at least one batch"):
        snip(net(), [], nn.functional.cross_entropy)


def test_movement_sums_minus_weight_times_gradient():
    model, (x, y) = net(), data()
    sgd = optim.SGD(model.parameters(), lr=0.5)
    movement = Movement(model, sgd)
    by_hand = np.zeros((3, 8))
    for _ in range(4):
        sgd.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        by_hand -= model[2].weight.array * model[2].weight.grad.array
        sgd.step()
    np.testing.assert_allclose(movement["2.weight"], by_hand, atol=1e-6)
    movement.stop()
    sgd.step()
    np.testing.assert_allclose(movement["2.weight"], by_hand, atol=1e-6)
    prune_(model, 0.5, rule=movement)
    assert sparsity(model) == 0.5


def test_integers_are_no_weights():
    for rule in (lambda w: magnitude_mask(w, 0.5), nm_mask, lambda w: block_mask(w, 0.5), output_norms):
        with pytest.raises(TypeError, match="takes float weights, got int8"):
            rule(np.ones((4, 4), np.int8))


# -- over time --------------------------------------------------------------------------------------------------------


def test_rounds_drop_the_same_share_of_what_is_left():
    made = rounds(0.9, 4)
    left = [1 - s for s in [0, *made]]
    ratios = [b / a for a, b in itertools.pairwise(left)]
    assert ratios == pytest.approx([ratios[0]] * 4)
    assert made[-1] == 0.9
    assert rounds(0.9, 1) == [0.9]
    for bad in (lambda: rounds(1.0, 3), lambda: rounds(0.5, 0), lambda: cubic(1, 4, 4, 0.5)):
        with pytest.raises(ValueError):
            bad()


@given(st.integers(0, 20), st.integers(1, 30), st.floats(0, 0.99), st.floats(0, 0.99))
def test_cubic_rises_from_initial_to_final(start, length, a, b):
    initial, final = sorted((a, b))
    values = [cubic(t, start, start + length, final, initial) for t in range(start + length + 3)]
    assert values[: start + 1] == pytest.approx([initial] * (start + 1))
    assert values[start + length :] == [final] * 3
    assert all(x <= y + 1e-12 for x, y in itertools.pairwise(values))


def test_pruner_in_a_loop_of_ones_own():
    model, (x, y) = net(), data()
    adam = optim.Adam(model.parameters(), lr=0.01)
    pruner, seen = Pruner(model, lambda t: cubic(t, 2, 10, 0.75), every=2, scope="layer"), []
    for _ in range(12):
        adam.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        adam.step()
        pruner.step()
        seen.append(sparsity(model))
    assert seen == sorted(seen)
    assert seen[0] == seen[1] == 0
    assert 0 < seen[5] < 0.75
    assert seen[9] == seen[-1] == 0.75
    with pytest.raises(ValueError, match="every"):
        Pruner(model, lambda t: 0.5, every=0)


def test_rewind_keeps_masks_and_gives_early_values():
    import copy

    model, (x, y) = net(), data()
    early = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="no masks"):
        rewind_(model, early)
    sgd = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    for _ in range(3):
        sgd.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        sgd.step()
    prune_(model, 0.7)
    kept = {name: m.copy() for name, m in masks(model).items()}
    rewind_(model, early)
    assert all((masks(model)[name] == m).all() for name, m in kept.items())
    for name, p in model.named_parameters():
        assert (p.array == early[name].array * kept.get(name, 1)).all()
    second = copy.deepcopy(model.state_dict())  # this one holds masks
    prune_(model, 0.9)
    rewind_(model, second)
    assert sparsity(model) == pytest.approx(0.9, abs=0.01)
    with pytest.raises(RuntimeError, match="Missing key"):
        rewind_(model, {"0.weight": early["0.weight"]})
