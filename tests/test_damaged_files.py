"""Files of compressed models with one field changed: refused with CheckpointError, or what they say is well defined."""

from __future__ import annotations

import json
import struct
import warnings

import numpy as np
import pytest

import minidl
from minidl import nn
from minidl.compress import (
    Choice,
    fold,
    load_model,
    load_net,
    nm_mask,
    pack_,
    prune_,
    quantize_,
    quantize_static,
    record,
    save_model,
    save_net,
)
from minidl.io import CheckpointError

GONE = object()
WRONG = [
    GONE, None, "x", 1.5, -1, 0, 7, 2**40, -(2**63), float("nan"), float("inf"), [], {}, [1, 2], {"value": 9}, True,
    [1e-3, 5], [0.1, 200, 8], [1e-300, 0, 8], [1e38, 0, 8], [0.1, 0, 9],
]  # fmt: skip


class Branches(nn.Module):
    """Every integer step but Reshape's neighbours: convolutions, a sum, both pools, a float op between, a join."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.most, self.mean, self.last = nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Linear(32, 3)

    def forward(self, x):
        y = self.a(x).relu()
        y = y + self.b(y)
        y = minidl.cat([self.most(y), self.mean(y).sigmoid()], 1)
        return self.last(self.mean(y).flatten(1))


def images(n=2):
    return np.random.default_rng(0).normal(size=(n, 2, 8, 8)).astype(np.float32)


def networks():
    minidl.manual_seed(0)
    around = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 2, 2, stride=2), nn.Flatten(), nn.Linear(288, 2)
    )
    plain = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2)).eval()
    return {
        "integer": lambda: quantize_static(Branches().eval(), images()),
        "tables": lambda: quantize_static(around.eval(), images(), bits=4),
        "recorded": lambda: record(quantize_(plain), images()),
        "folded": lambda: fold(record(plain, images())),
    }


def leaves(tree, at=()):
    yield at
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from leaves(value, (*at, key))
    elif isinstance(tree, (list, tuple)):
        for i, value in enumerate(tree):
            yield from leaves(value, (*at, i))


def put(tree, at, new):
    """The tree with one leaf changed, or gone."""
    if not at:
        return new
    gone = new is GONE and len(at) == 1
    if isinstance(tree, dict):
        return {k: put(v, at[1:], new) if k == at[0] else v for k, v in tree.items() if not (gone and k == at[0])}
    kept = [put(v, at[1:], new) if i == at[0] else v for i, v in enumerate(tree) if not (gone and i == at[0])]
    return type(tree)(kept)


def changes(tree, every):
    """One change in `every`, spread over all leaves and all wrong values."""
    n = 0
    for at in leaves(tree):
        for wrong in WRONG if at else ():
            if (n := n + 1) % every == 0:
                yield at, wrong, put(tree, at, wrong)


def survey(name, path, every):
    net = networks()[name]()
    save_net(net, path)
    x = minidl.tensor(images())
    want, loaded, refused = net(x).array, 0, 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # numbers may be out of all proportion
        for at, wrong, changed in changes(minidl.load(path), every):
            try:
                minidl.save(changed, path)
            except (TypeError, ValueError):  # no file says that
                continue
            try:
                again = load_net(path)
            except CheckpointError as error:
                assert path.name in str(error)
                refused += 1
                continue
            loaded += 1
            try:
                y = again(x)
            except (ValueError, RuntimeError, TypeError, IndexError):  # of another shape than it was
                continue
            assert y.array.dtype.kind == "f", (at, wrong)
    assert loaded
    assert refused > loaded
    save_net(net, path)
    assert (load_net(path)(x).array == want).all()


@pytest.mark.parametrize("name", ["integer", "tables", "recorded", "folded"])
def test_a_field_of_a_network_changed(name, tmp_path):
    survey(name, tmp_path / "net.safetensors", 41)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["integer", "tables", "recorded", "folded"])
def test_every_field_of_a_network_changed(name, tmp_path):
    survey(name, tmp_path / "net.safetensors", 1)


@pytest.mark.parametrize(
    ("step", "change", "message"),
    [
        (0, {"x": 5}, "not made before"),
        (0, {"out": 0}, "each made once"),
        (1, {"out": 1}, "each made once"),
        (0, {"stride": (1, 2**40)}, r"stride = \(1, 1099511627776\)"),
        (0, {"padding": (1, 1)}, r"padding = \(1, 1\)"),
        (0, {"bits": 9}, "bits = 9"),
        (0, {"low": -129}, "low = -129"),
        (0, {"weight": None}, "weight = None"),
        (0, {"weight": "last.weight"}, "no weight of Conv2d"),
        (0, {"bias": "last.bias"}, "no bias of 4 outputs"),
        (0, {"finest": float("nan")}, "finest = nan"),
        (0, {"x_quant": None}, "x_quant = None"),
        (0, {"x_quant": (float("nan"), 0)}, "no scale and zero point"),
        (0, {"y": (1e-300, 0)}, "no scale and zero point"),
        (0, {"y": (1e-35, 0)}, "far below"),
        (0, {"surplus": 1}, "surplus"),
        (0, {"groups": 7}, "does not run"),
    ],
)
def test_what_the_error_says(step, change, message, tmp_path):
    path = tmp_path / "net.safetensors"
    save_net(networks()["integer"](), path)
    content = minidl.load(path)
    steps = [s | change if i == step else s for i, s in enumerate(content["steps"])]
    minidl.save(content | {"steps": steps}, path)
    with pytest.raises(CheckpointError, match=message):
        load_net(path)


def layers():
    return nn.Sequential(
        nn.Linear(8, 16), nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Conv2d(2, 3, 3), nn.Embedding(9, 4),
        nn.Linear(16, 16), nn.Linear(16, 16),
    )  # fmt: skip


def packed_model():
    minidl.manual_seed(0)
    model = layers()
    prune_(model[0], 0.8)
    prune_(model[6], 0.9)
    model[7].weight.array *= nm_mask(model[7].weight.array)
    pack_(model, [Choice("6.weight", 0.9, None, None, 0, None, True, "")])
    pack_(model, [Choice("7.weight", 0.5, None, None, 0, None, True, "", "2:4")])
    quantize_(model[1], 8)
    quantize_(model[2], 4)
    quantize_(model[3], 3)
    return model


def rewritten(whole, change):
    """The file with another header, or other tensors: change(header, data) -> the same."""
    n = struct.unpack("<Q", whole[:8])[0]
    header, data = change(json.loads(whole[8 : 8 + n]), bytearray(whole[8 + n :]))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def test_headers_and_tensors_of_packed_models(tmp_path):
    """Every number, name and list in the header of the file, the description inside it, and every byte of a tensor."""
    path = tmp_path / "model.safetensors"
    model = packed_model()
    save_model(model, path)
    whole = path.read_bytes()
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8:start])
    (key,) = header["__metadata__"]
    inside = json.loads(header["__metadata__"][key])
    bytes_of = {n: list(range(*header[n]["data_offsets"])) for n in header if n != "__metadata__"}
    files = []
    for _, wrong, changed in changes(header, 3):
        try:
            files.append(rewritten(whole, lambda h, d, new=changed: (new, d)))
        except TypeError:  # GONE inside what is gone
            assert wrong is GONE
    for _, _, changed in changes(inside, 3):
        try:
            text = json.dumps(changed)
        except TypeError:
            continue
        files.append(rewritten(whole, lambda h, d: (h | {"__metadata__": {key: text}}, d)))
    for places in bytes_of.values():
        for value in (0, 0x7F, 0x80, 0xFF):
            for some in (places[:1], places[-1:], places):
                damaged = bytearray(whole)
                for i in some:
                    damaged[start + i] = value
                files.append(bytes(damaged))
    for n in (0, 7, 8, 100, start - 1, start, len(whole) - 1):
        files.append(whole[:n])
    for size in (0, 1, 2**31, 2**63, 2**64 - 1):
        files.append(struct.pack("<Q", size) + whole[8:])
    refused = 0
    for content in files:
        path.write_bytes(content)
        empty = layers()
        was = {n: (id(p.array), p.array.tobytes()) for n, p in empty.named_parameters()}
        try:
            load_model(empty, path)
        except CheckpointError as error:
            assert "model.safetensors" in str(error)
            assert {n: (id(p.array), p.array.tobytes()) for n, p in empty.named_parameters()} == was
            refused += 1
            continue
        for p in empty.parameters():
            a = p.array.dequantize() if p.packed else p.array
            assert a.shape == tuple(p.shape)
    assert 100 < refused < len(files)
