"""Writing a file whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

__all__ = ["atomic_write"]

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing bytes that takes the place of `path` only once it is complete and on disk.

    The bytes go to a temporary file in the same folder, which is flushed to the disk and then renamed over `path`; a
    reader sees the old file or the new one, also after a power cut. If the block raises, the old file stays as it was
    and the temporary one is removed; a process that is killed leaves a file `.NAME.*.tmp` beside the old one. A
    symbolic link is followed; a device or a pipe is written directly. Raises OSError (FileNotFoundError,
    PermissionError, ...) that names the path when the folder is missing or unwritable or the disk is full.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "note.txt")
    >>> with atomic_write(path) as f:
    ...     _ = f.write(b"all of it")
    >>> path.read_bytes()
    b'all of it'
    """
    shown, path = os.fspath(path), os.path.realpath(path)
    folder, name = os.path.split(path)
    mode = 0
    try:
        mode = os.stat(shown).st_mode  # not of the resolved path: /dev/stdout resolves to a pipe that has none
    except FileNotFoundError:
        pass
    except OSError as error:
        raise _explained(error, shown, folder) from error
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"cannot write {shown}: it is a folder")
    if mode and not stat.S_ISREG(mode):
        with open(shown, "wb") as device:
            yield device
        return
    temporary = os.path.join(folder, f".{name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        handle = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666
        )  # the umask applies, as to any new file
    except OSError as error:
        raise _explained(error, shown, folder) from error
    try:
        with open(handle, "wb") as file:
            if mode:
                os.fchmod(handle, stat.S_IMODE(mode))
            yield file
            file.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno in _DISK:
            raise _explained(error, shown, folder) from error
        raise
    _sync_folder(folder)


def _explained(error: OSError, path: str, folder: str) -> OSError:
    """The same kind of error, saying which file could not be written and why."""
    reason = error.strerror or str(error)
    if isinstance(error, FileNotFoundError):
        reason = f"there is no folder {folder}"
    elif isinstance(error, PermissionError):
        reason = f"the folder {folder} is not writable"
    return type(error)(f"cannot write {path}: {reason}")


def _sync_folder(folder: str) -> None:
    """Put the rename itself on disk, where the system lets a folder be flushed."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
