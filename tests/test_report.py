"""Reports: every count against a count by hand, every byte against the file."""

import copy
import json

import numpy as np
import pytest

import minidl
import minidl_kernels as kernels
from minidl import nn
from minidl.compress import Report, latencies, pack_weight, prune_, quantize_, report, save_model, stored_bytes
from minidl.compress.layers import sqnr
from minidl.data import DataLoader, TensorDataset
from minidl.tensors import wrap


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def tensor_bytes(path):
    """What a safetensors file holds beside its header: https://github.com/huggingface/safetensors#format"""
    raw = path.read_bytes()
    return len(raw) - 8 - int.from_bytes(raw[:8], "little")


@pytest.mark.parametrize("how", ["dense", "pruned", "int8", "pruned int8", "static int8"])
def test_bytes_are_those_of_the_file(tmp_path, how):
    model = net()
    if "pruned" in how:
        prune_(model, 0.8)
    if "int8" in how:
        quantize_(model, calibration=minidl.ones(2, 1, 4, 4) if "static" in how else None)
    path = tmp_path / "net.safetensors"
    assert save_model(model, path) == path.stat().st_size
    made = report(model)
    assert made.bytes == sum(r.bytes for r in made.rows) == tensor_bytes(path)


def test_counts_by_hand():
    made = report(quantize_(prune_(net(), 0.75, scope="layer"), skip="4"))
    conv, norm, linear = made.rows
    assert (conv.name, conv.layer, conv.shape, conv.storage) == ("0", "Conv2d", (4, 1, 3, 3), "int8, pruned")
    assert (conv.parameters, linear.parameters, norm.parameters) == (36 + 4, 48 + 3, 8)
    assert linear.nonzeros == 12 + 3
    assert conv.nonzeros <= 9 + 4
    assert norm.nonzeros == 4  # weight 1, bias 0
    # scale and bias in float32, a bit for each weight, a byte for each kept one
    assert conv.bytes == 4 * 4 + 4 * 4 + 5 + 9
    assert linear.bytes == 6 + 12 * 4 + 3 * 4
    assert norm.bytes == 4 * 4 * 4 + 8  # weight, bias, mean, variance, and the int64 count of batches
    assert made.parameters == 99
    assert made.loss is None
    assert made.accuracy is None


def test_shared_parameters_count_once():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    made = report(model)
    assert made.parameters == 9 + 3 + 3
    assert [r.parameters for r in made.rows] == [12, 3]


def test_loss_and_accuracy_weigh_samples_not_batches():
    model = net().train()
    model[1].eval()
    x, y = minidl.random.normal((10, 1, 4, 4)), np.arange(10) % 3
    whole = report(model, (x, y), repeats=1)
    parts = report(model, DataLoader(TensorDataset(x, y), batch_size=4), repeats=1)
    model.eval()
    logits = model(wrap(x))
    assert whole.accuracy == parts.accuracy == (logits.array.argmax(1) == y).mean()
    # sums over 10 float32 values near 1 in another order
    assert whole.loss == pytest.approx(nn.functional.cross_entropy(logits, wrap(y)).item(), rel=1e-5)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert (whole.batch, parts.batch) == (10, 4)
    assert whole.infer_ms_batch > 0
    assert whole.infer_ms_one > 0


def test_modes_are_left_as_they_were():
    model = net().train()
    model[1].eval()
    mean = model[1].running_mean.array.copy()
    report(model, (minidl.random.normal((4, 1, 4, 4)), np.zeros(4, np.int64)), repeats=1)
    assert model.training
    assert not model[1].training
    assert (model[1].running_mean.array == mean).all()
    with pytest.raises(ValueError, match="inner sizes|features"):
        report(nn.Linear(3, 2), (np.ones((2, 4), np.float32), np.zeros(2, np.int64)))


def test_a_regression_has_a_loss_but_no_accuracy():
    x, y = np.ones((4, 3), np.float32), np.ones((4, 1), np.float32)
    made = report(nn.Linear(3, 1), (x, y), loss=nn.functional.mse_loss, repeats=1)
    assert made.loss is not None
    assert made.accuracy is None


def test_without_a_batch():
    with pytest.raises(ValueError, match="hold no batch"):
        report(nn.Linear(3, 2), [])


def test_as_text_and_as_json():
    made = report(prune_(net(), 0.5), (np.ones((2, 1, 4, 4), np.float32), np.zeros(2, np.int64)), repeats=1)
    text = str(made)
    assert "total" in text
    assert "float32, pruned" in text
    assert f"accuracy {made.accuracy:.4f}" in text
    again = json.loads(json.dumps(made.to_dict()))
    assert again["parameters"] == made.parameters
    assert [r["bytes"] for r in again["layers"]] == [r.bytes for r in made.rows]
    assert isinstance(made, Report)


@pytest.fixture(scope="module")
def looked_at():
    """A small net, looked at in every way once."""
    minidl.random.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    prune_(model, 0.5, skip="4")
    x, y = minidl.random.normal((12, 1, 4, 4)), np.arange(12) % 3
    before = {n: p.array.copy() for n, p in model.named_parameters()}
    made = report(model, (x, y), repeats=4)
    assert all((p.array == before[n]).all() and p.requires_grad for n, p in model.named_parameters())
    return model, x, y, made


def test_every_layer_that_runs_has_its_operations_and_kernels(looked_at):
    model, x, _, made = looked_at
    by_name = {r.name: r for r in made.rows}
    assert list(by_name) == ["Sequential", "0", "1", "2", "3", "4"]
    assert by_name["0"].macs == 12 * 4 * 2 * 2 * 9
    assert by_name["4"].macs == 12 * 16 * 3
    assert by_name["4"].flops == 2 * by_name["4"].macs
    assert by_name["2"].macs is None
    with kernels.listen() as heard:
        model.eval()(wrap(x))
    assert [k for r in made.rows for k in r.kernels] == [f"{op}: {variant}" for op, variant in heard]
    assert by_name["4"].kernels[0].startswith("linear: ")
    assert all(r.ms is not None and r.ms >= 0 for r in made.rows)
    assert made.layers_ms == pytest.approx(sum(r.ms for r in made.rows))
    assert made.pass_ms > 0


def test_what_runs_in_one_pass_is_timed_in_one_pass():
    """Batch norm and the relu behind it: looking on changes neither the pass nor the result."""
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 3)).eval()
    x, y = minidl.randn(16, 2, 8, 8), np.zeros(16, np.int64)
    before = model(x).array
    rows = {r.name: r for r in report(model, (x, y), repeats=2, sensitivity=False).rows}
    assert (rows["2"].ms, rows["2"].kernels) == (0.0, ())
    assert rows["1"].ms > 0
    assert rows["1"].kernels == ("channel_affine: vectors",)
    assert (model(x).array == before).all()
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_bytes_and_noise_at_each_precision_are_those_of_the_packed_weight(looked_at, tmp_path):
    model, _, _, made = looked_at
    for row in made.rows:
        if not row.at:
            continue
        weight = model.get_submodule(row.name).weight
        for bits in (8, 4):
            other = copy.deepcopy(model)
            p = other.get_submodule(row.name).weight
            p.requires_grad_(False)
            p.array = pack_weight(weight.array, bits, mask=p.mask)
            again = {r.name: r for r in report(other).rows}
            assert row.at[bits] == again[row.name].bytes
            noise = weight.array.astype(np.float64) - p.array.dequantize()
            wanted = 10 * np.log10((weight.array.astype(np.float64) ** 2).sum() / (noise**2).sum())
            assert row.sqnr[bits] == pytest.approx(wanted)
    assert {r.name for r in made.rows if r.at} == {"0", "4"}
    file = tmp_path / "net.safetensors"
    assert made.file_bytes == save_model(model, file)
    assert made.bytes == sum(r.bytes for r in made.rows) == tensor_bytes(file)
    assert made.file_bytes - made.bytes == 8 + int.from_bytes(file.read_bytes()[:8], "little")


def test_drops_are_those_of_a_model_with_that_layer_compressed(looked_at):
    model, x, y, made = looked_at
    for row in made.rows:
        for way, drop in row.drop.items():
            other = copy.deepcopy(model).eval()
            p = other.get_submodule(row.name).weight
            if way.startswith("int"):
                p.requires_grad_(False)
                p.array = pack_weight(p.array, int(way[3:]), mask=p.mask)
            else:
                prune_(nn.ParameterList([p]), float(way.split()[1]) / 100)
            share = (other(wrap(x)).array.argmax(1) == y).mean()
            assert drop == pytest.approx(made.accuracy - share)
    assert {w for r in made.rows for w in r.drop} == {"int8", "int4", "prune 50 %", "prune 80 %"}
    assert report(model, (x, y), repeats=1, sensitivity=False).rows[1].drop == {}


def test_all_of_it_as_text_and_json(looked_at):
    _, _, _, made = looked_at
    text = str(made)
    for words in ("MACs", "FLOPs", "dB at 8", "points of accuracy lost", "bytes on disk", "linear: "):
        assert words in text
    layer = json.loads(json.dumps(made.to_dict()))["layers"][1]
    assert layer["flops"] == 2 * layer["macs"]
    assert set(layer["drop"]) == {"int8", "int4", "prune 50 %", "prune 80 %"}


def test_a_shared_weight_is_looked_at_once(tmp_path):
    class Net(nn.Module):
        """Cat, a sum, and one weight in two layers."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6, bias=False), nn.Linear(12, 3)
            self.b.weight = self.a.weight

        def forward(self, x):
            y = self.a(x).relu()
            return self.c(minidl.cat([y + x, self.b(y)], 1))

    net = Net()
    made = report(net, (np.ones((4, 6), np.float32), np.arange(4) % 3), repeats=2)
    assert made.file_bytes == save_model(net, tmp_path / "net.safetensors")
    rows = {r.name: r for r in made.rows}
    assert set(rows["a"].at) == set(rows["c"].at) == {8, 4}
    assert rows["a"].drop
    assert (rows["b"].bytes, rows["b"].at, rows["b"].drop) == (0, {}, {})
    assert rows["b"].macs == 4 * 36


def test_signal_to_noise():
    w = np.float32([3, 4])
    assert sqnr(w, w) == float("inf")
    assert sqnr(np.zeros(2, np.float32), w) == float("-inf")
    assert sqnr(w, np.zeros(2)) == 0


def test_latencies_are_medians_of_interleaved_calls():
    calls, grad = [], []

    def one(name):
        calls.append(name)
        grad.append(minidl.is_grad_enabled())

    found = latencies({"a": lambda: one("a"), "b": lambda: one("b")}, repeats=4, seconds=0)
    assert set(found) == {"a", "b"}
    assert "".join(calls) == "aaabbb" + "abbaabba"
    assert not any(grad)


def test_stored_bytes_of_a_plain_tensor():
    assert stored_bytes(minidl.ones(3, 4)) == 48
    assert stored_bytes(minidl.zeros(12)) == 48  # vectors are stored as they are
    assert stored_bytes(minidl.zeros(3, 4)) == 2  # a matrix mostly of zeros: its bits, and no value


def test_inputs_without_targets_are_told():
    model, x = nn.Sequential(nn.Linear(3, 2)), minidl.randn(4, 3)
    for data in (x, x.array, [x]):
        with pytest.raises(TypeError, match="inputs with their targets"):
            report(model, data)
    assert model.training
