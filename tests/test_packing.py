"""Sparse rows on parameters: the same results, fewer bytes, chosen by what was measured, refused where they cannot."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidl_kernels as kernels
from minidl import io, nn, optim, random
from minidl.compress import (
    Choice,
    dequantize_,
    load_model,
    masks,
    nm_mask,
    pack_,
    packing,
    prune_,
    quantize_,
    remove_masks_,
    report,
    save_model,
    sparsity,
    stored_bytes,
)
from minidl.io import CheckpointError
from minidl.storage import CSR, NM
from minidl.storage.base import PackedError
from minidl.tensors import wrap


def draw(*shape):
    return random.normal(shape).astype(np.float32)


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 3))


def forced(model):
    """Choices that pack every Linear, whatever is faster here."""
    return [
        Choice(f"{n}.weight", 0, None, None, 0, None, True, "test")
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear)
    ]


matrices = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)


@given(hnp.arrays(np.float32, matrices, elements=st.sampled_from([0, 1.5, -2])))
def test_storage_is_the_matrix(w):
    s = CSR.from_dense(w)
    assert (s.dequantize() == w).all()
    assert s.shape == w.shape
    assert s.nonzeros() == np.count_nonzero(w)
    assert s.nbytes == 6 * np.count_nonzero(w) + 8 * (len(w) + 1) + 8
    again = CSR.from_arrays(s.arrays())
    assert (again.dequantize() == w).all()
    assert (s.copy().rows(0, 1).dequantize() == w[:1]).all()


def test_a_packed_model_computes_and_prints_and_is_saved(tmp_path):
    model = prune_(net(), 0.8)
    dense = copy.deepcopy(model)
    before, objects = list(model.state_dict()), list(model.parameters())
    assert pack_(model, forced(model)) is model
    assert list(model.state_dict()) == before
    assert all(a is b for a, b in zip(model.parameters(), objects))
    assert "weight=csr" in repr(model)
    assert "weight 8" in repr(model)  # 8x % pruned
    x = wrap(draw(5, 1, 4, 4))
    with kernels.listen() as heard:
        y = model(x)
    assert [op for op, _ in heard].count("csr_linear") == 2
    # at most 24 products of float32 in another order
    np.testing.assert_allclose(y.detach().numpy(), dense(x).detach().numpy(), rtol=1e-5, atol=1e-6)
    assert sparsity(model) == sparsity(dense)
    path = tmp_path / "net.safetensors"
    save_model(model, path)
    assert [stored_bytes(t) for t in model.parameters()] == [stored_bytes(t) for t in dense.parameters()]
    again = load_model(net, path)
    assert (again(x).array == y.array).all()
    assert all((m == masks(model)[n]).all() for n, m in masks(again).items())
    assert report(again).bytes == report(model).bytes
    io.save(model.state_dict(), tmp_path / "plain.safetensors")
    other = net()
    other.load_state_dict(io.load(tmp_path / "plain.safetensors"))
    assert (other(x).array == y.array).all()
    dequantize_(model)
    assert (model[3].weight.array == dense[3].weight.array).all()
    assert model[3].weight.requires_grad


groups = st.tuples(st.integers(1, 5), st.sampled_from([16, 32]))


@given(
    hnp.arrays(np.float32, groups, elements=st.floats(-9, 9, width=32)),
    st.sampled_from([(2, 4), (1, 2), (4, 8), (2, 16)]),
)
def test_some_of_many_is_the_matrix(w, pattern):
    n, m = pattern
    w = w * nm_mask(w, n, m)
    s = NM.from_dense(w, n, m)
    assert (s.dequantize() == w).all()
    assert (s.n, s.m, s.shape) == (n, m, w.shape)
    assert s.nonzeros() == np.count_nonzero(w)
    bits = {2: 1, 4: 2, 8: 4, 16: 4}[m]
    stored = w.size * n // m
    assert s.nbytes == 4 * stored + len(w) * -(-stored // len(w) * bits // 8) + 8
    again = NM.from_arrays(s.arrays())
    assert (again.dequantize() == w).all()
    assert (s.copy().rows(0, 1).dequantize() == w[:1]).all()
    assert s.places().sum() == stored
    assert (s.places() | (w == 0)).all()


def two_of_four_(m):
    m.weight.mask = nm_mask(m.weight.array)
    m.weight.array *= m.weight.mask


def pruned_two_of_four():
    model = nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 8))
    for m in (model[0], model[2]):
        two_of_four_(m)
    return model


def test_two_of_four_packed_saved_and_loaded(tmp_path):
    """17 / 32 of the bytes, in memory and on disk, and the mask costs nothing: it is what is stored."""
    model = pruned_two_of_four()
    dense, x = copy.deepcopy(model), wrap(draw(5, 64))
    pack_(model, [Choice(f"{i}.weight", 0.5, None, None, 0, None, True, "", "2:4") for i in (0, 2)])
    assert repr(model[0].weight.array) == "NM(shape=(24, 64), 2:4, 3272 bytes)"  # 24 * 64 * 4 * 17 / 32 + 8
    with kernels.listen() as heard:
        y = model(x)
    assert [op for op, _ in heard].count("nm_linear") == 2
    # at most 64 products of float32 in another order
    np.testing.assert_allclose(y.detach().numpy(), dense(x).detach().numpy(), rtol=1e-5, atol=1e-6)
    path = tmp_path / "net.safetensors"
    size = save_model(model, path)
    assert [stored_bytes(p) for p in model.parameters()] == [24 * 64 * 17 // 8 + 8, 24 * 4, 24 * 8 * 17 // 8 + 8, 8 * 4]
    assert size == path.stat().st_size
    assert report(model).bytes == report(load_model(pruned_two_of_four, path)).bytes
    again = load_model(lambda: nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 8)), path)
    assert (again(x).array == y.array).all()
    assert all((m == masks(dense)[n]).all() for n, m in masks(again).items())
    assert len(masks(again)) == 2
    again[0].weight.mask = again[0].weight.mask & (np.arange(64) > 9)  # no longer what is stored
    assert stored_bytes(again[0].weight) == 24 * 64 * 17 // 8 + 8 + 24 * 64 // 8
    save_model(again, path)
    assert not load_model(pruned_two_of_four, path)[0].weight.mask[:, :10].any()
    dequantize_(model)
    assert (model[0].weight.array == dense[0].weight.array).all()


def test_choices_name_the_pattern_and_time_both_forms():
    model = nn.Sequential(nn.Linear(64, 24), nn.Linear(24, 8))
    two_of_four_(model[0])
    (two, none) = packing(model, 4, repeats=1)
    assert two.form in ("csr", "2:4")
    assert "2:4" in two.why
    assert "csr" in two.why
    assert two.packed == (two.dense_ms / two.sparse_ms > 1.05)
    assert "less than half" in none.why
    wrong = Choice("1.weight", 0, None, None, 0, None, True, "", "2:4")
    with pytest.raises(ValueError, match="prune to 2:4 first"):
        pack_(model, [Choice("0.weight", 0, None, None, 0, None, True, "", "2:4"), wrong])
    assert not any(p.packed for p in model.parameters())


def test_gradients_flow_past_packed_weights():
    model = prune_(net(), 0.8)
    x = draw(5, 1, 4, 4)
    grads = []
    for packed in (False, True):
        if packed:
            pack_(model, forced(model))
        given_x = wrap(x.copy()).requires_grad_()
        model(given_x).square().sum().backward()
        grads.append((given_x.grad.array, model[5].bias.grad.array))
        model.zero_grad()
    for a, b in zip(*grads):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_choices_say_why_not():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 3).double(), nn.GRU(3, 2)
    )
    prune_(model, 0.9, skip="2", scope="layer")
    why = {c.name: c for c in packing(model, repeats=1)}
    assert "no sparse convolution" in why["0.weight"].why
    assert "less than half is zero" in why["2.weight"].why
    assert "float64" in why["4.weight"].why
    assert "only Linear" in why["5.weight_ih_l0"].why
    tried = why["3.weight"]
    assert tried.packed == (tried.dense_ms / tried.sparse_ms > 1.05)
    assert "times the speed" in tried.why
    text = str(packing(model, repeats=1))
    assert "ms dense" in text
    assert "dense: no sparse convolution" in text


def test_a_large_sparse_weight_is_packed_and_takes_a_quarter_of_its_bytes():
    """The speed is measured by the bench; here, that the choice is the measured one, and the bytes are."""
    model = prune_(nn.Sequential(nn.Linear(1024, 1024)), 0.9)
    dense = model[0].weight.array.nbytes
    (choice,) = packing(model, 64, repeats=3)
    assert choice.sparse_bytes <= 0.25 * dense
    assert choice.packed == (choice.dense_ms / choice.sparse_ms > 1.05)
    pack_(model, [choice])
    assert model[0].weight.packed == choice.packed


def test_refused_and_nothing_changed(tmp_path):
    model, wrong = prune_(net(), 0.8), Choice("9.weight", 0, None, None, 0, None, True, "")
    for call, error, message in (
        (lambda: packing(model, 0), ValueError, "batch must be"),
        (lambda: pack_(model, [*forced(model), wrong]), ValueError, "9.weight"),
        (lambda: pack_(model, skip="nothing"), ValueError, "nothing is called"),
    ):
        with pytest.raises(error, match=message):
            call()
    assert not any(p.packed for p in model.parameters())
    pack_(model, forced(model))
    for call, error, message in (
        (lambda: pack_(model, forced(model)), TypeError, "packed as csr already"),
        (lambda: prune_(model, 0.9), TypeError, "packed as csr; prune first"),
        (lambda: optim.SGD(model.parameters(), lr=0.1), TypeError, "packed as csr"),
        (lambda: model[3].weight + 1, PackedError, "only linear can"),
        (lambda: model[3].weight.requires_grad_(), RuntimeError, "cannot require gradients"),
        (lambda: nn.functional.conv2d(wrap(draw(1, 16, 1, 1)), model[3].weight), ValueError, "weight"),
    ):
        with pytest.raises(error, match=message):
            call()
    quantize_(model)  # takes what is left: the convolution
    assert model[0].weight.array.kind == "int8"
    assert model[3].weight.array.kind == "csr"
    save_model(model, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(nn.Sequential(nn.Linear(16, 24)), tmp_path / "net.safetensors")
    remove_masks_(model)
    save_model(model, tmp_path / "net.safetensors")
    assert load_model(net, tmp_path / "net.safetensors")[3].weight.array.kind == "csr"


@pytest.mark.parametrize(
    "parts",
    [
        (np.float32([1]), np.uint16([3]), np.int64([0, 1]), 3),
        (np.float32([1]), np.int32([-1]), np.int64([0, 1]), 3),
        (np.float32([1]), np.uint16([0]), np.int64([0, 2]), 3),
        (np.float32([1, 2]), np.uint16([0, 1]), np.int64([0, 2, 1, 2]), 3),
        (np.float64([1]), np.uint16([0]), np.int64([0, 1]), 3),
        (np.float32([1]), np.uint16([0, 1]), np.int64([0, 1]), 3),
        (np.float32([]), np.uint16([]), np.int64([]), 3),
    ],
)
def test_bad_parts(parts):
    with pytest.raises(ValueError, match="CSR"):
        CSR(*parts)


@pytest.mark.parametrize(
    "parts",
    [
        (np.ones((1, 1, 2), np.float64), np.uint8([[4]]), 4, 4),
        (np.ones((1, 1, 2), np.float32), np.uint8([[4, 4]]), 4, 4),
        (np.ones((1, 1, 2), np.float32), np.uint8([[12]]), 4, 3),
        (np.ones((1, 2), np.float32), np.uint8([[4]]), 4, 4),
        (np.ones((1, 1, 2), np.float32), np.uint8([[4]]), 1, 4),
    ],
)
def test_bad_parts_of_some_of_many(parts):
    with pytest.raises(ValueError, match=r"NM|unpack_nm"):
        NM(*parts)
