"""Keeping a store by the command line: what is printed, as JSON, by which exit code, and on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import ntmem
from ntmem.cli.commands import cli

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]


@pytest.fixture
def store(ram: Path) -> Path:
    with ntmem.open(ram / "desk") as memory:
        memory.put("desk", "target", b"3")
        memory.positions.apply_fill("ES", 1, 100, trade_id="1")
        memory.publish("orders", b"1", durable=True)
        memory.put("desk", "old", b"x", ttl=1e-9)  # nothing comes behind it, which would sweep it away
    return ram / "desk"


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(it) for it in arguments])
    assert result.exit_code == code, result.output
    return result


def document(*arguments: object) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_a_store_is_backed_up_and_restored(store: Path, ram: Path) -> None:
    assert "records in" in run("backup", ram / "one", "--store", store).stdout
    made = document("backup", ram / "two", "--store", store)
    assert made["path"] == str(ram / "two")
    assert run("verify", "--store", ram / "one").stdout.startswith("ok: ")
    assert "new versions are above" in run("restore", ram / "one", ram / "again").stdout
    restored = document("restore", ram / "two", ram / "twice")
    assert restored["records"] == made["records"]
    assert run("get", "desk", "target", "--store", ram / "again").stdout == "3\n"
    assert "is there already" in run("backup", ram / "one", "--store", store, code=1).stderr
    assert "there is a store in" in run("restore", ram / "one", store, code=1).stderr
    assert "there is no backup in" in run("restore", ram / "none", ram / "x", code=3).stderr
    run("backup", ram / "x", "--store", ram / "none", code=3)
    (ram / "two" / "manifest.json").unlink()
    assert "was checked, but not compared" in run("restore", ram / "two", ram / "third").stderr
    run("backup", code=2)


def test_a_store_is_compacted(store: Path) -> None:
    assert document("compact", "--store", store, "--online")["expired"] == 1
    assert "0 expired records" in run("compact", "--store", store, "--online").stdout
    found = document("compact", "--store", store)
    assert found["bytes_before"] >= found["bytes_after"]
    assert "0 B free now" in run("compact", "--store", store).stdout
    with ntmem.open(store):
        assert "is open in this process" in run("compact", "--store", store, code=1).stderr
    run("compact", "--store", store / "none", code=3)


def test_what_is_exported_is_imported(store: Path, ram: Path) -> None:
    text = run("export", ram / "all.jsonl", "--store", store).stdout
    assert "1 fills, 1 positions" in text
    assert "not exported: 1 messages" in text
    assert document("export", ram / "all.jsonl.gz", "--store", store)["not_exported"] == {"messages": 1}
    assert document("export", ram / "desk.jsonl", "--store", store, "--namespace", "desk")["counts"]["records"] == 1
    assert "1 records" in run("import", ram / "all.jsonl", "--store", ram / "new").stdout
    assert document("import", ram / "all.jsonl", "--store", ram / "new")["unchanged"] == 3
    assert run("get", "desk", "target", "--store", ram / "new").stdout == "3\n"
    (ram / "bad.jsonl").write_text("{}\n")
    assert "line 1 has no 'kind'" in run("import", ram / "bad.jsonl", "--store", ram / "new", code=1).stderr
    assert "must end in" in run("export", ram / "all.csv", "--store", store, code=2).stderr
    run("import", ram / "none.jsonl", "--store", ram / "new", code=3)


def test_parquet_without_pyarrow_is_one_line(store: Path, ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "ntmem[arrow]" in run("export", ram / "all.parquet", "--store", store, code=1).stderr


def test_damage_is_told_by_the_exit_code(store: Path) -> None:
    from ntmem.tiers.cold import ColdStore
    from ntmem.tiers.tables import Tables

    cold = ColdStore(str(store), read_only=False, max_bytes=1 << 30)
    cold.write(lambda txn: Tables(cold, txn).put_head(Tables(cold, txn).head()._replace(generation=0, position=0)))
    cold.close()
    found = run("verify", "--store", store, code=1).stdout
    assert "the newest change has 0" in found
    assert "damaged: " in found
    assert json.loads(run("verify", "--store", store, "--json", code=1).stdout)["ok"] is False


def test_every_verb_has_examples_and_exit_codes() -> None:
    for verb in ("backup", "restore", "verify", "compact", "export", "import"):
        text = run(verb, "--help").stdout
        assert f"\n    ntmem {verb} " in text
        assert "Exit codes:" in text


def test_progress_is_shown_on_a_terminal_and_gone_afterwards(store: Path, ram: Path) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "ntmem", "backup", str(ram / "one"), "--store", str(store)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm"},
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert "copying" in shown
    assert "copying" not in shown.rsplit("\x1b[2K", 1)[-1]
    assert done.stdout.count("\n") == 1
