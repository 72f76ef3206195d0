"""Slim models compute what the masked ones compute, with smaller arrays, whatever the net looks like."""

import copy

import numpy as np
import pytest

import minidl
import minidl.nn.functional as F
from minidl import models, nn, optim, random
from minidl.compress import (
    SlimError,
    load_model,
    masks,
    prune_,
    prune_channels_,
    quantize_,
    save_model,
    slim,
    structure,
    taylor,
)
from minidl.tensors import wrap


class ResBlock(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)
        self.conv2, self.bn2 = nn.Conv2d(c, c, 3, padding=1, bias=False), nn.BatchNorm2d(c)

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y))
        y += x
        return y.relu()


def resnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), ResBlock(8), ResBlock(8),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def mobile():
    def block(i, o):
        return [
            nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False), nn.BatchNorm2d(i), nn.ReLU6(),
            nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o), nn.Hardswish(),
        ]  # fmt: skip

    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(), *block(6, 10), *block(10, 8), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


class Dense(nn.Module):
    """Each layer reads all before it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(14, 4, 1)
        self.norm, self.fc = nn.BatchNorm2d(14), nn.Linear(4 * 4 * 4, 4)

    def forward(self, x):
        y = minidl.cat([x, self.a(x).relu()], 1)
        y = minidl.cat([y, F.leaky_relu(self.b(y), 0.1)], dim=1)
        y = self.c(self.norm(y)).relu()
        y = F.avg_pool2d(y, 2)
        return self.fc(y.flatten(1))


class Excite(nn.Module):
    """Squeeze and excitation: a channel times a gate made of all channels. f(0) of the gate is not 0."""

    def __init__(self):
        super().__init__()
        self.conv, self.down, self.up = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(4, 8)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = self.conv(x).relu()
        gate = self.up(self.down(y.mean((2, 3))).relu()).sigmoid()
        return self.last(y * gate[:, :, None, None]).sum((2, 3))


class Mine(nn.Module):
    """No layer of nn at all."""

    def __init__(self):
        super().__init__()
        draw = lambda *s: nn.Parameter(wrap(random.normal(s).astype(np.float32)))
        self.w1, self.b1, self.w2, self.scale = draw(3 * 64, 10), draw(1, 10), draw(4, 10), draw(10)

    def forward(self, x):
        x = x.reshape(len(x), -1)
        h = (x @ self.w1 + self.b1).tanh() * self.scale
        return h @ self.w2.T


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3, groups=4), nn.Conv2d(12, 4, 1)
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2)
        self.last = nn.Conv2d(6, 4, 1)

    def forward(self, x):
        x = self.c(self.b(self.a(x).relu()).relu()).relu()
        return F.max_pool2d(self.last(self.up(x).relu()), 2).amax((2, 3))


class Signal(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(24, 9, 3, padding="same")
        self.norm, self.act = nn.BatchNorm1d(9), nn.PReLU(9)
        self.fc = nn.Linear(9, 4)

    def forward(self, x):
        return self.fc(self.act(self.norm(self.conv(x.reshape(len(x), 24, 8)))).permute(0, 2, 1)).mean(1)


class Recurrent(nn.Module):
    def __init__(self, kind, **how):
        super().__init__()
        self.body = getattr(nn, kind)(24, 10, num_layers=2, batch_first=True, **how)
        self.head = nn.Linear(20 if how.get("bidirectional") else 10, 4)

    def forward(self, x):
        y, _ = self.body(x.reshape(len(x), 8, 24))
        return self.head(y[:, -1])


class Attending(nn.Module):
    """What layer norms read stays; heads and the feed-forward parts' neurons go."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(24, 12)
        self.places = nn.Parameter(wrap(random.normal((1, 8, 12)).astype(np.float32)))
        self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, 20, 0.0, F.gelu, batch_first=True), 2)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.body(self.first(x.reshape(len(x), 8, 24)) + self.places).mean(1))


class Halves(nn.Module):
    """ShuffleNetV2's way: half of the channels past the branch, then shuffled. Halves stay halves."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x):
        past, y = self.a(x).relu().chunk(2, 1)
        y = minidl.cat([past, self.c(self.b(y).relu())], 1)
        return self.last(y).sum((2, 3))


class Tied(nn.Module):
    """One weight makes the hidden units and reads them."""

    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Linear(3 * 64, 16), nn.Linear(3 * 64, 4)

    def forward(self, x):
        return self.c(F.linear(self.a(x.flatten(1)).relu(), self.a.weight.T))


class Cell(nn.Module):
    """A cell in a loop, that makes its first state itself."""

    def __init__(self):
        super().__init__()
        self.a, self.cell, self.b = nn.Linear(24, 64), nn.GRUCell(64, 10), nn.Linear(10, 4)

    def forward(self, x):
        x = self.a(x.reshape(len(x), 8, 24)).relu()
        h = None
        for t in range(8):
            h = self.cell(x[:, t], h)
        return self.b(h)


class Normed(nn.Module):
    """Group norm needs its channels; those behind it go."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.c = (
            nn.Conv2d(3, 4, 3),
            nn.GroupNorm(2, 4),
            nn.Conv2d(4, 16, 3),
            nn.Linear(16, 4),
        )

    def forward(self, x):
        return self.c(self.b(self.norm(self.a(x)).relu()).relu().amax((2, 3)))


class UNet(nn.Module):
    """Down, up, and what was beside."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.up, self.c, self.last = nn.ConvTranspose2d(8, 8, 2, 2), nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        a = self.a(x).relu()
        y = self.up(self.b(F.max_pool2d(a, 2)).relu()).relu()
        return self.last(self.c(minidl.cat([y, a], 1)).relu()).mean((2, 3))


NETS = {
    "halves": Halves,
    "tied": Tied,
    "cell": Cell,
    "normed": Normed,
    "unet": UNet,
    "resnet": resnet,
    "mobile": mobile,
    "dense": Dense,
    "excite": Excite,
    "mine": Mine,
    "grouped": Grouped,
    "signal": Signal,
    "rnn": lambda: Recurrent("RNN"),
    "lstm": lambda: Recurrent("LSTM"),
    "gru": lambda: Recurrent("GRU"),
    "gru without bias": lambda: Recurrent("GRU", bias=False),
    "attending": Attending,
}


def made(name):
    """A net with batch norms that have seen something, so that mean and shift are not 0."""
    model = NETS[name]().double()
    for m in model.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            for t in (m.weight, m.bias, m.running_mean):
                t.array[...] = random.normal(t.shape)
            m.running_var.array[...] = random.uniform(m.running_var.shape) + 0.5
    return model.eval()


def images(n=3):
    return wrap(random.normal((n, 3, 8, 8)).astype(np.float64))


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("name", NETS)
def test_the_slim_net_computes_what_the_masked_one_does(name, scope):
    model, x = made(name), images()
    dense = count(model)
    before = model(x).array
    prune_channels_(model, 0.5, x, scope=scope)
    masked = model(x).array
    assert not np.allclose(before, masked)
    small = slim(model, x)
    assert count(small) < 0.85 * dense
    assert set(small.state_dict()) == set(model.state_dict())
    assert masks(small) == {}
    # float64 sums of fewer terms, layer after layer
    other = images(5)
    np.testing.assert_allclose(small(other).array, model(other).array, rtol=1e-9, atol=1e-12)
    again = copy.deepcopy(small)
    with pytest.raises(SlimError, match="nothing to remove"):
        slim(again, x)


@pytest.mark.parametrize("name", ["resnet", "mobile", "dense", "gru"])
def test_a_slim_net_trains_and_can_be_pruned_again(name):
    model, x = made(name), images(6)
    small = slim(prune_channels_(model, 0.4, x), x).train()
    sgd, y = optim.SGD(small.parameters(), lr=0.01, momentum=0.9), wrap(np.arange(6) % 4)
    for _ in range(2):
        sgd.zero_grad()
        F.cross_entropy(small(x), y).backward()
        sgd.step()
    small.eval()
    smaller = slim(prune_channels_(small, 0.4, x), x)
    assert count(smaller) < count(small)
    np.testing.assert_allclose(smaller(x).array, small(x).array, rtol=1e-9, atol=1e-12)


def test_training_the_masked_net_keeps_its_channels_dead():
    model, x = made("resnet"), images(6)
    prune_channels_(model, 0.5, x)
    sgd, y = optim.AdamW(model.parameters(), lr=0.01), wrap(np.arange(6) % 4)
    model.train()
    for _ in range(3):
        sgd.zero_grad()
        F.cross_entropy(model(x), y).backward()
        sgd.step()
    model.eval()
    small = slim(model, x)
    assert small[3].conv1.weight.shape == (4, 4, 3, 3)
    assert small[7].in_features == 4
    np.testing.assert_allclose(small(x).array, model(x).array, rtol=1e-9, atol=1e-12)


def test_sizes_of_the_layers_follow():
    x = images()
    net = slim(prune_channels_(made("mobile"), 0.5, x), x)
    assert (net[2].in_channels, net[2].out_channels, net[2].groups) == (3, 3, 3)
    assert (net[5].in_channels, net[5].out_channels) == (3, 5)
    assert net[6].num_features == 5
    assert net[2].weight.shape == (3, 1, 3, 3)
    gru = slim(prune_channels_(made("gru"), 0.5, x), x)
    assert gru.body.weight_ih_l0.shape == (15, 24)
    assert gru.body.weight_hh_l1.shape == (15, 5)
    grouped = slim(prune_channels_(made("grouped"), 0.5, x), x)
    assert (grouped.b.groups, grouped.b.in_channels) == (4, 4)


def test_unstructured_masks_that_empty_a_row_or_a_column_are_found():
    model, x = (
        nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)),
        wrap(random.normal((3, 4)).astype(np.float32)),
    )
    w0, b0, w2 = model[0].weight, model[0].bias, model[2].weight
    w0.array[1], b0.array[1] = 0, 0  # never speaks
    w2.array[:, 4] = 0  # is not heard
    w0.array[2] = 0  # speaks a constant, its bias: stays
    model[0].weight.mask = w0.array != 0
    small = slim(model, x)
    assert small[0].weight.shape == (4, 4)
    assert small[0].weight.mask.sum() == 12
    np.testing.assert_allclose(small(x).detach().numpy(), model(x).detach().numpy(), rtol=1e-5)


def test_a_channel_that_is_constant_but_not_zero_stays():
    """Without its batch norm's shift: conv rows of 0 become beta behind the norm."""
    model, x = made("resnet"), images()
    model[3].conv1.weight.array[0] = 0
    with pytest.raises(SlimError, match="nothing to remove"):
        slim(model, x)
    model[3].bn1.bias.array[0] = 0
    with pytest.raises(SlimError, match="nothing to remove"):
        slim(model, x)  # its mean is not 0
    model[3].bn1.weight.array[0] = 0
    assert slim(model, x)[3].conv1.weight.shape[0] == 7


def test_sigmoid_of_zero_is_not_zero():
    x = wrap(random.normal((3, 4)).astype(np.float32))
    model = nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 2))
    prune_channels_(model, 0.5, x)
    with pytest.raises(SlimError, match="nothing to remove"):
        slim(model, x)


def test_bidirectional_directions_are_pruned_each():
    model = Recurrent("LSTM", bidirectional=True).double().eval()
    x = images()
    prune_channels_(model, 0.5, x)
    small = slim(model, x)
    assert small.body.weight_hh_l0.shape == small.body.weight_hh_l1_reverse.shape == (20, 5)
    np.testing.assert_allclose(small(x).array, model(x).array, rtol=1e-9, atol=1e-12)


def test_heads_go_as_a_whole():
    """Queries, keys, values and what reads them; the size of a head stays, and with it the scale of the scores."""
    model, x = made("attending"), images()
    for layer in model.body.layers:
        layer.self_attn.in_proj_weight.array[:12].reshape(3, 4, 12)[1] *= 0.01  # the second head hardly looks
        layer.self_attn.in_proj_weight.array[24:].reshape(3, 4, 12)[1] *= 0.01
    prune_channels_(model, 1 / 3, x, skip="*.linear1.*")
    mask = model.body.layers[0].self_attn.in_proj_weight.mask.reshape(3, 3, 4, 12)
    assert not mask[:, 1].any()
    assert mask[:, [0, 2]].all()
    small = slim(model, x)
    attn = small.body.layers[0].self_attn
    assert (attn.num_heads, attn.head_dim, attn.embed_dim) == (2, 4, 12)
    assert attn.in_proj_weight.shape == (24, 12)
    assert attn.out_proj.weight.shape == (12, 8)
    other = images(5)
    np.testing.assert_allclose(small(other).array, model(other).array, rtol=1e-9, atol=1e-12)


# -- which channels go ------------------------------------------------------------------------------------------------


def test_rules_take_the_weakest():
    x = wrap(random.normal((3, 2, 6, 6)).astype(np.float32))
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    for rule, weakest in (("l1", 1), ("l2", 2), ("gamma", 3)):
        net = copy.deepcopy(model)
        net[0].weight.array[...] = 1
        net[0].weight.array[1] = 0
        net[0].weight.array[1, 0, 0, 0] = 5  # mean |w| 5/18, mean square 25/18
        net[0].weight.array[2] = 0.5  # .5 and .25
        net[1].weight.array[...] = [2, -3, 4, 0.1]
        prune_channels_(net, 0.25, x, rule=rule)
        assert np.flatnonzero(~net[0].weight.mask.reshape(4, -1).any(1)).tolist() == [weakest]
        assert np.flatnonzero(~net[1].weight.mask).tolist() == [weakest]
        assert not net[1].bias.mask[weakest]
        assert net[3].weight.mask is None
    scores = taylor(model, (x, wrap(np.zeros(3, np.int64))), lambda out, y: F.cross_entropy(out.mean((2, 3)), y))
    prune_channels_(model, 0.25, x, rule=scores)
    gone = int(np.flatnonzero(~model[1].weight.mask)[0])
    assert scores["0.weight"].sum((1, 2, 3)).argmin() == gone


def test_channels_go_in_steps_and_never_come_back():
    model, x = made("resnet"), images()
    prune_channels_(model, 0.25, x)
    first = {n: m.copy() for n, m in masks(model).items()}
    for p in model.parameters():
        p.array += random.normal(p.shape) * 5
        p.apply_mask_()
    prune_channels_(model, 0.5, x)
    assert all(not (masks(model)[n] & ~m).any() for n, m in first.items())
    assert slim(model, x)[3].conv1.weight.shape[0] == 4


def test_skip_and_at_least_one_stays():
    model, x = made("dense"), images()
    prune_channels_(model, 0.99, x, skip="b.*")
    assert model.b.weight.mask is None
    small = slim(model, x)
    assert small.a.out_channels == 1
    assert small.b.weight.shape[:2] == (6, 4)


def test_errors_change_nothing():
    model, x = made("resnet"), images()
    for arguments, message in (
        (dict(sparsity=1.0), "sparsity"),
        (dict(sparsity=0.5, scope="row"), "scope"),
        (dict(sparsity=0.5, rule="l3"), "rule must be"),
        (dict(sparsity=0.5, skip="none"), "nothing is called 'none'"),
    ):
        share = arguments.pop("sparsity")
        with pytest.raises(ValueError, match=message):
            prune_channels_(model, share, x, **arguments)
    model[3].conv1.weight.array[0, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        prune_channels_(model, 0.5, x)
    assert masks(model) == {}
    with pytest.raises(ValueError, match="needs a batch norm behind a.weight"):
        prune_channels_(made("grouped"), 0.5, x, rule="gamma")
    with pytest.raises(ValueError, match=r"no channel of this model can go.\n.*it is an output"):
        prune_channels_(nn.Linear(4, 3), 0.5, wrap(np.ones((2, 4), np.float32)))
    with pytest.raises(TypeError, match="packed as int8"):
        slim(quantize_(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))), minidl.ones(1, 4))


class Written(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 4)

    def forward(self, x):
        return self.b(self.a(x).relu().reshape(-1, 8 * 36))


def test_a_size_written_into_the_code_is_named():
    model, x = Written(), wrap(random.normal((3, 3, 8, 8)).astype(np.float32))
    with pytest.raises(SlimError, match="size written into its code"):
        slim(prune_channels_(model, 0.5, x), x)


class Sorted(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.a(x).sort(-1)[0])


def test_an_uneven_part_of_the_channels_is_named():
    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(4, 2)

        def forward(self, x):
            return self.b(self.a(x)[:, :4])

    with pytest.raises(ValueError, match=r"made by a.weight, a.bias.*a part of them is taken"):
        prune_channels_(Part(), 0.5, wrap(random.normal((3, 4)).astype(np.float32)))


def test_an_op_that_cannot_be_followed_is_named():
    model, x = Sorted(), wrap(random.normal((3, 4)).astype(np.float32))
    with pytest.raises(ValueError, match="cannot be followed"):
        prune_channels_(model, 0.5, x)
    assert "made by a.weight, a.bias" in str(structure(model, x))


def test_the_model_that_is_looked_at_is_left_alone():
    model, x = made("resnet").train(), images()
    model[3].eval()
    before = {n: t.array.copy() for n, t in [*model.named_parameters(), *model.named_buffers()]}
    model[7].weight.requires_grad_(False)
    structure(model, x)
    prune_channels_(copy.deepcopy(model), 0.5, x)
    assert all((t.array == before[n]).all() for n, t in [*model.named_parameters(), *model.named_buffers()])
    assert model.training
    assert not model[3].training
    assert not model[7].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert not x.requires_grad


def test_slim_quantized_and_saved(tmp_path):
    x = wrap(random.normal((3, 3, 8, 8)).astype(np.float32))
    net = resnet().eval()
    small = slim(prune_channels_(net, 0.5, x), x)
    prune_(small, 0.5)
    shape = copy.deepcopy(small)
    quantize_(small)
    save_model(small, tmp_path / "net.safetensors")
    again = load_model(shape, tmp_path / "net.safetensors").eval()
    assert (again(x).array == small(x).array).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "size"),
    [
        (models.resnet18, (1, 3, 32, 32)),
        (models.shufflenet_v2_x1_0, (1, 3, 32, 32)),
        (models.MobileNetV1, (1, 3, 32, 32)),
        (models.MobileNetV2, (1, 3, 32, 32)),
        (models.vit_tiny, (2, 1, 8, 8)),
    ],
    ids=["resnet18", "shufflenet", "mobilenet1", "mobilenet2", "vit"],
)
def test_the_models_of_the_package(make, size):
    model, x = make().eval(), wrap(random.normal(size).astype(np.float32))
    prune_channels_(model, 0.5, x)
    masked = model(x).detach().numpy()
    small = slim(model, x)
    assert count(small) < 0.85 * count(model)
    # float32, some 50 layers; what cancels in one order need not in another
    np.testing.assert_allclose(small(x).detach().numpy(), masked, rtol=1e-4, atol=1e-4 * abs(masked).max())
