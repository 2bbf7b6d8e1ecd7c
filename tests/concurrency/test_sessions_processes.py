"""Holders of sessions that are killed and stopped: the next one has all that was acknowledged."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest
from holders import until
from hostile import Start

import ntmem

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

COUNTS = """
with ntmem.open(sys.argv[1], agent_id="child") as memory, memory.session("count") as s:
    say("entered", s.resumed, s.get("n", 0))
    while True:
        n = s.incr("n")
        s["twice"] = 2 * n
        t = s.begin(str(n)); t.complete()
        s.positions.apply_fill("BTC", 1, n, side="buy" if n % 2 else "sell", trade_id=str(n))
        say(n)
"""


def test_who_is_killed_is_followed_by_one_who_knows_all(ram: Path, start: Start) -> None:
    chance = random.Random(1)
    last = 0
    with ntmem.open(ram / "desk") as memory:
        for round_number in range(4):
            child = start(COUNTS, ram / "desk")
            _, resumed, found = child.line().split()
            assert int(resumed) == 2 * round_number
            assert last <= int(found)
            for _ in range(chance.randrange(1, 40)):
                last = int(child.line())
            with pytest.raises(ntmem.LockTimeout, match=rf"held by process {child.pid} \(child\)"):
                memory.session("count", timeout=0).__enter__()
            child.signal(signal.SIGKILL)
            told = child.process.stdout.read().split()  # type: ignore[union-attr]
            last = int(told[-1]) if told and told[-1].isdigit() and len(told[-1]) >= len(str(last)) else last
            with memory.session("count", timeout=30) as s:
                n = s["n"]
                assert n >= last
                assert s["twice"] in (2 * n, 2 * n - 2)
                assert s.resumed == 2 * round_number + 1
                fills = len(memory.positions.fills("BTC", strategy="count"))
                assert fills in (n, n - 1)
                assert s.realized_pnl == fills // 2
                last = n
                if fills < n:  # as an agent would: say again what it may have said
                    side = "buy" if n % 2 else "sell"
                    s.positions.apply_fill("BTC", 1, n, side=side, trade_id=str(n))
    assert last >= 4


ADDS = """
with ntmem.open(sys.argv[1]) as memory, memory.session("sum") as s:
    numbers = s.subscribe("numbers")
    say("ready")
    while (message := numbers.recv(0)) is not None:
        with s.transaction() as t:
            t["sum"] = s.get("sum", 0) + int(message.payload)
            t.ack(numbers)
        say(message.seq)
"""


def test_each_message_counts_once_whoever_dies(ram: Path, start: Start) -> None:
    chance = random.Random(2)
    with ntmem.open(ram / "desk") as memory:
        for number in range(4000):
            memory.publish("numbers", b"%d" % number, durable=True)
        for _ in range(3):
            child = start(ADDS, ram / "desk")
            child.line()
            for _ in range(chance.randrange(1, 60)):
                child.line()
            child.signal(signal.SIGKILL)
            child.process.wait()
        start(ADDS, ram / "desk").end()
        assert memory.session("sum")["sum"] == sum(range(4000))


STOPPED = """
with ntmem.open(sys.argv[1]) as memory:
    s = memory.session("late", ttl=0.2)
    s.__enter__()
    s["x"] = "early"
    t = s.begin("task")
    messages = s.subscribe("t")
    messages.recv(0)
    say("holds")
    hear()
    def group():
        with s.transaction() as g:
            g["x"] = "late"
            g.put("desk", "k", b"late")
    for write in (
        lambda: s.__setitem__("x", "late"), lambda: s.incr("n"), lambda: messages.ack(), lambda: t.add_action("late"),
        lambda: s.positions.apply_fill("BTC", 1, 1, trade_id="late"), group, lambda: s.end(),
        lambda: memory.put("desk", "k", b"late", fence=s), lambda: s.__exit__(None, None, None),
    ):
        say(outcome(write))
"""


def test_who_was_stopped_writes_nothing_to_what_is_another_s(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "desk") as memory:
        memory.publish("t", b"", durable=True)
        child = start(STOPPED, ram / "desk")
        assert child.line() == "holds"
        child.stop()
        (info,) = memory.sessions()
        assert (info.pid, info.alive, info.left) == (child.pid, True, False)
        with memory.session("late", timeout=30) as s:
            assert s["x"] == "early"
            s["x"] = "mine"
            child.signal(signal.SIGCONT)
            child.tell()
            said = [child.line().split(":")[0] for _ in range(9)]
            assert said == ["StaleFence"] * 8 + ["LockLost"]
            assert dict(s) == {"x": "mine"}
            assert s.subscribe("t").recv(0) is not None
            assert [len(it.actions) for it in s.open_trajectories()] == [0]
            assert memory.get("desk", "k") is None
            assert memory.positions.get("BTC", strategy="late") is None


def test_who_waits_is_let_in_when_the_holder_has_died(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "desk") as memory:
        child = start(COUNTS, ram / "desk")
        child.line()
        waiter = start(COUNTS, ram / "desk")
        until(lambda: (found := memory.locks.list("session/count")) and found[0].waiting)
        child.signal(signal.SIGKILL)
        assert waiter.line().startswith("entered 1 ")
