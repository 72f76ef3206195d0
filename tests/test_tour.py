"""The tour: the answers pass the checks and wrong ones do not; English and Chinese say the same; all code runs.

The code of the English chapters runs as doctests, like every example in docs; the Chinese ones hold the same code.
"""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest
from test_cli import environment

TOUR = pathlib.Path(__file__).resolve().parent.parent / "docs" / "tour"
CHAPTERS = sorted(path.stem for path in (TOUR / "en").glob("[0-9]*.md"))


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


PAGES = {path.stem: load(path) for path in sorted((TOUR / "exercises").glob("e*.py"))}
EXERCISES = [(stem, name) for stem, page in PAGES.items() for name in load(TOUR / "try_it.py").names(page)]


@pytest.mark.parametrize(("stem", "name"), EXERCISES)
def test_an_answer_is_right_and_mistakes_are_seen(stem, name):
    page = PAGES[stem]
    check = getattr(page, f"check_{name}")
    check(getattr(page, name))
    assert page.WRONG[name]
    for number, wrong in enumerate(page.WRONG[name]):
        try:
            check(wrong)
        except (AssertionError, TypeError, ValueError, AttributeError):
            continue
        pytest.fail(f"the check of {name} accepts wrong answer {number}")


def blocks(text):
    """What is fenced: code, directives."""
    return re.findall(r"^```.*?^```$", text, re.MULTILINE | re.DOTALL)


def test_there_are_twelve_chapters_in_two_languages():
    assert [name[:2] for name in CHAPTERS] == [f"{n:02}" for n in range(1, 13)]
    assert sorted(path.stem for path in (TOUR / "zh").glob("[0-9]*.md")) == CHAPTERS
    assert sorted(PAGES) == sorted(f"e{name}" for name in CHAPTERS)


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_both_languages_hold_the_same(chapter):
    english, chinese = ((TOUR / language / f"{chapter}.md").read_text(encoding="utf-8") for language in ("en", "zh"))
    assert blocks(english) == blocks(chinese)
    for pattern in (r"^#+ ", r"^\*\*\d+\.\d\*\* ", r"`python docs/tour/try_it.py \d+ mine.py`"):
        assert len(re.findall(pattern, english, re.M)) == len(re.findall(pattern, chinese, re.M)), pattern
    # Paragraph by paragraph: a translation, not a summary. Chinese takes a third to a half of the letters.
    prose = [re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S) for text in (english, chinese)]
    counts = [len(re.findall(r"\n{2,}(?=\S)", text)) for text in prose]
    assert counts[0] == counts[1]
    assert len(re.findall(r"[\u4e00-\u9fff]", chinese)) > len(re.sub(r"\s", "", prose[0])) / 5
    assert f"](../zh/{chapter}.md)" in english
    assert f"](../en/{chapter}.md)" in chinese


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_asks_all_its_exercises_and_shows_our_own_source(chapter):
    text = (TOUR / "en" / f"{chapter}.md").read_text(encoding="utf-8")
    asked = re.findall(r"^```\{exercise\} (\w+)::(\w+)$", text, re.M)
    assert asked == [(stem, name) for stem, name in EXERCISES if stem == f"e{chapter}"]
    assert len(asked) >= 3
    assert re.search(r"^```\{source\} (minidl|kernels/minidl_kernels)/\S+::[\w.]+$", text, re.M)


def test_answers_are_tried_by_a_command(tmp_path):
    def run(text, *arguments):
        (tmp_path / "mine.py").write_text(text)
        command = [sys.executable, str(TOUR / "try_it.py"), *(arguments or ("1", str(tmp_path / "mine.py")))]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert not done.stderr
        return done.returncode, done.stdout

    right = "def product_rule(a, b, dy):\n    return dy * b, dy * a\n"
    code, said = run(right)
    assert code == 0
    assert "product_rule: right" in said
    assert "descend: not there yet" in said
    code, said = run(right.replace("dy * b, dy * a", "dy * a, dy * b"))
    assert code == 1
    assert "product_rule: AssertionError: a=2.0, b=3.0, dy=1.0: (2.0, 3.0), not (3.0, 2.0)" in said
    assert run("", "99", "mine.py") == (2, "there is no chapter 99\n")
    assert run("", "1", "nowhere.py") == (2, "there is no file 'nowhere.py'\n")
    assert run("", "1")[0] == 2
