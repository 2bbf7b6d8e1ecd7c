"""Durable messages: numbers without gaps, in order for everybody, and at least once for who has a name."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import HANG, Start

import ntmem
from ntmem.coordination import stream

ALL = 1e-9
"""Seconds: every message is older."""

PUBLISHER = """
with ntmem.open(sys.argv[1], engine="shared", agent_id=sys.argv[2]) as memory:
    say("open")
    hear()
    for number in range(int(sys.argv[3])):
        say(memory.publish(("of", sys.argv[2]), b"%d" % number, durable=True))
"""


@pytest.fixture
def memory() -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(engine="shared", agent_id="me", bus_bytes=1 << 16) as memory:
        yield memory


def publish(memory: Any, *payloads: bytes, topic: str = "a") -> list[int]:
    return [memory.publish(topic, payload, durable=True) for payload in payloads]


def received(messages: Any) -> list[bytes]:
    return [message.payload for message in messages.recv_many(1 << 20, 0)]


def test_a_durable_message_is_for_both_kinds(memory: ntmem.MemorySystem) -> None:
    with memory.subscribe("*/x") as messages, memory.subscribe("*/x", durable=True) as kept:
        memory.publish("a/x", b"missed")
        assert memory.publish(("a", "x"), b"kept", durable=True) == 1
        assert [(m.payload, m.durable) for m in messages.recv_many()] == [(b"missed", False), (b"kept", True)]
        message = kept.recv(0)
        assert message is not None
        assert (message.topic, message.payload, message.seq, message.sender) == ("a/x", b"kept", 1, "me")
        assert (message.durable, message.lagged) == (True, 0)
        assert repr(kept) == "<Subscription */x durable>"
        assert kept.recv(0) is None


def test_where_it_begins(memory: ntmem.MemorySystem) -> None:
    publish(memory, b"1", b"2", b"3")
    with (
        memory.subscribe("a", durable=True) as now,
        memory.subscribe("a", durable=True, since=0) as everything,
        memory.subscribe("a", durable=True, since=2) as rest,
        memory.subscribe("a", durable="x") as named,
    ):
        publish(memory, b"4")
        assert received(now) == [b"4"]
        assert received(everything) == received(named) == [b"1", b"2", b"3", b"4"]
        assert received(rest) == [b"3", b"4"]
        assert (rest.resume_from, rest.lagged) == (4, 0)
    with pytest.raises(ValueError, match="since was 5, and the newest message is 4"):
        memory.subscribe("a", durable=True, since=5)


def test_acknowledging(ram: Path) -> None:
    with ntmem.open(ram / "s", engine="shared") as memory:
        publish(memory, b"1", b"2", b"3", b"4")
        with memory.subscribe("a", durable="risk") as messages:
            assert messages.name == "risk"  # type: ignore[union-attr]
            first, second, _ = (messages.recv(0) for _ in range(3))
            with pytest.raises(ValueError, match="message 4 was not received by this subscription yet, 3 was"):
                messages.ack(4)  # type: ignore[union-attr]
            messages.ack(second)  # type: ignore[union-attr]
            messages.ack(first)  # type: ignore[union-attr]  # what is acknowledged stays so
        with memory.subscribe("a", durable="risk") as messages, memory.subscribe("a", durable="other") as other:
            assert received(messages) == [b"3", b"4"]
            assert received(other)[0] == b"1"
            messages.ack()  # type: ignore[union-attr]
            other.ack(1)  # type: ignore[union-attr]
    with ntmem.open(ram / "s", engine="shared") as memory:  # names and numbers outlive all processes
        with memory.subscribe("a", durable="risk") as messages, memory.subscribe("a", durable="other") as other:
            assert publish(memory, b"5") == [5]
            assert received(messages) == [b"5"]
            assert received(other) == [b"2", b"3", b"4", b"5"]
            with memory.subscribe("a", durable="risk", since=3) as again:  # since is stronger
                assert received(again) == [b"4", b"5"]
        with memory.subscribe("a", durable=True) as nameless, pytest.raises(ValueError, match="durable='name'"):
            nameless.ack()  # type: ignore[union-attr]


def test_two_of_a_name_let_nothing_acknowledged_come_again(
    memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process acknowledges more while this one is about to: the later number stays."""
    bus = memory.bus._stream()
    note = bus._note

    def note_beside_another(key: bytes) -> tuple[int, int]:
        found = note(key)
        memory.bus._stream().acknowledge("x", 10)
        return found

    monkeypatch.setattr(bus, "_note", note_beside_another)
    bus.acknowledge("x", 5)
    assert bus.acknowledged("x") == 10


def test_objects_are_acknowledged(memory: ntmem.MemorySystem) -> None:
    orders = memory.topic("orders")
    orders.publish([1], durable=True)
    orders.publish([2], durable=True)
    with orders.subscribe(durable="x") as messages:
        assert messages.recv(0).value == [1]  # type: ignore[union-attr]
        messages.ack()
    with orders.subscribe(durable="x") as messages:
        assert [each.value for each in messages.recv_many()] == [[2]]


def test_what_is_passed_is_passed_at_once(memory: ntmem.MemorySystem) -> None:
    """Thousands of other topics do not hide the one that is there."""
    publish(memory, *[b""] * 3000, topic="other")
    publish(memory, b"x")
    with memory.subscribe("a", durable=True, since=0) as messages:
        assert messages.recv(0).payload == b"x"  # type: ignore[union-attr]


def test_numbers_of_threads_have_no_gaps(ram: Path) -> None:
    """Two handles with threads each, whose subscriptions have all in the same order."""
    with ntmem.open(ram / "s", engine="shared") as one, ntmem.open(ram / "s", engine="shared") as two:
        numbers: list[list[int]] = [[] for _ in range(6)]

        def work(row: int) -> None:
            for number in range(100):
                numbers[row] += publish((one, two)[row % 2], b"%d %d" % (row, number))

        with one.subscribe("a", durable=True) as first, two.subscribe(">", durable="x") as second:
            threads = [threading.Thread(target=work, args=(row,)) for row in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(HANG)
            assert sorted(itertools.chain(*numbers)) == list(range(1, 601))
            found = first.recv_many(1000, 0)
            assert [m.seq for m in found] == list(range(1, 601))
            assert received(second) == [m.payload for m in found]
            for row in range(6):
                mine = [m for m in found if m.payload.split()[0] == b"%d" % row]
                assert [m.seq for m in mine] == numbers[row]
                assert [int(m.payload.split()[1]) for m in mine] == list(range(100))


def test_numbers_of_processes_have_no_gaps(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "s", engine="shared", agent_id="me") as memory, memory.subscribe(">", durable=True) as kept:
        publishers = [start(PUBLISHER, ram / "s", name, 100) for name in ("x", "y")]
        for publisher in publishers:
            assert publisher.line() == "open"
        for publisher in publishers:
            publisher.tell()
        told = {"me": [memory.publish(("of", "me"), b"%d" % number, durable=True) for number in range(100)]}
        told |= {name: [int(each.line()) for _ in range(100)] for name, each in zip("xy", publishers, strict=True)}
        found = [kept.recv(HANG) for _ in range(300)]
        assert [m.seq for m in found if m] == list(range(1, 301))
        for name, numbers in told.items():
            mine = [m for m in found if m and m.topic == f"of/{name}" and m.sender == name]
            assert [m.seq for m in mine] == numbers
            assert [int(m.payload) for m in mine] == list(range(100))


def test_a_process_that_has_not_acknowledged_dies(ram: Path, start: Start) -> None:
    code = """
with ntmem.open(sys.argv[1], engine="shared") as memory, memory.subscribe("a", durable="risk") as messages:
    for message in messages:
        say(message.payload.decode())
        hear()
        messages.ack(message)
        say("acknowledged")
        hear()
"""
    with ntmem.open(ram / "s", engine="shared") as memory:
        publish(memory, b"1", b"2", b"3")
        for expected in ("1", "2", "3"):
            for dies in (True, False):
                child = start(code, ram / "s")
                assert child.line() == expected
                if not dies:
                    child.tell()
                    assert child.line() == "acknowledged"
                child.kill()
        with memory.subscribe("a", durable="risk") as messages:
            assert messages.recv(0) is None


def test_a_publisher_that_says_nothing(ram: Path, start: Start) -> None:
    """It dies behind the commit, before it has announced the message: who waits finds it all the same."""
    code = """
from ntmem.coordination.pubsub import Publisher
with ntmem.open(sys.argv[1], engine="shared") as memory:
    Publisher.publish = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    hear()
    memory.publish("a", b"x", durable=True)
"""
    with ntmem.open(ram / "s", engine="shared") as memory, memory.subscribe("a", durable=True) as messages:
        for _ in range(3):
            publisher = start(code, ram / "s")
            found: list[Any] = []
            thread = threading.Thread(target=lambda f=found: f.append(messages.recv(HANG)), daemon=True)
            thread.start()
            publisher.tell()
            thread.join(HANG)
            assert found[0] is not None
            assert found[0].payload == b"x"
            assert publisher.process.wait() == -9


# ---- trimming ----


def test_trim_is_counted_as_lag(memory: ntmem.MemorySystem) -> None:
    with memory.subscribe("a", durable=True) as messages, memory.subscribe("b", durable="x") as other:
        publish(memory, b"1", b"2", b"3")
        assert messages.recv(0).payload == b"1"  # type: ignore[union-attr]
        messages._ready.clear()
        messages._next = 2  # type: ignore[union-attr]  # as if it had not brought them on yet
        assert memory.bus.trim(3600) == 0
        assert memory.bus.trim(ALL) == 3
        assert memory.bus.trim(ALL) == 0
        assert publish(memory, b"4", b"5") == [4, 5]
        assert [(m.payload, m.lagged) for m in messages.recv_many()] == [(b"4", 2), (b"5", 0)]
        assert messages.lagged == 2
        assert other.recv(0) is None
        assert publish(memory, b"6", topic="b") == [6]
        assert other.recv(0).lagged == other.lagged == 3  # type: ignore[union-attr]
    with memory.subscribe("a", durable=True, since=0) as messages:
        assert received(messages) == [b"4", b"5"]
        assert messages.lagged == 3
    with memory.subscribe("a", durable="later") as messages:  # it has never been told of the others
        assert received(messages) == [b"4", b"5"]
        assert messages.lagged == 0
    for wrong, error in ((0, ValueError), (-1, ValueError), ("1", TypeError)):
        with pytest.raises(error, match="older_than"):
            memory.bus.trim(wrong)  # type: ignore[arg-type]


def test_more_than_is_trimmed_at_once(memory: ntmem.MemorySystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_TRIMMED", 10)
    publish(memory, *[b""] * 35)
    assert memory.bus.trim(ALL) == 35
    assert (memory.bus._stream().first, memory.bus._stream().last) == (36, 35)
    assert publish(memory, b"x") == [36]


def test_a_number_is_given_once_also_where_all_was_trimmed(ram: Path) -> None:
    """Who publishes seldom does not write where others' messages were."""
    with (
        ntmem.open(ram / "s", engine="shared") as seldom,
        ntmem.open(ram / "s", engine="shared") as often,
        seldom.subscribe("a", durable=True) as messages,
    ):
        assert publish(seldom, b"1") == [1]
        assert publish(often, b"2", b"3", b"4") == [2, 3, 4]
        assert received(messages) == [b"1", b"2", b"3", b"4"]
        assert often.bus.trim(ALL) == 4
        assert publish(seldom, b"5") == [5]
        assert received(messages) == [b"5"]


def test_two_that_trim_at_once(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower one does not bring back numbers that are gone: who came there would wait for them for ever."""
    with ntmem.open(ram / "s", engine="shared") as memory:
        publish(memory, *[b""] * 20)
        bus = memory.bus._stream()
        monkeypatch.setattr(stream, "_TRIMMED", 5)
        read, trimmed = bus.read, []

        def read_beside_another(number: int, lagged: int = 0) -> Any:
            found = read(number, lagged)
            if number == 4 and not trimmed:
                trimmed.append(memory.bus.trim(ALL))
            return found

        monkeypatch.setattr(bus, "read", read_beside_another)
        assert bus.trim(ALL) == 0
        assert trimmed == [20]
        assert bus.first == 21
        with memory.subscribe("a", durable=True, since=10) as messages:
            publish(memory, b"x")
            assert received(messages) == [b"x"]
            assert messages.lagged == 10


# ---- stores ----


def test_a_restart_goes_on(ram: Path) -> None:
    for number in range(1, 4):
        with ntmem.open(ram / "s", engine="shared") as memory, memory.subscribe("a", durable=True, since=0) as kept:
            assert publish(memory, b"%d" % number) == [number]
            assert received(kept) == [b"%d" % each for each in range(1, number + 1)]


def test_simulated_clocks_do_not_matter(ram: Path) -> None:
    clock = ntmem.SimulatedClock(10**18)
    with (
        ntmem.open(ram / "s", engine="shared", clock=clock) as memory,
        memory.subscribe("a", durable="x") as messages,
    ):
        publish(memory, b"1")
        clock.set(2 * 10**18)
        publish(memory, b"2")
        found = messages.recv_many()
        assert [m.payload for m in found] == [b"1", b"2"]
        assert all(m.ts < 10**19 and m.ts > 1_700_000_000 * 10**9 for m in found)
        assert memory.bus.trim(3600) == 0
        assert memory.bus.trim(ALL) == 2


def test_on_disk_when_the_call_returns(ram: Path) -> None:
    with ntmem.open(ram / "s", engine="shared", durability="disk", flush_interval=3600.0) as memory:
        threads = [threading.Thread(target=publish, args=(memory, b"x", b"y")) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG)
        assert memory.stats().flush_lag == 0
        assert memory.bus._stream().last == 8


def test_large_ones_go_past_the_log(ram: Path) -> None:
    with (
        ntmem.open(ram / "s", engine="shared", log_bytes=1 << 16) as memory,
        memory.subscribe("a", durable=True) as messages,
    ):
        publish(memory, bytes(100_000), b"small", bytes(1_000_000))
        assert [len(payload) for payload in received(messages)] == [100_000, 5, 1_000_000]


def test_who_only_reads(ram: Path, start: Start) -> None:
    with ntmem.open(ram / "s", engine="shared") as memory:
        publish(memory, b"1", b"2")
    with (
        ntmem.open(ram / "s", engine="shared", read_only=True) as memory,
        memory.subscribe(">", durable="x") as named,
        memory.subscribe(">", durable=True) as messages,
    ):
        assert received(named) == [b"1", b"2"]
        with pytest.raises(ntmem.ReadOnlyError):
            named.ack()  # type: ignore[union-attr]
        publisher = start(PUBLISHER, ram / "s", "w", 2)
        assert publisher.line() == "open"
        publisher.tell()
        assert [messages.recv(HANG).seq for _ in range(2)] == [3, 4]  # type: ignore[union-attr]
        publisher.end()
        assert received(named) == [b"0", b"1"]


def test_its_namespaces_are_its_own(memory: ntmem.MemorySystem) -> None:
    publish(memory, b"1")
    for namespace in ("ntmem/messages", "ntmem/cursors"):
        with pytest.raises(ntmem.NtmemError):
            memory.put(namespace, "k", b"")
        with pytest.raises(ntmem.NtmemError):
            memory.delete_namespace(namespace)
    assert publish(memory, b"2") == [2]


def test_a_signal_handler_may_publish(memory: ntmem.MemorySystem) -> None:
    """It interrupts who publishes: neither waits for the other, and both have a number."""
    bus = memory.bus._stream()
    with bus._numbers.lock:
        assert publish(memory, b"of the handler") == [1]
    assert publish(memory, b"x") == [2]
