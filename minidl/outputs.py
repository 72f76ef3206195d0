"""Files that a command was asked to write: refused before the work starts, not after it."""

from __future__ import annotations

import os
import tempfile

from minidl.cli import UserError

__all__ = ["check_outputs", "try_writing"]


def check_outputs(json_file: str | None, plot_file: str | None) -> None:
    """Raises UserError unless the files of --json and --plot can be written, by trying to."""
    if plot_file is not None:
        from minidl.plots import check_picture

        try:
            check_picture(plot_file)
        except (ImportError, ValueError) as error:
            raise UserError(f"--plot: {error}") from error
    if json_file and plot_file and os.path.realpath(json_file) == os.path.realpath(plot_file):
        raise UserError(f"--json and --plot name the same file, {json_file}")
    for option, path in (("--json", json_file), ("--plot", plot_file)):
        if path is None:
            continue
        if not path or os.path.isdir(path):
            raise UserError(f"{option}: {path!r} is {'a folder' if path else 'no name'}, a file is wanted")
        if os.path.exists(path) and not os.path.isfile(path):
            continue  # a pipe or /dev/stdout: written as it is
        folder = os.path.dirname(os.path.realpath(path))
        if not os.path.isdir(folder):
            raise UserError(f"{option}: cannot write {path}: there is no folder {folder}")
        try_writing(option, folder)


def try_writing(option: str, folder: str) -> None:
    """Raises UserError unless a file can be made in the folder."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{option}: cannot write in the folder {folder}: {error.strerror or error}") from error
