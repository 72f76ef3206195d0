"""The engine on device="cuda": the programs of the CPU, on the stand-in (or on a GPU), with the same numbers."""

import numpy as np
import pytest

import minidl
import minidl.nn as nn
import minidl.nn.functional as F

DIGITS = 48  # examples of a batch


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 33), nn.ReLU(), nn.Dropout(0.2), nn.Linear(33, 10))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 9, 3, bias=False),
        nn.GELU(), nn.AvgPool2d(2), nn.Flatten(), nn.LayerNorm(9), nn.Linear(9, 10),
    )  # fmt: skip


def train(device, build, optimizer, steps=4):
    """The loss at each step, and the model."""
    minidl.manual_seed(3)
    data = minidl.data.load_images()
    x = minidl.tensor(np.asarray(data.x_train[: DIGITS * 2], np.float32)[:, None] / 16, device=device)
    t = minidl.tensor(np.asarray(data.y_train[: DIGITS * 2]), device=device)
    model = build().to(device)
    step = optimizer(model.parameters())
    losses = []
    for i in range(steps):
        some = slice(i % 2 * DIGITS, (i % 2 + 1) * DIGITS)
        loss = F.cross_entropy(model(x[some]), t[some])
        step.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        step.step()
        losses.append(loss)
    return losses, model


OPTIMIZERS = {
    "sgd": lambda p: minidl.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: minidl.optim.Adam(p, lr=1e-2),
    "adamw": lambda p: minidl.optim.AdamW(p, lr=1e-2),
}


@pytest.fixture
def fast(xp):
    """Whole training steps in the fast build."""
    if hasattr(xp, "mode"):
        xp.mode.checked = False
    return xp


@pytest.mark.parametrize(("build", "optimizer"), [(mlp, "sgd"), (mlp, "adam"), (cnn, "adamw")])
def test_training_follows_the_cpu(fast, build, optimizer):
    on_cpu, _ = train("cpu", build, OPTIMIZERS[optimizer])
    on_cuda, model = train("cuda", build, OPTIMIZERS[optimizer])
    assert all(p.is_cuda for p in model.parameters())
    # float32 sums in other orders, through four steps of an optimizer
    assert [x.item() for x in on_cuda] == pytest.approx([x.item() for x in on_cpu], rel=1e-3)


class Transformer(nn.Module):
    """A line of tokens, two heads, causal; the mean over time is classified."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm, self.out = nn.Embedding(17, 12), nn.RMSNorm(12), nn.Linear(12, 10)
        self.layer = nn.TransformerEncoderLayer(12, 2, 24, dropout=0.1, batch_first=True, activation="gelu")

    def forward(self, x):
        tokens = x.reshape(len(x), -1)[:, ::4].mul(16).long()  # B, T
        return self.out(self.norm(self.layer(self.embed(tokens), is_causal=True)).mean(1))


class Recurrent(nn.Module):
    """The rows of the image, one after the other."""

    def __init__(self, kind):
        super().__init__()
        self.rnn, self.out = kind(8, 9, batch_first=True), nn.Linear(9, 10)

    def forward(self, x):
        return self.out(self.rnn(x[:, 0])[0][:, -1])


MORE = {
    "transformer": Transformer,
    "lstm": lambda: Recurrent(nn.LSTM),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
}


@pytest.mark.parametrize("name", MORE)
def test_other_networks_follow_the_cpu(fast, name):
    on_cpu, _ = train("cpu", MORE[name], OPTIMIZERS["adam"], steps=2)
    on_cuda, _ = train("cuda", MORE[name], OPTIMIZERS["adam"], steps=2)
    assert [x.item() for x in on_cuda] == pytest.approx([x.item() for x in on_cpu], rel=1e-3)


@pytest.mark.parametrize("build", [mlp, cnn, Transformer, MORE["lstm"]])
def test_a_training_step_never_waits_for_the_device(fast, build):
    if not hasattr(fast, "syncs"):
        pytest.skip("only the stand-in counts; the step itself runs in the tests above")
    before = fast.syncs
    losses, _ = train("cuda", build, OPTIMIZERS["adamw"], steps=2)
    assert fast.syncs == before
    assert np.isfinite(losses[0].item())
    assert fast.syncs == before + 1  # the count counts


def test_dropout_draws_the_numbers_of_the_cpu(fast):
    x = minidl.ones(33, 70)
    found = []
    for device in ("cpu", "cuda"):
        minidl.manual_seed(11)
        found.append(F.dropout(x.to(device), 0.3).cpu().numpy())
        found.append(minidl.randn(3, 4, device=device).cpu().numpy())
        found.append(F.dropout(x.to(device), 0.3).cpu().numpy())
    for a, b in zip(found[:3], found[3:]):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(found[0], found[2])


def test_tensors_and_modules_move_there_and_back(fast):
    x = minidl.tensor([[1.0, 2.0], [3.0, 4.0]])
    y = x.to("cuda")
    assert (y.device, y.is_cuda, x.is_cuda) == (minidl.device("cuda:0"), True, False)
    assert y.cpu().tolist() == x.tolist()
    assert (y @ y).sum().item() == 54.0
    with pytest.raises(TypeError, match="cpu"):
        y.numpy()
    model = nn.Linear(2, 2).to("cuda")
    assert all(p.is_cuda for p in model.parameters())
    assert not any(p.is_cuda for p in model.cpu().parameters())
    with pytest.raises(Exception, match="on two devices|must be on one device"):
        model(y)


def test_checkpoints_of_a_model_on_the_device(fast, tmp_path):
    _, model = train("cuda", cnn, OPTIMIZERS["adam"], steps=1)
    minidl.save(model.state_dict(), tmp_path / "model.safetensors")
    other = cnn()
    other.load_state_dict(minidl.load(tmp_path / "model.safetensors"))
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        np.testing.assert_array_equal(a.cpu().numpy(), b.numpy())
    again = cnn().to("cuda")
    again.load_state_dict(model.state_dict())
    assert all(p.is_cuda for p in again.parameters())


def test_an_optimizer_resumes_on_the_device(fast):
    def run(halves):
        minidl.manual_seed(5)
        model = nn.Linear(6, 3).to("cuda")
        optimizer = minidl.optim.Adam(model.parameters(), lr=0.1)
        x = minidl.randn(8, 6, device="cuda")
        for half in range(2):
            if half and halves:
                state = optimizer.state_dict()
                optimizer = minidl.optim.Adam(model.parameters(), lr=0.1)
                optimizer.load_state_dict(state)
            for _ in range(2):
                optimizer.zero_grad()
                (model(x) ** 2).mean().backward()
                optimizer.step()
        return [p.cpu().tolist() for p in model.parameters()]

    assert run(True) == run(False)


def test_a_loader_feeds_the_device(fast):
    x, y = minidl.randn(20, 3), minidl.arange(20)
    seen = []
    for a, b in minidl.data.DataLoader(minidl.data.TensorDataset(x, y), batch_size=8):
        a, b = a.to("cuda"), b.to("cuda")
        assert a.is_cuda
        seen += b.cpu().tolist()
    assert seen == list(range(20))


def test_one_launch_updates_all_parameters(fast):
    if not hasattr(fast, "launches"):
        pytest.skip("only the stand-in counts")
    model = nn.Sequential(nn.Linear(8, 40), nn.Linear(40, 70), nn.Linear(70, 3)).to("cuda")
    optimizer = minidl.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        model(minidl.randn(5, 8, device="cuda")).sum().backward()
        del fast.launches[:]
        optimizer.step()
        assert fast.launches == ["adam"]


def test_masks_hold_through_steps_on_the_device(fast):
    model = nn.Linear(8, 4).to("cuda")
    minidl.compress.prune_(model, 0.5)
    zeros = model.weight.detach().cpu().numpy() == 0
    assert zeros.mean() == pytest.approx(0.5, abs=0.1)
    optimizer = minidl.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = getattr(fast, "syncs", 0)
    for _ in range(3):
        optimizer.zero_grad()
        model(minidl.randn(5, 8, device="cuda")).sum().backward()
        optimizer.step()
    assert getattr(fast, "syncs", 0) == before
    assert (model.weight.detach().cpu().numpy()[zeros] == 0).all()
    assert (model.weight.detach().cpu().numpy()[~zeros] != 0).all()


@pytest.mark.parametrize("scheme", ["int8", "int4", "csr"])
def test_packed_models_run_on_the_device_and_come_back(fast, scheme):
    minidl.manual_seed(2)
    layers = [nn.Conv2d(1, 5, 3)] if scheme == "int8" else []
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(180 if layers else 64, 64), nn.ReLU(), nn.Linear(64, 3))
    if scheme == "csr":
        minidl.compress.prune_(model, 0.8)
        for layer in model[-3], model[-1]:
            layer.weight = nn.Parameter(minidl.storage.CSR.from_dense(layer.weight.detach().numpy()))
    else:
        minidl.compress.quantize_(model, bits=8 if scheme == "int8" else 4)
    x = minidl.randn(6, 1, 8, 8)
    with minidl.no_grad():
        want = model(x).numpy()
        assert model.to("cuda")[-1].weight.packed
        assert all(p.is_cuda for p in model.parameters())
        found = model(x.to("cuda"))
        again = model.cpu()(x).numpy()
    np.testing.assert_allclose(found.cpu().numpy(), want, rtol=1e-4, atol=1e-5)  # float32 sums in other orders
    np.testing.assert_array_equal(again, want)


class Block(nn.Module):
    """What a network in integers is made of: convolutions, a residual sum, pooling, a linear layer."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(1, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8)
        self.deep, self.wide = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.out = nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        x = F.max_pool2d(x + self.wide(F.relu6(self.deep(x))), 3, 2, 1)
        return self.out(F.avg_pool2d(x, 2).mean((2, 3)))


def test_a_network_in_integers_runs_on_the_device_bit_for_bit(fast):
    minidl.manual_seed(4)
    model, x = Block().eval(), minidl.randn(6, 1, 16, 16)
    net = minidl.compress.quantize_static(model, x)
    want = net(x).numpy()
    net.to("cuda")
    found = net(x.to("cuda"))
    before = getattr(fast, "syncs", 0)
    again = net(x.to("cuda"))
    assert getattr(fast, "syncs", 0) == before
    np.testing.assert_array_equal(found.cpu().numpy(), want)
    np.testing.assert_array_equal(again.cpu().numpy(), want)
    with minidl.no_grad():
        net.get_parameter(next(s.bias for s in net.layers())).add_(1.0)  # a bias may be written in place
    assert not np.array_equal(net(x.to("cuda")).cpu().numpy(), want)


def test_indices_are_checked_while_debugging(fast):
    from minidl_kernels.cuda import launch

    table, x = minidl.randn(5, 3, device="cuda"), minidl.randn(2, 5, device="cuda")
    with launch.debug():
        with pytest.raises(IndexError, match="index 7 is out of bounds"):
            F.embedding(minidl.tensor([1, 7]).to("cuda"), table)
        with pytest.raises(IndexError, match="target 5 is out of bounds"):
            F.cross_entropy(x, minidl.tensor([0, 5]).to("cuda"))
    loss = F.cross_entropy(x, minidl.tensor([0, 5]).to("cuda"))
    assert np.isnan(loss.item())


def test_a_gradient_of_a_gradient_on_the_device(fast):
    found = []
    for device in ("cpu", "cuda"):
        x = minidl.tensor([[0.3, -1.2, 2.0]], device=device, requires_grad=True)
        (g,) = minidl.autograd.grad((x.tanh() @ x.T).sum(), (x,), create_graph=True)
        (h,) = minidl.autograd.grad((g * g).sum(), (x,))
        found.append(h.cpu().numpy())
    np.testing.assert_allclose(*found, rtol=1e-5, atol=1e-6)  # a few roundings of terms of size 2
