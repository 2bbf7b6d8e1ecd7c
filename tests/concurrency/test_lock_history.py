"""Processes that read and write under locks, and are killed or stopped past their time: a lock is as good as its word.

Each records when it asked for a lock, when it had it, when it gave it back, and what it read and wrote meanwhile
(:mod:`history`, :mod:`linear`). What it wrote under the lock is recorded as if it had been written under the version
that was read under the lock: that is what a lock is for, and the checker looks whether it was so.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
from history import read_history
from holders import Zygote, boot_ns, is_alive, until
from hostile import Start
from linear import Operation, check

import ntmem

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("engine"), pytest.mark.only("shared")]

SECONDS = float(os.environ.get("NTMEM_LINEAR_SECONDS", "3"))
WORKERS, KEYS, LIFE, KILLS, STOPS = 4, 2, 1500, 16, 16

WORK = """
import random, mmap, struct
from history import Recorder
files = Path(files)
chance = random.Random(number)

class Under:
    "What the recorder calls: a put under the version that was read is one under the lock under which it was read."
    def __init__(self, memory): self.memory, self.lock = memory, None
    def __getattr__(self, name): return getattr(self.memory, name)
    def put(self, namespace, key, value, if_version=None): return self.memory.put(namespace, key, value, fence=fence)

class Broken(Under):
    "A store that does not look at fences."
    def put(self, namespace, key, value, if_version=None): return self.memory.put(namespace, key, value)

with ntmem.open(store) as memory, open(files / "locks" / str(number), "x+b") as file:
    file.truncate(life * 48)
    words = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")
    recorder = Recorder({"": Under, "Broken": Broken}[broken](memory), files / "values" / str(number), life * 3)
    for at in range(0, life * 6, 6):
        if recorder.left < 9: break
        key = chance.randrange(keys)
        lock = memory.lock(f"lock{key}", ttl=chance.choice([30, 30, 0.02, 0.002]))
        words[at] = boot_ns()
        if not lock.acquire(): continue
        fence = lock.fence
        begun = boot_ns()
        left = int(lock.remaining() * 1e9)
        words[at + 3] = fence.number << 8 | key
        words[at + 2] = begun + left  # never later than it is
        words[at + 1] = boot_ns()
        for _ in range(chance.randrange(1, 3)):
            _, version = recorder.get_record(key)
            if chance.random() < 0.1:
                while not lock.lost and lock.remaining() < 1: pass
            try: recorder.put(key, number << 32 | recorder.left, version)
            except ntmem.StaleFence:
                words[at + 5] = 1
                break
        if chance.random() < 0.3: recorder.get(chance.randrange(keys))
        words[at + 4] = boot_ns()  # before it gives it back
        try: lock.release()
        except ntmem.LockLost: pass
"""


class Hold(NamedTuple):
    """A lease as its holder saw it. It has it from `begin` to `end` at least; not at all if it knew of it too late."""

    process: str
    key: int
    number: int
    asked: int
    begin: int
    end: int
    was_refused: bool


def read_holds(directory: Path, died: dict[str, int]) -> list[Hold]:
    """Return what holders said; `died`: when those who were killed were, at the earliest."""
    found = []
    for path in sorted(directory.iterdir()):
        for asked, begin, expires, number, left, refused in struct.iter_unpack("@6Q", path.read_bytes()):
            if begin:
                end = min(expires, left or died.get(path.name, expires), died.get(path.name, expires))
                found.append(Hold(path.name, number & 255, number >> 8, asked, begin, end, bool(refused)))
    return found


def find_overlap(holds: Iterable[Hold]) -> str | None:
    """Look for two who had a lock at the same time, and for numbers that do not rise; a lock is that simple."""
    last: dict[int, Hold] = {}
    for hold in sorted(holds, key=lambda it: it.number):
        before = last.get(hold.key)
        if before is not None and before.begin < before.end and hold.begin < before.end:
            return f"two holders: {before}, {hold}"
        if before is not None and hold.number == before.number:
            return f"a number twice: {before}, {hold}"
        last[hold.key] = hold
    ordered = sorted(holds, key=lambda it: it.begin)
    newest, at = 0, 0
    for hold in sorted(ordered, key=lambda it: it.asked):
        while ordered[at].begin < hold.asked:
            newest = max(newest, ordered[at].number)
            at += 1
        if hold.number <= newest:
            return f"numbers do not follow real time: {hold} after {newest} was known"
    return None


def record(
    start: Start, ram: Path, *, seconds: float, broken: str = ""
) -> tuple[list[Operation], list[Hold], int, int]:
    """Let workers work, stop and die; return what they did, who held what, and how many were killed and stopped."""
    zygote, chance = Zygote(start), random.Random(5)
    for name in ("values", "locks"):
        (ram / name).mkdir()
    with ntmem.open(ram / "store"):
        pass
    names = {"store": str(ram / "store"), "files": str(ram), "broken": broken, "life": LIFE, "keys": KEYS}
    died: dict[str, int] = {}
    running: dict[int, int] = {}
    number = killed = stopped = 0
    until_time = time.monotonic() + seconds

    def progress() -> int:
        return sum(it.stat().st_blocks for it in (ram / "values").iterdir())

    while killed < KILLS or stopped < STOPS or time.monotonic() < until_time:
        while len(running) < WORKERS:
            number += 1
            running[number] = zygote.fork(WORK, number=number, **names)
        goal = progress() + chance.choice([0, 1, 16])
        until(lambda goal=goal: progress() >= goal or not all(map(is_alive, running.values())))
        worker = chance.choice([*running])
        pid = running[worker]
        if chance.random() < 0.5 and is_alive(pid):
            os.kill(pid, signal.SIGSTOP)
            goal = progress() + 1  # the others go on, or wait for it
            instant = time.monotonic() + chance.choice([0.0, 0.005, 0.03])
            until(lambda goal=goal, instant=instant: progress() >= goal or time.monotonic() > instant)
            os.kill(pid, signal.SIGCONT)
            stopped += 1
        else:
            at = boot_ns()
            os.kill(pid, signal.SIGKILL)
            del running[worker]
            if zygote.check(pid, 0, -9) == -9:
                died[str(worker)] = at
                killed += 1
    for worker, pid in running.items():
        at = boot_ns()
        os.kill(pid, signal.SIGKILL)
        if zygote.check(pid, 0, -9) == -9:
            died[str(worker)] = at
    return read_history(ram / "values"), read_holds(ram / "locks", died), killed, stopped


def test_what_is_done_under_a_lock_is_done_by_one_at_a_time(ram: Path, start: Start) -> None:
    history, holds, killed, stopped = record(start, ram, seconds=SECONDS)
    assert find_overlap(holds) is None
    why = check(history)
    assert why is None, why
    done = [it for it in history if it.end is not None]
    writes = [it for it in done if it.kind == "put"]
    # Else it tested nothing.
    assert len(writes) > 100
    assert len({it.process for it in writes}) >= WORKERS
    refused = sum(hold.was_refused for hold in holds)
    assert refused > 0
    print(f"{len(holds)} leases, {len(writes)} writes, {refused} refused, {killed} kills, {stopped} stops")


def test_a_store_that_does_not_look_at_fences_is_found(ram: Path, start: Start) -> None:
    """The control: the same harness over a store with a fault."""
    history, holds, _, _ = record(start, ram, seconds=0, broken="Broken")
    assert find_overlap(holds) is None
    assert check(history) is not None


def test_a_lock_that_is_none_is_found() -> None:
    """The control of the other checker."""
    first = Hold("1", 0, 1, 0, 10, 20, False)
    assert find_overlap([first, Hold("2", 0, 2, 5, 20, 30, False)]) is None
    assert "two holders" in str(find_overlap([first, Hold("2", 0, 2, 5, 19, 30, False)]))
    assert find_overlap([first, Hold("2", 1, 2, 5, 19, 30, False)]) is None
    assert "a number twice" in str(find_overlap([first, Hold("2", 0, 1, 5, 20, 30, False)]))
    assert "real time" in str(find_overlap([first._replace(number=3), Hold("2", 1, 2, 11, 20, 30, False)]))
