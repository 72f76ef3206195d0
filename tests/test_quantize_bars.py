"""The bars of quantization: accuracy on the digits over three seeds, and a pretrained network on photographs."""

import copy

import numpy as np
import pytest
import skimage.data

from minidl import nn, optim, random
from minidl.autograd import no_grad
from minidl.compress import fold, load_net, quantize_, quantize_static, record, save_model, save_net
from minidl.data import digits
from minidl.models import DigitsCNN, efficientnet_lite0, efficientnet_lite0_images
from minidl.nn import functional as F
from minidl.tensors import wrap


def run(model, x):
    with no_grad():
        return model(wrap(x)).array


@pytest.mark.slow
@pytest.mark.trains
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_int8_is_within_half_a_point_on_the_digits(seed):
    x, y = digits()
    x = x[:, None].astype(np.float32) / 16
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[:1437], order[1437:]
    random.manual_seed(seed)
    model = nn.Sequential(DigitsCNN(width=24))
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(8):
        np.random.default_rng(seed).shuffle(train)
        for i in range(0, len(train), 32):
            rows = train[i : i + 32]
            loss = F.cross_entropy(model(wrap(x[rows])), wrap(y[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    right = lambda net: float((run(net, x[test]).argmax(1) == y[test]).mean())
    exact = right(model)
    assert exact > 0.97
    for net in (
        quantize_(copy.deepcopy(model)), quantize_(copy.deepcopy(model), calibration=x[train[:256]]),
        quantize_static(model, x[train[:256]]), quantize_(copy.deepcopy(model), weight_only=True),
    ):  # fmt: skip
        assert abs(right(net) - exact) <= 0.005


def cosine(a, b):
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


@pytest.mark.slow
@pytest.mark.trains
def test_efficientnet_on_photographs(tmp_path):
    """Per-channel int8 weights keep a cosine of .99; all of it in integers stays near, in a quarter of the bytes."""
    photos = [skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket(), skimage.data.astronaut()]
    x = efficientnet_lite0_images(photos).array
    others = efficientnet_lite0_images([p[:, ::-1] for p in photos] + [p[::-1] for p in photos]).array
    model = efficientnet_lite0()
    exact = run(model, x)
    folded = fold(record(model, others[:2]))
    assert {s.op for s in folded.steps} == {
        "pad_constant", "conv2d", "hard_range", "add", "avg_pool2d", "reshape", "linear",
    }  # fmt: skip
    assert cosine(run(folded, x), exact).min() > 0.9999
    weights = quantize_(copy.deepcopy(model), weight_only=True)
    assert cosine(run(weights, x), exact).mean() > 0.99
    net = quantize_static(model, others)
    assert net.extra_repr() == "deployed; 49 Conv2d, 9 Add, 1 AvgPool2d, 1 Reshape, 1 Linear"
    y = run(net, x)
    assert cosine(y, exact).min() > 0.97
    assert cosine(y, exact).mean() > 0.98
    size, floats = save_net(net, tmp_path / "int8.safetensors"), save_model(model, tmp_path / "float.safetensors")
    assert size < 0.27 * floats
    assert (run(load_net(tmp_path / "int8.safetensors"), x[:1]) == y[:1]).all()
