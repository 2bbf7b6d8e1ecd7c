"""Vectors of a real server answer as those of a store do: one suite, asked of both, and one sequence, compared."""

from __future__ import annotations

import asyncio
import pickle
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from agentdb import SERVER
from hostile import Child, Start, children, ram_directory

import ntmem
from ntmem import VectorError

pytest.importorskip("urllib3", reason="the extra agentdb is not installed")
pytest.importorskip("uvicorn", reason="the extra agentdb-server is not installed")
pytest.importorskip("starlette", reason="the extra agentdb-server is not installed")

TOKEN = "a-token-of-many-letters"
LONG_AGO = 1_600_000_000_000_000_000
NAMESPACES = ["desk", ("desk", "a b"), ("50% off", "%2F", "ü"), ("..", "."), ("a?b=c#d", "+&;"), ("\x01", '"\\')]
IDS = ["a", "b", "ü/☃", "bytes:ff00", "bytes:bytes:ff", "ff00", "..", "%41", " ", "\x00", "é" * 256]


def serve(start: Start, path: Path, port: int = 0) -> tuple[Child, str]:
    """Start a server; return it and its URL."""
    child = start(SERVER, "--store", path, "--port", port, env={"NTMEM_AGENTDB_TOKEN": TOKEN})
    return child, child.line()


@pytest.fixture(scope="module")
def stores() -> Iterator[dict[str, ntmem.MemorySystem]]:
    with ram_directory() as ram, children() as start:
        _, url = serve(start, ram / "served")
        with (
            ntmem.open(ram / "plain") as local,
            ntmem.open(ram / "asking", agentdb_url=url, agentdb_token=TOKEN, agentdb_timeout=60) as remote,
        ):
            yield {"local": local, "remote": remote}


@pytest.fixture(params=["local", "remote"])
def memory(stores: dict[str, ntmem.MemorySystem], request: pytest.FixtureRequest) -> ntmem.MemorySystem:
    return stores[request.param]


@pytest.fixture
def v(memory: ntmem.MemorySystem) -> ntmem.VectorStore:
    return memory.vectors


@pytest.fixture
def n(request: pytest.FixtureRequest) -> str:
    """A collection of the test's own."""
    return request.node.name


# -- asked of both


def test_a_vector_comes_back_as_it_was(v: ntmem.VectorStore, n: str) -> None:
    vector = np.random.default_rng(1).normal(size=384).astype("f4")
    vector[:4] = [np.float32(0.1), np.finfo("f4").tiny, np.finfo("f4").smallest_subnormal, -0.0]
    metadata = {"symbol": "BTC", "n": 2**63, "m": -(2**63), "x": 0.1, "deep": {"a": [1, None, True, {}]}, "id": 1}
    metadata |= {"score": 2, "metadata": {}, "embedding": [], "é": "☃", "ts_known": 5}
    v.add(n, "a", vector, metadata, ts_event=LONG_AGO, ts_known=LONG_AGO + 1)
    found = v.get(n, "a")
    assert found is not None
    assert found.vector.dtype == np.float32
    assert found.vector.tobytes() == vector.tobytes()
    assert (found.id, found.metadata, found.ts_event, found.ts_known) == ("a", metadata, LONG_AGO, LONG_AGO + 1)
    [hit] = v.search(n, vector)
    assert (hit.id, hit.metadata, hit.ts_event, hit.ts_known) == ("a", metadata, LONG_AGO, LONG_AGO + 1)
    assert hit.score == pytest.approx(1.0, abs=1e-4)
    assert hit.score == float(np.float32(hit.score))


def test_what_is_added_is_found_at_once_and_replaced(memory: ntmem.MemorySystem, v: ntmem.VectorStore, n: str) -> None:
    for number in range(4):
        before = time.time_ns()
        (v.add if number % 2 else v.upsert)(n, "a", [1, number], {"n": number})
        [hit] = v.search(n, [1, 0])
        assert hit.metadata == {"n": number}
        assert before - 10**9 < hit.ts_known == hit.ts_event < time.time_ns() + 10**9
    assert v.count(n) == 1
    assert memory.search_similar(n, [1, 0], 5) == [(hit.id, hit.score)]
    assert memory.namespace(n).search([1, 0], 5) == [hit]


def test_deleted_is_deleted(v: ntmem.VectorStore, n: str) -> None:
    assert v.add_many(n, ["a", "b"], [[1, 0], [0, 1]]) == 2
    assert (v.delete(n, "a"), v.delete(n, "a"), v.delete(n, "nobody")) == (1, 0, 0)
    assert v.get(n, "a") is None
    assert [hit.id for hit in v.search(n, [1, 0])] == ["b"]


def test_what_is_not_there(v: ntmem.VectorStore, n: str) -> None:
    assert n not in v
    assert v.search(n, [1, 2]) == []
    assert v.search_many(n, [[1, 2], [3, 4]]) == [[], []]
    assert v.get(n, "a") is None
    assert v.delete(n, "a") == 0
    assert v.count(n) == 0
    assert list(v.select(n)) == []
    v.create(n, 2)
    assert n in v
    assert v.search(n, [1, 2]) == []
    v.create(n, 2)


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_any_namespace_and_any_id(v: ntmem.VectorStore, namespace: Any) -> None:
    for number, id in enumerate(IDS):
        v.add(namespace, id, [1, number])
    assert sorted(hit.id for hit in v.search(namespace, [1, 0], 100)) == sorted(IDS)
    for number, id in enumerate(IDS):
        found = v.get(namespace, id)
        assert found is not None
        assert (found.id, found.vector.tolist()) == (id, [1, number])
        assert v.delete(namespace, id) == 1
    assert v.count(namespace) == 0


@pytest.mark.parametrize(
    ("metric", "query", "best", "scores"),
    [
        ("cosine", [2, 0], "c", [1.0, 2 / 5**0.5]),
        ("l2", [2, 0], "b", [-1.0, -4.0]),
        ("ip", [1, 2], "a", [20.0, 4.0]),
    ],
)
def test_scores_are_those_of_the_metric(
    v: ntmem.VectorStore, n: str, metric: str, query: list[float], best: str, scores: list[float]
) -> None:
    v.create(n, 2, metric=metric)
    v.add_many(n, ["a", "b", "c"], [[8, 6], [2, 1], [4, 0]])
    hits = v.search(n, query, 2)
    assert hits[0].id == best
    assert [hit.score for hit in hits] == pytest.approx(scores, rel=2e-2)


def test_a_vector_of_another_dimension_is_refused(v: ntmem.VectorStore, n: str) -> None:
    v.add(n, "a", [1, 2])
    for call in (
        lambda: v.add(n, "b", [1, 2, 3]),
        lambda: v.add_many(n, ["b"], [[1, 2, 3]]),
        lambda: v.search(n, [1, 2, 3]),
        lambda: v.add(n, "b", [0, 0]),
        lambda: v.search(n, [0, 0]),
    ):
        with pytest.raises(VectorError, match=r"has 3 dimensions, the collection 2|is zero"):
            call()
    assert v.count(n) == 1


def test_twins(v: ntmem.VectorStore, n: str) -> None:
    async def main() -> None:
        await v.aadd_many(n, ["a", "b"], [[1, 0], [0, 1]])
        assert [hit.id for hit in await v.asearch(n, [1, 0], 1)] == ["a"]
        assert await v.acount(n) == 2
        assert await v.adelete(n, "a") == 1

    asyncio.run(main())


def test_an_embedder_makes_vectors_of_text(stores: dict[str, ntmem.MemorySystem]) -> None:
    found = []
    for name, memory in stores.items():
        with ntmem.MemorySystem(memory.config, embedder=ntmem.HashedTextEmbedder()) as again:
            v = again.vectors
            v.add_many("notes", ["a", "b"], ["funding flips", "open interest falls"])
            found.append([(hit.id, hit.score) for hit in v.search("notes", "funding flips")])
            assert found[-1][0][0] == "a", name
    assert found[0] == found[1]


def test_many_threads(v: ntmem.VectorStore, n: str) -> None:
    v.create(n, 4)

    def work(number: int) -> None:
        vector = [1, number, number % 7, number % 3]
        v.add(n, str(number), vector)
        found = v.get(n, str(number))
        assert found is not None
        assert found.vector.tolist() == vector

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(100)))
    assert v.count(n) == 100


# -- compared

WHERES: list[dict[str, Any] | None] = [
    None,
    {},
    {"x": 1},
    {"x": {"$ne": 1}},
    {"x": {"$gt": 0, "$lte": 2.5}},
    {"x": {"$in": [1, "1", None]}},
    {"x": {"$nin": [1, 2.5]}},
    {"x": {"$in": []}},
    {"y": {"$gte": "b"}, "x": {"$lt": 3}},
    {"$or": [{"x": 1}, {"y": "b"}]},
    {"$not": {"x": 1, "y": "b"}},
    {"x": {"$not": {"$in": [0, 1]}}},
    {"z": {"a": [1]}},
    {"z": {"$ne": [1, 2]}},
    {"nobody": {"$ne": 1}},
    {"nobody": 1},
]


def test_a_store_and_a_server_answer_alike(stores: dict[str, ntmem.MemorySystem]) -> None:
    chance = random.Random(7)
    numbers = np.random.default_rng(7)
    local, remote = (stores[name].vectors for name in ("local", "remote"))
    values: dict[str, list[Any]] = {
        "x": [0, 1, 2.5, True, "1", None, 2**53 + 1],
        "y": ["a", "b", "é", 1],
        "z": [[1, 2], {"a": [1]}, []],
        "id": ["61", "q"],
        "score": [0.5, None],
    }

    def metadata() -> dict[str, Any]:
        return {name: chance.choice(found) for name, found in values.items() if chance.random() < 0.6}

    ids = [f"i{number}" for number in range(40)]
    known = LONG_AGO
    some: Counter[str] = Counter()
    for _ in range(300):
        known += 10**9
        kind = chance.choice(["add", "many", "delete", "get", "search", "arrays", "count", "select", "search"])
        where, k = chance.choice(WHERES), chance.choice([1, 3, 10, 100])
        if kind == "add":
            args: Any = ("add", (chance.choice(ids), numbers.normal(size=16), metadata()), {"ts_known": known})
        elif kind == "many":
            these = chance.choices(ids, k=5)
            args = ("add_many", (these, numbers.normal(size=(5, 16)).astype("f4"), [metadata() for _ in these]), {})
            args[2].update(ts_event=known, ts_known=[known + each for each in range(5)])
        elif kind in ("delete", "get"):
            args = (kind, (chance.choice(ids),), {})
        elif kind == "search":
            least = chance.choice([None, 0.0, 0.3, float("-inf"), float("nan"), 2])
            args = ("search_many", (numbers.normal(size=(2, 16)), k), {"where": where, "min_score": least})
        elif kind == "arrays":
            args = ("search_arrays", (numbers.normal(size=(2, 16)), k), {"where": where})
        else:
            args = (kind, (), {"where": where})
        if args[0] == "add":
            args[2]["ts_event"] = known - 5
        name, plain, named = args
        ours, theirs = (getattr(v, name)("alike", *plain, **named) for v in (local, remote))
        if kind == "select":
            ours, theirs = list(ours), list(theirs)
        elif kind == "arrays":
            assert ours[1].tobytes() == theirs[1].tobytes()
            ours, theirs = ours[0].tolist(), theirs[0].tolist()
        elif kind == "get" and ours is not None:
            assert ours.vector.tobytes() == theirs.vector.tobytes()
        assert repr(ours) == repr(theirs), args
        some[kind] += bool(ours[0] if kind in ("search", "arrays") else ours or kind == "add")
    assert min(some.values()) > 5, some


# -- a server that comes and goes


ANOTHER = """
import pickle
memory = pickle.loads(bytes.fromhex(sys.argv[1]))
say([hit.id for hit in memory.vectors.search("n", [1, 0])])
memory.close()
"""


def test_another_process_asks_as_well(stores: dict[str, ntmem.MemorySystem], start: Start) -> None:
    memory = stores["remote"]
    memory.vectors.add("n", "a", [1, 0])
    child = start(ANOTHER, pickle.dumps(memory).hex())
    assert child.line() == "['a']"
    child.end()


def test_a_server_that_was_killed_is_found_again(ram: Path, start: Start) -> None:
    child, url = serve(start, ram / "served")
    with ntmem.open(ram / "s", agentdb_url=url, agentdb_token=TOKEN, agentdb_timeout=0.5) as memory:
        v = memory.vectors
        v.add("n", "a", [1, 0])
        child.stop()
        with pytest.raises(ntmem.ServerUnavailable, match="in time"):
            v.search("n", [1, 0])
        child.signal(signal.SIGKILL)
        child.process.wait()
        with pytest.raises(ntmem.ServerUnavailable):
            v.search("n", [1, 0])
        assert memory.put("desk", "target", b"3")
    _, again = serve(start, ram / "served", int(url.rpartition(":")[2]))
    assert again == url
    with ntmem.open(ram / "s", agentdb_url=url, agentdb_token=TOKEN, agentdb_timeout=60) as memory:
        assert [hit.id for hit in memory.vectors.search("n", [1, 0])] == ["a"]  # what was acknowledged is there
        memory.vectors.add("n", "b", [0, 1])
    with (
        ntmem.open(agentdb_url=url, agentdb_token="another-of-many-letters", agentdb_timeout=60) as memory,
        pytest.raises(VectorError, match="refuses this token: 401") as caught,
    ):
        memory.vectors.search("n", [1, 0])
    assert "another" not in str(caught.value)


def test_a_collection_that_is_another_is_refused(v: ntmem.VectorStore, n: str) -> None:
    v.create(n, 2)
    v.create(n, 2)
    for dimension, metric in ((2, "l2"), (3, "cosine")):
        with pytest.raises(ntmem.VectorError, match="there"):
            v.create(n, dimension, metric=metric)
    v.create(f"{n}/l2", 2, metric="l2")
    v.create(f"{n}/l2", 2, metric="l2")
    with pytest.raises(ntmem.VectorError, match="there"):
        v.create(f"{n}/l2", 2)
