"""The verb `sessions`."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hostile import Start

import ntmem
from ntmem.cli.commands import cli

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

HOLDER = """
memory = ntmem.open(sys.argv[1], agent_id="child")
memory.session("held").__enter__()
say("held")
hear()
"""


def run(store: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [*arguments, "--store", str(store)])
    assert result.exit_code == code, result.output
    return result.output


def test_listing_and_showing(ram: Path, start: Start) -> None:
    store = ram / "desk"
    with ntmem.open(store) as memory:
        assert run(store, "sessions") == "there are no sessions\n"
        with memory.session("mo\nm", agent_id="bob", account="main") as s:
            s["target"] = {"BTC": 3}
            s["no\nline"] = 1
            task = s.begin("break\nout")
            s.positions.apply_fill("BTC", 1, 100, trade_id="1", fee="0.5")
            s.positions.apply_fill("BTC", -1, 110, trade_id="2")
        child = start(HOLDER, store)
        child.line()
        listed: list[Any] = json.loads(run(store, "sessions", "--json"))
        assert [(it["session"], it["agent"], it["state"], it["pid"]) for it in listed] == [
            ("held", "child", "held", child.pid),
            ("mo\nm", "bob", "left", None),
        ]
        child.signal(signal.SIGKILL)
        child.process.wait()
        lines = run(store, "sessions").splitlines()
        assert lines[0].split() == [
            "session",
            "agent",
            "state",
            "pid",
            "started",
            "last",
            "seen",
            "resumed",
            "keys",
            "open",
        ]
        assert [line.split()[2] for line in lines[1:]] == ["died", "left"]
        assert lines[2].split()[-3:] == ["0", "2", "1"]
        shown = json.loads(run(store, "sessions", "show", "mo\nm", "--json"))
        assert shown["values"] == {"target": {"BTC": 3}, "no\nline": 1}
        assert shown["trajectories"] == [{"id": task.id, "task": "break\nout"}]
        assert shown["pnl"] == [{"currency": "", "realized_pnl": "10", "fees": "0.5", "funding": "0", "net": "9.5"}]
        text = run(store, "sessions", "show", "mo\nm")
        assert "'no\\nline'  1" in text
        assert "net           9.5" in text
        assert "no session 'none'" in run(store, "sessions", "show", "none", code=3)
    run(ram / "nowhere", "sessions", code=3)
    assert "behind 'show'" in run(store, "sessions", "--json", "show", "a", code=2)
