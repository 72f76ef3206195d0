"""Low rank against NumPy's SVD and the theorem behind it; codebooks against brute force; both in files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minidl import nn, optim, random
from minidl.compress import (
    dequantize_,
    factors,
    kmeans_codebook,
    load_model,
    low_rank,
    masks,
    prune_,
    quantize_,
    rank_of,
    report,
    save_model,
    share_weights_,
    sparsity,
    stored_bytes,
)
from minidl.io import CheckpointError
from minidl.storage import Codebook, pack_bits
from minidl.tensors import wrap


def draw(*shape):
    return random.normal(shape).astype(np.float32)


# -- low rank ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_factors_leave_just_the_smaller_singular_values(rank):
    """Eckart & Young: the error of the best product of a rank is the norm of the singular values that it lacks."""
    w = draw(7, 12)
    u, v = factors(w, rank)
    assert (u.shape, v.shape) == ((7, rank), (rank, 12))
    left = np.linalg.svd(w.astype(np.float64))[1][rank:]
    # two float32 roundings of each factor
    assert np.linalg.norm(w - u.astype(np.float64) @ v) == pytest.approx(np.linalg.norm(left), abs=1e-5)


@given(st.floats(0.01, 1.0), st.integers(1, 6), st.integers(1, 6), st.integers(0, 2**20))
def test_rank_by_energy_is_the_smallest_that_does(energy, n, k, seed):
    w = random.Generator(seed).normal((n, k))
    squares = np.linalg.svd(w.astype(np.float64))[1] ** 2
    r = rank_of(w, energy)
    share = np.cumsum(squares) / squares.sum()
    assert share[r - 1] >= energy - 1e-9
    assert r == 1 or share[r - 2] < energy + 1e-9


def test_rank_of_zeros_and_bad_energies():
    assert rank_of(np.zeros((3, 4), np.float32), 0.9) == 1
    for bad in (0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="energy must be in"):
            rank_of(np.ones((2, 2), np.float32), bad)
    with pytest.raises(ValueError, match="NaN or infinity"):
        rank_of(np.float32([[1, np.inf]]), 0.5)
    with pytest.raises(ValueError, match=r"not in 1 \.\.\. 2"):
        factors(np.ones((2, 3), np.float32), 3)


def net():
    return nn.Sequential(
        nn.Conv2d(6, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4), nn.Flatten(),
        nn.Linear(64, 30), nn.ReLU(), nn.Linear(30, 4),
    )  # fmt: skip


def test_a_low_rank_net_is_smaller_close_and_learns():
    model, x = net(), wrap(draw(5, 6, 8, 8))
    for layer in (model[0], model[4]):  # weights of rank 3 and a little noise
        w = layer.weight.array.reshape(len(layer.weight), -1)
        w[...] = draw(len(w), 3) @ draw(3, w.shape[1]) / 10 + 1e-4 * draw(*w.shape)
    before = {n: p.array.copy() for n, p in model.named_parameters()}
    small = low_rank(model, 0.99)
    assert all((p.array == before[n]).all() for n, p in model.named_parameters())
    assert (small[0][0].out_channels, small[4][0].out_features) == (3, 3)
    assert isinstance(small[2], nn.Conv2d)  # groups: left alone
    assert isinstance(small[6], nn.Linear)  # would not become smaller
    y, z = model(x).array, small(x).array
    assert np.linalg.norm(y - z) < 0.01 * np.linalg.norm(y)
    sgd = optim.SGD(small.parameters(), lr=0.1)
    nn.functional.cross_entropy(small(x), wrap(np.arange(5) % 4)).backward()
    sgd.step()
    assert (low_rank(model, rank=2)[4][0].out_features) == 2
    whole = low_rank(model, rank=2, skip="0")
    assert isinstance(whole[0], nn.Conv2d)


def test_low_rank_refuses():
    model = net()
    for make, error, message in (
        (lambda: low_rank(nn.Linear(64, 64), 0.5), ValueError, "put it into a Sequential"),
        (lambda: low_rank(nn.Sequential(nn.Linear(4, 4)), 1.0), ValueError, "no layer would become smaller"),
        (lambda: low_rank(prune_(net(), 0.5), 0.1), ValueError, "is pruned"),
        (lambda: low_rank(quantize_(net()), 0.1), TypeError, "packed as int8|no layer"),
    ):
        with pytest.raises((error, ValueError), match=message):
            make()
    model[4].weight.array[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        low_rank(model, 0.5)


# -- codebooks --------------------------------------------------------------------------------------------------------


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=2, max_side=30), elements=st.floats(-3, 3, width=32)),
    st.integers(2, 20),
)
def test_every_weight_has_its_nearest_value(w, n):
    table, codes = kmeans_codebook(w, n)
    assert 2 <= len(table) <= n
    assert (np.diff(table) > 0).all()
    assert codes.shape == w.shape
    distance = abs(w.astype(np.float64)[..., None] - table)
    # a border may round to either side of a weight just on it
    assert (abs(w.astype(np.float64) - table[codes]) <= distance.min(-1) * (1 + 1e-6) + 1e-12).all()


def test_values_are_the_means_of_their_weights():
    w = draw(50, 40)
    table, codes = kmeans_codebook(w, 8, iterations=500)
    means = [w[codes == i].astype(np.float64).mean() for i in range(len(table))]
    np.testing.assert_allclose(table, means, atol=1e-5)  # the last rounds move less than float32 shows
    few = kmeans_codebook(w, 4)
    error = lambda found: np.square(found[0][found[1]] - w).mean()
    assert error((table, codes)) < error(few) / 2


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("pruned", [False, True])
def test_shared_weights_in_the_model_and_in_a_file(tmp_path, bits, pruned):
    model, x = net(), wrap(draw(3, 6, 8, 8))
    if pruned:
        prune_(model, 0.7)
    before = {n: p.array.copy() for n, p in model.named_parameters()}
    names = list(model.state_dict())
    share_weights_(model, bits)
    assert list(model.state_dict()) == names
    for n, p in model.named_parameters():
        if p.ndim > 1:
            assert len(np.unique(p.array.dequantize())) <= 2**bits
            assert p.array.nbytes <= -(-before[n].size * bits // 8) + 4 * 2**bits + 16
            if pruned:
                assert (p.array.dequantize()[~p.mask] == 0).all()
    if bits == 8:
        for n, p in model.named_parameters():
            if p.ndim > 1:  # 256 values: within half a step of an even grid, or better
                step = np.ptp(before[n]) / 255
                assert np.abs(p.array.dequantize() - before[n]).max() <= step
    assert save_model(model, tmp_path / "net.safetensors") < sum(a.nbytes for a in before.values())
    again = load_model(net, tmp_path / "net.safetensors")
    assert (again(x).array == model(x).array).all()
    assert set(masks(again)) == set(masks(model))
    made = report(model)
    assert made.bytes == sum(stored_bytes(t) for t in model.state_dict(keep_vars=True).values())
    y = model(x).array
    dequantize_(model)
    np.testing.assert_allclose(model(x).detach().numpy(), y, rtol=1e-5, atol=1e-6)
    if pruned:
        assert sparsity(model) == pytest.approx(0.7, abs=0.05)


def test_sharing_refuses_and_changes_nothing(tmp_path):
    model = net()
    for bad in (0, 9, 2.0, True, None):
        with pytest.raises(ValueError, match="bits must be"):
            share_weights_(model, bad)
    model[4].weight.array[0, 0] = np.inf
    with pytest.raises(ValueError, match="NaN or infinity") as caught:
        share_weights_(model)
    assert "4.weight" in caught.value.__notes__[0]
    assert not any(p.packed for p in model.parameters())
    model[4].weight.array[0, 0] = 0
    share_weights_(model)
    with pytest.raises(TypeError, match="packed as codebook already"):
        share_weights_(model)
    with pytest.raises(TypeError, match="packed as codebook"):
        prune_(model, 0.5)
    with pytest.raises(ValueError, match="no Linear, Conv2d or Embedding"):
        share_weights_(nn.Sequential(nn.ReLU()))
    save_model(model, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(nn.Sequential(nn.Linear(4, 4)), tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="none of number 3"):
        Codebook(pack_bits(np.uint8([0, 3]), 2), np.float32([1, 2, 3]), (2,))
    with pytest.raises(ValueError, match="table of 2"):
        Codebook(pack_bits(np.uint8([0, 1]), 1), np.float32([1]), (2,))
    with pytest.raises(ValueError, match="finite"):
        Codebook(pack_bits(np.uint8([0, 1]), 1), np.float32([1, np.nan]), (2,))


def test_embeddings_and_equal_weights():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4))
    model[1].weight.array[...] = 0.5
    share_weights_(model, 3)
    assert (model[1].weight.array.dequantize() == 0.5).all()
    i = wrap(np.array([[0, 8], [3, 3]]))
    assert (model[0](i).array == model[0].weight.array.dequantize()[i.array]).all()
