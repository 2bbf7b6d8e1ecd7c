"""Subscribers and writers in processes of their own: every change once and in order, or told that it is missing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from hostile import Start

import ntmem

WRITER = """
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with ntmem.open(path, engine="shared", agent_id=name, log_bytes=1 << 22) as memory:
    say("open")
    hear()
    for number in range(count):
        if number % 10 == 9:
            with memory.transaction() as t:
                for part in range(3):
                    t.put(("desk", name), "many", b"%d/%d" % (number, part))
                    t.put("noise", name, b"x" * 50)
        else:
            memory.put(("desk", name), "k", b"%d/2" % number)
            memory.put("noise", name, b"x" * 50)
    say("done")
    hear()
"""
SUBSCRIBER = """
path, until = sys.argv[1], int(sys.argv[2])
since = int(sys.argv[3]) if len(sys.argv) > 3 else None
with ntmem.open(path, engine="shared", log_bytes=1 << 22) as memory, memory.watch("desk", since=since) as changes:
    say("watching")
    seen, version, ended = {}, 0, 0
    for change in changes:
        assert change.kind == "put", change
        assert change.version > version, "not in order"
        version = change.version
        if change.key == "stop":
            break
        assert change.namespace == ("desk", change.writer)
        number, part = map(int, change.value.split(b"/"))
        assert change.last == (part == 2)
        last = seen.get(change.writer, (-1, 2) if since is None else None)
        if last is not None:
            expected = (last[0], last[1] + 1) if last[1] < 2 else (last[0] + 1, 0 if last[0] % 10 == 8 else 2)
            assert (number, part) == expected, (change, last)
        seen[change.writer] = number, part
    say(changes.lagged, sorted(seen.items()))
"""


def test_every_subscriber_gets_every_change_once_and_in_order(tmp_path: Path, start: Start) -> None:
    count = 3000
    with ntmem.open(tmp_path, engine="shared", log_bytes=1 << 22) as memory:
        subscribers = [start(SUBSCRIBER, tmp_path, 2) for _ in range(2)]
        assert [subscriber.line() for subscriber in subscribers] == ["watching"] * 2
        writers = [start(WRITER, tmp_path, name, count) for name in ("a", "b")]
        assert [writer.line() for writer in writers] == ["open"] * 2
        with memory.watch("desk", since=0) as own:
            for writer in writers:
                writer.tell()
            found = {"a": 0, "b": 0}
            for change in own:
                assert change.kind == "put"
                found[change.writer] += change.last
                if min(found.values()) == count:
                    break
        memory.put("desk", "stop", b"")
        for subscriber in subscribers:
            assert subscriber.line() == f"0 [('a', ({count - 1}, 2)), ('b', ({count - 1}, 2))]"
            subscriber.end()
        for writer in writers:
            assert writer.line() == "done"
            writer.tell()
            writer.end()


def test_a_writer_killed_in_the_middle_leaves_whole_transactions(tmp_path: Path, start: Start) -> None:
    with ntmem.open(tmp_path, engine="shared", log_bytes=1 << 22) as memory, memory.watch("desk") as changes:
        for number in range(3):
            writer = start(WRITER, tmp_path, f"w{number}", 10**9)
            writer.line()
            writer.tell()
            for _ in range(500):
                first = changes.recv(60)
                assert first is not None
            writer.signal(signal.SIGKILL)
            writer.process.wait()
            memory.put("desk", "stop", b"")
            parts = []
            for change in changes:
                if change.key == "stop":
                    break
                if change.kind != "lagged":  # it wrote faster than this one read
                    parts.append((change.value or b"").split(b"/")[1] == b"2")
                    assert parts[-1] == change.last
            assert all(parts[-1:]), "half a transaction"
            memory.put("desk", "k", b"goes on")
            change = changes.recv(60)
            assert change is not None
            assert change.value == b"goes on"


def test_who_comes_late_goes_on_behind_a_version(tmp_path: Path, start: Start) -> None:
    with ntmem.open(tmp_path, engine="shared", log_bytes=1 << 22) as memory, memory.watch("desk") as changes:
        writer = start(WRITER, tmp_path, "a", 2000)
        writer.line()
        writer.tell()
        for _ in range(1000):
            assert changes.recv(60) is not None
        late = start(SUBSCRIBER, tmp_path, 1, changes.resume_from)
        assert late.line() == "watching"
        assert writer.line() == "done"
        memory.put("desk", "stop", b"")
        assert late.line() == "0 [('a', (1999, 2))]"
        late.end()
        writer.tell()
        writer.end()


def test_one_that_was_stopped_is_told_what_it_missed_and_stops_nobody(tmp_path: Path, start: Start) -> None:
    code = """
with ntmem.open(sys.argv[1], engine="shared", log_bytes=1 << 14) as memory, memory.watch("desk") as changes:
    say("watching")
    for change in changes:
        say(change.kind, change.version)
"""
    with ntmem.open(tmp_path, engine="shared", log_bytes=1 << 14) as memory:
        slow = start(code, tmp_path)
        slow.line()
        first = memory.put("desk", "k", b"")
        assert slow.line() == f"put {first}"
        slow.stop()
        versions = [memory.put("desk", "k", b"x" * 100) for _ in range(1000)]
        slow.signal(signal.SIGCONT)
        assert slow.line() == f"lagged {first}"
        kind, version = slow.line().split()
        assert kind == "put"
        assert int(version) in versions[1:]
        for number in range(versions.index(int(version)) + 1, len(versions)):
            assert slow.line() == f"put {versions[number]}"
        slow.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_wait(tmp_path: Path, start: Start, number: signal.Signals) -> None:
    code = """
signal.signal(signal.SIGTERM, signal.default_int_handler)
with ntmem.open(sys.argv[1], engine="shared") as memory, memory.watch("desk") as changes:
    try:
        say("watching")
        changes.recv()
    except KeyboardInterrupt:
        say("interrupted")
"""
    waiting = start(code, tmp_path)
    waiting.line()
    waiting.signal(number)
    assert waiting.line() == "interrupted"
    waiting.end()
