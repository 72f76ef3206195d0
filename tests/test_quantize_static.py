"""Networks in int8 from end to end: the oracle's bits, training with the deployed network's forward, exact steps."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import minidl
import minidl_kernels as kernels
from minidl import nn, optim, random
from minidl.autograd import no_grad
from minidl.compress import (
    IntegerNet,
    MovingAverage,
    Percentile,
    fold,
    load_net,
    masks,
    prune_,
    quantize_,
    quantize_static,
    record,
    save_net,
)  # fmt: skip
from minidl.compress.quantize.steps import (
    Add,
    AvgPool2d,
    Clamp,
    Codes,
    Conv2d,
    Linear,
    MaxPool2d,
    Pad,
    Quant,
    Reshape,
    codes_of,
    floats_of,
)  # fmt: skip
from minidl.models import DigitsCNN, MobileNetV2, resnet_cifar
from minidl.nn import functional as F
from minidl.storage import Int8
from minidl.tensors import wrap


class Small(nn.Module):
    """Every step there is: padding, strides, groups, depthwise, relu6, residual sums, both pools, and a float op."""

    def __init__(self):
        super().__init__()
        self.stem, self.n1 = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.deep, self.n2 = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.point, self.n3 = nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.groups = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.hidden, self.head = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = F.relu6(self.n1(self.stem(F.pad(x, (0, 1, 0, 1)))))  # N, 8, 6, 6
        y = F.relu6(self.n2(self.deep(x)))
        x = self.n3(self.point(y)) + x  # a sum of two scales
        x = F.max_pool2d(F.relu(x), 2)  # N, 8, 3, 3
        x = F.relu(self.groups(x) + F.pad(x, (0, 0, 0, 0, 0, 4)))  # channels are padded: a float op between
        x = F.avg_pool2d(x, 3).flatten(1)
        return self.head(F.relu(self.hidden(x)))


def small():
    random.manual_seed(0)
    model = Small().train()
    with no_grad():
        for _ in range(4):
            model(images(16))
    return model.eval()


def images(n=8):
    return wrap(random.normal((n, 3, 12, 12)))


def run(net, x):
    with no_grad():
        return net(x).array


def test_a_whole_network_runs_on_codes(monkeypatch):
    model, x = small(), images()
    net = quantize_static(model, images(32))
    assert (
        net.extra_repr() == "deployed; 4 Conv2d, 2 Add, 1 MaxPool2d, 1 pad_constant, 1 AvgPool2d, 1 Reshape, 2 Linear"
    )
    exact, y = run(model, x), run(net, x)
    assert np.linalg.norm(y - exact) < 0.1 * np.linalg.norm(exact)
    called = []
    for name in (
        "static_conv2d",
        "static_linear",
        "static_add",
        "requantize",
        "int8_matmul",
        "conv2d",
        "linear",
        "matmul",
    ):
        real = getattr(kernels, name)
        monkeypatch.setattr(kernels, name, lambda *a, n=name, f=real, **k: called.append(n) or f(*a, **k))
    assert (run(net, x) == y).all()
    assert set(called) == {"static_conv2d", "static_linear", "static_add", "requantize", "int8_matmul"}
    assert called.count("static_conv2d") == 4
    assert all(isinstance(p.array, Int8) for n, p in net.named_parameters() if n.endswith("weight"))


@pytest.mark.parametrize("variant", ["reference", "blas"])
def test_every_variant_gives_the_same_bits(variant):
    net, x = quantize_static(small(), images(16)), images()
    y = run(net, x)
    others = {"requantize": "reference", "static_add": "reference"} if variant == "reference" else {}
    with kernels.use(static_conv2d=variant, static_linear=variant, int8_matmul=variant, **others):
        assert (run(net, x) == y).all()


def test_by_hand():
    """A linear layer small enough to do on paper."""
    model = nn.Linear(2, 1)
    model.weight.array[...] = [[127.0, -63.5]]
    model.bias.array[...] = 10.0
    calibration = np.float32([[0.0, 255.0], [255.0, 0.0]])  # scale 1, zero point -128
    net = quantize_static(model, calibration)
    step = net.steps[0]
    assert (step.x_quant, step.y) == (Quant(1.0, -128), None)
    w, bias, multiplier = step.prepared(net.weight.array, net.bias.array)
    assert w.tolist() == [[127, -64]]  # 63.5 goes to the even neighbour
    assert multiplier.tolist() == [1.0]
    assert bias.tolist() == [10 + 128 * (127 - 64)]
    assert run(net, wrap(np.float32([[3.4, 1.6]]))).tolist() == [[10 + 127 * 3 - 64 * 2]]


# -- exact steps ------------------------------------------------------------------------------------------------------

quants = st.builds(Quant, st.floats(2**-7, 2, width=32).map(float), st.integers(-128, 127))


@given(quants, st.integers(0, 2**32 - 1))
def test_codes_and_floats_are_the_same_thing(quant, seed):
    q = np.random.default_rng(seed).integers(-128, 128, (2, 3, 4, 5)).astype(np.int8)
    floats = floats_of(Codes(q, quant))
    assert floats.shape == (2, 5, 3, 4)
    assert (codes_of(floats, quant).q == q).all()


@given(quants, st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.integers(1, 2))
def test_max_pooling_clamping_padding_and_reshaping_are_exact(quant, seed, window, stride, padding, dilation):
    padding = min(padding, window // 2)
    q = np.random.default_rng(seed).integers(-128, 128, (2, 7, 8, 3)).astype(np.int8)
    codes, x = Codes(q, quant), wrap(floats_of(Codes(q, quant)))
    expected = F.max_pool2d(x, window, stride, padding, dilation).array
    pool = MaxPool2d(0, 1, *[(n, n) for n in (window, stride, padding, dilation)], expected.shape[2:], quant)
    assert (floats_of(pool.integer(codes)) == expected).all()
    assert (pool.straight(x).array == expected).all()
    low, high = quant.code(0.0), quant.code(6.0)
    bounds = [(v - quant.zero) * np.float32(quant.scale) for v in (low, high)]
    clamp = Clamp(0, 1, low, high, quant)
    assert (floats_of(clamp.integer(codes)) == np.clip(x.array, *np.float32(bounds))).all()
    pad = Pad(0, 1, (1, 0, 2, 1), quant)
    assert (floats_of(pad.integer(codes)) == F.pad(x, (1, 0, 2, 1)).array).all()
    flat = Reshape(0, 1, (-1, 168), quant)
    assert (floats_of(flat.integer(codes)) == x.array.reshape(2, 168)).all()
    back = Reshape(0, 1, (-1, 3, 7, 8), quant)
    assert (back.integer(flat.integer(codes)).q == q).all()


@given(quants, quants, quants, st.integers(0, 2**32 - 1))
def test_sums_and_means_are_rounded_once(a, b, y, seed):
    rng = np.random.default_rng(seed)
    p, q = (Codes(rng.integers(-128, 128, (2, 4, 6, 3)).astype(np.int8), quant) for quant in (a, b))
    for step, given_, exact in (
        (Add(0, 1, 2, a, b, y), (p, q), floats_of(p).astype(float) + floats_of(q)),
        (AvgPool2d(0, 1, (2, 3), (2, 3), a, y), (p,), F.avg_pool2d(wrap(floats_of(p).astype(float)), (2, 3)).array),
    ):
        found = step.integer(*given_)
        inside = (found.q > -128) & (found.q < 127)
        error = abs(floats_of(found) - exact).transpose(0, 2, 3, 1)
        # Half a step, and the float32 roundings of the ratios, the products and their sum.
        assert (error[inside] <= y.scale * (0.5 + 1e-4) + 1e-5 * abs(exact).max()).all()


@pytest.mark.parametrize("keep", [False, True])
def test_the_mean_over_an_image_is_a_window(keep, tmp_path):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(2, 5, 1), nn.Linear(5, 3)

        def forward(self, x):
            x = F.relu(self.conv(x)).mean((2, 3), keepdim=keep)
            return self.head(x.flatten(1) if keep else x)

    random.manual_seed(4)
    model, x = Mean().eval(), wrap(random.normal((8, 2, 4, 5)))
    net = quantize_static(model, x)
    assert net.extra_repr() == "deployed; 1 Conv2d, 1 AvgPool2d, 1 Reshape, 1 Linear"
    assert np.linalg.norm(run(net, x) - run(model, x)) < 0.05 * np.linalg.norm(run(model, x))
    training = quantize_static(model, x, deploy=False)
    assert (training(x).detach().numpy() == run(net, x)).all()
    save_net(net, tmp_path / "n.npz")
    assert (run(load_net(tmp_path / "n.npz"), x) == run(net, x)).all()


def test_an_output_that_is_all_bias_keeps_it():
    """A folded batch norm of gamma ~ 0: the weights are tiny, and the bias in units of their scale leaves int32."""
    model = nn.Linear(4, 3)
    model.weight.array[0] = 1e-12
    model.weight.array[1] = 0
    model.bias.array[...] = [5.0, -7.0, 1.0]
    x = random.normal((32, 4))
    y = run(quantize_static(model, x), wrap(x))
    assert abs(y[:, 0] - 5).max() < 1e-5
    assert abs(y[:, 1] + 7).max() < 0.1
    assert abs(y[:, 2] - run(model, wrap(x))[:, 2]).max() < 0.1


def test_a_state_that_is_loaded_is_the_one_that_runs():
    x = images(16)
    one, other = small(), small()
    for p in other.parameters():
        p.array[...] = p.array[...] * 0.5 + 0.1
    a, b = quantize_static(one, x), quantize_static(other, x)
    b.steps, b.quants = copy.deepcopy(a.steps), a.quants  # the same scales of activations
    expected = run(b, x)
    assert (run(a, x) != expected).any()
    a.load_state_dict(b.state_dict())
    assert (run(a, x) == expected).all()


def test_saturated_inputs_and_nan():
    net = quantize_static(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)), random.normal((16, 2)))
    y = run(net, wrap(np.float32([[1e30, -1e30], [np.inf, np.nan], [0, 0]])))
    assert np.isfinite(y).all()
    assert (y[1] != y[2]).any()


# -- training ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: (nn.Linear(7, 5), (7,)),
    lambda: (nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()), (3, 9, 9)),
    lambda: (DigitsCNN(), (1, 8, 8)),
    lambda: (small(), (3, 12, 12)),
    lambda: (resnet_cifar(8, num_classes=4, width=8), (3, 9, 9)),
])  # fmt: skip
def test_the_forward_of_training_is_the_deployed_networks_bit_for_bit(make):
    model, shape = make()
    random.manual_seed(1)
    x, y = wrap(random.normal((6, *shape))), wrap(np.arange(6) % 4)
    net = quantize_static(model.eval(), x, deploy=False)
    assert not net.deployed
    optimizer = optim.SGD(net.parameters(), lr=0.01)
    for _ in range(2):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        assert all(np.isfinite(p.grad.array).all() for p in net.parameters())
        optimizer.step()
    for n in (1, 6):
        trained = net(x[:n]).detach().numpy()
        deployed = copy.deepcopy(net).deploy_()
        assert deployed.deployed
        assert (run(deployed, x[:n]) == trained).all()
        assert len(np.unique(trained)) > 1


def test_training_in_integers_learns():
    random.manual_seed(6)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 4))
    x, y = wrap(random.uniform((16, 1, 8, 8))), wrap(np.arange(16) % 4)
    net = quantize_static(model, x, deploy=False)
    optimizer, losses = optim.Adam(net.parameters(), lr=0.01), []
    for step in range(60):
        if step % 10 == 0:
            net.recalibrate_(x)
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    with no_grad():
        assert F.cross_entropy(net.deploy_()(x), y).item() < 0.7 * losses[0]
    with pytest.raises(RuntimeError, match="only before deploy_"):
        net.recalibrate_(x)


def test_straight_through_gradients_are_those_of_the_rounded_float_layer():
    """Where no code is cut off, the gradients are the float layer's at the rounded weight and input."""
    import torch

    random.manual_seed(2)
    x = random.normal((3, 2, 6, 5))
    model = nn.Sequential(nn.Conv2d(2, 4, 3, stride=(2, 1), padding=(1, 0), groups=2))
    net = quantize_static(model, np.concatenate([4 * x, -4 * x]), deploy=False)  # nothing is cut off
    step = net.steps[0]
    step.y = Quant(1.0, 0)
    leaf = wrap(x, True)
    dy = random.normal(net(leaf).shape)
    (net(leaf) * wrap(dy)).sum().backward()
    seen = codes_of(x, step.x_quant)
    packed = copy.deepcopy(net).deploy_().get_parameter("0.weight").array.dequantize()
    tx = torch.from_numpy(floats_of(seen)).requires_grad_()
    tw, tb = torch.from_numpy(packed).requires_grad_(), torch.zeros(4, requires_grad=True)
    torch.nn.functional.conv2d(tx, tw, tb, (2, 1), (1, 0), 1, 2).backward(torch.from_numpy(dy))
    for ours, theirs in (
        (leaf.grad, tx.grad),
        (net.get_parameter("0.weight").grad, tw.grad),
        (net.get_parameter("0.bias").grad, tb.grad),
    ):
        assert np.allclose(ours.array, theirs.numpy(), atol=1e-4)


def test_nothing_flows_where_a_code_was_cut_off():
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    model[0].weight.array[...] = 1
    net = quantize_static(model, np.float32([[-1], [1]]), deploy=False)
    for value, passes in ((0.5, True), (-0.5, False), (50.0, False)):
        x = wrap(np.float32([[value]]), True)
        net(x).sum().backward()
        assert bool(x.grad.array.any()) == passes


# -- one file ---------------------------------------------------------------------------------------------------------


def test_pruned_retrained_quantized_in_one_file_without_the_code(tmp_path):
    random.manual_seed(3)
    model = prune_(small(), 0.8)
    x, y = images(16), wrap(np.arange(16) % 5)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    kept = masks(model)
    net = quantize_static(model.eval(), x)
    path = tmp_path / "net.safetensors"
    size = save_net(net, path)
    assert size == path.stat().st_size
    again = load_net(path)
    assert isinstance(again, IntegerNet)
    assert again.deployed
    assert (run(again, x) == run(net, x)).all()
    assert {n: m.tolist() for n, m in masks(again).items()} == {n: m.tolist() for n, m in kept.items()}
    for name, mask in kept.items():
        assert not again.get_parameter(name).array.q[~mask].any()
    # Float weights of an unpruned net take more than the whole file of this one.
    assert size - int.from_bytes(path.read_bytes()[:8], "little") < 0.27 * sum(
        4 * p.numel() for p in model.parameters()
    )
    training = quantize_static(model, x, deploy=False)
    save_net(training, path)
    assert (load_net(path)(x).detach().numpy() == run(net, x)).all()


# -- bad input ---------------------------------------------------------------------------------------------------------


def test_bad_input_leaves_the_model_as_it_was():
    model = small()
    before = {k: v.array.copy() for k, v in model.state_dict().items()}
    nan = images()
    nan.array[0, 0, 0, 0] = np.nan
    for data, message in (
        ([], "calibration data are empty"),
        (images()[:0], "are empty"),
        (nan, "NaN or infinity in the activations"),
    ):
        with pytest.raises(ValueError, match=message):
            quantize_static(model, data)
    assert all((v.array == before[k]).all() for k, v in model.state_dict().items())
    assert model.training is False
    broken = small()
    broken.head.weight.array[0, 0] = np.inf
    with pytest.raises(ValueError, match=r"head\.weight holds NaN or infinity"):
        quantize_static(broken, images())
    with pytest.raises(TypeError, match=r"head\.weight is packed as int8 already|packed as int8 already"):
        quantize_static(quantize_(small()), images())
    with pytest.raises(TypeError, match="float64, not float32"):
        quantize_static(small().double(), images().double())
    net = quantize_static(small(), images())
    with pytest.raises(ValueError, match=r"takes inputs \(N, 3, 12, 12\), got \(1, 3, 11, 12\)"):
        net(minidl.zeros(1, 3, 11, 12))
    with pytest.raises(ValueError, match="no Linear, Conv2d"):
        quantize_(net)


def test_constant_activations_and_dead_channels():
    model = small()
    model.deep.weight.array[3] = 0
    model.n2.weight.array[4] = 0
    x = minidl.zeros(4, 3, 12, 12)
    net = quantize_static(model, x)  # all images are 0
    y = run(net, x)
    assert np.isfinite(y).all()
    assert abs(y - run(model, x)).max() < 0.05 * (1 + abs(y).max())


def test_observers_and_shapes_of_calibration():
    model, x = small(), images(24)
    for observer in (MovingAverage, lambda: Percentile(99.9)):
        net = quantize_static(model, [(x[:8], None), (x[8:], None)], observer=observer)
        assert np.linalg.norm(run(net, x) - run(model, x)) < 0.2 * np.linalg.norm(run(model, x))
    first = quantize_static(model, x)
    second = quantize_static(fold(record(model, x)), x)
    assert (run(first, x) == run(second, x)).all()


@pytest.mark.slow
def test_mobilenet_and_resnet_stay_close():
    random.manual_seed(5)
    for model in (MobileNetV2(num_classes=10), resnet_cifar(20)):
        x = wrap(random.normal((8, 3, 32, 32)))
        model.train()
        with no_grad():
            for _ in range(10):
                model(x)
        net = quantize_static(model.eval(), x)
        assert not any(kind in net.extra_repr() for kind in ("mul", "hard_range", "relu"))
        a, b = run(model, x), run(net, x)
        assert (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()) > 0.99
        assert {type(s) for s in net.steps} <= {Conv2d, Linear, Add, MaxPool2d, AvgPool2d, Reshape}
