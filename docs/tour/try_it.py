"""Check your answers: python docs/tour/try_it.py CHAPTER FILE, FILE being your own file with the functions in it."""

from __future__ import annotations

import importlib.util
import pathlib
import runpy
import sys
from types import ModuleType

EXERCISES = pathlib.Path(__file__).resolve().parent / "exercises"


def load(path: pathlib.Path) -> ModuleType:
    """A file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(page: ModuleType) -> list[str]:
    """The exercises of a chapter, in order."""
    return [name.removeprefix("check_") for name in vars(page) if name.startswith("check_")]


def main(arguments: list[str]) -> int:
    """The exit status: 0 if everything that was written is right."""
    if len(arguments) != 2 or not arguments[0].isdigit():
        print(__doc__)
        return 2
    found = sorted(EXERCISES.glob(f"e{int(arguments[0]):02}_*.py"))
    if not found or not pathlib.Path(arguments[1]).is_file():
        print(f"there is no chapter {arguments[0]}" if not found else f"there is no file {arguments[1]!r}")
        return 2
    page, mine = load(found[0]), runpy.run_path(arguments[1])
    wrong = 0
    for name in names(page):
        if name not in mine:
            print(f"{name}: not there yet")
            continue
        try:
            getattr(page, f"check_{name}")(mine[name])
            print(f"{name}: right")
        except Exception as error:
            wrong += 1
            print(f"{name}: {type(error).__name__}: {error}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
