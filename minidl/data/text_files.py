"""Text files, decoded whole or refused with the line at fault."""

from __future__ import annotations

import gzip
import os
import zlib

from minidl.data.errors import DataError
from minidl.io.npz import open_regular, read_up_to

__all__ = ["load_lines", "load_text"]

Path = str | os.PathLike[str]

MAX_TEXT_BYTES = 2**30  # what a file of text may unpack to, unless the caller says otherwise
_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def load_text(path: Path, encoding: str = "utf-8", max_bytes: int = MAX_TEXT_BYTES) -> str:
    """The text of a file, plain or gzipped, as it stands in it (line ends included).

    A byte order mark is honoured and left out. Raises DataError, naming the file, for one that is missing, damaged,
    larger than `max_bytes`, or not of this encoding: then with the line and the byte at fault; LookupError for an
    encoding that Python does not know.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "a.txt")
    >>> _ = path.write_bytes("学习\\n".encode("gb18030"))
    >>> load_text(path, encoding="gb18030")
    '学习\\n'
    """
    data = _read(path, max_bytes)
    for mark, name in _MARKS.items():
        if data.startswith(mark) and encoding.lower().replace("_", "-") in ("utf-8", "utf8", "utf-16", "utf16"):
            data, encoding = (data[3:], name) if name == "utf-8" else (data, name)
            break
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as problem:
        line = data.count(b"\n", 0, problem.start) + 1
        raise DataError(
            f"{path}: line {line} is not {encoding} (byte 0x{data[problem.start]:02x} at {problem.start}); pass the "
            "file's encoding, such as encoding='gb18030', 'cp1252' or 'latin-1'"
        ) from problem


def load_lines(
    path: Path, encoding: str = "utf-8", keep_empty: bool = False, max_bytes: int = MAX_TEXT_BYTES
) -> list[str]:
    """The lines of a text file without their ends (LF, CRLF or CR), by default without those that are blank.

    Raises DataError as `load_text` does.
    """
    lines = load_text(path, encoding, max_bytes).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines if keep_empty else [line for line in lines if line.strip()]


def _read(path: Path, max_bytes: int) -> bytes:
    with open_regular(path, DataError) as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            if packed:
                with gzip.GzipFile(fileobj=raw) as file:
                    data = read_up_to(file, max_bytes + 1)
            else:
                data = read_up_to(raw, max_bytes + 1)
        except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
            raise DataError(f"{path}: the gzip file is truncated or damaged ({problem})") from problem
        except OSError as problem:
            raise DataError(f"{path}: {problem.strerror or problem}") from problem
    if len(data) > max_bytes:
        raise DataError(f"{path}: holds more than the limit of {max_bytes} bytes")
    return bytes(data)
