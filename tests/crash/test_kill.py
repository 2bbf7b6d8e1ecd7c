"""``kill -9`` at random instants: what was acknowledged is there, and nothing is half there.

A zygote, which opens no store, forks the writers: no interpreter starts for each. A writer tells every change before
it tries it and after it was acknowledged; then comes the next. After each kill a process that has had the store open
all the while, and one that opens it anew, must see every acknowledged change and of the last one all or nothing.

``NTMEM_KILLS`` says how many are killed one after the other; `make crash` kills for as long as it is told to.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hostile import Child, Start, children

import ntmem

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("engine")]

KILLS = int(os.environ.get("NTMEM_KILLS", "80"))

ZYGOTE = """
import json, random
path, results = sys.argv[1], sys.argv[2]

def write(seed, progress):
    chance = random.Random(seed)
    told = os.open(progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    def tell(*what): os.write(told, (json.dumps(what) + "\\\\n").encode())  # outlives the process
    with ntmem.open(path, agent_id=f"writer {seed}") as memory:
        tell("open")
        for n in range(400):  # then it waits for its end: what it told is read again and again
            kind = chance.choice(["put", "put", "transaction", "incr", "delete", "big", "many"])
            key = f"k{chance.randrange(20)}"
            value = f"{seed}/{n}/" + "x" * chance.choice([0, 10, 1000, 6000])
            tell("try", kind, key, value)
            if kind == "put": memory.put("a", key, value.encode())
            elif kind == "transaction":
                with memory.transaction() as t:
                    for other in ("x", "y", "z"): t.put("t", other, value.encode())
                    t.incr("t", "count")
            elif kind == "incr": memory.incr("a", "n")
            elif kind == "delete": memory.delete("a", key)
            elif kind == "big": memory.put("a", "big", value.encode() * 20)
            elif kind == "many": memory.put_many("m", {f"m{i}": value.encode() for i in range(30)})
            tell("done")
        signal.pause()

say("ready")
for line in sys.stdin:
    seed, progress = line.split()
    if (pid := os.fork()) == 0:
        try: write(int(seed), progress)
        finally: os._exit(1)
    say(pid)
    _, status = os.waitpid(pid, 0)
    say(status)
"""


class Expected:
    """What the acknowledged changes amount to."""

    def __init__(self) -> None:
        self.state: dict[tuple[str, str], bytes] = {}

    def apply(self, kind: str, key: str, value: str) -> dict[tuple[str, str], bytes]:
        """Return the state after one more change."""
        state = dict(self.state)
        raw = value.encode()
        if kind == "put":
            state["a", key] = raw
        elif kind == "transaction":
            state |= {("t", other): raw for other in ("x", "y", "z")}
            state["t", "count"] = b"%d" % (int(state.get(("t", "count"), b"0")) + 1)
        elif kind == "incr":
            state["a", "n"] = b"%d" % (int(state.get(("a", "n"), b"0")) + 1)
        elif kind == "delete":
            state.pop(("a", key), None)
        elif kind == "big":
            state["a", "big"] = raw * 20
        elif kind == "many":
            state |= {("m", f"m{i}"): raw for i in range(30)}
        return state


def everything(memory: ntmem.MemorySystem) -> dict[tuple[str, str], bytes]:
    return {(namespace, key): value for namespace in ("a", "t", "m") for key, value in memory.scan(namespace)}


def told_by(progress: Path) -> list[list[Any]]:
    if not progress.exists():
        return []
    return [json.loads(line) for line in progress.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def zygote(ram: Path) -> Iterator[Child]:
    with children() as start:
        child = start(ZYGOTE.replace("\\\\n", "\\n"), ram / "store", ram)
        assert child.line() == "ready"
        yield child


def test_many_kills(ram: Path, zygote: Child) -> None:
    chance = random.Random(1)
    expected = Expected()
    acknowledged = undecided = kept = 0
    with ntmem.open(ram / "store") as survivor:
        for seed in range(KILLS):
            progress = ram / "progress"
            progress.unlink(missing_ok=True)
            zygote.tell(f"{seed} {progress}")
            pid = int(zygote.line())
            # The instant is random; that it comes after at least so much progress only keeps the test from being empty.
            least = chance.choice([0, 1, 2, 10, 40])
            while least and (not progress.exists() or progress.read_bytes().count(b'["done"]') < least):
                time.sleep(0.0005)  # the writer may have but this core
            for _ in range(chance.randrange(3000)):
                pass
            os.kill(pid, signal.SIGKILL)
            assert int(zygote.line()) == signal.SIGKILL
            last: list[Any] | None = None
            for what, *change in told_by(progress):
                if what == "try":
                    last = change
                elif what == "done":
                    assert last is not None
                    expected.state = expected.apply(*last)
                    last = None
                    acknowledged += 1
            possible = [expected.state] if last is None else [expected.state, expected.apply(*last)]
            with ntmem.open(ram / "store") as memory:
                seen = everything(memory)
            assert seen in possible, f"after kill {seed}, in the middle of {last}"
            if last is not None:
                undecided += 1
                kept += seen == possible[1]
            fresh = fresh_view(ram / "store") if seed % 10 == 0 else seen
            assert fresh == everything(survivor) == seen
            survivor.incr("s", "survivor")  # nobody waits for the dead; and what they had sealed is finished now
            expected.state = everything(survivor)
            assert expected.state in possible[possible.index(seen) :]
        assert survivor.get("s", "survivor") == b"%d" % KILLS
    assert acknowledged > KILLS  # else it tested nothing
    assert undecided > KILLS // 20
    assert ntmem.verify(ram / "store").ok


def fresh_view(path: Path) -> dict[tuple[str, str], bytes]:
    """What a process sees that has nothing open yet."""
    code = """
import json
with ntmem.open(sys.argv[1]) as memory:
    say(json.dumps([[ns, key, value.decode()] for ns in ("a", "t", "m") for key, value in memory.scan(ns)]))
"""
    with children() as start:
        child = start(code, path)
        seen = json.loads(child.line())
        child.end()
    return {(namespace, key): value.encode() for namespace, key, value in seen}


def test_all_killed_at_once(ram: Path, start: Start) -> None:
    """Six writers on one counter, killed together; what the last had been told is the least that is there."""
    code = """
with ntmem.open(sys.argv[1]) as memory:
    told = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
    while True:
        number = memory.incr("a", "n")
        os.pwrite(told, b"%020d" % number, 0)
"""
    least = 0
    for _ in range(4):
        writers = [start(code, ram / "store", ram / f"told{n}") for n in range(6)]
        files = [ram / f"told{n}" for n in range(6)]
        while not all(file.exists() and file.stat().st_size == 20 for file in files):
            time.sleep(0.001)
        while max(int(file.read_text()) for file in files) < least + 100:
            time.sleep(0.001)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
        for writer in writers:
            writer.kill()
        told = max(int(file.read_text()) for file in files)
        with ntmem.open(ram / "store") as memory:
            least = int(memory.get("a", "n", b""))
            assert told <= least <= told + 6
            record = memory.get_record("a", "n")
            assert record is not None
        for file in files:
            file.unlink()
    assert ntmem.verify(ram / "store").ok
