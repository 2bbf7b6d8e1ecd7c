"""The verb ``search``: by a vector, by one that is there, by text; output, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ntmem
from ntmem.cli.commands import cli

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "desk"
    text = ntmem.HashedTextEmbedder(64)
    with ntmem.open(path) as memory:
        v = memory.vectors
        v.add("setups", "calm", [1.0, 0.0], {"spread": 1, "symbol": "BTC"}, ts_known=1_000)
        v.add("setups", "rough", [0.6, 0.8], {"spread": 5, "symbol": "ETH"}, ts_known=2_000)
        v.add("setups", "storm\x1b", [0.0, 1.0], {"spread": 9, "symbol": "BTC"}, ts_known=3_000)
        for note in ("funding flips negative", "spread widens at noon"):
            v.add("notes", note, text.embed(note))
    return path


def run(store: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["search", *arguments, "--store", str(store)])
    assert result.exit_code == code, result.output
    return result


def found(store: Path, *arguments: str) -> list[Any]:
    return [hit["id"] for hit in json.loads(run(store, *arguments, "--json").stdout)]


def test_what_is_nearest_comes_first(store: Path) -> None:
    assert found(store, "setups", "--vector", "0,2") == ["storm\x1b", "rough", "calm"]
    assert found(store, "setups", "--vector", "0,2", "-k", "1") == ["storm\x1b"]
    assert found(store, "setups", "--like", "calm") == ["calm", "rough", "storm\x1b"]
    assert found(store, "notes", "--text", "the funding flips") == ["funding flips negative", "spread widens at noon"]


def test_a_filter_an_instant_and_a_score_leave_some_out(store: Path) -> None:
    assert found(store, "setups", "--vector", "0,1", "--where", '{"spread": {"$lt": 9}}') == ["rough", "calm"]
    assert found(store, "setups", "--vector", "0,1", "--as-of", "2000") == ["rough", "calm"]
    assert found(store, "setups", "--vector", "0,1", "--min-score", "0.5") == ["storm\x1b", "rough"]


def test_a_table_for_people(store: Path) -> None:
    lines = run(store, "setups", "--like", "calm").stdout.splitlines()
    assert lines[0].split() == ["score", "id", "known", "metadata"]
    assert lines[1].split()[:2] == ["1.0000", "calm"]
    assert lines[1].endswith("spread=1, symbol='BTC'")
    assert "\x1b" not in lines[3]
    assert run(store, "setups", "--like", "calm", "--min-score", "2").stdout == "nothing is found\n"


def test_without_a_namespace_the_collections(store: Path, tmp_path: Path) -> None:
    lines = run(store).stdout.splitlines()
    assert lines[1].split()[:5] == ["notes", "2", "64", "cosine", "int8"]
    assert json.loads(run(store, "--json").stdout)[1]["count"] == 3
    with ntmem.open(tmp_path / "empty"):
        pass
    assert run(tmp_path / "empty").stdout == "the store has no collection of vectors\n"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing", "--like", "x"], 3, "there is no collection 'nothing'"),
        (["setups", "--like", "x"], 3, "there is no vector 'x'"),
        (["setups"], 2, "given: none"),
        (["setups", "--like", "x", "--text", "y"], 2, "given: --like and --text"),
        (["--like", "x"], 2, "given: --like"),
        (["setups", "--vector", "1,2,3"], 1, "has 3 dimensions, the collection 2"),
        (["setups", "--vector", "1,x"], 2, "could not convert"),
        (["setups", "--like", "calm", "--where", "{"], 2, "--where is no JSON"),
        (["setups", "--like", "calm", "--where", '{"a": {"$like": 1}}'], 2, "$like"),
    ],
)
def test_what_cannot_be_searched_is_said(store: Path, arguments: list[str], code: int, message: str) -> None:
    assert message in run(store, *arguments, code=code).output
