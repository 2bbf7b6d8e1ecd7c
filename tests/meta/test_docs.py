"""Every Python example of the README and the guide runs as printed and prints what is printed under it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ntmem

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def examples() -> list[tuple[str, str, str | None]]:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [
        (f"{page.relative_to(ROOT)}:{page.read_text()[: found.start()].count(chr(10)) + 1}", found[1], found[2])
        for page in pages
        for found in BLOCK.finditer(page.read_text())
    ]


@pytest.mark.parametrize(("where", "code", "printed"), [pytest.param(*e, id=e[0]) for e in examples()])
def test_example_runs_as_printed_and_again(where: str, code: str, printed: str | None, tmp_path: Path) -> None:
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        if printed is not None:
            assert run.stdout == printed


@pytest.mark.skipif(shutil.which("gcc") is None, reason="there is no C compiler")
def test_the_example_in_c_prints_what_is_printed(tmp_path: Path) -> None:
    page = (ROOT / "docs/guide/positions.md").read_text()
    ((code, printed),) = re.findall(r"^```c\n(.*?)^```\n```text\n(.*?)^```\n", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "read.c").write_text(code)
    include = Path(ntmem.__file__).parent / "include"
    flags = ["-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
    subprocess.run(["gcc", *flags, "-o", tmp_path / "read", tmp_path / "read.c"], check=True)
    first = BLOCK.search(page)
    assert first is not None
    subprocess.run([sys.executable, "-c", first[1]], cwd=tmp_path, check=True, capture_output=True)
    with ntmem.open(tmp_path / "desk"):
        run = subprocess.run([tmp_path / "read"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert run.stdout == printed
    assert subprocess.run([tmp_path / "read"], cwd=tmp_path, check=False, capture_output=True).returncode == 1


def test_there_are_examples() -> None:
    assert {name.split(":")[0] for name, _, _ in examples()} >= {"README.md", "docs/guide/durability.md"}


def test_documents_name_no_file_that_is_missing() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_commands_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text()
    told = subprocess.run(
        [sys.executable, "-m", "ntmem", "--help"],
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    verbs = set(re.findall(r"^  ([a-z][a-z-]*) {2}", told, re.MULTILINE))
    assert set(re.findall(r"`ntmem ([a-z][a-z-]*)", text)) <= verbs
    (listed,) = re.findall(r"`ntmem --help`: `([^`]+)`", text)
    assert set(listed.split()) == verbs
