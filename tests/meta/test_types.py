"""The linters and the type checker are content, with the settings in pyproject.toml."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

SCRIPTS = sysconfig.get_path("scripts")
CYTHON_FILES = sorted(map(str, (Path(__file__).parents[2] / "src").rglob("*.p[yx][xd]")))


@pytest.mark.parametrize(
    "tool",
    [
        ["mypy"],
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["cython-lint", *CYTHON_FILES],
    ],
    ids=["mypy", "ruff check", "ruff format", "cython-lint"],
)
def test_tool_is_content(tool, root):
    path = os.pathsep.join([SCRIPTS, os.environ["PATH"]])  # cython-lint looks for pycodestyle there
    result = subprocess.run(
        [os.path.join(SCRIPTS, tool[0]), *tool[1:]],
        cwd=root,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
