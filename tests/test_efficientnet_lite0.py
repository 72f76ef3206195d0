"""EfficientNet-Lite0 with its ImageNet weights: the same logits as torch's ops give, on photographs."""

import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F

import minidl
from minidl.io import CheckpointError
from minidl.models import EfficientNetLite0, efficientnet_lite0, efficientnet_lite0_images
from minidl.models.efficientnet_lite0 import STAGES


def photos():
    return [skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket()]


CLASSES = [{281, 282, 285}, {967}, {657}]  # ImageNet's cats; espresso; missile


@pytest.fixture(scope="module")
def model():
    return efficientnet_lite0()


def with_torch(state, x):
    """The same network, written with torch's functions on the file's tensors, in evaluation."""
    w = {name: torch.from_numpy(t.array) for name, t in state.items()}

    def conv(x, name, stride=1, groups=1):
        kernel = w[f"{name}.weight"].shape[-1]
        border = []
        for n in (x.shape[3], x.shape[2]):
            total = max((-(-n // stride) - 1) * stride + kernel - n, 0)
            border += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, border), w[f"{name}.weight"], stride=stride, groups=groups)

    def norm(x, name):
        mean, var, scale, shift = (w[f"{name}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, scale, shift, False, 0.0, 1e-3)

    x = F.relu6(norm(conv(torch.from_numpy(x), "_conv_stem", 2), "_bn0"))
    number = 0
    for _, first_stride, expansion, _, repeats in STAGES:
        for i in range(repeats):
            name, stride, y = f"_blocks.{number}.", 1 if i else first_stride, x
            if expansion > 1:
                y = F.relu6(norm(conv(y, name + "_expand_conv"), name + "_bn0"))
            y = F.relu6(norm(conv(y, name + "_depthwise_conv", stride, y.shape[1]), name + "_bn1"))
            y = norm(conv(y, name + "_project_conv"), name + "_bn2")
            x = y + x if y.shape == x.shape else y
            number += 1
    x = F.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))
    return F.linear(x, w["_fc.weight"], w["_fc.bias"]).numpy()


@pytest.mark.parametrize("size", [224, 97])  # 97: an odd number of rows everywhere
def test_logits_are_torchs_on_photographs(model, size):
    x = efficientnet_lite0_images(photos(), size)
    with minidl.no_grad():
        ours = model(x).array
    theirs = with_torch(model.state_dict(), x.array)
    # Float32 over 50 layers in another order of summation; the logits are up to 12.
    assert abs(ours - theirs).max() <= 1e-4 * abs(theirs).max()
    if size == 224:
        assert all(int(row.argmax()) in right for row, right in zip(ours, CLASSES, strict=True))


def test_a_file_of_another_model_is_refused(tmp_path):
    minidl.save(minidl.nn.Linear(2, 1).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"w\.safetensors: does not fit EfficientNet-Lite0"):
        efficientnet_lite0(tmp_path / "w.safetensors")


def test_it_trains_another_number_of_classes():
    model = EfficientNetLite0(classes=3)
    loss = minidl.nn.functional.cross_entropy(model(minidl.randn(2, 3, 32, 32)), minidl.tensor([0, 2]))
    loss.backward()
    assert all(p.grad is not None and np.isfinite(p.grad.array).all() for p in model.parameters())


def test_photographs_that_are_none():
    with pytest.raises(ValueError, match=r"photo 0 has shape \(4, 4, 4\)"):
        efficientnet_lite0_images(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(TypeError, match="float64"):
        efficientnet_lite0_images([np.zeros((4, 4, 3))])
