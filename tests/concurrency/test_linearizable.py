"""Processes that hammer a few keys of one store, and are killed while they do: what each saw fits one order.

A zygote, which opens no store, forks the workers. Each records what it begins and what that returned into shared
memory (see :mod:`history`), where it stands also when its process is gone, and :mod:`linear` looks for the order.
The controls are stores with a fault that is easily made; the same harness must find it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from history import Progress, Recorder, read_history
from hostile import HANG, Child, Start
from linear import Conflict, Operation, check

import ntmem

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("engine")]

SECONDS = float(os.environ.get("NTMEM_LINEAR_SECONDS", "3"))
WORKERS = 4
KEYS = 3
LIFE = 3_000  # operations of one worker, then another takes its place
MOST = {"lmdb": 40_000, "shared": 45_000}  # operations of all: the checker takes some seconds for them
KILLS = 24

ZYGOTE = """
import random
from history import Recorder
path, files, broken, keys, life = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])

class ReadThenPut:
    "Checks if_version itself, before it writes."
    def __init__(self, memory): self.memory = memory
    def __getattr__(self, name): return getattr(self.memory, name)
    def put(self, namespace, key, value, if_version=None):
        if if_version is not None:
            record = self.memory.get_record(namespace, key)
            found = record.version if record is not None else 0
            if found != if_version: raise ntmem.VersionConflict("", expected=if_version, found=found)
            os.sched_yield()
        return self.memory.put(namespace, key, value)

def work(number):
    chance = random.Random(number)
    versions = [0] * keys
    with ntmem.open(path) as memory:
        store = {"": lambda it: it, "ReadThenPut": ReadThenPut}[broken](memory)
        recorder = Recorder(store, os.path.join(files, str(number)), life)
        while recorder.left > 2:
            key, value = chance.randrange(keys), number << 32 | recorder.left
            kind = chance.choice(("get", "get", "record", "put", "if", "if", "old", "add", "add", "delete"))
            if kind == "get": recorder.get(key)
            elif kind == "record": versions[key] = recorder.get_record(key)[1]
            elif kind == "put": versions[key] = recorder.put(key, value)
            elif kind == "if": recorder.put(key, value, recorder.get_record(key)[1])
            elif kind == "old": recorder.put(key, value, versions[key])
            elif kind == "add": recorder.add(key, value)
            else: recorder.delete(key)

say("ready")
for line in sys.stdin:
    what, number = line.split()
    if what == "reap":
        say(os.waitpid(int(number), 0)[1])
    elif (pid := os.fork()) == 0:
        status = 1
        try:
            work(int(number))
            status = 0
        finally:
            if status: import traceback; traceback.print_exc()
            os._exit(status)
    else:
        say(pid)
"""


class Workers:
    """Starts workers and ends them."""

    def __init__(self, start: Start, ram: Path, broken: str) -> None:
        self.store, self.files = ram / "store", ram / "files"
        self.files.mkdir()
        with ntmem.open(self.store):
            pass
        self.zygote: Child = start(ZYGOTE, self.store, self.files, broken, KEYS, LIFE)
        assert self.zygote.line() == "ready"
        self.started = self.killed = 0
        self.pids: list[int] = []
        self.progress: list[Progress] = []

    def start(self) -> None:
        self.started += 1
        self.zygote.tell(f"start {self.started}")
        self.pids.append(int(self.zygote.line()))
        self.progress.append(Progress(self.files / str(self.started), LIFE))

    def wait(self, worker: int, count: int) -> None:
        """Return when a worker has begun `count` operations."""
        progress = self.progress[worker]
        until = time.monotonic() + HANG
        while not progress.has_begun(count):
            os.sched_yield()
            assert self.zygote.process.poll() is None, "the zygote has ended"
            assert time.monotonic() < until, (
                f"worker {self.pids[worker]} of {self.pids} does not begin {count} operations"
            )
            with open(f"/proc/{self.pids[worker]}/stat") as file:
                ended = file.read().rpartition(")")[2].split()[0] == "Z"
            if ended and not progress.has_begun(count):
                self.complain()

    def complain(self) -> None:
        """Fail with what a worker that failed has printed."""
        self.zygote.signal(signal.SIGKILL)
        self.zygote.line()

    def kill(self, worker: int) -> None:
        pid = self.pids.pop(worker)
        del self.progress[worker]
        os.kill(pid, signal.SIGKILL)
        self.zygote.tell(f"reap {pid}")
        status = int(self.zygote.line())
        if status not in (0, signal.SIGKILL):  # 0: it was done
            self.complain()
        self.killed += status == signal.SIGKILL


def record_history(
    start: Start, ram: Path, *, seconds: float, most: int, broken: str = ""
) -> tuple[list[Operation], int]:
    """Let workers work and die; return what happened, and the number of kills."""
    workers = Workers(start, ram, broken)
    chance = random.Random(1)
    end = time.monotonic() + seconds
    begun = 0
    # How many operations there are depends on the machine; that there are enough does not.
    while workers.killed < KILLS or (time.monotonic() < end and begun < most - WORKERS * LIFE):
        while len(workers.pids) < WORKERS:
            workers.start()
        worker = chance.randrange(WORKERS)
        least = chance.choice([1, 20, 300, 1000])
        workers.wait(worker, least)
        for _ in range(chance.randrange(3000)):  # the instant is random
            pass
        victims = range(WORKERS) if chance.random() < 0.1 else [worker]  # now and then nobody survives
        for victim in reversed(victims):
            workers.kill(victim)
        begun = sum(it.stat().st_blocks * 512 // 64 for it in workers.files.iterdir())
    while workers.pids:
        workers.kill(0)
    with ntmem.open(workers.store) as memory:  # what is left when all are dead
        recorder = Recorder(memory, workers.files / "last", KEYS)
        for key in range(KEYS):
            recorder.get_record(key)
    return read_history(workers.files), workers.killed


def test_killed_processes_leave_a_linearizable_history(ram: Path, start: Start, engine: str) -> None:
    history, killed = record_history(start, ram, seconds=SECONDS, most=MOST[engine])
    why = check(history)
    assert why is None, why
    # Else it tested nothing.
    assert killed >= KILLS
    done = [it for it in history if it.end is not None]
    assert len(history) > len(done)
    updates = [it for it in done if it.if_version is not None]
    conflicts = [it for it in updates if isinstance(it.result, Conflict)]
    for kind in ("get", "get_record", "put", "add", "delete"):
        assert sum(it.kind == kind and bool(it.result) for it in done) > 20, kind
    for kind in ("get", "get_record", "add", "delete"):
        assert sum(it.kind == kind and not it.result for it in done) > 5, kind
    assert len(conflicts) > 20
    assert len(updates) - len(conflicts) > 20
    assert len({it.process for it in done}) > WORKERS
    writers = {it.value: it.process for it in history}
    assert sum(it.kind == "get" and bool(it.result) and writers[it.result] != it.process for it in done) > 20
    assert [it.process for it in history].count("last") == KEYS


def test_a_broken_store_is_found(ram: Path, start: Start) -> None:
    """The control: the same harness over a store with a fault."""
    history, _ = record_history(start, ram, seconds=0, most=0, broken="ReadThenPut")
    why = check(history)
    assert why is not None
    assert why.culprit in why.window
