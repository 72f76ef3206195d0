"""Tables in text files: comma- or tab-separated, quoted by the rules of the `csv` module (RFC 4180)."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from minidl.data.errors import DataError
from minidl.data.text_files import MAX_TEXT_BYTES, load_text

__all__ = ["Table", "load_columns", "load_csv"]

Path = str | os.PathLike[str]

_MISSING = {"", "na", "n/a", "nan", "null", "none", "?"}
_TRUTH = {"true": True, "false": False}


class Table(NamedTuple):
    """A table of numbers, and what to predict from them.

    x: (N, F). y: (N,), int64 classes or numbers, or None. names: of x's columns. classes: the label that each class
    stands for, in sorted order; None if y holds numbers as they stood in the file.
    """

    x: np.ndarray
    y: np.ndarray | None
    names: list[str]
    classes: list[str] | None


def load_csv(
    path: Path,
    label: str | int | None = None,
    columns: Sequence[str | int] | None = None,
    dtype: Any = np.float32,
    header: bool = True,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    missing: float | None = None,
    max_bytes: int = MAX_TEXT_BYTES,
) -> Table:
    """A table of numbers from a file, with a column of labels if one is named.

    Args:
        path: the file, plain or gzipped.
        label: name or place of the column to predict. Text in it becomes classes 0, 1, ... in sorted order; integers
            and other numbers are taken as they are (int64, or `dtype`).
        columns: names or places of the columns of x, in this order; by default all but the label.
        dtype: of x.
        header: whether the first row has the columns' names; without, they are called "0", "1", ...
        delimiter: by default a tab for names in .tsv, else a comma.
        encoding: of the text.
        missing: what to put where a number is missing (nothing, NA, N/A, NaN, null, None, ?); None: that is an error.
        max_bytes: the most that the file may unpack to.

    Raises DataError, naming file, line and column, for values that are missing or no numbers, rows of another length,
    quotes that do not end, columns that are not there; and as `load_text` does.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "flowers.csv")
    >>> _ = path.write_text("length,width,kind\\n5.1,3.5,setosa\\n6.2,2.9,versicolor\\n")
    >>> table = load_csv(path, label="kind")
    >>> table.x.shape, table.y.tolist(), table.names, table.classes
    ((2, 2), [0, 1], ['length', 'width'], ['setosa', 'versicolor'])
    """
    rows = _Rows(path, header, delimiter, encoding, max_bytes)
    at_label = None if label is None else rows.place(label)
    places = (
        [i for i in range(len(rows.names)) if i != at_label] if columns is None else [rows.place(c) for c in columns]
    )
    if at_label in places:
        raise DataError(f"{path}: column {rows.names[at_label]!r} is both the label and one of the columns of x")
    kind = np.dtype(dtype)
    x = np.empty((len(rows.rows), len(places)), kind)
    for j, place in enumerate(places):
        x[:, j] = rows.numbers(place, kind, missing)
    y, classes = None, None
    if at_label is not None:
        y, classes = rows.labels(at_label, kind)
    return Table(x, y, [rows.names[i] for i in places], classes)


def load_columns(
    path: Path,
    columns: Sequence[str | int] | None = None,
    dtypes: Mapping[str, Any] | None = None,
    header: bool = True,
    delimiter: str | None = None,
    encoding: str = "utf-8",
    missing: float | None = None,
    max_bytes: int = MAX_TEXT_BYTES,
) -> dict[str, np.ndarray]:
    """The columns of a table by name, each an array (N,) of its own dtype.

    Without an entry in `dtypes`, a column holds int64 if all its values are whole numbers, bool if all are true or
    false, else float64 if all are numbers, else text. In a column of text, as `dtypes` may say of any (`str`), an empty
    value is text like any other. Arguments and errors are otherwise those of `load_csv`.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "a.tsv")
    >>> _ = path.write_text("year\\tspots\\tnote\\n1700\\t5.0\\tfirst\\n1701\\t11\\t\\n")
    >>> {name: column.tolist() for name, column in load_columns(path).items()}
    {'year': [1700, 1701], 'spots': [5.0, 11.0], 'note': ['first', '']}
    """
    rows = _Rows(path, header, delimiter, encoding, max_bytes)
    places = range(len(rows.names)) if columns is None else [rows.place(c) for c in columns]
    wanted = dict(dtypes or {})
    unknown = [name for name in wanted if name not in rows.names]
    if unknown:
        raise DataError(f"{path}: dtypes names a column {unknown[0]!r}; there are {_list(rows.names)}")
    found = {}
    for place in places:
        name = rows.names[place]
        found[name] = rows.column(place, np.dtype(wanted[name]) if name in wanted else None, missing)
    return found


class _Rows:
    """The fields of a table, still text, with the lines that they stand on."""

    def __init__(self, path: Path, header: bool, delimiter: str | None, encoding: str, max_bytes: int) -> None:
        self.path = path
        if delimiter is None:
            bare = os.fspath(path).lower().removesuffix(".gz")
            delimiter = "\t" if bare.endswith((".tsv", ".tab")) else ","
        text = load_text(path, encoding, max_bytes)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        self.rows: list[list[str]] = []
        self.lines: list[int] = []  # where each row begins, from 1
        before = 0
        try:
            for row in reader:
                if row:  # not a blank line
                    self.rows.append(row)
                    self.lines.append(before + 1)
                before = reader.line_num
        except csv.Error as problem:
            raise DataError(f"{path}: line {before + 1}: {problem}") from problem
        if not self.rows:
            raise DataError(f"{path}: the file is empty")
        if header:
            self.names = [name.strip() for name in self.rows.pop(0)]
            self.lines.pop(0)
        else:
            self.names = [str(i) for i in range(len(self.rows[0]))]
        twice = next((name for i, name in enumerate(self.names) if name in self.names[:i]), None)
        if twice is not None:
            raise DataError(f"{path}: two columns are called {twice!r}")
        if not self.rows:
            raise DataError(f"{path}: there are names of columns, but no rows")
        for row, line in zip(self.rows, self.lines):
            if len(row) != len(self.names):
                raise DataError(f"{path}: line {line} has {len(row)} fields, the table has {len(self.names)} columns")

    def place(self, column: str | int) -> int:
        """Where a column is, by name or by place, which may count from the end."""
        if isinstance(column, str):
            if column in self.names:
                return self.names.index(column)
        elif -len(self.names) <= column < len(self.names):
            return column % len(self.names)
        raise DataError(f"{self.path}: there is no column {column!r}; there are {_list(self.names)}")

    def error(self, i: int, place: int, reason: str) -> DataError:
        return DataError(f"{self.path}: line {self.lines[i]}, column {self.names[place]!r}: {reason}")

    def numbers(self, place: int, kind: np.dtype, missing: float | None) -> np.ndarray:
        """A column of numbers."""
        out = np.empty(len(self.rows), kind)
        whole = kind.kind in "iub"
        for i, row in enumerate(self.rows):
            field = row[place].strip()
            if field.lower() in _MISSING:
                if missing is None:
                    raise self.error(i, place, f"the value is missing ({field!r}); pass missing=... to fill it")
                value: Any = missing
                if whole and not float(missing).is_integer():
                    raise self.error(i, place, f"the value is missing, and {missing} is no {kind}")
            else:
                try:
                    value = _TRUTH.get(field.lower()) if kind.kind == "b" else None
                    if value is None:
                        value = int(field) if whole else float(field)
                except ValueError:
                    what = "whole number" if whole else "number"
                    raise self.error(i, place, f"{_shown(field)} is no {what}") from None
            try:
                out[i] = value
            except OverflowError:
                raise self.error(i, place, f"{_shown(field)} does not fit {kind}") from None
            if kind.kind == "b" and value not in (0, 1):
                raise self.error(i, place, f"{_shown(field)} is neither true nor false")
            if kind.kind == "f" and not np.isfinite(out[i]) and math.isfinite(value):
                raise self.error(i, place, f"{_shown(field)} does not fit {kind}")
        return out

    def column(self, place: int, kind: np.dtype | None, missing: float | None) -> np.ndarray:
        """A column of a dtype, or of that which fits its values."""
        fields = [row[place] for row in self.rows]
        if kind is None:
            kind = _kind_of([f.strip() for f in fields], missing)
        if kind.kind in "US":
            return np.array(fields, dtype=np.str_)
        if kind.kind not in "iubf":
            raise TypeError(f"columns hold numbers, truth values or text (str), not {kind}")
        return self.numbers(place, kind, missing)

    def labels(self, place: int, kind: np.dtype) -> tuple[np.ndarray, list[str] | None]:
        """What to predict: (N,), and the texts that classes stand for."""
        fields = [row[place].strip() for row in self.rows]
        for i, field in enumerate(fields):
            if field.lower() in _MISSING - {"none"}:
                raise self.error(i, place, f"the label is missing ({field!r})")
        found = _kind_of(fields, None)
        if found.kind == "i":
            return self.numbers(place, found, None), None
        if found.kind == "f":
            return self.numbers(place, kind if kind.kind == "f" else found, None), None
        classes, y = np.unique(np.array(fields), return_inverse=True)
        return y.reshape(-1).astype(np.int64), classes.tolist()


def _kind_of(fields: list[str], missing: float | None) -> np.dtype:
    """int64, bool, float64 or text: the first that all values have."""
    given = [f for f in fields if f.lower() not in _MISSING]
    if not given:
        return np.dtype(np.str_ if missing is None else np.float64)
    gaps = len(given) < len(fields)
    if all(_is_whole(f) for f in given) and not (gaps and missing is not None and not float(missing).is_integer()):
        return np.dtype(np.int64)
    if all(f.lower() in _TRUTH for f in given):
        return np.dtype(bool)
    return np.dtype(np.float64 if all(_is_number(f) for f in given) else np.str_)


def _is_whole(field: str) -> bool:
    try:
        return -(2**63) <= int(field) < 2**63
    except ValueError:
        return False


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _shown(field: str) -> str:
    return repr(field if len(field) <= 40 else field[:37] + "...")


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")
