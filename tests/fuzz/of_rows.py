"""Rows of the data file. A row's own checksum is made right again where it has one."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
from registry import Refused, promised, target

from ntmem._core.bulk import page
from ntmem._core.mdb import Environment
from ntmem._core.position import of_record
from ntmem.errors import CorruptionError
from ntmem.reasoningbank import events, memories, runs, shelf, taking
from ntmem.reasoningbank.memory import Memory, Standing
from ntmem.records import Fence, Policy
from ntmem.tiers import bookrows, layout, points, series

_HEAD = layout._HEADER.size
_NAME = b"\0\0\0\0\0\0\0\7key"


def _record_seeds() -> Iterator[bytes]:
    for flags, writer, key, value in (
        (0, b"w", b"", b"value"),
        (layout.DELETED, b"", b"k" * 600, b""),
        (layout.FENCED, layout.join_writer(b"writer", Fence("lock", 7)), b"", b"x" * 40),
        (layout.AHEAD, b"w", b"", b""),
    ):
        yield layout.encode_record(_NAME, layout.Stored(flags, 9, 5, 6, 0, writer, key, value))


@functools.cache
def _database() -> tuple[Environment, Any, object]:
    directory = tempfile.TemporaryDirectory(prefix="ntmem-fuzz-", dir="/dev/shm")  # for as long as it is kept here
    environment = Environment(directory.name, map_size=1 << 20)
    return environment, environment.open_db(b"records"), directory


def _by_native_reader(data: bytes) -> list[Any] | None:
    """What the reader of whole pages says; None: Python has to look."""
    environment, database, _ = _database()
    txn = environment.begin(write=True)
    try:
        txn.put(_NAME, data, db=database)
        found = page(txn, database, _NAME[:8], b"", None, 10, 1 << 20, layout.Stored)
        return None if found is None else found[0]
    finally:
        txn.abort()


@target(_record_seeds)
def record(data: bytes) -> None:
    """A record or a CorruptionError; it encodes to the same bytes; the native reader agrees."""
    if len(data) >= _HEAD:
        crc = crc32(data[_HEAD:], crc32(data[: _HEAD - 4], crc32(_NAME)))
        data = data[: _HEAD - 4] + crc.to_bytes(4, "little") + data[_HEAD:]
    native = _by_native_reader(data)
    try:
        found = layout.decode_record(_NAME, memoryview(data))
    except CorruptionError as error:
        assert native is None, native
        raise Refused from error
    if native is not None:
        assert native == [(_NAME[8:], found)]
    again = bytearray(layout.encode_record(_NAME, found))
    if again[1] == data[1]:  # else it said that it has a key, and had none
        assert again == data
    with promised(CorruptionError):
        found.public()


def _namespace_seeds() -> Iterator[bytes]:
    for labels, owner in ((("desk",), ""), (("swarm", "a", "é"), "agent"), (("x" * 255,) * 3, "")):
        yield layout.encode_namespace(layout.NamespaceRow(3, labels, Policy(True, 5, None), 1, 2, True, owner))


@target(_namespace_seeds)
def namespace_row(data: bytes) -> None:
    """A row or a CorruptionError; what it says encodes to what says the same."""
    with promised(CorruptionError):
        found = layout.decode_namespace(crc32(data[4:]).to_bytes(4, "little") + data[4:])
    if all(0 < len(label.encode()) <= 255 for label in found.labels):
        assert layout.decode_namespace(layout.encode_namespace(found)) == found


def _point_seeds() -> Iterator[bytes]:
    yield points.Point("id", np.arange(3, dtype=np.float32), 1, 2, points.encode_metadata({"a": [1, "x"]})).encode()
    yield points.Point("é", None, 1, 2, b"").encode()


@target(_point_seeds)
def vector_row(data: bytes) -> None:
    """A change of a collection or a CorruptionError; it encodes to the same bytes."""
    with promised(CorruptionError):
        found = points.decode_point(data)
    if found.vector is not None:
        assert found.encode()[2:] == data[2:]  # a flag that is unknown is not kept
    with promised(msgspec.MsgspecError, UnicodeDecodeError):  # within the checksum of its record
        points.decode_metadata(found.metadata)


def _document_seeds() -> Iterator[bytes]:
    encode = msgspec.msgpack.encode
    made: dict[str, list[object]] = {
        "collection": [points.CollectionRow(1, 8, "cosine", "int8", 16, 100)],
        "series": [
            series.SeriesRow(1, (series.Layout(("bid", "é"), "fi", 5),), b"", 1, (3,), (series.Pending(0, 1, 2),))
        ],
        "first event": [],
        "event": [
            events.Seen(1, 2, b"\x01", b"\0" * 8),
            events.Acted(1, 2, "a", "buy", b"\x80", 0.5, None, 60),
            events.Resolved(1, 2, 0.25, "a"),
            events.Completed(1, 2, "completed"),
            events.Judged(1, 2, "judge", "CORRECT", None, 0.5, 0.25, "well done"),
            events.Advised(1, 2, (events.Advice("p", 1, 0.5, 0.5, 0.5, 0.5),)),
        ],
        "past": [(0.5, None, "a")],
        "count": [7],
        "taken row": [taking.Row(1, 2, "patterns", ["x", 1, 2.5, None])],
        "taken line": [taking.Line(1, 2, "{}")],
        "taken embedding": [taking.Embedded(1, 2, "{}", b"\0" * 8)],
        "head of the shelf": [shelf.Head()],
        "working": [shelf.Working()],
        "memory": [Memory("id", 1, 2, 3, "t", "{}", 0.5, 1, None, None, "m", b"\0" * 8, None)],
    }
    for number, name in enumerate(_DOCUMENTS):
        for each in made.get(name, []):
            yield bytes([number]) + b"\x01" * (name not in _BARE) + encode(each)


def _of(module: object, kind: type) -> Callable[[bytes], object]:
    return lambda data: module.decode(data, kind, "it")  # type: ignore[attr-defined]


_BARE = ("collection", "series")  # no format in front
_DOCUMENTS: dict[str, Callable[[bytes], object]] = {
    "collection": points.decode_collection,
    "series": series.decode_series,
    "first event": lambda data: events.decode_event(data, "0" * 26, 0),
    "event": lambda data: events.decode_event(data, "0" * 26, 1),
    "past": events.decode_past,
    "count": events.decode_count,
    **{
        name: (lambda data, kind=kind: taking.decode(data, kind))
        for name, kind in (("taken row", taking.Row), ("taken line", taking.Line), ("taken embedding", taking.Embedded))
    },
    **{f"head of the {name}": _of(module, module.Head) for name, module in (("shelf", shelf), ("memories", memories))},
    "working": _of(shelf, shelf.Working),
    "cluster": _of(shelf, shelf.Cluster),
    "scope": _of(shelf, shelf.Scope),
    "memory": _of(memories, Memory),
    "standing": _of(memories, Standing),
    "run": _of(runs, runs.Run),
    "taught": _of(runs, runs.Taught),
}


@target(_document_seeds)
def document(data: bytes) -> None:
    """What a row of MessagePack says, or a CorruptionError; it encodes to what says the same."""
    decode = list(_DOCUMENTS.values())[data[0] % len(_DOCUMENTS)] if data else events.decode_count
    with promised(CorruptionError):
        found = decode(data[1:])
    if isinstance(found, msgspec.Struct):
        again = msgspec.msgpack.encode(found)
        assert msgspec.msgpack.encode(msgspec.msgpack.decode(again, type=type(found))) == again


def _rows_of_a_block(count: int) -> series.Rows:
    event = np.arange(count, dtype=np.int64) * 1000 + 10**18
    columns = {"fbid": series.Column(np.linspace(1, 2, count)), "in": series.Column(np.arange(count, dtype=np.int64))}
    metadata = [msgspec.msgpack.encode({"n": number % 3}) if number % 2 else b"" for number in range(count)]
    return series.Rows(event, event + 5, columns, metadata, np.arange(count) % 2 == 0)


def _block_seeds() -> Iterator[bytes]:
    for count in (1, 90):
        rows = _rows_of_a_block(count)
        yield series.encode_block(rows, "best")
        known = rows.ts_known + np.arange(count)
        yield series.encode_block(rows._replace(ts_known=known, metadata=None, embedded=None), "fast")


@target(_block_seeds)
def block(data: bytes) -> None:
    """Rows of observations or a CorruptionError, all columns as long as it says."""
    with promised(CorruptionError):
        found = series.StoredBlock(data)
        if found.rows > 1 << 20:
            return
        rows = found.whole()
        assert len(rows.ts_event) == len(rows.ts_known) == found.rows


def _book_seeds() -> Iterator[bytes]:
    yield bookrows.encode_entry(bookrows.Entry(1, 2, 3, 0, 1, 5, 6, 7, -8, 9))
    held = bookrows.Held(*(1, 2, 3, 0, 1, 1, b"USD", 5, 6, -7, 8, 1, 2, 3, 4, 5, 6, -(2**100), 2**90, 3, 0))
    yield bookrows.encode_held(held)


@target(_book_seeds)
def book(data: bytes) -> None:
    """A fill or a position, or an error that is named; the native reader says the same numbers."""
    for decode, encode in (
        (bookrows.decode_entry, bookrows.encode_entry),
        (bookrows.decode_held, bookrows.encode_held),
    ):
        with contextlib.suppress(CorruptionError):
            assert decode(encode(decode(data))) == decode(data)  # type: ignore[operator]
    with promised(ValueError):
        position = of_record(("s", "a", "", ""), data)
    held = bookrows.decode_held(data)
    assert max(held.price_precision, held.quantity_precision, held.multiplier_precision) <= bookrows.MOST_PRECISION
    assert position.quantity_decimal == Decimal(held.quantity).scaleb(-held.quantity_precision)
    assert position.quantity == float(position.quantity_decimal)
    with promised(ValueError):  # of a currency that is no text
        repr(position), position._repr_html_()
