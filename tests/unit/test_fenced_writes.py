"""What is written under a fence: refused when that is stale, kept wherever it lies, alike by both engines."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fenced import both, steps
from hostile import Start
from locked import expired, writes

import ntmem
from ntmem import Fence, StaleFence

pytestmark = pytest.mark.usefixtures("engine")
shared = pytest.mark.only("shared")
cached = pytest.mark.only("shared", "tiny")

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
SHORT = 0.02
ELSEWHERE = "memory = ntmem.open(sys.argv[1], agent_id='elsewhere')\n"


# ---- what is written under a fence ----


@cached
@pytest.mark.parametrize("form", ["lock", "token", "fence", "pickled"])
def test_every_write_keeps_its_fence(memory: ntmem.MemorySystem, form: str) -> None:
    with memory.lock("BTCUSDT") as lock:
        fence, token = lock.fence, lock.token
        given = {"lock": lock, "token": token, "fence": fence, "pickled": pickle.loads(pickle.dumps(token))}[form]
        for flush in (lambda: None, memory.flush):
            for name, write in writes(memory, given).items():
                write()
                flush()
                record = memory.get_record("desk", name)
                assert record is not None, name
                assert (record.fence, record.writer) == (fence, "agent_1"), name
                assert memory.delete("desk", name, fence=given)
                assert not memory.exists("desk", name)
                assert not memory.delete("desk", name, fence=given)


STALE = {
    "not held": lambda memory: memory.lock("BTCUSDT"),
    "never granted": lambda memory: Fence("BTCUSDT", 12345),
    "zero": lambda memory: Fence("BTCUSDT", 0),
    "negative": lambda memory: Fence("BTCUSDT", -1),
    "huge": lambda memory: Fence("BTCUSDT", 2**64),
    "nobody's": lambda memory: Fence("x" * 300, 1),
    "of another": lambda memory: Fence("ETHUSDT", memory.acquire_lock("BTCUSDT").fence.number),
}


@shared
@pytest.mark.parametrize("kind", STALE)
def test_stale_fences_write_nothing(memory: ntmem.MemorySystem, kind: str) -> None:
    stale = STALE[kind](memory)
    for name, write in writes(memory, stale).items():
        with pytest.raises(StaleFence, match=r"not held|not current"):
            write()
        assert not memory.exists("desk", name)
    with pytest.raises(StaleFence):
        memory.delete("desk", "put", fence=stale)
    assert list(memory.scan("desk")) == []


@shared
def test_what_was_given_back_or_is_over_writes_nothing(memory: ntmem.MemorySystem) -> None:
    given_back = memory.acquire_lock("BTCUSDT")
    memory.release_lock(given_back)
    late = memory.lock("BTCUSDT", ttl=SHORT)
    late.acquire()
    expired(late)
    for stale in (given_back, late):
        for name, write in writes(memory, stale).items():
            with pytest.raises(StaleFence, match="acquire it again"):
                write()
            assert not memory.exists("desk", name)


@pytest.mark.parametrize("wrong", ["BTCUSDT#1", b"x", 5, True, ("BTCUSDT", 1), object(), Fence(1, 2), Fence("x", "1")])
def test_what_is_no_fence(memory: ntmem.MemorySystem, wrong: Any) -> None:
    for name, write in writes(memory, wrong).items():
        with pytest.raises(TypeError, match=r"[fF]ence"):
            write()
        assert not memory.exists("desk", name)


@cached
@pytest.mark.parametrize("flushed", [False, True])
def test_what_was_written_under_a_lock_is_changed_under_it(memory: ntmem.MemorySystem, flushed: bool) -> None:
    with memory.lock("BTCUSDT") as first:
        version = memory.put("desk", "target", b"1", fence=first)
    if flushed:
        memory.flush()
    without: list[Callable[[], Any]] = [
        lambda: memory.put("desk", "target", b"2"),
        lambda: memory.put("desk", "target", b"2", if_version=version),
        lambda: memory.put("desk", "target", b"2", ttl=5),
        lambda: memory.incr("desk", "target"),
        lambda: memory.delete("desk", "target"),
        lambda: memory.put_many("desk", {"other": b"1", "target": b"2"}),
        lambda: run(memory, None),
        lambda: memory.namespace("desk", codec="bytes").put("target", b"2"),
        lambda: memory.namespace("desk").pop("target"),
        lambda: memory.namespace("desk").clear(),
    ]
    for write in without:
        with pytest.raises(StaleFence, match=r"'target' was written under the lock of 'BTCUSDT'"):
            write()
    assert not memory.exists("desk", "other")
    with memory.lock("ETHUSDT") as other:
        for write in (
            lambda: memory.put("desk", "target", b"2", fence=other),
            lambda: memory.delete("desk", "target", fence=other),
            lambda: run(memory, other),
        ):
            with pytest.raises(StaleFence, match=r"'BTCUSDT', the fence is one of 'ETHUSDT'"):
                write()
    assert memory.get("desk", "target") == b"1"
    with memory.lock("BTCUSDT") as later:
        assert memory.put("desk", "target", b"2", fence=later) > version
    assert memory.get("desk", "target") == b"2"


def run(memory: ntmem.MemorySystem, fence: Any) -> None:
    with memory.transaction(fence) as t:
        t.put("desk", "before", b"1")
        t.put("desk", "target", b"3")


@cached
@pytest.mark.parametrize("flushed", [False, True])
def test_a_guard_ends_with_its_record(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock, flushed: bool) -> None:
    settle: Callable[[], None] = memory.flush if flushed else (lambda: None)
    with memory.lock("BTCUSDT") as lock:
        memory.put("desk", "deleted", b"1", fence=lock)
        memory.put("desk", "expired", b"1", ttl=60, fence=lock)
        memory.put("desk", "transacted", b"1", fence=lock)
        settle()
        memory.delete("desk", "deleted", fence=lock)
        with memory.transaction(lock) as t:
            t.delete("desk", "transacted")
    settle()
    clock.set(START + 60 * SECOND - 1)
    with pytest.raises(StaleFence):
        memory.put("desk", "expired", b"2")
    clock.set(START + 60 * SECOND)
    for key in ("deleted", "expired", "transacted"):
        memory.put("desk", key, b"2")
        settle()
        assert memory.get("desk", key) == b"2"
        record = memory.get_record("desk", key)
        assert record is not None
        assert record.fence is None
        with memory.lock("ETHUSDT") as other:  # and the next lock may take it
            memory.put("desk", key, b"3", fence=other)


@cached
def test_a_lower_number_is_refused(memory: ntmem.MemorySystem) -> None:
    """Two leases of one lock are never current at once; the record is asked all the same."""
    with memory.lock("BTCUSDT") as first:
        pass
    with memory.lock("BTCUSDT") as second:
        memory.put("desk", "target", b"2", fence=second)
        assert first.fence is None
        assert second.fence is not None
        with pytest.raises(StaleFence):
            memory.put("desk", "target", b"1", fence=second.fence._replace(number=second.fence.number - 1))
    assert memory.get("desk", "target") == b"2"


@cached
def test_other_namespaces_and_children_are_free(memory: ntmem.MemorySystem) -> None:
    with memory.lock("BTCUSDT") as lock:
        memory.put("desk", "target", b"1", fence=lock)
        memory.put("desk", "plain", b"1")
    memory.put("desk", "plain", b"2")
    memory.put("desk/child", "target", b"2")
    memory.put("other", "target", b"2")
    assert memory.delete_namespace("desk") == 3  # administration asks no fence
    memory.put("desk", "target", b"2")


@cached
def test_adding_what_is_guarded_is_refused_or_does_nothing(memory: ntmem.MemorySystem) -> None:
    with memory.lock("BTCUSDT") as lock:
        memory.put("desk", "target", b"1", fence=lock)
        assert not memory.add("desk", "target", b"2", fence=lock)
    with pytest.raises(StaleFence):
        memory.add("desk", "target", b"2")
    assert memory.get("desk", "target") == b"1"


@cached
@pytest.mark.parametrize("size", [0, 100, 9_000, 300_000])
def test_values_of_any_size_keep_their_fence(ram: Path, size: int) -> None:
    """The log is 64 KiB: over an eighth of that they are staged."""
    with ntmem.open(ram / "store", log_bytes=65536) as memory:
        with memory.lock("BTCUSDT") as lock:
            for _ in range(3):
                memory.put("desk", "target", bytes(size), fence=lock)
                fence = lock.fence
                record = memory.get_record("desk", "target")
                assert record is not None
                assert (record.value, record.fence) == (bytes(size), fence)
        with pytest.raises(StaleFence):
            memory.put("desk", "target", b"x" * size, fence=lock.fence or fence)
        for value in (b"", bytes(300_000)):
            with pytest.raises(StaleFence):
                memory.put("desk", "target", value)
    with ntmem.open(ram / "store") as memory:
        record = memory.get_record("desk", "target")
        assert record is not None
        assert (record.value, record.fence) == (bytes(size), fence)
        with pytest.raises(StaleFence):
            memory.put("desk", "target", b"1")
        with memory.lock("BTCUSDT") as lock:
            memory.delete("desk", "target", fence=lock)


@cached
@pytest.mark.parametrize("keys", [3, 3_000])
def test_transactions_of_any_size_keep_their_fence(ram: Path, keys: int) -> None:
    """The log is 64 KiB: three thousand keys go past it."""
    mapping = {f"key {number}": b"x" * 40 for number in range(keys)}
    with ntmem.open(ram / "store", log_bytes=65536, agent_id="agent_1") as memory:
        with memory.lock("BTCUSDT") as lock:
            fence = lock.fence
            memory.put_many("desk", mapping, fence=lock)
            with memory.transaction(lock) as t:
                for key in mapping:
                    t.incr("count", key)
        for stale in (None, fence):
            with pytest.raises(StaleFence):
                memory.put_many("desk", dict.fromkeys(mapping, b"y"), fence=stale)
        assert memory.get_many("desk", mapping) == mapping
    with ntmem.open(ram / "store") as memory:
        for key in mapping:
            for namespace in ("desk", "count"):
                record = memory.get_record(namespace, key)
                assert record is not None
                assert (record.fence, record.writer) == (fence, "agent_1")


@cached
def test_history_keeps_fences(memory: ntmem.MemorySystem, clock: ntmem.SimulatedClock) -> None:
    memory.retain("desk", history=True)
    memory.put("desk", "target", b"1")
    fences: list[Fence | None] = [None]
    for number in range(3):
        clock.set(START + (number + 1) * SECOND)
        with memory.lock("BTCUSDT") as lock:
            if number == 1:
                memory.delete("desk", "target", fence=lock)
            else:
                memory.put("desk", "target", b"%d" % number, fence=lock)
            fences.append(lock.fence)
        if number == 1:
            memory.flush()
        else:
            with pytest.raises(StaleFence):
                memory.put("desk", "target", b"x")
    memory.put("desk", "free", b"1")
    for _ in range(2):
        history = memory.history("desk", "target")
        assert [record.fence for record in reversed(history)] == fences
        assert {record.writer for record in history} == {"agent_1"}
        assert [record.value for record in reversed(history)] == [b"1", b"0", None, b"2"]
        past = memory.get_record("desk", "target", as_of=START + SECOND)
        assert past is not None
        assert (past.value, past.fence) == (b"0", fences[1])
        latest = memory.get_record("desk", "target", as_of=ntmem.LATEST)
        assert latest is not None
        assert latest.fence == fences[3]
        memory.flush()


@cached
def test_fences_are_kept_over_reopening(ram: Path) -> None:
    with ntmem.open(ram / "store") as memory:
        memory.retain("past", history=True)
        with memory.lock("BTCUSDT") as lock:
            fence = lock.fence
            for namespace in ("desk", "past"):
                memory.put(namespace, "target", b"1", fence=lock)
    for read_only in (True, False):
        with ntmem.open(ram / "store", read_only=read_only) as memory:
            record = memory.get_record("desk", "target")
            assert record is not None
            assert record.fence == memory.history("past", "target")[0].fence == fence
    with ntmem.open(ram / "store") as memory:
        for stale in (fence, None):
            with pytest.raises(StaleFence):
                memory.put("desk", "target", b"2", fence=stale)
        with memory.lock("BTCUSDT") as lock:
            assert lock.fence is not None
            assert fence is not None
            assert lock.fence.number > fence.number
            memory.put("desk", "target", b"2", fence=lock)


@cached
def test_what_is_watched_has_its_writer(memory: ntmem.MemorySystem) -> None:
    with memory.watch("desk") as changes, memory.lock("BTCUSDT") as lock:
        for name, write in writes(memory, lock).items():
            write()
            memory.delete("desk", name, fence=lock)
        seen = []
        while (change := changes.recv(timeout=0)) is not None:
            seen.append(change)
    assert {change.writer for change in seen} == {"agent_1"}
    assert {change.key for change in seen if change.kind == "put"} == {*writes(memory, None), "other", "transacted"}
    assert sum(change.kind == "delete" for change in seen) == len(writes(memory, None))


@cached
def test_a_fence_is_about_the_resource_and_not_about_who_holds_it(ram: Path, start: Start) -> None:
    """Whoever has the fence writes under it, in any process: as long as it is current."""
    with ntmem.open(ram / "store", agent_id="agent_1") as memory:
        child = start(
            ELSEWHERE
            + """
while number := hear():
    fence = ntmem.Fence("BTCUSDT", int(number))
    say(outcome(memory.put, "desk", "target", b"child", fence=fence).split(":")[0].rstrip("0123456789"))
""",
            ram / "store",
        )
        with memory.lock("BTCUSDT") as lock:
            memory.put("desk", "target", b"1", fence=lock)
            assert lock.fence is not None
            number = lock.fence.number
            child.tell(str(number))
            assert child.line() == ""
            record = memory.get_record("desk", "target")
            assert record is not None
            assert (record.value, record.fence, record.writer) == (b"child", lock.fence, "elsewhere")
        child.tell(str(number))
        assert child.line() == "StaleFence"


# ---- no shared memory ----


@pytest.mark.only("lmdb")
def test_without_shared_memory_locks_are_refused(memory: ntmem.MemorySystem) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: memory.lock("BTCUSDT").acquire(),
        lambda: memory.lock("BTCUSDT").__enter__(),
        lambda: memory.acquire_lock("BTCUSDT", 0),
        lambda: asyncio.run(memory.aacquire_lock("BTCUSDT")),
        lambda: memory.release_lock("BTCUSDT#1"),
        lambda: memory.locks.renew("BTCUSDT#1", 5),
        lambda: memory.agents.register("agent"),
    ]
    for call in calls:
        with pytest.raises(ntmem.CoordinationError, match="engine='shared'"):
            call()
    assert memory.locks.list() == []
    assert not memory.locks.is_locked("BTCUSDT")
    assert not memory.locks.is_current("BTCUSDT#1")
    assert memory.agents.list() == []
    assert "unlocked" in repr(memory.lock("BTCUSDT"))
    for name, write in writes(memory, Fence("BTCUSDT", 1)).items():
        with pytest.raises(StaleFence, match="engine='shared'"):
            write()
        assert not memory.exists("desk", name)


@pytest.mark.only("lmdb")
def test_guards_hold_whatever_opens_the_store(ram: Path) -> None:
    with ntmem.open(ram / "store", engine="shared") as memory, memory.lock("BTCUSDT") as lock:
        fence = lock.fence
        memory.put("desk", "target", b"1", fence=lock)
    with ntmem.open(ram / "store", engine="lmdb") as memory:
        record = memory.get_record("desk", "target")
        assert record is not None
        assert record.fence == fence
        for write in (lambda: memory.put("desk", "target", b"2"), lambda: memory.delete("desk", "target")):
            with pytest.raises(StaleFence, match="'BTCUSDT'"):
                write()
        memory.put("desk", "other", b"2")


# ---- both engines leave the same ----


@shared
@pytest.mark.parametrize("seed", range(6))
def test_both_engines_leave_the_same_on_disk(ram: Path, seed: int) -> None:
    """The engine that writes into LMDB at once, given the fences that were granted, is the oracle of the other."""
    with both(ram, log_bytes=65536) as stores:
        for step in steps(seed, 150):
            stores.do(step)
        stores.compare()
