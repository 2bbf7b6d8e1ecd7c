"""AgentDB's wire, served from a store by a process of its own: each documented reply, and all that is refused."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hostile import Start, children, ram_directory

import ntmem
from ntmem.cli.commands import cli

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")
from agentdb import SERVER, Asker

TOKEN = "0123456789abcdef"
IN_PROCESS = """
import json
from ntmem.agentdb.answers import Rules
from ntmem.agentdb.server import listening, serve
config, rules = json.loads(sys.argv[2]), json.loads(sys.argv[3])
with ntmem.open(sys.argv[1], **config) as memory, listening("127.0.0.1", 0) as found:
    say(f"http://127.0.0.1:{found.getsockname()[1]}")
    serve(memory.vectors, found, Rules(**rules), "1")
"""


@pytest.fixture(scope="module")
def store() -> Iterator[Path]:
    with ram_directory() as path:
        yield path / "desk"


@pytest.fixture(scope="module")
def ask(store: Path) -> Iterator[Asker]:
    """A server that wants a token."""
    with children() as start:
        server = start(SERVER, "--store", store, env={"NTMEM_AGENTDB_TOKEN": TOKEN})
        asker = Asker(server.line(), TOKEN)
        yield asker
        asker.close()
        server.signal(signal.SIGTERM)
        server.end()
        assert server.complaint() == ""  # the access log is off, and nothing that was refused is a bug


@pytest.fixture
def desk(ask: Asker, request: pytest.FixtureRequest) -> str:
    """The path of a new collection of two dimensions, with two documents."""
    name = f"desk-{abs(hash(request.node.nodeid))}"
    assert ask.post("/collections", name=name, dimension=2)[0] == 201
    documents = [
        {"id": "6131", "embedding": [1.0, 0.0], "metadata": {"symbol": "BTC", "n": 1}},
        {"id": "6132", "embedding": [0.0, 1.0], "metadata": {"symbol": "ETH", "n": 2}},
    ]
    assert ask.post(f"/collections/{name}/batch_insert", documents=documents)[0] == 200
    return f"/collections/{name}"


# ---- what is documented


def test_replies_are_those_that_are_documented(ask: Asker) -> None:
    assert ask("GET", "/health").short == (200, {"status": "ok", "version": ntmem.__version__})
    made = ask.post("/collections", name="patterns", dimension=3, index_type="hnsw", metadata_schema={"symbol": "str"})
    assert made == (201, {"name": "patterns", "dimension": 3, "index_type": "hnsw"})
    status, said = ask.post("/collections", name="patterns", dimension=3)
    assert (status, said["error"]) == (409, "exists")
    assert ask.post("/collections", name="patterns", dimension=4)[0] == 409
    path = "/collections/patterns"
    whole = {
        "id": "p1",
        "symbol": "BTC",
        "pattern": "breakout",
        "embedding": [1.0, 0.0, 0.0],
        "outcome": 0.5,
        "metadata": {"note": "x"},
        "timestamp_us": 1_700_000_000_000_000,
    }
    assert ask.post(f"{path}/insert", id="7031", embedding=[1, 0, 0], metadata=whole) == (
        201,
        {"id": "7031", "success": True},
    )
    others = [{"id": "FF00", "embedding": [0.0, 1.0, 0.0], "metadata": None}, {"id": "7033", "embedding": [1, 1, 0]}]
    assert ask.post(f"{path}/batch_insert", documents=others) == (200, {"inserted": 2, "failed": 0})
    assert ask.post(f"{path}/batch_insert", documents=[]) == (200, {"inserted": 0, "failed": 0})
    filters = [{"op": "eq", "field": "symbol", "value": "BTC"}, {"op": "gte", "field": "timestamp_us", "value": 5}]
    found = ask.post(f"{path}/search", collection="patterns", embedding=[1, 0, 0], k=5, filters=filters, min_score=0.5)
    assert found == (200, {"results": [{"document": {"score": 1.0} | whole, "score": 1.0}]})
    found = ask.post(f"{path}/search", collection="patterns", embedding=[0, 1, 0], k=1)
    assert found == (200, {"results": [{"document": {"id": "ff00", "score": 1.0}, "score": 1.0}]})
    assert ask.post(f"{path}/query", collection="patterns", filters=filters, limit=3) == (200, {"documents": [whole]})
    assert ask("GET", f"{path}/documents/7031").short == (200, whole)
    assert ask("GET", f"{path}/documents/FF00").short == (200, {"id": "ff00"})
    assert ask("DELETE", f"{path}/documents/7031").short == (204, None)
    for method in ("GET", "DELETE"):
        status, said = ask(method, f"{path}/documents/7031").short
        assert (status, said["error"]) == (404, "not_found")


def test_the_nested_form_says_all_and_numbers_come_back_bit_for_bit(ask: Asker, store: Path) -> None:
    numbers = np.array([0.1, -0.0, 1e-45, 3.4e38, -2.5e-8], np.float32)
    assert ask.post("/collections", name="bits", dimension=5)[0] == 201
    metadata = {"id": "own", "score": "own", "at": [1, {"x": None}], "wide": 2**64 - 1}
    said = {"id": b"\xff\x00".hex(), "embedding": numbers.tolist(), "metadata": metadata, "ts_event": 5, "ts_known": 7}
    assert ask.post("/collections/bits/insert", **said)[0] == 201
    status, document = ask("GET", "/collections/bits/documents/ff00?form=nested").short
    assert status == 200
    came = np.array(document.pop("embedding"), np.float32)
    assert (came.view(np.uint32) == numbers.view(np.uint32)).all()
    assert document == {"id": "ff00", "metadata": metadata, "ts_event": 5, "ts_known": 7}
    found = ask.post("/collections/bits/search", embedding=numbers.tolist(), k=1, form="nested")
    assert found == (
        200,
        {"results": [{"document": document, "score": found[1]["results"][0]["score"]}], "form": "nested"},
    )
    assert ask.post("/collections/bits/query", form="nested") == (200, {"documents": [document], "form": "nested"})
    with ntmem.open(store) as memory:  # a bystander finds it by the id that these bytes stand for
        kept = memory.vectors.get("bits", "bytes:ff00")
        assert kept is not None
        assert (kept.vector.view(np.uint32) == numbers.view(np.uint32)).all()


def test_what_other_programs_of_the_machine_add_is_served(ask: Asker, store: Path) -> None:
    strange = {"raw": b"\xff", "nan": float("nan"), "keys": {None: 1, True: 2, 3: 4}}
    with ntmem.open(store) as memory:
        memory.vectors.add("strange", "bytes:ff", [1.0, 2.0], strange)
        memory.vectors.add("strange", "plain", [2.0, 1.0], {"symbol": "BTC"})
    status, found = ask.post("/collections/strange/search", embedding=[1, 2], k=2)
    assert status == 200
    assert [each["document"]["id"] for each in found["results"]] == ["ff", b"plain".hex()]
    assert found["results"][0]["document"]["nan"] is None
    assert ask.post("/collections/strange/query", form="nested")[0] == 200
    assert ask("GET", "/collections/strange/documents/ff").status == 200


def test_queries_are_sorted_and_limited(ask: Asker) -> None:
    values: list[Any] = [3, 1.5, "b", "a", None, True, -(2**60), 2**60 + 1, 2.0**60]
    assert ask.post("/collections", name="sorted", dimension=1)[0] == 201
    documents = [
        {"id": f"{number:02x}", "embedding": [1], "metadata": {"at": number, "v": value}}
        for number, value in enumerate(values)
    ]
    documents.insert(2, {"id": "aa", "embedding": [1], "metadata": {"at": 9}})
    assert ask.post("/collections/sorted/batch_insert", documents=documents)[0] == 200

    def order(**said: Any) -> list[int]:
        status, found = ask.post("/collections/sorted/query", **said)
        assert status == 200
        return [each["at"] for each in found["documents"]]

    assert order() == [0, 1, 9, *range(2, 9)]
    assert order(sort_by="v") == [6, 1, 0, 8, 7, 3, 2, 4, 5, 9]
    assert order(sort_by="-v") == [7, 8, 0, 1, 6, 2, 3, 4, 5, 9]
    assert order(sort_by={"field": "at", "order": "desc"}, limit=3) == [9, 8, 7]
    assert order(sort_by=["nothing", "-at"], limit=2) == [9, 8]
    assert order(limit=0) == []
    assert order(limit=2) == [0, 1]
    assert order(filters={"op": "in", "field": "v", "value": ["a", 3]}) == [0, 3]


def test_the_description_has_all_paths_and_every_status_that_was_seen(ask: Asker) -> None:
    status, said = ask("GET", "/openapi.json").short
    assert (status, said["openapi"]) == (200, "3.1.0")
    assert said["info"]["version"] == ntmem.__version__
    assert {(path, method) for path, found in said["paths"].items() for method in found if method != "parameters"} == {
        ("/health", "get"),
        ("/openapi.json", "get"),
        ("/collections", "post"),
        *((f"/collections/{{collection}}/{name}", "post") for name in ("insert", "batch_insert", "search", "query")),
        ("/collections/{collection}/documents/{id}", "get"),
        ("/collections/{collection}/documents/{id}", "delete"),
    }
    text = json.dumps(said)
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= said["components"]["schemas"].keys()


# ---- what is refused

GOOD = {"embedding": [1, 0], "k": 1}
DEEP = b'{"id":"ff","embedding":[1,0],"metadata":{"a":' + b"[" * 40 + b"]" * 40 + b"}}"
DEEPER = b'{"id":"ff","embedding":[1,0],"metadata":{"a":' + b"[" * 100_000


@pytest.mark.parametrize(
    ("path", "said", "status"),
    [
        ("search", b"", 400),
        ("search", b"{", 400),
        ("search", b"[]", 400),
        ("search", b"\xff\xfe", 400),
        ("search", b'{"embedding":[NaN,0],"k":1}', 400),
        ("search", b'{"embedding":[Infinity,0],"k":1}', 400),
        ("search", b'{"embedding":[1e999,0],"k":1}', 400),
        ("search", GOOD | {"embedding": [1e39, 0]}, 400),
        ("search", GOOD | {"embedding": [0, 0]}, 400),
        ("search", GOOD | {"embedding": [1, 0, 0]}, 400),
        ("search", GOOD | {"embedding": [1] * 65_537}, 400),
        ("search", GOOD | {"k": 4097}, 400),
        ("search", GOOD | {"k": 10**30}, 400),
        ("search", GOOD | {"collection": "other"}, 400),
        ("search", GOOD | {"collection": ""}, 400),
        ("search", GOOD | {"filters": {"op": "gt", "field": "n", "value": None}}, 400),
        ("search", GOOD | {"filters": {"op": "eq", "field": "$or", "value": []}}, 400),
        ("search", GOOD | {"filters": {"op": "and", "filters": []}}, 400),
        ("search", b'{"embedding":[1,0],"k":1,"filters":' + b'{"op":"and","filters":[' * 50 + b"]}" * 50 + b"}", 400),
        ("search", b'{"embedding":[1,0],"k":1,"filters":' + b'{"op":"and","filters":[' * 9999, 400),
        ("query", {"limit": 10_001}, 400),
        ("query", {"limit": -1}, 400),
        ("query", {"sort_by": [""]}, 400),
        ("insert", {"id": "f", "embedding": [1, 0]}, 400),
        ("insert", {"id": "zz", "embedding": [1, 0]}, 400),
        ("insert", {"id": "", "embedding": [1, 0]}, 400),
        ("insert", {"id": "61" * 513, "embedding": [1, 0]}, 400),
        ("insert", {"id": "ff" * 300, "embedding": [1, 0]}, 400),
        ("insert", {"id": "ff", "embedding": [1, 0], "metadata": "text"}, 400),
        ("insert", {"id": "ff", "embedding": [1, 0], "metadata": {"$a": 1}}, 400),
        ("insert", {"id": "ff", "embedding": [1, 0], "metadata": {"": 1}}, 400),
        ("insert", {"id": "ff", "embedding": [1, 0], "metadata": {"a": 2**64}}, 400),
        ("insert", {"id": "ff", "embedding": [1, 0], "metadata": {"a": "x" * 40_000}}, 400),
        ("insert", b'{"id":"ff","embedding":[1,0],"metadata":{"a":"\\ud800"}}', 400),
        ("insert", b'{"id":"ff","embedding":[1,0],"metadata":{"a":1e999}}', 400),
        ("insert", DEEP, 400),
        ("insert", DEEPER, 400),
        ("batch_insert", {"documents": [{"id": "ff", "embedding": [1, 0]}, {"id": "fe", "embedding": [1]}]}, 400),
        ("batch_insert", {"documents": [{"id": "ff", "embedding": [1, 0]}, {"id": "fe", "embedding": [0, 0]}]}, 400),
        ("batch_insert", {"documents": [{"id": "ff", "embedding": [1, 0]}, {"id": "f", "embedding": [1, 0]}]}, 400),
        ("batch_insert", {"documents": [{"id": "ff", "embedding": [1, 0]}] * 4097}, 400),
        ("drop", {}, 404),
        ("search/", GOOD, 404),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(ask: Asker, desk: str, path: str, said: Any, status: int) -> None:
    before = ask.post(f"{desk}/query")
    reply = ask("POST", f"{desk}/{path}", said)
    assert reply.status == status, reply.document
    assert reply.document.keys() == {"error", "detail"}
    assert len(reply.document["detail"]) > 10
    assert ask.post(f"{desk}/query") == before


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"name": "", "dimension": 2}, 400),
        ({"name": "a//b", "dimension": 2}, 400),
        ({"name": "..", "dimension": 2}, 400),
        ({"name": "ntmem/vectors", "dimension": 2}, 400),
        ({"name": "ntmem/mine", "dimension": 2}, 400),
        ({"name": "x" * 256, "dimension": 2}, 400),
        ({"name": "a\0b", "dimension": 2}, 400),
        ({"name": "a", "dimension": 65_537}, 400),
        ({"name": "a", "dimension": 2, "index_type": "ivf"}, 400),
    ],
)
def test_collections_that_cannot_be_are_refused(ask: Asker, said: dict[str, Any], status: int) -> None:
    assert ask.post("/collections", **said)[0] == status


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/collections", {}, 405),
        ("PUT", "/collections/x/insert", {}, 405),
        ("POST", "/health", {}, 405),
        ("PATCH", "/collections/x/documents/ff", {}, 405),
        ("OPTIONS", "/collections", {}, 405),
        ("GET", "/", {}, 404),
        ("GET", "/docs", {}, 404),
        ("GET", "/collections/none/documents/ff", {}, 404),
        ("DELETE", "/collections/none/documents/ff", {}, 404),
        ("GET", "/collections/none/documents/ff?form=flat", {}, 400),
        ("GET", "/collections/none/documents/ff?from=nested", {}, 400),
        ("POST", "/collections/none/search", {}, 404),
        ("POST", "/collections/none/insert", {}, 404),
        ("POST", "/collections", {"Content-Type": "text/plain"}, 415),
        ("POST", "/collections", {"Content-Type": ""}, 415),
        ("POST", "/collections", {"Content-Type": "application/json; charset=latin-1"}, 415),
        ("POST", "/collections", {"Content-Encoding": "gzip"}, 415),
        ("POST", "/collections", {"Authorization": ""}, 401),
        ("POST", "/collections", {"Authorization": f"Bearer {TOKEN}x"}, 401),
        ("POST", "/collections", {"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ("POST", "/collections", {"Authorization": f"Basic {TOKEN}"}, 401),
        ("GET", "/nothing", {"Authorization": ""}, 401),
        ("GET", "/openapi.json", {"Authorization": ""}, 401),
        ("POST", "/health/", {"Authorization": ""}, 401),
        ("GET", "/health", {"Authorization": ""}, 200),
        ("GET", "/openapi.json", {"Authorization": "", "X-API-Key": TOKEN}, 200),
        ("GET", "/openapi.json", {"Authorization": f"bearer  {TOKEN} "}, 200),
    ],
)
def test_who_may_not_ask_or_asks_nothing_there_is(
    ask: Asker, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    body = {"name": "none", "dimension": 2}
    good = GOOD if path.endswith("search") else {"id": "ff", "embedding": [1]} if path.endswith("insert") else body
    reply = ask(method, path, None if method in ("GET", "DELETE", "OPTIONS") else good, headers)
    assert reply.status == status, reply.document
    if status >= 400:
        assert reply.document.keys() == {"error", "detail"}
    if status == 401:
        assert reply.headers["WWW-Authenticate"] == "Bearer"
    if status == 405:
        assert reply.headers["Allow"]
    assert ask("POST", "/collections/none/query", {}).status == 404


def test_what_is_no_http_is_no_harm(ask: Asker) -> None:
    token = f"Authorization: Bearer {TOKEN}\r\nConnection: close\r\n".encode()
    for text in (
        b"\0\0\0\r\n\r\n",
        b"GET \xff\xfe HTTP/1.1\r\nHost: x\r\n" + token + b"\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n" + token + b"\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n" + token + b"\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n" + token + b"\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n" + token + b"\r\n",
        b"GET /x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nAuthorization: Bearer " + TOKEN.encode() + b"\r\n"
        b"Connection: close\r\n\r\n",
        b"POST /collections HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n" + token + b"\r\n",
        b"POST /collections HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n"
        + token
        + b"\r\n",
        b"POST /collections HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + token + b"\r\nzz\r\n",
    ):
        answer = ask.raw(text)
        assert answer.startswith(b"HTTP/1.1 4") or not answer, (text, answer)
    assert ask("GET", "/health").status == 200


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_that_is_too_large_is_not_kept(start: Start, ram: Path, is_chunked: bool) -> None:
    server = start(SERVER, "--store", ram / "desk", "--max-body", 4096)
    ask = Asker(server.line())
    said = json.dumps({"name": "a", "dimension": 2, "metadata_schema": "x" * 5000}).encode()
    body: Any = iter([said[:2500], said[2500:]]) if is_chunked else said
    connection = ask._connection
    connection.request("POST", "/collections", body, {"Content-Type": "application/json"}, encode_chunked=is_chunked)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]) == (413, "too_large")
    assert ask("POST", "/collections/a/query", {}).status == 404
    ask.close()
    endless = (
        b"POST /collections HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Type: application/json\r\n\r\n"
    )
    answered = ask.raw(
        endless + b"1000\r\n" + b"x" * 4096 + b"\r\n" + b"1000\r\n" + b"x" * 4096 + b"\r\n" + b"1000\r\n"
    )
    assert answered.startswith((b"HTTP/1.1 421", b"HTTP/1.1 413"))
    assert b"connection: close" in answered.lower()


def test_all_bodies_together_are_bounded(start: Start, ram: Path) -> None:
    ask = Asker(start(IN_PROCESS, ram / "desk", "{}", json.dumps({"max_body": 4096})).line())
    head = b"POST /collections HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 4096\r\n\r\n"
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(socket.create_connection(ask.address, timeout=60)) for _ in range(5)]
        for each in waiting:
            each.sendall(head + b"x" * 4000)  # four times 4,096 are kept, not five times 4,000
        answered, _, _ = select.select(waiting, [], [], 60)
        assert [each.recv(65536)[:13] for each in answered] == [b"HTTP/1.1 503 "]
    said = json.dumps({"name": "a", "dimension": 2, "metadata_schema": "x" * 4000}).encode()
    for name in "abcdefghij":  # and what those took is given back
        assert ask("POST", "/collections", said.replace(b'"a"', b'"%s"' % name.encode())).status == 201
    ask.close()


def test_who_is_too_slow_is_told(start: Start, ram: Path) -> None:
    ask = Asker(start(IN_PROCESS, ram / "desk", "{}", json.dumps({"patience": 0.05})).line())
    head = b"POST /collections HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
    assert ask.raw(head).startswith(b"HTTP/1.1 408 ")
    for length in (b"16777217", b"9" * 19):  # is not waited for
        assert ask.raw(head.replace(b"50", length)).startswith(b"HTTP/1.1 413 ")
    ask.close()


# ---- collections are apart


def test_nothing_of_a_collection_is_found_in_another(ask: Asker, store: Path) -> None:
    names = [
        "leak",
        "leak/b",
        "leak/b/c",
        "leak%2Fb",
        "leak%2fb",
        "leak ",
        "LEAK",
        "leak.",
        "leak/..",
        "leak?form=nested",
    ]
    paths = {}
    for number, name in enumerate(names):
        assert ask.post("/collections", name=name, dimension=2)[0] == 201
        escaped = "".join(f"%{byte:02X}" for byte in name.encode())
        paths[name] = path = f"/collections/{escaped}"
        said = {"id": "6964", "embedding": [1, number], "metadata": {"whose": name}}
        assert ask.post(f"{path}/insert", **said)[0] == 201
    assert ask("GET", "/collections/leak%2Fb/documents/6964").document["whose"] == "leak/b"
    assert ask("GET", "/collections/leak%252Fb/documents/6964").document["whose"] == "leak%2Fb"
    for path in ("/collections/leak/b", "/collections//leak", "/collections/leak%2F", "/collections/leak%2Fb%2F"):
        assert ask("GET", f"{path}/documents/6964").status == 404
    for name, path in paths.items():
        own = {"id": "6964", "whose": name}
        assert ask("GET", f"{path}/documents/6964").document == own
        assert ask.post(f"{path}/query") == (200, {"documents": [own]})
        found = ask.post(f"{path}/search", collection=name, embedding=[1, 0], k=10)[1]["results"]
        assert [each["document"]["whose"] for each in found] == [name]
    with ntmem.open(store) as memory:  # the same namespaces for who has the store open
        for name in names:
            hit = memory.vectors.get(name, "id")
            assert hit is not None
            assert hit.metadata == {"whose": name}
    gone, *others = names
    assert ask("DELETE", f"{paths[gone]}/documents/6964").status == 204
    for name in others:
        assert ask("GET", f"{paths[name]}/documents/6964").document["whose"] == name


def test_the_stores_own_and_paths_that_climb_reach_nothing(ask: Asker, store: Path, desk: str) -> None:
    with ntmem.open(store) as memory:
        memory.put("desk", "secret", b"1")
        memory.positions.apply_fill("BTC", 1, 2, trade_id="1")
    own = ["ntmem", "ntmem%2Fvectors", "ntmem%2Fcollections", "%6Etmem%2Ftrajectories%2F8", "ntmem%2Fpatterns%2F8"]
    climbs = [
        *("..", ".", "%2e%2e", "%2E", "..%2F..", "desk%2F..%2F..%2Fetc", "%00", "%ff", "%", "%zz", "%2F", "a%2F%2Fb"),
        *(f"x/..{desk.removeprefix('/collections')}", f"{desk.removeprefix('/')}", "", "./x", "%2e%2e/health"),
    ]
    for segment in own + climbs:
        for method, rest, said in (
            ("POST", "search", {"embedding": [1, 0], "k": 5}),
            ("POST", "query", {}),
            ("POST", "insert", {"id": "ff", "embedding": [1, 0]}),
            ("GET", "documents/6131", None),
            ("DELETE", "documents/6131", None),
        ):
            reply = ask(method, f"/collections/{segment}/{rest}", said)
            assert reply.status in (404, 405), (segment, rest, reply.document)
    for path in ("//health", "/health/", "/collections/../health", "/./health", "/HEALTH", "/%68ealth", "/health%2F"):
        assert ask("GET", path).status == 404, path
    for name in ("6131/..", "%36131", "6131%2F", "../documents/6131", "6131%00"):
        assert ask("GET", f"{desk}/documents/{name}").status in (400, 404)
    assert ask("GET", f"{desk}/documents/6131").status == 200


# ---- the process


def not_refused(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=60).close()
    except ConnectionRefusedError:
        return False
    except ConnectionResetError:  # of those that wait to be accepted
        pass
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_has_begun_is_finished_when_it_is_told_to_end(start: Start, ram: Path, number: signal.Signals) -> None:
    server = start(SERVER, "--store", ram / "desk")
    ask = Asker(server.line())
    assert ask.post("/collections", name="a", dimension=2)[0] == 201
    said = json.dumps({"id": "6131", "embedding": [1, 2]}).encode()
    head = f"POST /collections/a/insert HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(said)}\r\n"
    with socket.create_connection(ask.address, timeout=60) as found:
        found.sendall(head.encode() + b"Content-Type: application/json\r\nExpect: 100-continue\r\n\r\n")
        assert found.recv(65536).startswith(b"HTTP/1.1 100 ")  # it has begun
        found.sendall(said[:10])
        ask.close()
        server.signal(number)
        while not_refused(ask.address):
            pass
        found.sendall(said[10:])
        assert found.recv(65536).startswith(b"HTTP/1.1 201 ")
    server.end()  # with 0
    with ntmem.open(ram / "desk") as memory:
        assert memory.vectors.get("a", "a1") is not None


def test_ctrl_c_ends_it_well(start: Start, ram: Path) -> None:
    server = start(SERVER, "--store", ram / "desk")
    ask = Asker(server.line())
    assert ask("GET", "/health").status == 200
    server.signal(signal.SIGINT)
    assert server.end() == ""
    ask.close()


def test_a_server_that_only_reads(start: Start, ram: Path) -> None:
    with ntmem.open(ram / "desk") as memory:
        memory.vectors.add("a", "a1", [1.0, 2.0], {"n": 1})
    ask = Asker(start(SERVER, "--store", ram / "desk", "--read-only").line())
    assert ask.post("/collections/a/search", embedding=[1, 2], k=1)[0] == 200
    assert ask.post("/collections/a/query") == (200, {"documents": [{"id": "6131", "n": 1}]})
    for method, path, said in (
        ("POST", "/collections", {"name": "b", "dimension": 2}),
        ("POST", "/collections/a/insert", {"id": "ff", "embedding": [1, 2]}),
        ("POST", "/collections/a/batch_insert", {"documents": [{"id": "ff", "embedding": [1, 2]}]}),
        ("DELETE", "/collections/a/documents/6131", None),
    ):
        reply = ask(method, path, said)
        assert (reply.status, reply.document["error"]) == (403, "read_only")
    assert ask.post("/collections/a/query") == (200, {"documents": [{"id": "6131", "n": 1}]})
    ask.close()


@pytest.mark.parametrize(
    "config", [{"max_storage_bytes": 8 << 20, "engine": "lmdb"}, {"max_memory_bytes": 48 << 20}], ids=["map", "memory"]
)
def test_a_store_that_is_full_says_so_and_keeps_what_it_has(start: Start, ram: Path, config: dict[str, Any]) -> None:
    ask = Asker(start(IN_PROCESS, ram / "desk", json.dumps(config), "{}").line())
    assert ask.post("/collections", name="a", dimension=512)[0] == 201
    rows = np.random.default_rng(1).normal(size=(256, 512)).astype(np.float32)
    had = 0
    with ntmem.open(ram / "desk", **config) as memory, pytest.raises(ntmem.NtmemError, match="max_"):
        while True:  # a bystander takes what there is, as that is sooner done
            memory.vectors.add_many("a", [f"{had + number:08d}" for number in range(256)], rows, whole=True)
            had += 256
    status = 200
    while status == 200:
        documents = [
            {"id": f"{had + number:08d}".encode().hex(), "embedding": row.tolist()}
            for number, row in enumerate(rows[:64])
        ]
        status, said = ask.post("/collections/a/batch_insert", documents=documents)
        had += 64 * (status == 200)
    assert (status, said["error"]) == (503, "unavailable")
    assert had > 0
    with ntmem.open(ram / "desk", **config) as memory:
        assert memory.vectors.count("a") == had
    assert ask("GET", f"/collections/a/documents/{(b'%08d' % had).hex()}").status == 404
    assert ask("GET", f"/collections/a/documents/{b'00000000'.hex()}").status == 200
    ask.close()


def test_a_batch_that_the_log_does_not_take_at_once_is_refused_whole(start: Start, ram: Path) -> None:
    ask = Asker(start(IN_PROCESS, ram / "desk", json.dumps({"log_bytes": 1 << 20, "engine": "shared"}), "{}").line())
    assert ask.post("/collections", name="a", dimension=256)[0] == 201
    documents = [{"id": f"{number:04x}", "embedding": [1.0] * 256} for number in range(1000)]
    assert ask.post("/collections/a/batch_insert", documents=documents)[0] == 413
    assert ask.post("/collections/a/query") == (200, {"documents": []})
    assert ask.post("/collections/a/batch_insert", documents=documents[:300])[0] == 200
    ask.close()


def test_a_browser_that_was_led_here_is_refused(start: Start, ram: Path) -> None:
    ask = Asker(start(SERVER, "--store", ram / "desk").line())
    for host, status in (
        ("evil.example", 421),
        ("evil.example:80", 421),
        ("127.0.0.1.evil.example", 421),
        ("[::1", 421),
        ("localhost:1", 200),
        ("[::1]:8780", 200),
        ("127.0.0.1", 200),
    ):
        assert ask("GET", "/openapi.json", None, {"Host": host}).status == status
    ask.close()


def test_a_token_is_wanted_where_others_listen(ram: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NTMEM_AGENTDB_TOKEN", raising=False)
    good, short = tmp_path / "good", tmp_path / "short"
    good.write_text(TOKEN + "\n")
    short.write_text("secret")
    for options, said in (
        (["--host", "0.0.0.0"], "wants a token"),
        (["--token-file", str(tmp_path / "none")], "cannot read"),
        (["--token-file", str(short)], "16 or more"),
        (["--token-file", str(good), "--no-auth"], "either"),
    ):
        run = CliRunner().invoke(cli, ["serve-agentdb", "--port", "0", "--store", str(ram / "desk"), *options])
        assert run.exit_code == 2, run.output
        assert said in run.stderr
        assert TOKEN not in run.output
    run = CliRunner().invoke(cli, ["serve-agentdb", "--host", "192.0.2.1", "--token-file", str(good)])
    assert (run.exit_code, "cannot listen" in run.stderr) == (1, True)
    run = CliRunner().invoke(cli, ["serve-agentdb", "--port", "0", "--read-only", "--store", str(ram / "none")])
    assert run.exit_code == 3


def test_it_serves_others_with_a_token_and_logs_when_asked(start: Start, ram: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN + "\n")
    options = ("--host", "0.0.0.0", "--token-file", tmp_path / "token", "--access-log")
    server = start(SERVER, "--store", ram / "desk", *options)
    url = server.line()
    assert url.startswith("http://0.0.0.0:")
    ask = Asker(url.replace("0.0.0.0", "127.0.0.1"), TOKEN)
    assert ask("GET", "/openapi.json", None, {"Host": "store.example"}).status == 200
    assert ask("GET", "/openapi.json", None, {"Authorization": ""}).status == 401
    assert ask("GET", "/x%0Ay").status == 404
    ask.close()
    server.signal(signal.SIGTERM)
    server.end()
    log = server.complaint()
    assert "GET '/openapi.json' 200" in log
    assert "GET '/openapi.json' 401" in log
    assert TOKEN not in log


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None; from ntmem.cli import main;"
        f"sys.argv = ['ntmem', 'serve-agentdb', '--store', {str(tmp_path / 'desk')!r}]; main()"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert run.returncode == 1
    assert "pip install 'ntmem[agentdb-server]'" in run.stderr
    assert not (tmp_path / "desk").exists()


def test_metadata_that_are_too_deep_are_the_clients_fault(ask: Asker) -> None:
    ask.post("/collections", name="deep", dimension=2)
    for depth in (40, 300, 900):
        body = b'{"id": "61", "embedding": [1, 2], "metadata": {"x": %s}}' % (b"[" * depth + b"]" * depth)
        assert ask("POST", "/collections/deep/insert", body).status == 400


def test_answers_are_bounded(ask: Asker) -> None:
    ask.post("/collections", name="large", dimension=2)
    text = "x" * 30_000
    for first in range(0, 1200, 200):
        documents = [
            {"id": f"{number:04x}", "embedding": [1, number], "metadata": {"t": text}}
            for number in range(first, first + 200)
        ]
        assert ask.post("/collections/large/batch_insert", documents=documents)[0] == 200
    for path, said in (("query", {}), ("search", {"embedding": [1, 1], "k": 1200})):
        status, failure = ask.post(f"/collections/large/{path}", **said)
        assert (status, failure["error"]) == (413, "too_large")
    assert len(ask.post("/collections/large/query", limit=100)[1]["documents"]) == 100
