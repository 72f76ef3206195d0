"""Checkpoints come back bit for bit, are written whole or not at all, and a hostile file only ever raises."""

import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file as foreign_load
from safetensors.torch import save_file as torch_save

from minidl.io import CheckpointError, atomic_write, load, save
from minidl.nn.parameter import Parameter
from minidl.storage import Int8
from minidl.tensors import Tensor, wrap

SUFFIXES = [".safetensors", ".npz"]
DTYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]


def same(a, b):
    """Equal types, structures and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return same(a.array, b.array)
    if isinstance(a, (np.ndarray, np.generic)):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b))
    if isinstance(a, float):
        return struct.pack("d", a) == struct.pack("d", b)
    return a == b


def test_same_tells_apart():
    nan = np.array([np.nan], np.float32)
    other = np.array([0x7FC00001], np.uint32).view(np.float32)
    assert same(nan, nan.copy())
    for a, b in [(nan, other), (1, 1.0), (True, 1), (0.0, -0.0), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ([1], (1,))]:
        assert not same(a, b)


# -- round trips ---------------------------------------------------------------------------------------------

arrays = st.sampled_from(DTYPES).flatmap(
    lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
tensors = st.sampled_from([d for d in DTYPES if d not in ("u2", "u4", "u8")]).flatmap(
    lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)).map(wrap)
)
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), arrays, tensors, st.just(np.float32(1.5))
)
trees = st.recursive(
    leaves,
    lambda x: st.one_of(
        st.lists(x, max_size=3),
        st.lists(x, max_size=3).map(tuple),
        st.dictionaries(st.text() | st.integers(), x, max_size=4),
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(tree=trees)
def test_any_structure_comes_back_bit_for_bit(tmp_path_factory, suffix, tree):
    path = tmp_path_factory.mktemp("t") / f"file{suffix}"
    save(tree, path)
    assert same(load(path), tree)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", ["u2", "u4", "u8"])
def test_every_bit_pattern_survives(tmp_path, suffix, dtype):
    floats = np.dtype("f" + dtype[1])
    bits = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, 500, dtype=dtype, endpoint=True)
    nans = np.array([np.nan, -np.nan, np.inf, -np.inf, -0.0], floats)
    nans.view(dtype)[0] += 5  # a payload
    x = np.concatenate([bits.view(floats), nans])
    save({"x": wrap(x)}, tmp_path / f"x{suffix}")
    assert load(tmp_path / f"x{suffix}")["x"].array.tobytes() == x.tobytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_layouts_and_byte_orders(tmp_path, suffix):
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for view in (x.T, x[:, ::-1], x[..., ::2], np.broadcast_to(x[0, 0], (3, 4)), np.asfortranarray(x), x.astype(">f4")):
        save(view, tmp_path / f"x{suffix}")
        back = load(tmp_path / f"x{suffix}")
        assert back.dtype == np.float32
        assert np.array_equal(back, view)
        back += 1  # it is the reader's own memory


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_shared_is_stored_once_and_comes_back_shared(tmp_path, suffix):
    big = np.zeros(50_000, np.float32)
    t = wrap(big)
    save({"tied": {"a": t, "b": t}, "raw": [big, big], "other": wrap(big)}, tmp_path / f"x{suffix}")
    assert os.path.getsize(tmp_path / f"x{suffix}") < 1.1 * big.nbytes
    back = load(tmp_path / f"x{suffix}")
    assert back["tied"]["a"] is back["tied"]["b"]
    assert back["raw"][0] is back["raw"][1]
    assert np.array_equal(back["other"].array, big)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_names_that_look_alike_stay_apart(tmp_path, suffix):
    tree = {
        "a": {"b": np.array(1)}, "a.b": np.array(2), 1: np.array(3), "1": np.array(4), "": np.array(5),
        "__metadata__": np.array(6), "__minidl__": np.array(7), "file": np.array(8), "/etc/x": np.array(9),
        "../up": np.array(10), "a.b#2": np.array(11), "é\n\0\ud800": np.array(12),
    }  # fmt: skip
    save(tree, tmp_path / f"x{suffix}")
    assert same(load(tmp_path / f"x{suffix}"), tree)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_contents_give_equal_files(tmp_path, suffix):
    state = {"w": np.arange(6.0).reshape(2, 3), "lr": 0.1}
    for name in ("a", "b"):
        save(state, tmp_path / f"{name}{suffix}")
        time.sleep(0.01)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(tree=trees)
def test_sparse_files_hold_the_same(tmp_path_factory, suffix, tree):
    path = tmp_path_factory.mktemp("t") / f"file{suffix}"
    save(tree, path, sparse=True)
    assert same(load(path), tree)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_take_a_bit_each(tmp_path, suffix, dtype):
    x = np.zeros((300, 333), dtype)
    x[::10, ::2] = 1
    if np.dtype(dtype).kind == "f":
        x[1, :4] = -0.0, np.nan, np.inf, -np.inf
    save({"x": wrap(x), "x.nonzero": np.zeros((100, 100)), "dense": np.ones((100, 100))}, tmp_path / "d.npz")
    save(
        {"x": wrap(x), "x.nonzero": np.zeros((100, 100)), "dense": np.ones((100, 100))},
        tmp_path / f"s{suffix}",
        sparse=True,
    )
    back = load(tmp_path / f"s{suffix}")
    assert same(back, load(tmp_path / "d.npz"))
    assert back["x"].array.tobytes() == x.tobytes()
    nonzero = 30 * 167 + (4 if np.dtype(dtype).kind == "f" else 0)
    expected = nonzero * x.itemsize + x.size / 8 + 1250 + 80_000
    assert expected <= os.path.getsize(tmp_path / f"s{suffix}") <= expected + 2000


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("sparse", [False, True])
def test_masks_and_packed_storage(tmp_path, suffix, sparse):
    rng = np.random.default_rng(0)
    weight = Parameter(rng.normal(size=(7, 9)).astype(np.float32))
    weight.mask = rng.random((7, 9)) < 0.2
    weight.apply_mask_()
    q = rng.integers(-127, 128, (5, 3), dtype=np.int8)
    scale = np.arange(1, 6, dtype=np.float32)
    masked = Int8(q, scale)
    masked.mask = q != 0
    state = {"w": weight, "dynamic": masked, "static": Int8(q, scale, 0.25), "p": Parameter(Int8(q, scale))}
    save(state, tmp_path / f"x{suffix}", sparse=sparse)
    back = load(tmp_path / f"x{suffix}")
    assert list(back) == list(state)
    assert np.array_equal(back["w"].array, weight.array)
    assert back["w"].mask.dtype == bool
    assert np.array_equal(back["w"].mask, weight.mask)
    for name, x_scale in [("dynamic", None), ("static", 0.25), ("p", None)]:
        assert isinstance(back[name], Int8)
        assert np.array_equal(back[name].q, q)
        assert np.array_equal(back[name].scale, scale)
        assert back[name].x_scale == x_scale
    assert np.array_equal(back["dynamic"].mask, masked.mask)
    assert back["static"].mask is None


# -- other programs' files -----------------------------------------------------------------------------------


def test_a_state_dict_is_a_plain_safetensors_file(tmp_path):
    state = {"fc.weight": wrap(np.ones((2, 3), np.float32)), "fc.bias": wrap(np.zeros(2, np.float32))}
    save(state, tmp_path / "m.safetensors")
    back = foreign_load(tmp_path / "m.safetensors")
    assert sorted(back) == sorted(state)
    assert np.array_equal(back["fc.weight"], state["fc.weight"].array)


def test_a_torch_file_with_bfloat16(tmp_path):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    every = bits.view(torch.bfloat16)  # all 65,536 of them, NaN payloads included
    torch_save(
        {"h": every, "n": torch.arange(3), "s": torch.tensor(2.5), "b": torch.tensor([True])},
        tmp_path / "t.safetensors",
    )
    back = load(tmp_path / "t.safetensors")
    assert set(back) == {"h", "n", "s", "b"}
    assert back["h"].array.dtype == np.float32
    widened = back["h"].array.view(np.uint32)
    assert np.array_equal(widened >> 16, bits.numpy().view(np.uint16))
    assert not (widened & 0xFFFF).any()
    assert back["n"].array.tolist() == [0, 1, 2]
    assert back["s"].array.shape == ()
    assert back["b"].array.dtype == bool


def test_an_npz_of_numpy(tmp_path):
    np.savez_compressed(tmp_path / "n.npz", b=np.arange(4), a=np.asfortranarray(np.eye(3)), u=np.zeros(2, np.uint16))
    back = load(tmp_path / "n.npz")
    assert list(back) == ["b", "a", "u"]
    assert isinstance(back["a"], Tensor)
    assert np.array_equal(back["a"].array, np.eye(3))
    assert isinstance(back["u"], np.ndarray)


def test_numpy_reads_our_npz(tmp_path):
    save({"w": np.arange(3.0)}, tmp_path / "n.npz")
    with np.load(tmp_path / "n.npz", allow_pickle=False) as back:
        assert back["w"].tolist() == [0, 1, 2]


# -- what cannot be saved ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, object()]}, r"\['a'\]\['1'\]: a object"),
        ({"a": {1.5: 2}}, "keys must be str or int"),
        ({True: 2}, "keys must be str or int"),
        ({"c": np.zeros(2, complex)}, "complex128"),
        ({"o": np.array([None])}, "object"),
        ({"s": np.array(["x"])}, "<U1"),
        (b"bytes", "bytes"),
        ({1, 2}, "set"),
        (lambda: None, "function"),
    ],
)
def test_what_is_not_data_is_refused_and_the_old_file_stays(tmp_path, value, message):
    path = tmp_path / "x.safetensors"
    save({"old": 1}, path)
    with pytest.raises(TypeError, match=message):
        save(value, path)
    assert load(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_a_structure_that_contains_itself(tmp_path):
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match="contains itself"):
        save(loop, tmp_path / "x.npz")


def test_other_suffixes(tmp_path):
    with pytest.raises(
        ValueError, match=r"ends in \.safetensors or \.npz; torch's own files are read, but not written"
    ):
        save({}, tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"ends in \.safetensors or \.npz$"):
        save({}, tmp_path / "model")
    for name in ("model.bin", "model", "model.ckpt", "model.pkl", "model.npy"):
        (tmp_path / name).write_bytes(pickle.dumps(Executed()))
        with pytest.raises(CheckpointError, match=rf"{name}: .+ends in \.safetensors, \.npz, \.pt or \.pth$"):
            load(tmp_path / name)
    torch.save({"w": torch.ones(2)}, tmp_path / "model.PTH")
    assert load(tmp_path / "model.PTH")["w"].tolist() == [1, 1]


# -- damaged and hostile files -------------------------------------------------------------------------------


def state():
    return {"w": wrap(np.arange(6, dtype=np.float32).reshape(2, 3)), "mask": np.array([True, False]), "step": 7}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_cut_anywhere_raises(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    save(state(), path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=str(path)):
            load(path)
    path.write_bytes(whole)
    assert same(load(path), state())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_with_changed_bytes_raises_or_loads_data(tmp_path, suffix):
    """A flipped bit gives CheckpointError or other plain data, never another exception."""
    path = tmp_path / f"x{suffix}"
    save(state(), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    outcomes = set()
    for _ in range(400):
        broken = bytearray(whole)
        for i in rng.integers(0, len(whole), rng.integers(1, 4)):
            broken[i] ^= 1 << rng.integers(0, 8)
        path.write_bytes(broken)
        try:
            load(path)
            outcomes.add("data")
        except CheckpointError as error:
            assert str(path) in str(error)
            outcomes.add("error")
    assert "error" in outcomes


def safetensors_bytes(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype, shape, start, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def tree(text, data=b"", **tensors):
    return safetensors_bytes({"__metadata__": {"minidl": text}, **tensors}, data)


def nested(depth):
    return '{"version":1,"tree":' + "[" * depth + "]" * depth + "}"


def sparse_of(shape):
    return json.dumps({"version": 1, "tree": None, "sparse": {"a": [shape, "b"]}})


NOTHING = entry("U8", [0], 0, 0)

HOSTILE = {
    "empty": b"",
    "header longer than the file": (2**62).to_bytes(8, "little") + b"{}",
    "header of a terabyte": (2**40).to_bytes(8, "little") + b"{}",
    "not JSON": safetensors_bytes(b"{nonsense"),
    "a list": safetensors_bytes(b"[]"),
    "deep": safetensors_bytes(b"[" * 100_000),
    "absurd shape": safetensors_bytes({"a": entry("F32", [2**62, 2**62], 0, 4)}, b"\0" * 4),
    "large shape, no data": safetensors_bytes({"a": entry("F32", [2**40], 0, 2**42)}),
    "negative shape": safetensors_bytes({"a": entry("F32", [-1], 0, 0)}),
    "offsets swapped": safetensors_bytes({"a": entry("U8", [4], 4, 0)}, b"\0" * 4),
    "overlap": safetensors_bytes({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, b"\0" * 6),
    "bytes left over": safetensors_bytes({"a": entry("U8", [1], 0, 1)}, b"\0" * 9),
    "boolean of 7": safetensors_bytes({"a": entry("BOOL", [1], 0, 1)}, b"\7"),
    "unknown dtype": safetensors_bytes({"a": entry("Q9", [1], 0, 1)}, b"\0"),
    "float8": safetensors_bytes({"a": entry("F8_E4M3", [1], 0, 1)}, b"\0"),
    "structure is not JSON": tree("{"),
    "structure is a list": tree("[1]"),
    "no version": tree('{"tree":1}'),
    "another version": tree('{"version":2,"tree":1}'),
    "unknown array": tree('{"version":1,"tree":{"tensor":"a"}}'),
    "array by a list": tree('{"version":1,"tree":{"array":["a"]}}'),
    "unknown kind": tree('{"version":1,"tree":{"code":"print()"}}'),
    "two kinds": tree('{"version":1,"tree":{"dict":[],"tuple":[]}}'),
    "key is a list": tree('{"version":1,"tree":{"dict":[[[1],2]]}}'),
    "key twice": tree('{"version":1,"tree":{"dict":[["a",1],["a",2]]}}'),
    "pair of three": tree('{"version":1,"tree":{"dict":[["a",1,2]]}}'),
    "dict of a number": tree('{"version":1,"tree":{"dict":5}}'),
    "bad float": tree('{"version":1,"tree":{"float":"zz"}}'),
    "short float": tree('{"version":1,"tree":{"float":"00"}}'),
    "deep structure": tree(nested(100_000)),
    "unknown storage": tree('{"version":1,"tree":{"packed":["zip",{},null]}}'),
    "storage without parts": tree('{"version":1,"tree":{"packed":["int8",{},null]}}'),
    "storage of wrong parts": tree(
        '{"version":1,"tree":{"packed":["int8",{"q":"a","scale":"a"},null]}}', a=NOTHING
    ),
    "mask too short": tree('{"version":1,"tree":{"pruned":["a","b"]}}', a=NOTHING, b=entry("I8", [0], 0, 0)),
    "sparse without parts": tree('{"version":1,"tree":null,"sparse":{"a":[[2],"b"]}}'),
    "sparse of a terabyte": tree(sparse_of([2**40]), a=NOTHING, b=NOTHING),
    "sparse, negative": tree(sparse_of([-1, -1]), a=NOTHING, b=NOTHING),
    "sparse, values missing": tree(sparse_of([8]), b"\xff", a=NOTHING, b=entry("U8", [1], 0, 1)),
    "sparse, stray bits": tree(sparse_of([3]), b"\x01", a=NOTHING, b=entry("U8", [1], 0, 1)),
    "sparse is a list": tree('{"version":1,"tree":null,"sparse":[1]}'),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_safetensors(tmp_path, name):
    path = tmp_path / "x.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(CheckpointError, match=str(path)):
        load(path)


class Executed:
    def __reduce__(self):
        return os.system, ("echo executed > /dev/null",)


def npy(header, data=b"", version=b"\x01\x00"):
    text = header.encode() + b"\n"
    length = struct.pack("<H" if version[0] == 1 else "<I", len(text))
    return b"\x93NUMPY" + version + length + text + data


def header(descr="'<f4'", shape="(1,)", fortran="False"):
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


NPY = {
    "pickle": npy(header("'|O'"), pickle.dumps(Executed())),
    "object field": npy(header("[('a', '|O')]"), pickle.dumps(Executed())),
    "structured": npy(header("[('a', '<f4')]"), b"\0" * 4),
    "text": npy(header("'<U1'"), b"a\0\0\0"),
    "complex": npy(header("'<c8'"), b"\0" * 8),
    "time": npy(header("'<M8[s]'"), b"\0" * 8),
    "absurd shape": npy(header(shape="(99999999999, 99999999999)"), b"\0" * 4),
    "large shape": npy(header(shape="(1099511627776,)"), b"\0" * 4),
    "negative shape": npy(header(shape="(-1,)"), b""),
    "two negatives": npy(header(shape="(-1, -1)"), b"\0" * 4),
    "too short": npy(header(shape="(2,)"), b"\0" * 4),
    "too long": npy(header(), b"\0" * 5),
    "expression": npy(header(shape="(__import__('os').getpid(),)"), b"\0" * 4),
    "deep literal": npy("(" * 5000, b"\0" * 4),
    "long header": npy(header() + " " * 20_000, b"\0" * 4),
    "no header": b"\x93NUMPY\x01\x00",
    "no magic": b"hello",
    "version 9": npy(header(), b"\0" * 4, b"\x09\x00"),
    "boolean of 7": npy(header("'|b1'"), b"\7"),
}


def zipped(members, **kw):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **kw) as z:
        for name, data in members:
            z.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("name", NPY)
def test_hostile_npz_members(tmp_path, name):
    path = tmp_path / "x.npz"
    path.write_bytes(zipped([("a.npy", NPY[name])]))
    with pytest.raises(CheckpointError, match=str(path)):
        load(path)


def test_an_honest_member_loads(tmp_path):
    """The builder of the hostile files above can build a good one."""
    path = tmp_path / "x.npz"
    for version in (b"\x01\x00", b"\x02\x00"):
        path.write_bytes(zipped([("a.npy", npy(header(), struct.pack("<f", 2.5), version))]))
        assert load(path)["a"].array.tolist() == [2.5]


def test_hostile_archives(tmp_path):
    path = tmp_path / "x.npz"
    good = npy(header(), b"\0" * 4)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped([("a.npy", good), ("a.npy", good)])
    for data in (b"", b"PK\3\4", zipped([("a.txt", b"hello")]), twice):
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=str(path)):
            load(path)
    encrypted = bytearray(zipped([("a.npy", good)]))
    encrypted[6] |= 1
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(CheckpointError, match="encrypted"):
        load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_size_limits(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    if suffix == ".npz":  # 40 MB of zeros in 40 kB
        np.savez_compressed(path, a=np.zeros(5_000_000))
    else:
        save({"a": np.zeros(5_000_000)}, path)
    with pytest.raises(CheckpointError, match="more than the limit of 1000000"):
        load(path, max_bytes=1_000_000)
    assert load(path, max_bytes=41_000_000)["a"].shape == (5_000_000,)


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    os.mkdir(tmp_path / "folder.safetensors")
    for name, reason in [
        ("none.npz", "No such file"),
        ("none.safetensors", "No such file"),
        ("pipe.npz", "pipe"),
        ("folder.safetensors", "folder"),
    ]:
        with pytest.raises(CheckpointError, match=reason):
            load(tmp_path / name)


# -- atomic writes -------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as f:
        f.write(b"half of the new")
        f.flush()
        assert path.read_bytes() == b"old"
        _ = 1 / 0
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_modes_and_links(tmp_path):
    path, link = tmp_path / "f", tmp_path / "link"
    link.symlink_to(path)
    with atomic_write(link) as f:
        f.write(b"1")
    assert link.is_symlink()
    assert path.read_bytes() == b"1"
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert path.stat().st_mode == plain.stat().st_mode
    path.chmod(0o640)
    with atomic_write(path) as f:
        f.write(b"2")
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.read_bytes() == b"2"


def test_devices_are_written_directly():
    with atomic_write("/dev/null") as f:
        f.write(b"x")
    assert not os.path.isfile("/dev/null")


def test_errors_name_the_path(tmp_path):
    for path, kind, reason in [
        (tmp_path / "no" / "f", FileNotFoundError, "there is no folder"),
        (tmp_path, IsADirectoryError, "it is a folder"),
        (tmp_path / ("x" * 300), OSError, "too long"),
    ]:
        with pytest.raises(kind, match=reason), atomic_write(path):
            raise AssertionError("the block must not run")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="cannot write"), atomic_write(tmp_path / "file" / "f"):
        raise AssertionError("the block must not run")


def test_an_unwritable_folder():
    """In a process without root's powers: root may write anywhere."""
    code = """
import os, sys
from minidl.io.atomic import atomic_write
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    with atomic_write(sys.argv[1]) as f:
        f.write(b"x")
except PermissionError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        path = os.path.join(folder, "f")
        run = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
        os.chmod(folder, 0o700)
        assert run.stdout == f"cannot write {path}: the folder {folder} is not writable\n", run.stderr
        assert os.listdir(folder) == []


def test_a_full_disk_is_reported(tmp_path):
    """/dev/full refuses every byte with the error of a full disk."""
    with pytest.raises(OSError, match="No space"), atomic_write("/dev/full") as f:
        f.write(b"x")


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "c.safetensors"
    save({"n": 0, "x": np.zeros(200_000)}, path)
    code = """
import sys, numpy as np
from minidl.io import save
n = 1
while True:
    save({"n": n, "x": np.full(200_000, float(n))}, sys.argv[1])
    n += 1
    print(n, flush=True)
"""
    last = 0
    for attempt in range(4):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(0.003 * (attempt + 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        back = load(path)
        assert (back["x"] == back["n"]).all()
        last = max(last, back["n"])
    assert last > 0


def test_readers_beside_a_writer_see_whole_files(tmp_path):
    path, stop, seen = tmp_path / "c.npz", threading.Event(), set()
    save({"n": 0, "x": np.zeros(20_000)}, path)

    def read():
        while not stop.is_set():
            back = load(path)
            assert (back["x"] == back["n"]).all()
            seen.add(back["n"])

    errors = []
    thread = threading.Thread(target=lambda: errors.append(_error(read)))
    thread.start()
    for n in range(1, 60):
        save({"n": n, "x": np.full(20_000, float(n))}, path)
    stop.set()
    thread.join()
    assert errors == [None]
    assert len(seen) > 1


def _error(function):
    try:
        function()
    except Exception as error:
        return error
    return None
