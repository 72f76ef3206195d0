"""Two to eight bits a weight: the formula, the bytes on disk, and layers that use them."""

import copy
import itertools
import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import minidl
from minidl import nn, random
from minidl.autograd import no_grad
from minidl.compress import load_model, masks, pack_int8, pack_weight, prune_, quantize_, report, save_model, sparsity
from minidl.compress.files import stored_bytes
from minidl.io import CheckpointError
from minidl.storage import Codes, Int4, Int8, PackedError, pack_bits, unpack_bits
from minidl.tensors import wrap

EPS = float(np.finfo(np.float32).eps)
weights = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=6),
    elements=st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False),
)


@given(st.lists(st.integers(0, 255), max_size=40), st.integers(2, 8))
def test_bits_take_their_bytes_and_come_back(numbers, bits):
    codes = np.array(numbers, np.uint8) & (2**bits - 1)
    stream = pack_bits(codes, bits)
    assert stream.nbytes == math.ceil(codes.size * bits / 8)
    assert (unpack_bits(stream, bits, codes.size) == codes).all()
    text = "".join(f"{c:0{bits}b}"[::-1] for c in codes)  # the stream's definition: lowest bit first, no gap
    assert all(int(text[8 * i : 8 * i + 8][::-1], 2) == byte for i, byte in enumerate(stream))


@given(weights, st.integers(2, 8), st.booleans(), st.sampled_from(["tensor", "channel", "group"]), st.data())
def test_error_is_at_most_half_a_step_inside_the_range(w, bits, symmetric, per, data):
    rest = math.prod(w.shape[1:])
    group = data.draw(st.sampled_from([g for g in range(1, rest + 1) if rest % g == 0])) if per == "group" else None
    packed = pack_weight(w, bits, symmetric, per, group)
    rows = {"tensor": (1, 1), "channel": (len(w), 1), "group": (len(w), rest // (group or 1))}[per]
    assert packed.scale.shape == rows
    assert packed.shape == w.shape
    back = packed.dequantize().astype(np.float64).reshape(*rows, -1)
    exact = w.astype(np.float64).reshape(*rows, -1)
    s = packed.scale.astype(np.float64)[..., None]
    # Every weight is inside the range that its scale was made from. Beside s/2: the quotient w/s and the product
    # (u - z) s are rounded to float32, and so are the range and the scale itself; each by at most |top| eps.
    top = abs(exact).max(-1, initial=0, keepdims=True)
    assert (abs(back - exact) <= s / 2 + 8 * EPS * top).all()
    assert (back[exact == 0] == 0).all()
    zeros = ~exact.any(-1)
    assert (packed.scale[zeros] == 1).all()  # channels that pruning has emptied: no 0 / 0


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_bytes_on_disk_are_bits_and_scales(bits, symmetric, tmp_path):
    model = nn.Linear(67, 33, bias=False)
    quantize_(model, bits, weight_only=True, symmetric=symmetric)
    w, n = model.weight.array, 33 * 67
    assert w.stream.nbytes == math.ceil(n * bits / 8)
    assert w.scale.nbytes == 4 * 33
    layout = 4 * 3
    assert stored_bytes(model.weight) == math.ceil(n * bits / 8) + 4 * 33 + layout + (0 if symmetric else 33)
    size = save_model(model, tmp_path / "w.safetensors")
    assert size == os.path.getsize(tmp_path / "w.safetensors")
    header = int.from_bytes((tmp_path / "w.safetensors").read_bytes()[:8], "little") + 8
    assert size == header + stored_bytes(model.weight) + header_padding(tmp_path / "w.safetensors", header)
    again = load_model(nn.Linear(67, 33, bias=False), tmp_path / "w.safetensors")
    assert (again.weight.array.dequantize() == w.dequantize()).all()
    assert report(model).bytes == stored_bytes(model.weight)


def header_padding(path, header):
    """Bytes between arrays, which safetensors does not have: 0, read from the file's own table."""
    import json

    table = json.loads(path.read_bytes()[8:header])
    spans = sorted(v["data_offsets"] for k, v in table.items() if k != "__metadata__")
    return sum(b[0] - a[1] for a, b in itertools.pairwise(spans))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("how", [
    dict(bits=8), dict(bits=4, per="group", group=32), dict(bits=4, symmetric=False, per="group", group=64),
    dict(bits=3), dict(bits=8, weight_only=True, symmetric=False, per="tensor"), dict(bits=2, per="group", group=16),
])  # fmt: skip
def test_a_model_keeps_names_runs_and_comes_back_from_its_file(how, masked, tmp_path):
    random.manual_seed(0)
    model = nn.Sequential(nn.Embedding(20, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    x = wrap(np.arange(20).reshape(4, 5))
    if masked:
        prune_(model, 0.5)
    exact = dense(model, x)
    names = list(model.state_dict())
    before = dict(model.named_parameters())
    quantize_(model, **how)
    assert list(model.state_dict()) == names
    assert all(p is before[n] for n, p in model.named_parameters())
    y = dense(model, x)
    floats = copy.deepcopy(model)
    for p in floats.parameters():
        if p.packed:
            p.array = p.array.dequantize()
    same = dense(floats, x)
    if how != dict(bits=8):  # activations stay float: the same net with rounded weights, up to the order of the sums
        assert abs(y - same).max() <= 1e-5 * abs(same).max()
    assert abs(y - exact).max() > 0
    save_model(model, tmp_path / "m.safetensors")
    again = nn.Sequential(nn.Embedding(20, 64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    load_model(again, tmp_path / "m.safetensors")
    assert (dense(again, x) == y).all()
    assert {n: m.tolist() for n, m in masks(again).items()} == {n: m.tolist() for n, m in masks(model).items()}
    if masked:
        assert sparsity(model) >= 0.5
    with pytest.raises(CheckpointError, match="does not fit"):
        load_model(nn.Sequential(nn.Linear(3, 3)), tmp_path / "m.safetensors")


def dense(model, x):
    with no_grad():
        return model.eval()(x).array


@pytest.mark.parametrize("how", [dict(bits=8), dict(bits=4, per="group", group=32), dict(bits=5)])
@pytest.mark.parametrize("cross", [False, True])
def test_attention_reads_packed_projections(how, cross):
    random.manual_seed(1)
    layer = nn.MultiheadAttention(64, 4, batch_first=True).eval()
    q, kv = wrap(random.normal((2, 5, 64))), wrap(random.normal((2, 7, 64)))
    run = lambda m: m(q, kv, kv) if cross else m(q, q, q)
    with no_grad():
        exact, weights = run(layer)
        assert layer.in_proj_weight.packed is False
        quantize_(layer, **how)
        assert layer.in_proj_weight.packed
        assert layer.out_proj.weight.packed
        y, found = run(layer)
    assert np.allclose(found.array.sum(-1), 1, atol=1e-6)
    error = np.linalg.norm(y.array - exact.array) / np.linalg.norm(exact.array)
    assert 0 < error < {8: 0.02, 5: 0.15, 4: 0.3}[how["bits"]]  # about 2 rounding errors of 1 / 2**bits each


def test_causal_attention_and_convolution_read_packed_weights():
    layer, x = nn.CausalSelfAttention(32, 2, 1).eval(), wrap(random.normal((2, 5, 32)))
    with no_grad():
        exact = layer(x).array
        assert np.linalg.norm(quantize_(layer)(x).array - exact) < 0.03 * np.linalg.norm(exact)
    conv = nn.Sequential(nn.Conv2d(4, 6, 3, groups=2, padding=1))
    x = wrap(random.normal((2, 4, 5, 5)))
    with no_grad():
        exact = conv(x).array
        quantize_(conv, 6)
        assert isinstance(conv[0].weight.array, Codes)
        assert 0 < np.linalg.norm(conv(x).array - exact) < 0.05 * np.linalg.norm(exact)


def test_static_scales_come_from_the_observer_that_is_asked():
    from minidl.compress import Percentile

    random.manual_seed(2)
    x = random.normal((64, 8))
    x[0, 0] = 1000
    scales = {}
    for observer in (minidl.compress.MinMax, lambda: Percentile(99.0)):
        model = quantize_(nn.Linear(8, 2), calibration=x, observer=observer)
        scales[observer] = model.weight.array.x_scale
    first, second = scales.values()
    assert first == pytest.approx(1000 / 127)
    assert second < 20 / 127


def test_storage_refuses_what_does_not_fit():
    w = random.normal((4, 64))
    four = pack_weight(w, 4, per="group", group=32)
    assert isinstance(four, Int4)
    with pytest.raises(PackedError, match=r"packed as int4: only linear and embedding can"):
        np.asarray(four)
    with pytest.raises(NotImplementedError, match=r"conv2d cannot use.*int4"):
        four.conv2d(None, None, 1, 0, 1, 1)
    for bad in (
        lambda: Int4(four.q, four.scale[:, :1][:2]),
        lambda: Int4(four.q, -four.scale),
        lambda: Int4(four.q, four.scale, np.full((4, 2), 16, np.uint8)),
        lambda: Int4(four.q[:, :8], four.scale),
        lambda: Codes(np.zeros(3, np.uint8), 2, (4, 4), np.ones((4, 1), np.float32)),
        lambda: Codes(np.zeros(4, np.uint8), 1, (4, 4), np.ones((4, 1), np.float32)),
        lambda: Codes(np.zeros(4, np.uint8), 2, (4, 4), np.ones((3, 1), np.float32)),
        lambda: Codes(np.zeros(4, np.uint8), 2, (4, 4), np.ones((4, 3), np.float32)),
        lambda: Codes(np.zeros(4, np.uint8), 2, (4, 4), np.zeros((4, 1), np.float32)),
        lambda: Codes(np.zeros(4, np.uint8), 2, (4, 4), np.ones((1, 1), np.float32), np.full((1, 1), 4, np.uint8)),
        lambda: unpack_bits(np.uint8([255]), 3, 2),
    ):
        with pytest.raises(ValueError, match=r".{10}"):
            bad()
    for t in (four, pack_weight(w, 3), pack_int8(w)):
        part = t.rows(1, 3)
        assert (part.dequantize() == t.dequantize()[1:3]).all()
        twin = t.copy()
        assert (twin.dequantize() == t.dequantize()).all()
        assert all(not np.shares_memory(a, b) for a, b in zip(t.arrays().values(), twin.arrays().values(), strict=True))
        assert t.nonzeros() == np.count_nonzero(t.dequantize())
        assert "64" in repr(t)


def test_weights_that_cannot_be_quantized():
    with pytest.raises(TypeError, match="int64"):
        pack_weight(np.ones((2, 2), np.int64))
    with pytest.raises(TypeError, match="float64"):
        pack_int8(np.ones((2, 2)))
    with pytest.raises(ValueError, match="single number"):
        pack_weight(np.float32(1))
    for bits in (1, 9, 4.0, True):
        with pytest.raises(ValueError, match="bits must be an integer"):
            pack_weight(np.ones((2, 2), np.float32), bits)
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            pack_weight(np.float32([[1, bad]]), 4, symmetric=False)


def test_a_damaged_file_is_refused(tmp_path):
    model = quantize_(prune_(nn.Linear(64, 4), 0.5), 3)
    state = {"weight": {"kind": "codes", "masked": True, "storage": model.weight.array, "bits": np.zeros(1, np.uint8)}}
    minidl.save(state, tmp_path / "f.safetensors")
    with pytest.raises(CheckpointError, match=r"'weight' of shape \(4, 64\)"):
        load_model(nn.Linear(64, 4), tmp_path / "f.safetensors")
    for change in ({"storage": np.zeros(3)}, {"masked": 1}, {"more": 2}, {"kind": "int4", "storage": None}):
        minidl.save({"weight": state["weight"] | change}, tmp_path / "f.safetensors")
        with pytest.raises(CheckpointError, match="does not know"):
            load_model(nn.Linear(64, 4), tmp_path / "f.safetensors")


def test_one_weight_under_two_names_is_in_the_file_once(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)
            self.b.weight = self.a.weight

    for bits in (8, 4, 3):
        model = quantize_(Two(), bits)
        save_model(model, tmp_path / "t.safetensors")
        assert isinstance(model.a.weight.array, {8: Int8, 4: Int4, 3: Codes}[bits])
        again = load_model(Two(), tmp_path / "t.safetensors")
        assert again.a.weight is again.b.weight
        assert (again.a.weight.array.dequantize() == model.a.weight.array.dequantize()).all()
