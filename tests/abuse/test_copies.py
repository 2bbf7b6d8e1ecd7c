"""Copies and backups of a store: they open, they are whole, and their versions never mean two things.

A version names one change. A copy and its original go on from the same point, so without care both hand out the same
numbers for different changes; the store raises its generation when it finds itself copied or put back.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hostile import Start

import ntmem

pytestmark = pytest.mark.usefixtures("engine")


def numbers(memory: ntmem.MemorySystem) -> dict[str, bytes]:
    return dict(memory.scan("a"))


def versions(path: Path, tag: str, count: int = 3) -> set[int]:
    """Write a few changes and return their versions."""
    with ntmem.open(path) as memory:
        return {memory.put("a", f"{tag}{n}", tag.encode()) for n in range(count)}


@pytest.fixture
def store(ram: Path) -> Path:
    versions(ram / "store", "first")
    return ram / "store"


def test_a_closed_store_that_was_copied(store: Path, ram: Path) -> None:
    shutil.copytree(store, ram / "copy")
    with ntmem.open(ram / "copy", read_only=True) as copy:
        assert numbers(copy) == {f"first{n}": b"first" for n in range(3)}
    before = versions(store, "before")
    copied, original = versions(ram / "copy", "copied"), versions(store, "original")
    assert not copied & (original | before)
    assert min(copied) > min(before) - 1
    shutil.copytree(ram / "copy", ram / "second")
    assert not versions(ram / "second", "second") & (copied | versions(ram / "copy", "again") | original)
    for path in (store, ram / "copy", ram / "second"):
        assert ntmem.verify(path).ok


def test_moving_a_store_keeps_it_the_same(store: Path, ram: Path) -> None:
    with ntmem.open(store) as memory:
        last = memory.stats().last_version
    store.rename(ram / "moved")
    with ntmem.open(ram / "moved") as memory:
        assert memory.put("a", "k", b"v") == last + 1
        assert len(numbers(memory)) == 4


def test_a_store_copied_while_a_process_writes(ram: Path, start: Start) -> None:
    """Through LMDB's own copy, which is one snapshot: a clean prefix of what was acknowledged."""
    writer = start(
        """
memory = ntmem.open(sys.argv[1])
n = 0
while True:
    with memory.transaction() as t:
        t.put("a", f"k{n:06}", b"%d" % n)
        t.put("a", "last", b"%d" % n)
        t.incr("a", "count")
    n += 1
    if n == 50:
        memory.flush(); say("running")
""",
        ram / "store",
    )
    assert writer.line() == "running"
    with ntmem.open(ram / "store") as memory:
        for number, compact in enumerate((False, True, False, True)):
            (ram / f"copy{number}").mkdir()
            memory._engine().store.env.copy(str(ram / f"copy{number}"), compact=compact)
    writer.kill()
    tops = []
    for number in range(4):
        with ntmem.open(ram / f"copy{number}") as copy:
            found = numbers(copy)
            last = int(found.pop("last"))
            assert int(found.pop("count")) == last + 1
            assert found == {f"k{n:06}": b"%d" % n for n in range(last + 1)}
            tops.append({copy.put("a", f"new{n}", b"v") for n in range(3)})
        assert ntmem.verify(ram / f"copy{number}").ok
    with ntmem.open(ram / "store") as memory:
        # Some of these positions were handed out by the original while the copies were made, or are handed out now.
        original = {record.version for key in numbers(memory) if (record := memory.get_record("a", key))}
        original |= {memory.put("a", f"new{n}", b"v") for n in range(3)}
    assert not original & set().union(*tops)


def in_place(backup: Path, store: Path) -> None:
    shutil.copyfile(backup / "data.mdb", store / "data.mdb")


def anew(backup: Path, store: Path) -> None:
    (store / "data.mdb").unlink()
    shutil.copyfile(backup / "data.mdb", store / "data.mdb")


def renamed(backup: Path, store: Path) -> None:
    shutil.copyfile(backup / "data.mdb", store / "new")
    (store / "new").rename(store / "data.mdb")


def whole_in_place(backup: Path, store: Path) -> None:
    shutil.copytree(backup, store, dirs_exist_ok=True)


def whole_anew(backup: Path, store: Path) -> None:
    shutil.rmtree(store)
    shutil.copytree(backup, store)


def by_cp(backup: Path, store: Path) -> None:
    subprocess.run(["cp", "-a", f"{backup}/.", store], check=True)


WAYS = [in_place, anew, renamed, whole_in_place, whole_anew, by_cp]


@pytest.mark.parametrize("where", ["ram", "disk"])
@pytest.mark.parametrize("way", WAYS)
def test_a_backup_put_back(way: Callable[[Path, Path], None], where: str, ram: Path, tmp_path: Path) -> None:
    """Versions handed out after the backup was made are never handed out again. File systems reuse inode numbers."""
    base = ram if where == "ram" else tmp_path
    store, backup = base / "store", base / "backup"
    versions(store, "first")
    shutil.copytree(store, backup)
    lost = versions(store, "lost")
    way(backup, store)
    again = versions(store, "again")
    assert not again & lost
    with ntmem.open(store) as memory:
        assert set(numbers(memory)) == {f"{tag}{n}" for tag in ("first", "again") for n in range(3)}
        assert sorted(again) == sorted(
            record.version for n in range(3) if (record := memory.get_record("a", f"again{n}"))
        )
    assert min(again) > max(lost)
    assert ntmem.verify(store).ok


def test_a_backup_put_back_under_an_idle_process(store: Path, ram: Path) -> None:
    """It goes on with the file it opened, which nobody else sees: nothing is mixed."""
    shutil.copytree(store, ram / "backup")
    old = ntmem.open(store)
    lost = {old.put("a", f"lost{n}", b"v") for n in range(3)}
    whole_anew(ram / "backup", store)
    again = versions(store, "again")
    assert not again & lost
    assert {"lost0", "first0"} <= set(numbers(old))
    old.put("a", "k", b"v")
    old.close()
    with ntmem.open(store) as memory:
        assert set(numbers(memory)) == {f"{tag}{n}" for tag in ("first", "again") for n in range(3)}


def test_a_process_id_that_comes_again_means_nothing(ram: Path) -> None:
    """The writer is text: two processes of one id are two openings of one store, with nothing to inherit."""
    for n in range(3):
        if (pid := os.fork()) == 0:
            try:
                os.getpid = lambda: 77  # type: ignore[assignment]
                with ntmem.open(ram / "store") as memory:
                    memory.incr("a", "n")
                    memory.put("a", f"k{n}", b"v")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
    with ntmem.open(ram / "store") as memory:
        assert memory.get("a", "n") == b"3"
        for n in range(3):
            record = memory.get_record("a", f"k{n}")
            assert record is not None
            assert record.writer == "pid-77"
