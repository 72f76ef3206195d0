"""Tables, text and folders of pictures: read right, and refused with file, line and column where they are not."""

import csv
import gzip
import io
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minidl.data import (
    DataError,
    DataLoader,
    DatasetFolder,
    ImageFolder,
    load_columns,
    load_csv,
    load_data,
    load_images,
    load_lines,
    load_picture,
    load_text,
)
from minidl.tensors import Tensor


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


# -- tables ----------------------------------------------------------------------------------------------------

FLOWERS = "length,width,kind,count\n5.1,3.5,setosa,1\n6.2, 2.9 ,versicolor,2\n\n4.9,3.0,setosa,3\n"


def test_a_table_with_a_label(tmp_path):
    path = write(tmp_path / "f.csv", FLOWERS)
    table = load_csv(path, label="kind")
    assert table.x.dtype == np.float32
    assert table.x.tolist() == np.float32([[5.1, 3.5, 1], [6.2, 2.9, 2], [4.9, 3.0, 3]]).tolist()
    assert (table.y.dtype, table.y.tolist(), table.classes) == (np.int64, [0, 1, 0], ["setosa", "versicolor"])
    assert table.names == ["length", "width", "count"]
    chosen = load_csv(path, label=2, columns=[-1, "length"], dtype=np.float64)
    assert chosen.x.tolist() == [[1, 5.1], [2, 6.2], [3, 4.9]]
    assert chosen.x.dtype == np.float64
    whole = load_csv(path, label="count", columns=["length"])
    assert (whole.y.dtype, whole.y.tolist(), whole.classes) == (np.int64, [1, 2, 3], None)
    real = load_csv(path, label="width", columns=["count"], dtype=np.int16)
    assert (real.y.dtype, real.y.tolist(), real.classes) == (np.float64, [3.5, 2.9, 3.0], None)
    assert real.x.dtype == np.int16
    assert load_csv(path, columns=["length"]).y is None
    truth = load_csv(write(tmp_path / "t.csv", "a,b\n1,True\n2,False\n"), label="b")
    assert (truth.y.tolist(), truth.classes) == ([1, 0], ["False", "True"])


def test_columns_have_dtypes_of_their_own(tmp_path):
    path = write(
        tmp_path / "c.csv",
        '\ufeffa,b,c,d,e\n1,1.5,x,true,\n-2,2,"y, ""quoted""",FALSE,\n3,1e3,"two\nlines",True,z\n',
    )
    columns = load_columns(path)
    assert {n: c.dtype.kind for n, c in columns.items()} == {"a": "i", "b": "f", "c": "U", "d": "b", "e": "U"}
    assert columns["c"].tolist() == ["x", 'y, "quoted"', "two\nlines"]
    assert columns["d"].tolist() == [True, False, True]
    assert columns["e"].tolist() == ["", "", "z"]
    chosen = load_columns(path, ["b", "a"], dtypes={"a": np.float32, "b": str})
    assert list(chosen) == ["b", "a"]
    assert chosen["a"].dtype == np.float32
    assert chosen["b"].tolist() == ["1.5", "2", "1e3"]
    with pytest.raises(DataError, match="dtypes names a column 'q'"):
        load_columns(path, dtypes={"q": int})
    with pytest.raises(TypeError, match="complex64"):
        load_columns(path, dtypes={"a": np.complex64})


def test_delimiters_headers_encodings_and_gzip(tmp_path):
    rows = "1\t2\n3\t4\n"
    assert load_csv(write(tmp_path / "a.tsv", rows), header=False).x.tolist() == [[1, 2], [3, 4]]
    table = load_csv(write(tmp_path / "b.csv", "größe;名\n1;2\n", "utf-16"), delimiter=";", encoding="utf-16")
    assert table.names == ["größe", "名"]
    (tmp_path / "c.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    assert load_csv(tmp_path / "c.tsv.gz", header=False, label=1).y.tolist() == [2, 4]
    assert load_csv(write(tmp_path / "d.csv", "a\r\n1\r\n2\r\n")).x.tolist() == [[1], [2]]


def test_missing_values_can_be_filled(tmp_path):
    path = write(tmp_path / "m.csv", "a,b\n1,2\n,NA\n3,nan\n")
    x = load_csv(path, missing=-1).x
    assert x.tolist() == [[1, 2], [-1, -1], [3, -1]]
    assert np.isnan(load_csv(path, missing=float("nan")).x[1:, 1]).all()
    columns = load_columns(path, missing=0)
    assert (columns["a"].dtype, columns["a"].tolist()) == (np.int64, [1, 0, 3])
    assert load_columns(path, missing=0.5)["a"].tolist() == [1, 0.5, 3]
    with pytest.raises(DataError, match=r"line 3, column 'a': the value is missing, and 0\.5 is no int64"):
        load_csv(path, missing=0.5, dtype=np.int64)


BAD_TABLES = {
    "missing": ("a,b\n1,2\n3,\n", {}, r"line 3, column 'b': the value is missing \(''\)"),
    "missing after a field of two lines": ('a,b\n1,2\n"3\n\n",NA\n', dict(columns=["b"]), r"line 3, column 'b'.+'NA'"),
    "no number": ("a,b\n1,x\n", {}, r"line 2, column 'b': 'x' is no number"),
    "no whole number": ("a\n1\n2.5\n", dict(dtype=np.int64), r"line 3, column 'a': '2\.5' is no whole number"),
    "too large": ("a\n1\n300\n", dict(dtype=np.uint8), r"line 3, column 'a': '300' does not fit uint8"),
    "too large a float": ("a\n1\n1e39\n", {}, r"line 3, column 'a': '1e39' does not fit float32"),
    "no truth": ("a\n1\n2\n", dict(dtype=bool), "line 3, column 'a': '2' is neither true nor false"),
    "short row": ("a,b\n1,2\n3\n", {}, "line 3 has 1 fields, the table has 2 columns"),
    "long row": ("a,b\n\n1,2,3\n", {}, "line 3 has 3 fields"),
    "open quote": ('a,b\n1,2\n3,"4\n', {}, "line 3: unexpected end of data"),
    "quote inside": ('a,b\n1,"2"x\n', {}, "line 2: "),
    "no column": ("a,b\n1,2\n", dict(label="c"), "there is no column 'c'; there are 'a', 'b'"),
    "no place": ("a,b\n1,2\n", dict(columns=[2]), "there is no column 2"),
    "label twice": ("a,b\n1,2\n", dict(label="a", columns=["a"]), "both the label and one of the columns"),
    "name twice": ("a,a\n1,2\n", {}, "two columns are called 'a'"),
    "label missing": ("a,b\n1,x\n2,\n", dict(label="b"), "line 3, column 'b': the label is missing"),
    "empty": ("", {}, "the file is empty"),
    "only names": ("a,b\n", {}, "no rows"),
    "not utf-8": ("a\n1\n\xff\n", {}, "line 3 is not utf-8"),
    "over the limit": ("a\n" + "1\n" * 50, dict(max_bytes=50), "more than the limit of 50"),
    "a field without end": ("a\n" + "1" * 200_000, {}, "line 2: field larger than field limit"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_bad_tables(tmp_path, name):
    text, options, message = BAD_TABLES[name]
    path = write(tmp_path / "t.csv", text, "latin-1")
    with pytest.raises(DataError, match=message) as error:
        load_csv(path, **options)
    assert str(path) in str(error.value)
    for missing in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(DataError, match=str(missing)):
            load_csv(missing)


fields = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


@given(st.lists(st.lists(fields, min_size=2, max_size=2), min_size=1, max_size=8))
def test_text_columns_come_back_as_the_csv_module_wrote_them(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([["a", "b"], *rows])
    write(path, out.getvalue())
    columns = load_columns(path, dtypes={"a": str, "b": str})
    # NumPy's text ends before trailing NULs, which are excluded above
    assert [[a, b] for a, b in zip(columns["a"].tolist(), columns["b"].tolist())] == rows


@given(st.lists(st.tuples(st.floats(width=64), st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=8))
def test_numbers_come_back_bit_for_bit(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("t") / "t.csv"
    write(path, "x,n\n" + "".join(f"{x!r},{n}\n" for x, n in rows))
    columns = load_columns(path, dtypes={"x": np.float64}, missing=float("nan"))
    assert np.array_equal(columns["x"], np.array([x for x, _ in rows]), equal_nan=True)
    assert columns["n"].tolist() == [n for _, n in rows]


# -- text ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030", "big5"])
@pytest.mark.parametrize("packed", [False, True])
def test_text_in_encodings(tmp_path, encoding, packed):
    data = "我喜歡電影\r\n\r\nsecond\n".encode(encoding)
    (tmp_path / "t").write_bytes(gzip.compress(data) if packed else data)
    given_as = "utf-8" if encoding in ("utf-8-sig", "utf-16") else encoding  # their marks tell
    assert load_text(tmp_path / "t", given_as) == "我喜歡電影\r\n\r\nsecond\n"
    assert load_lines(tmp_path / "t", given_as) == ["我喜歡電影", "second"]
    assert load_lines(tmp_path / "t", given_as, keep_empty=True) == ["我喜歡電影", "", "second"]


def test_bad_text(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"one\ntwo\nthr\xe9e\n")
    with pytest.raises(DataError, match=r"t\.txt: line 3 is not utf-8 \(byte 0xe9 at 11\)"):
        load_text(path)
    assert load_text(path, "latin-1").endswith("thrée\n")
    with pytest.raises(LookupError):
        load_text(path, "klingon")
    with pytest.raises(DataError, match="more than the limit of 5"):
        load_text(path, "latin-1", max_bytes=5)
    path.write_bytes(gzip.compress(b"text" * 100)[:-9])
    with pytest.raises(DataError, match="truncated or damaged"):
        load_text(path)
    path.write_bytes(b"")
    assert (load_text(path), load_lines(path)) == ("", [])


# -- pictures --------------------------------------------------------------------------------------------------


def picture(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


@pytest.fixture
def zoo(tmp_path):
    """Two classes with three pictures each, of which one is deeper down."""
    rng = np.random.default_rng(0)
    root = tmp_path / "zoo"
    for name in ("dog", "cat"):
        for file in ("b.png", "a.PNG", "more/c.png"):
            picture(root / name / file, rng.integers(0, 256, (4, 5, 3), dtype=np.uint8), format="PNG")
    write(root / "cat" / "notes.txt", "not a picture")
    write(root / "readme.md", "not a class")
    return root


def test_image_folder_is_torchvisions(zoo):
    data = ImageFolder(zoo)
    assert data.classes == ["cat", "dog"]
    assert data.class_to_idx == {"cat": 0, "dog": 1}
    names = [(os.path.relpath(path, zoo), y) for path, y in data.samples]
    assert names == [
        (os.path.join(c, f), y) for y, c in enumerate(("cat", "dog")) for f in ("a.PNG", "b.png", "more/c.png")
    ]
    assert data.targets == [0, 0, 0, 1, 1, 1]
    assert data.imgs is data.samples
    assert len(data) == 6
    x, y = data[4]
    assert isinstance(x, Tensor)
    assert y == 1
    assert np.array_equal(x.array, np.asarray(Image.open(data.samples[4][0])).transpose(2, 0, 1))
    both = ImageFolder(zoo, transform=lambda x: x.array.sum(), target_transform=lambda y: -y, mode="L")
    grey = np.asarray(Image.open(data.samples[5][0]).convert("L")).sum()
    assert both[5] == (grey, -1)
    only = ImageFolder(
        zoo, is_valid_file=lambda path: path.endswith("b.png"), loader=lambda path: Image.open(path).convert("L")
    )
    assert len(only) == 2
    assert only[0][0].size == (5, 4)
    batches = list(DataLoader(data, 4, num_workers=2))
    assert [tuple(b[0].shape) for b in batches] == [(4, 3, 4, 5), (2, 3, 4, 5)]


def test_pictures_are_read_when_asked_for(zoo):
    data = ImageFolder(zoo)
    path = data.samples[2][0]
    os.truncate(path, os.path.getsize(path) - 30)
    assert data[1][0].shape == (3, 4, 5)
    with pytest.raises(DataError, match=r"not a whole picture") as error:
        data[2]
    assert path in str(error.value)
    with pytest.raises(DataError) as error:
        list(DataLoader(data, 3, num_workers=2))
    assert "item 2 of the dataset" in error.value.__notes__[0]


def test_folders_that_are_none(zoo, tmp_path):
    with pytest.raises(DataError, match="No such file"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(DataError, match="holds no folders"):
        ImageFolder(zoo / "cat" / "more")
    (zoo / "ant").mkdir()
    with pytest.raises(DataError, match=r"no files \(names ending in \.jpg, .+ for the class 'ant'"):
        ImageFolder(zoo)
    assert ImageFolder(zoo, allow_empty=True).targets == [1, 1, 1, 2, 2, 2]
    with pytest.raises(ValueError, match="either extensions or is_valid_file"):
        DatasetFolder(zoo, len)
    texts = DatasetFolder(zoo, load_text, (".txt",), allow_empty=True)
    assert texts[0] == ("not a picture", 1)


@pytest.mark.parametrize("kind", ["png", "bmp", "ppm", "tiff", "gif"])
def test_pictures_of_several_kinds(tmp_path, kind):
    array = np.random.default_rng(1).integers(0, 256, (3, 4), dtype=np.uint8)
    path = picture(tmp_path / f"p.{kind}", array)
    for mode, channels in (("L", 1), ("RGB", 3), ("RGBA", 4)):
        got = load_picture(path, mode).array
        assert got.shape == (channels, 3, 4)
        assert (got[:3] == array).all()
    assert (load_picture(path, "RGBA").array[3] == 255).all()
    with pytest.raises(ValueError, match="mode"):
        load_picture(path, "CMYK")


def test_palettes_transparency_and_deep_pixels(tmp_path):
    rgba = np.random.default_rng(1).integers(0, 256, (3, 4, 4), dtype=np.uint8)
    path = picture(tmp_path / "a.png", rgba)
    assert np.array_equal(load_picture(path).array, rgba.transpose(2, 0, 1)[:3])
    palette = Image.fromarray(rgba[..., :3]).quantize(4)
    palette.save(tmp_path / "p.png", transparency=bytes([0, 128, 255, 255]))
    assert np.array_equal(load_picture(tmp_path / "p.png").array.transpose(1, 2, 0), np.asarray(palette.convert("RGB")))
    deep = picture(tmp_path / "d.png", np.full((2, 2), 40_000, np.uint16))
    with pytest.raises(DataError, match=r"d\.png: its pixels have more than 8 bits"):
        load_picture(deep)


def test_files_that_are_no_pictures(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    good = picture(tmp_path / "g.png", noise).read_bytes()
    bad = tmp_path / "b.png"
    for data in (b"", b"hello", good[:-200], good[:40], b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"):
        bad.write_bytes(data)
        with pytest.raises(DataError, match=r"b\.png: not a whole picture"):
            load_picture(bad)
    bad.write_bytes(b"P6 60000 60000 255 ")
    with pytest.raises(DataError, match=r"b\.png"):
        load_picture(bad)
    with pytest.raises(DataError, match="a folder, not a file"):
        load_picture(tmp_path)


def test_load_images_takes_folders_of_pictures(zoo, tmp_path):
    data = load_images(zoo, test_size=2)
    assert data.x_train.shape == (4, 3, 4, 5)
    assert sorted(data.y_test) == [0, 1]
    grey = np.random.default_rng(2).integers(0, 256, (12, 6, 6), dtype=np.uint8)
    for i, image in enumerate(grey):
        part = "test" if i % 3 == 2 else "train"
        picture(tmp_path / "split" / part / f"class{i % 2}" / f"{i:02}.png", image)
    split = load_images(tmp_path / "split")
    assert split.x_train.shape == (8, 6, 6)
    assert split.x_test.tolist() == grey[[2, 8, 5, 11]].tolist()
    assert split.y_test.tolist() == [0, 0, 1, 1]
    with pytest.raises(DataError, match="more than the limit"):
        load_images(tmp_path / "split", max_bytes=100)
    picture(tmp_path / "split" / "test" / "class7" / "x.png", grey[0])
    with pytest.raises(DataError, match="the class 'class7' is not in"):
        load_images(tmp_path / "split")
    odd = picture(zoo / "dog" / "d.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match="is 4 x 4 pixels high and wide, .+ is 4 x 5") as error:
        load_images(zoo)
    assert str(odd) in str(error.value)


# -- one way in ------------------------------------------------------------------------------------------------


def test_one_way_in(zoo, tmp_path):
    assert load_data(None).num_classes == 10
    assert len(load_data(zoo, test_size=2).x_test) == 2
    assert load_data(write(tmp_path / "f.csv", FLOWERS), label="kind").classes == ["setosa", "versicolor"]
    (tmp_path / "f.tsv.gz").write_bytes(gzip.compress(b"a\tb\n1\t2\n"))
    assert load_data(tmp_path / "f.tsv.gz").x.tolist() == [[1, 2]]
    np.savez(tmp_path / "d.npz", x=np.zeros((8, 3, 3)), y=np.arange(8) % 2)
    assert load_data(tmp_path / "d.npz", test_size=2).x_test.shape == (2, 3, 3)
    assert load_data(write(tmp_path / "t.txt", "text")) == "text"
    assert load_data(write(tmp_path / "README", "学习")) == "学习"
    for name, data, message in [
        ("empty", b"", "is empty"),
        ("binary", b"\x7fELF\0\0", "neither an npz archive"),
        ("none", None, "No such file"),
    ]:
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}: .*{message}"):
            load_data(tmp_path / name)
    with pytest.raises(TypeError, match="label"):
        load_data(tmp_path / "t.txt", label="x")
