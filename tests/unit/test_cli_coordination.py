"""The verbs `locks` and `agents`, and what other verbs say to whoever is refused."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hostile import Start

import ntmem
from ntmem.cli.commands import cli

pytestmark = pytest.mark.usefixtures("engine")
with_locks = pytest.mark.only("shared", "tiny")

HOLDER = """
memory = ntmem.open(sys.argv[1], agent_id="holder")
memory.agents.register("agent_2", capabilities=["trade"])
lock = memory.lock("ETH", ttl=60.0)
lock.acquire()
say("held")
hear()
"""
WAITER = """
with ntmem.open(sys.argv[1], agent_id="waiter") as memory:
    say("waits")
    memory.acquire_lock("BTC")
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "desk"
    with ntmem.open(path) as memory:
        memory.put("desk", "target", b"3")
    return path


def run(store: Path, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(cli, [*arguments, "--store", str(store)])
    assert result.exit_code == code, result.output
    return result


def document(store: Path, *arguments: str) -> Any:
    return json.loads(run(store, *arguments, "--json").stdout)


def look_until(is_right: Callable[[], bool]) -> None:
    """Look until it is so; the limit is there to end a failing test, not to decide it."""
    for _ in range(6_000):
        if is_right():
            return
        time.sleep(0.01)
    raise AssertionError("still not so after a minute")


def register_shortly(memory: ntmem.MemorySystem, agent_id: str, ttl: float = 0.01) -> None:
    """Register an agent that will be late; one that is late before it is registered is tried again."""
    try:
        memory.agents.register(agent_id, ttl=ttl)
    except ntmem.StaleFence:
        register_shortly(memory, agent_id, 2 * ttl)


def test_a_store_that_nobody_has_open(store: Path, tmp_path: Path) -> None:
    assert run(store, "locks").stdout == "nothing is locked\n"
    assert run(store, "agents").stdout == "there are no agents\n"
    assert document(store, "locks") == document(store, "agents") == []
    for verb in ("locks", "agents"):
        assert "no store" in run(tmp_path / "none", verb, code=3).stderr
        assert "Exit codes" in CliRunner().invoke(cli, [verb, "--help"]).stdout
        run(store, verb, "too", "much", code=2)


@with_locks
def test_locks_beside_living_processes(store: Path, start: Start) -> None:
    with ntmem.open(store, agent_id="desk") as memory:
        memory.lock("BTC", ttl=60.0).acquire()
        over = memory.lock("o\x1bver", ttl=0.001)
        over.acquire()
        look_until(lambda: over.lost)
        holder = start(HOLDER, store)
        assert holder.line() == "held"
        btc, eth, late = document(store, "locks")
        assert (btc["resource"], btc["state"], btc["owner"], btc["pid"]) == ("BTC", "held", "desk", os.getpid())
        assert 0 < btc["remaining"] < 60 < btc["remaining"] + btc["held"] + 1e-6
        assert (eth["resource"], eth["state"], eth["owner"], eth["pid"]) == ("ETH", "held", "holder", holder.pid)
        assert eth["fence"] > late["fence"] > btc["fence"] > 0
        assert (late["state"], late["remaining"]) == ("over", 0.0)
        holder.kill()
        header, first, second, third = run(store, "locks").stdout.splitlines()
        assert header.split()[:7] == ["resource", "state", "fence", "owner", "pid", "remaining", "held"]
        assert first.split()[:5] == ["BTC", "held", str(btc["fence"]), "desk", str(os.getpid())]
        assert second.split()[:5] == ["ETH", "dead", str(eth["fence"]), "holder", str(holder.pid)]
        assert third.split()[:2] == ["'o\\x1bver'", "over"]
    assert document(store, "locks") == []


@with_locks
def test_a_lock_that_is_waited_for(store: Path, start: Start) -> None:
    with ntmem.open(store, agent_id="desk") as memory:
        token = memory.acquire_lock("BTC")
        waiter = start(WAITER, store)
        assert waiter.line() == "waits"
        look_until(lambda: document(store, "locks")[0]["waiting"] == 1)
        assert document(store, "locks")[0]["state"] == "held"
        waiter.stop()
        assert memory.release_lock(token)
        (free,) = document(store, "locks")
        assert (free["state"], free["waiting"], free["grants"]) == ("free", 1, 1)
        assert all(free[name] is None for name in ("fence", "owner", "pid", "remaining", "held"))
        assert run(store, "locks").stdout.splitlines()[1].split()[:6] == ["BTC", "free", "-", "-", "-", "-"]
        waiter.signal(signal.SIGCONT)
        waiter.end()
        with memory.lock("BTC"):
            (after,) = document(store, "locks")
            assert (after["grants"], after["waits"], after["waiting"]) == (3, 1, 0)
            assert after["longest_wait"] == after["waited"] > 0


@with_locks
def test_agents_live_are_silent_or_dead(store: Path, start: Start) -> None:
    with ntmem.open(store) as memory:
        memory.agents.register("agent_1", capabilities=["trade", "predict"], ttl=60.0, symbol="BTC", odd={1: b"x"})
        register_shortly(memory, "agent_3")
        holder = start(HOLDER, store)
        assert holder.line() == "held"
        look_until(lambda: document(store, "agents")[2]["status"] == "silent")
        first, second, third = document(store, "agents")
        assert (first["agent"], first["status"], first["pid"]) == ("agent_1", "alive", os.getpid())
        assert first["capabilities"] == ["trade", "predict"]
        assert first["info"] == {"symbol": "BTC", "odd": {"1": "b'x'"}}
        assert 0 < first["remaining"] <= 60
        assert first["registered_at"] <= memory.now()
        assert (second["agent"], second["status"], second["pid"]) == ("agent_2", "alive", holder.pid)
        assert (third["agent"], third["remaining"]) == ("agent_3", 0.0)
        assert [agent["agent"] for agent in document(store, "agents", "--capability", "trade")] == [
            "agent_1",
            "agent_2",
        ]
        holder.kill()
        _, alive, dead, silent = (line.split() for line in run(store, "agents").stdout.splitlines())
        assert alive[:3] == ["agent_1", "alive", str(os.getpid())]
        assert alive[-2:] == ["trade,", "predict"]
        assert dead[:2] == ["agent_2", "dead"]
        assert silent[:2] == ["agent_3", "silent"]
        memory.agents.unregister("agent_1")
    left = [(agent["agent"], agent["status"], agent["remaining"]) for agent in document(store, "agents")]
    assert left == [("agent_2", "dead", 0.0), ("agent_3", "silent", 0.0)]  # of those that nobody took off the list


@with_locks
def test_who_writes_without_the_lock_is_refused(store: Path) -> None:
    with ntmem.open(store) as memory, memory.lock("BTC") as lock:
        memory.put("book", "position", b"1", fence=lock)
    assert "under the lock of 'BTC'" in run(store, "put", "book", "position", "2", code=4).stderr
    assert "under the lock of 'BTC'" in run(store, "rm", "book", "position", code=4).stderr
    assert run(store, "get", "book", "position").stdout == "1\n"


def test_who_does_not_own_a_namespace_is_refused(store: Path) -> None:
    with ntmem.open(store, agent_id="agent_1") as memory:
        memory.agents.own("mine")
    assert "belongs to 'agent_1'" in run(store, "put", "mine", "x", "2", code=4).stderr
