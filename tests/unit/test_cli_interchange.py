"""``ntmem bank export-sqlite | import-sqlite | export-jsonl | import-jsonl``: output, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import agentic
import pytest
from click.testing import CliRunner, Result

import ntmem
from ntmem.cli.commands import cli


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    agentic.varied(tmp_path / "a.db")
    return tmp_path


def run(folder: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["bank", *arguments, "--store", str(folder / "desk")])
    assert result.exit_code == code, result.output
    return result


def told(folder: Path, *arguments: str) -> Any:
    return json.loads(run(folder, *arguments, "--json").stdout)


def test_there_and_back(folder: Path) -> None:
    first = run(folder, "import-sqlite", str(folder / "a.db")).stdout
    assert first.startswith(f"{folder}/desk: 44 memories, ")
    assert first.endswith("; 0 were there already\n")
    assert told(folder, "import-sqlite", str(folder / "a.db"))["unchanged"] == 52
    assert "44 memories" in run(folder, "export-sqlite", str(folder / "b.db")).stdout
    assert agentic.content(folder / "b.db") == agentic.content(folder / "a.db")
    lines, vectors = str(folder / "x.jsonl"), str(folder / "e.jsonl")
    exported = run(folder, "export-jsonl", lines, "--embeddings", vectors).stdout
    assert exported.splitlines()[1].startswith("not in it: ")
    report = told(folder, "import-jsonl", lines, "--embeddings", vectors)
    assert (report["counts"], report["unchanged"]) == ({}, 44)


def test_options_and_what_is_refused(folder: Path) -> None:
    agentic.make(folder / "odd.db", "CREATE TABLE metrics_log (id, metric_name, value); CREATE TABLE other (x)")
    agentic.insert(folder / "odd.db", "metrics_log", (1, None, 2.0), (2, "fine", 2.0))
    refused = run(folder, "import-sqlite", str(folder / "odd.db"), code=1)
    assert "metric_name is NULL" in refused.stderr
    shown = run(folder, "import-sqlite", str(folder / "odd.db"), "--skip").stdout
    assert "ignored: other\nskipped: metrics_log row 1 (1): metric_name is NULL" in shown
    run(folder, "import-sqlite", str(folder / "a.db"), "--known", "created")
    with ntmem.open(folder / "desk") as memory:
        assert [it.ts_known == it.created_at for it in memory.bank.memories()] == [True] * 44
    run(folder, "import-sqlite", str(folder / "a.db"), "--known", "later", code=2)
    run(folder, "import-sqlite", str(folder / "none.db"), code=3)
    run(folder, "import-jsonl", str(folder / "a.db"), "--embeddings", str(folder / "none"), code=3)
    assert "is no JSON" in run(folder, "import-jsonl", str(folder / "a.db"), code=1).stderr
    assert "already" in run(folder, "export-sqlite", str(folder / "a.db"), code=1).stderr
    assert "already" in run(folder, "export-jsonl", str(folder / "a.db"), code=1).stderr


@pytest.mark.parametrize("verb", ["export-sqlite", "export-jsonl", "import-sqlite", "import-jsonl"])
def test_help_says_how(verb: str) -> None:
    result = CliRunner().invoke(cli, ["bank", verb, "--help"])
    assert result.exit_code == 0
    assert f"ntmem bank {verb} " in result.output
    assert "Exit codes:" in result.output


def test_forgetting(folder: Path) -> None:
    run(folder, "import-sqlite", str(folder / "a.db"))
    one, two = agentic.ulid(1), agentic.ulid(2)
    assert run(folder, "forget", one).stdout == f"{folder}/desk: {one} is forgotten\n"
    assert told(folder, "forget", two, "--past") == {"id": two, "past": True}
    assert f"there is no memory {one}" in run(folder, "forget", one, code=3).stderr
    assert run(folder, "forget", one, "--past").stdout.endswith("is forgotten, with its past\n")
    again = run(folder, "import-sqlite", str(folder / "a.db")).stdout
    assert "left out: 2 memories forgotten here" in again
    assert "42 memories" in run(folder, "export-sqlite", str(folder / "b.db")).stdout
