"""Files of torch.save (`.pt`, `.pth`), read without torch and without running anything.

Since torch 1.6 such a file is a zip archive: `NAME/data.pkl` holds the structure as a pickle, `NAME/data/0`, `1`, ...
the elements of the tensors (https://docs.pytorch.org/docs/stable/notes/serialization.html). Before, it was five pickles
in a row, a magic number, a version, the machine's sizes, the structure and the keys of the storages, and behind them
for each key the number of elements (int64) and the elements (torch/serialization.py, `_legacy_save`).
"""

from __future__ import annotations

import io
import os
import zipfile
from typing import Any, BinaryIO

from minidl.io.checkpoint import CheckpointError
from minidl.io.npz import MAX_BYTES, open_regular, read_up_to
from minidl.io.torch_pickle import Source, run

__all__ = ["load_torch"]

Path = str | os.PathLike[str]

_MAX_PICKLE = 64 * 2**20  # of the structure alone; that of a model with thousands of tensors takes about a megabyte
_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization.MAGIC_NUMBER, of files before 1.6
_MAGIC_BYTES = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little")  # the pickle instruction that makes it


def load_torch(path: Path, max_bytes: int = MAX_BYTES) -> Any:
    """What torch.save wrote: numbers, text, dicts, lists and tuples of Tensors; ``minidl.load`` calls it by suffix.

    Tensors share memory as they did, and require gradients if they did; those of a GPU come to the CPU. bfloat16, which
    NumPy lacks, is widened to float32, exactly. torch.Size comes as a tuple, torch.device as its name, OrderedDict as a
    dict. Nothing in the file is executed and no declared size is trusted.

    Raises CheckpointError, naming file and reason: for a whole pickled model or anything else of a name that is not
    known to be data (the message says which; save ``model.state_dict()`` instead), and for files that are missing,
    truncated, damaged or larger than `max_bytes`.
    """
    try:
        with open_regular(path, CheckpointError) as file:
            start = file.read(64)
            file.seek(0)
            if start[:2] == b"PK":
                with zipfile.ZipFile(file) as archive:
                    return _Archive(archive, path, max_bytes).load()
            if _MAGIC_BYTES in start:
                return _load_before_1_6(file, path, max_bytes)
            raise CheckpointError(f"{path}: not a zip archive, as torch writes since 1.6, nor what it wrote before")
    except CheckpointError:
        raise
    except zipfile.BadZipFile as problem:
        raise CheckpointError(f"{path}: not a whole zip archive ({problem})") from problem
    except Exception as problem:  # whatever a damaged archive or pickle provokes
        raise CheckpointError(f"{path}: damaged ({type(problem).__name__}: {problem})") from problem


class _Archive(Source):
    """An open zip archive."""

    def __init__(self, archive: zipfile.ZipFile, path: Path, max_bytes: int):
        super().__init__(path, max_bytes)
        self.archive = archive
        names = [info.filename for info in archive.infolist()]
        if len(set(names)) < len(names):
            raise self.error("two members have the same name")
        found = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(found) != 1:
            raise self.error(f"holds {len(found)} members data.pkl, a file of torch.save one")
        self.members = {info.filename: info for info in archive.infolist()}
        self.top = found[0].removesuffix("data.pkl")
        order = self.top + "byteorder"
        self.order = ">" if order in self.members and self.read(order, 16) == b"big" else "<"

    def read(self, name: str, limit: int) -> bytearray:
        """A member's bytes."""
        with self.archive.open(self.members[name]) as file:
            data = read_up_to(file, limit + 1)
        if len(data) > limit:
            raise self.error(f"member {name!r} is larger than the limit of {limit} bytes")
        return data

    def load(self) -> Any:
        """What the archive holds."""
        return run(io.BytesIO(self.read(self.top + "data.pkl", min(_MAX_PICKLE, self.max_bytes))), self)

    def elements(self, key: str, count: int, width: int) -> bytearray:
        """A member of its own."""
        need = count * width
        name = f"{self.top}data/{key}"
        if name not in self.members:
            raise self.error(f"member {name!r}, the elements of a tensor, is missing")
        data = self.read(name, need)
        if len(data) != need:
            raise self.error(f"member {name!r} holds {len(data)} bytes, {need} are declared")
        return data


class _Stream(Source):
    """An open file of before 1.6: the elements stand behind a structure that alone tells how many bytes each takes.

    So the structure is run twice: with zeros for elements, which collects the sizes, and with the elements themselves.

    Args:
        file: at the first storage.
        places: where each storage is, number of elements first, as the first run has found; None: this is that run.
    """

    id_length = 6

    def __init__(self, file: BinaryIO, path: Path, max_bytes: int, places: dict[str, int] | None = None):
        super().__init__(path, max_bytes)
        self.file, self.places = file, places
        self.room = os.fstat(file.fileno()).st_size
        self.sizes: dict[str, int] = {}

    def elements(self, key: str, count: int, width: int) -> bytearray:
        """A stretch of the file."""
        need = count * width
        self.sizes[key] = 8 + need
        if sum(self.sizes.values()) > self.room:
            raise self.error(f"ends before the {need} bytes of storage {key!r}")
        if self.places is None:
            return bytearray(need)
        self.file.seek(self.places[key])
        data = read_up_to(self.file, 8 + need)
        if len(data) != 8 + need:
            raise self.error(f"ends before the {need} bytes of storage {key!r}")
        if int.from_bytes(data[:8], "little") != count:
            raise self.error(f"has another number of elements of storage {key!r} than its tensors, {count}")
        return data[8:]


def _load_before_1_6(file: BinaryIO, path: Path, max_bytes: int) -> Any:
    stream = io.BytesIO(read_up_to(file, min(_MAX_PICKLE, max_bytes)))
    first = _Stream(file, path, max_bytes)
    magic, version, machine = (run(stream, first) for _ in range(3))
    if magic != _MAGIC or version != 1001 or not isinstance(machine, dict):
        raise first.error(f"is no file of torch.save: magic number {magic!r}, version {version!r}")
    place = stream.tell()
    run(stream, first)
    keys = run(stream, first)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(first.sizes):
        raise first.error("lists other storages than its tensors use")
    places, at = {}, stream.tell()
    for key in keys:
        places[key], at = at, at + first.sizes[key]
    stream.seek(place)
    return run(stream, _Stream(file, path, max_bytes, places))
