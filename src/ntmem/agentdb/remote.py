"""``memory.vectors`` of a store with ``agentdb_url``: the calls of :class:`VectorStore`, answered by an AgentDB server.

**Invariants**

1. What the wire cannot say is refused with :class:`ntmem.VectorError`, before anything is sent. Nothing is answered
   that is not what the call means: what a server returns is looked at again (filters, order, number, score, times).
2. The server answers as of its own now. So nothing else can be asked for, nothing be known only later, and a store
   whose time is simulated has no such vectors.
3. Arguments are checked as :class:`VectorStore` checks them, by its own code.
4. Only these calls ask the server. The bank, observations, ``stats``, ``backup`` and ``export`` are about the store.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import numpy as np

from .._core.vectors import METRICS
from ..endpoint import Secret, secret_of
from ..errors import BadAnswer, SerializationError, VectorError
from ..filters import Where, compile_where
from ..instants import NS, AsOf, Instant, duration_ns, require_int
from ..namespace import labels_of
from ..tiers.collection import Limits
from ..tiers.exporting import beyond_json
from ..tiers.guards import check_situations
from ..tiers.hits import CollectionInfo, Entry, SearchHit, StoredVector
from ..tiers.points import MOST_DIMENSIONS, CollectionRow, Point, decode_metadata
from ..tiers.vectorchecks import check_counts, check_numbers, check_vectors, checked_id
from ..tiers.vectors import VectorStore
from . import wire, wirefilters
from .documents import Read, read_document

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from ..config import MemoryConfig
    from ..embedding import EmbeddingProvider
    from ..tiers.engine import LmdbEngine
    from .client import Answer, Client

AnyNamespace = str | tuple[str, ...]

TOKEN = "NTMEM_AGENTDB_TOKEN"
_BATCH = 1 << 20  # bytes of a request, about
_AHEAD = 5 * NS  # that a server's clock may be ahead of this machine's
_encode = msgspec.json.Encoder().encode
_INSERTED = msgspec.json.Decoder(wire.Inserted)
_BATCHED = msgspec.json.Decoder(wire.BatchInserted)
_FOUND = msgspec.json.Decoder(wire.SearchAnswer)
_QUERIED = msgspec.json.Decoder(wire.QueryAnswer)
_DOCUMENT = msgspec.json.Decoder(dict[str, Any])


class RemoteVectors(VectorStore):
    """Vectors of an AgentDB server, called as those of a store. ``memory.vectors`` where ``agentdb_url`` is set.

    A collection is made by the first :meth:`add`, by the cosine, or by :meth:`create`. Scores are float32 and higher is
    better. What the wire cannot say raises :class:`ntmem.VectorError` and says what to do instead: `as_of`, `ef` and
    `rerank`, ``delete(where=)``, :meth:`drop`, :meth:`compact`, :meth:`recall_check`, :meth:`export`,
    :meth:`collections`, :meth:`info`. Every call that asks the server may raise :class:`ntmem.ServerUnavailable` (it
    cannot be reached, or cannot now) and :class:`ntmem.BadAnswer` (it is no AgentDB, or broken).

    Notes
    -----
    **Thread safety**: any thread; each asks by a connection of its own. **Complexity**: one request a call, and all its
    tries end within ``agentdb_timeout``; :meth:`search_many` and :meth:`add_many` have as long for each request.
    """

    def __init__(
        self,
        engine: LmdbEngine,
        handle: Callable[[], LmdbEngine],
        *,
        url: str,
        token: Secret | None,
        timeout: float,
        embedder: EmbeddingProvider | None = None,
    ) -> None:
        super().__init__(engine, handle, limits=Limits(0, 0.0), embedder=embedder)  # there are none here
        self._url = url
        self._token = token
        self._timeout = timeout
        self._client: Client | None = None

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def __repr__(self) -> str:
        return f"<RemoteVectors of {self._url}>"

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

        What one has that is there already is compared by ntmem's server alone; of another one, a vector of another
        dimension is refused when added. `dtype`, `m` and `ef_construction` are the server's to choose. Metrics other
        than the cosine are ntmem's: of another server they raise :class:`ntmem.VectorError`.
        """
        self._writable()
        self._check_free(namespace)
        require_int(dimension, "dimension", 1, MOST_DIMENSIONS)
        if metric not in METRICS:
            raise VectorError(f"metric must be one of {', '.join(METRICS)}, was {metric!r}")
        if (dtype, m, ef_construction) != ("int8", 16, 200):
            _cannot("say dtype, m or ef_construction", "leave them out: the server chooses them")
        until = monotonic() + self._timeout
        self._create(namespace, dimension, metric, until, exact=True)
        if metric != "cosine":
            asked = wire.Search(embedding=[1.0] * dimension, k=1, form=wire.FORM)
            answer = self._ask("POST", self._path(namespace, "search"), asked, fine=(200,), until=until)
            if self._client_of().read(answer, _FOUND).form != wire.FORM:
                raise VectorError(
                    f"the server of {self._url} is not ntmem's, and all its collections are by the cosine; this one "
                    f"was made, and is not by {metric!r}"
                )

    def _create(
        self, namespace: AnyNamespace, dimension: int, metric: Any, until: float, *, exact: bool = False
    ) -> None:
        asked = wire.Create(name=wire.name_of(namespace), dimension=dimension, metric=metric, exact=exact)
        self._ask("POST", "/collections", asked, fine=(200, 201, 409), until=until)

    def drop(self, namespace: AnyNamespace) -> bool:
        """Raise :class:`ntmem.VectorError`: the wire has no such request."""
        _cannot("drop a collection", "drop it where the server is, or delete() its vectors by id")

    def collections(self) -> list[tuple[str, ...]]:
        """Raise :class:`ntmem.VectorError`: the wire has no such request."""
        _cannot("list collections", "ask a namespace by `in`, count() or search()")

    def __contains__(self, namespace: AnyNamespace) -> bool:
        """Whether the server has a collection for a namespace."""
        return self._queried(namespace, None, 0) is not None

    def info(self, namespace: AnyNamespace) -> CollectionInfo | None:
        """Raise :class:`ntmem.VectorError`: the wire has no such request."""
        _cannot("describe a collection", "count() it, or run `ntmem search` where the server is")

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
        """Add a vector, in the place of the one of this id if there is one; see :meth:`VectorStore.add`.

        Metadata are what JSON can say. `ts_known` is not ahead of now; without it, it is the server's now.
        """
        now = self._writable().now()
        self._check_free(namespace)
        point, document = self._document_of((id, vector, metadata, ts_event, ts_known), now)
        until = monotonic() + self._timeout
        path = self._path(namespace, "insert")
        answer = self._ask("POST", path, document, fine=(200, 201, 404), until=until)
        if answer.status == 404:
            self._make_for([point], namespace, until)
            answer = self._ask("POST", path, document, fine=(200, 201), until=until)
        if not self._client_of().read(answer, _INSERTED).success:
            raise VectorError(f"the server did not keep {id!r}, and does not say why; its log may")

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

        All are checked before any is sent. They are sent in requests of about 1 MiB, or smaller ones where the server
        wants that. After an error those before are kept; its note says how many that are at least.
        """
        now = self._writable().now()
        self._check_free(namespace)
        if whole:
            _cannot("add all or none", "leave out whole=")
        columns = self._columns(ids, vectors, metadata, ts_event, ts_known)
        made = [self._document_of(each, now) for each in columns]
        points = [point for point, _ in made]
        done = 0
        for batch in _batches([document for _, document in made]):
            try:
                self._insert(namespace, points[done : done + len(batch)], batch)
            except VectorError as error:
                if done:
                    error.add_note(f"at least the first {done} of {len(made)} vectors were added")
                raise
            done += len(batch)
        return done

    def _insert(self, namespace: AnyNamespace, points: Sequence[Point], batch: Sequence[bytes]) -> None:
        """Add what fits into a request; into several, if the server finds it too large."""
        body = b'{"documents":[' + b",".join(batch) + b"]}"
        until = monotonic() + self._timeout
        path = self._path(namespace, "batch_insert")
        fine = (200, 201, 404) if len(batch) == 1 else (200, 201, 404, 413)
        answer = self._ask("POST", path, body, fine=fine, until=until)
        if answer.status == 404:
            self._make_for(points, namespace, until)
            answer = self._ask("POST", path, body, fine=tuple({*fine} - {404}), until=until)
        if answer.status == 413:
            half = len(batch) // 2
            self._insert(namespace, points[:half], batch[:half])
            self._insert(namespace, points[half:], batch[half:])
            return
        said = self._client_of().read(answer, _BATCHED)
        if said.failed or said.inserted != len(batch):
            raise VectorError(
                f"of a request of {len(batch)} vectors the server kept {said.inserted} and refused {said.failed}, and "
                "does not say which; add them one by one"
            )

    def _make_for(self, points: Sequence[Point], namespace: AnyNamespace, until: float) -> None:
        """Make the collection that vectors are the first of."""
        for point in points:
            assert point.vector is not None
            check_vectors(None, point.vector[np.newaxis], f"the vector of {point.id!r}")
        assert points[0].vector is not None
        self._create(namespace, len(points[0].vector), "cosine", until)

    def _document_of(self, column: tuple[Any, ...], now: int) -> tuple[Point, bytes]:
        """Return a vector as it was given, checked, and as it is sent."""
        id, vector, metadata, ts_event, ts_known = column
        point = self._point(None, id, vector, metadata, ts_event, ts_known, now)
        if point.ts_known > now:
            _cannot("add what is known only later", "add it then, or keep it in a store without agentdb_url")
        plain = decode_metadata(point.metadata)
        odd = beyond_json(plain, "")
        if odd is not None:
            raise SerializationError(f"metadata of {id!r} have {odd}, which JSON has not; put None or text there")
        assert point.vector is not None
        document = wire.Insert(
            id=wire.hex_of(point.id),
            embedding=point.vector.tolist(),
            metadata=plain or None,
            ts_event=None if ts_event is None else point.ts_event,
            ts_known=None if ts_known is None else point.ts_known,
        )
        return point, _encode(document)

    def _check(self, row: CollectionRow | None, vectors: NDArray[np.float32], what: str) -> None:
        check_numbers(vectors, what)  # the server knows of what dimension, and by which metric

    def delete(
        self,
        namespace: AnyNamespace,
        id: str | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        ts_known: Instant | None = None,
    ) -> int:
        """Delete the vector of an id; return how many there were.

        It is 1, too, if the server does not have it any more after a try whose answer did not arrive.
        """
        self._writable()
        if (id is None) == (where is None):
            raise TypeError("delete() takes an id, as AgentDB's wire has no where=")
        if where is not None:
            _cannot("delete by a filter", "search() or select() by it, and delete() the ids")
        if ts_known is not None:
            _cannot("say when a deletion was known", "leave out ts_known: it is now")
        self._check_free(namespace)
        until = monotonic() + self._timeout
        path = self._path(namespace, f"documents/{wire.hex_of(checked_id(id))}")
        answer = self._ask("DELETE", path, fine=(200, 204, 404), until=until)
        if answer.status == 404 and not answer.is_unsure:
            self._client_of().confirm(until)
            return 0
        return 1

    # -- searching

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
        numbers = self._queries(queries, k, ef, rerank)
        ids = np.full((len(numbers), k), None, np.object_)
        scores = np.full((len(numbers), k), np.nan, np.float32)
        for place, hits in enumerate(self._hits(namespace, numbers, k, where, as_of, min_score, rerank, ef)):
            ids[place, : len(hits)] = [hit.id for hit in hits]
            scores[place, : len(hits)] = [hit.score for hit in hits]
        return ids, scores

    def compact(self, namespace: AnyNamespace) -> bool:
        """Raise :class:`ntmem.VectorError`: the wire has no such request."""
        _cannot("compact a collection", "do it where the server is")

    def recall_check(self, namespace: AnyNamespace, sample: int = 200, *, k: int = 10, ef: int | None = None) -> float:
        """Raise :class:`ntmem.VectorError`: the wire has no such request."""
        _cannot("check recall", "do it where the server is")

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
        self._check_now(as_of)
        check_counts(k, ef, rerank)
        if ef is not None or rerank is not None:
            _cannot("say ef or rerank", "leave them out: how hard it looks is the server's to choose")
        if k > wire.MOST_K:
            _cannot(f"ask for {k} vectors", f"ask for {wire.MOST_K} at most")
        if len(queries):
            check_numbers(queries, "the query")
        name, path = wire.name_of(namespace), self._path(namespace, "search")
        filters, chosen = wirefilters.filter_of(where), compile_where(where)
        least = -math.inf if min_score is None else min_score
        found: list[list[SearchHit]] = []
        for query in queries:
            asked = wire.Search(
                embedding=query.tolist(),
                k=k,
                collection=name,
                filters=filters,
                min_score=least if math.isfinite(least) else None,
                form=wire.FORM,
            )
            found.append([hit for hit in self._nearest(path, asked, chosen) if hit.score >= least])
        return found

    def _nearest(self, path: str, asked: wire.Search, chosen: Where | None) -> list[SearchHit]:
        until = monotonic() + self._timeout
        answer = self._ask("POST", path, asked, fine=(200, 404), until=until)
        client = self._client_of()
        if answer.status == 404:
            client.confirm(until)
            return []
        said = client.read(answer, _FOUND)
        now = self._engine.now()
        hits = []
        for result in said.results:
            it = read_document(result.document, is_nested=said.form == wire.FORM, score=result.score)
            self._check_read(it, chosen, now)
            hits.append(SearchHit(it.id, result.score, it.metadata, it.ts_event, it.ts_known))
        return sorted(hits, key=lambda hit: -hit.score)[: asked.k]

    def _check_read(self, it: Read, chosen: Where | None, now: int) -> None:
        """Raise unless a document is one that may be answered."""
        if it.ts_known > now + _AHEAD:
            later = (it.ts_known - now) / NS
            raise BadAnswer(f"the server answered {it.id!r}, known {later:.1f} s later than it is here; set the clocks")
        if chosen is not None and not chosen.matches(it.metadata):
            raise BadAnswer(
                f"the server answered {it.id!r}, which the filter {chosen!r} does not let pass: it reads filters in "
                "another way; search without where=, and choose yourself"
            )

    def get(self, namespace: AnyNamespace, id: str, *, as_of: AsOf = None) -> StoredVector | None:
        """Return a vector as it was given, with its metadata; None: there is none of this id."""
        hexid = wire.hex_of(checked_id(id))
        self._check_now(as_of)
        until = monotonic() + self._timeout
        path = self._path(namespace, f"documents/{hexid}?form={wire.FORM}")
        answer = self._ask("GET", path, fine=(200, 404), until=until)
        client = self._client_of()
        if answer.status == 404:
            client.confirm(until)
            return None
        it = read_document(client.read(answer, _DOCUMENT), hexid=hexid)
        self._check_read(it, None, self._engine.now())
        if it.embedding is None:
            raise VectorError(
                f"the server of {self._url} does not give vectors back, only metadata; search() has those"
            )
        return StoredVector(it.id, it.embedding, it.metadata, it.ts_event, it.ts_known)

    def count(self, namespace: AnyNamespace, *, where: Mapping[str, Any] | None = None, as_of: AsOf = None) -> int:
        """Return how many vectors are served, or pass a filter, by asking for all: less than 10,000."""
        self._check_now(as_of)
        return len(self._selected(namespace, where, "count"))

    def select(
        self, namespace: AnyNamespace, *, where: Mapping[str, Any] | None = None, as_of: AsOf = None
    ) -> Iterator[Entry]:
        """Return what is kept beside the vectors that are served, or pass a filter: less than 10,000."""
        self._check_now(as_of)
        return iter(self._selected(namespace, where, "select"))

    def _selected(self, namespace: AnyNamespace, where: Mapping[str, Any] | None, what: str) -> list[Entry]:
        said, chosen = self._queried(namespace, where, wire.MOST_LIMIT), compile_where(where)
        if said is None:
            return []
        if said.form != wire.FORM:
            _cannot(f"{what} vectors of a server that is not ntmem's, which may leave some out", "search() them")
        if len(said.documents) >= wire.MOST_LIMIT:
            _cannot(f"{what} {wire.MOST_LIMIT} vectors or more", "narrow it by where=, or do it where the server is")
        now, found = self._engine.now(), []
        for document in said.documents:
            it = read_document(document, is_nested=True)
            self._check_read(it, chosen, now)
            found.append(Entry(it.id, it.metadata, it.ts_event, it.ts_known))
        return found

    def _queried(self, namespace: AnyNamespace, where: Mapping[str, Any] | None, limit: int) -> wire.QueryAnswer | None:
        self._check_now(None)
        asked = wire.Query(
            collection=wire.name_of(namespace), filters=wirefilters.filter_of(where), limit=limit, form=wire.FORM
        )
        until = monotonic() + self._timeout
        answer = self._ask("POST", self._path(namespace, "query"), asked, fine=(200, 404), until=until)
        client = self._client_of()
        if answer.status == 404:
            client.confirm(until)
            return None
        return client.read(answer, _QUERIED)

    def write(self, namespace: AnyNamespace, points: Sequence[Point]) -> None:
        """Raise :class:`ntmem.VectorError`: the wire has no past."""
        _cannot("take vectors with their past", "import them into a store without agentdb_url")

    def export(self, namespace: AnyNamespace, path: str | os.PathLike[str], *, as_of: AsOf = None) -> int:
        """Raise :class:`ntmem.VectorError`: the wire has no such request."""
        _cannot("export a collection", "export it where the server is")

    @property
    def nbytes(self) -> int:
        """Bytes of memory that vectors take here: none."""
        return 0

    @property
    def graph_bytes(self) -> int:
        """Bytes of graphs here: none."""
        return 0

    # -- asking

    def _open(self) -> LmdbEngine:
        engine = super()._open()
        if engine.clock_facts()[0] != "system":
            raise VectorError(
                "this store's time is simulated, and an AgentDB server answers as of its own now: it would tell what "
                "is known only later; open the store without agentdb_url"
            )
        return engine

    def _check_now(self, as_of: AsOf) -> None:
        self._open()
        if as_of is not None:
            _cannot("say as_of", "leave it out (now), or keep vectors that have a past in a store without agentdb_url")

    def _check_free(self, namespace: AnyNamespace) -> None:
        check_situations(namespace, labels_of(namespace))
        wire.name_of(namespace)

    def _path(self, namespace: AnyNamespace, rest: str) -> str:
        return f"/collections/{wire.segment_of(namespace)}/{rest}"

    def _ask(
        self, method: str, path: str, what: msgspec.Struct | bytes | None = None, *, fine: tuple[int, ...], until: float
    ) -> Answer:
        body = _encode(what) if isinstance(what, msgspec.Struct) else what
        return self._client_of().ask(method, path, body, fine=fine, until=until)

    def _client_of(self) -> Client:
        if self._client is None:
            try:
                from .client import Client
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] != "urllib3":
                    raise
                raise ModuleNotFoundError(
                    "agentdb_url needs urllib3: pip install 'ntmem[agentdb]'", name="urllib3"
                ) from None
            with self._lock:
                if self._client is None:
                    self._client = Client(self._url, self._token, self._timeout)
        return self._client


def remote_of(
    config: MemoryConfig, engine: LmdbEngine, handle: Callable[[], LmdbEngine], embedder: EmbeddingProvider | None
) -> RemoteVectors:
    """Return the vectors of the server that a configuration names. Asks it nothing."""
    assert config.agentdb_url is not None
    token = config.agentdb_token or os.environ.get(TOKEN)
    return RemoteVectors(
        engine,
        handle,
        url=config.agentdb_url,
        token=secret_of(token, TOKEN) if token else None,
        timeout=duration_ns(config.agentdb_timeout, "agentdb_timeout") / NS,
        embedder=embedder,
    )


def _cannot(what: str, instead: str) -> NoReturn:
    raise VectorError(f"AgentDB's wire cannot {what}; {instead}")


def _batches(documents: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Return groups of what is sent, each as much as goes into a request."""
    batch: list[bytes] = []
    size = 0
    for document in documents:
        if batch and (size + len(document) > _BATCH or len(batch) == wire.MOST_BATCH):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document) + 1
    if batch:
        yield batch
