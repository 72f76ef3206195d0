"""Bad input to compression, one line each: a clear error or a defined result, and the model bit for bit as it was."""

import copy

import numpy as np
import pytest

from minidl import Tensor, nn, tensor
from minidl.compress import (
    channel_mask,
    load_model,
    magnitude_mask,
    masks,
    prune_,
    prune_channels_,
    quantize_,
    quantize_static,
    save_model,
    sparsity,
)
from minidl.io import CheckpointError
from minidl.nn import Parameter


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()


def images(n=4):
    return np.random.default_rng(0).normal(size=(n, 1, 6, 6)).astype(np.float32)


def broken(value, name="4.weight"):
    model = net()
    model.get_parameter(name).array.flat[1] = value
    return model


def whole_numbers():
    model = net()
    model.codes = Parameter(np.arange(6).reshape(2, 3), requires_grad=False)
    return model


def bits_of(model):
    return [(name, p.array.tobytes(), None if p.mask is None else p.mask.tobytes(), p.requires_grad)
            for name, p in model.named_parameters() if not p.packed]  # fmt: skip


def set_mask(model, mask):
    model[4].weight.mask = mask


REFUSED = {
    "mask of the wrong shape": (net, lambda m: set_mask(m, np.ones((3, 63), bool)), ValueError, "shape"),
    "mask of halves": (net, lambda m: set_mask(m, np.full((3, 64), 0.5)), ValueError, "only 0"),
    "1 bit": (net, lambda m: quantize_(m, 1), ValueError, r"bits must be an integer in 2 \.\.\. 8, got 1"),
    "9 bits": (net, lambda m: quantize_(m, 9), ValueError, r"bits must be an integer in 2 \.\.\. 8, got 9"),
    "empty calibration": (net, lambda m: quantize_(m, calibration=[]), ValueError, "calibration data are empty"),
    "empty calibration, static": (net, lambda m: quantize_static(m, images(0)), ValueError, "are empty"),
    "NaN, quantized": (lambda: broken(np.nan), quantize_, ValueError, r"4\.weight.*NaN or infinity"),
    "infinity, quantized": (lambda: broken(np.inf), quantize_, ValueError, r"4\.weight.*NaN or infinity"),
    "infinity, static": (lambda: broken(-np.inf), lambda m: quantize_static(m, images()), ValueError, "infinity"),
    "NaN, pruned": (lambda: broken(np.nan), lambda m: prune_(m, 0.5), ValueError, "NaN"),
    "NaN, channels": (
        lambda: broken(np.nan, "0.weight"), lambda m: prune_channels_(m, 0.5, images()), ValueError, "NaN",
    ),
    "sparsity above 1": (net, lambda m: prune_(m, 1.5), ValueError, "sparsity"),
    "a name that is not there": (net, lambda m: prune_(m, 0.5, skip="head"), ValueError, "head"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_and_nothing_changed(what):
    make, act, error, message = REFUSED[what]
    model = make()
    before = bits_of(model)
    with pytest.raises(error, match=message):
        act(model)
    assert bits_of(model) == before


def test_packed_parameters_in_an_op_that_cannot():
    model = quantize_(net())
    for use in (lambda w: w + 1, lambda w: w @ w, lambda w: nn.functional.conv1d(tensor(images()[0]), w)):
        with pytest.raises((TypeError, ValueError), match=r"packed|weight"):
            use(model[4].weight)
    with pytest.raises(TypeError, match="packed as int8"):
        prune_(model, 0.5)


def test_channels_that_are_all_zero_have_scale_one():
    model = net()
    model[0].weight.array[2] = 0
    model[4].weight.array[:] = 0
    expected = model(tensor(images())).array
    quantize_(model)
    assert model[0].weight.array.scale[2] == 1
    assert (model[4].weight.array.scale == 1).all()
    np.testing.assert_array_equal(model(tensor(images())).array, expected)  # the bias alone


def test_activations_that_are_constant():
    model = net()
    still = np.full((4, 1, 6, 6), 0.5, np.float32)
    for made in (quantize_(copy.deepcopy(model), calibration=still), quantize_static(model, still)):
        y, dense = made(tensor(still)).array, model(tensor(still)).array
        assert np.isfinite(y).all()
        # three roundings to a 254th of a range each, of numbers below 4
        np.testing.assert_allclose(y, dense, atol=3 * 4 / 127)


def test_integer_parameters_stay_as_they_are():
    model = whole_numbers()
    for act in (lambda m: prune_(m, 0.5), quantize_):
        act(model)
        assert model.codes.array.dtype.kind == "i"
        assert model.codes.array.ravel().tolist() == list(range(6))
        assert model.codes.mask is None
    with pytest.raises(TypeError, match="float"):
        magnitude_mask(model.codes.array, 0.5)
    with pytest.raises(TypeError, match="float"):
        channel_mask(model.codes.array, 0.5)


def test_pruning_twice_keeps_what_was_pruned():
    model = prune_(net(), 0.5)
    first = copy.deepcopy(masks(model))
    prune_(model, 0.8)
    assert sparsity(model) == pytest.approx(0.8, abs=0.01)
    assert all((mask <= first[name]).all() for name, mask in masks(model).items())  # nothing comes back
    again = [p.array.copy() for p in model.parameters()]
    prune_(model, 0.8)
    assert all((a == p.array).all() for a, p in zip(again, model.parameters()))


def test_quantizing_twice_leaves_what_is_packed():
    model = quantize_(net(), skip="0")
    packed = model[4].weight.array
    quantize_(model, 4)
    assert model[4].weight.array is packed
    assert model[0].weight.packed
    with pytest.raises(ValueError, match="float weight left to quantize"):
        quantize_(model)
    with pytest.raises(TypeError, match="packed as"):
        quantize_static(model, images())


def test_a_packed_file_and_another_model(tmp_path):
    path = tmp_path / "net.safetensors"
    save_model(quantize_(prune_(net(), 0.5)), path)
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))
    prune_(other, 0.2)
    before = bits_of(other)
    with pytest.raises(CheckpointError, match=r"(?s)does not fit the model.*4\.weight"):
        load_model(other, path)
    assert bits_of(other) == before
    assert isinstance(load_model(net, path)(tensor(images())), Tensor)
