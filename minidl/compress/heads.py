"""Fewer heads in attention that a user has written: the module goes on running the same code."""

from __future__ import annotations

import functools
from typing import Any

from minidl.autograd import state
from minidl.ops.heads import Heads

__all__ = ["fewer", "with_heads"]


class _Count(int):
    """A number of heads. The width of all as it was, divided by it, is still the size of a head: ``C // n_head``."""

    heads: Heads

    def __rfloordiv__(self, width: int) -> int:
        same = any(width == n * self.heads.each for n in self.heads.meant)
        return self.heads.each if same else width // int(self)

    def __rtruediv__(self, width: float) -> float:
        same = any(width == n * self.heads.each for n in self.heads.meant)
        return float(self.heads.each) if same else width / int(self)


def fewer(model: Any, heads: dict[str, tuple[int, list[int]]], gone: set[int]) -> dict[Any, Heads]:
    """The modules of `model` whose own code splits into heads of which some are gone, and what they have then."""
    found = {}
    for path, (each, units) in heads.items():
        left = sum(u not in gone for u in units)
        if left < len(units):
            module = model.get_submodule(path)
            before = module.__dict__.get("_heads")
            meant = (len(units),) if before is None else (*before.meant, len(units))
            found[module] = Heads(meant, each, left)
    return found


def with_heads(module: Any, heads: Heads, rename: str) -> None:
    """Let it run with these. Its class becomes one of the same name that tells `reshape`, `view` and `split` of them.

    rename: which of its attributes change: "heads", whole numbers as many as there were heads, under names with "head"
        in them if there are such; "sizes", those of all heads together, too; "" for none.
    """
    before = heads.meant[-1]
    numbers = {name: v for name, v in vars(module).items() if isinstance(v, int) and not isinstance(v, bool)}
    if rename:
        counts = [name for name, v in numbers.items() if v == before]
        left = _Count(heads.left)
        left.heads = heads
        module.__dict__.update(dict.fromkeys([n for n in counts if "head" in n.lower()] or counts, left))
    if rename == "sizes":
        whole = [name for name, v in numbers.items() if v == before * heads.each]
        module.__dict__.update(dict.fromkeys(whole, heads.left * heads.each))
    if "_heads" not in vars(module):
        kind: Any = type(module)
        module.__class__ = _told(kind)
    module.__dict__["_heads"] = heads


@functools.cache
def _told(kind: Any) -> Any:
    """`kind` with a forward that says which heads there are."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        before, state.heads = state.heads, self._heads
        try:
            return kind.forward(self, *args, **kwargs)
        finally:
            state.heads = before

    names = {key: getattr(kind, key) for key in ("__module__", "__qualname__", "__doc__")}
    return type(kind.__name__, (kind,), {"forward": forward, **names})
