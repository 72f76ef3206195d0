"""The networks of the examples train as they do with torch: same first weights, same batches, the same loss each step.

20 steps in float32 agree to 1e-3 of the loss, 50 in float64 to 1e-8. The pages of `minidl.models` are written with
torch's names, so torch's side is the page itself with `minidl` replaced by `torch`; only the GPT, whose attention layer
is minidl's own, is written anew with torch's layers.
"""

import inspect
import types

import numpy as np
import pytest
import torch

import minidl
from minidl.data import digits, sunspots
from minidl.models import GPT, digits_cnn, recurrent, resnet


@pytest.fixture(autouse=True)
def _one_thread_of_torch():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[("float32", 20, 1e-3), ("float64", 50, 1e-8)], ids=["float32", "float64"])
def setting(request):
    """dtype, steps, tolerance."""
    for t in (torch, minidl):
        t.set_default_dtype(getattr(t, request.param[0]))
    yield request.param
    for t in (torch, minidl):
        t.set_default_dtype(t.float32)


def with_torch(page):
    """A page of minidl.models as a module that runs on torch."""
    source = inspect.getsource(page).replace("minidl.ops.shapes", "torch").replace("minidl", "torch")
    module = types.ModuleType(page.__name__)
    exec(compile(source, page.__file__, "exec"), module.__dict__)
    return module


def curve(t, model, optimizer, loss, batches):
    """The loss of each step."""
    losses = []
    for x, y in batches:
        optimizer.zero_grad()
        value = loss(model(t.tensor(x)), t.tensor(y))
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


@pytest.fixture(autouse=True)
def _seeded():
    """torch draws the initial weights."""
    torch.manual_seed(0)


def compare(setting, ours, theirs, start, optimizer, loss, batches):
    """Give both the weights `start` of torch's, train both, compare."""
    dtype, steps, rtol = setting
    start = {name: minidl.tensor(value.detach().numpy().copy()) for name, value in start.items()}
    ours.load_state_dict(start)
    assert {str(value.dtype).split(".")[-1] for value in ours.parameters()} == {dtype}
    batches = [
        (x.astype(dtype) if x.dtype.kind == "f" else x, y.astype(dtype) if y.dtype.kind == "f" else y)
        for x, y in batches(steps)
    ]
    expected = curve(torch, theirs, optimizer(torch, theirs), lambda y, t: loss(torch, y, t), batches)
    got = curve(minidl, ours, optimizer(minidl, ours), lambda y, t: loss(minidl, y, t), batches)
    assert len(got) == steps
    np.testing.assert_allclose(got, expected, rtol=rtol)
    # and the comparison could fail: without training the last loss would be another
    ours.load_state_dict(start)
    x, y = batches[-1]
    assert abs(loss(minidl, ours(minidl.tensor(x)), minidl.tensor(y)).item() / expected[-1] - 1) > 10 * rtol


def cross_entropy(t, logits, target):
    return t.nn.functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), target.reshape(-1))


def images(steps, batch=16):
    x, y = digits()
    order = np.random.default_rng(0).permutation(len(x))[: steps * batch].reshape(steps, batch)
    return [(x[i, None] / 16, y[i]) for i in order]


def test_cnn(setting):
    theirs = with_torch(digits_cnn).mnist_cnn(10, (1, 8, 8))
    adam = lambda t, model: t.optim.Adam(model.parameters(), lr=2e-3)
    compare(setting, digits_cnn.mnist_cnn(10, (1, 8, 8)), theirs, theirs.state_dict(), adam, cross_entropy, images)


def test_resnet(setting):
    make = lambda page: page.ResNet(page.BasicBlock, [1, 1], 10, in_channels=1, widths=(8, 16), small=True)
    theirs = make(with_torch(resnet))
    sgd = lambda t, model: t.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    compare(setting, make(resnet), theirs, theirs.state_dict(), sgd, cross_entropy, images)


def test_lstm(setting):
    def windows(steps, length=22, batch=8):
        spots = sunspots()[1] / 100
        at = np.random.default_rng(0).integers(length, len(spots), (steps, batch))
        return [(np.stack([spots[i - length : i, None] for i in row]), spots[row, None]) for row in at]

    theirs = with_torch(recurrent).Forecaster()
    mse = lambda t, y, target: t.nn.functional.mse_loss(y, target)
    adam = lambda t, model: t.optim.Adam(model.parameters(), lr=1e-2)
    compare(setting, recurrent.Forecaster(), theirs, theirs.state_dict(), adam, mse, windows)


class TorchGPT(torch.nn.Module):
    """The same network of torch's layers."""

    def __init__(self, size, context, dim, heads, layers):
        super().__init__()
        self.wte, self.wpe = torch.nn.Embedding(size, dim), torch.nn.Embedding(context, dim)
        gelu = lambda x: torch.nn.functional.gelu(x, approximate="tanh")
        self.h = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(dim, heads, 4 * dim, 0.0, gelu, batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.ln_f = torch.nn.LayerNorm(dim)

    def forward(self, ids):
        time = ids.shape[1]
        mask = torch.nn.Transformer.generate_square_subsequent_mask(time)
        x = self.wte(ids) + self.wpe(torch.arange(time))
        for layer in self.h:
            x = layer(x, src_mask=mask, is_causal=True)
        return torch.nn.functional.linear(self.ln_f(x), self.wte.weight)


def test_gpt(setting):
    sizes = dict(size=256, context=24, dim=32, heads=4, layers=2)
    theirs = TorchGPT(**sizes)
    ours = GPT(*sizes.values())
    names = {"self_attn": "attn", "linear1": "mlp.0", "linear2": "mlp.2", "norm1": "ln_1", "norm2": "ln_2"}
    start = {}
    for name, value in theirs.state_dict().items():
        for old, new in names.items():
            name = name.replace(f".{old}.", f".{new}.")
        start[name] = value

    def text(steps, batch=8, length=24):
        ids = np.frombuffer(inspect.getsource(inspect).encode(), np.uint8).astype(np.int64)
        at = np.random.default_rng(0).integers(0, len(ids) - length - 1, (steps, batch))
        rows = ids[at[..., None] + np.arange(length + 1)]
        return [(row[:, :-1], row[:, 1:]) for row in rows]

    adamw = lambda t, model: t.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    compare(setting, ours, theirs, start, adamw, cross_entropy, text)
