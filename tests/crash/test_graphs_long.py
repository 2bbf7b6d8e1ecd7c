"""Processes that add, replace and delete while graphs are made and merged, and are killed all the time: all is there.

``NTMEM_GRAPH_ADDS`` says how many changes are made; `make growing` makes a million.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from churn import DIMENSION, GROUPS, Told, next_call, vectors_of
from graphs import collection_of, files, grow, leftovers, spans
from logs import Nursery

import ntmem
from ntmem.tiers import graphs

pytestmark = pytest.mark.crash

ADDS = int(os.environ.get("NTMEM_GRAPH_ADDS", "6000"))
ROWS, IDS = 3, ADDS // 4
WORTH = max(512, ADDS // 256)
BEHIND = 3 * WORTH  # changes without a graph that are waited for: making graphs is what takes the time
QUERIES, BEST, RECALL = 300, 10, 0.95
ROUNDS = max(6, min(30, ADDS // 10_000))
KILLS = 12  # of a round
CALM = 1200.0  # seconds in which graphs come after, once nobody is killed; only so that a hang is a failure
POINTS = ["locked", "half_written", "written", "sealed", "linked", "numbered", "committed", "announced"]
POINTS += ["vectors_locked", "vectors_valued", "vectors_staged", "vectors_kept"]
POINTS += ["vectors_replaced", "vectors_counted", "vectors_indexed"]

WORK = """
import ntmem
from churn import work
from ntmem.tiers import graphs
graphs.worth, graphs.is_sooner = lambda *_: {worth}, lambda parts, *_: parts > 0
graphs.MERGED, graphs.SMALL, graphs.EAGER = 16, 0, 1
graphs.build = lambda *given, build=graphs.build, **how: build(*given, **how | {{"background": False}})
memory = ntmem.open({store!r}, graph_share=1.0)
memory.vectors.count("n")
{code}
"""


class Crowd:
    """Those who work, one for each row, and at times one who makes a graph of all."""

    def __init__(self, nursery: Nursery, place: Path, chance: random.Random) -> None:
        self.nursery, self.place, self.chance = nursery, place, chance
        self.pids: dict[int, int] = {}
        self.kills = 0

    def told(self, row: int) -> Path:
        return self.place / f"told{row}"

    def fill(self, *, armed: bool = True) -> None:
        """See that somebody is at work in each row; every other one dies at a failpoint, if they are armed."""
        for row in range(ROWS):
            if row in self.pids:
                continue
            code = f"work(memory, {row}, {next_call(self.told(row))}, {IDS}, {str(self.told(row))!r}, {BEHIND})"
            if armed and self.chance.random() < 0.5:
                code = f"arm({self.chance.choice(POINTS)!r}, 'kill', {self.chance.randrange(1, 3000)})\n{code}"
            self.begin(row, code)

    def begin(self, row: int, code: str) -> None:
        text = WORK.format(worth=WORTH, store=str(self.place / "s"), code=code)
        self.pids[row] = self.nursery.run(text, wait=False)[1]

    def bury(self) -> None:
        """Note who has died."""
        for row, pid in list(self.pids.items()):
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    self.kill(row)

    def kill(self, row: int) -> None:
        pid = self.pids.pop(row)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        fate, _ = self.nursery.kill(pid)
        assert fate == "killed" or (row >= ROWS and fate == "done"), (fate, self.nursery.child.complaint())
        self.kills += fate == "killed"


def opened(place: Path) -> ntmem.MemorySystem:
    return ntmem.open(place / "s", graph_share=0)


def test_all_that_was_acknowledged_is_there(nursery: Nursery, ram: Path) -> None:
    seed, begin = random.randrange(1 << 32), time.monotonic()
    print(f"\nseed {seed}")
    crowd = Crowd(nursery, ram, random.Random(seed))
    with opened(ram) as memory:
        memory.vectors.create("n", DIMENSION, metric="l2", dtype="float32")
    for number in range(1, ROUNDS + 1):
        with opened(ram) as memory:
            killed(crowd)
            if number % 5 == 0:
                crowd.begin(ROWS, "memory.vectors.compact('n')\nmemory.close()")
            calm(memory, crowd, ADDS * number // ROUNDS)
            print(f"{time.monotonic() - begin:.0f} s: {spans(memory.vectors)}, {crowd.kills} were killed")
            if number % 3 == 0:  # now nobody has it open
                memory.close()
                for row in list(crowd.pids):
                    crowd.kill(row)
    for row in list(crowd.pids):
        crowd.kill(row)
    rows = [Told(row, IDS, crowd.told(row)) for row in range(ROWS)]
    with patched(asked=True):
        with opened(ram) as memory:
            there = look(memory, rows)
            grow(memory.vectors)
            held_against(memory, *there)
        with opened(ram) as memory:
            held_against(memory, *look(memory, rows))
            collection_of(memory.vectors).compact()
            held_against(memory, *there)
    print(f"all took {time.monotonic() - begin:.0f} s")
    assert ntmem.verify(ram / "s").ok


def killed(crowd: Crowd) -> None:
    """Let them work, and kill one after the other."""
    until = crowd.kills + KILLS
    while crowd.kills < until:
        crowd.bury()
        crowd.fill()
        time.sleep(crowd.chance.uniform(0.02, 0.3))
        if crowd.chance.random() < 0.5:
            crowd.kill(crowd.chance.choice(list(crowd.pids)))


def calm(memory: ntmem.MemorySystem, crowd: Crowd, until: int) -> None:
    """Let them work until there are so many changes, and graphs of nearly all: whoever makes them is alive."""
    v, end = memory.vectors, time.monotonic() + CALM
    while (facts := v.info("n")).changes < until or facts.changes - facts.graphed > BEHIND:
        assert time.monotonic() < end, facts
        crowd.bury()
        crowd.fill(armed=False)
        time.sleep(0.05)


@contextlib.contextmanager
def patched(*, asked: bool) -> Any:
    with (
        patch.object(graphs, "worth", lambda *_: WORTH),
        patch.multiple(graphs, MERGED=16, SMALL=0, EAGER=1),
        patch.object(graphs, "is_sooner", lambda parts, *_: asked and parts > 0),
    ):
        yield


# -- what has to be right


def look(memory: ntmem.MemorySystem, rows: list[Told]) -> tuple[list[str], Any]:
    """See that each vector that was acknowledged is there, bit by bit, and passes its filter; return all."""
    v, ids, vectors = memory.vectors, [], []
    for told in rows:
        numbers, values = [], []
        for number in range(told.ids):
            found = v.get("n", f"{told.row}-{number}")
            value = None if found is None else (found.metadata["call"], found.metadata["place"])
            assert told.may_be(number, value), (told.row, number, value)
            if found is not None:
                numbers.append(number)
                values.append(value)
                vectors.append(found.vector)
        expected = vectors_of(told.row, *np.transpose(values))
        assert np.array_equal(vectors[-len(numbers) :], expected)
        ids += [f"{told.row}-{number}" for number in numbers]
        scanned(v, told.row, numbers)
    assert v.count("n") == len(ids)
    return ids, np.array(vectors, np.float64)


def scanned(v: Any, row: int, numbers: list[int]) -> None:
    """See that a scan finds each of a row, in its group."""
    query = vectors_of(ROWS, [0], [0])[0]
    groups: dict[int, set[str]] = {group: set() for group in range(GROUPS)}
    for number in numbers:
        groups[number % GROUPS].add(f"{row}-{number}")
    with patched(asked=False):
        for group, expected in groups.items():
            hits = v.search("n", query, 10**6, where={"row": row, "group": group})
            assert {hit.id for hit in hits} == expected
            assert len(hits) == len(expected)


def held_against(memory: ntmem.MemorySystem, ids: list[str], vectors: Any) -> None:
    """See that a scan finds what is nearest, that graphs find nearly all of that, and that these are whole."""
    v, queries = memory.vectors, vectors_of(ROWS, range(QUERIES), [1] * QUERIES)
    expected = nearest(vectors, queries.astype(np.float64))
    distances = dict(zip(ids, range(len(ids)), strict=True))
    with patched(asked=False):
        names, scores = v.search_arrays("n", queries, BEST)
    true = ((vectors[[[distances[id] for id in row] for row in names]] - queries[:, None]) ** 2).sum(axis=2)
    assert np.allclose(np.sort(true), expected, rtol=1e-5, atol=1e-5)
    assert np.allclose(-scores, true, rtol=1e-4, atol=1e-4)
    assert all(len({*row}) == BEST for row in names)
    by_graphs, _ = v.search_arrays("n", queries, BEST)
    recall = np.mean([len({*one} & {*other}) / BEST for one, other in zip(names, by_graphs, strict=True)])
    now, facts = spans(v), v.info("n")  # each is whole
    print(f"recall {recall:.4f}, graphs {now} of {facts.changes} changes, {facts.count} vectors, {files(store_of(v))}")
    assert recall >= RECALL
    assert now[0][0] == 0
    assert now[-1][1] > facts.changes - WORTH - 64
    assert {*now} <= {*files(store_of(v))}
    assert leftovers(store_of(v)) == []
    sample = np.random.default_rng(1).choice(len(ids), min(len(ids), 2000), replace=False)
    hits = v.search_arrays("n", vectors[sample].astype(np.float32), 1)[0][:, 0].tolist()
    assert np.mean([ids[place] == id for place, id in zip(sample, hits, strict=True)]) > 0.999


def store_of(v: Any) -> Path:
    return Path(v._engine.store.directory)


def nearest(vectors: Any, queries: Any) -> Any:
    """Return the least squared distances to each query."""
    squares = (vectors**2).sum(axis=1)
    found = []
    for query in queries:
        all = squares - 2 * (vectors @ query)
        found.append(np.sort(all[np.argpartition(all, BEST)[:BEST]]) + query @ query)
    return np.array(found)
