"""Things that went wrong once when two of them met: changes past the log, a full store, leaving and coming.

What is lost with its region, and what is interrupted, have files of their own (``test_races_*.py``).
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hostile import HANG, Start

import ntmem
from ntmem._core.log import LogFull
from ntmem._core.logrecords import KIND_PUT
from ntmem.tiers.log import LogEngine
from ntmem.tiers.logreads import LiveTables
from ntmem.tiers.region import region_path
from ntmem.tiers.shared import SharedStore

pytestmark = [pytest.mark.only("shared"), pytest.mark.usefixtures("engine")]

SMALL = 1 << 16  # a log for which little is much


def live(memory: ntmem.MemorySystem) -> Any:
    return memory._live


def past_the_log(memory: ntmem.MemorySystem, namespace: str = "a", value: bytes = b"x") -> None:
    """Write more at once than half of a small log."""
    with memory.transaction() as txn:
        for n in range(200):
            txn.put(namespace, f"k{n}", value * 300)


@contextmanager
def waiting_disk(memory: ntmem.MemorySystem) -> Iterator[threading.Event]:
    """Keep the flusher from LMDB until the event is set, or the block ends."""
    inside, done = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        inside.set()
        done.wait(HANG)

    holder = threading.Thread(target=lambda: live(memory).store.write(hold))
    holder.start()
    try:
        assert inside.wait(HANG)
        yield done
    finally:
        done.set()
        holder.join()


# -- past the log


def test_one_change_over_half_the_log(ram: Path) -> None:
    key = "k" * 40_000
    with ntmem.open(ram / "store", log_bytes=SMALL) as memory:
        for n in range(3):
            memory.put("a", f"a{n}", b"x")
        memory.flush()
        version = memory.put("a", key, b"v")
        memory.flush(HANG)
        assert memory.put("a", "z", b"1") > version
        assert memory.get("a", "a0") == b"x"
        assert memory.get("a", key) == b"v"
    with ntmem.open(ram / "store", log_bytes=SMALL) as memory:
        assert memory.get("a", key) == b"v"


def test_many_keys_are_read_as_of_one_moment(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the snapshot and the look into the log one key changes past the log, and then another one in it."""
    snapshot: Any = LiveTables.snapshot
    times: list[int] = []

    with ntmem.open(ram / "store", log_bytes=SMALL) as memory:

        def meddle() -> None:
            with memory.transaction() as txn:
                txn.put("a", "second", b"1")
                for n in range(200):
                    txn.put("a", f"k{n}", b"x" * 300)
            memory.put("a", "first", b"1")

        def delayed(tables: LiveTables) -> int:
            position: int = snapshot.fget(tables)
            if not times:
                times.append(position)
                meddler = threading.Thread(target=meddle)
                meddler.start()
                meddler.join()
            return position

        memory.put("a", "first", b"0")
        memory.put("a", "second", b"0")
        for _ in range(2 * SMALL // 300):  # until the log has nothing of the two any more
            memory.put("a", "other", b"x" * 300)
        memory.flush()
        monkeypatch.setattr(LiveTables, "snapshot", property(delayed))
        found = memory.get_many("a", ["first", "second"])
        assert times
        assert found in ({"first": b"0", "second": b"0"}, {"first": b"1", "second": b"1"})


# -- a full store


def fill(memory: ntmem.MemorySystem) -> None:
    with pytest.raises(ntmem.MapFull):
        for n in range(100_000):
            memory.put("a", f"k{n}", b"x" * 4000)


def test_what_is_done_past_the_log_of_a_full_store_is_not_reported_as_refused(ram: Path) -> None:
    with ntmem.open(ram / "store", log_bytes=1 << 20, max_storage_bytes=8 << 20, max_flush_lag=2) as memory:
        memory.put("small", "k", b"v")
        fill(memory)
        done = True
        try:
            with memory.transaction() as txn:
                txn.incr("count", "n")
                for n in range(200):
                    txn.put("large", f"k{n}", b"y" * 4000)
        except ntmem.MapFull:
            done = False
        assert (memory.get("count", "n") is not None) == (memory.get("large", "k0") is not None) == done
        assert memory.delete_namespace("small") == 1
        assert memory.get("small", "k") is None
        assert memory.delete_namespace("a") > 0
        assert memory.get("a", "k0") is None


def test_waiting_for_the_disk_after_a_transaction_that_failed_past_the_log(
    ram: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its versions are never to be on disk; who waits for them, or for those before them, does not wait for ever."""

    def fail(*_: object) -> None:
        raise ntmem.DiskFull("no room")

    with ntmem.open(ram / "store", log_bytes=SMALL) as memory:
        memory.put("a", "k", b"1")
        memory.flush()
        with monkeypatch.context() as patch, pytest.raises(ntmem.DiskFull):
            patch.setattr(LogEngine, "_write_all", fail)
            past_the_log(memory)
        memory.wait_durable(live(memory).last_version(), timeout=5.0)
        memory.wait_durable(memory.put_many("a", {}), timeout=5.0)
        assert memory.get("a", "k0") is None


def test_large_values_are_taken_again_when_there_is_room(ram: Path) -> None:
    with ntmem.open(ram / "store", log_bytes=1 << 20, max_storage_bytes=8 << 20) as memory:
        fill(memory)
        memory.delete_namespace("a")
        until = time.monotonic() + HANG
        while memory.get("a", "large") is None and time.monotonic() < until:
            with suppress(ntmem.MapFull):  # until the flusher has noticed, and LMDB has the pages back
                memory.put("a", "small", b"1")
                memory.flush(HANG)
                memory.put("a", "large", b"x" * 200_000)
        assert memory.get("a", "large") == b"x" * 200_000


class Watched:
    """A log that tells when it had no room."""

    def __init__(self, log: Any, full: threading.Event) -> None:
        self._log, self._full = log, full
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, *args: Any, **kwargs: Any) -> int:
        try:
            version: int = self._log.append(*args, **kwargs)
        except LogFull:
            self.refused += 1
            self._full.set()
            raise
        return version


def test_a_change_that_locks_the_log_waits_for_room_in_it(ram: Path) -> None:
    with ntmem.open(ram / "store", log_bytes=SMALL) as memory:
        memory.put("a", "k", b"1")
        memory.flush()
        log = live(memory).log
        with waiting_disk(memory) as goes_on:
            filler = (KIND_PUT, 0, b"\x04fill", b"k", b"me", b"v" * 2000, 0, 1, 0)
            with suppress(LogFull):
                while True:
                    log.append([filler], 0.0)
            live(memory).log = watched = Watched(log, goes_on)
            with memory.transaction() as txn:
                txn.add("a", "k", b"0")  # it exists: there is nothing to append, but it is part of what was decided
                txn.put("a", "b", b"x" * 3000)
            live(memory).log = log
        assert watched.refused
        assert memory.get("a", "b") == b"x" * 3000


# -- coming and going


def test_a_reader_that_leaves_last_leaves_the_clock_where_it_was_set(ram: Path, start: Start) -> None:
    path = ram / "store"
    clock = ntmem.SimulatedClock(1000)
    memory = ntmem.open(path, clock=clock)
    memory.put("a", "k", b"1")
    memory.flush()
    reader = start(
        """
memory = ntmem.open(sys.argv[1], read_only=True)
say(memory.now()); hear()
say(memory.now())
memory.close()
""",
        path,
    )
    assert reader.line() == "1000"
    clock.set(5000)
    memory.close()
    reader.tell()
    assert reader.end() == "5000"
    with ntmem.open(path) as memory:
        assert memory.now() == 5000


def test_a_region_that_was_removed_is_not_joined(ram: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who left last still has it mapped, and counts as a user until the kernel is done with that process."""
    path = ram / "store"
    leaver = start(
        """
from ntmem.tiers.region import AttachLock
memory = ntmem.open(sys.argv[1])
memory.put("a", "k", b"1")
log = memory._live.log
memory.close()
user = AttachLock(sys.argv[1]); user.join(log=True)
say("left"); hear()
user.release()
say("gone"); hear()
""",
        path,
    )
    assert leaver.line() == "left"
    mapped_log = SharedStore.mapped_log
    looks: list[SharedStore] = []

    def look(store: SharedStore) -> Any:
        try:
            return mapped_log(store)
        except FileNotFoundError:
            if not looks:
                leaver.tell()
                assert leaver.line() == "gone"
            looks.append(store)
            raise

    monkeypatch.setattr(SharedStore, "mapped_log", look)
    with ntmem.open(path) as memory:
        assert looks
        region = live(memory).log.region.fileno()
        assert os.fstat(region).st_ino == os.stat(region_path(str(path))).st_ino  # others will find it
        assert memory.get("a", "k") == b"1"


def test_nothing_is_acknowledged_after_the_last_look_at_the_log(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread is in the middle of a put while another one closes the store."""
    look = LogEngine._look
    looking, closed = threading.Event(), threading.Event()

    def slow(engine: LogEngine, namespace: Any) -> tuple[bytes, bool, int]:
        found = look(engine, namespace)
        looking.set()
        assert closed.wait(HANG)
        return found

    monkeypatch.setattr(LogEngine, "_look", slow)
    memory = ntmem.open(ram / "store")
    acknowledged: list[int] = []

    def put() -> None:
        with suppress(ntmem.StoreClosed):
            acknowledged.append(memory.put("a", "late", b"v"))

    writer = threading.Thread(target=put)
    writer.start()
    assert looking.wait(HANG)
    memory.close()
    closed.set()
    writer.join()
    monkeypatch.setattr(LogEngine, "_look", look)
    with ntmem.open(ram / "store") as memory:
        assert (memory.get("a", "late") == b"v") == bool(acknowledged)


def test_closing_a_private_store_wakes_who_waits_for_its_disk() -> None:
    for _ in range(20):
        memory = ntmem.open(durability="disk", log_bytes=SMALL)
        busy = threading.Semaphore(0)

        def work(memory: ntmem.MemorySystem = memory, busy: threading.Semaphore = busy) -> None:
            with suppress(ntmem.NtmemError):
                while True:
                    memory.put("a", "k", b"1")
                    busy.release()

        threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(6):
            assert busy.acquire(timeout=HANG)
        memory.close()
        for thread in threads:
            thread.join(HANG)
            assert not thread.is_alive()


def test_a_reader_closes_whoever_is_opening(ram: Path, start: Start) -> None:
    path = ram / "store"
    with ntmem.open(path) as memory:
        memory.put("a", "k", b"1")
        reader = start(
            """
memory = ntmem.open(sys.argv[1], read_only=True)
say(memory.get("a", "k")); hear()
memory.close()
files = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
say([file for file in files if os.path.lexists(file) and "attach" in os.readlink(file)])
""",
            path,
        )
        assert reader.line() == "b'1'"
        with (path / "open.lock").open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            reader.tell()
            assert reader.end() == "[]"


def test_engine_lmdb_does_not_come_beside_the_log_by_itself(ram: Path, start: Start) -> None:
    """Where shared memory is not writable the default is the other engine."""
    path = ram / "store"
    with ntmem.open(path) as memory:
        memory.put("a", "k", b"1")
        other = start(
            """
from ntmem.tiers import region
region.SHARED_MEMORY = "/nonexistent"
memory = None
def come():
    global memory
    memory = ntmem.open(sys.argv[1])
say(outcome(come))
""",
            path,
            env={"NTMEM_ENGINE": ""},
        )
        assert other.end().startswith("StorageError: ")
        assert memory.put("a", "k", b"2") == 2
    with ntmem.open(path) as memory:
        assert memory.get("a", "k") == b"2"
