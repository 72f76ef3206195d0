"""Running a page of the clinic: the outcomes of both versions, shown or checked."""

from collections.abc import Callable
from types import ModuleType
from typing import Any


def outcome(version: Callable[[], Any]) -> Any:
    """What it returned, or the exception that it raised."""
    try:
        return version()
    except Exception as error:
        return error


def check(page: ModuleType) -> None:
    """Hold a page to what it says. Raises AssertionError."""
    page.check(outcome(page.broken), outcome(page.fixed))


def said(result: Any) -> str:
    """An outcome in words."""
    return f"{type(result).__name__}: {result}" if isinstance(result, Exception) else str(result)


def show(namespace: dict[str, Any]) -> None:
    """Print a page's text and both outcomes, and check them: what a page does when it is run."""
    print(namespace["__doc__"])
    found = {name: outcome(namespace[name]) for name in ("broken", "fixed")}
    for name, result in found.items():
        print(f"{name}: {said(result)}")
    namespace["check"](found["broken"], found["fixed"])
