"""Vectors of a store, as its users see them: collections, adding, searching as of an instant.

``docs/design/vectors.md`` has the reasons.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import msgspec
import numpy as np

from .._core import meters, nearest
from .._core.vectors import METRICS, TYPES, Over, VectorTail
from ..errors import ReadOnlyError, StorageError, VectorError, VersionConflict
from ..filters import compile_where
from ..instants import LATEST, MAX_INSTANT, AsOf, Instant, instant_ns, require_int
from ..namespace import labels_of
from ..records import Change
from ..twins import twin
from .collection import Collection, Limits, memory_of
from .engine import LmdbEngine
from .exporting import check_path, export_vectors
from .graphs import bytes_of
from .guards import check_situations
from .hits import CollectionInfo, Entry, SearchHit, StoredVector, entry_of, hit_of, stored_vector
from .log import LogEngine
from .points import (
    COLLECTIONS,
    MOST_DIMENSIONS,
    POINTS,
    CollectionRow,
    Point,
    collection_key,
    decode_collection,
    decode_point,
    encode_collection,
    encode_metadata,
    point_key,
)
from .searching import asked_of, best_of, passing_of, slots_of
from .segments import remove_segments
from .vectorchecks import check_counts, check_vectors, checked_id

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..embedding import EmbeddingProvider
AnyNamespace: TypeAlias = "str | tuple[str, ...]"
T = TypeVar("T")

_NUMBERS = b"\0numbers"  # no collection has this key
_DROPPED_AT_ONCE = 256
_ATTEMPTS = 100
_EXPORTED = 4  # words of a bitmap, whose vectors are read at once
_FLOAT = np.dtype(np.float32)


class VectorStore:
    """Vectors with ids and metadata, in collections, searched by similarity. ``memory.vectors``; keep it at hand.

    A collection is of one namespace and made by the first :meth:`add`, or by :meth:`create`. What is added is found by
    the next search of every process. It is searched in memory that all processes share, as int8 (by default), float16
    or float32; what was given is kept in the store, and what was replaced or deleted is still found by who asks as of
    an instant before.

    Notes
    -----
    **Thread safety**: any thread, of any process that has the store open. **Complexity**: adding is O(dimension); a
    search O(changes times dimension), of those that a filter lets pass.

    Examples
    --------
    >>> import ntmem
    >>> with ntmem.open() as memory:
    ...     v = memory.vectors
    ...     v.add("setups", "calm", [0.9, 0.1], {"symbol": "BTCUSDT", "spread": 1})
    ...     v.add("setups", "storm", [0.1, 0.9], {"symbol": "BTCUSDT", "spread": 9})
    ...     [hit] = v.search("setups", [0.0, 1.0], 1, where={"spread": {"$gt": 5}})
    ...     hit.id, hit.metadata["spread"]
    ('storm', 9)
    """

    def __init__(
        self,
        engine: LmdbEngine,
        handle: Callable[[], LmdbEngine],
        *,
        limits: Limits,
        embedder: EmbeddingProvider | None = None,
    ) -> None:
        self._handle = handle
        self._embedder = embedder
        self._limits = limits
        self._engine = engine
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], Collection] = {}

    def close(self) -> None:
        """Write what is worth it as segments, from which the next to open the store reads it."""
        for collection in list(self._known.values()):
            collection.close()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("vectors cannot be pickled; pass the store, whose they are")

    def __repr__(self) -> str:
        return f"<VectorStore of {self._engine.store.directory or 'a private store'}>"

    # -- collections

    def create(
        self,
        namespace: AnyNamespace,
        dimension: int,
        *,
        metric: str = "cosine",
        dtype: str = "int8",
        m: int = 16,
        ef_construction: int = 200,
    ) -> None:
        """Make a collection; nothing if there is one like this.

        Parameters
        ----------
        metric : {"cosine", "l2", "ip"}
            The cosine of the angle, the negative squared distance, or the product: always, higher is better.
        dtype : {"int8", "float16", "float32"}
            As what vectors are searched. int8 has a step for each vector, its largest number's 127th part.
        m, ef_construction : int
            Of the graph that :meth:`compact` makes: neighbours of a vector, candidates that are looked at for them.

        Raises
        ------
        VectorError
            There is one already, and it is another; dimension, metric or dtype is none.
        """
        engine, labels = self._writable(), _free(namespace)
        require_int(dimension, "dimension", 1, MOST_DIMENSIONS)
        require_int(m, "m", 2, 512)
        require_int(ef_construction, "ef_construction", 1, 1 << 20)
        for name, value, known in (("metric", metric, METRICS), ("dtype", dtype, TYPES)):
            if value not in known:
                raise VectorError(f"{name} must be one of {', '.join(known)}, was {value!r}")
        wanted = CollectionRow(0, dimension, metric, dtype, m, ef_construction)
        found = self._row(engine, labels)
        if found is None:
            found = self._make(engine, labels, wanted)
        if msgspec.structs.replace(found, number=0) != wanted:
            raise VectorError(
                f"{_shown(labels)} is there already, with {found.dimension} dimensions as {found.dtype}, by "
                f"{found.metric}, m={found.m}, ef_construction={found.ef_construction}; drop it, or use another name"
            )

    def _make(self, engine: LmdbEngine, labels: tuple[str, ...], wanted: CollectionRow) -> CollectionRow:
        for _ in range(_ATTEMPTS):
            self._finish_drop(engine, labels)
            number = engine.commit([Change("incr", COLLECTIONS, _NUMBERS, delta=1, own=True)])[0].number
            row = msgspec.structs.replace(wanted, number=number)
            engine.commit([Change("add", COLLECTIONS, collection_key(labels), encode_collection(row), own=True)])
            found = self._row(engine, labels)
            if found is not None:
                return found
        raise StorageError(f"{_shown(labels)} is dropped again and again while it is made")

    def drop(self, namespace: AnyNamespace) -> bool:
        """Remove a collection with all its vectors, and their past; return whether there was one.

        Who stops in the middle leaves a collection that is none, and is finished by the next :meth:`drop` or
        :meth:`create`.
        """
        engine, labels = self._writable(), _free(namespace)
        found = self._row(engine, labels)
        if found is not None:
            key, over = collection_key(labels), encode_collection(msgspec.structs.replace(found, is_dropped=True))
            collection = self._of(labels)
            if collection is not None and collection.row.number == found.number:
                collection.end(lambda: engine.commit([Change("put", COLLECTIONS, key, over, own=True)]))
            self._known.pop(labels, None)
        self._finish_drop(engine, labels)
        return found is not None

    def _finish_drop(self, engine: LmdbEngine, labels: tuple[str, ...]) -> None:
        """Remove the records of a collection that is none any more."""
        key = collection_key(labels)
        record = engine.get_record(COLLECTIONS, key, None)
        row = None if record is None or record.value is None else decode_collection(record.value)
        if record is None or row is None or not row.is_dropped:
            return
        keys = []
        for found, _ in engine.entries_of(POINTS, point_key(row.number, 0)[:8]):
            keys.append(found)
            if len(keys) == _DROPPED_AT_ONCE:
                engine.drop(POINTS, keys)
                keys = []
        if keys:
            engine.drop(POINTS, keys)
        remove_segments(engine, row.number)  # last: who writes one looks afterwards whether there are records
        with suppress(VersionConflict):
            engine.commit([Change("delete", COLLECTIONS, key, if_version=record.version, own=True)])

    def collections(self) -> list[tuple[str, ...]]:
        """Return the namespaces that have a collection, sorted."""
        found = self._open().entries_of(COLLECTIONS, b"")
        return sorted(
            tuple(key.decode().split("/"))
            for key, stored in found
            if key != _NUMBERS and not decode_collection(stored.value).is_dropped
        )

    def __contains__(self, namespace: AnyNamespace) -> bool:
        """Whether a namespace has a collection. O(1)."""
        return self._row(self._open(), labels_of(namespace)) is not None

    def info(self, namespace: AnyNamespace) -> CollectionInfo | None:
        """Return what there is of a collection; None: there is none."""

        def look(collection: Collection, tail: VectorTail) -> CollectionInfo:
            row, count = collection.row, tail.count
            parts = collection.graphs.parts(tail)
            return CollectionInfo(
                dimension=row.dimension,
                metric=row.metric,
                dtype=row.dtype,
                count=tail.wanted(count, self._open().now())[1],
                changes=count,
                memory_bytes=tail.nbytes,
                graphs=len(parts),
                graphed=sum(part.end - part.first for part in parts),
                graph_bytes=sum(part.graph.nbytes for part in parts),
            )

        return self._asked(namespace, look, None)

    # -- changing

    def add(
        self,
        namespace: AnyNamespace,
        id: str,
        vector: ArrayLike | str,
        metadata: Mapping[str, Any] | None = None,
        *,
        ts_event: Instant | None = None,
        ts_known: Instant | None = None,
    ) -> None:
        """Add a vector, in the place of the one of this id if there is one.

        The first of a namespace makes its collection, as of :meth:`create` with the number of its dimensions.

        Parameters
        ----------
        id : str
            Up to 512 bytes of UTF-8.
        vector : array of float32, shape (dimension,)
            Finite numbers; not all zero where the metric is the cosine. With an embedder, what that embeds.
        metadata : mapping, optional
            Of str to what MessagePack can hold, 32 KiB at most, for ``where=`` and to be returned. The first 64 names
            of a collection have columns, by which filters are quick; filters by others look at each vector.
        ts_event, ts_known : instant, optional
            What it is about, and from when on it was known; by default now. A search as of before `ts_known` does not
            find it, and finds what it replaced.

        Raises
        ------
        VectorError
            It has other dimensions, NaN or infinity, or is zero; memory is used up.
        TypeError, ValueError
            An argument is not as above.
        ReadOnlyError, StoreClosed, MapFull, DiskFull, StorageError
            The store cannot take it; nothing was kept, unless it says so.

        Notes
        -----
        **Complexity**: O(dimension).
        """
        engine = self._writable()
        now = engine.now()
        self._write(engine, namespace, lambda row: [self._point(row, id, vector, metadata, ts_event, ts_known, now)])

    upsert = add

    def add_many(
        self,
        namespace: AnyNamespace,
        ids: Sequence[str],
        vectors: NDArray[Any] | Sequence[Any],
        metadata: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        ts_event: Instant | Sequence[Instant] | None = None,
        ts_known: Instant | Sequence[Instant] | None = None,
        whole: bool = False,
    ) -> int:
        """Add vectors, one after the other as by :meth:`add`, and return how many.

        All are checked before any is kept. They are written in groups of up to 4,096, as large as the log takes at
        once, each all or none.

        Parameters
        ----------
        vectors : array of float32, shape (n, dimension)
        metadata : sequence of mapping, optional
        ts_event, ts_known : instant, or a sequence of n of them
        whole : bool
            Add all or none; raise :class:`VectorError` if the log does not take so many at once.
        """
        engine = self._writable()
        now = engine.now()
        columns = self._columns(ids, vectors, metadata, ts_event, ts_known)

        def points(row: CollectionRow | None) -> list[Point]:
            return [self._point(row, *each, now) for each in columns]

        if columns:
            self._write(engine, namespace, points, whole)
        return len(columns)

    aadd_many = twin(add_many)

    def delete(
        self,
        namespace: AnyNamespace,
        id: str | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        ts_known: Instant | None = None,
    ) -> int:
        """Delete the vector of an id, or all that a filter lets pass; return how many there were.

        A search as of before `ts_known` (by default now) still finds them.
        """
        if (id is None) == (where is None):
            raise TypeError("delete() takes an id or where=; drop() removes a whole collection")
        if where is not None and not where:
            raise ValueError("an empty filter would delete all; drop() removes a collection with its past")
        _free(namespace)
        engine = self._writable()
        now = engine.now()
        known = now if ts_known is None else instant_ns(ts_known, "ts_known")
        chosen = compile_where(where)

        def look(collection: Collection, tail: VectorTail) -> int:
            if chosen is None:
                ids = [id] if id is not None and tail.find(checked_id(id), now) >= 0 else []
            else:
                count = tail.count
                bits, _ = tail.served(count, now, passing_of(collection, tail, count, now, chosen))
                ids = [tail.found(slot).id for slot in slots_of(bits)]
            if ids:
                collection.write([Point(name, None, known, known, b"") for name in ids])
            return len(ids)

        return self._asked(namespace, look, 0)

    adelete = twin(delete)

    def _write(
        self,
        engine: LmdbEngine,
        namespace: AnyNamespace,
        points: Callable[[CollectionRow | None], list[Point]],
        whole: bool = False,
    ) -> None:
        begun = perf_counter_ns()
        labels = _free(namespace)
        for _ in range(_ATTEMPTS):
            collection = self._of(labels)
            if collection is None:
                made = points(None)
                assert made[0].vector is not None
                self._make(engine, labels, CollectionRow(0, len(made[0].vector), "cosine", "int8", 16, 200))
                continue
            try:
                try:
                    made = points(collection.row)
                except VectorError:
                    collection.tail()  # it may be another's row by now
                    raise
                collection.write(made, whole)
                engine.store.meters.since(meters.VECTOR_ADD, begun)
                return
            except Over:
                self._known.pop(labels, None)
        raise StorageError(f"{_shown(labels)} is dropped again and again while it is written to")

    def _columns(
        self, ids: Sequence[str], vectors: Any, metadata: Any, ts_event: Any, ts_known: Any
    ) -> list[tuple[Any, Any, Any, Any, Any]]:
        """Return the id, vector, metadata, `ts_event` and `ts_known` of each of several vectors, as they are many."""
        if isinstance(ids, str):
            raise TypeError("ids must be a sequence of str, was one str; use add()")
        if isinstance(metadata, Mapping):
            raise TypeError("metadata must be a sequence of mappings, one for each vector; was one mapping")
        ids = list(ids)
        numbers = self._numbers(vectors) if len(vectors) else np.empty((0, 1), np.float32)
        if numbers.ndim != 2:
            raise VectorError(f"vectors must be an array of shape (n, dimension), were of shape {numbers.shape}")
        events, knowns = _each(ts_event, len(ids)), _each(ts_known, len(ids))
        extras: Sequence[Any] = [None] * len(ids) if metadata is None else metadata
        named = {"vectors": numbers, "metadata": extras, "ts_event": events, "ts_known": knowns}
        for name, column in named.items():
            if len(column) != len(ids):
                raise ValueError(f"{name} must be as many as the {len(ids)} ids, were {len(column)}")
        return list(zip(ids, numbers, extras, events, knowns, strict=True))

    def _point(
        self,
        row: CollectionRow | None,
        id: Any,
        vector: Any,
        metadata: Mapping[str, Any] | None,
        ts_event: Instant | None,
        ts_known: Instant | None,
        now: int,
    ) -> Point:
        name = checked_id(id)
        numbers = self._numbers(vector)
        if numbers.ndim != 1:
            raise VectorError(f"the vector of {name!r} must have one dimension, is of shape {numbers.shape}")
        self._check(row, numbers[np.newaxis], f"the vector of {name!r}")
        return Point(
            name,
            numbers,
            now if ts_event is None else instant_ns(ts_event, "ts_event"),
            now if ts_known is None else instant_ns(ts_known, "ts_known"),
            b"" if not metadata and isinstance(metadata, Mapping | None) else encode_metadata(metadata),
        )

    def _check(self, row: CollectionRow | None, vectors: NDArray[np.float32], what: str) -> None:
        check_vectors(row, vectors, what)

    def _is_text(self, what: Any) -> bool:
        return isinstance(what, str) or (isinstance(what, list | tuple) and len(what) > 0 and isinstance(what[0], str))

    def _numbers(self, what: Any) -> NDArray[np.float32]:
        """Return a vector, or several, as float32; what is text is embedded."""
        if type(what) is np.ndarray and what.dtype == _FLOAT and what.flags.c_contiguous:
            return what
        if self._is_text(what):
            if self._embedder is None:
                raise TypeError("text needs an embedder: open the store with embedder=, or pass a vector")
            return self._embedder.embed(what) if isinstance(what, str) else self._embedder.embed_batch(what)
        numbers = np.asarray(what)
        if numbers.dtype == _FLOAT:
            return np.ascontiguousarray(numbers)
        if numbers.dtype.kind not in "fiu":
            raise TypeError(f"a vector is an array of numbers, was of {numbers.dtype}")
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(numbers, _FLOAT)

    # -- searching

    def search(
        self,
        namespace: AnyNamespace,
        query: ArrayLike | str,
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        as_of: AsOf = None,
        ef: int | None = None,
        min_score: float | None = None,
        rerank: int | None = None,
    ) -> list[SearchHit]:
        """Return the vectors that are nearest to a query, the best first, `k` at most.

        Parameters
        ----------
        query : array of float32, shape (dimension,)
            With an embedder, or what that embeds.
        where : mapping, optional
            Only those whose metadata pass; :mod:`ntmem.filters` has the operators.
        as_of : instant, optional
            As the collection was known then; None: now, :data:`ntmem.LATEST`: with what is known only later.
        ef : int, optional
            How many candidates a graph keeps on its way, 100 by default; of no effect where there is none.
        min_score : float, optional
            Only those with this score or a higher one.
        rerank : int, optional
            Score so many of the best again by what is kept of them in the store, float32.

        Returns
        -------
        list of SearchHit
            Of a collection that does not exist: empty.

        Raises
        ------
        VectorError
            The query has other dimensions, NaN or infinity, or is zero.
        """
        numbers = self._numbers(query)
        if numbers.ndim != 1:
            raise VectorError(f"a query must have one dimension, was of shape {numbers.shape}; see search_many()")
        check_counts(k, ef, rerank)
        return self._hits(namespace, numbers[np.newaxis], k, where, as_of, min_score, rerank, ef)[0]

    asearch = twin(search)

    def search_many(
        self,
        namespace: AnyNamespace,
        queries: ArrayLike | Sequence[str],
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        as_of: AsOf = None,
        ef: int | None = None,
        min_score: float | None = None,
        rerank: int | None = None,
    ) -> list[list[SearchHit]]:
        """Return what :meth:`search` returns, for each of several queries, shape (n, dimension)."""

        return self._hits(namespace, self._queries(queries, k, ef, rerank), k, where, as_of, min_score, rerank, ef)

    asearch_many = twin(search_many)

    def search_arrays(
        self,
        namespace: AnyNamespace,
        queries: ArrayLike | Sequence[str],
        k: int = 10,
        *,
        where: Mapping[str, Any] | None = None,
        as_of: AsOf = None,
        ef: int | None = None,
        min_score: float | None = None,
        rerank: int | None = None,
    ) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
        """Return ids (None where there are fewer than `k`) and scores (NaN there), each of shape (n, k)."""

        def look(collection: Collection, tail: VectorTail) -> tuple[NDArray[np.object_], NDArray[np.float32]]:
            chosen, limit = compile_where(where), self._limit_of(as_of)
            many, is_past = max(k, rerank or 0), as_of is not None
            asked = asked_of(collection, tail, numbers, many, chosen, limit, ef, is_past=is_past)
            slots, found = best_of(collection, tail, numbers, k, asked, rerank)
            if min_score is not None:
                found[~(found >= min_score)] = np.nan
            scores[:, : found.shape[1]] = found
            ids[:, : found.shape[1]] = nearest.ids(tail, slots, found)
            return ids, scores

        begun = perf_counter_ns()
        numbers = self._queries(queries, k, ef, rerank)
        ids = np.full((len(numbers), k), None, np.object_)
        scores = np.full((len(numbers), k), np.nan, np.float32)
        answer = self._asked(namespace, look, (ids, scores))
        self._engine.store.meters.since(meters.VECTOR_SEARCH, begun)
        return answer

    asearch_arrays = twin(search_arrays)

    def compact(self, namespace: AnyNamespace) -> bool:
        """Make one graph of all vectors of a collection; return whether there was something to do.

        Searches follow graphs where that is sooner done than looking at all: they are not exact then, but find most of
        the nearest (`ef` says how hard they look). In the background (``graph_share``) there come to be a few graphs
        of any number of vectors; one of all is searched sooner, and made sooner here, on all cores. What was replaced
        or deleted is left out if it is much.

        Notes
        -----
        **Complexity**: O(n log n). The GIL is released, and reading and writing go on. One process does it at a time;
        others wait.
        """

        def look(collection: Collection, tail: VectorTail) -> bool:
            return collection.compact()

        self._writable()
        return self._asked(namespace, look, False)

    acompact = twin(compact)

    def recall_check(self, namespace: AnyNamespace, sample: int = 200, *, k: int = 10, ef: int | None = None) -> float:
        """Return which share of the `k` nearest vectors a search finds, of so many vectors that are searched by."""
        require_int(sample, "sample", 1)
        check_counts(k, ef, None)

        def look(collection: Collection, tail: VectorTail) -> float:
            limit, count = self._open().now(), tail.count
            slots = slots_of(tail.served(count, limit)[0])
            if not slots:
                return 1.0
            chosen = np.random.default_rng(len(slots)).permutation(slots)[:sample].tolist()
            queries = np.stack([it for slot in chosen if (it := self._vector_of(collection, slot)) is not None])
            bits, left = tail.wanted(count, limit)
            plan = collection.graphs.plan(tail, k, count, limit, left, ef)
            exact, exact_scores = nearest.search(tail, queries, k, count, bits)
            found, _ = nearest.search(tail, queries, k, count, bits, graphs=plan.graphs, ef=plan.ef)
            hits = [
                len(np.intersect1d(a[~np.isnan(score)], b)) / max(1, int((~np.isnan(score)).sum()))
                for a, score, b in zip(exact, exact_scores, found, strict=True)
            ]
            return float(np.mean(hits))

        return self._asked(namespace, look, 1.0)

    arecall_check = twin(recall_check)

    def _vector_of(self, collection: Collection, slot: int) -> NDArray[np.float32] | None:
        records = self._engine.fetch(POINTS, [(slot, point_key(collection.row.number, slot))])
        return decode_point(records[slot]).vector if slot in records else None

    def search_similar(
        self, namespace: AnyNamespace, query: ArrayLike | str, top_k: int, *, as_of: AsOf = None
    ) -> list[tuple[str, float]]:
        """Return (id, score) of the vectors that are nearest to a query, the best first, `top_k` at most."""
        return [(hit.id, hit.score) for hit in self.search(namespace, query, top_k, as_of=as_of)]

    def _queries(self, queries: Any, k: int, ef: int | None, rerank: int | None) -> NDArray[np.float32]:
        check_counts(k, ef, rerank)
        numbers = self._numbers(queries)
        if numbers.ndim != 2:
            raise VectorError(f"queries must be an array of shape (n, dimension), were of shape {numbers.shape}")
        return numbers

    def _hits(
        self,
        namespace: AnyNamespace,
        queries: NDArray[np.float32],
        k: int,
        where: Mapping[str, Any] | None,
        as_of: AsOf,
        min_score: float | None,
        rerank: int | None,
        ef: int | None,
    ) -> list[list[SearchHit]]:
        def look(collection: Collection, tail: VectorTail) -> list[list[SearchHit]]:
            chosen, limit = compile_where(where), self._limit_of(as_of)
            many, is_past = max(k, rerank or 0), as_of is not None
            asked = asked_of(collection, tail, queries, many, chosen, limit, ef, is_past=is_past)
            if rerank is None:
                count, bits, plan = asked
                return nearest.hits(
                    tail, SearchHit, queries, k, count, bits, least=least, graphs=plan.graphs, ef=plan.ef
                )
            slots, scores = best_of(collection, tail, queries, k, asked, rerank)
            kept = scores >= least  # NaN: nothing is there
            return [
                [hit_of(tail, *each) for each in zip(row[which].tolist(), values[which].tolist(), strict=True)]
                for row, values, which in zip(slots, scores, kept, strict=True)
            ]

        begun = perf_counter_ns()
        least = -math.inf if min_score is None else min_score
        hits: list[list[SearchHit]] = self._asked(namespace, look, [[] for _ in range(len(queries))])
        self._engine.store.meters.since(meters.VECTOR_SEARCH, begun)
        return hits

    def write(self, namespace: AnyNamespace, points: Sequence[Point]) -> None:
        """Add changes that another store had to a collection, in order; for ``memory.import_``."""

        def look(collection: Collection, tail: VectorTail) -> bool:
            collection.write(points)
            return True

        _free(namespace)
        self._writable()
        if not self._asked(namespace, look, False):
            raise VectorError(f"there is no collection {'/'.join(labels_of(namespace))!r}: it was dropped meanwhile")

    def get(self, namespace: AnyNamespace, id: str, *, as_of: AsOf = None) -> StoredVector | None:
        """Return a vector as it was given, with its metadata; None: there is none of this id."""
        name, limit = checked_id(id), self._limit_of(as_of)

        def look(collection: Collection, tail: VectorTail) -> StoredVector | None:
            slot = tail.find(name, limit)
            if slot < 0:
                return None
            records = self._engine.fetch(POINTS, [(slot, point_key(collection.row.number, slot))])
            if slot not in records:
                raise Over  # dropped meanwhile
            return stored_vector(records[slot])

        return self._asked(namespace, look, None)

    def count(self, namespace: AnyNamespace, *, where: Mapping[str, Any] | None = None, as_of: AsOf = None) -> int:
        """Return how many vectors are served, or pass a filter."""
        limit, chosen = self._limit_of(as_of), compile_where(where)

        def look(collection: Collection, tail: VectorTail) -> int:
            count = tail.count
            bits = None if chosen is None else passing_of(collection, tail, count, limit, chosen)
            return tail.served(count, limit, bits)[1]

        return self._asked(namespace, look, 0)

    acount = twin(count)

    def select(
        self, namespace: AnyNamespace, *, where: Mapping[str, Any] | None = None, as_of: AsOf = None
    ) -> Iterator[Entry]:
        """Return what is kept beside the vectors that are served, or pass a filter, in the order they were added.

        It is as the collection was at the call, and looked up as it is asked for. **Complexity**: as :meth:`count`, and
        O(metadata) for each.
        """
        limit, chosen = self._limit_of(as_of), compile_where(where)

        def look(collection: Collection, tail: VectorTail) -> Iterator[Entry]:
            count = tail.count
            bits = None if chosen is None else passing_of(collection, tail, count, limit, chosen)
            return (entry_of(tail, slot) for slot in slots_of(tail.served(count, limit, bits)[0]))

        return self._asked(namespace, look, iter(()))

    def export(self, namespace: AnyNamespace, path: str | os.PathLike[str], *, as_of: AsOf = None) -> int:
        """Write the vectors of a collection to a file, as they were given, and return how many.

        The file has all that were served at one instant, in the order in which they were added, and gets its name when
        it is whole and on disk; one of that name is replaced. Each has ``id``, ``vector`` (every bit of its float32
        numbers), ``metadata``, ``ts_event`` and ``ts_known`` (nanoseconds UTC).

        Parameters
        ----------
        path : str or path
            Ends in ``.jsonl``, an object of JSON in each line; or in ``.parquet``, for which pyarrow has to be there
            (the extra ``arrow``): `vector` is a list of float32 of a fixed size, `metadata` JSON as text, times are
            int64.
        as_of : instant, optional
            As the collection was known then; None: now, :data:`ntmem.LATEST`: with what is known only later.

        Raises
        ------
        VectorError
            There is no such collection, or it was dropped meanwhile.
        SerializationError
            Metadata hold what JSON has not: bytes, NaN, infinity, instants, names that are no str.
        ValueError, TypeError
            The name of the file ends in something else; an argument is not as above.
        ModuleNotFoundError
            There is no pyarrow.
        OSError
            The file cannot be written: there is no such directory, no right to write there, no room.
        StoreClosed, StorageError
            The store cannot be read. After this and all other errors there is no file, or the one that was there.

        Notes
        -----
        **Thread safety**: any thread; reading and writing go on, and do not change what is written. **Complexity**:
        O(vectors times dimension), in memory for some hundreds of them, or 16 MiB of Parquet. A process that is killed
        leaves a file whose name goes on after `path`.
        """
        name, limit = check_path(path), self._limit_of(as_of)

        def look(collection: Collection, tail: VectorTail) -> int:
            bits, _ = tail.served(tail.count, limit)
            return export_vectors(self._records(collection, bits), name, collection.row.dimension)

        done = self._asked(namespace, look, -1)
        if done < 0:
            raise VectorError(f"there is no collection {'/'.join(labels_of(namespace))!r} to export")
        return done

    aexport = twin(export)

    def _records(self, collection: Collection, bits: NDArray[np.uint64]) -> Iterator[StoredVector]:
        """Return the vectors of those slots that have a bit, from the store."""
        number = collection.row.number
        for first in range(0, len(bits), _EXPORTED):
            slots = [64 * first + slot for slot in slots_of(bits[first : first + _EXPORTED])]
            records = self._engine.fetch(POINTS, [(slot, point_key(number, slot)) for slot in slots])
            if len(records) < len(slots):
                raise VectorError("the collection was dropped while it was exported; nothing was written")
            yield from (stored_vector(records[slot]) for slot in slots)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that vectors take, of all processes together, without graphs."""
        return memory_of(self._engine) or sum(it.nbytes for it in list(self._known.values()))

    @property
    def graph_bytes(self) -> int:
        """Bytes of graphs, in files that all processes map."""
        return bytes_of(self._engine.store.directory) or sum(it.graphs.nbytes for it in list(self._known.values()))

    # -- which collection

    def _limit_of(self, as_of: AsOf) -> int:
        if as_of is None:
            return self._open().now()
        return MAX_INSTANT if as_of is LATEST else instant_ns(as_of, "as_of")

    def _asked(self, namespace: AnyNamespace, look: Callable[[Collection, VectorTail], T], absent: T) -> T:
        """Return what `look` returns of a collection; of one that is not there, `absent`."""
        labels = labels_of(namespace)
        for _ in range(_ATTEMPTS):
            collection = self._of(labels)
            if collection is None:
                return absent
            try:
                return look(collection, collection.tail())
            except Over:
                self._known.pop(labels, None)
        raise StorageError(f"{_shown(labels)} is dropped again and again while it is read")

    def _of(self, labels: tuple[str, ...]) -> Collection | None:
        """Return a collection, None if there is none."""
        engine, known = self._open(), self._known
        found = known.get(labels)
        if found is not None and isinstance(engine, LogEngine):
            return found  # whoever drops it says so in its memory
        row = self._row(engine, labels)
        if row is None:
            return None
        if found is None or found.row.number != row.number:
            with self._lock:
                found = known.get(labels)
                if found is None or found.row.number != row.number:
                    found = known[labels] = Collection(engine, collection_key(labels), row, self._limits)
        return found

    @staticmethod
    def _row(engine: LmdbEngine, labels: tuple[str, ...]) -> CollectionRow | None:
        value = engine.get(COLLECTIONS, collection_key(labels))
        row = None if value is None else decode_collection(value)
        return None if row is None or row.is_dropped else row

    def _open(self) -> LmdbEngine:
        engine = self._handle()
        if engine is not self._engine:  # this one only reads, and somebody writes now
            self._known = {}
            self._engine = engine
        if isinstance(engine, LogEngine):
            engine.check_open()
        return engine

    def _writable(self) -> LmdbEngine:
        engine = self._open()
        if engine.read_only:
            raise ReadOnlyError("this store was opened with read_only=True; open it for writing")
        return engine


def _free(namespace: AnyNamespace) -> tuple[str, ...]:
    """Return the labels of a collection that may be changed."""
    labels = labels_of(namespace)
    check_situations(namespace, labels)
    return labels


def _shown(labels: tuple[str, ...]) -> str:
    return f"the collection {'/'.join(labels)!r}"


def _each(values: Any, count: int) -> Sequence[Any]:
    """Return one instant as so many, and several as they are."""
    return [values] * count if np.ndim(values) == 0 else values
