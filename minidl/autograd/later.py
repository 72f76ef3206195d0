"""The table of ops, and pages of it that are read when first used.

Until a page is read, a stand-in holds the place of each of its Tensor methods.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from minidl.tensors import Tensor

_pages: list[str] = []


class Table(dict[str, Any]):
    """Every op by its name. To look up a name that is not there reads the pages that are still unread."""

    def __missing__(self, name: str) -> Any:
        all_ops()
        if name in self:
            return self[name]
        raise KeyError(name)


TABLE = Table()  # composite functions too; the engine finds here what it needs itself


class Later:
    """Holds the place of a Tensor method; when asked for it, reads the page, which puts the method itself there."""

    __slots__ = ("name", "page")

    def __init__(self, page: str, name: str):
        self.page, self.name = page, name

    def __get__(self, x: Tensor | None, cls: type) -> Any:
        import_module(self.page)
        return getattr(cls if x is None else x, self.name)


def attach_later(page: str, methods: list[str]) -> None:
    """Enter a page: its module's name, and the Tensor methods it will attach."""
    _pages.append(page)
    for name in methods:
        setattr(Tensor, name, Later(page, name))


def all_ops() -> Table:
    """The table, once every page is read that was entered: also those that another thread is reading just now."""
    for page in _pages:
        import_module(page)
    return TABLE
