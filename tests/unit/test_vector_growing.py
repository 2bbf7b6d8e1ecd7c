"""Graphs made in the background: of what, by whom, and that all that was ever added is found while they are."""

from __future__ import annotations

import glob
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

import ntmem
from ntmem.tiers import graphs
from ntmem.tiers.collection import Collection, Worker
from ntmem.tiers.graphs import EAGER, MERGED, SLOTS, SMALL, Range, next_range
from ntmem.tiers.vectors import VectorStore

DIMENSION, WORTH = 16, 256


@pytest.fixture(autouse=True)
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs are made of a few hundred vectors, and asked."""
    monkeypatch.setattr(graphs, "is_sooner", lambda parts, *_: parts > 0)
    monkeypatch.setattr(graphs, "worth", lambda *_: WORTH)


def rows(count: int, seed: int) -> Any:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def collection_of(v: VectorStore) -> Collection:
    found = v._of(("n",))
    assert found is not None
    return found


def settled(v: VectorStore) -> list[tuple[int, int]]:
    """Wait until nothing is being made, and return of which slots there are graphs."""
    collection = collection_of(v)
    collection._builder.join()
    return [part[:2] for part in collection.graphs.parts(collection.tail())]


def lost(v: VectorStore, vectors: dict[str, Any]) -> list[str]:
    """Return the ids of vectors that are not the nearest to themselves."""
    hits = v.search_many("n", np.stack(list(vectors.values())), 1)
    return [id for id, found in zip(vectors, hits, strict=True) if [hit.id for hit in found] != [id]]


# -- of what


@given(
    some.lists(some.integers(1, 2000), max_size=5),
    some.integers(0, 1_000_000),
    some.integers(64, 20_000),
    some.sampled_from([0, 1000, 50_000, 1 << 24]),
)
def test_what_is_made_next(sizes: list[int], behind: int, worth: int, most: int) -> None:
    ends = [int(end) * SLOTS for end in np.cumsum(sizes)]
    last = ends[-1] if ends else 0
    found = next_range(ends, last + behind, worth, most)
    extends = bool(sizes) and sizes[-1] * SLOTS <= max(SMALL, MERGED * (behind - behind % SLOTS))
    least = worth // EAGER if extends and (sizes[-1] * SLOTS + behind - behind % SLOTS) <= most else worth
    if found is None:
        assert behind - behind % SLOTS < least or most < last + worth
        return
    first, base, end = found
    assert first <= base <= last < end <= last + behind
    assert first in [0, *ends]
    assert base == first or base in ends
    assert end - base >= least
    assert (first, base, end) == tuple(each // SLOTS * SLOTS for each in found)
    assert end - first <= most
    assert end == (last + behind) // SLOTS * SLOTS or end - first > most - SLOTS


def test_small_graphs_become_part_of_larger_ones() -> None:
    worth, ends, count, put = 8000, [], 0, 0
    most_graphs, written = 0, 0
    while count < 3_000_000:
        count += 8192
        wanted = next_range(ends, count, worth, 1 << 24)
        assert wanted is not None
        put += wanted.end - wanted.base
        written += wanted.end - wanted.first
        ends = [*(end for end in ends if end <= wanted.first), wanted.end]
        most_graphs = max(most_graphs, len(ends))
    assert ends[-1] == count
    assert most_graphs <= 3
    assert put < 3 * count  # each vector is put into a graph so often
    assert written < 2 * (MERGED + 1) * count


def test_what_comes_goes_into_a_small_graph_soon() -> None:
    assert next_range([SMALL], SMALL + 2047, 8192, 1 << 24) is None
    assert next_range([SMALL], SMALL + 2048, 8192, 1 << 24) == Range(0, SMALL, SMALL + 2048)
    large = SMALL * 5
    assert next_range([large], large + 8191, 8192, 1 << 24) is None
    assert next_range([large], large + 8192, 8192, 1 << 24) == Range(large, large, large + 8192)
    assert next_range([large, large + 8192], large + 8192 + 2048, 8192, 1 << 24) == Range(0, large, large + 10_240)


def test_the_ranges_by_example() -> None:
    large = 200_000 * SLOTS
    assert next_range([], 255, 256, 1 << 24) is None
    assert next_range([], 300, 256, 1 << 24) == Range(0, 0, 256)
    assert next_range([256], 320, 256, 1 << 24) == Range(0, 256, 320)
    assert next_range([large], large + 255, 256, 1 << 24) is None
    assert next_range([large], large + 256, 256, 1 << 24) == Range(large, large, large + 256)
    assert next_range([large, large + 256], large + 320, 256, 1 << 24) == Range(large, large + 256, large + 320)
    behind = large // MERGED
    assert next_range([large, large + 256], large + behind, 256, 1 << 24) == Range(0, large, large + behind)
    assert next_range([6400, 6656], 6912, 256, 1000) == Range(6400, 6656, 6912)
    assert next_range([6400, 6656], 6912, 256, 256) == Range(6656, 6656, 6912)
    assert next_range([], 6912, 256, 1000) == Range(0, 0, 960)
    assert next_range([], 6912, 256, 100) is None


# -- in the background


def test_what_is_added_gets_graphs_and_is_found_all_the_time(ram: Path) -> None:
    with ntmem.open(ram / "s", graph_share=1.0) as memory:
        v, there = memory.vectors, {}
        v.create("n", DIMENSION, metric="l2")
        for batch in range(30):
            made = dict(zip((f"{batch}-{n}" for n in range(100)), rows(100, batch), strict=True))
            v.add_many("n", list(made), np.stack(list(made.values())))
            there.update(made)
            gone = [f"{batch}-{n}" for n in range(0, 100, 7)] + [f"{batch // 2}-{n}" for n in range(1, 100, 9)]
            for id in gone:
                if there.pop(id, None) is not None:
                    assert v.delete("n", id) == 1
            again = f"{batch // 3}-50"
            there[again] = rows(1, 1000 + batch)[0]
            v.add("n", again, there[again])
            assert lost(v, there) == []
        spans = settled(v)
        assert v.count("n") == len(there)
        assert spans[0][0] == 0
        assert spans[-1][1] > collection_of(v).tail().count - WORTH - SLOTS
        assert len(spans) <= 3
        assert sorted(_spans(ram / "s")) == spans
        assert lost(v, there) == []
        assert not any(part.graph.verify() for part in collection_of(v).graphs.parts(collection_of(v).tail()))
    with ntmem.open(ram / "s", read_only=True) as memory:
        assert lost(memory.vectors, there) == []


def _spans(store: Path) -> list[tuple[int, int]]:
    names = [Path(path).name.split("-") for path in glob.glob(f"{store}/vectors/*.graph")]
    return [(int(name[1], 16), int(name[2], 16)) for name in names]


@pytest.mark.parametrize("private", [True, False])
def test_a_share_of_nothing_makes_none(ram: Path, private: bool) -> None:
    with ntmem.open(None if private else ram / "s", graph_share=0) as memory:
        v = memory.vectors
        v.add_many("n", [str(n) for n in range(1000)], rows(1000, 1))
        assert settled(v) == []
        assert v.compact("n")
        assert settled(v) == [(0, 960)]
    if private:
        return
    with ntmem.open(ram / "s", read_only=True, graph_share=1.0) as memory:
        assert settled(memory.vectors) == [(0, 960)]


def test_who_opens_a_store_makes_what_is_missing(ram: Path) -> None:
    with ntmem.open(ram / "s", graph_share=0) as memory:
        memory.vectors.add_many("n", [str(n) for n in range(1000)], rows(1000, 1))
    with ntmem.open(ram / "s", read_only=True) as memory:
        memory.vectors.count("n")
        assert settled(memory.vectors) == []
    with ntmem.open(ram / "s") as memory:
        memory.vectors.count("n")
        assert settled(memory.vectors) == [(0, 960)]


def test_without_memory_for_it_there_is_none_and_a_line_says_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ntmem.open() as memory, caplog.at_level(logging.INFO, "ntmem"):
        v = memory.vectors
        v.add_many("n", [str(n) for n in range(100)], rows(100, 1))
        collection = collection_of(v)
        monkeypatch.setattr(collection.graphs, "_room", lambda: 20_000)
        for batch in range(5):
            v.add_many("n", [f"{batch}-{n}" for n in range(200)], rows(200, batch))
            assert settled(v) == []
        assert [record for record in caplog.messages if "max_memory_bytes" in record] == caplog.messages[:1]
        monkeypatch.setattr(collection.graphs, "_room", lambda: 1 << 30)
        v.add_many("n", [f"x{n}" for n in range(200)], rows(200, 9))
        assert settled(v) == [(0, 1280)]


def test_replaced_vectors_are_left_out_when_they_are_many() -> None:
    with ntmem.open() as memory:
        v, ids = memory.vectors, [str(n) for n in range(320)]
        for turn in range(12):
            v.add_many("n", ids, rows(320, turn))
            settled(v)
        spans = settled(v)
        collection = collection_of(v)
        linked = sum(part.graph.linked for part in collection.graphs.parts(collection.tail()))
        assert spans[-1][1] == 12 * 320
        assert linked <= 3 * 320
        assert lost(v, dict(zip(ids, rows(320, 11), strict=True))) == []
        v.delete("n", where={"x": {"$exists": False}})
        assert v.search("n", rows(1, 5)[0], 5) == []
        v.compact("n")  # if it was not done in the background meanwhile
        assert v.search("n", rows(1, 5)[0], 5) == []
        assert collection.graphs.parts(collection.tail())[0].graph.linked == 0


def test_a_plan_of_later_is_none_of_earlier() -> None:
    """A graph of vectors that were not known yet shows where they are, though as many are wanted as now."""
    with ntmem.open(graph_share=0) as memory:
        v, early, late = memory.vectors, rows(640, 1), rows(64, 2)
        v.add_many("n", [str(n) for n in range(640)], early, ts_known=1)
        v.add_many("n", [f"late {n}" for n in range(64)], late, ts_known=10)
        v.compact("n")
        for number in range(64):
            v.delete("n", f"late {number}", ts_known=12)
        collection = collection_of(v)
        tail, plan = collection.tail(), collection.graphs.plan
        count = tail.count
        left = tail.wanted(count, 20)[1]
        assert left == tail.wanted(count, 5)[1] == 640
        for limit, graphed in ((20, 1), (5, 0), (20, 1)):
            assert len(plan(tail, 10, count, limit, left, None).graphs) == graphed
        assert v.search("n", late[0], 1, as_of=5)[0].id == v.search("n", late[0], 1)[0].id


def test_one_of_several_makes_them(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    building, most = threading.Semaphore(0), []
    build = graphs.build
    lock, running = threading.Lock(), [0]

    def counted(*given: Any, **how: Any) -> Any:
        with lock:
            running[0] += 1
            most.append(running[0])
        try:
            building.release()
            return build(*given, **how)
        finally:
            with lock:
                running[0] -= 1

    monkeypatch.setattr(graphs, "build", counted)
    with ntmem.open(ram / "s") as one, ntmem.open(ram / "s") as other:
        for batch in range(8):
            for v, name in ((one.vectors, "a"), (other.vectors, "b")):
                v.add_many("n", [f"{name}{batch}-{n}" for n in range(150)], rows(150, batch))
        settled(one.vectors)
        settled(other.vectors)
        assert settled(one.vectors)
        assert max(most) == 1
        v = other.vectors
        there = {f"b{batch}-{n}": rows(150, batch)[n] for batch in range(8) for n in range(0, 150, 10)}
        hits = v.search_many("n", np.stack(list(there.values())), 2)  # both have each vector
        assert all(id in [hit.id for hit in found] for id, found in zip(there, hits, strict=True))


def test_a_worker_looks_again_at_what_comes_while_it_ends() -> None:
    there: list[int] = []
    seen: list[int] = []
    looked, goes_on = threading.Semaphore(0), threading.Semaphore(0)

    def work() -> None:
        seen.append(len(there))
        looked.release()
        assert goes_on.acquire(timeout=30)

    worker = Worker("test", work)
    worker.start()
    assert looked.acquire(timeout=30)  # it has seen nothing, and has not ended
    for number in range(3):
        there.append(number)
        worker.start()
    goes_on.release(3)
    worker.join()
    assert seen == [0, 3]
    worker.start()
    worker.join()
    assert seen == [0, 3, 3]


def test_closing_ends_a_build(ram: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    build = graphs.build

    def slow(*given: Any, **how: Any) -> Any:
        begun.set()
        return build(*given, **{**how, "share": 0.001})

    monkeypatch.setattr(graphs, "build", slow)
    memory = ntmem.open(ram / "s")
    v = memory.vectors
    v.add_many("n", [str(n) for n in range(4000)], rows(4000, 1))
    assert begun.wait(30)
    memory.close()
    assert _spans(ram / "s") == []
    assert not glob.glob(f"{ram}/s/vectors/*.graph.*")
    monkeypatch.setattr(graphs, "build", build)
    with ntmem.open(ram / "s") as memory:
        memory.vectors.count("n")
        assert settled(memory.vectors) == [(0, 3968)]


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "1", True, None])
def test_shares_that_are_none(share: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="graph_share"):
        ntmem.open(graph_share=share)
