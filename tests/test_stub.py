"""The stubs are what the op table and the list of later names make of them now."""

from __future__ import annotations

import subprocess
import sys

import pytest

from minidl.stub import METHODS, NAMES


@pytest.mark.parametrize(("file", "writer"), [(METHODS, "methods"), (NAMES, "names")])
def test_the_stub_is_up_to_date(file, writer):
    """In a process of its own: other tests attach methods of theirs."""
    text = f"import minidl, minidl.stub; print(minidl.stub.{writer}(), end='')"
    now = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
    assert file.read_text() == now, "run: python -m minidl.stub"


def test_the_stub_knows_methods_operators_and_properties():
    text = METHODS.read_text()
    for line in (
        "def sum(self, dim: Any = ..., keepdim: Any = ..., *, dtype: Any = ...) -> Tensor: ...",
        "def __add__(self, other: Any) -> Tensor: ...",
        "def T(self) -> Tensor: ...",
        "def split(self, split_size: Any, dim: Any = ...) -> tuple[Tensor, ...]: ...",
    ):
        assert line in text
