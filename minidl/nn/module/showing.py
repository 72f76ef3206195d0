"""How a module is shown: its repr, layer by layer, and its summary."""

from __future__ import annotations

from typing import Any

from minidl.nn.module.registration import Registration


class Showing(Registration):
    """How it is shown: the part of :class:`Module` that prints."""

    def extra_repr(self) -> str:
        """What stands between the parentheses of a layer's line."""
        return ""

    def _storage_notes(self) -> list[str]:
        """How parameters are stored, where that is not plain: ``weight=int8``, ``weight 80.0% pruned``."""
        notes = []
        for name, p in self._parameters.items():
            if p is None:
                continue
            if p.packed:
                notes.append(f"{name}={p.array.kind}")
            if p.mask is not None:
                notes.append(f"{name} {100 * (1 - float(p.mask.mean())) if p.mask.size else 0.0:.1f}% pruned")
        return notes

    def __repr__(self) -> str:
        extra = ", ".join(s for s in (self.extra_repr(), *self._storage_notes()) if s)
        lines = [f"({name}): {indent(repr(module))}" for name, module in self._modules.items()]
        return show(type(self).__name__, extra, lines)

    def summary(self, input_size: Any = None) -> Any:
        """Table of layers with output shapes, parameters, bytes and multiply-adds: see :func:`minidl.nn.summary`."""
        from minidl.nn.summaries import summary

        return summary(self, input_size)  # type: ignore[arg-type]  # every one is a Module


def indent(text: str) -> str:
    return text.replace("\n", "\n  ")


def show(name: str, extra: str, lines: list[str]) -> str:
    """``Name(extra)`` on one line, or the children on lines of their own."""
    if not lines:
        return f"{name}({indent(extra)})" if "\n" not in extra else f"{name}(\n  {indent(extra)}\n)"
    body = ([indent(extra)] if extra else []) + lines
    return f"{name}(\n  " + "\n  ".join(body) + "\n)"
