"""Processes that die or stop while they make a graph: nothing is lost, others go on, and the next one takes its place.

``NTMEM_GRAPH_KILLS`` says how many are killed at any time.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from graphs import DIMENSION, EARLY, collection_of, early, files, grow, leftovers, lost, rows, spans
from hostile import Child, Start, children
from logs import Nursery

import ntmem

pytestmark = pytest.mark.crash

KILLS = int(os.environ.get("NTMEM_GRAPH_KILLS", "4"))
BATCH = 320

NOT_NAMED = [
    "after tail.claim_build",
    "before graphs.build",
    "after graphs.build",
    "after os.makedirs",
    "after os.open",
    "half graphs._write",
    "after graphs._write",
    "before os.replace",
]
NAMED = [
    "after os.replace",
    "after os.fsync",
    "before graphs.remove_file",
    "after graphs.remove_file",
    "before tail.announce_graphs",
    "after tail.announce_graphs",
    "before tail.release_build",
    "after tail.release_build",
]

DYING = (
    EARLY
    + """
from types import SimpleNamespace
when, step = step.split()
memory = ntmem.open(path, graph_share=0)
v = memory.vectors
v.add_many("n", [f"{seed}-{n}" for n in range(count)], rows(count, seed))
def die(*args, **more):
    os.kill(os.getpid(), signal.SIGKILL)
def dying(real):
    return {"before": die, "after": lambda *args, **more: (real(*args, **more), die()),
            "half": lambda file, data: (os.write(file, data[:len(data) // 2]), die())}[when]
class Tail:
    def __getattr__(self, name):
        real = getattr(tail, name)
        return dying(real) if step == f"tail.{name}" else real
collection = v._of(("n",))
tail = collection.tail()
segments.os = SimpleNamespace(**vars(os))
owner, name = {"graphs": graphs, "os": segments.os}.get(step.split(".")[0]), step.split(".")[1]
if owner is not None:
    setattr(owner, name, dying(getattr(owner, name)))
if make == "compact":
    collection.graphs.compact(Tail(), 1)
else:
    collection.graphs.grow(Tail(), 1.0)
"""
)


@pytest.fixture(autouse=True)
def patched() -> Iterator[None]:
    with early():
        yield


def batch(seed: int, count: int = BATCH) -> dict[str, Any]:
    return dict(zip((f"{seed}-{n}" for n in range(count)), rows(count, seed), strict=True))


def add(memory: ntmem.MemorySystem, seed: int, count: int = BATCH) -> dict[str, Any]:
    added = batch(seed, count)
    memory.vectors.add_many("n", list(added), [*added.values()])
    return added


def opened(store: Path) -> ntmem.MemorySystem:
    return ntmem.open(store, graph_share=0)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with children() as start:
        yield Nursery(start, first="import ntmem.tiers.vectors, ntmem.tiers.segments, ntmem.tiers.graphs\n")


def killed(nursery: Nursery, store: Path, step: str, seed: int, make: str, count: int = BATCH) -> dict[str, Any]:
    """Let one add vectors and die while it makes a graph of them; return the vectors."""
    given = f"path, step, seed, make, count = {(str(store), step, seed, make, count)!r}\n"
    assert nursery.run(given + DYING)[0] == "killed", step
    return batch(seed, count)


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "alone"])
@pytest.mark.parametrize("steps", [NOT_NAMED, NAMED], ids=["not named", "named"])
def test_who_is_killed_at_a_step(
    nursery: Nursery, ram: Path, steps: list[str], beside: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """All is found by who has the store open and by the next, by graphs and by a scan; what is missing is made."""
    store, there = ram / "s", {}
    with opened(store) as memory:
        memory.vectors.create("n", DIMENSION, metric="l2", ef_construction=50)
        there |= add(memory, 1000)
        assert grow(memory.vectors)
    for seed, step in enumerate(steps):
        with contextlib.ExitStack() as stack:
            memory = stack.enter_context(opened(store)) if beside else None
            before = [(0, len(there))]
            assert memory is None or spans(memory.vectors) == before
            mine = killed(nursery, store, step, seed, "grow")
            there |= mine
            if memory is None:
                memory = stack.enter_context(opened(store))
            v = memory.vectors
            assert lost(v, mine) == [], step
            now = [(0, len(there))] if step in NAMED else before
            assert spans(v) == now or (beside and spans(v) == before), step
            with opened(store) as other:
                assert spans(other.vectors) == now, step
                assert lost(other.vectors, dict([*mine.items()][::8])) == [], step
            mine = add(memory, 100 + seed)
            there |= mine
            assert grow(v), step
            assert spans(v) == files(store) == [(0, len(there))], step
            assert leftovers(store) == [], step
            assert lost(v, mine) == [], step
    with opened(store) as memory:
        assert memory.vectors.count("n") == len(there)
        assert lost(memory.vectors, there) == []
    assert [message for message in caplog.messages if "its processes have died" not in message] == []


@pytest.mark.parametrize("step", ["after os.replace", "after graphs.remove_file", "before tail.announce_graphs"])
def test_a_graph_of_which_nobody_was_told(nursery: Nursery, ram: Path, step: str) -> None:
    """Who makes the next looks what there is, and does not take away what it does not know."""
    store = ram / "s"
    with opened(store) as memory, opened(store) as other:
        v = memory.vectors
        v.create("n", DIMENSION, metric="l2", ef_construction=50)
        there = add(memory, 1000, 5184)
        assert v.compact("n")
        assert spans(v) == spans(other.vectors) == [(0, 5184)]
        there |= killed(nursery, store, step, 1, "compact", 64)
        there |= add(memory, 2, 256)
        assert collection_of(v).graphs.grow(collection_of(v).tail(), 1.0)
        assert spans(v) == [(0, 5248), (5248, 5504)]
        assert {*spans(v)} <= {*files(store)}
        assert spans(other.vectors) == spans(v)
        assert lost(v, there) == []


# -- who stops

STOPPING = (
    EARLY
    + """
build = graphs.build
def waiting(*args, **more):
    graphs.build = build
    os.write(1, b"building\\n"); hear()
    return build(*args, **more)
graphs.build = waiting
memory = ntmem.open(sys.argv[1])
memory.vectors.add_many("n", [f"child-{n}" for n in range(320)], rows(320, 7))
os.write(1, b"added\\n")
memory.vectors._of(("n",))._builder.join()
memory.close()
"""
)


def stopped(start: Start, store: Path) -> Child:
    """Return one that has added vectors and is stopped while it makes a graph of them."""
    child = start(STOPPING, store)
    assert {child.line(), child.line()} == {"building", "added"}
    child.stop()
    return child


@pytest.mark.parametrize("ends", ["goes on", "killed"])
def test_who_is_stopped_while_it_makes_one(ram: Path, start: Start, ends: str) -> None:
    """Others add and search, and nobody makes another; who wants one of all waits until it goes on, or is no more."""
    store = ram / "s"
    with ntmem.open(store) as memory, opened(store) as other:
        v = memory.vectors
        v.create("n", DIMENSION, metric="l2", ef_construction=50)
        there = add(other, 1)
        child = stopped(start, store)
        there |= dict(zip((f"child-{n}" for n in range(BATCH)), rows(BATCH, 7), strict=True))
        for seed in range(2, 6):
            there |= add(memory, seed)
            assert lost(v, dict([*there.items()][::4])) == []
            collection_of(v)._builder.join()
        assert not grow(other.vectors)
        assert spans(v) == files(store) == []
        done: list[bool] = []
        waits = threading.Thread(target=lambda: done.append(v.compact("n")))
        waits.start()
        there |= add(other, 6)
        waits.join(0.3)
        assert waits.is_alive()
        assert files(store) == []
        if ends == "killed":
            child.kill()
        else:
            child.signal(signal.SIGCONT)
            child.tell()
        waits.join(30)
        assert len(done) == 1
        assert spans(v) == spans(other.vectors) == files(store) == [(0, len(there))]
        assert lost(v, there) == lost(other.vectors, there) == []
        if ends == "goes on":
            child.end()


# -- at any time

WORK = (
    EARLY
    + """
chance, row = random.Random({seed}), {row}
told = os.open({told!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
memory = ntmem.open({path!r}, graph_share=1.0)
v = memory.vectors
for call in range({begin}, {begin} + 100_000):
    kind = chance.choice(["many"] * 4 + ["add"] * 2 + ["delete", "search"])
    names = chance.sample(range(600), 60 if kind == "many" else 1)
    ids = [f"{{row}}-{{n}}" for n in names]
    os.write(told, f"{{call}} begins {{kind}} {{','.join(ids)}}\\n".encode())
    if kind == "delete":
        v.delete("n", ids[0])
    elif kind == "search":
        found = v.get("n", ids[0])
        assert found is None or v.search("n", found.vector, 1)[0].id == ids[0]
    else:
        extras = [{{"call": call, "place": place}} for place in range(len(ids))]
        v.add_many("n", ids, rows(len(ids), row, call), extras)
    os.write(told, f"{{call}} done {{kind}} {{','.join(ids)}}\\n".encode())
"""
)


def certain(told: Path) -> dict[str, set[tuple[int, int] | None]]:
    """Return what may be there of each id, by call and place in it."""
    may: dict[str, set[tuple[int, int] | None]] = {}
    for line in told.read_text().split("\n")[:-1] if told.exists() else []:
        call, state, kind, ids = line.split()
        for place, id in enumerate(ids.split(",") if kind != "search" else []):
            value = None if kind == "delete" else (int(call), place)
            if state == "done":
                may[id] = {value}
            else:
                may.setdefault(id, {None}).add(value)
    return may


def look(v: Any, told: Path, row: int) -> None:
    """See that a row, to which nobody writes, is there, bit by bit, and found."""
    there = {}
    for id, may in certain(told).items():
        found = v.get("n", id)
        value = None if found is None else (found.metadata["call"], found.metadata["place"])
        assert value in may, (id, value, may)
        if value is not None:
            there[id] = found.vector
            assert (found.vector == rows(value[1] + 1, row, value[0])[-1]).all(), id
    assert lost(v, there) == []
    ids = {hit.id for hit in v.search("n", rows(1, 1)[0], 10**6)}
    assert {id for id in ids if id.startswith(f"{row}-")} == there.keys()


def test_who_is_killed_at_any_time(nursery: Nursery, ram: Path) -> None:
    """Three add, replace, delete and search, and make graphs all the time; what a dead one had been told stays."""
    store, seed = ram / "s", random.randrange(1 << 32)
    chance, begins = random.Random(seed), [0, 0, 0]

    def begin(row: int) -> int:
        begins[row] += 100_000
        how = {"seed": chance.randrange(1 << 32), "row": row, "begin": begins[row]}
        return nursery.run(WORK.format(**how, told=str(ram / f"told{row}"), path=str(store)), wait=False)[1]

    def wait_for_all() -> None:
        told = [ram / f"told{row}" for row in range(3)]
        while not all(path.exists() and f"\n{begins[row]} done" in path.read_text() for row, path in enumerate(told)):
            time.sleep(0.01)

    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(opened(store))
        memory.vectors.create("n", DIMENSION, metric="l2", ef_construction=50)
        pids = [begin(row) for row in range(3)]
        for number in range(KILLS):
            wait_for_all()
            time.sleep(chance.uniform(0.0, 0.3))
            rows_ended = [0, 1, 2] if number % 4 == 3 else [chance.randrange(3)]
            if len(rows_ended) == 3:
                memory.close()
            for row in rows_ended:
                os.kill(pids[row], signal.SIGKILL)
            assert [nursery.kill(pids[row])[0] for row in rows_ended] == ["killed"] * len(rows_ended), seed
            if len(rows_ended) == 3:
                memory = stack.enter_context(opened(store))
            for row in rows_ended:
                look(memory.vectors, ram / f"told{row}", row)
            spans(memory.vectors)
            for row in rows_ended:
                pids[row] = begin(row)
        for pid in pids:
            assert nursery.kill(pid)[0] == "killed", seed
        for each in (memory, stack.enter_context(opened(store))):
            for row in range(3):
                look(each.vectors, ram / f"told{row}", row)
        v = memory.vectors
        grow(v)
        assert spans(v)[0][0] == 0
        assert spans(v)[-1][1] > collection_of(v).tail().count - 320
        assert files(store) == spans(v)
