"""Files of compressed models: the same bits come back, and nothing in a file is believed."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file

import minidl
from minidl import io, nn
from minidl.compress import load_model, load_state, masks, prune_, quantize_, save_model, stored_bytes
from minidl.compress.files import decode, encode
from minidl.io import CheckpointError
from minidl.storage import Int8
from minidl.tensors import wrap


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


VARIANTS = {
    "dense": lambda m: m,
    "pruned": lambda m: prune_(m, 0.8),
    "int8": quantize_,
    "pruned int8": lambda m: quantize_(prune_(m, 0.8)),
    "static": lambda m: quantize_(prune_(m, 0.5), calibration=minidl.random.normal((3, 1, 4, 4))),
    "mixed": lambda m: quantize_(prune_(m, 0.8, skip="0"), skip="4"),
}


def bits(model):
    """Everything a model holds, as bytes by name."""
    found = {}
    for name, t in model.state_dict(keep_vars=True).items():
        arrays = t.array.arrays() if isinstance(t.array, Int8) else {"": t.array}
        found |= {f"{name} {k}": (str(a.dtype), a.shape, a.tobytes()) for k, a in arrays.items()}
        mask = getattr(t, "mask", None)
        found[f"{name} mask"] = None if mask is None else mask.tobytes()
    return found


@pytest.mark.parametrize("how", VARIANTS)
@pytest.mark.parametrize("before", VARIANTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_round_trip_gives_the_same_bits(tmp_path, how, before, suffix):
    """Into a fresh model and into one that is stored in another way."""
    model, path = VARIANTS[how](net()), tmp_path / f"net{suffix}"
    size = save_model(model, path)
    assert size == path.stat().st_size
    other = VARIANTS[before](net())
    assert load_model(other, path) is other
    assert bits(other) == bits(model)
    assert [p.requires_grad for p in other.parameters()] == [not p.packed for p in other.parameters()]
    x = wrap(minidl.random.normal((2, 1, 4, 4)))
    assert (other.eval()(x).array == model.eval()(x).array).all()
    if how == "dense":
        assert bits(load_model(net, path)) == bits(model)


def test_a_pruned_weights_minus_zero_becomes_zero(tmp_path):
    """What an optimizer that multiplies by the mask may leave behind; predictions are the same bits."""
    model = prune_(net(), 0.8)
    model[4].weight.array[~model[4].weight.mask] = -0.0
    save_model(model, tmp_path / "net.safetensors")
    other = load_model(net(), tmp_path / "net.safetensors")
    assert (other[4].weight.array == model[4].weight.array).all()
    assert not np.signbit(other[4].weight.array[~model[4].weight.mask]).any()
    x = wrap(minidl.random.normal((5, 1, 4, 4)))
    assert other.eval()(x).array.tobytes() == model.eval()(x).array.tobytes()


def test_sizes_are_what_they_should_be(tmp_path):
    model = nn.Linear(1000, 100, bias=False)
    n = 100_000
    sizes = {}
    for name, change in (
        ("dense", lambda: model),
        ("pruned", lambda: prune_(model, 0.9)),
        ("pruned int8", lambda: quantize_(model)),
    ):
        sizes[name] = save_model(change(), tmp_path / "net.safetensors")
    header = 600
    assert 4 * n <= sizes["dense"] <= 4 * n + header
    assert 4 * n // 10 + n // 8 <= sizes["pruned"] <= 4 * n // 10 + n // 8 + header
    assert n // 10 + n // 8 + 400 <= sizes["pruned int8"] <= n // 10 + n // 8 + 400 + header


def test_a_dense_model_is_a_file_that_others_read(tmp_path):
    model = net()
    save_model(model, tmp_path / "net.safetensors")
    read = load_file(tmp_path / "net.safetensors")
    assert set(read) == set(model.state_dict())
    assert all((read[name] == t.array).all() for name, t in model.state_dict().items())
    model.load_state_dict(io.load(tmp_path / "net.safetensors"))


def test_names_in_the_file_begin_with_the_keys(tmp_path):
    save_model(quantize_(prune_(net(), 0.8)), tmp_path / "net.safetensors")
    names = set(load_file(tmp_path / "net.safetensors"))
    assert {"0.weight.bits", "0.weight.values", "0.weight.scale", "0.bias", "1.running_mean"} <= names


def test_plain_state_dicts_load_too(tmp_path):
    model, other = net(), prune_(net(), 0.5)
    io.save(model.state_dict(), tmp_path / "net.safetensors")
    load_model(other, tmp_path / "net.safetensors")
    assert bits(other) == bits(model)


def test_shared_weights_are_stored_once(tmp_path):
    model = nn.Sequential(nn.Linear(300, 300, bias=False), nn.Linear(300, 300, bias=False))
    model[1].weight = model[0].weight
    prune_(model, 0.5)
    assert save_model(model, tmp_path / "net.safetensors") < 300 * 300 * 2.2
    other = nn.Sequential(nn.Linear(300, 300, bias=False), nn.Linear(300, 300, bias=False))
    other[1].weight = other[0].weight
    assert bits(load_model(other, tmp_path / "net.safetensors")) == bits(model)
    assert other[1].weight is other[0].weight


@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.float16]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
        elements=st.sampled_from([0.0, -0.0, 1.5, -2.0, np.inf, np.nan]),
    ),
    st.data(),
)
def test_any_array_with_any_mask(array, data):
    p = nn.Parameter(array.copy())
    if data.draw(st.booleans()):
        p.mask = data.draw(hnp.arrays(bool, array.shape))
        if data.draw(st.booleans()):
            p.apply_mask_()
    record = encode(p)
    back = record if not isinstance(record, dict) else decode(record, ValueError)
    assert back.array.dtype == array.dtype
    assert back.array.tobytes() == p.array.tobytes() or (
        # where the mask says 0, a -0.0 comes back as 0.0
        p.mask is not None and np.array_equal(back.array, p.array, equal_nan=True)
    )
    mask = getattr(back, "mask", None)
    assert (mask is None) == (p.mask is None)
    assert mask is None or (mask == p.mask).all()
    assert stored_bytes(p) <= p.nbytes + -(-array.size // 8)


# -- bad files --------------------------------------------------------------------------------------------------------


def good(how="pruned int8"):
    return {name: encode(t) for name, t in VARIANTS[how](net()).state_dict(keep_vars=True).items()}


def change(record, **fields):
    return {k: v for k, v in {**record, **fields}.items() if v is not ...}


U8, F32, I8 = np.uint8, np.float32, np.int8
HOSTILE = {
    "kind": (dict(kind="int3"), "does not know"),
    "field": (dict(extra=1), "does not know"),
    "masked": (dict(masked=1), "does not know"),
    "masked without bits": (dict(shape=..., values=..., bits=..., data=np.zeros((4, 1, 3, 3), I8)), "has no bits"),
    "no values": (dict(values=...), "no array 'values'"),
    "no bits": (dict(bits=...), "no array 'bits'"),
    "no scale": (dict(scale=...), "no array 'scale'"),
    "values as text": (dict(values="7"), "no array 'values'"),
    "no shape": (dict(shape=...), "has shape None"),
    "negative shape": (dict(shape=[-4, 1, 3, -3]), "has shape"),
    "fractional shape": (dict(shape=[4.0, 1, 3, 3]), "has shape"),
    "bool in shape": (dict(shape=[4, True, 3, 3]), "has shape"),
    "huge shape": (dict(shape=[2**40, 2**20, 1, 1]), "limit"),
    "larger shape": (dict(shape=[8, 1, 3, 3]), r"not \(9,\)"),
    "few bits": (dict(bits=np.zeros(4, U8)), r"bits of shape \(4,\)"),
    "bits of bool": (dict(bits=np.zeros(5, bool)), "bool bits"),
    "bits behind the end": (dict(bits=np.full(5, 255, U8)), "behind its last element"),
    "one bit too many": (dict(bits=np.array([1, 0, 0, 0, 0], U8), values=np.zeros(2, I8)), "1 bits set"),
    "values in two axes": (dict(bits=np.array([3, 0, 0, 0, 0], U8), values=np.zeros((1, 2), I8)), "2 bits set"),
    "values of float": (dict(bits=np.zeros(5, U8), values=np.zeros(0, F32)), "not valid int8"),
    "-128": (dict(bits=np.array([1, 0, 0, 0, 0], U8), values=np.full(1, -128, I8)), "symmetric"),
    "scale 0": (dict(scale=np.zeros(4, F32)), "positive and finite"),
    "scale NaN": (dict(scale=np.full(4, np.nan, F32)), "positive and finite"),
    "scales of float64": (dict(scale=np.ones(4)), "float64"),
    "few scales": (dict(scale=np.ones(3, F32)), "not valid int8"),
    "x_scale 0": (dict(x_scale=0.0), "x_scale"),
    "x_scale NaN": (dict(x_scale=float("nan")), "x_scale"),
    "x_scale text": (dict(x_scale="1"), "x_scale"),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_hostile_record_is_refused(tmp_path, fault):
    fields, message = HOSTILE[fault]
    path = tmp_path / "net.safetensors"
    state = good()
    state["0.weight"] = change(state["0.weight"], **fields)
    io.save(state, path)
    model = net()
    before = bits(model)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(model, path)
    assert str(path) in str(caught.value)
    assert "'0.weight'" in str(caught.value)
    assert bits(model) == before


def test_floats_that_are_none(tmp_path):
    path = tmp_path / "net.safetensors"
    state = good("pruned")
    state["4.weight"] = change(state["4.weight"], values=state["4.weight"]["values"].astype(np.int32))
    io.save(state, path)
    with pytest.raises(CheckpointError, match="int32 values, not floats"):
        load_state(path)
    for content, message in (([1, 2], "holds a list"), ({"a": 1}, "'a' is a int"), ({3: wrap(np.ones(1))}, "3 is a")):
        io.save(content, path)
        if message == "3 is a":
            with pytest.raises(CheckpointError, match="does not fit"):
                load_model(net(), path)
            continue
        with pytest.raises(CheckpointError, match=message):
            load_state(path)


@pytest.mark.parametrize("how", ["dense", "pruned int8"])
def test_another_model_keeps_what_it_has(tmp_path, how):
    path = tmp_path / "net.safetensors"
    save_model(VARIANTS[how](net()), path)
    other = prune_(nn.Sequential(nn.Conv2d(1, 5, 3), nn.Linear(4, 4)), 0.5)
    before = bits(other)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_model(other, path)
    assert bits(other) == before
    assert masks(other)


def test_cut_and_damaged_files(tmp_path):
    """Cut anywhere, or with any byte of the header changed: an error of ours, or (a byte of the data) other weights."""
    path = tmp_path / "net.safetensors"
    save_model(quantize_(prune_(net(), 0.8)), path)
    raw = path.read_bytes()
    header = int.from_bytes(raw[:8], "little")
    bad = tmp_path / "bad.safetensors"
    for length in [*range(16), 8 + header // 2, 8 + header, len(raw) - 1]:
        bad.write_bytes(raw[:length])
        with pytest.raises(CheckpointError, match="bad.safetensors"):
            load_model(net(), bad)
    for at in range(0, len(raw), 7):
        changed = bytearray(raw)
        changed[at] ^= 0x15
        bad.write_bytes(bytes(changed))
        try:
            load_model(net(), bad)
        except CheckpointError as error:
            assert "bad.safetensors" in str(error)


def test_what_cannot_be_written_or_read(tmp_path):
    model = net()
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        save_model(model, tmp_path / "missing" / "net.safetensors")
    with pytest.raises(ValueError, match="safetensors or .npz"):
        save_model(model, tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="No such file"):
        load_model(model, tmp_path / "net.safetensors")
    save_model(model, tmp_path / "net.safetensors")
    with pytest.raises(CheckpointError, match="limit"):
        load_model(model, tmp_path / "net.safetensors", max_bytes=100)
    assert [p.name for p in pathlib.Path(tmp_path).iterdir()] == ["net.safetensors"]


def test_the_metadata_says_how(tmp_path):
    save_model(prune_(net(), 0.8), tmp_path / "net.safetensors")
    raw = (tmp_path / "net.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    tree = dict(json.loads(header["__metadata__"]["minidl"])["tree"]["dict"])
    assert dict(tree["0.weight"]["dict"])["kind"] == "float"
    assert dict(tree["0.weight"]["dict"])["shape"] == [4, 1, 3, 3]
    assert tree["0.bias"] == {"tensor": "0.bias"}
