"""Collections that have a graph: what is found, what is scanned beside it, as of when, and where the graph is lost."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ntmem
from ntmem.tiers import graphs
from ntmem.tiers.hits import SearchHit
from ntmem.tiers.vectors import VectorStore

COUNT, DIMENSION = 3000, 24


def clusters(count: int, seed: int) -> Any:
    chance = np.random.default_rng(seed)
    centres = np.random.default_rng(7).standard_normal((40, DIMENSION))
    found = centres[chance.integers(0, 40, count)] + 0.4 * chance.standard_normal((count, DIMENSION))
    return found.astype(np.float32)


QUERIES = clusters(20, 2)


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few thousand small vectors are sooner scanned; here graphs are asked."""
    monkeypatch.setattr(graphs, "is_sooner", lambda *_: True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many graphs each search was planned with."""
    found: list[int] = []
    plan = graphs.Graphs.plan

    def planned(*given: Any) -> graphs.Plan:
        made = plan(*given)
        found.append(len(made.graphs))
        return made

    monkeypatch.setattr(graphs.Graphs, "plan", planned)
    return found


def filled(memory: ntmem.MemorySystem, count: int = COUNT, **how: Any) -> VectorStore:
    v = memory.vectors
    v.create("n", DIMENSION, **how)
    ids = [str(number) for number in range(count)]
    v.add_many("n", ids, clusters(count, 1), [{"n": number} for number in range(count)], ts_event=1, ts_known=1)
    return v


def ids(hits: list[SearchHit]) -> list[str]:
    return [hit.id for hit in hits]


def found(v: VectorStore, **how: Any) -> list[list[str]]:
    return [ids(hits) for hits in v.search_many("n", QUERIES, 10, **how)]


def recall(a: list[list[str]], b: list[list[str]]) -> float:
    return float(np.mean([len({*x} & {*y}) / max(1, len(x)) for x, y in zip(a, b, strict=True)]))


def graph_files(store: Path) -> list[str]:
    return sorted(glob.glob(f"{store}/vectors/*.graph"))


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_the_nearest_are_found_with_the_same_scores(metric: str, dtype: str) -> None:
    with ntmem.open() as memory:
        v = filled(memory, metric=metric, dtype=dtype)
        exact = v.search_many("n", QUERIES, 10)
        assert v.compact("n")
        by_graph = v.search_many("n", QUERIES, 10)
        assert recall([ids(hits) for hits in exact], [ids(hits) for hits in by_graph]) >= 0.97
        for one, other in zip(exact, by_graph, strict=True):
            scores = {hit.id: hit.score for hit in one}
            shared = [hit for hit in other if hit.id in scores]
            assert [hit.score for hit in shared] == pytest.approx(
                [scores[hit.id] for hit in shared], rel=1e-4, abs=1e-4
            )
        arrays = v.search_arrays("n", QUERIES, 10)[0].tolist()
        assert arrays == [ids(hits) for hits in by_graph]
        assert v.recall_check("n", 50) >= 0.97


def test_what_came_later_is_scanned_and_what_went_is_not_found() -> None:
    with ntmem.open() as memory:
        v = filled(memory)
        assert v.compact("n")
        nearest = v.search("n", QUERIES[0], 1)[0].id
        v.add("n", "new", QUERIES[0])
        assert v.search("n", QUERIES[0], 1)[0].id == "new"
        v.delete("n", "new")
        assert v.search("n", QUERIES[0], 1)[0].id == nearest
        v.delete("n", nearest)
        assert nearest not in ids(v.search("n", QUERIES[0], 50))
        v.add("n", nearest, -QUERIES[0])
        assert nearest not in ids(v.search("n", QUERIES[0], 50))
        assert v.search("n", -QUERIES[0], 1)[0].id == nearest


def test_filters_and_more_than_there_are() -> None:
    with ntmem.open() as memory:
        v = filled(memory)
        where = {"n": {"$lt": 1500}}
        exact = found(v, where=where)
        assert v.compact("n")
        by_graph = found(v, where=where)
        assert recall(exact, by_graph) >= 0.97
        assert all(int(one) < 1500 for hits in by_graph for one in hits)
        assert len(v.search("n", QUERIES[0], 5000, ef=1)) <= COUNT
        assert v.search("n", QUERIES[0], 5, where={"n": {"$lt": 0}}) == []
        assert len(v.search("n", QUERIES[0], 5, rerank=50)) == 5


def test_a_graph_is_not_asked_as_of_before_what_is_in_it(asked: list[int]) -> None:
    with ntmem.open() as memory:
        v = filled(memory)
        before = found(v, as_of=5)
        v.add("n", "late", QUERIES[0], ts_known=10)
        v.add_many("n", [f"x{n}" for n in range(63)], clusters(63, 3), ts_known=10)
        assert v.compact("n")
        assert recall(found(v, as_of=10), found(v)) == 1.0
        asked.clear()
        assert found(v, as_of=5) == before
        found(v, as_of=9)
        found(v, as_of=10)
        assert asked == [0, 0, 1]


def test_other_handles_and_the_next_to_open_have_it(
    ram: Path, monkeypatch: pytest.MonkeyPatch, asked: list[int]
) -> None:
    with ntmem.open(ram / "s") as one, ntmem.open(ram / "s") as other:
        v = filled(one)
        assert other.vectors.count("n") == COUNT
        assert v.compact("n")
        assert not v.compact("n")
        assert not other.vectors.compact("n")
        monkeypatch.setattr(graphs, "build", lambda *_, **__: pytest.fail("it is there"))
        expected = found(v)
        assert found(other.vectors) == expected
    assert len(graph_files(ram / "s")) == 1
    with ntmem.open(ram / "s") as again:
        asked.clear()
        assert found(again.vectors) == expected
        assert asked == [1]
    with ntmem.open(ram / "s", read_only=True) as reader:
        assert found(reader.vectors) == expected
        with pytest.raises(ntmem.ReadOnlyError):
            reader.vectors.compact("n")


def test_a_larger_graph_comes_in_the_place_of_a_smaller_one(ram: Path) -> None:
    with ntmem.open(ram / "s") as one, ntmem.open(ram / "s") as other:
        v = filled(one)
        assert v.compact("n")
        assert recall(found(other.vectors), found(v)) == 1.0
        v.add_many("n", [f"x{n}" for n in range(640)], clusters(640, 3))
        assert other.vectors.compact("n")
        assert len(graph_files(ram / "s")) == 1
        assert found(v) == found(other.vectors)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "another version"])
def test_a_graph_that_is_damaged_is_not_used(ram: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    with ntmem.open(ram / "s") as memory:
        v = filled(memory)
        exact = found(v)
        assert v.compact("n")
    (path,) = graph_files(ram / "s")
    data = bytearray(Path(path).read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 4
    elif damage == "another version":
        os.rename(path, _other_version(path))
        path = _other_version(path)
    Path(path).write_bytes(data[:1000] if damage == "cut" else b"" if damage == "empty" else data)
    with ntmem.open(ram / "s") as memory:
        assert found(memory.vectors) == exact
        assert ("it is made again" in caplog.text) == (damage != "another version")
        assert memory.vectors.compact("n")
        assert recall(found(memory.vectors), exact) >= 0.97
    with ntmem.open(ram / "s") as memory:
        assert recall(found(memory.vectors), exact) >= 0.97


def _other_version(path: str) -> str:
    stem, version = path.removesuffix(".graph").rsplit("-", 1)
    return f"{stem}-{int(version, 16) + 1:016x}.graph"


def test_a_dropped_collection_leaves_no_graph(ram: Path) -> None:
    with ntmem.open(ram / "s") as memory:
        v = filled(memory)
        assert v.compact("n")
        v.drop("n")
        assert graph_files(ram / "s") == []
        assert not v.compact("n")
        assert v.recall_check("n") == 1.0
        filled(memory, 100)
        assert ids(v.search("n", clusters(100, 1)[7], 1)) == ["7"]


def test_small_and_empty_collections() -> None:
    with ntmem.open() as memory:
        v = memory.vectors
        v.create("n", DIMENSION)
        assert not v.compact("n")
        assert v.recall_check("n") == 1.0
        filled(memory, 70)
        assert v.compact("n")
        assert recall(found(v), found(v, as_of=ntmem.LATEST)) == 1.0


def test_a_build_that_is_ended_leaves_nothing(ram: Path) -> None:
    with ntmem.open(ram / "s") as memory:
        v = filled(memory)
        collection = v._of(("n",))
        assert collection is not None
        collection.graphs.stop[0] = 1
        assert not collection.graphs.compact(collection.tail(), 1)
        assert graph_files(ram / "s") == []
        assert v.compact("n")
        assert len(graph_files(ram / "s")) == 1


def test_the_choice_between_a_graph_and_a_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    def sooner(count: int, left: int, graphed: int, parts: int = 1) -> bool:
        return graphs.is_sooner(parts, 100, 16, 384, count, left, graphed)

    assert sooner(200_000, 200_000, 200_000)
    assert not sooner(5_000, 5_000, 5_000)
    assert not sooner(200_000, 2_000, 200_000)
    assert sooner(200_000, 100_000, 200_000)
    assert not sooner(200_000, 200_000, 4_000)
    assert not sooner(20_000, 20_000, 20_000, parts=10)
    assert not sooner(20_000, 20_000, 0, parts=0)
    assert not sooner(20_000, 0, 20_000)
    least = graphs.worth(16, 384)
    assert sooner(least + 64, least + 64, least + 64)
    assert not sooner(least - 64, least - 64, least - 64)
    assert graphs.worth(16, 1536) < least < graphs.worth(16, 64)
    assert graphs.worth(2, 65_536) == 4096
