"""Where in the user's program an op was called."""

from __future__ import annotations

import sys
from types import CodeType, FrameType

_INTERNAL = __file__[: -len("autograd/source.py")]  # the engine: minidl/
_USER_CODE = _INTERNAL + "models"


_is_engine: dict[str, bool] = {}  # file name -> is it the engine's own?


def caller(depth: int = 1) -> tuple[CodeType, int] | None:
    """The nearest frame outside the engine, from `depth` frames up: its code, and the instruction it is at."""
    f: FrameType | None = sys._getframe(depth)
    while f is not None:
        code = f.f_code
        engine = _is_engine.get(code.co_filename)
        if engine is None:
            engine = _is_engine[code.co_filename] = is_engine(code.co_filename)
        if not engine:
            return code, f.f_lasti
        f = f.f_back
    return None


def is_engine(filename: str) -> bool:
    """Whether a source file is the engine's own, models apart."""
    return filename.startswith(_INTERNAL) and not filename.startswith(_USER_CODE)


def source_line(where: tuple | None) -> str:
    """``file:line: text`` for what caller() returned."""
    if where is None:
        return "an unknown place"
    import linecache

    code, instruction = where
    lines = (n for start, end, n in code.co_lines() if start <= instruction < end and n is not None)
    line = next(lines, code.co_firstlineno)
    text = linecache.getline(code.co_filename, line).strip()
    return f"{code.co_filename}:{line} in {code.co_name}" + (f":  {text}" if text else "")
