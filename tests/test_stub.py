"""The stub of Tensor's methods is what the op table makes of them now."""

from __future__ import annotations

import subprocess
import sys

from minidl.stub import FILE


def test_the_stub_is_up_to_date():
    """In a process of its own: other tests attach methods of theirs."""
    text = "import minidl, minidl.stub; print(minidl.stub.stub(), end='')"
    now = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
    assert FILE.read_text() == now, "run: python -m minidl.stub"


def test_the_stub_knows_methods_operators_and_properties():
    text = FILE.read_text()
    for line in (
        "def sum(self, dim: Any = ..., keepdim: Any = ..., *, dtype: Any = ...) -> Tensor: ...",
        "def __add__(self, other: Any) -> Tensor: ...",
        "def T(self) -> Tensor: ...",
        "def split(self, split_size: Any, dim: Any = ...) -> tuple[Tensor, ...]: ...",
    ):
        assert line in text
