"""The site has every page once, the reference every public name; mkdocs, which builds it, is not needed to see that."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ntmem

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ELSEWHERE = {"figures.md", "changelog.md", "contributing.md", "examples.md"}  # made of documents outside of docs/
NAV = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1].split("\n\n")[0]
SHOWN = re.findall(r"^::: (\S+)$", "".join(page.read_text() for page in (DOCS / "api").glob("*.md")), re.MULTILINE)


def found(dotted: str) -> Any:
    """What a name of the reference stands for."""
    names, value = dotted.split("."), ntmem
    for number, name in enumerate(names[1:], 2):
        try:
            value = getattr(value, name)
        except AttributeError:
            value = importlib.import_module(".".join(names[:number]))
    return value


def members(owner: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties of a class, those of its ancestors in ntmem included."""
    for ancestor in owner.__mro__:
        if ancestor.__module__.startswith("ntmem"):
            for name, value in vars(ancestor).items():
                if not name.startswith("_") and (callable(value) or isinstance(value, property)):
                    yield f"{owner.__name__}.{name}", getattr(owner, name)


def test_every_page_is_in_the_navigation_once() -> None:
    named = Counter(re.findall(r"[\w/]+\.md", NAV))
    there = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")} | ELSEWHERE
    assert named == Counter(there)


def test_pages_from_elsewhere_are_those_that_are_made() -> None:
    hook = (ROOT / "_build/docs_site.py").read_text()
    made = dict(re.findall(r'"([\w./]+\.md)": "(\w+\.md)"', hook))
    assert set(made.values()) == ELSEWHERE
    assert all((ROOT / name).exists() for name in made)


def test_the_reference_shows_every_public_name_once() -> None:
    shown = Counter(name for name in SHOWN if name.count(".") == 1)
    also = {"ntmem.DistributedLock"}  # another name of Lock, which the page says
    assert "`ntmem.DistributedLock`" in (DOCS / "api/coordination.md").read_text()
    assert ntmem.DistributedLock is ntmem.Lock
    assert shown == Counter({f"ntmem.{name}" for name in ntmem.__all__} - also | {"ntmem.delta"})


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_says_what_it_is(name: str) -> None:
    value = found(name)
    if not (isinstance(value, type) or callable(value) or inspect.ismodule(value)):
        return  # a constant
    assert value.__doc__
    if isinstance(value, type):
        silent = [member for member, function in members(value) if not inspect.getdoc(function)]
        assert silent == []


def test_nothing_is_fetched_from_elsewhere() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in text
    assert "://" not in text


def test_the_tutorial_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```pycon\n(.*?)^```$", (DOCS / "tutorial.md").read_text(), re.MULTILINE | re.DOTALL)
    test = doctest.DocTestParser().get_doctest("\n\n".join(blocks), {}, "tutorial.md", None, 0)
    assert len(test.examples) > 30
    assert doctest.DocTestRunner().run(test).failed == 0
