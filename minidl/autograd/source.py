"""Where in the user's program an op was called."""

from __future__ import annotations

import sys

_INTERNAL = __file__[: -len("autograd/source.py")]  # the engine: minidl/
_USER_CODE = _INTERNAL + "models"


def caller() -> tuple | None:
    """The nearest frame outside the engine: (code object, line number)."""
    f = sys._getframe(2)
    while f is not None:
        name = f.f_code.co_filename
        if not name.startswith(_INTERNAL) or name.startswith(_USER_CODE):
            return f.f_code, f.f_lineno
        f = f.f_back  # type: ignore[assignment]
    return None


def source_line(where: tuple | None) -> str:
    """``file:line: text`` for what caller() returned."""
    if where is None:
        return "an unknown place"
    import linecache

    code, line = where
    text = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_filename}:{line} in {code.co_name}" + (f":  {text}" if text else "")
