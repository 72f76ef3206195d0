"""Every page of the clinic does what it says, and prints it when it is run."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest
from test_cli import environment

pytestmark = pytest.mark.trains
CLINIC = pathlib.Path(__file__).resolve().parent.parent / "docs" / "clinic"
PAGES = sorted(CLINIC.glob("s*_*.py"))


# The rows of the mission whose sample, formula or text is at fault, two documents.
FAULTS = [2, 4, *range(6, 18)], [4, 7, 8, 9, 10, 12, 13, 15, 18, 19, 20, 21, 22, 23, 24, 27, 28, 29, 32, 34, 36, 40]


def test_every_fault_of_the_documents_has_a_page():
    found = {(int(path.stem[1]), int(path.stem[3:5])) for path in PAGES}
    assert found == {(document, row) for document, rows in enumerate(FAULTS) for row in rows}


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_page(path):
    load(CLINIC / "clinic.py").check(load(path))


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_page_tells_the_two_apart(path):
    """A check that takes the fault for the cure, or the cure for the fault, checks nothing."""
    page, clinic = load(path), load(CLINIC / "clinic.py")
    page.broken, page.fixed = page.fixed, page.broken
    with pytest.raises((AssertionError, TypeError, KeyError, IndexError, AttributeError)):
        clinic.check(page)


def test_a_page_is_a_script():
    page = CLINIC / "s0_09_keeps_what_is_zero.py"
    run = subprocess.run([sys.executable, str(page)], capture_output=True, text=True, env=environment())
    assert run.returncode == 0, run.stderr
    assert "broken: [[" in run.stdout
    assert "fixed: [[" in run.stdout
