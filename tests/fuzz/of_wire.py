"""What comes from other processes: AgentDB's requests and answers, ids and names in its paths, frames of the replay."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
from msgspec import json
from registry import promised, target

from ntmem.agentdb import documents, wire
from ntmem.agentdb.wirefilters import And, Eq, Gt, In, Ne, Or, filter_of, where_of
from ntmem.errors import BadAnswer, InvalidNamespace, VectorError
from ntmem.filters import compile_where
from ntmem.replay import wire as frames

_REQUESTS = [json.Decoder(kind) for kind in (wire.Create, wire.Insert, wire.BatchInsert, wire.Search, wire.Query)]


def _request_seeds() -> Iterator[bytes]:
    tests = [Eq("a", 1), In("b", ["x", None]), Or([Gt("c", 2.5), And([Ne("d", True)])])]
    for number, request in enumerate(
        (
            wire.Create(name="desk/x", dimension=3, metric="l2"),
            wire.Insert(id="6869", embedding=[1.0, 2.0], metadata={"a": [1, {"b": None}]}, ts_event=5),
            wire.BatchInsert(documents=[wire.Insert(id="ff", embedding=[0.5])]),
            wire.Search(embedding=[1.0], k=3, filters=tests, min_score=0.5, form="nested"),
            wire.Query(filters=tests[2], limit=5, sort_by=["-a", wire.Sort("b", "desc")]),
        )
    ):
        yield bytes([number]) + json.encode(request)


@target(_request_seeds)
def request(data: bytes) -> None:
    """A request or an error of msgspec's; its filter means the same there and back, or is refused by name."""
    decoder = _REQUESTS[data[0] % len(_REQUESTS)] if data else _REQUESTS[0]
    with promised(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # which the server answers
        asked = decoder.decode(data[1:])
    assert decoder.decode(json.encode(asked)) == asked
    if isinstance(asked, wire.Create):
        with promised(VectorError, InvalidNamespace):
            assert wire.name_of(wire.labels_of_name(asked.name)) == asked.name
    if isinstance(asked, wire.Query):
        with promised(VectorError):
            wire.sorts_of(asked.sort_by)
    if isinstance(asked, wire.Search | wire.Query):
        with promised(VectorError, TypeError, ValueError):
            where = where_of(asked.filters)
            compiled = compile_where(where)
        with promised(VectorError):
            back = filter_of(where)
        if compiled is not None:
            again = compile_where(where_of(back))
            assert again is not None
            assert again.fields == compiled.fields
            for row in ({}, dict.fromkeys(compiled.fields, 1), dict.fromkeys(compiled.fields, "x")):
                assert again.matches(row) == compiled.matches(row)


def _answer_seeds() -> Iterator[bytes]:
    for document in (
        {"id": "6869", "metadata": {"a": 1}, "ts_event": 1, "ts_known": 2, "embedding": [1.5, 2]},
        {"id": "ff00", "side": "buy", "score": 0.5},
        {"id": "6869", "metadata": None},
        {"id": "zz", "embedding": []},
    ):
        yield b"\0" + json.encode(document)
        yield b"\3" + json.encode(document)


@target(_answer_seeds)
def answer(data: bytes) -> None:
    """What a document of another server says, or a BadAnswer."""
    try:
        said = json.decode(data[1:])
    except Exception:  # that is msgspec's
        return
    kind = data[0]
    with promised(BadAnswer):
        found = documents.read_document(
            said, is_nested=bool(kind & 1), hexid="6869" if kind & 2 else None, score=0.5 if kind & 4 else None
        )
    assert wire.id_of(wire.hex_of(found.id)) == found.id
    assert found.embedding is None or len(found.embedding)


def _path_seeds() -> Iterator[bytes]:
    yield from (b"6869", b"ff00", b"62797465733a66663030", b"desk%2F50%25%20off", b"%ff", b"..", b"ntmem", b"a%2")


@target(_path_seeds)
def path(data: bytes) -> None:
    """Ids and their digits are one to one, as are namespaces and segments; the rest is refused by name."""
    text = data.decode(errors="replace")
    with contextlib.suppress(VectorError):
        assert wire.hex_of(wire.id_of(text)) == text.lower()
    if data:
        assert wire.id_of(wire.hex_of(text)) == text
        assert wire.hex_of(wire.id_of(data.hex())) == data.hex()
    with promised(VectorError, InvalidNamespace):
        labels = wire.labels_of_segment(data)
    assert wire.labels_of_segment(wire.segment_of(labels)) == labels


def _frame_seeds() -> Iterator[bytes]:
    encode = msgspec.msgpack.encode
    for message in (frames.Stop(), frames.Decided(3), frames.Refused(3, "no"), frames.Failed(None, "at")):
        body = encode(message)
        yield len(body).to_bytes(frames._LENGTH_BYTES, "little") + body


@target(_frame_seeds)
def frame(data: bytes) -> None:
    """Cut as a whole or byte by byte frames are the same, and a body is a message or an error of msgspec's."""
    whole, bytewise = frames.Frames(), frames.Frames()
    found = list(whole.feed(data))
    assert found == [body for each in data for body in bytewise.feed(bytes([each]))]
    for body in found:
        for decoder in (frames.to_agent, frames.from_agent):
            with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
                decoder.decode(body)
