"""The verb `tail`: messages as they come, beside those who publish and without them."""

from __future__ import annotations

import json
import select
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hostile import Child, Start

import ntmem
from ntmem.cli.commands import cli

TAIL = """
import signal
from ntmem.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may have ignored them
signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.argv = ["ntmem", "tail", *sys.argv[1:]]
main()
"""
WRITER = """
with ntmem.open(sys.argv[1], engine="shared", agent_id="writer", bus_bytes=1 << 16) as memory:
    say("open")
    while word := hear():
        topic, payload, *durable = word.split(" ")
        say(memory.publish(topic, payload.encode(), durable=bool(durable)))
"""


@pytest.fixture
def store(ram: Path) -> Path:
    with ntmem.open(ram / "desk", engine="shared", agent_id="me") as memory:
        for number in range(3):
            memory.publish("orders/new", b"%d" % number, durable=True)
    return ram / "desk"


def run(store: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["tail", *arguments, "--store", str(store)])
    assert result.exit_code == code, result.output
    return result


def publish(writer: Child, *words: str) -> int:
    writer.tell(" ".join(words))
    return int(writer.line())


def open_writer(start: Start, store: Path) -> Child:
    writer = start(WRITER, store)
    assert writer.line() == "open"
    return writer


def documents(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_wrong_usage_and_no_store_have_their_codes(store: Path, tmp_path: Path) -> None:
    assert "no store" in run(tmp_path / "none", code=3).stderr
    for wrong in (["--count", "0"], ["--since", "-1"], ["--timeout", "-1"], ["a", "b"], ["--count", "x"]):
        run(store, *wrong, code=2)
    assert "must not be empty" in run(store, "a//b", code=2).stderr
    assert "only as the last level" in run(store, ">/a", code=2).stderr
    assert "since was 4, and the newest message is 3" in run(store, "--durable", "--since", "4", code=2).stderr
    help_text = CliRunner().invoke(cli, ["tail", "--help"]).stdout
    assert "Exit codes" in help_text
    assert "Ctrl-C ends it with 0" in help_text


def test_a_store_without_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTMEM_ENGINE", "lmdb")
    ntmem.open(tmp_path / "desk").close()
    assert "engine='shared'" in run(tmp_path / "desk", code=1).stderr


def test_where_nobody_publishes(store: Path) -> None:
    assert run(store, "--timeout", "0").stdout == ""
    assert run(store, "--timeout", "0.01", "--json").stdout == ""
    assert run(store, "--durable", "--timeout", "0").stdout == ""


def test_durable_messages_that_are_kept(store: Path) -> None:
    lines = run(store, "--durable", "--since", "0", "--count", "3").stdout.splitlines()
    assert [line.split("  ")[1:] for line in lines] == [[f"{n + 1}", "me", "orders/new", f"{n}"] for n in range(3)]
    assert all(line.split("  ")[0].endswith("Z") for line in lines)
    assert len(run(store, "--durable", "--since", "0", "--timeout", "0").stdout.splitlines()) == 3
    assert len(run(store, "--durable", "--since", "1", "--timeout", "0").stdout.splitlines()) == 2
    assert run(store, "other/>", "--durable", "--since", "0", "--timeout", "0").stdout == ""


def test_json(store: Path) -> None:
    first, *_ = found = documents(run(store, "orders/*", "--durable", "--since", "0", "--json", "--timeout", "0"))
    assert len(found) == 3
    assert first.pop("ts") > 1_600_000_000_000_000_000
    assert first == {
        "topic": "orders/new",
        "levels": ["orders", "new"],
        "seq": 1,
        "sender": "me",
        "lagged": 0,
        "durable": True,
        "size": 1,
        "text": "0",
    }


def test_what_is_in_the_ring(store: Path, start: Start) -> None:
    writer = open_writer(start, store)
    seqs = [publish(writer, "px/BTC", f"{number}") for number in range(4)]
    publish(writer, "fx/EUR", "1")
    found = documents(run(store, "px/*", "--since", str(seqs[0]), "--json", "--timeout", "0"))
    assert [(each["seq"], each["text"], each["durable"]) for each in found] == [
        (seq, f"{number}", False) for number, seq in enumerate(seqs) if number
    ]
    assert len(run(store, "--since", str(seqs[0]), "--count", "2").stdout.splitlines()) == 2
    assert "was given out" in run(store, "--since", str(seqs[3] + 9), code=2).stderr
    writer.tell()
    writer.end()


def test_what_was_missed_is_said(store: Path, start: Start) -> None:
    writer = open_writer(start, store)
    first = publish(writer, "px/BTC", "x")
    for _ in range(30):
        publish(writer, "px/BTC", "y" * 5000)
    text = run(store, "--since", str(first), "--timeout", "0").stdout.splitlines()
    missed = int(text[0].removeprefix("(").removesuffix(" missed)"))
    assert missed + len(text) - 1 == 30
    assert documents(run(store, "--since", str(first), "--json", "--count", "1"))[0]["lagged"] == missed
    writer.kill()


def test_payloads_do_nothing_to_a_terminal(store: Path) -> None:
    with ntmem.open(store, engine="shared", agent_id="a\x1b[31m") as memory:
        memory.publish(("od\x1b[2Jd", "a/b"), b"\x1b[31mred\nline", durable=True)
        memory.publish("bytes", b"\xff\x00", durable=True)
    result = run(store, "--durable", "--since", "3", "--timeout", "0")
    assert "\x1b" not in result.stdout
    assert len(result.stdout.splitlines()) == 2
    assert "'od\\x1b[2Jd/a/b'" in result.stdout
    assert "\\x1b[31mred\\nline" in result.stdout
    first, second = documents(run(store, "--durable", "--since", "3", "--timeout", "0", "--json"))
    assert (first["text"], first["levels"]) == ("\x1b[31mred\nline", ["od\x1b[2Jd", "a/b"])
    assert second["base64"] == "/wA="


def test_following_writers_that_come_and_go(store: Path, start: Start) -> None:
    """It was there before any of them."""
    tail = start(TAIL, "px/*", "--json", "--store", store)
    writer = open_writer(start, store)
    found = None
    while found is None:  # until it is there
        publish(writer, "px/BTC", "begin")
        if select.select([tail.process.stdout], [], [], 0.01)[0]:
            found = json.loads(tail.line())
    publish(writer, "px/BTC", "begun")
    while json.loads(tail.line())["text"] != "begun":
        pass
    for number in range(4):
        seqs = [publish(writer, "px/BTC", f"{number}{part}") for part in range(2)]
        if number % 2:
            writer.tell()
            writer.end()
        else:
            writer.kill()
        for part, seq in enumerate(seqs):
            found = json.loads(tail.line())
            assert (found["seq"], found["text"], found["lagged"]) == (seq, f"{number}{part}", 0)
        writer = open_writer(start, store)
    tail.signal(signal.SIGINT)
    tail.end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("durable", [False, True])
def test_it_ends_when_it_is_told_to(store: Path, start: Start, number: signal.Signals, durable: bool) -> None:
    writer = open_writer(start, store)
    first = publish(writer, "a", "x", *["durable"] * durable)
    since = ["--durable", "--since", first - 1] if durable else ["--since", first - 1]
    tail = start(TAIL, "a", *since, "--store", store)
    assert tail.line().endswith(f"  {first}  writer  a  x")
    tail.signal(number)
    assert tail.end() == ""
    writer.tell()
    writer.end()


def test_it_changes_nothing(store: Path) -> None:
    before = (store / "data.mdb").read_bytes()
    run(store, "--durable", "--since", "0", "--timeout", "0")
    run(store, "--timeout", "0")
    assert (store / "data.mdb").read_bytes() == before
