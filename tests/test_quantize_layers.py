"""Convolutions of signals, transposed convolutions, recurrent layers and attention in few bits."""

import copy

import numpy as np
import pytest

import minidl_kernels as kernels
from minidl import nn, random
from minidl.autograd import no_grad
from minidl.compress import (
    awq_,
    dequantize_,
    fold,
    gptq_,
    load_model,
    load_net,
    quantize_,
    record,
    save_model,
    save_net,
    smoothquant_,
    stored_bytes,
)
from minidl.compress.quantize.arrays import absmax_scale, dequantize_array, quantize_array
from minidl.storage import Codes, Int4, Int8
from minidl.tensors import wrap


def run(model, *x):
    with no_grad():
        y = model(*(wrap(v) for v in x))
    return [v.array for v in flat(y)]


def flat(y):
    return [v for part in y for v in flat(part)] if isinstance(y, (tuple, list)) else [y]


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


class Attend(nn.Module):
    def __init__(self, **how):
        super().__init__()
        self.inner = nn.MultiheadAttention(8, 2, batch_first=True, **how)

    def forward(self, x):
        return self.inner(x, x, x)[0]


LAYERS = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, stride=2), (2, 4, 9)),
    "conv1d same, groups": (lambda: nn.Conv1d(4, 8, 3, padding="same", dilation=2, groups=2), (2, 4, 9)),
    "conv1d circular": (lambda: nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (2, 4, 5, 6)),
    "transposed 1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2), (2, 4, 5)),
    "rnn": (lambda: nn.RNN(4, 8, 2, nonlinearity="relu"), (5, 3, 4)),
    "lstm": (lambda: nn.LSTM(4, 8, 2, batch_first=True, bidirectional=True), (3, 5, 4)),
    "lstm, projected": (lambda: nn.LSTM(4, 8, proj_size=5), (5, 3, 4)),
    "gru": (lambda: nn.GRU(4, 8), (5, 3, 4)),
    "gru cell": (lambda: nn.GRUCell(4, 8), (3, 4)),
    "lstm cell": (lambda: nn.LSTMCell(4, 8), (3, 4)),
    "rnn cell": (lambda: nn.RNNCell(4, 8), (3, 4)),
    "attention": (lambda: Attend(), (2, 5, 8)),
    "attention, other sizes": (lambda: Attend(kdim=8, vdim=8), (2, 5, 8)),
}


def made(name):
    random.manual_seed(1)
    model, shape = LAYERS[name]
    return model().eval(), draw(*shape)


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_only_computes_what_the_rounded_weights_do(name, bits, tmp_path):
    model, x = made(name)
    twin = copy.deepcopy(model)
    quantize_(model, bits, weight_only=True)
    packed = {n: p for n, p in model.named_parameters() if p.packed}
    assert set(packed) == {n for n, p in twin.named_parameters() if p.ndim > 1}
    for n, p in twin.named_parameters():
        if n in packed:
            assert isinstance(packed[n].array, Codes)
            scale = absmax_scale(p.array, bits)
            p.array[...] = dequantize_array(quantize_array(p.array, scale, bits=bits), scale, axis=0)
            layout = 4 * (1 + p.ndim)
            assert stored_bytes(packed[n]) == -(-p.array.size * bits // 8) + 4 * len(p) + layout
    for ours, theirs in zip(run(model, x), run(twin, x), strict=True):
        assert (ours == theirs).all()
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(made(name)[0], tmp_path / "m.safetensors").eval()
    for ours, theirs in zip(run(again, x), run(model, x), strict=True):
        assert (ours == theirs).all()


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_int8_stays_near_and_runs_on_integer_kernels(name, static, tmp_path):
    model, x = made(name)
    exact = run(model, x)
    quantize_(model, calibration=[x] if static else None)
    transposed = "transposed" in name
    for p in model.parameters():
        if p.packed:
            assert isinstance(p.array, Codes if transposed else Int8)
            assert transposed or (p.array.x_scale is not None) == static
    with kernels.listen() as heard:
        y = run(model, x)
    assert transposed or any(op.startswith("int8") for op, _ in heard)
    for ours, theirs in zip(y, exact, strict=True):
        assert np.abs(ours - theirs).max() < 0.05 * max(1, np.abs(theirs).max())
    save_model(model, tmp_path / "m.safetensors")
    again = load_model(made(name)[0], tmp_path / "m.safetensors").eval()
    for ours, theirs in zip(run(again, x), y, strict=True):
        assert (ours == theirs).all()


def test_gradients_of_inputs_pass_through_packed_weights():
    """As through the layer with the rounded weight."""
    for name in ("conv1d", "transposed", "transposed 1d", "gru", "lstm", "rnn"):
        model, x = made(name)
        twin = copy.deepcopy(model)
        quantize_(model, 4)
        for n, p in twin.named_parameters():
            q = model.get_parameter(n)
            if q.packed:
                p.array[...] = q.array.dequantize()
        grads = []
        for m in (model, twin):
            a = wrap(x.copy(), requires_grad=True)
            y = flat(m(a))[0]
            (y * y).sum().backward()
            grads.append(a.grad.array)
        assert np.allclose(*grads, rtol=1e-4, atol=1e-5), name


def test_four_bits_in_groups_of_a_recurrent_layer():
    model = nn.GRU(32, 32).eval()
    x = draw(4, 2, 32)
    exact = run(model, x)
    quantize_(model, 4, per="group", group=32)
    assert all(isinstance(p.array, Int4) for p in model.parameters() if p.ndim > 1)
    assert np.abs(run(model, x)[0] - exact[0]).max() < 0.1


def test_what_is_supported_is_told_and_a_shared_weight_stays_one():
    with pytest.raises(ValueError, match=r"no Linear, Conv2d, Conv1d.*RNN, LSTM or GRU.*with a float weight left"):
        quantize_(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(ValueError, match="with a float weight left"):
        quantize_(quantize_(nn.GRU(3, 4)))
    bad = nn.LSTM(3, 4)
    bad.weight_hh_l0.array[0, 0] = np.nan
    with pytest.raises(ValueError, match="weight_hh_l0.*NaN"):
        quantize_(bad)
    assert not any(p.packed for p in bad.parameters())
    one = nn.Conv1d(3, 3, 3, padding=1)
    model = quantize_(nn.Sequential(one, nn.ReLU(), one))
    assert model[0].weight is model[2].weight
    assert run(model, draw(2, 3, 5))[0].shape == (2, 3, 5)


def test_recorded_and_folded_networks_are_quantized_and_saved_whole(tmp_path):
    random.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(3, 8, 3, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.ConvTranspose1d(8, 4, 2, 2), nn.Flatten(),
        nn.Linear(48, 5),
    )  # fmt: skip
    x = draw(6, 3, 8)
    model.train()(wrap(x))
    exact = run(model.eval(), x)[0]
    net = quantize_(fold(record(copy.deepcopy(model), x)), weight_only=True)
    assert sum(p.packed for p in net.parameters()) == 3
    assert np.abs(run(net, x)[0] - exact).max() < 0.02 * np.abs(exact).max()
    size = save_net(net, tmp_path / "n.safetensors")
    assert size == (tmp_path / "n.safetensors").stat().st_size
    assert (run(load_net(tmp_path / "n.safetensors"), x)[0] == run(net, x)[0]).all()
    assert not any(p.packed for p in model.parameters())


@pytest.mark.parametrize("made", [lambda net: net, fold], ids=["recorded", "folded"])
@pytest.mark.parametrize(
    "method", [lambda net, x: quantize_(net), lambda net, x: quantize_(net, 8, x), gptq_, awq_, smoothquant_]
)
def test_a_recorded_network_is_quantized_and_its_model_is_not(made, method):
    """Nor does it lose its gradients; a weight of two names stays one, in the network as in the model."""
    random.manual_seed(0)
    one = nn.Linear(6, 6)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), one, nn.ReLU(), one, nn.Linear(6, 3)).eval()
    x = draw(16, 4)
    model[1].running_var.array[:] = 2
    model[2].weight.mask = np.arange(36).reshape(6, 6) % 3 > 0
    model[2].weight.apply_mask_()
    exact, before = run(model, x)[0], [(p, p.array, p.version.count) for p in model.parameters()]
    net = made(record(model, x))
    names = [name for name, _ in net.named_parameters()]
    assert method(net, x) is net
    assert [name for name, _ in net.named_parameters()] == names
    assert sum(p.packed for p in net.parameters()) == 3
    assert not net.get_parameter("2.weight").array.dequantize()[~model[2].weight.mask].any()
    assert not any(p.packed or not p.requires_grad for p in model.parameters())
    assert all(p is q and p.array is a and p.version.count == n for p, (q, a, n) in zip(model.parameters(), before))
    assert (run(model, x)[0] == exact).all()
    assert 0 < np.abs(run(net, x)[0] - exact).max() < 0.3 * np.abs(exact).max()


def test_names_of_one_weight_get_one_weight():
    """Of a network that has it under both; floats again, the model that was packed before it was recorded stays so."""
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net = record(model, draw(2, 4))
    net._modules["2"].weight = net._modules["0"].weight
    quantize_(net)
    assert net.get_parameter("2.weight") is net.get_parameter("0.weight")
    assert net.get_parameter("0.weight").packed
    assert not model[0].weight.packed
    net = dequantize_(record(quantize_(model), draw(2, 4)))
    assert not any(p.packed for p in net.parameters())
    assert model[0].weight.packed
