"""Vectors as a plain list of changes has them, searched by brute force in float64: what a store's are held against."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ntmem._core import nearest
from ntmem._core.region import Region
from ntmem._core.vectors import VectorTail, sections
from ntmem.filters import compile_where

START = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
LAST = 2**63 - 1
METRICS = ("cosine", "l2", "ip")
DTYPES = ("int8", "float16", "float32")

# What a number may be off by, as a part of the largest of its vector: half a step, or half a unit in the last place.
_ROUNDING = {"int8": 0.5 / 127 * 1.001, "float16": 2.0**-11 * 1.001, "float32": 2.0**-24}


class Row(NamedTuple):
    """A change: a vector, or the deletion of one (`vector` None)."""

    number: int
    id: str
    vector: np.ndarray | None
    metadata: dict[str, Any]
    ts_event: int
    ts_known: int


class Plain:
    """A collection in memory, whose every answer is computed from all its changes."""

    def __init__(self, metric: str = "cosine", dtype: str = "int8") -> None:
        self.metric, self.dtype = metric, dtype
        self.rows: list[Row] = []

    def add(self, id: str, vector: Any, metadata: Any = None, ts_event: int = START, ts_known: int = START) -> None:
        """Add a vector, or with None the deletion of one."""
        numbers = None if vector is None else np.array(vector, np.float32)
        self.rows.append(Row(len(self.rows), id, numbers, dict(metadata or {}), ts_event, ts_known))

    def delete(self, id: str, ts_known: int = START) -> None:
        """Delete the vector of an id."""
        self.add(id, None, None, ts_known, ts_known)

    def served(self, as_of: int = LAST, where: Mapping[str, Any] | None = None) -> list[Row]:
        """Return the vectors that are there as of an instant, in the order of their changes."""
        newest = {row.id: row for row in self.rows if row.ts_known <= as_of}
        chosen = compile_where(where)
        return [
            row
            for row in self.rows
            if newest.get(row.id) is row and row.vector is not None and (chosen is None or chosen.matches(row.metadata))
        ]

    def get(self, id: str, as_of: int = LAST) -> Row | None:
        """Return the vector of an id as of an instant."""
        return next((row for row in self.served(as_of) if row.id == id), None)

    def score(self, query: Any, row: Row) -> float:
        """Return the exact score of a vector."""
        assert row.vector is not None
        return score(self.metric, query, row.vector)

    def error(self, query: Any, row: Row) -> float:
        """Return what the score may be off by: the numbers of both are rounded as the type of the collection says."""
        assert row.vector is not None
        return error(self.metric, self.dtype, query, row.vector)


def score(metric: str, a: Any, b: Any) -> float:
    """Return the exact score of two vectors; higher is better."""
    x, y = np.array(a, np.float64), np.array(b, np.float64)
    if metric == "l2":
        return -float(((x - y) ** 2).sum())
    product = float(x @ y)
    return product / float(np.linalg.norm(x) * np.linalg.norm(y)) if metric == "cosine" else product


def error(metric: str, dtype: str, a: Any, b: Any) -> float:
    """Return a bound of what a computed score may be off by."""
    x, y = np.array(a, np.float64), np.array(b, np.float64)
    if metric == "cosine":
        x, y = x / np.linalg.norm(x), y / np.linalg.norm(y)
    part, n = _ROUNDING[dtype], len(x)
    lost = [part * np.abs(v).max() * np.sqrt(n) for v in (x, y)]  # the length of what rounding takes or adds
    if dtype == "float16":
        lost = [each + 2.0**-25 * np.sqrt(n) for each in lost]  # subnormal halves
    long = [float(np.linalg.norm(v)) for v in (x, y)]
    off = lost[0] * (long[1] + lost[1]) + lost[1] * long[0]
    floats = 1e-6 * (long[0] * long[1] + (long[0] ** 2 + long[1] ** 2 if metric == "l2" else 0.0)) * (1 + n / 256)
    if metric == "cosine":  # lengths are made 1 again
        return float(3 * off + floats) + 1e-6
    if metric == "l2":
        distance = float(np.linalg.norm(x - y))
        return float(2 * distance * sum(lost) + sum(lost) ** 2 + floats)
    return float(off + floats)


def check_search(hits: Any, plain: Plain, query: Any, k: int, as_of: int = LAST, where: Any = None) -> None:
    """See that hits are the best that are there, each once, in order, with its own facts and a score that is right."""
    there = {row.id: row for row in plain.served(as_of, where)}
    assert len(hits) == min(k, len(there)), (len(hits), len(there))
    assert len({hit.id for hit in hits}) == len(hits)
    scores = [hit.score for hit in hits]
    assert scores == sorted(scores, reverse=True)
    for hit in hits:
        row = there[hit.id]
        assert (hit.metadata, hit.ts_event, hit.ts_known) == (row.metadata, row.ts_event, row.ts_known)
        assert abs(hit.score - plain.score(query, row)) <= plain.error(query, row), (hit, plain.score(query, row))
    found = {hit.id for hit in hits}
    if hits:
        worst = scores[-1]
        for row in there.values():
            if row.id not in found:
                assert plain.score(query, row) <= worst + plain.error(query, row)


def check_get(found: Any, row: Row | None) -> None:
    """See that what ``get`` returned is this vector, as it was given."""
    if row is None:
        assert found is None
        return
    assert found is not None
    assert (found.id, found.metadata, found.ts_event, found.ts_known) == (
        *(row.id, row.metadata, row.ts_event, row.ts_known),
    )
    assert row.vector is not None
    assert found.vector.dtype == np.float32
    assert found.vector.tobytes() == row.vector.tobytes()


def check(
    vectors: Any, plain: Plain, namespace: Any = "n", as_of: int = LAST, queries: Any = (), dimension: int = 0
) -> None:
    """See that a collection has just these vectors, by count, search and get."""
    there = plain.served(as_of)
    assert vectors.count(namespace, as_of=as_of) == len(there)
    dimension = dimension or next((len(row.vector) for row in plain.rows if row.vector is not None), 2)
    for query in [np.eye(1, dimension, dtype=np.float32)[0], *queries]:
        for k in (1, 3, len(plain.rows) + 1):
            check_search(vectors.search(namespace, query, k, as_of=as_of), plain, query, k, as_of)
    for id in {row.id for row in plain.rows} | {"nobody"}:
        check_get(vectors.get(namespace, id, as_of=as_of), plain.get(id, as_of))


def clustered(count: int, dimension: int, seed: int = 0, clusters: int = 20) -> np.ndarray:
    """Return vectors in clusters, as embeddings are."""
    chance = np.random.default_rng(seed)
    centres = chance.normal(size=(clusters, dimension))
    return (centres[chance.integers(0, clusters, count)] + 0.35 * chance.normal(size=(count, dimension))).astype("f4")


def search(tail: VectorTail, queries: Any, k: int, count: int, limit: int, bits: Any = None) -> Any:
    """Return slots and scores of the best of the first slots, of those that are served at an instant."""
    return nearest.search(tail, queries, k, count, tail.wanted(count, limit, bits)[0])


def new_tail(
    dimension: int = 4, dtype: str = "int8", metric: str = "ip", *, capacity: int = 4096, path: Any = None
) -> VectorTail:
    """Make the memory of a collection; with a path, published."""
    region = Region.create(path, identity=b"v", generation=0, sections=sections(dimension, dtype, capacity))
    tail = VectorTail(region, dimension, dtype, metric, is_new=True)
    if path is not None:
        region.publish()
    return tail


def attach_tail(path: Any, dimension: int = 4, dtype: str = "int8", metric: str = "ip") -> VectorTail:
    """Map it as another process does."""
    return VectorTail(Region.attach(path, identity=b"v"), dimension, dtype, metric)


def locked(tail: VectorTail, do: Callable[[], Any]) -> Any:
    """Do something as the one who writes."""
    tail.lock(10.0)
    try:
        return do()
    finally:
        tail.unlock()


def put(tail: VectorTail, id: str, vector: Any, known: int = 1, metadata: bytes = b"", event: int = 0) -> int:
    """Add a change to a tail; return its slot."""

    def do() -> int:
        numbers = None if vector is None else np.array(vector, np.float32)
        tail.stage(id, numbers, event, known, metadata)
        tail.publish()
        return tail.count - 1

    slot: int = locked(tail, do)
    return slot


def slots_of(bits: np.ndarray) -> list[int]:
    """Return the numbers of the bits that are set."""
    found: list[int] = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist()
    return found


def chunks(count: int, of: int) -> Iterator[range]:
    """Return ranges of at most `of` that make up `count`."""
    for first in range(0, count, of):
        yield range(first, min(first + of, count))


def ids(hits: Any) -> list[str]:
    """Return whom a search found."""
    return [hit.id for hit in hits]
