"""Integer networks of other than eight bits, with concatenation, attention, tied and shared weights."""

import copy
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl import cat, nn, optim, random
from minidl.autograd import no_grad
from minidl.compress import (
    absmax_scale,
    dequantize_array,
    load_net,
    nearest_scale,
    prune_,
    quantize_array,
    quantize_static,
    save_net,
    stored_bytes,
)  # fmt: skip
from minidl.compress.quantize.steps import Cat, Quant, codes_of, floats_of
from minidl.compress.quantize.steps import Codes as Held
from minidl.data import digits
from minidl.nn import functional as F
from minidl.storage import Codes, Int8
from minidl.tensors import wrap


def run(net, x):
    with no_grad():
        return net(wrap(x)).array


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


class UNet(nn.Module):
    """Down, up, and what was on the way down beside what comes up."""

    def __init__(self):
        super().__init__()
        self.down, self.norm = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(6, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, 2)
        self.out = nn.Conv2d(12, 3, 3, padding=1)

    def forward(self, x):
        left = F.relu(self.norm(self.down(x)))
        deep = F.relu(self.deep(F.max_pool2d(left, 2)))
        return self.out(cat([left, self.up(deep)], 1))


class Siamese(nn.Module):
    """One layer for both halves of the input."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(16, 2)

    def forward(self, x):
        return self.two(cat([F.relu(self.one(x[:, :4])), F.relu(self.one(5 * x[:, 4:]))], 1))


class Tied(nn.Module):
    """A language model whose table of tokens scores them as well."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.mix, self.layer = nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.layer(self.mix(self.embed(tokens)), is_causal=True))


class Signals(nn.Module):
    """Convolutions of one dimension."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(3, 8, 3, padding=1, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, 2, groups=2),
            nn.ReLU(), nn.Flatten(), nn.Linear(32, 4),
        )  # fmt: skip

    def forward(self, x):
        return self.net(x)


class Recurrent(nn.Module):
    """Letters to a class, by the last states of both directions."""

    def __init__(self):
        super().__init__()
        self.embed, self.scan = nn.Embedding(9, 6), nn.GRU(6, 8, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, letters):
        _, h = self.scan(self.embed(letters))
        return self.head(cat([h[-2], h[-1]], 1))


class Normed(nn.Module):
    """A weight that is made of two parameters."""

    def __init__(self):
        super().__init__()
        self.inner = nn.utils.parametrizations.weight_norm(nn.Linear(6, 5))
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        return self.last(F.gelu(self.inner(x)))


NETS = {
    "unet": (UNet, lambda: draw(6, 2, 8, 8)),
    "siamese": (Siamese, lambda: draw(9, 8)),
    "tied": (Tied, lambda: np.random.default_rng(0).integers(0, 11, (5, 6))),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True), lambda: draw(4, 5, 8)),
    "signals": (Signals, lambda: draw(6, 3, 9)),
    "recurrent": (Recurrent, lambda: np.random.default_rng(0).integers(0, 9, (5, 4))),
    "normed": (Normed, lambda: draw(7, 6)),
}


def made(name):
    random.manual_seed(3)
    model, x = NETS[name]
    model, x = model(), x()
    if any(isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)) for m in model.modules()):
        for _ in range(5):
            model.train()(wrap(x))
    return model.eval(), x


WIDTHS = [(8, 8), (4, 8), (2, 4), (3, 2), (7, 5)]


@pytest.mark.parametrize(("bits", "activations"), WIDTHS)
@pytest.mark.parametrize("name", NETS)
def test_the_forward_of_training_is_the_deployed_networks_bit_for_bit(name, bits, activations, tmp_path):
    model, x = made(name)
    net = quantize_static(model, x, bits=bits, activation_bits=activations, deploy=False)
    optimizer = optim.SGD(net.parameters(), lr=0.01)
    for _ in range(2):
        y = net(wrap(x))
        optimizer.zero_grad()
        (y * y).mean().backward()
        optimizer.step()
    for n in (1, len(x)):
        trained = net(wrap(x[:n])).detach().numpy()
        deployed = copy.deepcopy(net).deploy_()
        assert deployed.deployed
        assert (run(deployed, x[:n]) == trained).all()
    for step in deployed.layers():
        w = deployed.get_parameter(step.weight)
        assert isinstance(w.array, Int8 if bits == 8 else Codes)
        rows = 4 * len(w)
        packed = -(-w.array.size * bits // 8) + rows + 4 * (1 + w.ndim)
        assert stored_bytes(w) == (w.array.size + rows if bits == 8 else packed)
    size = save_net(deployed, tmp_path / "n.safetensors")
    assert size == (tmp_path / "n.safetensors").stat().st_size
    assert (run(load_net(tmp_path / "n.safetensors"), x) == trained).all()
    save_net(net, tmp_path / "t.safetensors")  # and so before it is deployed
    assert (load_net(tmp_path / "t.safetensors")(wrap(x)).detach().numpy() == trained).all()


@pytest.mark.parametrize("name", NETS)
def test_eight_bits_stay_near_to_float(name):
    model, x = made(name)
    exact, y = run(model, x), run(quantize_static(model, x), x)
    assert np.linalg.norm(y - exact) < 0.06 * np.linalg.norm(exact)


def test_what_runs_on_integers():
    """The products of attention and of one-dimensional convolutions, concatenation: none is left in float."""
    listed = {name: quantize_static(*made(name)).extra_repr() for name in NETS}
    assert "1 Cat" in listed["unet"]
    assert "3 Conv2d" in listed["unet"]
    assert "3 Linear" in listed["siamese"]
    assert "1 Cat" in listed["siamese"]
    assert "4 Linear" in listed["encoder"]
    assert "2 Add" in listed["encoder"]
    assert "6 Linear" in listed["tied"]
    assert "2 Conv2d" in listed["signals"]
    assert "2 Linear" in listed["normed"]
    assert "5 Linear" in listed["recurrent"]
    assert "6 gru_scan" in listed["recurrent"]  # the first layer's outputs, the last one's states: each run once
    for text in listed.values():
        assert not {"linear", "conv2d", "cat"} & {part.split()[1] for part in text.split("; ")[1].split(", ")}


def test_bits_by_name_and_a_pruned_network(tmp_path):
    model, x = made("unet")
    net = quantize_static(prune_(model, 0.5), x, bits={"*": 4, "down": 8, "out.weight": 6})
    kinds = {s.weight: getattr(net.get_parameter(s.weight).array, "bits", 8) for s in net.layers()}
    assert kinds == {"down.weight": 8, "deep.weight": 4, "out.weight": 6}
    for s in net.layers():
        p = net.get_parameter(s.weight)
        assert not p.array.dequantize()[~p.mask].any()
    save_net(net, tmp_path / "n.safetensors")
    again = load_net(tmp_path / "n.safetensors")
    assert (run(again, x) == run(net, x)).all()
    assert (again.get_parameter("deep.weight").mask == net.get_parameter("deep.weight").mask).all()


def test_bad_bits_are_refused():
    model, x = made("siamese")
    for bad in (1, 9, 4.0, True, "4", {"one": 1}, None):
        with pytest.raises(ValueError, match=r"bits must be integers in 2 \.\.\. 8"):
            quantize_static(model, x, bits=bad)
    with pytest.raises(ValueError, match=r"bits must be integers in 2 \.\.\. 8"):
        quantize_static(model, x, activation_bits=1)
    with pytest.raises(ValueError, match="nothing is called 'three'"):
        quantize_static(model, x, bits={"three": 4})
    assert not any(p.packed for p in model.parameters())


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_the_nearest_scale_is_never_worse_than_the_largest_weights(bits, seed):
    w = np.random.default_rng(seed).standard_t(3, (4, 20)).astype(np.float32)
    w[1] = 0
    error = lambda s: np.square(dequantize_array(quantize_array(w, s, bits=bits), s, axis=0) - w).sum(1)
    assert (error(nearest_scale(w, bits)) <= error(absmax_scale(w, bits))).all()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.sampled_from([(2, 3), (4, 5, 2, 3)]))
def test_concatenation_copies_codes_or_rounds_once(seed, bits, shape):
    rng = np.random.default_rng(seed)
    quants = [Quant(float(np.float32(rng.uniform(0.01, 1))), int(rng.integers(-8, 8)), 8) for _ in range(2)]
    y = Quant(float(np.float32(rng.uniform(0.01, 1))), 0, bits)
    xs = [Held(rng.integers(-128, 128, shape).astype(np.int8), q) for q in quants]
    step = Cat((0, 1), 2, 1, tuple(quants), y)
    found = step.integer(*xs)
    exact = np.concatenate([floats_of(x) for x in xs], 1)
    for x, quant, part in zip(xs, quants, np.split(found.q, 2, 3 if len(shape) == 4 else 1), strict=True):
        v = (x.q.astype(np.int32) - quant.zero).astype(np.float32) * np.float32(quant.scale / y.scale)
        assert (part == np.clip(np.rint(v), y.low, y.high)).all()
    inside = (found.q > y.low) & (found.q < y.high)
    inside = inside.transpose(0, 3, 1, 2) if inside.ndim == 4 else inside
    assert (np.abs(floats_of(found) - exact)[inside] <= y.scale * (0.5 + 1e-5)).all()
    same = Cat((0, 1), 2, 1, (quants[0],) * 2, quants[0])
    one = [Held(x.q, quants[0]) for x in xs]
    assert (floats_of(same.integer(*one)) == np.concatenate([floats_of(x) for x in one], 1)).all()
    assert (codes_of(floats_of(same.integer(*one)), quants[0]).q == same.integer(*one).q).all()


def test_training_in_few_bits_gains_what_rounding_lost():
    """Digits, weights of 2 bits and activations of 4: rounded after training, and trained with the rounding."""
    random.manual_seed(0)
    x, y = digits()
    x = x.reshape(len(x), -1).astype(np.float32) / 16
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 10))

    def train(net, steps, rate):
        optimizer = optim.Adam(net.parameters(), lr=rate)
        for step in range(steps):
            rows = np.arange(step * 50, step * 50 + 50) % 1000
            loss = F.cross_entropy(net(wrap(x[rows])), wrap(y[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    right = lambda net: float((run(net, x[1000:]).argmax(1) == y[1000:]).mean())
    train(model, 200, 3e-3)
    exact = right(model.eval())
    how = dict(bits={"*": 2, "4": 4}, activation_bits=4)
    rounded = right(quantize_static(model, x[:500], **how))
    net = quantize_static(model, x[:500], **how, deploy=False)
    for _ in range(3):
        train(net, 60, 1e-3)
        net.recalibrate_(x[:500])
    trained = right(net.deploy_())
    assert rounded < exact - 0.05
    assert trained > exact - 0.03


def test_a_file_runs_in_a_process_that_has_none_of_the_code(tmp_path):
    model, x = made("unet")
    net = quantize_static(model, x, bits=4)
    save_net(net, tmp_path / "n.safetensors")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", run(net, x))
    code = (
        "import numpy as np; from minidl.compress import load_net; from minidl.tensors import wrap; import sys; "
        "f = sys.argv[1]; net = load_net(f + '/n.safetensors'); y = net(wrap(np.load(f + '/x.npy'))).array; "
        "assert (y == np.load(f + '/y.npy')).all()"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
