"""GPTQ, AWQ and SmoothQuant: each does better than rounding to the nearest where it says it does, on data not seen."""

import copy

import numpy as np
import pytest

from minidl import nn, optim, random
from minidl.autograd import no_grad
from minidl.compress import (
    awq,
    awq_,
    gptq,
    gptq_,
    load_model,
    pack_int8,
    pack_weight,
    prune_,
    quantize_,
    save_model,
    smoothquant,
    smoothquant_,
)  # fmt: skip
from minidl.data import digits
from minidl.nn import functional as F
from minidl.storage import Int4, Int8, Scaled
from minidl.tensors import wrap


@pytest.fixture(scope="module")
def trained():
    """An MLP trained on the digits, 1000 images to calibrate with, and others to measure on."""
    random.manual_seed(0)
    x, y = digits()
    x = x.reshape(len(x), -1).astype(np.float32) / 16
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    for step in range(200):
        rows = np.arange(step * 50, step * 50 + 50) % 1000
        loss = F.cross_entropy(model(wrap(x[rows])), wrap(y[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), x[:1000], x[1000:]


def outputs(model, x):
    with no_grad():
        return model(wrap(x)).array


def error(model, exact, x):
    return float(np.square(outputs(model, x) - exact).mean())


@pytest.mark.parametrize("how", [dict(bits=3), dict(bits=4, per="group", group=32), dict(bits=3, symmetric=False)])
def test_gptq_beats_round_to_nearest_on_images_not_seen(trained, how):
    model, calibration, test = trained
    exact = outputs(model, test)
    nearest = error(quantize_(copy.deepcopy(model), **how), exact, test)
    ours = error(gptq_(copy.deepcopy(model), calibration, **how), exact, test)
    assert ours < 0.7 * nearest


@pytest.mark.parametrize("bits", [3, 4])
def test_awq_beats_round_to_nearest_on_images_not_seen(trained, bits):
    model, calibration, test = trained
    exact = outputs(model, test)
    nearest = error(quantize_(copy.deepcopy(model), bits), exact, test)
    ours = error(awq_(copy.deepcopy(model), calibration, bits), exact, test)
    assert ours < 0.9 * nearest


def test_smoothquant_beats_plain_int8_where_some_inputs_are_large(trained):
    """As in language models: a few features a hundred times the others, and weights made to match."""
    model, calibration, test = trained
    odd = copy.deepcopy(model)
    factor = np.ones(96, np.float32)
    factor[::16] = 100  # relu(a x) = a relu(x): the same function, with outliers between the layers
    odd[0].weight.array[...] *= factor[:, None]
    odd[0].bias.array[...] *= factor
    odd[2].weight.array[...] /= factor
    exact = outputs(odd, test)
    assert np.allclose(exact, outputs(model, test), rtol=1e-3, atol=1e-3)
    nearest = error(quantize_(copy.deepcopy(odd)), exact, test)
    ours = smoothquant_(copy.deepcopy(odd), calibration)
    assert error(ours, exact, test) < 0.2 * nearest
    assert isinstance(ours[2].weight.array.inner, Int8)


def test_gptq_is_optimal_brain_surgeon():
    """Without damping, against the update of Hassibi and Stork, which inverts the rest of H anew for every weight."""
    rng = np.random.default_rng(0)
    w, x = rng.normal(size=(3, 6)).astype(np.float32), rng.normal(size=(40, 6)).astype(np.float32)
    left, hessian = w.astype(np.float64), x.astype(np.float64).T @ x.astype(np.float64)
    scale = np.abs(w).max(1) / np.float32(7)
    q = np.empty((3, 6))
    for k in range(6):
        q[:, k] = np.clip(np.rint(left[:, k].astype(np.float32) / scale), -7, 7)
        inverse = np.linalg.inv(hessian[k:, k:])
        lost = (left[:, k] - q[:, k] * scale.astype(np.float64)) / inverse[0, 0]
        left[:, k:] -= lost[:, None] * inverse[0]
    found = gptq(w, x, 4, damping=0.0)
    assert (found.dequantize() == (q * scale[:, None]).astype(np.float32)).all()


def test_masked_weights_stay_zero_and_dead_inputs_are_harmless(trained):
    model, calibration, test = trained
    pruned = prune_(copy.deepcopy(model), 0.6)
    for method in (lambda m: gptq_(m, calibration, 3), lambda m: gptq_(m, calibration, 3, symmetric=False),
                   lambda m: awq_(m, calibration, 3), lambda m: smoothquant_(m, calibration)):  # fmt: skip
        net = method(copy.deepcopy(pruned))
        for layer in net:
            if isinstance(layer, nn.Linear):
                assert not layer.weight.array.dequantize()[~layer.weight.mask].any()
        assert np.isfinite(outputs(net, test)).all()
    assert not calibration[:, 0].any()  # a corner of the images that is always 0


def test_storage_kinds_and_files(trained, tmp_path):
    model, calibration, test = trained
    for net in (
        gptq_(copy.deepcopy(model), calibration, 4, per="group", group=32), awq_(copy.deepcopy(model), calibration, 3),
        awq_(copy.deepcopy(model), calibration, 4), smoothquant_(copy.deepcopy(model), calibration),
    ):  # fmt: skip
        save_model(net, tmp_path / "m.safetensors")
        again = load_model(copy.deepcopy(model), tmp_path / "m.safetensors").eval()
        assert (outputs(again, test) == outputs(net, test)).all()
        twin = copy.deepcopy(net)
        assert (outputs(twin, test) == outputs(net, test)).all()
    assert isinstance(gptq(model[0].weight.array, calibration, 4, per="group", group=32), Int4)
    scaled = awq(model[0].weight.array, calibration, 4)
    assert (scaled.rows(2, 5).dequantize() == scaled.dequantize()[2:5]).all()
    with pytest.raises(ValueError, match="Scaled's columns"):
        Scaled(scaled.inner, -scaled.columns)
    with pytest.raises(ValueError, match="Scaled takes"):
        Scaled(scaled.inner, scaled.columns[:3])
    with pytest.raises(ValueError, match="Scaled has arrays"):
        Scaled.from_arrays({"columns": scaled.columns})


def test_bad_input_leaves_the_model_as_it_was(trained):
    model, calibration, _ = trained
    nan = calibration.copy()
    nan[3, 5] = np.nan
    for method in (gptq_, awq_, smoothquant_):
        before = {k: v.array.copy() for k, v in model.state_dict().items()}
        for data, message in (([], "empty"), (nan, "NaN or infinity at the input of 0")):
            with pytest.raises(ValueError, match=f"{method.__name__}.*{message}"):
                method(model, data)
        with pytest.raises(ValueError, match="no Linear"):
            method(nn.Sequential(nn.ReLU()), calibration)
        with pytest.raises(ValueError, match="no Linear"):
            method(quantize_(copy.deepcopy(model)), calibration)
        with pytest.raises(TypeError, match="float64"):
            method(copy.deepcopy(model).double(), calibration)
        assert all((v.array == before[k]).all() for k, v in model.state_dict().items())
        assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="groups of 5"):
        gptq_(model, calibration, 4, per="group", group=5)
    with pytest.raises(ValueError, match="bits must be"):
        awq_(model, calibration, 9)
    with pytest.raises(ValueError, match="alpha"):
        smoothquant_(model, calibration, 2.0)
    w = model[0].weight.array
    for bad in (
        lambda: gptq(w, calibration[:, :3]),
        lambda: awq(w, calibration[:0]),
        lambda: smoothquant(w[0], calibration),
    ):
        with pytest.raises(ValueError, match=r"takes w \(N, K\)"):
            bad()
    assert not any(p.packed for p in model.parameters())


def test_on_its_own_calibration_data_awq_is_never_worse():
    rng = np.random.default_rng(1)
    for _ in range(5):
        w, x = rng.normal(size=(8, 12)).astype(np.float32), rng.normal(size=(30, 12)).astype(np.float32)
        loss = lambda packed: float(np.square((packed.dequantize() - w) @ x.T).sum())
        assert loss(awq(w, x, 4)) <= loss(pack_weight(w, 4)) * (1 + 1e-6)
        assert loss(pack_int8(w)) < loss(pack_weight(w, 4))
