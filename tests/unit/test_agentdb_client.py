"""What is asked of an AgentDB server, and what is made of each answer: hand-written ones, from a real socket."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile import Start
from scripted import Handler, Reply, Script, bytes_of, half, reset, said, scripted

import ntmem
from ntmem import BadAnswer, ServerUnavailable, VectorError

pytest.importorskip("urllib3", reason="the extra agentdb is not installed")

from ntmem.agentdb import client as clients
from ntmem.agentdb import connections, wire
from ntmem.agentdb.client import Client
from ntmem.agentdb.remote import RemoteVectors
from ntmem.endpoint import Secret

TOKEN = "a-token-that-nobody-sees"
HEALTHY = said(200, {"status": "ok", "version": "1"})
EMPTY = said(200, {"results": []})
GONE = said(404, {"error": "not_found"})


@pytest.fixture(scope="module")
def script() -> Iterator[Script]:
    with scripted() as server:
        yield server


@pytest.fixture(scope="module")
def shared(script: Script) -> Iterator[ntmem.MemorySystem]:
    with ntmem.open(agentdb_url=script.url, agentdb_token=TOKEN, agentdb_timeout=30) as memory:
        yield memory


@pytest.fixture
def server(script: Script, monkeypatch: pytest.MonkeyPatch) -> Script:
    monkeypatch.setattr(clients, "_FIRST_WAIT", 1e-3)
    script.begin()
    return script


@pytest.fixture
def memory(shared: ntmem.MemorySystem) -> ntmem.MemorySystem:
    shared.vectors.close()
    shared.vectors._client = None  # type: ignore[attr-defined]
    return shared


@pytest.fixture
def v(memory: ntmem.MemorySystem) -> ntmem.VectorStore:
    return memory.vectors


def nested(id: str = "a", score: float = 0.5, **more: Any) -> dict[str, Any]:
    document = {"id": wire.hex_of(id), "metadata": {}, "ts_event": 1, "ts_known": 2} | more
    return {"document": document, "score": score}


def found(*results: Any) -> Reply:
    return said(200, {"results": results, "form": "nested"})


def asked(server: Script) -> list[str]:
    return [f"{each.method} {each.path}" for each in server.asked]


# -- what is asked


def test_requests_are_those_of_the_wire(server: Script, v: ntmem.VectorStore) -> None:
    server.replies = [
        said(201, {"name": "n", "dimension": 2, "index_type": "hnsw"}),
        said(201, {"id": "61", "success": True}),
        said(200, {"inserted": 2, "failed": 0}),
        found(nested("ü", 0.5, metadata={"x": 1})),
        said(200, nested("a", embedding=[0.1, 2])["document"]),
        said(204),
        said(200, {"documents": [nested("a")["document"]], "form": "nested"}),
    ]
    v.create("n", 2)
    v.add(("n", "m"), "a", [0.1, 2], {"x": 1}, ts_event=5, ts_known=6)
    assert v.add_many("n", ["b", "c"], [[1, 2], [3, 4]], [None, {"y": None}]) == 2
    assert v.search("n", [1, 2], 3, where={"x": {"$gte": 1}}, min_score=0.25) == [
        ntmem.SearchHit("ü", 0.5, {"x": 1}, 1, 2)
    ]
    got = v.get("n", "a")
    assert got is not None
    assert (got.id, got.vector.tobytes(), got.ts_event) == ("a", np.array([0.1, 2], np.float32).tobytes(), 1)
    assert v.delete("n", "a") == 1
    assert v.count("n") == 1
    tenth = float(np.float32(0.1))
    search = {"collection": "n", "embedding": [1.0, 2.0], "k": 3, "min_score": 0.25, "form": "nested"}
    assert [(each.method, each.path, each.body) for each in server.asked] == [
        ("POST", "/collections", {"name": "n", "dimension": 2, "exact": True}),
        (
            *("POST", "/collections/n%2Fm/insert"),
            {"id": "61", "embedding": [tenth, 2.0], "metadata": {"x": 1}, "ts_event": 5, "ts_known": 6},
        ),
        (
            *("POST", "/collections/n/batch_insert"),
            {
                "documents": [
                    {"id": "62", "embedding": [1, 2]},
                    {"id": "63", "embedding": [3, 4], "metadata": {"y": None}},
                ]
            },
        ),
        ("POST", "/collections/n/search", search | {"filters": {"op": "gte", "field": "x", "value": 1}}),
        ("GET", "/collections/n/documents/61?form=nested", None),
        ("DELETE", "/collections/n/documents/61", None),
        ("POST", "/collections/n/query", {"collection": "n", "limit": 10_000, "form": "nested"}),
    ]
    assert {each.headers["Authorization"] for each in server.asked} == {f"Bearer {TOKEN}"}
    assert server.asked[1].headers["Content-Type"] == "application/json"
    assert server.connections == 1  # it is kept


@pytest.mark.parametrize("exists", [said(409, {"error": "exists"}), said(200), said(201, {"ok": 1})])
def test_the_first_add_makes_the_collection(server: Script, v: ntmem.VectorStore, exists: Reply) -> None:
    server.replies = [GONE, exists, said(200, {"id": "61", "success": True})]
    v.add("n", "a", [1, 2])
    server.replies = [GONE, exists, said(200, {"inserted": 1, "failed": 0})]
    v.add_many("n", ["a"], [[1, 2]])
    made, path = "POST /collections", "POST /collections/n/"
    one, many = path + "insert", path + "batch_insert"
    assert asked(server) == [one, made, one, many, made, many]
    assert server.asked[1].body == {"name": "n", "dimension": 2}
    server.replies = [GONE]
    with pytest.raises(VectorError, match="is zero, which has no direction"):
        v.add("n", "a", [0, 0])


def test_another_metric_wants_a_server_of_ntmem(server: Script, v: ntmem.VectorStore) -> None:
    server.replies = [said(201), found()]
    v.create("n", 2, metric="l2")
    server.replies = [said(201), EMPTY]
    with pytest.raises(VectorError, match="not ntmem's"):
        v.create("n", 2, metric="l2")


def test_what_is_not_there_is_nothing(server: Script, v: ntmem.VectorStore) -> None:
    server.replies = [GONE, HEALTHY] + [GONE] * 6
    assert v.search("n", [1, 2]) == []
    assert v.get("n", "a") is None
    assert v.delete("n", "a") == 0
    assert v.count("n") == 0
    assert list(v.select("n")) == []
    assert "n" not in v
    ids, scores = v.search_arrays("n", [[1, 2]], 2)
    assert ids.tolist() == [[None, None]]
    assert np.isnan(scores).all()
    assert asked(server).count("GET /health") == 1


@pytest.mark.parametrize("health", [said(404, {"error": "no such path"}), said(200, {"hello": 1})])
def test_nothing_is_not_what_another_server_says(server: Script, v: ntmem.VectorStore, health: Reply) -> None:
    server.replies = [GONE, health]
    with pytest.raises(BadAnswer, match="agentdb_url"):
        v.search("n", [1, 2])


# -- statuses


def calls(v: ntmem.VectorStore) -> dict[str, Callable[[], Any]]:
    return {
        "create": lambda: v.create("n", 2),
        "add": lambda: v.add("n", "a", [1, 2]),
        "add_many": lambda: v.add_many("n", ["a"], [[1, 2]]),
        "search": lambda: v.search("n", [1, 2]),
        "get": lambda: v.get("n", "a"),
        "delete": lambda: v.delete("n", "a"),
        "count": lambda: v.count("n"),
    }


CALLS = ("create", "add", "add_many", "search", "get", "delete", "count")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (202, BadAnswer, "answered 202"),
        (206, BadAnswer, "answered 206"),
        (301, VectorError, "redirect to 'http://elsewhere/x'"),
        (302, VectorError, "redirect"),
        (307, VectorError, "redirect"),
        (400, VectorError, "refuses it: 400, 'bad: why'"),
        (401, VectorError, "refuses this token: 401"),
        (403, VectorError, "does not allow it: 403"),
        (405, VectorError, "refuses it: 405"),
        (413, VectorError, "refuses it: 413"),
        (415, VectorError, "refuses it: 415"),
        (422, VectorError, "refuses it: 422"),
        (500, ServerUnavailable, "failed: 500, 'bad: why'"),
        (501, ServerUnavailable, "failed: 501"),
    ],
)
def test_a_refusal_says_which_and_is_not_asked_again(
    server: Script, v: ntmem.VectorStore, call: str, status: int, error: type[Exception], says: str
) -> None:
    failure = {"error": "bad", "detail": "why"}
    server.replies = [said(status, failure, Location="http://elsewhere/x?secret=1")]
    with pytest.raises(error, match=says) as caught:
        calls(v)[call]()
    assert type(caught.value) is error
    assert len(server.asked) == 1
    assert "secret" not in str(caught.value)


def test_unknown_statuses_of_a_collection_that_cannot_be_made(server: Script, v: ntmem.VectorStore) -> None:
    server.replies = [GONE, said(201), GONE]
    with pytest.raises(VectorError, match="refuses it: 404"):
        v.add("n", "a", [1, 2])
    assert len(server.asked) == 3


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_a_server_cannot_now_is_asked_again_but_not_for_ever(
    server: Script, v: ntmem.VectorStore, call: str, status: int
) -> None:
    server.replies = [said(status, {"error": "busy"})] * 10
    with pytest.raises(ServerUnavailable, match=rf"answers {status}, 'busy' \(4 tries") as caught:
        calls(v)[call]()
    assert isinstance(caught.value, ConnectionError)
    assert len(server.asked) == 4


@pytest.mark.parametrize("broken", [said(429), said(502), said(503), said(504), reset, half, bytes_of(b"")])
def test_what_did_not_arrive_is_asked_again(server: Script, v: ntmem.VectorStore, broken: Reply) -> None:
    server.replies = [broken, broken, found(nested())]
    assert [hit.id for hit in v.search("n", [1, 2])] == ["a"]
    server.replies = [broken, said(201, {"id": "61", "success": True})]
    v.add("n", "a", [1, 2])
    bodies = [each.body for each in server.asked]
    assert bodies[0] == bodies[1] == bodies[2]
    assert bodies[3] == bodies[4]


@pytest.mark.parametrize(("broken", "count"), [(reset, 1), (half, 1), (said(502), 1), (said(504), 1)])
def test_a_deletion_that_may_have_been_done_was(
    server: Script, v: ntmem.VectorStore, broken: Reply, count: int
) -> None:
    server.replies = [broken, GONE]
    assert v.delete("n", "a") == count


@pytest.mark.parametrize("busy", [said(503), said(429)])
def test_a_deletion_that_was_not_taken_was_not(server: Script, v: ntmem.VectorStore, busy: Reply) -> None:
    server.replies = [busy, GONE, HEALTHY]
    assert v.delete("n", "a") == 0


def test_a_connection_that_the_server_closed_is_made_again(server: Script, v: ntmem.VectorStore) -> None:
    server.replies = [said(200, {"results": []}, Connection="close"), EMPTY, EMPTY]
    for _ in range(3):
        assert v.search("n", [1, 2]) == []
    assert len(server.asked) == 3
    assert server.connections == 2


# -- time


def test_it_waits_as_long_as_it_is_told(server: Script, v: ntmem.VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(clients.time, "sleep", waits.append)
    monkeypatch.setattr(clients, "_FIRST_WAIT", 0.05)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=20), usegmt=True)
    server.replies = [said(429, Retry_After="7"), said(503, Retry_After=date), said(503, Retry_After="soon"), EMPTY]
    v.search("n", [1, 2])
    assert waits[0] == 7
    assert 10 < waits[1] <= 20
    assert 0.1 <= waits[2] <= 0.2


def test_it_waits_no_longer_than_it_may(server: Script, v: ntmem.VectorStore) -> None:
    server.replies = [said(429, {"error": "later"}, Retry_After="60"), EMPTY]
    with pytest.raises(ServerUnavailable, match=r"answers 429, 'later' \(1 try"):
        v.search("n", [1, 2])
    assert len(server.asked) == 1


def silent(handler: Handler) -> None:
    """Say nothing until all is over."""
    handler.server.ending.wait()
    handler.close_connection = True


def dripping(head: bytes, rest: bytes) -> Reply:
    """Say a byte now and then, each in time, for longer than anybody is to wait; then all."""

    def reply(handler: Handler) -> None:
        handler.wfile.write(head)
        for _ in range(60):
            handler.wfile.write(b" ")
            if handler.server.ending.wait(0.05):
                return
        handler.wfile.write(rest)

    return reply


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    "slow",
    [
        silent,
        dripping(HEAD + b"X: ", b"\r\nContent-Length: 14\r\n\r\n" + b'{"results":[]}'),
        dripping(HEAD + b"Content-Length: 74\r\n\r\n", b'{"results":[]}'),
        dripping(b"", HEAD),
    ],
    ids=["silent", "head", "body", "line"],
)
def test_nothing_takes_longer_than_said(server: Script, slow: Reply) -> None:
    server.replies = [slow] * 5
    with (
        ntmem.open(agentdb_url=server.url, agentdb_timeout=0.3) as memory,
        pytest.raises(ServerUnavailable, match="in time"),
    ):
        memory.vectors.search("n", [1, 2])
    assert len(server.asked) == 1  # there was no time to ask again


def test_who_does_not_take_what_is_sent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        client = Client(f"http://127.0.0.1:{deaf.getsockname()[1]}", None, 0.3)
        with pytest.raises(ServerUnavailable, match="in time"):
            client.ask("POST", "/collections/n/insert", bytes(50_000_000), fine=(200,))


def test_sending_has_half_of_the_time_that_is_left(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[float] = []
    plain = connections._Connection.send

    def send(self: Any, data: Any) -> None:
        plain(self, data)
        sent.append(self.sock.gettimeout())

    monkeypatch.setattr(connections._Connection, "send", send)
    server.otherwise = lambda it: EMPTY
    client = Client(server.url, None, 30)
    for seconds in (60, 40, 20):  # over one connection
        sent.clear()
        client.ask("POST", "/x", b"{}", fine=(200,), until=time.monotonic() + seconds)
        assert sent
        assert max(sent) <= seconds / 2
    assert server.connections == 1
    client.close()


def test_nobody_is_there(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    with ntmem.open(tmp_path / "s", agentdb_url=url, agentdb_timeout=0.2) as memory:
        for call in calls(memory.vectors).values():
            with pytest.raises(ServerUnavailable, match=r"cannot be reached: .*refused"):
                call()
        with pytest.raises(ServerUnavailable):
            memory.search_similar("n", [1, 2], 3)
        assert memory.put("desk", "target", b"3")
    with (
        ntmem.open(agentdb_url="http://no-such-host.invalid", agentdb_timeout=0.2) as memory,
        pytest.raises(ServerUnavailable, match="cannot be reached"),
    ):
        memory.vectors.search("n", [1, 2])


# -- answers that make no sense


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (said(200, raw=b"<html>", Content_Type="text/html"), "is no JSON: '<html>'"),
        (said(200, raw=b"hello"), "answered what AgentDB does not, 'hello'"),
        (said(200, raw=b'{"results":['), "truncated"),
        (said(200, raw=b"\xff\xfe"), "AgentDB"),
        (said(200, raw=b"[" * 100_000), "AgentDB"),
        (said(200), "AgentDB"),
        (said(200, [1]), "AgentDB"),
        (said(200, {"found": []}), "missing required field `results`"),
        (found({"score": 0.5}), "document"),
        (found({"document": nested()["document"]}), "score"),
        (found(nested(score="0.5")), "score"),  # type: ignore[arg-type]
        (said(200, raw=b'{"results":[{"document":{"id":"61"},"score":NaN}]}'), "AgentDB"),
        (said(200, raw=b'{"results":[{"document":{"id":"61"},"score":1e999}]}'), "AgentDB"),
        (said(200, raw=b'{"results":[{"document":{"id":"61"},"score":null}]}'), "score"),
        (found({"document": {"id": "61"}, "score": 0.5}), "no document"),
        (found(nested(id="zz") | {"document": nested()["document"] | {"id": "zz"}}), "hexadecimal"),
        (said(200, {"results": [{"document": {"id": "xyz"}, "score": 0.5}]}), "not given by ntmem.*'xyz'"),
        (said(200, {"results": [{"document": {"id": 5}, "score": 0.5}]}), "hexadecimal"),
        (said(200, {"results": [{"document": {"x": 5}, "score": 0.5}]}), "hexadecimal"),
        (said(200, {"results": [{"document": "61", "score": 0.5}]}), "an object with an id"),
        (found(nested(metadata=5)), "no document"),
        (found(nested(ts_known=2**62)), "set the clocks"),
        (said(200, {"results": []}, Content_Encoding="gzip"), "gzip"),
        (said(200, {"results": []}, Content_Length=str(2**40)), "more than 67108864 bytes"),
        (bytes_of(b"HTTP/1.1 200 O"), "truncated"),
        (bytes_of(b"SSH-2.0-OpenSSH_9.2p1\r\n"), "no HTTP"),
    ],
)
def test_nonsense_is_told_from_refusals(server: Script, v: ntmem.VectorStore, answer: Reply, says: str) -> None:
    server.replies = [answer]
    with pytest.raises(BadAnswer, match=says):
        v.search("n", [1, 2])
    assert len(server.asked) == 1
    server.replies = [EMPTY]
    assert v.search("n", [1, 2]) == []  # and the next answer is that of the next request


@pytest.mark.parametrize(
    "endless",
    [
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"fff\r\n" + b" " * 4095 + b"\r\n",
        HEAD + b"\r\n",
    ],
    ids=["chunks", "until the end"],
)
def test_an_answer_without_end_is_not_kept(
    server: Script, v: ntmem.VectorStore, endless: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_ANSWER", 100_000)
    more = endless[len(HEAD) :].partition(b"\r\n\r\n")[2] or b" " * 4096
    server.replies = [bytes_of(endless, *[more] * 100)]
    with pytest.raises(BadAnswer, match="more than 100000 bytes"):
        v.search("n", [1, 2])


@pytest.mark.parametrize(
    ("answer", "error", "says"),
    [
        (nested("b", embedding=[1])["document"], BadAnswer, "was asked for the document '61' and answered '62'"),
        (nested(embedding=[1, "x"])["document"], BadAnswer, "no document"),
        (nested(embedding=[1, 1e300])["document"], BadAnswer, "beyond float32"),
        (nested(embedding=[])["document"], BadAnswer, "empty"),
        (nested()["document"], VectorError, "does not give vectors back"),
        ({"id": "61", "x": 5}, VectorError, "does not give vectors back"),
        ({"id": "61", "embedding": "x"}, BadAnswer, "none"),
        ([], BadAnswer, "AgentDB"),
    ],
)
def test_documents_that_are_none(
    server: Script, v: ntmem.VectorStore, answer: Any, error: type[Exception], says: str
) -> None:
    server.replies = [said(200, answer)]
    with pytest.raises(error, match=says):
        v.get("n", "a")


@pytest.mark.parametrize(
    ("answer", "call"),
    [
        ({"id": "61", "success": False}, "add"),
        ({"inserted": 0, "failed": 1}, "add_many"),
        ({"inserted": 0}, "add_many"),
    ],
)
def test_what_was_not_kept_is_an_error(server: Script, v: ntmem.VectorStore, answer: Any, call: str) -> None:
    server.replies = [said(200, answer)]
    with pytest.raises(VectorError, match=r"kept 0|did not keep"):
        calls(v)[call]()


# -- forms, and what is looked at again


@pytest.mark.parametrize(
    ("document", "metadata"),
    [
        ({"id": "61", "x": 1}, {"x": 1}),
        ({"id": "61", "x": 1, "score": 0.75}, {"x": 1}),
        ({"id": "61", "x": 1, "score": 3}, {"x": 1, "score": 3}),
        ({"id": "61", "x": 1, "metadata": {"y": 2}, "embedding": [1]}, {"x": 1, "metadata": {"y": 2}}),
        ({"id": "61", "metadata": {"x": 1}}, {"x": 1}),
        ({"id": "61", "metadata": {"x": 1}, "score": 0.75}, {"x": 1}),
        ({"id": "61", "metadata": None}, {}),
    ],
)
def test_documents_of_other_servers(
    server: Script, v: ntmem.VectorStore, document: dict[str, Any], metadata: dict[str, Any]
) -> None:
    server.replies = [said(200, {"results": [{"document": document, "score": 0.75}], "took_ms": 3})]
    assert v.search("n", [1, 2]) == [ntmem.SearchHit("a", 0.75, metadata, 0, 0)]
    plain = {name: value for name, value in document.items() if (name, value) != ("score", 0.75)}
    server.replies = [said(200, plain | {"embedding": [1.5]})]
    got = v.get("n", "a")
    assert got is not None
    assert (got.metadata, got.vector.tolist(), got.ts_known) == (metadata, [1.5], 0)


def test_metadata_may_have_an_id_of_their_own(server: Script, v: ntmem.VectorStore) -> None:
    server.replies = [found(nested("a", metadata={"id": "q", "score": 1})), said(200, {"id": "q", "embedding": [1]})]
    assert v.search("n", [1, 2])[0].metadata == {"id": "q", "score": 1}
    got = v.get("n", "a")
    assert got is not None
    assert (got.id, got.metadata) == ("a", {"id": "q"})


def test_no_more_are_answered_than_asked_for_the_best_first(server: Script, v: ntmem.VectorStore) -> None:
    server.replies = [found(nested("c", 0.25), nested("a", 0.75), nested("b", 0.5), nested("d", 0.5))] * 2
    assert v.search_similar("n", [1, 2], 3) == [("a", 0.75), ("b", 0.5), ("d", 0.5)]
    assert [hit.id for hit in v.search("n", [1, 2], 9, min_score=0.5)] == ["a", "b", "d"]


def test_a_server_that_knows_no_filters_is_found_out(server: Script, v: ntmem.VectorStore) -> None:
    server.replies = [found(nested("a", metadata={"x": 2}), nested("b", metadata={"x": 1}))]
    with pytest.raises(BadAnswer, match="'b', which the filter"):
        v.search("n", [1, 2], where={"x": {"$gt": 1}})


def test_counts_are_believed_of_ntmem_alone(server: Script, v: ntmem.VectorStore) -> None:
    documents = [nested("a")["document"]]
    server.replies = [said(200, {"documents": documents})]
    with pytest.raises(VectorError, match="may leave some out"):
        v.count("n")
    server.replies = [said(200, {"documents": documents * 10_000, "form": "nested"})]
    with pytest.raises(VectorError, match="10000 vectors or more"):
        v.count("n")


# -- many


def test_many_are_sent_in_parts(server: Script, v: ntmem.VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    server.otherwise = lambda it: said(200, {"inserted": len(it.body["documents"]), "failed": 0})
    vectors = np.random.default_rng(0).normal(size=(700, 384))
    ids = [str(number) for number in range(700)]
    assert v.add_many("n", ids, vectors) == 700
    sizes = [int(each.headers["Content-Length"]) for each in server.asked]
    assert len(sizes) > 2
    assert max(sizes) < 1.1 * (1 << 20)
    sent = [document["id"] for each in server.asked for document in each.body["documents"]]
    assert sent == [wire.hex_of(id) for id in ids]
    assert v.add_many("n", [], []) == 0


def test_a_request_that_is_too_large_is_sent_in_halves(server: Script, v: ntmem.VectorStore) -> None:
    def reply(it: Any) -> Reply:
        count = len(it.body["documents"])
        return said(413) if count > 3 else said(200, {"inserted": count, "failed": 0})

    server.otherwise = reply
    assert v.add_many("n", list("abcdefg"), np.ones((7, 2))) == 7
    taken = [it.body["documents"] for it in server.asked if len(it.body["documents"]) <= 3]
    assert [bytes.fromhex(each["id"]).decode() for part in taken for each in part] == list("abcdefg")


def test_an_error_says_how_many_were_added(server: Script, v: ntmem.VectorStore) -> None:
    server.replies = [said(200, {"inserted": 4096, "failed": 0}), said(500)]
    with pytest.raises(ServerUnavailable) as caught:
        v.add_many("n", [str(number) for number in range(5000)], np.ones((5000, 1)))
    assert caught.value.__notes__ == ["at least the first 4096 of 5000 vectors were added"]


def test_threads_get_their_own_answers(server: Script, v: ntmem.VectorStore) -> None:
    server.otherwise = lambda it: found(nested(str(it.body["embedding"][0])))
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda number: v.search_similar("n", [number, 1], 1), range(1, 201)))
    assert answers == [[(f"{number}.0", 0.5)] for number in range(1, 201)]
    assert server.connections <= 8


def test_event_loops_are_not_held_up(server: Script, v: ntmem.VectorStore) -> None:
    server.replies = [found(nested())]
    assert [hit.id for hit in asyncio.run(v.asearch("n", [1, 2]))] == ["a"]


def test_a_forked_child_has_connections_of_its_own(server: Script, start: Start) -> None:
    server.otherwise = lambda it: EMPTY
    child = start(
        """
from ntmem.agentdb.client import Client
client = Client(sys.argv[1], None, 30)
ask = lambda: client.ask("POST", f"/{os.getpid()}", b"{}", fine=(200,)).status
ask()
pid = os.fork()
if pid == 0:
    ask(); ask()
    os._exit(0)
os.waitpid(pid, 0)
say(ask())
""",
        server.url,
    )
    assert child.line() == "200"
    child.end()
    parent, *its, last = server.asked
    assert len(its) == 2
    assert parent.port == last.port
    assert {each.port for each in its} & {parent.port} == set()
    assert its[0].port == its[1].port


# -- what the wire cannot say

UNSAYABLE: dict[str, Callable[[Any], Any]] = {
    "as_of": lambda v: v.search("n", [1, 2], as_of=5),
    "now, said": lambda v: v.search_arrays("n", [[1, 2]], as_of=datetime.now(UTC)),
    "latest": lambda v: v.search_many("n", [[1, 2]], as_of=ntmem.LATEST),
    "similar": lambda v: v.search_similar("n", [1, 2], 3, as_of=5),
    "get": lambda v: v.get("n", "a", as_of=5),
    "count": lambda v: v.count("n", as_of=5),
    "select": lambda v: v.select("n", as_of=5),
    "ef": lambda v: v.search("n", [1, 2], ef=5),
    "rerank": lambda v: v.search("n", [1, 2], rerank=5),
    "k": lambda v: v.search("n", [1, 2], 5000),
    "exists": lambda v: v.search("n", [1, 2], where={"x": {"$exists": True}}),
    "bytes": lambda v: v.count("n", where={"x": b"x"}),
    "later": lambda v: v.add("n", "a", [1, 2], ts_known=2**62),
    "many later": lambda v: v.add_many("n", ["a", "b"], [[1, 2], [3, 4]], ts_known=[None, 2**62]),
    "whole": lambda v: v.add_many("n", ["a"], [[1, 2]], whole=True),
    "own": lambda v: v.add(("ntmem", "x"), "a", [1, 2]),
    "delete where": lambda v: v.delete("n", where={"x": 1}),
    "delete then": lambda v: v.delete("n", "a", ts_known=5),
    "drop": lambda v: v.drop("n"),
    "collections": lambda v: v.collections(),
    "info": lambda v: v.info("n"),
    "compact": lambda v: v.compact("n"),
    "recall": lambda v: v.recall_check("n"),
    "export": lambda v: v.export("n", "x.jsonl"),
    "write": lambda v: v.write("n", []),
    "dtype": lambda v: v.create("n", 2, dtype="float32"),
    "m": lambda v: v.create("n", 2, m=8),
}


@pytest.mark.parametrize("what", UNSAYABLE)
def test_what_the_wire_cannot_say_is_refused(server: Script, v: ntmem.VectorStore, what: str) -> None:
    with pytest.raises(VectorError, match=r"; |own|JSON"):
        UNSAYABLE[what](v)
    assert server.asked == []


@pytest.mark.parametrize("odd", [b"x", float("nan"), datetime.now(UTC), {"deep": [float("inf")]}])
def test_metadata_are_what_json_can_say(server: Script, v: ntmem.VectorStore, odd: Any) -> None:
    with pytest.raises(ntmem.SerializationError, match="which JSON has not"):
        v.add("n", "a", [1, 2], {"x": odd})
    assert server.asked == []


def test_arguments_are_checked_as_those_of_a_store(server: Script, v: ntmem.VectorStore) -> None:
    def outcome(v: ntmem.VectorStore, call: Callable[[Any], Any]) -> str:
        with pytest.raises((TypeError, ValueError, ntmem.NtmemError)) as caught:
            call(v)
        return f"{type(caught.value).__name__}: {caught.value}"

    wrong: list[Callable[[Any], Any]] = [
        lambda v: v.add("n", 5, [1, 2]),
        lambda v: v.add("n", "", [1, 2]),
        lambda v: v.add("n", "\ud800", [1, 2]),
        lambda v: v.add("n", "a", [[1, 2]]),
        lambda v: v.add("n", "a", [1, float("nan")]),
        lambda v: v.add("n", "a", [1, 1e300]),
        lambda v: v.add("n", "a", ["x"]),
        lambda v: v.add("n", "a", "text"),
        lambda v: v.add("n", "a", [1, 2], {"$x": 1}),
        lambda v: v.add("n", "a", [1, 2], [1]),
        lambda v: v.add("n", "a", [1, 2], ts_event="now"),
        lambda v: v.add("n/", "a", [1, 2]),
        lambda v: v.add(("ntmem", "trajectories", "2"), "a", [1, 2]),
        lambda v: v.add_many("n", "ab", [[1, 2]]),
        lambda v: v.add_many("n", ["a"], [[1, 2], [3, 4]]),
        lambda v: v.add_many("n", ["a", "b"], [1, 2]),
        lambda v: v.add_many("n", ["a"], [[1, 2]], {"x": 1}),
        lambda v: v.search("n", [1, 2], 0),
        lambda v: v.search("n", [[1, 2]]),
        lambda v: v.search_many("n", [1, 2]),
        lambda v: v.create("n", 0),
        lambda v: v.create("n", 2, metric="x"),
        lambda v: v.delete("n", 5),
        lambda v: v.get("n", 5),
    ]
    with ntmem.open() as memory:
        memory.vectors.create("n", 2)
        for call in wrong:
            assert outcome(v, call) == outcome(memory.vectors, call)
        for odd in ({"$x": 1}, {"x": {"$near": 1}}, [1]):
            assert outcome(v, lambda v, odd=odd: v.search("n", [1, 2], where=odd)) == outcome(
                memory.vectors, lambda v, odd=odd: v.search("n", [1, 2], where=odd)
            )
    assert server.asked == []


def test_every_call_of_a_store_is_one_of_a_server() -> None:
    built = {"search", "search_many", "search_similar"}  # of calls that are not, and twins of twins
    for name, value in vars(ntmem.VectorStore).items():
        if not name.startswith("_") and not inspect.iscoroutinefunction(value) and name not in built:
            assert name in vars(RemoteVectors), f"RemoteVectors.{name} would look into the store"
            own = vars(RemoteVectors)[name]
            if callable(own):
                assert inspect.signature(own) == inspect.signature(value), name


# -- the store around it


def test_only_calls_of_vectors_ask_the_server(server: Script, tmp_path: Path) -> None:
    with ntmem.open() as memory:
        memory.vectors.add("setups", "calm", [0.9, 0.1])
        memory.export(tmp_path / "vectors.jsonl")
    with ntmem.open(tmp_path / "s", agentdb_url=server.url) as memory:
        assert isinstance(memory.vectors, RemoteVectors)
        assert isinstance(memory.vectors, ntmem.VectorStore)
        for number in range(4):
            with memory.bank.begin("agent_1", "breakout") as t:
                t.add_observation({"price": 1.0 + number}, [0.9, 0.1 * number])
                t.add_action("buy", predicted_outcome=1.0)
            memory.bank.resolve(t.id, 1.0)
        memory.bank.distill()
        memory.bank.recall([0.9, 0.1])
        memory.observations.append("bars", "BTC", 1, {"close": 1.0}, embedding=[1.0, 2.0])
        assert memory.stats().total_trajectories == 4
        memory.gauges()
        memory.compact()
        memory.upkeep()
        memory.backup(tmp_path / "b")
        memory.export(tmp_path / "e.jsonl")
        assert memory.import_(tmp_path / "vectors.jsonl").counts["vectors"] == 1
        assert memory.verify().ok
        again = pickle.loads(pickle.dumps(memory))
        assert again.config == memory.config
        again.close()
    assert server.connections == 0
    with ntmem.open(tmp_path / "s") as memory:  # what the bank kept is in the store
        assert memory.vectors.count("setups") == 1
        assert any(labels[0] == "ntmem" for labels in memory.vectors.collections())


def test_a_store_that_cannot_be_asked(server: Script, tmp_path: Path) -> None:
    config: dict[str, Any] = {"agentdb_url": server.url}
    server.otherwise = lambda it: EMPTY
    with ntmem.open(tmp_path / "s", **config) as memory:
        v = memory.vectors
    for call in (*calls(v).values(), lambda: memory.vectors):
        with pytest.raises(ntmem.StoreClosed):
            call()
    with ntmem.open(tmp_path / "s", read_only=True, **config) as memory:
        writing = {"create", "add", "add_many", "delete"}
        for name, call in calls(memory.vectors).items():
            if name in writing:
                with pytest.raises(ntmem.ReadOnlyError):
                    call()
        assert memory.vectors.search("n", [1, 2]) == []
    assert len(server.asked) == 1


def test_simulated_time_has_no_such_vectors(server: Script) -> None:
    with ntmem.open(agentdb_url=server.url, clock=ntmem.SimulatedClock(10**18)) as memory:
        for call in calls(memory.vectors).values():
            with pytest.raises(VectorError, match="simulated"):
                call()
    assert server.connections == 0


# -- the token, the URL


def test_the_token_is_shown_nowhere(server: Script, memory: ntmem.MemorySystem, tmp_path: Path) -> None:
    v = memory.vectors
    shown = [repr(memory), repr(memory.config), str(memory.config), repr(v), f"{memory.config.agentdb_token}"]
    shown += [repr(pickle.loads(pickle.dumps(memory.config))), repr(vars(v))]
    echo = said(401, {"error": "unauthorized", "detail": f"who is {TOKEN}?"})
    raw = said(200, raw=f"you said {TOKEN}".encode(), Content_Type="text/plain")
    answers = [echo, raw, said(200, raw=f'"{TOKEN}'.encode()), said(500, raw=TOKEN.encode())]
    answers += [said(302, Location=f"http://x/{TOKEN}"), *[said(503, {"error": TOKEN})] * 4]
    for answer in answers:
        server.replies = [answer] * 4
        with pytest.raises(VectorError) as caught:
            v.search("n", [1, 2])
        error: BaseException | None = caught.value
        while error is not None:
            shown.append(f"{error!r} {error}")
            error = error.__cause__ or error.__context__
    assert v._client is not None  # type: ignore[attr-defined]
    shown.append(repr(v._client))  # type: ignore[attr-defined]
    assert not [each for each in shown if TOKEN in each]
    assert any("***" in each for each in shown)
    again = pickle.loads(pickle.dumps(memory.config))
    assert again == memory.config
    assert again.agentdb_token == TOKEN
    assert server.asked[0].headers["Authorization"] == f"Bearer {TOKEN}"


def test_the_token_may_be_in_the_environment(server: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NTMEM_AGENTDB_TOKEN", "from-outside")
    server.otherwise = lambda it: EMPTY
    for given, sent in ((None, "Bearer from-outside"), ("own", "Bearer own")):
        with ntmem.open(agentdb_url=server.url, agentdb_token=given) as memory:
            memory.vectors.search("n", [1, 2])
        assert server.asked[-1].headers["Authorization"] == sent
    monkeypatch.delenv("NTMEM_AGENTDB_TOKEN")
    with ntmem.open(agentdb_url=server.url) as memory:
        memory.vectors.search("n", [1, 2])
        assert "Authorization" not in server.asked[-1].headers
        server.replies = [said(401)]
        with pytest.raises(VectorError, match="wants a token: 401"):
            memory.vectors.search("n", [1, 2])


@pytest.mark.parametrize("token", ["a b", "a\nb", "ü", "", 5])
def test_tokens_that_no_header_carries(token: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        ntmem.MemoryConfig(agentdb_token=token)
    assert not token or str(token) not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "localhost:80",
            "ftp://host",
            "http://",
            "http://host:x",
            "http://host:0",
            "http://host?x=1",
            "http://host#x",
        ),
        *("http://[::1", "http://ho st", "http://hüst", "", 5, "http://ann:secret@host", "http://secret@host"),
    ],
)
def test_urls_that_are_none(url: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="agentdb_url") as caught:
        ntmem.MemoryConfig(agentdb_url=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("rest", ["/some/path", "/some/path/"])
def test_a_url_may_have_a_path(server: Script, rest: str) -> None:
    server.otherwise = lambda it: EMPTY
    with ntmem.open(agentdb_url=server.url + rest) as memory:
        memory.vectors.search("a/b", [1, 2])
    assert asked(server) == ["POST /some/path/collections/a%2Fb/search"]


def test_https_is_spoken_and_its_certificate_looked_at(
    server: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        ntmem.open(agentdb_url=server.url.replace("http:", "https:")) as memory,
        pytest.raises(ServerUnavailable, match=r"speaks no TLS.*1 try"),
    ):
        memory.vectors.search("n", [1, 2])
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with scripted() as secure:
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        secure.otherwise = lambda it: EMPTY
        url = secure.url.replace("http:", "https:")
        with ntmem.open(agentdb_url=url) as memory, pytest.raises(ServerUnavailable, match="cannot be trusted"):
            memory.vectors.search("n", [1, 2])
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with ntmem.open(agentdb_url=url) as memory:
            assert memory.vectors.search("n", [1, 2]) == []
            assert memory.vectors.search("n", [1, 2]) == []
        assert len(secure.asked) == 2


def test_the_extra_is_named_when_it_is_wanted() -> None:
    code = """
import sys
sys.modules["urllib3"] = None
import ntmem
with ntmem.open(agentdb_url="http://127.0.0.1:9") as memory:
    memory.put("n", "k", b"v"); memory.stats()
    try:
        memory.vectors.search("n", [1, 2])
    except ModuleNotFoundError as error:
        print(error)
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout == "agentdb_url needs urllib3: pip install 'ntmem[agentdb]'\n"


def test_a_secret_is_compared_and_kept_as_a_str() -> None:
    secret = Secret("x")
    assert (secret == "x", repr(secret), str(secret), f"{secret:>4}", hash(secret) == hash("x")) == (
        *(True, "'***'", "***", " ***"),
        True,
    )


@pytest.mark.parametrize("said", ["9" * 5000, "Fri, 31 Dec 99999 23:59:59 GMT", "soon"])
def test_a_retry_after_that_is_none_is_passed_over(said: str) -> None:
    from urllib3.response import HTTPResponse

    from ntmem.agentdb.client import _retry_after

    assert _retry_after(HTTPResponse(headers={"Retry-After": said})) == 0.0
