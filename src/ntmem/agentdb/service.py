"""The answers to requests, from a store's vectors: what is asked is decoded, done in a thread, and said.

**Invariants**

1. No more than `max_body` bytes of a request are kept, nor `_MOST_READ` times that of all that are not answered, nor
   longer waited for than `patience` seconds.
2. The loop waits for nobody: what asks the store runs in threads, reading apart from writing.
3. Whatever a request says, its answer is below 500, or 503 where the store is what cannot; a 500 is a bug here.
4. What is answered with success is in the store; what is refused left nothing there. The store's own namespaces are not
   there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from heapq import nsmallest
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from ..errors import InvalidNamespace, NtmemError, ReadOnlyError, VectorError
from ..tiers.collection import NoRoom, TooLarge
from . import wire, wirefilters
from .answers import Refused, Rules, answer, bounded, encode
from .openapi import described

if TYPE_CHECKING:
    from ..tiers.hits import Entry
    from ..tiers.vectors import VectorStore

T = TypeVar("T")

# Bodies of the largest size, of all requests that are not answered; as objects they are 20 times as large.
_MOST_READ = 4
_WRITERS = 4
_LEAST_READERS = 4

_log = logging.getLogger("ntmem")
_CREATE = msgspec.json.Decoder(wire.Create)
_INSERT = msgspec.json.Decoder(wire.Insert)
_BATCH = msgspec.json.Decoder(wire.BatchInsert)
_SEARCH = msgspec.json.Decoder(wire.Search)
_QUERY = msgspec.json.Decoder(wire.Query)
_JSON = re.compile(r"application/json *(; *charset *= *\"?utf-8\"? *)?", re.IGNORECASE)


class _Direction:
    """A value to sort by, in a direction: numbers, texts, other values, and what is missing, which stays last."""

    __slots__ = ("is_descending", "rank", "value")

    def __init__(self, metadata: Mapping[str, Any], name: str, is_descending: bool) -> None:
        value = metadata.get(name)
        self.is_descending = is_descending
        self.rank = 2 if name in metadata else 3
        self.value: Any = 0
        if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
            self.rank, self.value = 0, value
        elif isinstance(value, str):
            self.rank, self.value = 1, value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Direction) and (self.rank, self.value) == (other.rank, other.value)

    __hash__ = None  # type: ignore[assignment]

    def __lt__(self, other: _Direction) -> bool:
        if self.rank != other.rank:
            return self.rank < other.rank
        return bool(other.value < self.value if self.is_descending else self.value < other.value)


def _sorted(entries: Iterable[Entry], sorts: list[tuple[str, bool]], limit: int) -> list[Entry]:
    """Return the first of entries; those that sort alike in their order."""
    if not sorts:
        return list(islice(entries, limit))
    return nsmallest(limit, entries, key=lambda entry: [_Direction(entry.metadata, *each) for each in sorts])


def _nested(name: str, entry: Any, embedding: list[float] | msgspec.UnsetType = msgspec.UNSET) -> wire.Document:
    return wire.Document(
        id=name, metadata=entry.metadata, ts_event=entry.ts_event, ts_known=entry.ts_known, embedding=embedding
    )


class Service:
    """The answers to requests, from a store's vectors.

    Methods that end in ``_now`` ask the store, and run in a thread; whatever they raise says which status it is.
    """

    def __init__(self, vectors: VectorStore, rules: Rules, version: str) -> None:
        self.rules = rules
        self._vectors = vectors
        self._health = wire.Health("ok", version)
        self._document = encode(described(version, rules.token is not None))
        self._readers = ThreadPoolExecutor(max(_LEAST_READERS, os.cpu_count() or 1), "ntmem-agentdb-read")
        self._writers = ThreadPoolExecutor(_WRITERS, "ntmem-agentdb-write")
        self._reading = 0

    def close(self) -> None:
        """Let what is being asked end."""
        self._readers.shutdown()
        self._writers.shutdown()

    # -- requests

    async def health(self, _: Request) -> Response:
        return answer(200, self._health)

    async def openapi(self, _: Request) -> Response:
        return Response(self._document, media_type="application/json")

    async def create(self, request: Request) -> Response:
        async with self._asked(request, _CREATE) as asked:
            return await self._done(self._writers, partial(self._create_now, asked))

    async def insert(self, request: Request) -> Response:
        labels = _collection(request)
        async with self._asked(request, _INSERT) as asked:
            return await self._done(self._writers, partial(self._insert_now, labels, asked))

    async def batch_insert(self, request: Request) -> Response:
        labels = _collection(request)
        async with self._asked(request, _BATCH) as asked:
            return await self._done(self._writers, partial(self._batch_now, labels, asked))

    async def search(self, request: Request) -> Response:
        labels = _collection(request)
        async with self._asked(request, _SEARCH) as asked:
            return await self._done(self._readers, partial(self._search_now, labels, asked))

    async def query(self, request: Request) -> Response:
        labels = _collection(request)
        async with self._asked(request, _QUERY) as asked:
            return await self._done(self._readers, partial(self._query_now, labels, asked))

    async def document(self, request: Request) -> Response:
        labels, is_nested = _collection(request), _wants_nested(request)
        name = request.path_params["id"]
        return await self._done(self._readers, partial(self._document_now, labels, name, is_nested))

    async def delete(self, request: Request) -> Response:
        labels = _collection(request)
        return await self._done(self._writers, partial(self._delete_now, labels, request.path_params["id"]))

    async def _done(self, threads: ThreadPoolExecutor, work: Callable[[], Response]) -> Response:
        if threads is self._writers and self.rules.read_only:
            raise Refused(403, "this server only reads; ask one that was started without --read-only")
        return await asyncio.get_running_loop().run_in_executor(threads, _translated, work)

    @asynccontextmanager
    async def _asked(self, request: Request, decoder: msgspec.json.Decoder[T]) -> AsyncIterator[T]:
        """Give what a request says; until it is answered its bytes count as kept."""
        said = request.headers.get("content-type", "")
        if not _JSON.fullmatch(said):
            raise Refused(415, f"a request is JSON: Content-Type: application/json; was {said[:80]!r}")
        coding = request.headers.get("content-encoding", "identity")
        if coding.lower() != "identity":
            raise Refused(415, f"a request comes as it is, without Content-Encoding; was {coding[:80]!r}")
        kept = bytearray()
        try:
            await self._read(request, kept)
            try:
                asked = decoder.decode(kept)
            except RecursionError:
                raise Refused(400, "the request is nested too deep; metadata and filters may be 32 deep") from None
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise Refused(400, f"{error}; /openapi.json says what a request has") from None
            yield asked
        finally:
            self._reading -= len(kept)

    async def _read(self, request: Request, kept: bytearray) -> None:
        """Put the body of a request into `kept`, counting it."""
        most = self.rules.max_body
        too_large = Refused(413, f"a request has {most} bytes at most; send it in parts, or raise --max-body")
        length = request.headers.get("content-length", "0")
        if len(length) > 18 or int(length) > most:  # that it is a number was checked by who parsed it
            raise too_large
        try:
            async with asyncio.timeout(self.rules.patience):
                has_more = True
                while has_more:
                    message = await request.receive()
                    if message["type"] != "http.request":
                        raise ClientDisconnect
                    chunk, has_more = message.get("body", b""), message.get("more_body", False)
                    if len(kept) + len(chunk) > most:
                        raise too_large
                    self._reading += len(chunk)
                    kept += chunk
                    if self._reading > _MOST_READ * most:
                        raise Refused(503, "too many large requests at a time; try again", {"Retry-After": "1"})
        except TimeoutError:
            raise Refused(408, f"the body of the request was not there after {self.rules.patience:g} s") from None

    # -- the store

    def _require(self, labels: tuple[str, ...]) -> None:
        if labels not in self._vectors:
            raise Refused(404, f"there is no collection {'/'.join(labels)!r}; make it with POST /collections")

    def _create_now(self, asked: wire.Create) -> Response:
        labels = wire.labels_of_name(asked.name)
        if labels in self._vectors:
            found = self._vectors.info(labels) if asked.exact else None
            if found is not None and (found.dimension, found.metric) != (asked.dimension, asked.metric):
                raise VectorError(
                    f"there is a collection {asked.name!r} already, of {found.dimension} dimensions by {found.metric}; "
                    "name another"
                )
            raise Refused(409, f"there is a collection {asked.name!r} already; use it, or name another")
        try:
            self._vectors.create(labels, asked.dimension, metric=asked.metric)
        except VectorError as error:
            if labels not in self._vectors:
                raise
            raise Refused(409, str(error)) from None  # somebody else has just made it
        return answer(201, wire.Created(asked.name, asked.dimension, asked.index_type))

    def _insert_now(self, labels: tuple[str, ...], asked: wire.Insert) -> Response:
        self._require(labels)
        self._vectors.add(
            labels,
            wire.id_of(asked.id),
            asked.embedding,
            asked.metadata,
            ts_event=asked.ts_event,
            ts_known=asked.ts_known,
        )
        return answer(201, wire.Inserted(asked.id.lower(), True))

    def _batch_now(self, labels: tuple[str, ...], asked: wire.BatchInsert) -> Response:
        self._require(labels)
        documents = asked.documents
        for number, each in enumerate(documents):
            if len(each.embedding) != len(documents[0].embedding):
                raise VectorError(
                    f"document {number} has {len(each.embedding)} dimensions, document 0 {len(documents[0].embedding)}"
                )
        events: list[Any] = [each.ts_event for each in documents]  # None: now
        knowns: list[Any] = [each.ts_known for each in documents]
        added = self._vectors.add_many(
            labels,
            [wire.id_of(each.id) for each in documents],
            [each.embedding for each in documents],
            [each.metadata for each in documents],
            ts_event=events,
            ts_known=knowns,
            whole=True,
        )
        return answer(200, wire.BatchInserted(added))

    def _search_now(self, labels: tuple[str, ...], asked: wire.Search) -> Response:
        self._require(labels)
        _check_name(asked.collection, labels)
        where = wirefilters.where_of(asked.filters)
        hits = self._vectors.search(labels, asked.embedding, asked.k, where=where, min_score=asked.min_score)
        results = []
        for hit in hits:
            name = wire.hex_of(hit.id)
            document = wire.flat(hit.metadata, name, hit.score) if asked.form is None else _nested(name, hit)
            results.append(wire.Result(document, hit.score))
        return answer(200, wire.SearchAnswer(bounded(results), asked.form))

    def _query_now(self, labels: tuple[str, ...], asked: wire.Query) -> Response:
        self._require(labels)
        _check_name(asked.collection, labels)
        limit = wire.MOST_LIMIT if asked.limit is None else asked.limit
        entries = self._vectors.select(labels, where=wirefilters.where_of(asked.filters))
        found = _sorted(entries, wire.sorts_of(asked.sort_by), limit)
        names = [wire.hex_of(entry.id) for entry in found]
        if asked.form is None:
            documents: list[Any] = [wire.flat(it.metadata, name) for it, name in zip(found, names, strict=True)]
        else:
            documents = [_nested(name, it) for it, name in zip(found, names, strict=True)]
        return answer(200, wire.QueryAnswer(bounded(documents), asked.form))

    def _document_now(self, labels: tuple[str, ...], name: str, is_nested: bool) -> Response:
        self._require(labels)
        found = self._vectors.get(labels, wire.id_of(name))
        if found is None:
            raise Refused(404, f"there is no document {name[:80]!r} in {'/'.join(labels)!r}")
        name = name.lower()
        if is_nested:
            return answer(200, _nested(name, found, found.vector.tolist()))
        return answer(200, wire.flat(found.metadata, name))

    def _delete_now(self, labels: tuple[str, ...], name: str) -> Response:
        self._require(labels)
        if not self._vectors.delete(labels, wire.id_of(name)):
            raise Refused(404, f"there is no document {name[:80]!r} in {'/'.join(labels)!r}")
        return Response(status_code=204)


def _translated(work: Callable[[], T]) -> T:
    """Do it; say which status a refusal of the store is."""
    try:
        return work()
    except TooLarge as error:
        raise Refused(413, str(error)) from error
    except NoRoom as error:
        raise Refused(503, str(error)) from error
    except ReadOnlyError as error:
        raise Refused(403, str(error)) from error
    except (VectorError, InvalidNamespace) as error:
        raise Refused(400, str(error)) from error
    except (NtmemError, MemoryError, OSError) as error:
        _log.error("the store could not do what was asked by AgentDB's wire: %s", error)
        raise Refused(503, str(error) or "there is no memory for it", {"Retry-After": "1"}) from error
    except (TypeError, ValueError) as error:  # an argument that the store does not take
        raise Refused(400, str(error)) from error


def _collection(request: Request) -> tuple[str, ...]:
    segment = request.path_params["collection"]
    try:
        return wire.labels_of_segment(segment)
    except (VectorError, InvalidNamespace):
        raise Refused(404, f"there is no collection {segment[:80]!r}") from None


def _check_name(name: str | None, labels: tuple[str, ...]) -> None:
    if name is not None and wire.labels_of_name(name) != labels:
        raise VectorError(f"the request is about {name[:80]!r}, its path about {'/'.join(labels)[:80]!r}; say one")


def _wants_nested(request: Request) -> bool:
    for name, value in request.query_params.multi_items():
        if (name, value) != ("form", wire.FORM):
            raise Refused(400, f"?form={wire.FORM} is all that may be asked, was {name[:40]!r}={value[:40]!r}")
    return bool(request.query_params)
