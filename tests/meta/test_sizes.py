"""A file is one idea: what is longer than 400 lines is named in docs/design/architecture.md, with the reason for it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "ntmem"
LINES = 400
LINES_OF_TESTS = 1000
SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".h", ".cpp"}


def lines_of(path):
    return path.read_bytes().count(b"\n")


def sources(folder):
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and "__pycache__" not in path.parts)


def explained(page):
    """Files that the table names, each with its reason."""
    section = page.partition("\n## Files of more than 400 lines\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*) \| (.*) \|$", section, re.MULTILINE)
    names = [(name, reason) for files, reason in rows for name in re.findall(r"`([^`]+)`", files)]
    assert len(dict(names)) == len(names), "a file is named twice"
    return dict(names)


def unlike_the_table(folder, page):
    long = {path.relative_to(folder).as_posix() for path in sources(folder) if lines_of(path) > LINES}
    named = explained(page)
    return {
        "has no reason there": sorted(long - named.keys()),
        "is not, or no longer, that long": sorted(named.keys() - long),
        "has an empty reason": sorted(name for name, reason in named.items() if len(reason.split()) < 5),
    }


def test_long_files_have_a_reason():
    found = unlike_the_table(SOURCE, (ROOT / "docs/design/architecture.md").read_text(encoding="utf-8"))
    assert not any(found.values()), f"the table in docs/design/architecture.md differs from the files: {found}"


@pytest.mark.parametrize("folder", ["tests", "benches"])
def test_tests_and_benches_stay_readable(folder):
    long = {str(path): lines_of(path) for path in sources(ROOT / folder) if lines_of(path) > LINES_OF_TESTS}
    assert not long, f"more than {LINES_OF_TESTS} lines: {long}; a test module belongs to one module of src/ntmem"


def test_the_rule_can_fail(tmp_path):
    page = "\n## Files of more than 400 lines\n| `a.h`, `_core/b.pyx` | five words are a reason |\n| `d.py` | long |\n"
    (tmp_path / "_core").mkdir()
    for name, lines in (("a.h", 401), ("_core/b.pyx", 400), ("_core/c.pyi", 401), ("d.py", 401)):
        (tmp_path / name).write_text("\n" * lines)
    assert unlike_the_table(tmp_path, page) == {
        "has no reason there": ["_core/c.pyi"],
        "is not, or no longer, that long": ["_core/b.pyx"],
        "has an empty reason": ["d.py"],
    }
