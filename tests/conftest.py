"""What every test starts from: a known seed, a Matplotlib that draws to memory, Hypothesis without deadlines."""

import os
from collections.abc import Iterator

import hypothesis
import pytest

import minidl

os.environ["MPLBACKEND"] = "Agg"

# A first example may wait seconds for a kernel to compile: no deadline. The same examples in every run.
hypothesis.settings.register_profile("minidl", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("minidl")


@pytest.fixture(autouse=True)
def _seeded():
    minidl.manual_seed(20260117)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the long tests the longest first, so that workers finish together."""
    items.sort(key=lambda item: not (item.get_closest_marker("slow") and item.get_closest_marker("trains")))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Long tests and those that train keep to their worker's share of the cores: of two workers with two threads each,
    one's always waits for a core that the other's has. The bits are the same for any number of threads.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    if workers == 1 or not (item.get_closest_marker("slow") or item.get_closest_marker("trains")):
        return (yield)
    before = minidl.get_num_threads()
    minidl.set_num_threads(max(1, before // workers))
    try:
        return (yield)
    finally:
        minidl.set_num_threads(before)
