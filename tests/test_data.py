"""Readers refuse what is not sound data; datasets, samplers and loader behave as torch's and resume exactly."""

import collections
import gzip
import hashlib
import json
import os
import pickle
import struct

import numpy as np
import pytest
import torch
import torch.utils.data as td
from hypothesis import given
from hypothesis import strategies as st

import minidl.random
from minidl.data import (
    BatchSampler,
    ConcatDataset,
    DataError,
    DataLoader,
    Dataset,
    ImageData,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    ToFloat,
    TransformedDataset,
    WeightedRandomSampler,
    default_collate,
    digits,
    load_cifar,
    load_idx,
    load_images,
    load_npz,
    random_split,
    train_test_split,
)
from minidl.random import Generator
from minidl.tensors import Tensor, wrap

# -- the shipped digits --------------------------------------------------------------------------------------


def test_the_shipped_digits_are_those_of_uci():
    images, labels = digits()
    # of sklearn.datasets.load_digits() as uint8, scikit-learn 1.9.1
    assert hashlib.sha256(images.tobytes()).hexdigest().startswith("8f26b2bd9d135c256808f68f14fdabdd")
    assert hashlib.sha256(labels.astype(np.uint8).tobytes()).hexdigest().startswith("8ba4f891220f5e4c9c819638d1602d74")
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("labels", [1, 2])
def test_cifar(tmp_path, labels):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (25, 3, 32, 32), dtype=np.uint8), np.arange(25) % 5
    coarse = [np.zeros((25, labels - 1), np.uint8), y[:, None].astype(np.uint8)]
    records = np.concatenate([*coarse, x.reshape(25, -1)], 1)
    names = ["data_batch_1.bin", "data_batch_2.bin", "test_batch.bin"]
    if labels == 2:
        names = ["train.bin", "test.bin"]
        (tmp_path / names[0]).write_bytes(records[:20].tobytes())
    else:
        (tmp_path / names[0]).write_bytes(records[:10].tobytes())
        (tmp_path / names[1]).write_bytes(records[10:20].tobytes())
    with pytest.raises(DataError, match=f"{names[-1]} is missing"):
        load_images(tmp_path)
    (tmp_path / names[-1]).write_bytes(records[20:].tobytes())
    data = load_images(tmp_path)
    assert (data.x_train == x[:20]).all()
    assert (data.y_train == y[:20]).all()
    assert (data.x_test == x[20:]).all()
    assert (data.y_test == y[20:]).all()
    images, classes = load_cifar(tmp_path / names[0], labels)
    assert (images[0] == x[0]).all()
    assert classes.dtype == np.int64
    assert images.flags.writeable


def test_what_is_no_cifar(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    for content, message in (
        (b"", "not whole records"),
        (bytes(3072), "3072 bytes are not"),
        (b"\x80\4abc", "a pickle"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_cifar(path)
    path.write_bytes(bytes(3073))
    with pytest.raises(DataError, match="limit of 100 bytes"):
        load_cifar(path, max_bytes=100)
    with pytest.raises(DataError, match="not whole records of 3074"):
        load_cifar(path, labels=2)
    with pytest.raises(ValueError, match="labels must be 1"):
        load_cifar(path, labels=0)


def test_digits_split_and_scaled():
    data = load_images(test_size=0.25, seed=3)
    assert [len(part) for part in data] == [1348, 1348, 449, 449]
    assert data.num_classes == 10
    scaled = data.scaled()
    assert scaled.x_train.shape == (1348, 1, 8, 8)
    assert scaled.x_train.dtype == np.float32
    assert scaled.x_train.min() == 0
    assert scaled.x_train.max() == 1
    assert np.array_equal(scaled.x_test[:, 0] * 16, data.x_test)


# -- idx -----------------------------------------------------------------------------------------------------

IDX_CODES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx_bytes(array):
    code = IDX_CODES[array.dtype.str[1:]]
    header = bytes([0, 0, code, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def mnist(folder, n_train=30, n_test=10, packed=False, dotted=False):
    """A folder of idx files with MNIST's names."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", n_train), ("t10k", n_test)):
        arrays[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    for name, array in arrays.items():
        name = name.replace("-idx", ".idx") if dotted else name
        data = idx_bytes(array)
        (folder / (name + ".gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return list(arrays.values())


@pytest.mark.parametrize("code", IDX_CODES)
@pytest.mark.parametrize("packed", [False, True])
def test_idx_round_trip(tmp_path, code, packed):
    x = (np.random.default_rng(0).normal(size=(2, 3, 5)) * 50).astype(code)
    data = idx_bytes(x)
    (tmp_path / "x").write_bytes(gzip.compress(data) if packed else data)
    back = load_idx(tmp_path / "x")
    assert back.dtype == x.dtype
    assert np.array_equal(back, x)
    assert back.flags.writeable


GOOD = idx_bytes(np.arange(12, dtype=np.int16).reshape(3, 4))

BAD_IDX = {
    "empty": (b"", "not an idx file"),
    "text": (b"hello world", "not an idx file"),
    "unknown type": (b"\0\0\x0a\1" + GOOD[4:], "not an idx file"),
    "no axes": (b"\0\0\x08\0\1", "not an idx file"),
    "many axes": (b"\0\0\x08\xff" + b"\0" * 1020, "not an idx file"),
    "header cut": (GOOD[:9], "truncated within the header"),
    "cut": (GOOD[:-1], "declares 24 bytes .* holds only 23"),
    "left over": (GOOD + b"\0", "holds more"),
    "absurd": (b"\0\0\x08\x03" + b"\xff" * 12, "more than the limit"),
    "large but empty": (b"\0\0\x08\x01" + struct.pack(">I", 2**30), "holds only 0"),
    "gzip cut": (gzip.compress(GOOD)[:-9], "truncated or damaged"),
    "gzip of nothing": (b"\x1f\x8b", "truncated or damaged"),
    "gzip damaged": (gzip.compress(GOOD)[:-6] + b"\0" * 6, "truncated or damaged"),
    "gzip bad method": (b"\x1f\x8b\x07" + b"\0" * 30, "truncated or damaged"),
    "gzip bad stream": (gzip.compress(b"")[:10] + b"\xff" * 30, "truncated or damaged"),
    "gzip bomb": (gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 5) + b"\0" * 10**7), "holds more"),
}


@pytest.mark.parametrize("name", BAD_IDX)
def test_bad_idx(tmp_path, name):
    data, message = BAD_IDX[name]
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        load_idx(tmp_path / "x")
    assert str(tmp_path / "x") in str(error.value)


@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_file_cut_anywhere_raises(tmp_path, packed):
    data = gzip.compress(GOOD) if packed else GOOD
    for length in range(len(data)):
        (tmp_path / "x").write_bytes(data[:length])
        with pytest.raises(DataError):
            load_idx(tmp_path / "x")


def test_a_bomb_is_not_unpacked(tmp_path):
    """100 MB of zeros that the header does not declare are never read."""
    import tracemalloc

    (tmp_path / "x.gz").write_bytes(gzip.compress(b"\0\0\x08\x01" + struct.pack(">I", 5) + b"\0" * 10**8))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="holds more"):
            load_idx(tmp_path / "x.gz")
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


# -- folders and archives ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("packed", "dotted"), [(False, False), (True, False), (False, True)])
def test_a_folder_of_mnist(tmp_path, packed, dotted):
    x_train, y_train, x_test, y_test = mnist(tmp_path, packed=packed, dotted=dotted)
    data = load_images(tmp_path)
    assert isinstance(data, ImageData)
    assert np.array_equal(data.x_train, x_train)
    assert np.array_equal(data.y_train, y_train)
    assert np.array_equal(data.x_test, x_test)
    assert np.array_equal(data.y_test, y_test)
    assert data.y_train.dtype == np.int64
    assert data.scaled().x_test.shape == (10, 1, 28, 28)


def test_parts_of_mnist(tmp_path):
    x_train, *_ = mnist(tmp_path)
    one = load_images(tmp_path / "train-images-idx3-ubyte", test_size=10)
    assert [len(part) for part in one] == [20, 20, 10, 10]
    for name in os.listdir(tmp_path):
        if name.startswith("t10k"):
            (tmp_path / name).unlink()
    only = load_images(tmp_path, test_size=10)
    assert np.array_equal(only.x_test, one.x_test)
    assert sorted(x.sum() for x in (*only.x_train, *only.x_test)) == sorted(x.sum() for x in x_train)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="train-labels-idx1-ubyte is missing"):
        load_images(tmp_path)
    with pytest.raises(DataError, match="train-labels-idx1-ubyte, are not beside it"):
        load_images(tmp_path / "train-images-idx3-ubyte")
    (tmp_path / "pictures").write_bytes(GOOD)
    with pytest.raises(DataError, match="must have 'images' in its name"):
        load_images(tmp_path / "pictures")


X = np.random.default_rng(0).integers(0, 255, (20, 6, 5), dtype=np.uint8)
Y = np.arange(20) % 4


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": X, "y": Y},
        {"images": X, "labels": Y},
        {"x": X, "y": Y, "note": np.array([{"never": "read"}], dtype=object)},
        {"x": X.astype(np.float32), "y": Y.astype(np.uint8)},
        {"x": X > 100, "y": Y},
        {"x": X[:, None], "y": Y},
        {"x": np.stack([X] * 3, axis=-1), "y": Y},
        {"x_train": X, "y_train": Y, "x_test": X[:4], "y_test": Y[:4]},
    ],
)
@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_npz(tmp_path, arrays, write):
    write(tmp_path / "d.npz", **arrays)
    data = load_images(tmp_path / "d.npz", test_size=4)
    assert [len(part) for part in data] == ([20, 20, 4, 4] if "x_test" in arrays else [16, 16, 4, 4])
    scaled = data.scaled()
    assert scaled.x_train.shape[2:] == (6, 5)
    assert abs(scaled.x_train).max() == 1
    raw = load_npz(tmp_path / "d.npz")
    assert sorted(raw) == (["x_test", "x_train", "y_test", "y_train"] if "x_test" in arrays else ["x", "y"])


def with_value(array, index, value):
    out = array.copy()
    out[index] = value
    return out


BAD_ARRAYS = {
    "no labels": ({"x": X}, "needs one of these sets"),
    "nothing": ({}, "holds nothing"),
    "lengths": ({"x": X, "y": Y[:-1]}, "20 images, but 19 labels"),
    "float labels": ({"x": X, "y": Y + 0.0}, "labels must be integers"),
    "one-hot labels": ({"x": X, "y": np.eye(4, dtype=int)[Y]}, "labels must be integers"),
    "text labels": ({"x": X, "y": Y.astype(str)}, "holds <U"),
    "negative label": ({"x": X, "y": with_value(Y, 7, -1)}, "label -1 of item 7 is outside"),
    "absurd label": ({"x": X, "y": with_value(Y, 3, 2**40)}, "of item 3 is outside 0 ... 65535"),
    "huge label": ({"x": X, "y": with_value(Y.astype(np.uint64), 3, 2**64 - 1)}, "label 18446744073709551615 of"),
    "flat images": ({"x": X.reshape(20, 30), "y": Y}, "images must be"),
    "a number": ({"x": np.array(5), "y": np.array(3)}, "labels must be"),
    "seven channels": ({"x": np.zeros((20, 7, 5, 6)), "y": Y}, "no axis of 1, 3 or 4 channels"),
    "no images": ({"x": X[:0], "y": Y[:0]}, "no images"),
    "no pixels": ({"x": X[:, :0], "y": Y}, "no images"),
    "NaN": ({"x": with_value(X + 0.0, (9, 1, 1), np.nan), "y": Y}, "image 9 has NaN"),
    "complex": ({"x": X + 1j, "y": Y}, "complex128"),
    "pickled": ({"x": np.array([print] * 20, dtype=object), "y": Y}, "pickled Python objects"),
    "one per class": ({"x": X[:6], "y": np.arange(6)}, "none to train on"),
    "test images differ": ({"x_train": X, "y_train": Y, "x_test": X[:, :4], "y_test": Y}, "training images are"),
    "new test label": ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1}, r"\[4\] never occur in training"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays(tmp_path, name):
    arrays, message = BAD_ARRAYS[name]
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=message) as error:
        load_images(tmp_path / "d.npz", test_size=4)
    assert str(tmp_path / "d.npz") in str(error.value)


def test_num_classes_bounds_the_labels(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    assert load_images(tmp_path / "d.npz", num_classes=4).num_classes == 4
    with pytest.raises(DataError, match="label 3 of item 3 is outside 0 ... 2"):
        load_images(tmp_path / "d.npz", num_classes=3)


def test_paths_that_hold_no_images(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n")
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4")
    for name, reason in [
        ("none", "No such file"),
        ("picture.png", "neither an npz archive, an idx file"),
        ("empty", "holds none of train-images-idx3-ubyte"),
        ("pipe", "a pipe"),
        ("cut.npz", "npz archive"),
    ]:
        with pytest.raises(DataError, match=reason):
            load_images(tmp_path / name)


def test_an_archive_over_the_limit(tmp_path):
    np.savez_compressed(tmp_path / "d.npz", x=np.zeros((100, 100, 100)), y=np.zeros(100, int))
    with pytest.raises(DataError, match="more than the limit"):
        load_images(tmp_path / "d.npz", max_bytes=10**6)


# -- splits --------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 4), min_size=12, max_size=80).map(np.array),
    st.floats(0.1, 0.5),
    st.integers(0, 2**32),
)
def test_a_stratified_split_is_a_fair_partition(y, fraction, seed):
    x = np.arange(len(y))
    count = round(len(y) * fraction)
    if not 0 < count <= len(y) - len(np.unique(y)):
        with pytest.raises(ValueError):
            train_test_split(x, y, fraction, seed)
        return
    x_train, x_test, y_train, y_test = train_test_split(x, y, fraction, seed)
    assert sorted([*x_train, *x_test]) == list(range(len(y)))
    assert np.array_equal(y[x_train], y_train)
    assert np.array_equal(y[x_test], y_test)
    assert len(x_test) == count
    for label, size in zip(*np.unique(y, return_counts=True)):
        got = (y_test == label).sum()
        assert got < size
        # its share, one more or less by rounding; more only when classes of one item could not give theirs
        ones = (np.unique(y, return_counts=True)[1] == 1).sum()
        assert np.floor(size * count / len(y)) - (size == 1) - 1 <= got <= np.ceil(size * count / len(y)) + ones


def test_splits_follow_the_seed():
    first = train_test_split(X, Y, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(first, train_test_split(X, Y, seed=1)))
    assert not np.array_equal(first[1], train_test_split(X, Y, seed=2)[1])
    before = minidl.random.get_state()
    train_test_split(X, Y)
    assert np.array_equal(before, minidl.random.get_state())
    assert len(train_test_split(X, Y, 7)[1]) == 7
    assert len(train_test_split(X, X, 0.3, stratify=False)[1]) == 6
    a, b, *_ = train_test_split(wrap(X), wrap(Y), seed=1)
    assert isinstance(a, Tensor)
    assert np.array_equal(a.array, first[0])
    assert np.array_equal(b.array, first[1])
    assert train_test_split(list("abcd"), [0, 0, 1, 1], 2)[1].shape == (2,)
    for bad in ((X, Y[1:], 0.2), (X, Y, 0.0), (X, Y, 20), (X, Y, 1.0), (X, X, 0.2)):
        with pytest.raises(ValueError, match="train_test_split"):
            train_test_split(*bad)


@pytest.mark.parametrize("lengths", [[3, 7], [10], [0.5, 0.5], [0.35, 0.35, 0.3], [1.0], [0, 10]])
def test_random_split_has_torchs_lengths(lengths):
    ours = random_split(range(10), lengths, Generator(1))
    theirs = td.random_split(range(10), lengths)
    assert [len(part) for part in ours] == [len(part) for part in theirs]
    assert sorted(i for part in ours for i in part) == list(range(10))
    again = random_split(range(10), lengths, Generator(1))
    assert [list(part) for part in ours] == [list(part) for part in again]


@pytest.mark.parametrize("lengths", [[3, 6], [0.5, 0.6], [0.5, 0.4], [-1, 11], [2.5, 7.5], [float("nan")]])
def test_random_split_bad_lengths(lengths):
    with pytest.raises(ValueError, match="random_split"):
        random_split(range(10), lengths)


# -- datasets ------------------------------------------------------------------------------------------------


def values(x):
    """Tensors of either library as (shape, dtype name, list); containers entry by entry."""
    if isinstance(x, Tensor):
        return ("tensor", tuple(x.shape), x.dtype.name, x.tolist())
    if isinstance(x, torch.Tensor):
        return ("tensor", tuple(x.shape), str(x.dtype).removeprefix("torch."), x.tolist())
    if isinstance(x, dict):
        return {k: values(v) for k, v in x.items()}
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return (type(x).__name__, [values(v) for v in x])
    if isinstance(x, (list, tuple)):
        return [values(v) for v in x]  # torch gives nested text as a tuple where it gives everything else as a list
    return x


def test_tensor_dataset_items_are_torchs():
    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.arange(4)
    ours = TensorDataset(x, wrap(y))
    theirs = td.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    assert len(ours) == len(theirs)
    for i in (0, 3, -1, slice(1, 3)):
        assert values(ours[i]) == values(theirs[i])
    assert ours.tensors[0].array is x
    with pytest.raises(IndexError):
        ours[4]
    assert [item[1].item() for item in ours] == [0, 1, 2, 3]
    for bad, error in [
        ((), ValueError),
        ((x, y[:3]), ValueError),
        ((np.array(1),), ValueError),
        ((x + 1j,), TypeError),
    ]:
        with pytest.raises(error):
            TensorDataset(*bad)


def test_subset_and_concat():
    d = TensorDataset(np.arange(10))
    part = Subset(d, [7, 2, 5])
    assert [part[i][0].item() for i in range(3)] == [7, 2, 5]
    assert part[-1][0].item() == 5
    assert part.take(np.array([2, 0]))[0].tolist() == [5, 7]
    nested = Subset(part, [1])
    assert nested[0][0].item() == 2
    both = part + d
    assert isinstance(both, ConcatDataset)
    assert [both[i][0].item() for i in range(len(both))] == [7, 2, 5, *range(10)]
    assert both[-11][0].item() == 5
    with pytest.raises(IndexError):
        both[13]
    with pytest.raises(ValueError):
        ConcatDataset([])
    assert [len(b[0]) for b in DataLoader(both, 4)] == [4, 4, 4, 1]


def test_the_base_classes_say_what_is_missing():
    class Empty(Dataset):
        pass

    with pytest.raises(TypeError, match="'Empty' has no len"):  # as in torch: what has a length is Sized
        len(Empty())
    with pytest.raises(NotImplementedError, match="Empty defines no __getitem__"):
        Empty()[0]


# -- collating -----------------------------------------------------------------------------------------------

Point = collections.namedtuple("Point", "x y")

COLLATED = [
    [1, 2, 3],
    [1.5, 2.5],
    [True, False],
    ["a", "b"],
    [b"a", b"b"],
    [(1, 2.0), (3, 4.0)],
    [[1, 2], [3, 4]],
    [{"a": 1, "b": [2, "x"]}, {"a": 3, "b": [4, "y"]}],
    [Point(1, 2.0), Point(3, 4.0)],
    [np.float32(1), np.float32(2)],
    [np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)],
    [np.array(1), np.array(2)],
    [(np.zeros(2, np.int8), {"k": (1, "t")})] * 3,
]


@pytest.mark.parametrize("batch", COLLATED, ids=range(len(COLLATED)))
def test_default_collate_is_torchs(batch):
    assert values(default_collate(batch)) == values(td.default_collate(batch))


def test_default_collate_of_tensors_and_errors():
    assert default_collate([wrap(np.ones(2)), wrap(np.zeros(2))]).tolist() == [[1, 1], [0, 0]]
    with pytest.raises(RuntimeError, match=r"different shapes \[\(2,\), \(3,\)\]"):
        default_collate([np.zeros(2), np.zeros(3)])
    with pytest.raises(RuntimeError, match="different numbers"):
        default_collate([(1, 2), (3,)])
    with pytest.raises(TypeError, match="not NoneType"):
        default_collate([None])


# -- samplers ------------------------------------------------------------------------------------------------


def test_samplers():
    assert list(SequentialSampler(range(4))) == [0, 1, 2, 3]
    s = RandomSampler(range(50), generator=Generator(1))
    a, b = list(s), list(s)
    assert sorted(a) == sorted(b) == list(range(50))
    assert a != b
    assert len(list(RandomSampler(range(5), num_samples=12))) == 12
    drawn = list(RandomSampler(range(5), replacement=True, num_samples=1000))
    assert set(drawn) == set(range(5))
    assert sorted(SubsetRandomSampler([4, 7, 9])) == [4, 7, 9]
    assert list(RandomSampler(range(0))) == []
    for size, drop in [(3, False), (3, True), (5, False), (20, True), (1, False)]:
        ours, theirs = BatchSampler(range(10), size, drop), td.BatchSampler(range(10), size, drop)
        assert list(ours) == list(theirs)
        assert len(ours) == len(theirs)


def test_weighted_sampler_follows_the_weights():
    weights = [0.0, 1.0, 2.0, 0.0, 5.0]
    n = 20_000
    drawn = np.bincount(list(WeightedRandomSampler(weights, n, generator=Generator(1))), minlength=5)
    p = np.array(weights) / 8
    # five standard errors of a binomial count
    assert (abs(drawn - n * p) <= 5 * np.sqrt(n * p * (1 - p))).all()
    first = [next(iter(WeightedRandomSampler(weights, 3, replacement=False))) for _ in range(2000)]
    counts = np.bincount(first, minlength=5)
    assert (abs(counts - 2000 * p) <= 5 * np.sqrt(2000 * p * (1 - p))).all()
    assert sorted(WeightedRandomSampler(weights, 3, replacement=False)) == [1, 2, 4]
    for bad in ([-1, 2], [0, 0], [np.nan, 1], [[1, 2]]):
        with pytest.raises(ValueError, match="weights"):
            WeightedRandomSampler(bad, 1)
    with pytest.raises(ValueError, match="without replacement"):
        WeightedRandomSampler(weights, 4, replacement=False)


# -- the loader ----------------------------------------------------------------------------------------------


class Items(Dataset):
    """A dataset without `take`, which counts what is asked of it."""

    def __init__(self, n):
        self.n, self.asked = n, 0

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        self.asked += 1
        return np.full(2, i, np.float32), i


@given(st.integers(0, 20), st.integers(1, 8), st.booleans())
def test_batches_are_torchs(n, size, drop_last):
    x = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    ours = DataLoader(TensorDataset(x, np.arange(n)), size, drop_last=drop_last)
    theirs = td.DataLoader(td.TensorDataset(torch.from_numpy(x), torch.arange(n)), size, drop_last=drop_last)
    assert len(ours) == len(theirs)
    assert [values(b) for b in ours] == [values(b) for b in theirs]
    by_item = DataLoader(Items(n), size, drop_last=drop_last)
    assert len(list(by_item)) == len(ours)


def test_the_fast_path_gives_what_the_slow_one_gives():
    data = TensorDataset(np.random.default_rng(0).normal(size=(23, 3)), np.arange(23))
    part = Subset(data, [3, 1, 4, 15, 9, 2, 6, 5])

    def slow(batch):  # any collate_fn of one's own is called item by item
        return default_collate(batch)

    for dataset in (data, part, TransformedDataset(part, ToFloat(2.0))):
        fast = list(DataLoader(dataset, 4, shuffle=True, generator=Generator(1)))
        items = list(DataLoader(dataset, 4, shuffle=True, generator=Generator(1), collate_fn=slow))
        assert [values(b) for b in fast] == [values(b) for b in items]
    asked = []
    part.dataset = type("Spy", (), {"take": lambda self, i: asked.append(i.tolist()), "__len__": len})()
    list(DataLoader(part, 8))
    assert asked == [[3, 1, 4, 15, 9, 2, 6, 5]]


def test_shuffling_follows_the_seed():
    data = TensorDataset(np.arange(30))

    def epochs(loader, n=2):
        return [[i for batch in loader for i in batch[0].tolist()] for _ in range(n)]

    minidl.random.manual_seed(5)
    a = epochs(DataLoader(data, 4, shuffle=True))
    minidl.random.manual_seed(5)
    b = epochs(DataLoader(data, 4, shuffle=True))
    assert a == b
    assert a[0] != a[1]
    assert sorted(a[0]) == list(range(30))
    state = minidl.random.get_state()
    c = epochs(DataLoader(data, 4, shuffle=True, generator=Generator(5)))
    assert np.array_equal(state, minidl.random.get_state())
    assert c == epochs(DataLoader(data, 4, shuffle=True, generator=Generator(5)))


def test_loader_options():
    data = TensorDataset(np.arange(6))
    picked = DataLoader(data, batch_sampler=[[0, 5], [2], [1, 1]])
    assert [b[0].tolist() for b in picked] == [[0, 5], [2], [1, 1]]
    assert len(picked) == 3
    assert [b[0].tolist() for b in DataLoader(data, 2, sampler=[5, 3, 1])] == [[5, 3], [1]]
    assert DataLoader(data, 2, collate_fn=len, shuffle=False).collate_fn([1, 2]) == 2
    assert list(DataLoader(data, 4, collate_fn=len)) == [4, 2]
    for options, message in [
        (dict(num_workers=-1), "num_workers must be an integer >= 0"),
        (dict(num_workers=1, timeout=-1), "timeout must be"),
        (dict(num_workers=1, prefetch_factor=0), "prefetch_factor must be a positive"),
        (dict(prefetch_factor=2), "prefetch_factor needs workers"),
        (dict(persistent_workers=True), "persistent_workers needs workers"),
        (dict(timeout=1), "timeout needs workers"),
        (dict(num_workers=1, multiprocessing_context="fork"), "workers are threads"),
        (dict(num_workers=1, worker_init_fn=3), "must be callable"),
        (dict(batch_size=None, drop_last=True), "makes no batches"),
        (dict(batch_size=0), "batch_size must be a positive integer"),
        (dict(batch_size=2.0), "batch_size must be a positive integer"),
        (dict(batch_size=True), "batch_size must be a positive integer"),
        (dict(sampler=[1], shuffle=True), "exclude each other"),
        (dict(batch_sampler=[[1]], batch_size=2), "batch_sampler excludes"),
        (dict(batch_sampler=[[1]], drop_last=True), "batch_sampler excludes"),
    ]:
        with pytest.raises(ValueError, match=message):
            DataLoader(data, **options)


LOADERS = {
    "in order": dict(batch_size=3),
    "shuffled": dict(batch_size=3, shuffle=True),
    "shuffled, drop last": dict(batch_size=4, shuffle=True, drop_last=True),
    "own generator": dict(batch_size=3, shuffle=True, generator=lambda: Generator(9)),
    "weighted": dict(batch_size=3, sampler=lambda: WeightedRandomSampler([1.0] * 17, 11)),
    "a sampler of one's own": dict(batch_size=3, sampler=lambda: [5, 3, 1, 2, 8]),
    "batch sampler": dict(batch_sampler=lambda: [[1, 2], [3], [4, 0]]),
}


def build(name, dataset=None):
    options = {k: v() if callable(v) else v for k, v in LOADERS[name].items()}
    return DataLoader(TensorDataset(np.arange(17)) if dataset is None else dataset, **options)


def drain(loader, epochs):
    """Batches with a random number drawn after each, as a training with dropout would."""
    return [[(batch[0].tolist(), float(minidl.random.uniform(()))) for batch in loader] for _ in range(epochs)]


@pytest.mark.parametrize("name", LOADERS)
def test_resuming_after_any_batch_gives_the_same_rest(name):
    minidl.random.manual_seed(3)
    whole = drain(build(name), 3)
    flat = [batch for epoch in whole for batch in epoch]
    for stop in range(len(flat) + 1):
        minidl.random.manual_seed(3)
        loader, seen, snapshot = build(name), 0, None
        if stop == 0:
            snapshot = loader.state_dict(), minidl.random.get_state()
        for _ in range(3):
            for _batch in loader:
                minidl.random.uniform(())
                seen += 1
                if seen == stop:
                    snapshot = json.loads(json.dumps(loader.state_dict())), minidl.random.get_state()
        state, numbers = snapshot
        minidl.random.manual_seed(999)
        fresh = build(name)
        fresh.load_state_dict(state)
        minidl.random.set_state(numbers)
        rest = [batch for epoch in drain(fresh, 4) for batch in epoch]
        assert rest[: len(flat) - stop] == flat[stop:]


def test_resuming_loads_nothing_of_what_is_done():
    loader = build("shuffled", Items(17))
    batches = iter(loader)
    for _ in range(4):
        next(batches)
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    rest = [b[1].tolist() for b in batches]
    fresh = build("shuffled", Items(17))
    fresh.load_state_dict(state)
    assert [b[1].tolist() for b in fresh] == rest
    assert fresh.dataset.asked == 17 - 12


def test_breaking_off_starts_a_new_epoch():
    loader = build("shuffled")
    first = next(iter(loader))[0].tolist()
    again = [b[0].tolist() for b in loader]
    assert len(again) == 6
    assert sorted(i for batch in again for i in batch) == list(range(17))
    assert again[0] != first


def test_states_of_other_loaders_are_refused():
    loader = build("shuffled")
    state = loader.state_dict()
    for change, message in [
        ({"samples": 18}, "18 samples"),
        ({"length": 2}, "in 2 batches"),
        ({"batches": 99}, "batch 99 of 6"),
        ({"batches": -1}, "batch -1 of 6"),
        ({"batches": 2, "seed": None}, "seed None"),
        ({"batches": 2, "seed": 3, "stream": None}, "no stream"),
        ({"generator": [1, 2, 3, 4]}, "generator"),
    ]:
        with pytest.raises(ValueError, match=message):
            loader.load_state_dict({**state, **change})
    with pytest.raises(ValueError, match="not a DataLoader's state"):
        loader.load_state_dict({})
    assert loader.state_dict() == state


# -- transformed datasets --------------------------------------------------------------------------------------


def test_transformed_datasets():
    data = TensorDataset(np.full((6, 1, 2, 2), 255, np.uint8), np.arange(6))
    scaled = TransformedDataset(data, ToFloat())
    assert values(scaled[0][0]) == ("tensor", (1, 2, 2), "float32", [[[1.0, 1.0], [1.0, 1.0]]])
    x, y = next(iter(DataLoader(scaled, 4)))
    assert x.array.max() == 1
    assert y.tolist() == [0, 1, 2, 3]
    single = TransformedDataset([1, 2, 3], lambda v: v * 10)  # a plain function on plain items
    assert [b.tolist() for b in DataLoader(single, 2)] == [[10, 20], [30]]
