"""The programs in examples/ run without a warning, and print what their docstrings say."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))


def printed(program: Path) -> str:
    """What the docstring says that it prints."""
    text = ast.get_docstring(ast.parse(program.read_text()))
    assert text is not None
    return dedent(text.split("Prints::\n\n")[1]) + "\n"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_example_prints_what_it_says(program: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", program, "desk"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == printed(program)
    assert (tmp_path / "desk" / "data.mdb").exists()


def test_each_is_listed_once() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert len(PROGRAMS) == 10
    assert [text.count(f"]({program.name})") for program in PROGRAMS] == [1] * 10
