"""Files of torch.save: read as torch reads them, and nothing in them is run."""

import io
import pickle
import struct
import tempfile
import zipfile

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import minidl
from minidl.io import CheckpointError


def same(ours, theirs):
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, minidl.Tensor)
        assert tuple(ours.shape) == tuple(theirs.shape)
        assert ours.requires_grad == theirs.requires_grad
        wide = theirs.dtype == torch.bfloat16
        plain = theirs.detach().float() if wide else theirs.detach()
        assert ours.detach().numpy().dtype == plain.numpy().dtype
        np.testing.assert_array_equal(ours.detach().numpy(), plain.numpy())
    elif isinstance(theirs, dict):
        assert type(ours) is dict
        assert list(ours) == list(theirs)
        for k in theirs:
            same(ours[k], theirs[k])
    elif isinstance(theirs, (list, tuple)):
        assert type(ours) is (list if isinstance(theirs, list) else tuple)
        for x, y in zip(ours, theirs, strict=True):
            same(x, y)
    else:
        assert ours == theirs
        assert type(ours) is type(theirs)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(("suffix", "zipped"), [("pt", True), ("pth", True), ("pth", False)])
def test_what_torch_wrote(protocol, suffix, zipped, tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    optimizer = torch.optim.Adam(model.parameters(), amsgrad=True)
    model(torch.randn(2, 1, 4, 4)).sum().backward()
    optimizer.step()
    kinds = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
    content = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "loss": 0.25, "none": None,
        "flags": (True, False), "name": "模型", "big": 2**70, "minus": -(2**40), 5: [1, [2.5, ()]],
        "parameters": list(model.parameters()), "size": model[0].weight.shape,
        "kinds": {k: torch.tensor([[1, 0, 3]]).to(getattr(torch, k)) for k in kinds},
        "views": [torch.arange(12).reshape(3, 4)[1:, ::2], torch.arange(6).reshape(2, 3).T, torch.ones(1).expand(3, 2)],
        "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.0), "grad": torch.ones(2, requires_grad=True),
    }  # fmt: skip
    path = tmp_path / f"file.{suffix}"
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    same(minidl.load(path), {**content, "size": tuple(content["size"])})


@pytest.mark.parametrize("zipped", [True, False])
def test_types_devices_and_shared_memory(zipped, tmp_path):
    base = torch.arange(6.0)
    content = [torch.float16, torch.device("cpu"), base, base[2:4], base]
    torch.save(content, tmp_path / "f.pt", _use_new_zipfile_serialization=zipped)
    dtype, device, a, b, c = minidl.load(tmp_path / "f.pt")
    assert dtype == minidl.float16
    assert device == "cpu"
    assert a is c
    b.array[0] = 9
    assert a[2].item() == 9


def test_a_models_weights_load_strictly(tmp_path):
    theirs = torch.nn.Linear(3, 2)
    torch.save(theirs.state_dict(), tmp_path / "f.pth")
    ours = minidl.nn.Linear(3, 2)
    ours.load_state_dict(minidl.load(tmp_path / "f.pth"))
    np.testing.assert_array_equal(ours.weight.detach().numpy(), theirs.weight.detach().numpy())


def archive(path, program, storages=()):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("f/data.pkl", program)
        for key, data in storages:
            file.writestr(f"f/data/{key}", data)
    return path


class Hostile:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def ran(*args):
    raise AssertionError("code from the file was run")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("function", "name"), [
    (ran, r"test_torch_files\.ran"), (eval, r"builtin.*\.eval"), (io.open, r"io\.open"),
    (getattr, r"builtin.*\.getattr"), (torch.load, r"torch\.serialization\.load"), (pickle.loads, r"_?pickle\.loads"),
])  # fmt: skip
def test_calls_are_refused_by_name_and_never_made(function, name, protocol, tmp_path):
    program = pickle.dumps({"weights": Hostile(function, "1")}, protocol)
    expected = name if protocol > 1 else f"{name}|the pickle instruction"
    with pytest.raises(CheckpointError, match=expected):
        minidl.load(archive(tmp_path / "f.pt", program))


def test_a_pickled_model_is_refused_with_advice(tmp_path):
    torch.save(torch.nn.Linear(2, 1), tmp_path / "f.pt")
    with pytest.raises(CheckpointError, match=r"f.pt: asks for torch.nn.modules.linear.Linear.+state_dict"):
        minidl.load(tmp_path / "f.pt")


V2 = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ"


def tensor(offset, size, stride, storage=STORAGE):
    word = lambda n: b"J" + struct.pack("<i", n)
    line = lambda ns: b"(" + b"".join(map(word, ns)) + b"t"
    return b"\x80\x02" + V2 + storage + word(offset) + line(size) + line(stride) + b"\x89NtR."


FOUR = [("0", np.arange(4, dtype="<f4").tobytes())]


def test_the_tensor_written_by_hand_is_good(tmp_path):
    t = minidl.load(archive(tmp_path / "f.pt", tensor(1, (2, 2), (1, 1)), FOUR))
    assert t.tolist() == [[1, 2], [2, 3]]


@pytest.mark.parametrize(("program", "storages", "message"), [
    (tensor(1, (2, 2), (2, 1)), FOUR, "does not fit its 4 elements"),
    (tensor(4, (1,), (1,)), FOUR, "does not fit"),
    (tensor(0, (2**30, 2**30), (0, 0)), FOUR, "does not fit"),
    (tensor(-1, (1,), (1,)), FOUR, "no sizes and strides"),
    (tensor(0, (-1,), (1,)), FOUR, "no sizes and strides"),
    (tensor(2, (2,), (-1,)), FOUR, "no sizes and strides"),
    (tensor(0, (2, 2), (1,)), FOUR, "no sizes and strides"),
    (tensor(0, (1,), (1,), b"(N"), FOUR, "no sizes and strides"),
    (tensor(0, (1,), (1,)), [], "'f/data/0', the elements of a tensor, is missing"),
    (tensor(0, (1,), (1,)), [("0", b"12345")], "holds 5 bytes, 16 are declared"),
    (tensor(0, (1,), (1,)), [("0", bytes(99))], "larger than the limit of 16"),
    (tensor(0, (1,), (1,), STORAGE.replace(b"K\x04", b"\x8a\x06\0\0\0\0\0\x10")), FOUR, "declared|more than the limit"),
    (tensor(0, (1,), (1,), STORAGE.replace(b"Float", b"ComplexFloat")), FOUR, "torch.ComplexFloatStorage"),
    (b"\x80\x02N)R.", [], "no function that builds data"),
    (b"\x80\x02ctorch\nfloat32\n)R.", [], "no function that builds data"),
    (V2 + b"}b.", [], "builds a dict out of a function"),
    (b"\x80\x02]K\x01K\x02s.", [], "builds a dict out of a list"),
    (b"\x80\x02K\x01K\x02.", [], "damaged"),
    (b"\x80\x02h\x05.", [], "damaged"),
    (b"\x80\x02t.", [], "damaged"),
    (b"\x80\x02}]K\x01s.", [], "damaged"),
    (b"\x80\x02X\xff\xff\xff\x7fabc.", [], "damaged"),
    (b"", [], "damaged"),
    (b"\x80\x02ctorch\nSize\n)\x81.", [], "pickle instruction NEWOBJ"),
    (b"\x80\x02K\x01Q.", [], "no storage of a known type"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(program, storages, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        minidl.load(archive(tmp_path / "f.pt", program, storages))


def test_files_that_are_no_such_archive(tmp_path):
    path = tmp_path / "f.pt"
    with pytest.raises(CheckpointError, match="No such file"):
        minidl.load(path)
    path.write_bytes(b"weights")
    with pytest.raises(CheckpointError, match=r"since 1\.6, nor what it wrote before"):
        minidl.load(path)
    torch.save({"w": torch.ones(100)}, path)
    whole = path.read_bytes()
    with pytest.raises(CheckpointError, match="more than the limit of 399|larger than"):
        minidl.load(path, max_bytes=399)
    assert minidl.load(path, max_bytes=500)["w"].sum().item() == 100
    for n in range(0, len(whole), 97):  # cut short anywhere: an error that names the file, nothing else
        path.write_bytes(whole[:n])
        with pytest.raises(CheckpointError, match=r"f\.pt"):
            minidl.load(path)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("text", "1")
    with pytest.raises(CheckpointError, match=r"0 members data\.pkl"):
        minidl.load(path)


def test_files_of_before_1_6_that_are_damaged(tmp_path):
    path = tmp_path / "f.pt"
    torch.save({"w": torch.ones(300), "n": torch.arange(3)}, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    with pytest.raises(CheckpointError, match="more than the limit of 1200"):
        minidl.load(path, max_bytes=1200)
    assert minidl.load(path, max_bytes=1224)["w"].sum().item() == 300
    for n in range(0, len(whole), 13):
        path.write_bytes(whole[:n])
        with pytest.raises(CheckpointError, match=r"f\.pt"):
            minidl.load(path)
    count = (300).to_bytes(8, "little")
    assert whole.count(count) == 1
    for one, other, message in [
        (count, (299).to_bytes(8, "little"), "another number of elements"),
        (b"M\x2c\x01", b"M\x2d\x01", "number of elements|ends before"),  # 301 in the structure
        (b"M\xe9\x03", b"M\xea\x03", "version 1002"),
        (b"M\x2c\x01", b"J\0\0\0\x10", "ends before"),
    ]:
        assert one in whole
        path.write_bytes(whole.replace(one, other))
        with pytest.raises(CheckpointError, match=message):
            minidl.load(path)


# -- nothing is ever run ---------------------------------------------------------------------------------------------


class Marker:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)


def test_the_marker_is_a_real_attack(tmp_path):
    torch.save({"w": Marker(tmp_path / "ran")}, tmp_path / "f.pt")
    torch.load(tmp_path / "f.pt", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("where", ["value", "key", "list", "beside tensors", "state of a dict", "persistent id"])
def test_code_is_not_run_wherever_it_hides(zipped, protocol, where, tmp_path):
    """In today's zip files and in those of torch before 1.6, and in bare pickles under torch's suffix."""
    marker = Marker(tmp_path / "ran")
    content = {
        "value": {"w": marker},
        "key": {(marker,): 1},
        "list": [[[marker]]],
        "beside tensors": {"a": torch.ones(3), "b": marker, "c": torch.zeros(2)},
        "state of a dict": [1, {"epoch": (2, marker)}],
        "persistent id": marker,
    }[where]
    path = tmp_path / "f.pt"
    if where == "persistent id":
        stream = io.BytesIO()
        pickler = pickle.Pickler(stream, protocol)
        pickler.persistent_id = lambda x: x if x is marker else None
        try:
            pickler.dump([content])
        except RecursionError:  # the id is pickled by the same rule: write the two by hand
            stream = io.BytesIO(pickle.dumps(marker, protocol)[:-1] + b"Q.")
        if zipped:
            archive(path, stream.getvalue())
        else:
            path.write_bytes(stream.getvalue())
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"f\.pt"):
        minidl.load(path)
    assert not (tmp_path / "ran").exists()
    path.write_bytes(pickle.dumps(content if where != "beside tensors" else marker, protocol))
    with pytest.raises(CheckpointError, match=r"f\.pt: not a zip archive"):
        minidl.load(path)
    assert not (tmp_path / "ran").exists()


def test_modules_named_in_a_file_are_not_imported(tmp_path):
    """A pickle could run a module's top level by naming it alone."""
    import subprocess
    import sys

    (tmp_path / "trap.py").write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    for program in (b"ctrap\nx\n.", b"\x80\x04\x8c\x04trap\x8c\x01x\x93."):
        archive(tmp_path / "f.pt", program)
        code = "import minidl\ntry:\n    minidl.load('f.pt')\nexcept ValueError as e:\n    print(e)"
        run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert "asks for trap.x" in run.stdout, run.stderr
        assert not (tmp_path / "ran").exists()


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.data())
def test_changed_bytes_give_an_error_of_ours_or_data(data):
    """Any byte of the structure changed, dropped or doubled: CheckpointError, or plain data; never anything else."""
    whole = bytearray(PROGRAM)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        way = data.draw(st.sampled_from(["change", "drop", "double"]))
        if way == "change":
            whole[at] = data.draw(st.integers(0, 255))
        elif way == "drop" and len(whole) > 1:
            del whole[at]
        else:
            whole.insert(at, whole[at])
    buffer = io.BytesIO()
    archive(buffer, bytes(whole), STORAGES)
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        file.write(buffer.getvalue())
        file.flush()
        try:
            found = minidl.load(file.name, max_bytes=10**6)
        except CheckpointError as error:
            assert file.name in str(error)
        else:
            assert plain(found)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(st.lists(st.sampled_from([
    b"(", b"]", b"}", b")", b"t", b"l", b"d", b"0", b"1", b"2", b"N", b"\x88", b"K\x05", b"X\x01\0\0\0k", b"\x85",
    b"\x86", b"a", b"e", b"s", b"u", b"q\x00", b"h\x00", b"\x94", b"R", b"b", b"Q", b"o", b"\x81", b"\x93", b"\x92",
    b"ctorch\nSize\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n",
    b"ctorch\nFloatStorage\n", b"cos\nsystem\n", b"cbuiltins\neval\n", b"ios\nsystem\n", b"\x8f", b"\x90", b"\x91",
    b"c__main__\nx\n",
]), max_size=30))  # fmt: skip
def test_any_program_gives_an_error_of_ours_or_data(instructions):
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        archive(file.name, b"\x80\x02" + b"".join(instructions) + b".", FOUR)
        try:
            found = minidl.load(file.name)
        except CheckpointError:
            return
        assert plain(found)


def plain(value):
    """Whether a value is data alone: numbers, text, Tensors, and containers of these (which may contain themselves)."""
    todo, seen = [value], set()
    while todo:
        x = todo.pop()
        if id(x) in seen:
            continue
        seen.add(id(x))
        if type(x) is dict:
            todo += [*x, *x.values()]
        elif type(x) in (list, tuple):
            todo += x
        elif x is not None and type(x) not in (bool, int, float, str, bytes, minidl.Tensor, type(minidl.float32)):
            return False
    return True


def sample_program():
    """The structure and storages of an ordinary state_dict, as torch writes them."""
    buffer = io.BytesIO()
    torch.save({"w": torch.arange(4.0), "n": 3, "names": ["a", ("b", 2.5)]}, buffer)
    with zipfile.ZipFile(buffer) as file:
        inside = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
    return inside["data.pkl"], [
        (name.removeprefix("data/"), d) for name, d in inside.items() if name.startswith("data/")
    ]


PROGRAM, STORAGES = sample_program()
