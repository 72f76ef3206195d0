"""What the pages of the site can show beside text: the project's own source by name, exercises, pages of the clinic.

{source} minidl/autograd/walk.py::_walk     the lines of a function or class, read when the site is built
{exercise} e01_numbers::product_rule        what is to be written, how it is checked, and an answer, folded
{clinic}                                    all pages of the clinic, run: text, both versions, both outcomes
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import pathlib
import re
import textwrap
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.directives.code import LiteralInclude
from sphinx.util.docutils import SphinxDirective

ROOT = pathlib.Path(__file__).resolve().parent.parent

WORDS = {
    "en": {"check": "How it is checked", "answer": "An answer"},
    "zh": {"check": "如何检查", "answer": "参考答案"},
}


class Source(LiteralInclude):
    """Lines of the project's own source. The build fails where there is no such name."""

    def run(self) -> list[nodes.Node]:
        path, _, name = self.arguments[0].partition("::")
        self.arguments[0] = f"/../{path}"
        self.options |= {"pyobject": name} if name else {}
        self.options |= {"language": "python", "lineno-match": None, "caption": f"{path} {name}".strip()}
        self.env.note_dependency(str(ROOT / path))
        return super().run()


class Exercise(SphinxDirective):
    """One function of a file of exercises, without its body."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        stem, _, name = self.arguments[0].partition("::")
        path = ROOT / "docs" / "tour" / "exercises" / f"{stem}.py"
        self.env.note_dependency(str(path))
        task, check, answer = parts(path.read_text(encoding="utf-8"), name)
        words = WORDS["zh" if self.env.docname.startswith("tour/zh/") else "en"]
        return [
            _code(task),
            *_folded(words["check"], _code(check)),
            *_folded(words["answer"], _code(answer)),
        ]


def parts(text: str, name: str) -> tuple[str, str, str]:
    """Of an exercise: what is given to the reader, what checks it, and the answer. ValueError if it is not there."""
    lines = text.splitlines()
    found = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    if name not in found or f"check_{name}" not in found:
        raise ValueError(f"no exercise {name!r}: a function {name} and a function check_{name} are wanted")

    def cut(node: Any, stop: int) -> str:
        return "\n".join(lines[node.lineno - 1 : stop])

    answer, check = found[name], found[f"check_{name}"]
    task = cut(answer, answer.body[0].end_lineno or 0) + "\n    ..."  # the body begins with the docstring
    return task, cut(check, check.end_lineno or 0), cut(answer, answer.end_lineno or 0)


class Clinic(SphinxDirective):
    """Every page of the clinic as a section. The build fails if one does not do what it says."""

    def run(self) -> list[nodes.Node]:
        found: list[nodes.Node] = []
        folder = ROOT / "docs" / "clinic"
        clinic = _load(folder / "clinic.py")
        for path in sorted(folder.glob("s*_*.py")):
            self.env.note_dependency(str(path))
            page = _load(path)
            outcomes = {name: clinic.outcome(getattr(page, name)) for name in ("broken", "fixed")}
            page.check(*outcomes.values())
            title, _, text = inspect.cleandoc(page.__doc__ or "").partition("\n")
            document, number = path.stem.split("_")[:2]
            row = f"{document.upper()}-{int(number)}"
            title = title.removeprefix(f"{row}: ").rstrip(".")
            title = f"{row}: {title[:1].upper()}{title[1:]}"
            section = nodes.section(ids=[row.lower()], names=[row.lower()])
            section += nodes.title(title, title)
            section += self.parse_text_to_nodes(text.strip())
            section += _code(_after_docstring(path.read_text(encoding="utf-8")))
            for name, result in outcomes.items():
                section += self._outcome(name, clinic.said(result))
            found.append(section)
        return found

    @staticmethod
    def _outcome(name: str, said: str) -> nodes.Node:
        said = textwrap.shorten(said, 600)
        return nodes.paragraph("", "", nodes.strong("", f"{name}: "), nodes.literal("", said), classes=["outcome"])


def _load(path: pathlib.Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    return page


def _after_docstring(text: str) -> str:
    """The code of a page: without its text, and without the lines that run it as a script."""
    body = ast.parse(text).body
    lines = text.splitlines()[(body[0].end_lineno or 0) : body[-1].lineno - 1]
    return "\n".join(lines).strip()


def _code(text: str) -> nodes.Node:
    return nodes.literal_block(text, text, language="python")


def _folded(summary: str, inside: nodes.Node) -> list[nodes.Node]:
    opening = f'<details class="exercise"><summary>{summary}</summary>'
    return [nodes.raw("", opening, format="html"), inside, nodes.raw("", "</details>", format="html")]


def _trimmed(app: Sphinx, doctree: nodes.document) -> None:
    """A doctest in Markdown ends with an empty line, which need not be seen."""
    for block in doctree.findall(nodes.literal_block):
        text = block.astext().rstrip("\n")
        block[:] = [nodes.Text(text)]
        block.rawsource = text


def _joined(app: Sphinx, doctree: nodes.document) -> None:
    """Chinese has no spaces: the end of a line inside a paragraph is none, unless Latin letters stand on both sides."""
    if not app.env.docname.startswith("tour/zh/"):
        return
    wide = re.compile(r"[^\x00-\x7f]")
    for text in list(doctree.findall(nodes.Text)):
        if text == "\n" and isinstance(text.parent, nodes.TextElement):
            i = text.parent.index(text)
            around = text.parent[i - 1].astext()[-1:] + text.parent[i + 1].astext()[:1]
            if wide.search(around):
                text.parent.remove(text)


def _language(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    context["language"] = "zh-CN" if page.startswith("tour/zh/") else "en"


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("source", Source)
    app.add_directive("exercise", Exercise)
    app.add_directive("clinic", Clinic)
    app.connect("doctree-read", _trimmed)
    app.connect("doctree-read", _joined)
    app.connect("html-page-context", _language)
    return {"parallel_read_safe": True}
