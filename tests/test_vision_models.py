"""ResNet, MobileNet, ShuffleNet, ViT, DCGAN and U-Net against torch: names, sizes, outputs, gradients, statistics.

The twin of each network is its formula in torch.nn.functional, reading the weights by torchvision's names. So a weight
under a wrong name, a norm in the wrong place or a stride on the wrong convolution shows.
"""

import math
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import minidl
from minidl import nn
from minidl.models import (
    BasicBlock,
    Bottleneck,
    Discriminator,
    Generator,
    MobileNetV1,
    MobileNetV2,
    ResNet,
    ShuffleNetV2,
    UNet,
    VisionTransformer,
    resnet18,
    resnet34,
    resnet50,
    resnet_cifar,
    shufflenet_v2_x0_5,
    shufflenet_v2_x1_0,
    vit_tiny,
)
from minidl.tensors import wrap


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def stored(model):
    """Parameters and running statistics, as Keras counts."""
    return sum(t.numel() for t in model.state_dict().values() if t.is_floating_point())


# -- sizes and names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "count", "names"),
    [
        (resnet18, 11_689_512, 3269535270),
        pytest.param(resnet34, 21_797_672, 2402879462, marks=pytest.mark.slow),
        pytest.param(resnet50, 25_557_032, 389688817, marks=pytest.mark.slow),
        (MobileNetV2, 3_504_872, 3710894366),
        (shufflenet_v2_x0_5, 1_366_792, 270297236),
        (shufflenet_v2_x1_0, 2_278_604, 2682776781),
        pytest.param(
            lambda: VisionTransformer(224, 16, 12, 12, 768, 3072), 86_567_656, 1118632573, marks=pytest.mark.slow
        ),
    ],
)
def test_names_and_shapes_are_torchvisions(make, count, names):
    """`names` is the checksum of torchvision 0.28's own state_dict: a line of name and shape for each tensor."""
    model = make()
    listed = "\n".join(f"{name} {tuple(t.shape)}" for name, t in model.state_dict().items())
    assert parameters(model) == count
    assert zlib.crc32(listed.encode()) == names


def test_counts_of_the_other_networks():
    assert (parameters(MobileNetV1()), stored(MobileNetV1())) == (4_231_976, 4_253_864)
    assert (parameters(Generator()), stored(Generator())) == (2_305_472, 2_330_944)
    assert parameters(Discriminator()) == 212_865
    assert parameters(resnet_cifar(20)) == 272_474
    assert parameters(vit_tiny()) == 136_138
    assert parameters(UNet()) == 649_761


# -- the twins --------------------------------------------------------------------------------------------------------


class Twin:
    """Layers of torch by the names of their weights."""

    def __init__(self, weights, training):
        self.w, self.training = weights, training

    def has(self, name):
        return any(key.startswith(name + ".") for key in self.w)

    def conv(self, name, x, stride=1, padding=0, groups=1):
        return TF.conv2d(x, self.w[name + ".weight"], self.w.get(name + ".bias"), stride, padding, 1, groups)

    def bn(self, name, x):
        w, b, mean, var = (self.w[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var"))
        return TF.batch_norm(x, mean, var, w, b, self.training)

    def cb(self, conv, bn, x, *geometry):
        return self.bn(bn, self.conv(conv, x, *geometry))

    def linear(self, name, x):
        return TF.linear(x, self.w[name + ".weight"], self.w.get(name + ".bias"))

    def norm(self, name, x, eps):
        return TF.layer_norm(x, x.shape[-1:], self.w[name + ".weight"], self.w[name + ".bias"], eps)

    def group_norm(self, name, x):
        return TF.group_norm(x, min(8, x.shape[1] // 4), self.w[name + ".weight"], self.w[name + ".bias"])

    def attention(self, name, x, heads):
        """Query, key and value all x, (N, T, E)."""
        q, k, v = (
            y.unflatten(-1, (heads, -1)).transpose(1, 2)
            for y in TF.linear(x, self.w[name + ".in_proj_weight"], self.w[name + ".in_proj_bias"]).chunk(3, -1)
        )
        p = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        return self.linear(name + ".out_proj", (p @ v).transpose(1, 2).flatten(2))

    def blocks(self, name):
        """The names name.0, name.1, ... as far as there are any."""
        i = 0
        while self.has(f"{name}.{i}"):
            yield f"{name}.{i}"
            i += 1


def resnet(t, x):
    if t.w["conv1.weight"].shape[-1] == 7:
        x = TF.max_pool2d(t.cb("conv1", "bn1", x, 2, 3).relu(), 3, 2, 1)
    else:
        x = t.cb("conv1", "bn1", x, 1, 1).relu()
    for stage in (s for s in range(1, 5) if t.has(f"layer{s}")):
        for i, b in enumerate(t.blocks(f"layer{stage}")):
            stride = 2 if stage > 1 and i == 0 else 1
            if t.has(b + ".conv3"):
                y = t.cb(b + ".conv1", b + ".bn1", x).relu()
                y = t.cb(b + ".conv2", b + ".bn2", y, stride, 1).relu()
                y = t.cb(b + ".conv3", b + ".bn3", y)
            else:
                y = t.cb(b + ".conv1", b + ".bn1", x, stride, 1).relu()
                y = t.cb(b + ".conv2", b + ".bn2", y, 1, 1)
            if t.has(b + ".se"):
                s = t.conv(b + ".se.fc1", y.mean((2, 3), keepdim=True)).relu()
                y = y * t.conv(b + ".se.fc2", s).sigmoid()
            down = b + ".downsample"
            x = (y + (t.cb(down + ".0", down + ".1", x, stride) if t.has(down) else x)).relu()
    return t.linear("fc", x.mean((2, 3)))


def mobilenet_v1(t, x):
    x = t.cb("features.0.0", "features.0.1", x, 2, 1).relu()
    strides = dict.fromkeys((2, 4, 6, 12), 2)
    for i in range(1, 14):
        b = f"features.{i}"
        x = t.cb(b + ".0.0", b + ".0.1", x, strides.get(i, 1), 1, x.shape[1]).relu()
        x = t.cb(b + ".1.0", b + ".1.1", x).relu()
    return t.linear("classifier.1", x.mean((2, 3)))


def mobilenet_v2(t, x):
    x = TF.relu6(t.cb("features.0.0", "features.0.1", x, 2, 1))
    for i in range(1, 18):
        b, y, stride = f"features.{i}.conv", x, 2 if i in (2, 4, 7, 14) else 1
        if i > 1:
            y = TF.relu6(t.cb(b + ".0.0", b + ".0.1", y))
        j = int(i > 1)
        y = TF.relu6(t.cb(f"{b}.{j}.0", f"{b}.{j}.1", y, stride, 1, y.shape[1]))
        y = t.cb(f"{b}.{j + 1}", f"{b}.{j + 2}", y)
        x = x + y if x.shape == y.shape else y
    x = TF.relu6(t.cb("features.18.0", "features.18.1", x))
    return t.linear("classifier.1", x.mean((2, 3)))


def shufflenet_v2(t, x):
    x = TF.max_pool2d(t.cb("conv1.0", "conv1.1", x, 2, 1).relu(), 3, 2, 1)
    for stage in ("stage2", "stage3", "stage4"):
        for i, u in enumerate(t.blocks(stage)):
            a, b = (x, x) if i == 0 else x.chunk(2, 1)
            if i == 0:
                a = t.cb(u + ".branch1.0", u + ".branch1.1", a, 2, 1, a.shape[1])
                a = t.cb(u + ".branch1.2", u + ".branch1.3", a).relu()
            b = t.cb(u + ".branch2.0", u + ".branch2.1", b).relu()
            b = t.cb(u + ".branch2.3", u + ".branch2.4", b, 1 if i else 2, 1, b.shape[1])
            b = t.cb(u + ".branch2.5", u + ".branch2.6", b).relu()
            x = torch.stack([a, b], 2).flatten(1, 2)  # a0 b0 a1 b1 ...
    return t.linear("fc", t.cb("conv5.0", "conv5.1", x).relu().mean((2, 3)))


def vit(t, x):
    w = t.w["conv_proj.weight"]
    x = t.conv("conv_proj", x, w.shape[-1]).flatten(2).mT
    x = torch.cat([t.w["class_token"].expand(len(x), -1, -1), x], 1) + t.w["encoder.pos_embedding"]
    for i in range(2):
        b = f"encoder.layers.encoder_layer_{i}"
        x = x + t.attention(b + ".self_attention", t.norm(b + ".ln_1", x, 1e-6), 2)
        x = x + t.linear(b + ".mlp.3", TF.gelu(t.linear(b + ".mlp.0", t.norm(b + ".ln_2", x, 1e-6))))
    return t.linear("heads.head", t.norm("encoder.ln", x, 1e-6)[:, 0])


def generator(t, z):
    x = t.bn("1", t.linear("0", z)).relu().unflatten(1, (-1, 2, 2))
    x = t.bn("5", TF.conv_transpose2d(x, t.w["4.weight"], padding=2)).relu()
    x = t.bn("8", TF.conv_transpose2d(x, t.w["7.weight"], None, 2, 2, 1)).relu()
    return TF.conv_transpose2d(x, t.w["10.weight"], None, 2, 2, 1).tanh()


def discriminator(t, x):
    x = TF.leaky_relu(t.conv("0", x, 2, 2), 0.2)
    x = TF.leaky_relu(t.conv("3", x, 2, 2), 0.2)
    return t.linear("7", x.flatten(1))


def unet(t, x, times):
    rates = 10_000.0 ** -(torch.arange(16, dtype=torch.float64) / 16)
    angles = times[:, None] * rates.float().double()  # the table is float32
    time = torch.cat([angles.sin(), angles.cos()], 1)
    time = t.linear("time.mlp.2", TF.silu(t.linear("time.mlp.0", time)))

    def residual(b, x):
        y = t.conv(b + ".conv1", TF.silu(t.group_norm(b + ".norm1", x)), 1, 1)
        y = y + t.linear(b + ".time", TF.silu(time))[:, :, None, None]
        y = t.conv(b + ".conv2", TF.silu(t.group_norm(b + ".norm2", y)), 1, 1)
        return y + (t.conv(b + ".around", x) if t.has(b + ".around") else x)

    x = t.conv("first", x, 1, 1)
    top = residual("down.0", x)
    low = residual("down.1", t.conv("smaller.0", top, 2, 1))
    x = residual("middle", low)
    places = t.group_norm("attention.norm", x).flatten(2).mT
    x = x + t.attention("attention.attention", places, 4).mT.reshape(x.shape)
    x = residual("up.0", torch.cat([x, low], 1))
    x = residual("up.1", torch.cat([TF.interpolate(x, scale_factor=2.0), top], 1))
    return t.conv("last", TF.silu(t.group_norm("norm", x)), 1, 1)


IMAGE = (2, 3, 64, 64)  # down to 2 x 2 places: statistics over 8 values
NETWORKS = {
    "resnet": (lambda: ResNet(BasicBlock, [2, 1, 1, 1], 5, widths=(4, 8, 8, 8)), resnet, IMAGE),
    "resnet, bottleneck": (lambda: ResNet(Bottleneck, [1, 2, 1, 1], 5, widths=(4, 4, 4, 4)), resnet, IMAGE),
    "resnet, small": (lambda: resnet_cifar(14, 5, width=4, in_channels=1), resnet, (3, 1, 8, 8)),
    "resnet, squeeze": (lambda: resnet_cifar(8, 5, width=8, squeeze=4), resnet, (3, 3, 8, 8)),
    "mobilenet v1": (lambda: MobileNetV1(5, width_mult=0.25), mobilenet_v1, IMAGE),
    "mobilenet v2": (lambda: MobileNetV2(5, width_mult=0.25, dropout=0.0), mobilenet_v2, IMAGE),
    "shufflenet v2": (lambda: ShuffleNetV2([2, 1, 1], [8, 16, 24, 32, 40], 5), shufflenet_v2, IMAGE),
    "vit": (lambda: VisionTransformer(16, 4, 2, 2, 16, 24, num_classes=5), vit, (2, 3, 16, 16)),
    "generator": (lambda: Generator(6, (1, 8, 8), width=4), generator, (3, 6)),
    "discriminator": (lambda: Discriminator((1, 8, 8), width=4, dropout=0.0), discriminator, (3, 1, 8, 8)),
    "unet": (lambda: UNet(1, 8, (1, 2)), unet, (3, 1, 8, 8)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_gradients_and_statistics_are_torchs(name):
    """In float64, where the two differ by rounding alone: some 1e-16 a step, a few thousand steps at most."""
    make, twin, shape = NETWORKS[name]
    minidl.manual_seed(1)
    model = make().double()
    for p in model.parameters():  # also where layers begin with zeros
        p.array[...] += 0.05 * minidl.random.normal(tuple(p.shape), dtype=np.float64)
    x = minidl.random.normal(shape, dtype=np.float64)
    times = [np.array([0.0, 3.5, 900.0])] if name == "unet" else []

    weights = {n: torch.tensor(t.array.copy()) for n, t in model.state_dict().items()}
    for n, _ in model.named_parameters():
        weights[n].requires_grad_()
    direction = None
    for training in (True, False):
        model.train(training)
        model.zero_grad()
        y = model(wrap(x), *map(wrap, times))
        y_torch = twin(Twin(weights, training), torch.tensor(x), *map(torch.tensor, times))
        np.testing.assert_allclose(y.detach().numpy(), y_torch.detach().numpy(), rtol=1e-9, atol=1e-11)
        if training:
            direction = minidl.random.normal(tuple(y.shape), dtype=np.float64)
            (y * wrap(direction)).sum().backward()
            (y_torch * torch.tensor(direction)).sum().backward()
            for n, p in model.named_parameters():
                theirs = weights[n].grad.numpy()
                np.testing.assert_allclose(
                    p.grad.numpy(), theirs, rtol=1e-7, atol=1e-9 * abs(theirs).max() + 1e-12, err_msg=n
                )
        for n, buffer in model.named_buffers():
            if n in weights and n.endswith(("mean", "var")):
                np.testing.assert_allclose(buffer.numpy(), weights[n].numpy(), rtol=1e-9, atol=1e-12, err_msg=n)


# -- what the pages promise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_zero_init_makes_every_block_the_identity(block):
    model = ResNet(block, [2, 2], 3, zero_init_residual=True, in_channels=1, widths=(4, 4), small=True).eval()
    x = minidl.randn(2, 4 * block.expansion, 6, 6).relu()
    assert (model.layer1[1](x).array == x.array).all()
    assert (model.layer1[1](-x).array == 0).all()  # the relu after the sum


def test_without_skips_there_is_no_way_around():
    model = resnet_cifar(8, skip=False, width=4)
    assert not any("downsample" in name for name in model.state_dict())
    for stage in range(1, 4):
        nn.init.zeros_(model.get_submodule(f"layer{stage}")[0].bn2.weight)
    assert np.ptp(model.eval()(minidl.randn(4, 3, 8, 8)).array, 0).max() == 0  # nothing of the image comes through


def test_a_hook_gives_the_features_of_any_layer():
    model = resnet_cifar(8, in_channels=1, width=4).eval()
    seen = {}
    handle = model.layer2.register_forward_hook(lambda module, args, y: seen.update(y=y))
    x = minidl.randn(3, 1, 8, 8)
    logits = model(x)
    handle.remove()
    assert seen["y"].shape == (3, 8, 4, 4)
    assert (model.fc(model.features(x)).array == logits.array).all()


def test_sizes_they_cannot_take():
    for make, words in [
        (lambda: ResNet(BasicBlock, [1, 1], widths=(4, 4, 4)), "2 stages"),
        (lambda: resnet_cifar(18), r"6 n \+ 2"),
        (lambda: ShuffleNetV2([1, 1], [4] * 5), "3 repeats"),
        (lambda: ShuffleNetV2([2, 1, 1], [8, 15, 24, 32, 40]), "k must be even"),
        (lambda: VisionTransformer(10, 4, 1, 1, 8, 8), "patches of 4"),
        (lambda: vit_tiny()(minidl.zeros(1, 1, 10, 8)), "images of 8"),
        (lambda: Generator(image=(1, 10, 8)), "multiples of 4"),
        (lambda: Discriminator((1, 8, 2)), "multiples of 4"),
        (lambda: UNet(width=4)(minidl.zeros(1, 1, 6, 8), minidl.zeros(1)), "multiples of 4"),
    ]:
        with pytest.raises(ValueError, match=words):
            make()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_state_comes_back_bit_for_bit(name, tmp_path):
    make, _, shape = NETWORKS[name]
    model, other = make().eval(), make().eval()
    inputs = [minidl.randn(*shape), *([minidl.tensor([0, 3, 900])] if name == "unet" else [])]
    minidl.save(model.state_dict(), tmp_path / "model.safetensors")
    other.load_state_dict(minidl.load(tmp_path / "model.safetensors"))
    assert (model(*inputs).array == other(*inputs).array).all()
