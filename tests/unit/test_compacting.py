"""Compacting gives back what is over, under nobody's hands, and loses nothing at any instant."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hostile import Start

import ntmem

SECOND = 10**9

pytestmark = pytest.mark.usefixtures("engine")


def test_expired_records_are_given_back_at_once(ram: Path) -> None:
    clock = ntmem.SimulatedClock(SECOND)
    with ntmem.open(ram / "desk", clock=clock) as memory:
        memory.retain("past", history=True)
        memory.put_many("desk", {f"{i}": b"x" * 500 for i in range(1000)}, ttl=10)
        memory.put_many("past", {f"{i}": b"%d" % i for i in range(300)}, ttl=10)
        memory.put("desk", "stays", b"1", ttl=1000)
        memory.flush()
        clock.set(100 * SECOND)
        report = memory.compact()
        assert report.expired == 1300
        assert report.free_after - report.free_before > 400_000
        assert memory.stats().l3_entries == 1
        assert memory.get("desk", "stays") == b"1"
        found = memory.get_record("past", "7", as_of=SECOND)
        assert found is not None
        assert found.value == b"7"
        assert memory.compact().expired == 0
        assert memory.verify().ok


@pytest.mark.only("shared")
def test_vectors_and_observations_are_compacted(ram: Path) -> None:
    with ntmem.open(ram / "desk", graph_share=0) as memory:
        memory.vectors.add_many("setups", [str(i) for i in range(2500)], [[i % 50, i // 50] for i in range(1, 2501)])
        for i in range(100):
            memory.observations.append("market", "BTC", i, {"bid": i})
        report = memory.compact()
        assert (report.collections, report.rows) == (1, 100)
        info = memory.observations.info("market", "BTC")
        assert info is not None
        assert info.live_rows == 0
        assert memory.compact().collections == 0
    with ntmem.open(ram / "desk", enable_compression=False) as memory:
        memory.observations.append("market", "BTC", 0, {"bid": 0})
        assert memory.compact().rows == 0
    with ntmem.open(ram / "desk", read_only=True) as memory, pytest.raises(ntmem.ReadOnlyError):
        memory.compact()


@pytest.mark.only("shared", "lmdb")
def test_writers_go_on_while_it_is_compacted(ram: Path, start: Start) -> None:
    writer = start(
        """
memory = ntmem.open(sys.argv[1])
say("ready")
for n in range(100_000):
    memory.put("desk", f"{n % 1000}", b"%d" % n, ttl=1e-6 if n % 2 else None)
    memory.put("count", "n", b"%d" % n)
""",
        ram / "desk",
    )
    writer.line()
    with ntmem.open(ram / "desk") as memory:
        seen = [int(memory.get("count", "n", b"0"))]
        for _ in range(5):
            memory.compact()
            seen.append(int(memory.get("count", "n", b"0")))
        writer.kill()
        memory.flush()
        assert memory.verify().ok
        assert seen == sorted(seen)
        last = int(memory.get("count", "n", b"0"))
        for n in range(max(last - 900, 0), last):
            value = memory.get("desk", f"{n % 1000}")
            assert value is None if n % 2 else value is not None and int(value) >= n


def filled(path: Path) -> tuple[int, int]:
    """A store that is mostly air; returns a version and a fence that it gave."""
    with ntmem.open(path) as memory:
        memory.put_many("air", {f"{i}": b"x" * 1000 for i in range(1000)})
        version = memory.put_many("desk", {f"{i}": b"y" * 100 for i in range(50)})
        memory.flush()
        memory.delete_namespace("air")
        if memory.stats().engine == "lmdb":
            return version, 0
        with memory.lock("desk") as lock:
            return memory.put("desk", "fenced", b"1", fence=lock), lock.fence.number


def check_whole(path: Path, given: tuple[int, int], *, verified: bool = True) -> tuple[int, int]:
    """That nothing is missing and numbers rise; return the next ones."""
    if verified:
        assert ntmem.verify(path).ok
    with ntmem.open(path) as memory:
        found = dict(memory.scan("desk"))
        assert {key: value for key, value in found.items() if key.isdigit()} == {f"{i}": b"y" * 100 for i in range(50)}
        if memory.stats().engine == "lmdb":
            after = memory.put("more", "x", b""), 0
        else:
            with memory.lock("desk") as lock:
                after = memory.put("more", "x", b""), lock.fence.number
                assert after[1] > given[1]
        assert after[0] > given[0]
        return after


def test_offline_the_file_becomes_smaller(ram: Path) -> None:
    given = filled(ram / "desk")
    mode = (ram / "desk" / "data.mdb").stat().st_mode
    report = ntmem.compact(ram / "desk")
    assert report.bytes_before > 1_000_000 > 100_000 > report.bytes_after
    assert report.free_before > 900_000
    assert report.bytes_after == (ram / "desk" / "data.mdb").stat().st_size
    assert (ram / "desk" / "data.mdb").stat().st_mode == mode
    assert not list((ram / "desk").glob("compacted-*"))
    check_whole(ram / "desk", given)
    with pytest.raises(ntmem.StorageError, match="there is no store"):
        ntmem.compact(ram)


def test_a_store_that_somebody_has_open_is_left_alone(ram: Path, start: Start) -> None:
    filled(ram / "desk")
    inode = (ram / "desk" / "data.mdb").stat().st_ino
    with ntmem.open(ram / "desk"), pytest.raises(ntmem.StorageError, match="is open in this process"):
        ntmem.compact(ram / "desk")
    for how in ("", "read_only=True"):
        child = start(f"memory = ntmem.open(sys.argv[1], {how}); say('open'); hear()", ram / "desk")
        child.line()
        with pytest.raises(ntmem.StorageError, match="open in another process"):
            ntmem.compact(ram / "desk")
        child.kill()
    assert (ram / "desk" / "data.mdb").stat().st_ino == inode
    ntmem.compact(ram / "desk")
    assert (ram / "desk" / "data.mdb").stat().st_ino != inode


@pytest.mark.only("shared")
def test_what_a_killed_process_left_in_shared_memory_is_in_the_new_file(ram: Path, start: Start) -> None:
    given = filled(ram / "desk")
    child = start(
        """
memory = ntmem.open(sys.argv[1], flush_interval=60)
say(memory.put("desk", "left", b"3"))
os.kill(os.getpid(), 9)
""",
        ram / "desk",
    )
    version = int(child.line())
    child.process.wait()
    ntmem.compact(ram / "desk")
    with ntmem.open(ram / "desk", read_only=True) as memory:
        assert memory.get("desk", "left") == b"3"
    check_whole(ram / "desk", (max(version, given[0]), given[1]))


KILLED = """
from ntmem.stats import VerifyReport
from ntmem.tiers import compacting
if sys.argv[3] == "quick":  # its own process has no part in the steps
    compacting.verify_directory = lambda directory: VerifyReport((), 0, 0, 0)
at, done = int(sys.argv[2]), 0
def killed(name):
    step = getattr(os, name)
    def run(*args, **kwargs):
        global done
        if done == at:
            os.kill(os.getpid(), 9)
        done += 1
        return step(*args, **kwargs)
    setattr(os, name, run)
for name in ("mkdir", "chmod", "fsync", "rename", "rmdir", "unlink", "sendfile"):
    killed(name)
ntmem.compact(sys.argv[1])
say(done)
"""


@pytest.mark.only("shared")
def test_killed_at_each_step_nothing_is_lost(ram: Path, start: Start) -> None:
    given = filled(ram / "desk")
    size = (ram / "desk" / "data.mdb").stat().st_size
    sizes = []
    at = 0
    while True:
        child = start(KILLED, ram / "desk", at, "quick" if at % 4 else "whole")
        if child.process.wait() == 0:
            break
        sizes.append((ram / "desk" / "data.mdb").stat().st_size)
        given = check_whole(ram / "desk", given, verified=sizes[-1] < size)
        if sizes[-1] < size:  # air again
            filled(ram / "desk")
            size = (ram / "desk" / "data.mdb").stat().st_size
        at += 1
    assert at > 5
    assert len(set(sizes)) > 1, "it was killed before and after the renaming"
    assert not list((ram / "desk").glob("compacted-*"))
    check_whole(ram / "desk", given)


@pytest.mark.only("lmdb")
def test_a_damaged_store_is_not_compacted(ram: Path) -> None:
    filled(ram / "desk")
    data = (ram / "desk" / "data.mdb").read_bytes()
    at = data.index(b"y" * 100)
    damaged = data.replace(b"y" * 100, b"y" * 99 + b"z")
    assert at
    (ram / "desk" / "data.mdb").write_bytes(damaged)
    with pytest.raises(ntmem.CorruptionError, match="nothing was changed"):
        ntmem.compact(ram / "desk")
    assert (ram / "desk" / "data.mdb").read_bytes() == damaged
    assert not [name for name in os.listdir(ram / "desk") if name.startswith("compacted")]
