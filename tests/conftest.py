"""What every test starts from: a known seed, a Matplotlib that draws to memory, Hypothesis without deadlines."""

import os

import hypothesis
import pytest

import minidl.random

os.environ["MPLBACKEND"] = "Agg"

# A first example may wait seconds for a kernel to compile: no deadline. The same examples in every run.
hypothesis.settings.register_profile("minidl", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("minidl")


@pytest.fixture(autouse=True)
def _seeded():
    minidl.random.manual_seed(20260117)
