"""Following changes: what is delivered, in which order, and what is said when something is missing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import pickle
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hostile import Start
from logs import new_log, put

import ntmem
from ntmem import watching
from ntmem._core.follow import Follower
from ntmem._core.logrecords import LogDamaged, Overwritten
from ntmem.watching import Subscription, WatchedChange

HANG = 30.0


@pytest.fixture
def memory() -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(engine="shared", agent_id="me") as memory:
        yield memory


def received(changes: Subscription) -> list[WatchedChange]:
    """What is there by now."""
    found = []
    while (change := changes.recv(0)) is not None:
        found.append(change)
    return found


def short(changes: Subscription) -> list[tuple[object, ...]]:
    return [(change.kind, "/".join(change.namespace), change.key, change.value) for change in received(changes)]


def test_changes_come_in_order_with_all_that_a_record_has(memory: ntmem.MemorySystem) -> None:
    memory.put("desk", "before", b"0")
    with memory.watch("desk") as changes:
        first = memory.put("desk", "target", b"3", ttl=60, ts_event=5)
        memory.add("desk", "target", b"4")  # without effect: no change
        memory.incr("desk", "orders", 2)
        memory.delete("desk", "target")
        memory.delete("desk", "target")
        put, number, deleted = received(changes)
    assert put[:5] == ("put", ("desk",), "target", b"3", first)
    assert put.ts_event == 5
    assert put.expires_at == put.ts_known + 60 * 10**9
    assert (put.writer, put.last) == ("me", True)
    assert (number.key, number.value, number.expires_at) == ("orders", b"2", None)
    assert (deleted.kind, deleted.key, deleted.value) == ("delete", "target", None)
    assert first < number.version < deleted.version
    assert repr(put) == f"<WatchedChange put desk 'target' 1 bytes version={first} writer='me'>"


def test_children_are_followed_unless_told_otherwise(memory: ntmem.MemorySystem) -> None:
    with memory.watch("a/b") as both, memory.watch("a/b", children=False) as alone:
        for namespace in ("a", "a/b", "a/bc", "a/b/c", "b", ("x", "a", "b")):
            memory.put(namespace, "k", b"")
        assert [change.namespace for change in received(both)] == [("a", "b"), ("a", "b", "c")]
        assert [change.namespace for change in received(alone)] == [("a", "b")]


def test_a_transaction_is_delivered_whole_and_its_last_change_says_so(memory: ntmem.MemorySystem) -> None:
    with memory.watch("desk") as changes:
        with memory.transaction() as t:
            t.put("desk", "a", b"1")
            t.put("desk", "a", b"2")
            t.put("other", "b", b"")
            t.delete("desk", "a")
            t.put("other", "c", b"")
        found = received(changes)
    assert [(change.kind, change.value, change.last) for change in found] == [
        ("put", b"1", False),
        ("put", b"2", False),
        ("delete", None, True),
    ]


def test_delete_namespace_is_one_change_for_those_above_and_below(memory: ntmem.MemorySystem) -> None:
    for namespace in ("a", "a/b", "a/b/c"):
        memory.put(namespace, "k", b"")
    watches = [memory.watch(namespace) for namespace in ("a", "a/b/c", "a/x", "z")]
    alone = memory.watch("a", children=False)
    assert memory.delete_namespace("a/b") == 2
    memory.delete_namespace("nothing")
    event = ("delete_namespace", "a/b", None, None)
    assert [short(watch) for watch in watches] == [[event], [event], [], []]
    assert short(alone) == []


def test_what_is_done_past_the_log_says_read_again() -> None:
    with ntmem.open(engine="shared", log_bytes=1 << 14) as memory, memory.watch("desk") as changes:
        version = memory.put_many("other", {f"k{number}": b"v" * 100 for number in range(100)})
        (change,) = received(changes)
        assert (change.kind, change.key, changes.lagged) == ("lagged", None, 1)
        assert change.version > version
        memory.put("desk", "a", b"")
        assert [change.kind for change in received(changes)] == ["put"]


def test_a_large_value_is_delivered_also_after_it_was_flushed(tmp_path: Path) -> None:
    with ntmem.open(tmp_path, engine="shared", log_bytes=1 << 14) as memory, memory.watch("desk") as changes:
        memory.put("desk", "big", b"x" * 100_000)
        assert received(changes)[0].value == b"x" * 100_000
        memory.put("desk", "big", b"y" * 100_000)
        memory.flush()
        assert received(changes)[0].value == b"y" * 100_000
        memory.put("desk", "big", b"y" * 100_000)
        memory.flush()
        memory.put("desk", "big", b"z")
        memory.flush()
        assert [change.kind for change in received(changes)] == ["lagged", "put"]
        assert changes.lagged == 1


# ---- since ----


def test_since_goes_on_behind_a_version(memory: ntmem.MemorySystem) -> None:
    versions = [memory.put("desk", "k", b"%d" % number) for number in range(5)]
    with memory.watch("desk", since=versions[2]) as changes:
        assert [change.version for change in received(changes)] == versions[3:]
        assert changes.lagged == 0
    with memory.watch("desk", since=versions[-1]) as changes:
        assert received(changes) == []
        versions.append(memory.put("desk", "k", b""))
        assert [change.version for change in received(changes)] == versions[5:]
    with memory.watch("desk", since=0) as changes:
        assert [change.version for change in received(changes)] == versions
    with pytest.raises(ValueError, match="not handed out yet"):
        memory.watch("desk", since=versions[-1] + 1)


def test_since_within_a_transaction(memory: ntmem.MemorySystem) -> None:
    with memory.watch("desk") as changes:
        memory.put_many("desk", {"a": b"", "b": b"", "c": b""})
        first = changes.recv(0)
        assert first is not None
        with memory.watch("desk", since=changes.resume_from) as rest:
            assert [change.key for change in received(rest)] == ["b", "c"]


def test_since_beyond_what_the_log_has_is_told_first() -> None:
    with ntmem.open(engine="shared", log_bytes=1 << 12) as memory:
        versions = [memory.put("desk", f"k{number}", b"v" * 50) for number in range(200)]
        with memory.watch("desk", since=versions[0]) as changes:
            gap, *rest = received(changes)
            assert (gap.kind, gap.version, changes.lagged) == ("lagged", versions[0], 1)
            found = [change.version for change in rest]
            assert found == versions[-len(found) :]
            assert changes.resume_from == versions[-1]
        with memory.watch("desk", since=found[0]) as changes:
            assert [change.version for change in received(changes)] == found[1:]
            assert changes.lagged == 0


def test_since_over_the_end_of_all_processes(tmp_path: Path) -> None:
    with ntmem.open(tmp_path, engine="shared") as memory:
        versions = [memory.put("desk", "k", b"%d" % number) for number in range(3)]
    with ntmem.open(tmp_path, engine="shared") as memory:
        with memory.watch("desk", since=versions[-1]) as changes:
            later = memory.put("desk", "k", b"")
            assert [(change.kind, change.version) for change in received(changes)] == [("put", later)]
        with memory.watch("desk", since=versions[1]) as changes:  # one is missing, and LMDB alone has it
            assert [(change.kind, change.version) for change in received(changes)] == [
                ("lagged", versions[1]),
                ("put", later),
            ]


def test_a_slow_subscriber_is_told_where_changes_are_missing() -> None:
    with ntmem.open(engine="shared", log_bytes=1 << 12) as memory, memory.watch("desk") as changes:
        memory.put("desk", "k", b"0")
        seen = changes.recv(0)
        assert seen is not None
        versions = [memory.put("desk", "k", b"%d" % number) for number in range(1, 300)]
        gap, *rest = received(changes)
        assert (gap.kind, gap.version, changes.lagged) == ("lagged", seen.version, 1)
        assert [change.version for change in rest] == versions[-len(rest) :]
        assert len(rest) > 5
        assert repr(changes) == "<Subscription desk lagged=1>"


def test_resume_from_passes_what_others_write() -> None:
    with ntmem.open(engine="shared", log_bytes=1 << 12) as memory, memory.watch("desk") as changes:
        for _ in range(300):
            version = memory.put("other", "k", b"v" * 50)
            assert changes.recv(0) is None
        assert changes.resume_from == version
        with memory.watch("desk", since=changes.resume_from) as later:
            memory.put("desk", "k", b"")
            assert [change.kind for change in received(later)] == ["put"]


@pytest.mark.parametrize("size", range(0, 160, 16))
def test_what_was_seen_before_may_be_overwritten(size: int) -> None:
    """It begins at the oldest group of the ring, which the next write overwrites: nothing behind `since` is missing."""
    with ntmem.open(engine="shared", log_bytes=1 << 12) as memory:
        for _ in range(300):
            version = memory.put("other", "k", b"v" * 50)
        with memory.watch("desk", since=version) as later:
            memory.put("desk", "k", b"x" * size)
            assert [change.kind for change in received(later)] == ["put"]
            assert later.lagged == 0


# ---- what is not known yet ----


def test_what_is_not_known_yet_is_withheld_until_it_is() -> None:
    clock = ntmem.SimulatedClock(1_000)
    with ntmem.open(engine="shared", clock=clock) as memory:
        memory.retain("px", history=True)
        with memory.watch("px") as changes:
            ahead = memory.put("px", "a", b"later", ts_known=5_000)
            memory.put("px", "b", b"sooner", ts_known=3_000)
            known = memory.put("px", "c", b"now")
            assert [change.value for change in received(changes)] == [b"now"]
            assert changes.resume_from < ahead < known
            resumed = memory.watch("px", since=changes.resume_from)
            clock.set(3_000)
            assert [change.value for change in received(changes)] == [b"sooner"]
            clock.set(6_000)
            memory.put("px", "a", b"last")
            assert [change.value for change in received(changes)] == [b"later", b"last"]
            assert [change.value for change in received(resumed)] == [b"later", b"sooner", b"now", b"last"]


def test_a_transaction_with_something_ahead_ends_without_it() -> None:
    clock = ntmem.SimulatedClock(1_000)
    with ntmem.open(engine="shared", clock=clock) as memory:
        memory.retain("px", history=True)
        with memory.watch("px") as changes:
            with memory.transaction() as t:
                t.put("px", "a", b"1")
                t.put("px", "b", b"2", ts_known=5_000)
            assert [(change.key, change.last) for change in received(changes)] == [("a", True)]
            clock.set(5_000)
            assert [(change.key, change.last) for change in received(changes)] == [("b", True)]


def test_too_much_ahead_is_bounded_and_told_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "_WITHHELD", 8)
    clock = ntmem.SimulatedClock(1)
    with ntmem.open(engine="shared", clock=clock) as memory:
        memory.retain("px", history=True)
        with memory.watch("px") as changes:
            for number in range(9):
                memory.put("px", f"k{number}", b"", ts_known=100 + number)
            assert received(changes) == []
            clock.set(104)
            assert [change.kind for change in received(changes)] == ["put"] * 4 + ["lagged"]
            clock.set(108)
            assert [change.kind for change in received(changes)] == ["lagged"]
            assert changes.lagged == 2
            assert changes._withheld == []


def test_the_system_clock_brings_what_was_withheld(memory: ntmem.MemorySystem) -> None:
    memory.retain("px", history=True)
    with memory.watch("px") as changes:
        known = memory.now() + 50_000_000
        memory.put("px", "a", b"", ts_known=known)
        change = changes.recv(HANG)
        assert change is not None
        assert change.key == "a"
        assert memory.now() >= known


# ---- waiting, closing ----


def test_recv_waits_for_another_thread(memory: ntmem.MemorySystem) -> None:
    with memory.watch("desk") as changes:
        thread = threading.Timer(0.05, memory.put, ("desk", "k", b"1"))
        thread.start()
        change = changes.recv(HANG)
        assert change is not None
        assert change.value == b"1"
        assert changes.recv(timedelta(milliseconds=1)) is None
        thread.join()


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (float("inf"), OverflowError), (float("nan"), ValueError), ("1", TypeError)],
)
def test_a_timeout_that_is_none_is_refused(memory: ntmem.MemorySystem, timeout: object, error: type) -> None:
    with memory.watch("desk") as changes, pytest.raises(error):
        changes.recv(timeout)  # type: ignore[arg-type]


def test_iteration_ends_when_it_is_closed_by_another_thread(memory: ntmem.MemorySystem) -> None:
    changes = memory.watch("desk")
    memory.put_many("desk", {"a": b"", "b": b""})
    found = []
    thread = threading.Thread(target=lambda: found.extend(changes))
    thread.start()
    changes.close()
    changes.close()
    thread.join(HANG)
    assert not thread.is_alive()
    assert [change.key for change in found] in ([], ["a"], ["a", "b"])
    with pytest.raises(ntmem.StoreClosed, match="subscription was closed"):
        changes.recv(0)


def test_a_closed_store_raises_also_in_who_waits() -> None:
    memory = ntmem.open(engine="shared")
    changes = memory.watch("desk")
    raised = []

    def wait() -> None:
        try:
            next(changes)
        except ntmem.StoreClosed as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    memory.close()
    thread.join(HANG)
    assert len(raised) == 1
    with pytest.raises(ntmem.StoreClosed):
        changes.recv(0)
    with pytest.raises(ntmem.StoreClosed):
        memory.watch("desk")


def test_a_forked_child_is_told_to_open_again(memory: ntmem.MemorySystem) -> None:
    with memory.watch("desk") as changes:
        memory.put("desk", "k", b"1")
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(BaseException):
                try:
                    changes.recv(0)
                except ntmem.StoreClosed:
                    code = 0
            os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert [change.value for change in received(changes)] == [b"1"]


def test_several_threads_share_a_subscription(memory: ntmem.MemorySystem) -> None:
    found: list[WatchedChange] = []
    with memory.watch("desk") as changes:

        def take() -> None:
            while (change := changes.recv(HANG)) is not None and change.key != "stop":
                found.append(change)

        threads = [threading.Thread(target=take) for _ in range(3)]
        for thread in threads:
            thread.start()
        versions = [memory.put("desk", "k", b"") for _ in range(2000)]
        for _ in threads:
            memory.put("desk", "stop", b"")
        for thread in threads:
            thread.join(HANG)
    assert sorted(change.version for change in found) == versions


def test_asyncio(memory: ntmem.MemorySystem) -> None:
    async def run() -> list[str | None]:
        with memory.watch("desk") as changes:
            assert await changes.arecv(0.01) is None
            waiting = asyncio.create_task(changes.arecv())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            for number in range(5):
                memory.put("desk", f"k{number}", b"")
            found = []
            async for change in changes:
                found.append(change.key)
                if len(found) == 5:
                    changes.close()
        return found

    assert asyncio.run(run()) == [f"k{number}" for number in range(5)]


def test_a_damaged_log_is_an_error(tmp_path: Path) -> None:
    with new_log() as log:
        follower = Follower(log, b"ns", children=False)
        log.append([put(b"a", b"1")])
        log.append([put(b"b", b"needle")])
        assert [[record.key for record in group] for group in follower.read()] == [[b"a"], [b"b"]]
        follower = Follower(log, b"ns", children=False, position=follower.position)
        end = log.append([put(b"c", b"needle")])
        assert log.region.path is not None
        content = Path(log.region.path).read_bytes()
        with open(log.region.path, "r+b") as file:
            file.seek(content.rindex(b"needle"))
            file.write(b"N")
        assert follower.wait(0)
        with pytest.raises(LogDamaged, match="no sound group"):
            follower.read()
        assert end == log.next_sequence - 1 + (1 << 44)


def test_a_position_that_is_gone_is_an_error_and_the_oldest_is_found() -> None:
    with new_log(1 << 12) as log:
        follower = Follower(log, b"ns", children=False)
        for number in range(100):
            log.append([put(b"%d" % number, b"x" * 40)])
            log.advance_flushed(log.committed)
        for attempt in (lambda: follower.wait(0), follower.read):
            with pytest.raises(Overwritten):
                attempt()
        first = follower.seek()
        assert first is not None
        assert follower.position >= log.begin
        keys = [int(record.key) for group in follower.read() for record in group]
        assert keys == list(range(100 - len(keys), 100))
        assert len(keys) > 15
        assert first == (1 << 44) + 101 - len(keys)
        later = follower.seek(1 << 11)
        assert later is not None
        assert later > first
        assert follower.seek(1 << 13) is None
        assert follower.position == log.committed


# ---- engines ----


def test_the_lmdb_engine_refuses(tmp_path: Path) -> None:
    with ntmem.open(tmp_path, engine="lmdb") as memory, pytest.raises(ntmem.StorageError, match="engine='shared'"):
        memory.watch("desk")


def test_a_reader_follows_from_before_anybody_writes(tmp_path: Path, start: Start) -> None:
    with ntmem.open(tmp_path, engine="shared") as memory:
        version = memory.put("desk", "k", b"0")
    with ntmem.open(tmp_path, read_only=True) as reader:
        changes, again, missed = (reader.watch("desk", since=since) for since in (None, version, 0))
        assert changes.recv(0) is None
        writer = start(WRITER, tmp_path)
        writer.tell("1")
        writer.line()
        assert short(changes) == short(again) == [("put", "desk", "k", b"1")]
        assert [kind for kind, *_ in short(missed)] == ["lagged", "put"]
        writer.tell("2")
        writer.line()
        assert short(changes) == short(missed) == [("put", "desk", "k", b"2")]
        writer.tell()
        writer.end()


def test_a_reader_is_told_of_who_has_come_and_gone(tmp_path: Path, start: Start) -> None:
    with ntmem.open(tmp_path, engine="shared") as memory:
        memory.put("desk", "k", b"0")
    with ntmem.open(tmp_path, read_only=True) as reader:
        changes = reader.watch("desk")
        writer = start(WRITER, tmp_path)
        writer.tell("1")
        version = int(writer.line())
        writer.tell()
        writer.end()
        assert [change.kind for change in received(changes)] == ["lagged"]
        assert (changes.lagged, changes.resume_from) == (1, version)
        assert received(changes) == []


WRITER = """
memory = ntmem.open(sys.argv[1], engine="shared")
while value := hear():
    say(memory.put("desk", "k", value.encode()))
memory.close()
"""


def test_it_is_not_pickled(memory: ntmem.MemorySystem) -> None:
    with memory.watch("desk") as changes, pytest.raises(TypeError, match="resume_from"):
        pickle.dumps(changes)


def test_arguments_are_checked(memory: ntmem.MemorySystem) -> None:
    with pytest.raises(ntmem.InvalidNamespace):
        memory.watch("")
    with pytest.raises(TypeError):
        memory.watch("desk", since="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="since"):
        memory.watch("desk", since=-1)
    with pytest.raises(TypeError):
        memory.watch("desk", children=1)  # type: ignore[arg-type]


def test_every_change_of_many_namespaces_against_a_list(memory: ntmem.MemorySystem) -> None:
    names = ["a", "a/b", "a/b/c", "ab", "b/a"]
    expected = []
    with memory.watch("a/b") as changes:
        for number, name in enumerate(itertools.islice(itertools.cycle(names), 3000)):
            version = memory.put(name, f"k{number % 7}", b"%d" % number)
            if name.startswith("a/b"):
                expected.append((version, b"%d" % number))
        assert [(change.version, change.value) for change in received(changes)] == expected
