"""GPTQ, AWQ and SmoothQuant for convolutions of one and two dimensions, grouped ones, and with batch norms folded."""

import copy

import numpy as np
import pytest

from minidl import nn, optim, random
from minidl.autograd import no_grad
from minidl.compress import (
    awq,
    awq_,
    fold,
    gptq,
    gptq_,
    load_model,
    load_net,
    pack_weight,
    prune_,
    quantize_,
    record,
    save_model,
    save_net,
    smoothquant,
    smoothquant_,
)  # fmt: skip
from minidl.data import digits
from minidl.nn import functional as F
from minidl.storage import Codes, Scaled
from minidl.tensors import wrap


def outputs(model, x):
    with no_grad():
        return model(wrap(x)).array


def error(model, exact, x):
    return float(np.square(outputs(model, x) - exact).mean())


def train(model, x, y, steps=120):
    optimizer = optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        rows = np.arange(step * 50, step * 50 + 50) % len(x)
        loss = F.cross_entropy(model(wrap(x[rows])), wrap(y[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def images():
    """A network with batch norms and a depthwise and a grouped convolution, trained; images to calibrate, and
    others.
    """
    random.manual_seed(0)
    x, y = digits()
    x = x[:, None].astype(np.float32) / 16
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding="same", groups=16), nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(24, 24, 3, padding=1, padding_mode="circular", groups=4), nn.ReLU(), nn.Flatten(),
        nn.Linear(384, 10),
    )  # fmt: skip
    return train(model, x[:1000], y[:1000]), x[:300], x[1000:]


@pytest.fixture(scope="module")
def signals():
    """The same of one dimension: an image's rows are the channels of a signal."""
    random.manual_seed(0)
    x, y = digits()
    x = x.astype(np.float32) / 16
    model = nn.Sequential(
        nn.Conv1d(8, 24, 3, padding=1, bias=False), nn.BatchNorm1d(24), nn.ReLU(),
        nn.Conv1d(24, 24, 3, stride=2, dilation=2, padding=2, groups=3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip
    return train(model, x[:1000], y[:1000]), x[:300], x[1000:]


METHODS = {
    "gptq": (lambda m, x: gptq_(m, x, 3), lambda m: quantize_(m, 3), 0.6),
    "gptq affine": (lambda m, x: gptq_(m, x, 3, symmetric=False), lambda m: quantize_(m, 3, symmetric=False), 0.6),
    "awq": (lambda m, x: awq_(m, x, 3), lambda m: quantize_(m, 3), 0.95),  # .65 and .81 in two trainings
}


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", ["images", "signals"])
def test_better_than_round_to_nearest_on_images_not_seen(request, data, method, folded):
    model, calibration, test = request.getfixturevalue(data)
    ours, nearest, share = METHODS[method]
    exact = outputs(model, test)

    def made():
        twin = copy.deepcopy(model)
        return fold(record(twin, calibration[:2])) if folded else twin

    if folded:  # nothing of the batch norms is left
        assert not {"mul", "add", "sub", "true_divide"} & {step.op for step in made().steps}
    better, plain = ours(made(), calibration), nearest(made())
    layers = [p for p in better.parameters() if p.ndim > 1]
    assert len(layers) == sum(p.packed for p in layers) == sum(p.packed for p in plain.parameters())
    assert error(better, exact, test) < share * error(plain, exact, test)


def test_smoothquant_beats_plain_int8_where_some_channels_are_large(images):
    """A few channels a hundred times the others, and the next weights made to match: the same function."""
    model, calibration, test = images
    random.manual_seed(0)
    for groups in (1, 2):
        odd = nn.Sequential(copy.deepcopy(model[0]), nn.ReLU(), nn.Conv2d(16, 8, 3, groups=groups)).eval()
        factor = np.ones(16, np.float32)
        factor[::5] = 100
        odd[0].weight.array[...] *= factor[:, None, None, None]
        odd[2].weight.array[...] /= factor.reshape(groups, 1, -1, 1, 1).repeat(8 // groups, 1).reshape(8, -1, 1, 1)
        exact = outputs(odd, test)
        nearest = error(quantize_(copy.deepcopy(odd)), exact, test)
        ours = smoothquant_(copy.deepcopy(odd), calibration)
        assert error(ours, exact, test) < 0.2 * nearest
        assert ours[2].weight.array.inner.kind == "int8"


def test_gptq_of_a_group_is_gptq_of_its_own_convolution():
    rng = np.random.default_rng(0)
    w = rng.normal(size=(6, 2, 3, 3)).astype(np.float32)
    x = rng.normal(size=(50, 4 * 9)).astype(np.float32)
    whole = gptq(w, x, 3)
    assert isinstance(whole, Codes)
    for g in range(2):
        part = gptq(w[3 * g : 3 * g + 3].reshape(3, 18), x[:, 18 * g : 18 * g + 18], 3)
        assert (whole.dequantize()[3 * g : 3 * g + 3].reshape(3, 18) == part.dequantize()).all()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_on_its_own_calibration_data_awq_is_never_worse(groups):
    rng = np.random.default_rng(groups)
    for _ in range(3):
        w = rng.normal(size=(8, 4 // groups, 3, 2)).astype(np.float32)
        x = rng.normal(size=(40, 4, 6)).astype(np.float32) * np.float32([1, 5, 0.1, 0])[:, None]

        def loss(packed, w=w, x=x):
            d = (packed.dequantize() - w).reshape(groups, 8 // groups, -1)
            return float(np.square(d @ x.reshape(40, groups, -1).transpose(1, 2, 0)).sum())

        for how in (dict(), dict(symmetric=False), dict(per="tensor"), dict(per="group", group=6 // groups * groups)):
            if how.get("per") == "group" and (4 // groups * 6) % how["group"]:
                continue
            assert loss(awq(w, x.reshape(40, -1), 3, **how)) <= loss(pack_weight(w, 3, **how)) * (1 + 1e-6)


def test_masks_files_and_copies(images, signals, tmp_path):
    for model, calibration, test in (images, signals):
        pruned = prune_(copy.deepcopy(model), 0.5)
        for method in (
            lambda m, x: gptq_(m, x, 4), lambda m, x: awq_(m, x, 4), lambda m, x: smoothquant_(m, x)
        ):  # fmt: skip
            net = method(copy.deepcopy(pruned), calibration)
            for p in net.parameters():
                if p.mask is not None:
                    assert not p.array.dequantize()[~p.mask].any()
            size = save_model(net, tmp_path / "m.safetensors")
            assert size < save_model(model, tmp_path / "f.safetensors")
            again = load_model(copy.deepcopy(model), tmp_path / "m.safetensors").eval()
            assert (outputs(again, test) == outputs(net, test)).all()
            assert (outputs(copy.deepcopy(net), test) == outputs(net, test)).all()
            folded = method(fold(record(copy.deepcopy(pruned), calibration[:2])), calibration)
            save_net(folded, tmp_path / "n.safetensors")
            assert (outputs(load_net(tmp_path / "n.safetensors"), test) == outputs(folded, test)).all()


def test_bad_input_leaves_the_model_as_it_was(images):
    model, calibration, _ = images
    model = copy.deepcopy(model)
    nan = calibration.copy()
    nan[3, 0, 0, 0] = np.nan
    for method in (gptq_, awq_, smoothquant_):
        with pytest.raises(ValueError, match=f"{method.__name__}.*empty"):
            method(model, calibration[:0])
        with pytest.raises(ValueError, match=r"NaN or infinity at the input of 0\.weight"):
            method(model, nan)
        with pytest.raises(ValueError, match="no Linear, attention or convolution"):
            method(nn.Sequential(nn.Embedding(3, 4), nn.ReLU()), np.zeros((2, 1), np.int64))
        again = method(copy.deepcopy(model), calibration[:20])
        with pytest.raises(ValueError, match="no Linear"):  # twice
            method(again, calibration[:20])
    assert not any(p.packed for p in model.parameters())
    model[4].weight.array[0, 0] = np.inf
    with pytest.raises(ValueError, match=r"4\.weight holds NaN or infinity"):
        gptq_(model, calibration)
    w, x = np.ones((4, 2, 3, 3), np.float32), np.ones((5, 36), np.float32)
    for bad in (lambda: gptq(w, x[:, :30]), lambda: awq(w[:3], x), lambda: smoothquant(w, x[:0])):
        with pytest.raises(ValueError, match=r"windows x \(samples, C"):
            bad()
    inner = pack_weight(w, 4)
    for columns in (np.ones(3, np.float32), np.ones(6, np.float32), np.ones(0, np.float32)):
        with pytest.raises(ValueError, match="Scaled takes"):
            Scaled(inner, columns)
    assert Scaled(inner, np.ones(4, np.float32)).dequantize().shape == w.shape
    with pytest.raises(NotImplementedError, match="embedding cannot use"):
        Scaled(inner, np.ones(4, np.float32)).embedding(np.zeros(1, np.int64))


def test_constant_inputs_and_zero_channels(images):
    """Dead channels and all-zero weights are harmless."""
    _, calibration, _ = images
    layer = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
    layer[0].weight.array[1] = 0
    x = np.concatenate([np.ones_like(calibration[:9]), np.zeros_like(calibration[:9])], 1)
    for method in (lambda m: gptq_(m, x, 2), lambda m: awq_(m, x, 2), lambda m: smoothquant_(m, x)):
        net = method(copy.deepcopy(layer))
        assert np.isfinite(outputs(net, x)).all()
        assert not net[0].weight.array.dequantize()[1].any()
