"""The verbs of the command line: output, JSON, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
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
    with ntmem.open(path, agent_id="agent_1") as memory:
        memory.put("desk", "target", b"3", ttl=3600)
        memory.put("desk", "binary", b"\xff\x00")
        memory.put("desk", "empty", b"")
        memory.namespace("swarm", "agent_1")["state"] = {"x": (1, 2.5)}
        memory.retain("px", history=True)
        memory.put("px", "BTC", b"1", ts_known=1_000)
        memory.put("px", "BTC", b"2", ts_known=2_000)
    return path


def run(store: Path, *arguments: str, code: int = 0, stdin: bytes | None = None) -> Result:
    result = CliRunner().invoke(cli, [*arguments, "--store", str(store)], input=stdin)
    assert result.exit_code == code, result.output
    return result


def document(store: Path, *arguments: str) -> Any:
    return json.loads(run(store, *arguments, "--json").stdout)


def test_get_prints_text_objects_and_bytes(store: Path) -> None:
    assert run(store, "get", "desk", "target").stdout == "3\n"
    assert run(store, "get", "swarm/agent_1", "state").stdout == "{'x': (1, 2.5)}\n"
    assert run(store, "get", "desk", "binary").stdout == "b'\\xff\\x00'\n"
    assert run(store, "get", "desk", "empty").stdout == "b''\n"
    assert run(store, "get", "desk", "binary", "--raw").stdout_bytes == b"\xff\x00"


def test_get_as_json_has_the_whole_record(store: Path) -> None:
    found = document(store, "get", "desk", "target")
    assert found["text"] == "3"
    assert found["writer"] == "agent_1"
    assert found["expires_at"] == found["ts_known"] + 3600 * 10**9
    assert document(store, "get", "desk", "binary")["base64"] == "/wA="


def test_get_as_of(store: Path) -> None:
    # History began when it was switched on, long after 1970: what was known then is refused, not guessed.
    assert run(store, "get", "px", "BTC", "--as-of", "1500").stdout == "1\n"
    assert "complete from" in run(store, "get", "px", "BTC", "--as-of", "500", code=1).stderr
    assert "keeps no history" in run(store, "get", "desk", "target", "--as-of", "1500", code=1).stderr


def test_what_is_missing_has_its_own_code(store: Path, tmp_path: Path) -> None:
    assert "no key 'nothing'" in run(store, "get", "desk", "nothing", code=3).stderr
    assert "no key" in run(store, "rm", "desk", "nothing", code=3).stderr
    for verb in (["get", "a", "b"], ["ls"], ["info"], ["rm", "a", "b"], ["verify"]):
        assert "no store" in run(tmp_path / "none", *verb, code=3).stderr
    assert not (tmp_path / "none").exists()


def test_put_writes_text_files_and_standard_input(store: Path, tmp_path: Path) -> None:
    assert run(store, "put", "desk", "a", "héllo").stdout.startswith("version ")
    (tmp_path / "value").write_bytes(b"\x00\x01")
    run(store, "put", "desk", "b", "--file", str(tmp_path / "value"))
    run(store, "put", "desk", "c", "--file", "-", stdin=b"piped")
    with ntmem.open(store) as memory:
        assert memory.get_many("desk", ["a", "b", "c"]) == {
            "a": "héllo".encode(),
            "b": b"\x00\x01",
            "c": b"piped",
        }
    run(store, "put", "desk", "a", code=2)
    run(store, "put", "desk", "a", "x", "--ttl", "-1", code=2)
    run(store, "put", "desk//x", "a", "x", code=2)


def test_put_makes_a_store(tmp_path: Path) -> None:
    assert document(tmp_path / "new", "put", "desk", "a", "1")["version"] == 1


def test_put_and_rm_honour_versions(store: Path) -> None:
    version = document(store, "get", "desk", "target")["version"]
    assert "if_version was 0" in run(store, "put", "desk", "target", "4", "--if-version", "0", code=4).stderr
    assert document(store, "put", "desk", "target", "4", "--if-version", str(version))["version"] > version
    run(store, "rm", "desk", "target", "--if-version", str(version), code=4)
    assert run(store, "rm", "desk", "target").stdout == "deleted 1\n"
    assert document(store, "rm", "desk", "--all")["deleted"] == 2
    run(store, "rm", "desk", code=2)


def test_ls(store: Path) -> None:
    assert run(store, "ls").stdout == "desk\npx\nswarm/agent_1\n"
    assert document(store, "ls") == ["desk", "px", "swarm/agent_1"]
    assert document(store, "ls", "desk") == [
        {"key": "binary", "size": 2},
        {"key": "empty", "size": 0},
        {"key": "target", "size": 1},
    ]
    assert run(store, "ls", "desk", "--prefix", "t", "--limit", "1").stdout.split() == ["1", "target"]


def test_info_and_verify(store: Path) -> None:
    facts = document(store, "info")
    assert (facts["l3_entries"], facts["clock"]) == (5, "system")
    assert facts["engine"] in ("shared", "lmdb")
    assert "l3_entries" in run(store, "info").stdout
    assert document(store, "verify") == {"ok": True, "records": 5, "history": 1, "namespaces": 3, "problems": []}
    damaged = (store / "data.mdb").read_bytes().replace(b"agent_1\xff\x00", b"agent_1\xff\x01")
    (store / "data.mdb").write_bytes(damaged)
    assert "checksum" in run(store, "verify", code=1).stdout


def test_help_needs_no_store_and_documents_exit_codes() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "ntmem", "get", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "NTMEM_STORE" in told
    assert "Exit codes" in told


def test_without_click_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['click'] = None; import ntmem.cli; ntmem.cli.main()"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "pip install 'ntmem[cli]'" in run.stderr


def test_values_that_look_like_options_and_objects_that_look_like_text(store: Path) -> None:
    run(store, "put", "desk", "n", "-5")
    assert run(store, "get", "desk", "n").stdout == "-5\n"
    with ntmem.open(store) as memory:
        memory.namespace("v")["j"] = 65
    assert run(store, "get", "v", "j").stdout == "A\n"
    assert run(store, "get", "v", "j", "--object").stdout == "65\n"
    run(store, "get", "v", "j", "--object", "--raw", code=2)
    assert "not a value" in run(store, "get", "desk", "binary", "--object", code=1).stderr


def test_ls_prints_no_control_characters(store: Path) -> None:
    with ntmem.open(store) as memory:
        memory.put("odd", "a\n\x1b[31mb", b"")
    assert run(store, "ls", "odd").stdout.split() == ["0", "'a\\n\\x1b[31mb'"]


def test_the_list_of_verbs_is_not_cut_off() -> None:
    said = CliRunner().invoke(cli, ["--help"], terminal_width=80).output
    assert all(f"  {name} " in said for name in cli.commands)
    assert not [line for line in said.splitlines() if line.startswith("  ") and line.endswith("...")]
