"""NumPy archives (.npz), read without trust: nothing is unpickled, and no size is believed before the bytes are there.

The format: a zip file of `NAME.npy` members, each a magic string, a header (a literal dict with dtype, order, shape)
and the raw elements. https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import gzip
import math
import os
import stat
import zipfile
from collections.abc import Callable, Iterable
from typing import IO, Any, BinaryIO

import numpy as np

__all__ = ["MAX_BYTES", "array_from_bytes", "open_regular", "read_npz", "read_up_to", "write_npz"]

MAX_BYTES = 8 * 2**30  # what one file may unpack to, unless the caller says otherwise
_PIECE = 2**20
_HEADER_LIMIT = 10_000


def write_npz(file: IO[bytes], arrays: dict[str, np.ndarray]) -> None:
    """Write arrays under their names to an open file: uncompressed, the same bytes for the same arrays.

    Raises ValueError for arrays of Python objects.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(name + ".npy")  # dated 1980: a checkpoint does not depend on the time of day
            with archive.open(member, "w", force_zip64=True) as out:
                np.lib.format.write_array(out, array, allow_pickle=False)


def open_regular(path: str | os.PathLike[str], error: type[ValueError]) -> BinaryIO:
    """Open a file for reading; raises `error` if it is missing, unreadable, a folder, or a pipe that would block."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise error(f"{path}: {'a folder' if os.path.isdir(path) else 'a pipe or device'}, not a file")
        return open(path, "rb")
    except OSError as problem:
        raise error(f"{path}: {problem.strerror or problem}") from problem


def read_npz(
    path: str | os.PathLike[str],
    error: type[ValueError] = ValueError,
    choose: Callable[[list[str]], Iterable[str]] = iter,
    max_bytes: int = MAX_BYTES,
) -> dict[str, np.ndarray]:
    """The arrays of an archive in its own order; `choose` picks from the names which ones to read at all.

    Raises `error`, naming the file and what is wrong with it, for a missing, truncated, damaged or encrypted file,
    object arrays, members that are not arrays, and when the chosen arrays declare more than `max_bytes`.
    """
    try:
        with open_regular(path, error) as file, zipfile.ZipFile(file) as archive:
            members: dict[str, zipfile.ZipInfo] = {}
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name in members:
                    raise error(f"{path}: two members are called {info.filename!r}")
                members[name] = info
            chosen = list(choose(list(members)))
            total = sum(members[name].file_size for name in chosen)
            if total > max_bytes:
                raise error(f"{path}: unpacks to {total} bytes, more than the limit of {max_bytes}")
            return {name: _read_member(archive, members[name], path, error) for name in chosen}
    except error:
        raise
    except zipfile.BadZipFile as problem:
        raise error(f"{path}: not a whole npz archive ({problem})") from problem
    except Exception as problem:  # zlib, struct, codecs ...: whatever a damaged archive provokes in the zip reader
        raise error(f"{path}: cannot be read as an npz archive ({problem})") from problem


def _read_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str | os.PathLike[str], error: type[ValueError]
) -> np.ndarray:
    where = f"{path}: member {info.filename!r}"
    if not info.filename.endswith(".npy"):
        raise error(f"{where} is not an array (.npy)")
    with archive.open(info) as file:
        try:
            version = np.lib.format.read_magic(file)
            header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = header(file, max_header_size=_HEADER_LIMIT)
        except (ValueError, KeyError, SyntaxError, MemoryError, RecursionError, EOFError, TypeError) as problem:
            raise error(f"{where} has no valid array header ({problem})") from problem
        if dtype.hasobject:
            raise error(f"{where} holds pickled Python objects, which are never loaded")
        if dtype.kind not in "biuf":
            raise error(f"{where} holds {dtype}, not numbers or booleans")
        need = math.prod(shape) * dtype.itemsize
        data = read_up_to(file, need + 1)
    if min(shape, default=0) < 0 or len(data) != need:
        held = "more" if len(data) > need else f"{len(data)} bytes"
        raise error(f"{where} declares {dtype} of shape {shape}, {need} bytes, but holds {held}")
    return array_from_bytes(data, dtype, shape, fortran, lambda reason: error(f"{where} {reason}"))


def read_up_to(file: IO[bytes] | gzip.GzipFile, limit: int) -> bytearray:
    """Read at most `limit` bytes in pieces, so that memory grows with what is there and not with what was declared."""
    data = bytearray()
    while len(data) < limit:
        piece = file.read(min(_PIECE, limit - len(data)))
        if not piece:
            break
        data += piece
    return data


def array_from_bytes(
    data: bytearray, dtype: np.dtype, shape: tuple[int, ...], fortran: bool, error: Callable[[str], ValueError]
) -> np.ndarray:
    """A writable array in the machine's byte order on checked bytes; booleans that are neither 0 nor 1 are refused."""
    flat: np.ndarray[Any, Any] = np.frombuffer(data, dtype)
    if dtype.kind == "b" and flat.size and flat.view(np.uint8).max() > 1:
        raise error("holds booleans that are neither 0 nor 1")
    flat = flat.astype(dtype.newbyteorder("="), copy=False)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
