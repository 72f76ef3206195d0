"""Networks as lists of ops: they repeat the model, fold what can be folded, and load from a file without its code."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import minidl
from minidl import nn, random
from minidl.autograd import no_grad
from minidl.compress import fold, load_net, prune_, quantize_, record, save_net
from minidl.compress.files import stored_bytes
from minidl.io import CheckpointError
from minidl.models import DigitsCNN, MobileNetV2, resnet_cifar
from minidl.nn import functional as F
from minidl.tensors import wrap


class Odd(nn.Module):
    """A model of one's own: batch norms by module and by hand, a residual sum, pooling, slices, constants, sharing."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6, eps=1e-2)
        self.branch, self.other = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6, affine=False)
        self.scale = nn.Parameter(minidl.ones(6, 1, 1) * 1.5)
        self.linear, self.flat = nn.Linear(54, 6), nn.BatchNorm1d(6)
        self.again = nn.Linear(6, 6)
        self.register_buffer("shift", minidl.arange(6).float())

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        y = self.other(self.branch(x)) * self.scale
        x = F.max_pool2d(x + y, 2)
        x = self.flat(self.linear(x.reshape(x.shape[0], -1))) - self.shift
        return self.again(F.gelu(self.again(x)))[:, 1:] / 2


def images(n=4):
    return wrap(random.normal((n, 2, 6, 6)))


def settled(model, *shape):
    """A model in evaluation whose running statistics and affine parameters are not those of the start."""
    random.manual_seed(0)
    model.train()
    with no_grad():
        for _ in range(3):
            model(wrap(random.normal((8, *shape)) * 2 + 1))
    for name, p in model.named_parameters():
        if p.ndim == 1 and name.endswith("weight"):
            p.array[...] = random.uniform(p.shape) + 0.5
    return model.eval()


def run(model, x):
    with no_grad():
        return model(x).array


@pytest.mark.parametrize("make", [
    lambda: (Odd(), (2, 6, 6)),
    lambda: (DigitsCNN(), (1, 8, 8)),
    lambda: (resnet_cifar(8, width=8), (3, 9, 9)),
    lambda: (MobileNetV2(num_classes=5), (3, 32, 32)),
    lambda: (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8)),
])  # fmt: skip
def test_a_recording_gives_the_models_very_bits_for_any_batch(make):
    model, shape = make()
    settled(model, *shape)
    net = record(model, wrap(random.normal((3, *shape))))
    for n in (1, 3, 5):
        x = wrap(random.normal((n, *shape)))
        assert (run(net, x) == run(model, x)).all()
    ours, theirs = net.state_dict(), model.state_dict()
    for name, t in ours.items():
        if not name.startswith("constants."):
            assert (t.array == theirs[name].array).all()
    folded = fold(net)
    x = wrap(random.normal((4, *shape)))
    exact = run(model, x)
    # Folding rounds each weight once and sums in another order: a few float32 roundings a layer.
    assert abs(run(folded, x) - exact).max() <= 2e-5 * max(1, abs(exact).max())
    assert (run(net, x) == exact).all()


def test_every_batch_norm_is_folded_and_names_stay():
    model = settled(Odd(), 2, 6, 6)
    before = {k: v.array.copy() for k, v in model.state_dict().items()}
    folded = fold(record(model, images()))
    assert [s.op for s in folded.steps] == [
        "conv2d", "relu", "conv2d", "add", "max_pool2d", "reshape", "linear", "linear", "gelu", "linear", "getitem",
        "true_divide",
    ]  # fmt: skip
    names = {"stem.weight", "stem.bias", "branch.weight", "branch.bias", "linear.weight", "linear.bias"}
    assert set(folded.state_dict()) == names | {"again.weight", "again.bias"}
    assert all((v.array == before[k]).all() for k, v in model.state_dict().items())


def test_what_must_not_fold_does_not():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.a, self.b = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.tied, self.head = nn.Linear(3, 3), nn.BatchNorm1d(3)

        def forward(self, x):
            y = self.conv(x)
            both = self.a(y) + self.b(y)  # one result, two readers
            z = both.mean((2, 3))
            return self.head(self.tied(z)) + self.tied(z) * minidl.arange(3).float().sum()  # one weight, two readers

    model, x = settled(Twice(), 2, 4, 4), wrap(random.normal((4, 2, 4, 4)))
    folded = fold(record(model, x))
    assert "mul" in [s.op for s in folded.steps]
    assert abs(run(folded, x) - run(model, x)).max() < 1e-5
    assert (folded.get_parameter("conv.weight").array == model.conv.weight.array).all()
    assert (folded.get_parameter("tied.weight").array == model.tied.weight.array).all()
    # Masks stay with the weights that they belong to.
    model = prune_(settled(nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)), 2, 6, 6), 0.5)
    folded = fold(record(model, images()))
    assert (folded.get_parameter("0.weight").mask == model[0].weight.mask).all()
    assert not folded.get_parameter("0.weight").array[~model[0].weight.mask].any()


def test_a_recording_trains():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    net, x = record(model, np.ones((2, 4), np.float32)).train(), wrap(random.normal((5, 4)))
    net(x).sum().backward()
    found = [p.grad.array.copy() for p in net.parameters()]
    for p in model.parameters():
        p.grad = None
    model(x).sum().backward()
    assert all((a == p.grad.array).all() for a, p in zip(found, model.parameters(), strict=True))


class Branching(nn.Module):
    def forward(self, x):
        return x * 2 if len(x) > 1 else x


class Outside(nn.Module):
    def forward(self, x):
        return x + wrap(x.array.sum(0))


class InPlace(nn.Module):
    def forward(self, x):
        y = x * 2
        F.relu(y, inplace=True)
        return y + 1


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(("model", "message"), [
    (Branching(), "another size"), (Outside(), "another size"), (InPlace(), "in place"), (Pair(), "one Tensor"),
])  # fmt: skip
def test_models_that_a_list_of_ops_cannot_say(model, message):
    with pytest.raises(ValueError, match=message):
        record(model, random.normal((3, 4)))


def test_bad_inputs():
    with pytest.raises(ValueError, match="needs a batch"):
        record(nn.ReLU(), np.zeros((0, 3), np.float32))
    net = record(nn.ReLU(), np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"recorded for inputs \(N, 3\)"):
        net(minidl.ones(2, 4))


@pytest.mark.parametrize("how", ["float", "folded", "pruned", "int8", "int4", "3 bits"])
def test_a_file_runs_without_the_code_that_made_it(how, tmp_path):
    model = settled(Odd(), 2, 6, 6)
    if how == "pruned":
        prune_(model, 0.7)
    if how in ("int8", "int4", "3 bits"):
        quantize_(model, {"int8": 8, "int4": 4, "3 bits": 3}[how])
    net = record(model, images())
    net = fold(net) if how == "folded" else net
    x = images(3)
    y = run(net, x)
    path = tmp_path / "net.safetensors"
    size = save_net(net, path)
    header = int.from_bytes(path.read_bytes()[:8], "little") + 8
    arrays = sum(stored_bytes(p) for p in net.parameters()) + sum(b.array.nbytes for b in net.buffers())
    assert size == os.path.getsize(path) == header + arrays
    again = load_net(path)
    assert (run(again, x) == y).all()
    assert list(again.state_dict()) == list(net.state_dict())
    for p, q in zip(net.parameters(), again.parameters(), strict=True):
        assert p.packed == q.packed
        assert (p.mask is None and q.mask is None) or (p.mask == q.mask).all()
    np.save(tmp_path / "x.npy", x.array)
    np.save(tmp_path / "y.npy", y)
    code = (
        "import numpy as np, minidl; from minidl.compress import load_net; net = load_net('net.safetensors');"
        "x, y = np.load('x.npy'), np.load('y.npy');"
        "print(bool((net(minidl.tensor(x)).detach().numpy() == y).all()))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_files_are_not_trusted(tmp_path):
    path = tmp_path / "net.safetensors"
    net = record(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), np.ones((2, 3), np.float32))
    with pytest.raises(TypeError, match="not a Linear; record"):
        save_net(nn.Linear(2, 2), path)
    assert not path.exists()
    minidl.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(CheckpointError, match="holds no network"):
        load_net(path)
    save_net(net, path)
    good = minidl.load(path)

    def changed(**change):
        minidl.save(good | change, path)
        return path

    steps = good["steps"]
    for change, message in (
        (dict(steps=[steps[0] | {"op": "system"}]), "no op 'system'"),
        (dict(steps=[steps[0] | {"args": ({"import": "os"},)}]), "inconsistent"),
        (dict(steps=[{"op": "relu"}]), "inconsistent"),
        (dict(parameters={}), r"read \[.*0\.weight"),
        (dict(net="other"), "holds no network"),
        (dict(sample=None), "inconsistent"),
        (dict(parameters={"0.weight": 3, "0.bias": 4}), "inconsistent"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load_net(changed(**change))
    save_net(net, path)
    whole = path.read_bytes()
    for n in range(0, len(whole), 101):
        path.write_bytes(whole[:n])
        with pytest.raises(CheckpointError, match="net.safetensors"):
            load_net(path)
    assert json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
