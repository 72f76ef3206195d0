"""One way in to whatever the user has: which reader, by what the path is."""

from __future__ import annotations

import os
from typing import Any

from minidl.data.csv_files import load_csv
from minidl.data.errors import DataError
from minidl.data.readers import load_images
from minidl.data.text_files import load_text
from minidl.io.npz import open_regular

__all__ = ["load_data"]

_TABLES = (".csv", ".tsv", ".tab")
_TEXTS = (".txt", ".text", ".md", ".rst", ".log", ".json", ".jsonl", ".py", ".html", ".xml")


def load_data(path: str | os.PathLike[str] | None, **options: Any) -> Any:
    """Data of any kind that minidl reads, as an example's `--data PATH` gets it. `options` go to the reader.

    | path                                                              | reader        | result      |
    |-------------------------------------------------------------------|---------------|-------------|
    | None, a folder, an npz archive, an idx file (also gzipped)        | `load_images` | `ImageData` |
    | a name in .csv, .tsv, .tab (also with .gz)                        | `load_csv`    | `Table`     |
    | a name in .txt, .md, .json and the like (also with .gz); any text | `load_text`   | `str`       |

    Raises DataError, naming the path, for what none of them reads, and as they do; TypeError for options that the
    reader does not have.

    >>> type(load_data(None)).__name__
    'ImageData'
    """
    if path is None or os.path.isdir(path):
        return load_images(path, **options)
    name = os.fspath(path).lower().removesuffix(".gz")
    if name.endswith(_TABLES):
        return load_csv(path, **options)
    if name.endswith(_TEXTS):
        return load_text(path, **options)
    with open_regular(path, DataError) as file:
        start = file.read(4096)
    if start[:4] in (b"PK\3\4", b"PK\5\6") or start[:2] == b"\x1f\x8b" or (start[:2] == b"\0\0" and len(start) > 4):
        return load_images(path, **options)
    if not start or b"\0" in start:
        what = "is empty" if not start else "is neither an npz archive, an idx file, a table (.csv, .tsv) nor text"
        raise DataError(f"{path}: {what}")
    return load_text(path, **options)
