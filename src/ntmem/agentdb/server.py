"""Answers AgentDB's wire from a store: paths, limits, who may ask, which thread does it. Needs ``agentdb-server``.

``docs/design/agentdb.md`` has the reasons, :mod:`ntmem.agentdb.wire` what is said.

**Invariants**

1. A path is matched as it came, percent-encoded: what one segment holds reaches no other path and no other collection,
   and the store's own namespaces are not there.
2. Who may not ask learns nothing: a token is looked at before path and body are, in constant time.
3. No more than `max_body` bytes of a request are kept, nor `_MOST_READ` times that of all that are not answered, nor
   longer waited for than `patience` seconds. An answer has `_MOST_ANSWER` bytes at most.
4. The loop waits for nobody: what asks the store runs in threads, reading apart from writing.
5. Whatever a request says, its answer is below 500, or 503 where the store is what cannot; a 500 is a bug here.
6. What is answered with success is in the store; what is refused left nothing there.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from heapq import nsmallest
from importlib.util import find_spec
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgspec
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router

from ..errors import InvalidNamespace, NtmemError, ReadOnlyError, VectorError
from ..tiers.collection import NoRoom, TooLarge
from . import wire
from .openapi import described

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from ..tiers.hits import Entry
    from ..tiers.vectors import VectorStore

T = TypeVar("T")

MAX_BODY = 16 << 20
PATIENCE = 30.0
# Bodies of the largest size, of all requests that are not answered; as objects they are 20 times as large.
_MOST_READ = 4
_MOST_ANSWER = 32 << 20
_MOST_CONNECTIONS = 512
_KEPT_ALIVE = 75  # seconds that a connection may idle
_DROPPED = 2.0  # seconds for what is left of a body that was refused
_WRITERS = 4
_LEAST_READERS = 4

_log = logging.getLogger("ntmem")
_encode = msgspec.json.Encoder().encode
_CREATE = msgspec.json.Decoder(wire.Create)
_INSERT = msgspec.json.Decoder(wire.Insert)
_BATCH = msgspec.json.Decoder(wire.BatchInsert)
_SEARCH = msgspec.json.Decoder(wire.Search)
_QUERY = msgspec.json.Decoder(wire.Query)
_JSON = re.compile(r"application/json *(; *charset *= *\"?utf-8\"? *)?", re.IGNORECASE)

_WORDS = {
    400: "bad_request",
    401: "unauthorized",
    403: "read_only",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "exists",
    413: "too_large",
    415: "unsupported_media_type",
    421: "misdirected",
    500: "internal",
    503: "unavailable",
}


class Refused(Exception):
    """A request is not answered with what it asked for."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers


class Rules(NamedTuple):
    """What requests are allowed.

    Attributes
    ----------
    token : str or None
        What they have to know; None: nothing.
    read_only : bool
        Whether they may only look.
    max_body : int
        Bytes of one.
    patience : float
        Seconds until its body is there.
    is_local : bool
        Whether this is for programs of this machine: then a browser that was led here by another's name is refused.
    access_log : bool
        Whether each is logged, by ``ntmem``.
    """

    token: str | None = None
    read_only: bool = False
    max_body: int = MAX_BODY
    patience: float = PATIENCE
    is_local: bool = False
    access_log: bool = False


# ---- answers


def _answer(status: int, what: Any, headers: Mapping[str, str] | None = None) -> Response:
    return Response(_encoded(what), status, headers, "application/json")


def _failure(refused: Refused) -> Response:
    what = wire.Failure(_WORDS[refused.status], refused.detail)
    return _answer(refused.status, what, refused.headers)


def _encoded(what: Any) -> bytes:
    try:
        return _encode(what)
    except TypeError:  # metadata of this machine's programs, which have more than JSON
        return _encode(_sayable(msgspec.to_builtins(what, builtin_types=(bytes,), enc_hook=repr)))


def _bounded(parts: Iterable[Any]) -> list[Any]:
    """Return the parts of an answer, encoded; refuse what would be too large."""
    found, size = [], 0
    for each in parts:
        data = _encoded(each)
        size += len(data)
        if size > _MOST_ANSWER:
            raise Refused(
                413, f"the answer would have over {_MOST_ANSWER} bytes; ask for less, or narrow it by filters"
            )
        found.append(msgspec.Raw(data))
    return found


def _sayable(value: Any) -> Any:
    """Return a value with the names JSON does not have by their text."""
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(key): _sayable(each) for key, each in value.items()}
    return [_sayable(each) for each in value] if isinstance(value, list | tuple) else value


# ---- what is asked of the store


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
        self._document = _encode(described(version, rules.token is not None))
        self._readers = ThreadPoolExecutor(max(_LEAST_READERS, os.cpu_count() or 1), "ntmem-agentdb-read")
        self._writers = ThreadPoolExecutor(_WRITERS, "ntmem-agentdb-write")
        self._reading = 0

    def close(self) -> None:
        """Let what is being asked end."""
        self._readers.shutdown()
        self._writers.shutdown()

    # -- requests

    async def health(self, _: Request) -> Response:
        return _answer(200, self._health)

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
        return _answer(201, wire.Created(asked.name, asked.dimension, asked.index_type))

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
        return _answer(201, wire.Inserted(asked.id.lower(), True))

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
        return _answer(200, wire.BatchInserted(added))

    def _search_now(self, labels: tuple[str, ...], asked: wire.Search) -> Response:
        self._require(labels)
        _check_name(asked.collection, labels)
        where = wire.where_of(asked.filters)
        hits = self._vectors.search(labels, asked.embedding, asked.k, where=where, min_score=asked.min_score)
        results = []
        for hit in hits:
            name = wire.hex_of(hit.id)
            document = wire.flat(hit.metadata, name, hit.score) if asked.form is None else _nested(name, hit)
            results.append(wire.Result(document, hit.score))
        return _answer(200, wire.SearchAnswer(_bounded(results), asked.form))

    def _query_now(self, labels: tuple[str, ...], asked: wire.Query) -> Response:
        self._require(labels)
        _check_name(asked.collection, labels)
        limit = wire.MOST_LIMIT if asked.limit is None else asked.limit
        entries = self._vectors.select(labels, where=wire.where_of(asked.filters))
        found = _sorted(entries, wire.sorts_of(asked.sort_by), limit)
        names = [wire.hex_of(entry.id) for entry in found]
        if asked.form is None:
            documents: list[Any] = [wire.flat(it.metadata, name) for it, name in zip(found, names, strict=True)]
        else:
            documents = [_nested(name, it) for it, name in zip(found, names, strict=True)]
        return _answer(200, wire.QueryAnswer(_bounded(documents), asked.form))

    def _document_now(self, labels: tuple[str, ...], name: str, is_nested: bool) -> Response:
        self._require(labels)
        found = self._vectors.get(labels, wire.id_of(name))
        if found is None:
            raise Refused(404, f"there is no document {name[:80]!r} in {'/'.join(labels)!r}")
        name = name.lower()
        if is_nested:
            return _answer(200, _nested(name, found, found.vector.tolist()))
        return _answer(200, wire.flat(found.metadata, name))

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


# ---- who asks, and what for


class _Gate:
    """Lets those through who may ask, with the path as it came; answers what is refused."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self._app = app
        self._rules = rules
        self._token = None if rules.token is None else rules.token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope["path"] = scope["raw_path"].decode("latin-1")
        scope["app"] = self  # then a path or method that there is not is raised, not answered
        begun, said = time.perf_counter(), _Said(receive, send)
        try:
            self._check(scope)
            await self._app(scope, said.receive, said.send)
        except Refused as refused:
            await self._refuse(scope, said, refused)
        except HTTPException as error:
            await self._refuse(scope, said, _of_router(error))
        except ClientDisconnect:
            return
        except Exception:
            _log.exception("a request of AgentDB's wire met a bug of ntmem's: %s %r", scope["method"], scope["path"])
            if said.status:
                raise
            await self._refuse(scope, said, Refused(500, "this is a bug of ntmem's; its log has more"))
        if self._rules.access_log:
            took = 1e3 * (time.perf_counter() - begun)
            _log.info("%s %r %d %.1f ms", scope["method"], scope["path"], said.status, took)

    def _check(self, scope: Scope) -> None:
        if scope["path"] == "/health":
            return
        if self._token is not None:
            if not any(hmac.compare_digest(self._token, given) for given in _tokens(scope["headers"])):
                detail = "say the server's token: Authorization: Bearer ..., or X-API-Key: ..."
                raise Refused(401, detail, {"WWW-Authenticate": "Bearer"})
        elif self._rules.is_local:
            host = next((value for name, value in scope["headers"] if name == b"host"), b"")
            if not _is_local_name(host.decode("latin-1")):
                raise Refused(421, "this server is for this machine; ask it as 127.0.0.1, or start it with a token")

    async def _refuse(self, scope: Scope, said: _Said, refused: Refused) -> None:
        """Answer; what is left of the body is read first, within bounds, as few clients look while they send."""
        is_read = refused.status != 408 and await said.rest(self._rules)
        headers = dict(refused.headers or {}) | ({} if is_read else {"Connection": "close"})
        answer = _failure(Refused(refused.status, refused.detail, headers))
        await answer(scope, said.receive, said.send)


class _Said:
    """What was received and sent of a request so far."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._more = True
        self.status = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)

    async def rest(self, rules: Rules) -> bool:
        """Drop what is left of the body, within bounds; return whether that was all."""
        most = rules.max_body
        try:
            async with asyncio.timeout(min(_DROPPED, rules.patience)):
                while self._more and most >= 0:
                    most -= len((await self.receive()).get("body", b""))
        except TimeoutError:
            pass
        return not self._more


def _tokens(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    for name, value in headers:
        if name == b"x-api-key":
            yield value.strip()
        elif name == b"authorization":
            scheme, _, token = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield token.strip()


def _is_local_name(host: str) -> bool:
    """Whether a Host header is one that no other machine's name server gives: an address, or localhost."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]*))(?::\d+)?", host)
    if found is None:
        return False
    name = found[1] or found[2]
    if not name or name.lower() == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _of_router(error: HTTPException) -> Refused:
    if error.status_code == 405:
        headers = error.headers or {}
        return Refused(405, f"that path takes {headers.get('Allow')}", headers)
    return Refused(404, "there is no such path; /openapi.json has those there are")


def application(vectors: VectorStore, rules: Rules, version: str) -> tuple[ASGIApp, Service]:
    """Return the application, for an ASGI server, and its service, which is to be closed when it has ended."""
    service = Service(vectors, rules, version)
    document = "/collections/{collection}/documents/{id}"
    routes: list[tuple[str, str, Callable[[Request], Awaitable[Response]]]] = [
        ("POST", "/collections/{collection}/search", service.search),
        ("POST", "/collections/{collection}/query", service.query),
        ("POST", "/collections/{collection}/insert", service.insert),
        ("POST", "/collections/{collection}/batch_insert", service.batch_insert),
        ("POST", "/collections", service.create),
        ("GET", "/openapi.json", service.openapi),
        ("GET", "/health", service.health),
    ]
    found = [Route(path, endpoint, methods=[method]) for method, path, endpoint in routes]
    found.append(Route(document, _Methods(GET=service.document, HEAD=service.document, DELETE=service.delete)))
    return _Gate(Router(found, redirect_slashes=False), rules), service


class _Methods:
    """An endpoint of several methods, that says all of them where it has none."""

    def __init__(self, **endpoints: Callable[[Request], Awaitable[Response]]) -> None:
        self._endpoints = endpoints

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is None:
            raise HTTPException(405, headers={"Allow": ", ".join(self._endpoints)})
        answer = await endpoint(Request(scope, receive, send))
        await answer(scope, receive, send)


# ---- the process


class _Server(uvicorn.Server):
    """Ends when it is told to, after what it is doing, and returns."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.getsignal(number) for number in numbers}
        try:
            for number, handler in before.items():
                if handler != signal.SIG_IGN:  # nohup
                    signal.signal(number, self.handle_exit)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that listens; `port` 0 is any free one. Raises OSError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server(address[:2], family=family, backlog=_MOST_CONNECTIONS)


def is_loopback(found: socket.socket) -> bool:
    """Whether only this machine reaches a socket that listens."""
    return ipaddress.ip_address(found.getsockname()[0].partition("%")[0]).is_loopback


def serve(vectors: VectorStore, found: socket.socket, rules: Rules, version: str) -> None:
    """Answer what comes to a socket until this process is told to end (SIGTERM, SIGINT, SIGHUP).

    Requests that have begun are answered before it returns. **Thread safety**: of the main thread.
    """
    app, service = application(vectors, rules, version)
    try:
        run(app, found)
    finally:
        service.close()


def run(app: ASGIApp, found: socket.socket) -> None:
    """Run an application on the quickest parts that are installed, until this process is told to end."""
    config = uvicorn.Config(
        app,
        http="httptools" if find_spec("httptools") else "h11",
        loop="uvloop" if find_spec("uvloop") else "asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEPT_ALIVE,
    )
    _Server(config).run(sockets=[found])
